"""Raw samples under constraints that fragments decide: how many break them. None may.

    python benchmarks/molecules_exactness.py [--quick] [--seed N] [--json FILE] [--draws N] [--steps N] [--model FOLDER]

Draws as they come of the packaged model, a quarter each under nothing but validity, under counts of atoms and charge,
of elements, and with a scaffold. Each is written as SMILES, read again by RDKit, and judged by the oracle of `scidiff
molecules generate`, which knows no fragments. One network call a molecule by default: what is exact does not depend on
their number. Bar: no violation.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice
from pathlib import Path

from _running import guarded, options, publish, say

from scidiff.molecules.generator import Generator
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all

SETS = (
    [],
    ["n_atoms[N] == 3", "n_atoms[S] == 0", "heavy_atoms in [20, 24]", "charge == 0"],
    ["n_atoms[N] == 3", "n_atoms[O] in {2, 3}", "n_atoms[F] <= 1"],
    ["decorates([*:1]c1ccc([*:2])cc1)", "n_atoms[F] <= 1"],
)


def broken(generator: Generator, where: list[str], draws: int, *, seed: int, steps: int) -> dict[str, float]:
    """What became of the draws under one set."""
    terms = parse_all(where)
    source, oracle = generator.given(terms), Oracle(terms)
    inexact = [
        term.text for term in terms if source.enforcement and not source.enforcement.decides(term).startswith("exact")
    ]
    if inexact:
        raise ValueError(f"expected terms that fragments decide, got {inexact}")
    began, invalid, violations = time.process_time(), 0, 0
    for one in islice(source.stream(seed=seed, steps=steps), draws):
        found = oracle.certify(one.smiles)
        invalid += bool(found.problem)
        violations += not found.holds
    return {
        "draws": draws,
        "not valid": invalid,
        "violations": violations,
        "processor seconds": round(time.process_time() - began),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "1,024 draws")
    parser.add_argument("--draws", type=int, help="default 1,000,000, 70 minutes of a core")
    parser.add_argument("--steps", type=int, default=1, help="network calls a molecule at most; default 1")
    parser.add_argument("--model", type=Path, help="a folder of weights instead of the packaged ones")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    share = (chosen.draws or (1024 if chosen.quick else 1_000_000)) // len(SETS)
    generator = Generator.load(chosen.model)
    found = {}
    for where in SETS:
        name = " and ".join(where) or "valid"
        found[name] = broken(generator, where, share, seed=chosen.seed, steps=chosen.steps)
        say(f"{name}: {found[name]}")
    rows = [[name, *(f"{value:,}" for value in one.values())] for name, one in found.items()]
    title = f"Raw samples under what fragments decide, {chosen.steps} network call(s) a molecule, seed {chosen.seed}"
    table = {"title": title, "columns": ["enforced", *next(iter(found.values()))], "rows": rows}
    misses = [f"{name}: {one}" for name, one in found.items() if one["violations"]]
    return publish("molecules_exactness", chosen, [table], misses=misses, results=found)


if __name__ == "__main__":
    sys.exit(main())
