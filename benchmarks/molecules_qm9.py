"""Molecules of QM9 under a constraint, after the protocol of constrained discrete diffusion (Cardei et al. 2025).

    python datasets/qm9.py
    python benchmarks/molecules_qm9.py [--quick] [--seed N] [--json FILE] [--model FOLDER] [--minutes M] [--repeats N]

A model of fragments trained on the 100,000 training molecules of QM9 for `--minutes` on one core (or `--model`, a
folder of `scidiff molecules train`) delivers 1,024 molecules in each of several ways:

* `plain`: draws as they come.
* `certified`: draws until as many are certified, valid and distinct: rejection with the same weights.
* `steered`, `projected`, `guided`: `--method steer`, `project` and `guide`, certified too; a pilot counts. `guided` if
  the model can be told.

Constraints: a synthetic accessibility (Ertl & Schuffenhauer 2009) of at most 3.0, which a tenth of QM9 meets; and
novelty, which is not to stand in the training set. Of those delivered: valid; feasible; novel, feasible and distinct;
mean QED of these; what broke the constraint among all draws, before certification. Then draws, network calls and
processor seconds. Mean ± half-width of the 95 % interval over seeds. arXiv 2503.09790 prints, of 1,024 samples of 92 M
parameters on SMILES, 353 valid and feasible with 36 novel (SA), 511 valid and novel (novelty), and 85.9 % violations of
the plain model (SA): other samplers and another representation, beside which ours is not a like-for-like comparison.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from molecules_constraints import interval, table
from rdkit import Chem

import scidiff
from scidiff import atomic
from scidiff.errors import UserError
from scidiff.molecules import own_data
from scidiff.molecules.generator import Drawn, Generator
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.properties import compute
from scidiff.molecules.reference import cache_folder
from scidiff.molecules.tilting import MOST

WHERE = ["sa <= 3"]
WANTED = 1024
BARS = {"sa <= 3": {"feasible": 900, "novel": 100}, "novel": {"novel": 900}}
MOST_DRAWS = 100  # for each molecule wanted
METHODS = {"sa <= 3": ("plain", "certified", "steered", "projected", "guided"), "novel": ("plain", "certified")}

Holds = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A constraint and what judges it."""

    name: str
    holds: Holds
    training: frozenset[str]


def deliver(draws: Iterator[Drawn], task: Task, wanted: int, *, certify: bool) -> dict[str, float]:
    """Take molecules until there are enough, and measure them."""
    taken: list[str] = []
    seen: set[str] = set()
    count = broken = calls = 0
    began = time.process_time()
    for one in islice(draws, MOST_DRAWS * wanted):
        count, calls = count + 1, calls + one.calls
        holds = task.holds(one.smiles)
        broken += not holds
        if certify and (not holds or one.smiles in seen):
            continue
        seen.add(one.smiles)
        taken.append(one.smiles)
        if len(taken) == wanted:
            break
    seconds = time.process_time() - began
    valid = [text for text in taken if Chem.MolFromSmiles(text) is not None]
    feasible = [text for text in valid if task.holds(text)]
    novel = {text for text in feasible if text not in task.training}
    return {
        "delivered": len(taken),
        "valid": len(valid),
        "feasible": len(feasible),
        "novel": len(novel),
        "QED of the novel": statistics.fmean(float(compute(Chem.MolFromSmiles(text), ["qed"])["qed"]) for text in novel)
        if novel
        else math.nan,
        "breaking among draws": broken / count,
        "draws": count,
        "network calls": calls,
        "seconds": seconds,
    }


def one_run(generator: Generator, task: Task, method: str, wanted: int, seed: int) -> dict[str, float]:
    """One method with one seed."""
    if method in ("projected", "guided"):
        source = generator.guided(parse_all(WHERE)) if method == "guided" else generator.projected(parse_all(WHERE))
        return deliver(source.stream(seed=seed), task, wanted, certify=True)
    if method != "steered":
        return deliver(generator.stream(seed=seed), task, wanted, certify=method == "certified")
    began = time.process_time()
    found = generator.steered(parse_all(WHERE), seed=seed, steps=None, most=MOST)
    pilot = time.process_time() - began
    run = deliver(found.source.stream(seed=seed), task, wanted, certify=True)
    spent = {"draws": found.oracle_calls, "network calls": found.calls, "seconds": pilot}
    return run | {name: run[name] + more for name, more in spent.items()}


def tasks(training: Sequence[str]) -> list[Task]:
    """Both constraints, judged by RDKit's reading of the text."""
    oracle = Oracle(parse_all(WHERE))
    known = frozenset(Chem.MolToSmiles(mol) for text in training if (mol := Chem.MolFromSmiles(text)) is not None)
    return [
        Task(name="sa <= 3", holds=lambda text: oracle.certify(text).holds, training=known),
        Task(name="novel", holds=lambda text: text not in known, training=known),
    ]


def training_set(quick: bool) -> tuple[Path, list[str]]:
    """The file and its SMILES; the first 2,000 for a quick run."""
    path = cache_folder() / "qm9" / "train.csv"
    if not path.exists():
        raise UserError("expected QM9 in the cache, got none: python datasets/qm9.py")
    with path.open(encoding="ascii", newline="") as stream:
        smiles = [row["smiles"] for row in csv.DictReader(stream)]
    return path, smiles[:2000] if quick else smiles


def model(arguments: argparse.Namespace, path: Path, smiles: Sequence[str]) -> Generator:
    """The weights that are given, or trained now."""
    if arguments.model is not None:
        return Generator.load(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.quick:
            path = Path(folder) / "quick.csv"
            path.write_text("smiles\n" + "\n".join(smiles) + "\n", encoding="ascii")
        own_data.train(
            path, Path(folder) / "model", start=None, minutes=arguments.minutes, seed=arguments.seed, init="none"
        )
        return Generator.load(Path(folder) / "model")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 molecules, seconds of training, 64 delivered, once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights, instead of training")
    parser.add_argument("--minutes", type=float, help="of training; default 15")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    chosen = parser.parse_args(arguments)
    chosen.minutes = chosen.minutes or (0.2 if chosen.quick else 15.0)
    seeds = [chosen.seed + 10 * k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    try:
        return run(chosen, seeds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(chosen: argparse.Namespace, seeds: Sequence[int]) -> int:
    began, wanted = time.perf_counter(), 64 if chosen.quick else WANTED
    path, smiles = training_set(chosen.quick)
    generator = model(chosen, path, smiles)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    rows, misses = [], []
    for task in tasks(smiles):
        results[task.name] = {}
        for method in METHODS[task.name]:
            if method == "guided" and not generator.model.config.edges:
                continue
            found = [one_run(generator, task, method, wanted, seed) for seed in seeds]
            results[task.name][method] = found
            rows.append([task.name, method, *(interval([one[name] for one in found]) for name in found[0])])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
            for name, bar in {} if method == "plain" or chosen.quick else BARS[task.name].items():
                if statistics.fmean(one[name] for one in found) < bar:
                    misses.append(f"{task.name}, {method}: expected at least {bar} {name}, got {rows[-1]}")
    columns = ["constraint", "method", *results["novel"]["plain"][0]]
    title = f"QM9, {wanted:,} molecules, seeds {list(seeds)}"
    tables = [table(title, columns, rows)]
    for text in misses:
        print(f"bar missed: {text}", file=sys.stderr)
    if chosen.json is not None:
        document: dict[str, Any] = {
            "benchmark": "molecules_qm9",
            "quick": chosen.quick,
            "seed": chosen.seed,
            "seconds": round(time.perf_counter() - began, 1),
            "tables": tables,
            "results": results,
            "card": dict(generator.model.card),
            "bars_missed": misses,
            "missing": [],
            "versions": {"scidiff": scidiff.__version__},
        }
        atomic.write_json(chosen.json, document)
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
