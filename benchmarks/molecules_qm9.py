"""Molecules of QM9 under a constraint, after the protocol of constrained discrete diffusion (Cardei et al. 2025).

    python datasets/qm9.py
    python benchmarks/molecules_qm9.py [--quick] [--seed N] [--json FILE] [--model FOLDER] [--repeats N]

The packaged model of QM9 (`--model qm9`; its card has data and training) delivers 1,024 molecules in several ways:

* `plain`: draws as they come.
* `rejection`: draws until as many are certified, valid and distinct, with the same weights.
* `guided`: classifier-free guidance (`--method guide`), if the model can be told.
* `steered`: a tilt by a linear classifier of fragments, the same at every step (`--method steer`); its pilot counts.
* `projected`: the nearest estimate whose expectations hold (`--method project`).

The last three are certified too. Constraints: a synthetic accessibility (Ertl & Schuffenhauer 2009) of at most 3.0,
which a tenth of QM9 meets; and novelty, which is not to stand in QM9, held-out molecules included. Of those delivered:
valid; feasible; novel, feasible and distinct; mean QED of these; what broke the constraint among all draws, before
certification. Then draws, network calls, processor seconds, and novel molecules for a thousand calls and for a second:
what equal compute brings. Mean ± half-width of the 95 % interval over seeds, if there are several. arXiv 2503.09790
prints, of 1,024 samples of 92 M parameters on SMILES, 353 valid and feasible with 36 novel (SA), 511 valid and novel
(novelty), and 85.9 % violations of the plain model (SA): other samplers and another representation, beside which ours
is not a like-for-like comparison.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from _running import guarded, options, publish, say, spread
from rdkit import Chem

from scidiff.errors import UserError
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
METHODS = {"sa <= 3": ("plain", "rejection", "guided", "steered", "projected"), "novel": ("plain", "rejection")}

Holds = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A constraint and what judges it."""

    name: str
    holds: Holds
    known: frozenset[str]


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
    novel = {text for text in feasible if text not in task.known}
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


def with_rates(run: dict[str, float]) -> dict[str, float]:
    """A run, and what it brought for its cost."""
    calls, seconds = run["network calls"], run["seconds"]
    return {**run, "novel a 1,000 calls": 1000 * run["novel"] / calls, "novel a second": run["novel"] / seconds}


def one_run(generator: Generator, task: Task, method: str, wanted: int, seed: int) -> dict[str, float]:
    """One method with one seed."""
    if method in ("projected", "guided"):
        source = generator.guided(parse_all(WHERE)) if method == "guided" else generator.projected(parse_all(WHERE))
        return deliver(source.stream(seed=seed), task, wanted, certify=True)
    if method != "steered":
        return deliver(generator.stream(seed=seed), task, wanted, certify=method == "rejection")
    began = time.process_time()
    found = generator.steered(parse_all(WHERE), seed=seed, steps=None, most=MOST)
    pilot = time.process_time() - began
    run = deliver(found.source.stream(seed=seed), task, wanted, certify=True)
    spent = {"draws": found.oracle_calls, "network calls": found.calls, "seconds": pilot}
    return run | {name: run[name] + more for name, more in spent.items()}


def tasks() -> list[Task]:
    """Both constraints, judged by RDKit's reading of the text."""
    oracle, known = Oracle(parse_all(WHERE)), qm9()
    return [
        Task(name="sa <= 3", holds=lambda text: oracle.certify(text).holds, known=known),
        Task(name="novel", holds=lambda text: text not in known, known=known),
    ]


def qm9() -> frozenset[str]:
    """The canonical SMILES of all three splits."""
    found = set()
    for split in ("train", "valid", "test"):
        path = cache_folder() / "qm9" / f"{split}.csv"
        if not path.exists():
            raise UserError("expected QM9 in the cache, got none: python datasets/qm9.py")
        with path.open(encoding="ascii", newline="") as stream:
            read = (Chem.MolFromSmiles(row["smiles"]) for row in csv.DictReader(stream))
            found |= {Chem.MolToSmiles(mol) for mol in read if mol is not None}
    return frozenset(found)


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "64 delivered, once")
    parser.add_argument("--model", type=Path, default=Path("qm9"), metavar="FOLDER", help="default: the packaged qm9")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    chosen = parser.parse_args(arguments)
    return guarded(run, chosen)


def run(chosen: argparse.Namespace) -> int:
    seeds = [chosen.seed + 10 * k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    wanted = 64 if chosen.quick else WANTED
    generator = Generator.load(chosen.model)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    rows, misses = [], []
    for task in tasks():
        results[task.name] = {}
        for method in METHODS[task.name]:
            if method == "guided" and not generator.model.config.edges:
                continue
            found = [with_rates(one_run(generator, task, method, wanted, seed)) for seed in seeds]
            results[task.name][method] = found
            rows.append([task.name, method, *(spread([one[name] for one in found]) for name in found[0])])
            say("  ".join(rows[-1]))
            for name, bar in {} if method == "plain" else BARS[task.name].items():
                if statistics.fmean(one[name] for one in found) < bar:
                    misses.append(f"{task.name}, {method}: expected at least {bar} {name}, got {rows[-1]}")
    columns = ["constraint", "method", *results["novel"]["plain"][0]]
    title = f"QM9, {wanted:,} molecules, seeds {list(seeds)}"
    table = {"title": title, "columns": columns, "rows": rows}
    card = dict(generator.model.card)
    return publish("molecules_qm9", chosen, [table], misses=misses, results=results, card=card)


if __name__ == "__main__":
    sys.exit(main())
