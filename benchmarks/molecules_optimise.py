"""Molecules of a high objective with a budget of oracle calls: the policy gradient beside two baselines.

    python benchmarks/molecules_optimise.py [--quick] [--seed N] [--json FILE] [--budget N] [--repeats N]
                                            [--model FOLDER] [--objectives NAME ...]

Objectives:
* QED (Bickerton et al. 2012).
* penalised logP = logP - SA - max(0, size of the largest ring - 6), not normalised (Gomez-Bombarelli et al. 2018).
  It has no upper bound: long chains of carbon or sulphur raise it for ever, which says more of the objective than of
  the method.

Contestants, each with as many oracle calls (distinct molecules scored):
* `scidiff`: `scidiff molecules optimise`, from the packaged model, with its defaults; at most 50 heavy atoms.
* `random`: draws of the packaged model.
* `genetic`: a genetic algorithm on graphs after Jensen 2019 (`_molecules_genetic.py`), begun with 100 draws of the
  packaged model, which count; at most 50 heavy atoms.

Mean of the best 1, 10 and 100; of the best 100 the internal diversity (IntDiv_1 of MOSES) and the number of scaffolds
(Bemis-Murcko). Intervals are 95 % (Student's t) over repeats with other seeds. `--quick` spends 300 calls, once.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from _molecules_genetic import MOST_ATOMS, POPULATION, search
from _running import Table, guarded, interval, options, publish, say
from rdkit import Chem

from scidiff.molecules.generator import Generator
from scidiff.molecules.metrics import fingerprints, internal_diversity
from scidiff.molecules.optimising import optimise
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.quantities import scaffold

Scored = list[tuple[str, float]]
Score = Callable[[Chem.Mol], float]
COLUMNS = ("top-1", "top-10", "top-100", "IntDiv of 100", "scaffolds of 100", "core seconds")


def qed(mol: Chem.Mol) -> float:
    return float(PROPERTIES["qed"].compute(mol))


def penalised_logp(mol: Chem.Mol) -> float:
    """logP - SA - max(0, largest ring - 6)."""
    longest = max((len(ring) for ring in mol.GetRingInfo().AtomRings()), default=0)
    values = [float(PROPERTIES[name].compute(mol)) for name in ("logp", "sa")]
    return values[0] - values[1] - max(0, longest - 6)


OBJECTIVES: dict[str, Score] = {"QED": qed, "penalised logP": penalised_logp}


@lru_cache
def drawn(model: Path | None, count: int, seed: int) -> tuple[list[str], float]:
    """The first distinct draws of a seed, and the core seconds that they took: the same for all objectives."""
    began = time.process_time()
    seen: dict[str, None] = {}
    for one in Generator.load(model).stream(seed=seed):
        seen[one.smiles] = None
        if len(seen) == count:
            break
    return list(seen), time.process_time() - began


def by_policy(score: Score, chosen: argparse.Namespace, seed: int) -> tuple[Scored, float]:
    began = time.process_time()
    where = [f"heavy_atoms <= {MOST_ATOMS}"]
    run = optimise(objective=score, budget=chosen.budget, where=where, seed=seed, model=chosen.model)
    return [(one.smiles, one.score) for one in run.scored], time.process_time() - began


def by_chance(score: Score, chosen: argparse.Namespace, seed: int) -> tuple[Scored, float]:
    found, seconds = drawn(chosen.model, chosen.budget, seed)
    began = time.process_time()
    return [(text, score(Chem.MolFromSmiles(text))) for text in found], seconds + time.process_time() - began


def by_genes(score: Score, chosen: argparse.Namespace, seed: int) -> tuple[Scored, float]:
    start, seconds = drawn(chosen.model, min(POPULATION, chosen.budget), seed)
    began = time.process_time()
    return search(start, score, budget=chosen.budget, seed=seed), seconds + time.process_time() - began


CONTESTANTS = {"scidiff": by_policy, "random": by_chance, "genetic": by_genes}


def judged(scored: Scored, seconds: float, budget: int) -> dict[str, float]:
    """The metrics of one run."""
    if len(scored) != budget or len({text for text, _ in scored}) != budget:
        raise RuntimeError(f"expected {budget} distinct molecules, got {len(scored)}")
    best = sorted(scored, key=lambda one: -one[1])[:100]
    molecules = [Chem.MolFromSmiles(text) for text, _ in best]
    found = {f"top-{k}": sum(value for _, value in islice(best, k)) / k for k in (1, 10, 100)}
    diversity = internal_diversity(fingerprints(molecules))
    scaffolds = float(len({scaffold(mol) for mol in molecules}))
    return {**found, "IntDiv of 100": diversity, "scaffolds of 100": scaffolds, "core seconds": seconds}


def table(results: dict[str, list[dict[str, float]]], chosen: argparse.Namespace) -> Table:
    """A line an objective and method: mean and interval over repeats."""
    rows = []
    for name, runs in results.items():
        row: list[Any] = list(name.split(" / "))
        for column in COLUMNS:
            mean, half = interval([run[column] for run in runs])
            digits = 0 if column in ("core seconds", "scaffolds of 100") else 3
            row.append(f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}"))
        rows.append(row)
    title = f"Optimisation with {chosen.budget:,} oracle calls, {chosen.repeats} repeats from seed {chosen.seed}"
    return {"title": title, "columns": ["objective", "method", *COLUMNS], "rows": rows}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "")
    parser.add_argument("--budget", type=int, default=None, help="oracle calls (10,000)")
    parser.add_argument("--repeats", type=int, default=None, help="seeds (3)")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="default: all")
    chosen = parser.parse_args(arguments)
    chosen.budget = chosen.budget or (300 if chosen.quick else 10_000)
    chosen.repeats = chosen.repeats or (1 if chosen.quick else 3)
    if chosen.budget < 100:
        parser.error(f"--budget: expected at least 100, got {chosen.budget}")
    return chosen


def run(chosen: argparse.Namespace) -> int:
    results: dict[str, list[dict[str, float]]] = {}
    for objective in chosen.objectives:
        score = OBJECTIVES[objective]
        for name, contestant in CONTESTANTS.items():
            for repeat in range(chosen.repeats):
                scored, seconds = contestant(score, chosen, chosen.seed + repeat)
                found = judged(scored, seconds, chosen.budget)
                results.setdefault(f"{objective} / {name}", []).append(found)
                say(f"{objective}, {name}, seed {chosen.seed + repeat}: {found}")
    return publish("molecules_optimise", chosen, [table(results, chosen)], runs=results)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
