"""The report of conformers: one HTML file, offline, with every geometry to turn by hand, sorted and searched."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path

import jinja2
import numpy as np
from rdkit import Chem

import scidiff
from scidiff.molecules.three_d.conformers import Conformer, ConformerRun, Ensemble
from scidiff.molecules.three_d.measures import relaxed
from scidiff.molecules.three_d.writing import ORACLE, replace

MOST_DRAWN = 300  # conformers in one report; the SDF holds all
STRAIN = "MMFF94 strain [kcal/mol]"

Values = Mapping[int, Mapping[str, float]]
"""Properties by the number of the record."""


def write_report(
    run: ConformerRun, path: str | Path, *, command: str = "", values: Values | None = None, notes: Sequence[str] = ()
) -> None:
    """Write the report of a run with at least one conformer, whole or not at all.

    Args:
        run: of conformers.
        path: the HTML file.
        command: how the run was started.
        values: properties of molecules, shown and sorted by.
        notes: more sentences on the run.

    Raises:
        UserError: the file cannot be written.
    """
    replace(Path(path), render(run, command=command, values=values, notes=notes))


def render(run: ConformerRun, *, command: str = "", values: Values | None = None, notes: Sequence[str] = ()) -> str:
    """The report as text."""
    source = resources.files("scidiff.molecules.three_d").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source).render(
        summary=run.summary(),
        notes=notes,
        drawn=min(MOST_DRAWN, run.certified),
        certified=run.certified,
        rules=sorted({rule.text for one in run.ensembles for rule in one.record.rules}),
        reasons=run.reasons.most_common(),
        refused=run.refused,
        command=command,
        facts=_facts(run),
        data=_data(run, values or {}),
    )


def _data(run: ConformerRun, values: Values) -> str:
    """What the page's script shows, as JSON that is safe inside a script element."""
    names = list(dict.fromkeys(name for one in run.ensembles for name in values.get(one.record.number, {})))
    pairs = ((one, conformer) for one in run.ensembles for conformer in one.conformers)
    shown = [
        _shown(place, one, conformer) | {"values": [_strain(one, conformer), *_of(values, one, names)]}
        for place, (one, conformer) in enumerate(islice(pairs, MOST_DRAWN))
    ]
    record = {"values": [STRAIN, *names], "conformers": shown}
    return json.dumps(record, separators=(",", ":")).replace("<", "\\u003c")


def _shown(place: int, one: Ensemble, conformer: Conformer) -> dict[str, object]:
    mol, x = one.record.mol, conformer.position
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in mol.GetBonds()]
    return {
        "place": place,
        "name": one.record.name,
        "draw": conformer.draw,
        "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
        "elements": [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        "bonds": bonds,
        "x": np.round(x - x.mean(0), 3).tolist(),
    }


def _strain(one: Ensemble, conformer: Conformer) -> float | None:
    strain = relaxed(one.record.mol, conformer.position)[1]
    return round(strain, 2) if np.isfinite(strain) else None


def _of(values: Values, one: Ensemble, names: list[str]) -> list[float | None]:
    found = values.get(one.record.number, {})
    return [round(found[name], 3) if name in found else None for name in names]


def _facts(run: ConformerRun) -> dict[str, str]:
    """Where the conformers come from."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "Seed": str(run.seed),
        "Network calls of a draw": str(run.steps),
        "Time": f"{run.seconds:.1f} s",
        "Written": now.strftime("%Y-%m-%d %H:%M UTC"),
        "Oracle": ORACLE,
        "scidiff": scidiff.__version__,
        "Python": platform.python_version(),
    }
