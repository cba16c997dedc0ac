"""Generated molecules with a geometry each: certified twice, as text and as coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.certified import Generation
from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.asked import Asked
from scidiff.molecules.three_d.conformers import ConformerRun, conformers
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import keep, record
from scidiff.molecules.three_d.rules import Rule
from scidiff.molecules.three_d.writing import ORACLE, replace
from scidiff.molecules.writers import columns, name_of, row

SHIPPED, TOLD = "qm9", "qm9_told"


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


def with_geometries(
    generation: Generation,
    model: ConformerModel,
    *,
    rules: Sequence[Rule] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConformerRun:
    """One certified conformer of every molecule of a run; it is keyed by the molecule's seed and index.

    Molecules that the model does not know, or that cannot keep the rules, are refused records, numbered by their index.
    """
    found = []
    for molecule in generation.molecules:
        mol = Chem.MolFromSmiles(molecule.smiles)
        if mol is None:
            raise ValueError(f"expected a certified molecule, got {molecule.smiles!r}")
        found.append(record(mol, model.config, molecule.index, name_of(molecule), molecule.smiles))
    found = keep(found, rules) if rules else found
    return conformers(found, num=1, model=model, seed=generation.seed, progress=progress)


def numbers(generation: Generation, asked: Asked | None = None) -> dict[int, dict[str, float]]:
    """The properties of the molecules of a run that are numbers, and what is estimated, by the index of each."""
    found = {
        one.index: {name: float(value) for name, value in one.values.items() if not isinstance(value, str)}
        for one in generation.molecules
    }
    for index, values in ({} if asked is None else asked.estimates).items():
        found[index] |= {f"estimated {name} [{QUANTUM[name].unit}]": value for name, value in values.items()}
    return found


def write(generation: Generation, run: ConformerRun, path: Path, *, asked: Asked | None = None) -> None:
    """Write the molecules that have a geometry as SDF, with the items of `writers` and those of the conformer."""
    names, molecules = columns(generation), {one.index: one for one in generation.molecules}
    blocks = []
    for one in run.ensembles:
        for conformer in one.conformers:
            mol = with_positions(one.record.mol, conformer.position)
            mol.SetProp("_Name", one.record.name)
            items = dict(zip(names, row(molecules[one.record.number]), strict=True))
            items |= {"draw": conformer.draw, "oracle_3d": ORACLE}
            items |= {} if asked is None else asked.items(one.record.number)
            told = "".join(f">  <{name}>\n{value}\n\n" for name, value in items.items())
            blocks.append(f"{Chem.MolToMolBlock(mol)}{told}$$$$\n")
    replace(path, "".join(blocks))
