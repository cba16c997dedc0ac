"""The best of an optimisation, certified, as files and as the account that reports are made of."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from scidiff.errors import UserError
from scidiff.molecules.arithmetic import parse, quantities
from scidiff.molecules.certified import Generation, Molecule, asked
from scidiff.molecules.optimising import Optimisation
from scidiff.molecules.oracle import Oracle, describe
from scidiff.molecules.properties import NUMERIC, PROPERTIES
from scidiff.molecules.writers import ORACLE, replace_file

FORMATS = ("smi", "csv")


def format_of(path: str | Path) -> str:
    """The format that a file name asks for. UserError if it is neither .smi nor .csv."""
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise UserError(f"--out: expected a file name ending in .smi or .csv, got {str(path)!r}")
    return suffix


def certified(run: Optimisation, count: int) -> Generation:
    """The best molecules, the highest score first, each certified anew from its SMILES, with the account of the rest.

    Properties are those of the objective and of the conditions first, then all numeric ones.
    """
    about = tuple(quantities(parse(run.objective))) if _is_expression(run.objective) else ()
    names = tuple(name for name in dict.fromkeys([*about, *asked(run.conditions), *NUMERIC]) if name in PROPERTIES)
    oracle, molecules = Oracle(run.conditions), []
    for one in run.best(count):
        certificate = oracle.certify(one.smiles)
        if not certificate.holds:  # scored molecules were certified before, from the same text
            raise RuntimeError(f"expected a certified molecule, got {one.smiles!r}: {certificate.reasons}")
        values, violations = describe(certificate, names), certificate.violations
        molecules.append(
            Molecule(index=one.index, seed=run.seed, smiles=one.smiles, values=values, violations=violations)
        )
    rest = Counter({f"not among the best {len(molecules)}": run.calls - len(molecules)}) + run.reasons
    return Generation(
        requested=count,
        seed=run.seed,
        start=0,
        conditions=run.conditions,
        properties=names,
        molecules=molecules,
        refused=run.calls - len(molecules) + run.refused,
        reasons=rest,
        stopped=run.stopped,
        seconds=run.seconds,
    )


def _is_expression(objective: str) -> bool:
    try:
        parse(objective)
    except UserError:
        return False
    return True


def write(run: Optimisation, best: Generation, path: str | Path) -> None:
    """Write the best as .smi (SMILES, tab, score) or .csv (with properties and certificates), whole or not at all."""
    text = table(run, best, format_of(path))
    replace_file(path, lambda stream: stream.write(text.encode()))


def table(run: Optimisation, best: Generation, kind: str) -> str:
    """What `write` writes."""
    scores = {one.smiles: one.score for one in run.best(len(best.molecules))}
    if kind == "smi":
        return "".join(f"{m.smiles}\t{scores[m.smiles]!r}\n" for m in best.molecules)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    violations = [f"violation_{condition.column}" for condition in best.conditions]
    lines.writerow(["index", "seed", "smiles", "score", *best.properties, "certified", *violations, "oracle"])
    for m in best.molecules:
        values = [m.values[name] for name in best.properties]
        lines.writerow([m.index, m.seed, m.smiles, scores[m.smiles], *values, True, *m.violations.values(), ORACLE])
    return text.getvalue()
