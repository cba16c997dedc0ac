"""Generated molecules with a geometry each: certified twice, as text and as coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TextIO

from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.certified import Generation, Molecule
from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.among import nearest
from scidiff.molecules.three_d.asked import Asked, Estimates
from scidiff.molecules.three_d.conformers import ConformerRun, conformers
from scidiff.molecules.three_d.draws import STEPS
from scidiff.molecules.three_d.estimator import Estimator
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import keep, record
from scidiff.molecules.three_d.report import MOST_DRAWN
from scidiff.molecules.three_d.rules import Rule
from scidiff.molecules.three_d.writing import ORACLE
from scidiff.molecules.writers import columns, name_of, row, sdf_block

SHIPPED, TOLD = "qm9", "qm9_told"
TOGETHER = 512  # molecules that are held at a time


def fragments_of_small_molecules(*, told: bool = False) -> Path:
    """The packaged model of fragments whose molecules the conformer model knows; UserError if there is none.

    Args:
        told: that which is told of quantum properties.
    """
    folder = Path(str(resources.files("scidiff.molecules") / "weights" / (TOLD if told else SHIPPED)))
    if told and not folder.is_dir():
        raise UserError(
            "--towards: expected --model FOLDER with a model that is told of values, which none packaged is"
        )
    if not folder.is_dir():
        raise UserError("--three-d: expected --model FOLDER with a model of molecules of H, C, N, O, F, up to 29 atoms")
    return folder


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is done about the geometries of molecules.

    Attributes:
        model: draws them.
        rules: on their shape.
        asked: values that they were made for; None for none.
        among: of how many molecules the nearest to these is kept.
        chooser: reads them for that; None if all are kept.
    """

    model: ConformerModel
    rules: Sequence[Rule] = ()
    asked: Asked | None = None
    among: int = 1
    chooser: Estimator | None = None


@dataclass(kw_only=True)
class Finished:
    """What came of the geometries of a generation.

    Attributes:
        drawn: the account of all of them.
        kept: of those written; it holds the first `MOST_DRAWN` molecules, for a report.
        numbers: the properties of these that are numbers, and what is estimated, by index.
        matched: by rule, how many of the molecules drawn have a match of it.
    """

    drawn: ConformerRun
    kept: ConformerRun
    numbers: dict[int, dict[str, float]] = field(default_factory=dict)
    matched: Counter[str] = field(default_factory=Counter)


def with_geometries(
    generation: Generation,
    wanted: Wanted,
    file: TextIO,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Finished:
    """Draw one certified conformer of every molecule of a run and write them as SDF, some hundred at a time.

    Each is keyed by the molecule's seed and index, and written with the items of `writers` and its own. Molecules that
    the model does not know, or that cannot keep the rules, are refused records, numbered by their index.
    """
    drawn, kept_all = (ConformerRun(requested=1, seed=generation.seed, steps=STEPS) for _ in range(2))
    done, names = Finished(drawn=drawn, kept=kept_all), tuple(columns(generation))
    done.matched.update({rule.text: 0 for rule in wanted.rules})
    some, total = wanted.among * max(1, TOGETHER // wanted.among), len(generation.molecules)
    for first in range(0, total, some):
        molecules = generation.molecules[first : first + some]
        part = _drawn(molecules, wanted, generation.seed, partial(_ahead, progress, first, total))
        kept = part
        if wanted.chooser is not None and wanted.asked is not None:
            indices = [one.index for one in molecules]
            kept = nearest(part, indices, wanted.asked.values, wanted.chooser, among=wanted.among)
        estimates = {} if wanted.asked is None else wanted.asked.read(kept)
        file.writelines(blocks(kept, {one.index: one for one in molecules}, names, wanted.asked, estimates))
        done.matched.update(rule.text for one in part.ensembles for rule in one.record.rules)
        done.drawn.take(part, most=0)
        done.kept.take(kept, most=MOST_DRAWN)
        if len(done.numbers) < MOST_DRAWN:
            done.numbers |= _numbers(molecules, estimates)
        if part.interrupted:
            break
    return done


def _ahead(progress: Callable[[int, int], None], first: int, total: int, done: int, _: int) -> None:
    """Tell of what is done of a part."""
    progress(first + done, total)


def _drawn(
    molecules: Sequence[Molecule], wanted: Wanted, seed: int, progress: Callable[[int, int], None]
) -> ConformerRun:
    """A conformer of each."""
    found = []
    for molecule in molecules:
        mol = Chem.MolFromSmiles(molecule.smiles)
        if mol is None:
            raise ValueError(f"expected a certified molecule, got {molecule.smiles!r}")
        found.append(record(mol, wanted.model.config, molecule.index, name_of(molecule), molecule.smiles))
    found = keep(found, wanted.rules) if wanted.rules else found
    return conformers(found, num=1, model=wanted.model, seed=seed, progress=progress)


def _numbers(molecules: Sequence[Molecule], estimates: Estimates) -> dict[int, dict[str, float]]:
    found = {
        one.index: {name: float(value) for name, value in one.values.items() if not isinstance(value, str)}
        for one in molecules
    }
    for index, values in estimates.items():
        found[index] |= {f"estimated {name} [{QUANTUM[name].unit}]": value for name, value in values.items()}
    return found


def blocks(
    run: ConformerRun,
    molecules: Mapping[int, Molecule],
    names: Sequence[str],
    asked: Asked | None = None,
    estimates: Estimates | None = None,
) -> Iterator[str]:
    """The SDF of those that have a geometry: their columns `names`, and what was asked for and is estimated of them."""
    for one in run.ensembles:
        number = one.record.number
        for conformer in one.conformers:
            mol = with_positions(one.record.mol, conformer.position)
            mol.SetProp("_Name", one.record.name)
            items = dict(zip(names, row(molecules[number]), strict=True))
            items |= {"draw": conformer.draw, "oracle_3d": ORACLE}
            items |= {} if asked is None else asked.items((estimates or {}).get(number, {}))
            yield sdf_block(mol, items)
