"""Quality of generated molecules on MOSES: the model against trivial baselines, real molecules and each other.

    python benchmarks/molecules_moses.py [--quick] [--seed N] [--json FILE] [--molecules N] [--repeats N]
                                         [--model FOLDER] [--steps N] [--device NAME] [--rows NAME ...]

Rows of the table:
* `model`: draws of the packaged model (or `--model`), uncertified and unfiltered, as they come.
* `training molecules`: as many random molecules of the training set. What a perfect model of the data scores, and what
  copying the training set scores: only novelty tells the two apart. Its FCD is the floor of that sample size.
* `memoriser`: draws with replacement from 1,000 training molecules: what over-fitting scores.
* `5-gram`: tokens of SMILES, each given the four before; fitted to the training set here.
* `fragment tree`: the model's own fragments, each given the one it hangs from and the place there; fitted to 20,000
  training molecules here. A branching process with no other memory: what the representation alone achieves.

Every row is repeated with disjoint samples; the table gives the mean and the half-width of the 95 % interval of the
mean (Student's t). Metrics are those of `scidiff molecules evaluate`, against the test splits of MOSES; `--quick` uses
the vendored sample and needs no other data, and its numbers compare with nothing but each other.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from _running import guarded, interval, options, publish, say
from rdkit import Chem

from scidiff import atomic
from scidiff.errors import UserError
from scidiff.molecules import certified, evaluate, fcd
from scidiff.molecules.fragments import RING_LABELS, arity, decode, encode
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate

SAMPLE = Path(__file__).parents[1] / "datasets" / "moses" / "sample.csv.gz"
MEMORISED = 1000
TREE_FITTED = 20_000
BARS = {"valid": 1.0, "unique@10000": 0.999, "novelty": 0.8, "filters": 0.97}
FCD_BAR = 1.5

Draw = Callable[[int, int], list[str]]  # repeat, molecules -> SMILES
_TOKEN = re.compile(r"\[[^\]]*\]|Br|Cl|.")


class NGram:
    """Tokens of SMILES, each drawn given the `order - 1` before it as often as the training set has it there."""

    def __init__(self, smiles: Sequence[str], order: int):
        self.order = order
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in smiles:
            tokens = ["^"] * (order - 1) + _TOKEN.findall(text) + ["$"]
            for place in range(order - 1, len(tokens)):
                counts[tuple(tokens[place - order + 1 : place])][tokens[place]] += 1
        self.tables = {context: (list(c), list(c.values())) for context, c in counts.items()}

    def draw(self, source: random.Random, longest: int = 150) -> str:
        """One string, which need not be a molecule. Every context that it can reach was seen in training."""
        tokens = ["^"] * (self.order - 1)
        while len(tokens) < longest:
            choices, weights = self.tables[tuple(tokens[1 - self.order :])]
            token = source.choices(choices, weights)[0]
            if token == "$":
                break
            tokens.append(token)
        return "".join(tokens[self.order - 1 :])


class FragmentTree:
    """Fragments, each drawn given its parent and the slot it fills, as often as the training set has it there."""

    longest = 24  # fragments; a larger tree is drawn again

    def __init__(self, smiles: Sequence[str]):
        counts: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        for text in smiles:
            tokens = encode(Chem.MolFromSmiles(text))
            if any(token in RING_LABELS for token in tokens):
                continue
            slots = [("", 0)]
            for token in tokens:
                counts[slots.pop()][token] += 1
                slots.extend((token, k) for k in reversed(range(arity(token))))
        self.tables = {place: (list(c), list(c.values())) for place, c in counts.items()}

    def draw(self, source: random.Random) -> str:
        """One molecule."""
        while True:
            tokens: list[str] = []
            slots = [("", 0)]
            while slots and len(tokens) < self.longest:
                token = source.choices(*self.tables[slots.pop()])[0]
                tokens.append(token)
                slots.extend((token, k) for k in reversed(range(arity(token))))
            if not slots:
                return str(Chem.MolToSmiles(decode(tokens)))


def _model(arguments: argparse.Namespace, training: Sequence[str]) -> Draw:
    model = certified.load(arguments.model, arguments.device)

    def draw(repeat: int, n: int) -> list[str]:
        stream = model.stream(seed=arguments.seed, start=repeat * n, steps=arguments.steps, batch_size=256)
        return [drawn.smiles for drawn in islice(stream, n)]

    return draw


def _training(arguments: argparse.Namespace, training: Sequence[str]) -> Draw:
    shuffled = _shuffled(arguments, training)
    return lambda repeat, n: shuffled[repeat * n : (repeat + 1) * n]


def _memoriser(arguments: argparse.Namespace, training: Sequence[str]) -> Draw:
    memorised = random.Random(f"{arguments.seed}/memorised").sample(training, min(MEMORISED, len(training)))
    return lambda repeat, n: random.Random(f"{arguments.seed}/{repeat}/memoriser").choices(memorised, k=n)


def _ngram(arguments: argparse.Namespace, training: Sequence[str]) -> Draw:
    ngram = NGram(training, order=5)
    return lambda repeat, n: _many(ngram, random.Random(f"{arguments.seed}/{repeat}/5-gram"), n)


def _tree(arguments: argparse.Namespace, training: Sequence[str]) -> Draw:
    tree = FragmentTree(_shuffled(arguments, training)[:TREE_FITTED])
    return lambda repeat, n: _many(tree, random.Random(f"{arguments.seed}/{repeat}/tree"), n)


def _shuffled(arguments: argparse.Namespace, training: Sequence[str]) -> list[str]:
    return random.Random(f"{arguments.seed}/training").sample(training, len(training))


ROWS: dict[str, Callable[[argparse.Namespace, Sequence[str]], Draw]] = {
    "model": _model,
    "training molecules": _training,
    "memoriser": _memoriser,
    "5-gram": _ngram,
    "fragment tree": _tree,
}


def _many(fitted: NGram | FragmentTree, source: random.Random, n: int) -> list[str]:
    return [fitted.draw(source) for _ in range(n)]


def measure(
    draw: Draw, arguments: argparse.Namespace, references: Sequence[str], training: str
) -> tuple[list[dict[str, float]], list[float]]:
    """The metrics of each repeat, and molecules drawn a second."""
    found, rates = [], []
    for repeat in range(arguments.repeats):
        began = time.perf_counter()
        smiles = draw(repeat, arguments.molecules)
        rates.append(len(smiles) / (time.perf_counter() - began))
        if len(smiles) < arguments.molecules:
            raise UserError(f"expected {arguments.molecules} molecules in repeat {repeat}, got {len(smiles)}")
        judged = evaluate(smiles, references=references, training=training, with_floor=False)
        found.append({name: float(value) for name, value in judged.as_dict().items()})
        say(f"repeat {repeat}: {rates[-1]:.1f} drawn a second, {found[-1]}")
    return found, rates


def table(title: str, results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """One line a metric: mean ± half-width of every contestant, `-` where a repeat had too few valid samples."""
    names = list(dict.fromkeys(name for found in results.values() for one in found for name in one))
    lines = [
        [metric, *(_cell([one.get(metric) for one in found]) for found in results.values())]
        for metric in names
        if metric != "samples"
    ]
    return {"title": title, "columns": ["", *results], "rows": lines}


def _cell(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None and not math.isnan(value)]
    if len(there) < len(values):
        return "-"
    mean, half = interval(there)
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} ± {half:.4f}"


def missed(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """The bars that the model misses."""
    if "model" not in results:
        return []
    means = {name: interval([one[name] for one in results["model"]])[0] for name in results["model"][0]}
    misses = [f"{n}: expected at least {b}, got {means[n]:.4f}" for n, b in BARS.items() if means.get(n, b) < b]
    if means.get("FCD/test", 0.0) > FCD_BAR:
        misses.append(f"FCD/test: expected at most {FCD_BAR}, got {means['FCD/test']:.3f}")
    return misses


def quick_files(folder: Path) -> tuple[str, str]:
    """Files of the vendored sample's test and train rows."""
    with gzip.open(SAMPLE, "rt") as stream:
        rows = list(csv.DictReader(stream))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split in ("test", "train"):
        path = folder / f"{split}-sample.smi"
        atomic.write_text(path, "".join(row["smiles"] + "\n" for row in rows if row["split"] == split))
        paths.append(str(path))
    return paths[0], paths[1]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "300 molecules, 2 repeats, the vendored sample")
    parser.add_argument("--molecules", type=int, help="a repeat; default 10,000")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--model", type=Path, help="a folder of weights instead of the packaged ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="denoising steps; default the model's own")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all")
    chosen = parser.parse_args(arguments)
    chosen.molecules = chosen.molecules or (300 if chosen.quick else 10_000)
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 3)
    return chosen


def run(arguments: argparse.Namespace) -> int:
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            test, training = quick_files(Path(folder))
            return _run(arguments, (test,), training)
    return _run(arguments, ("test", "test_scaffolds"), "train")


def _run(arguments: argparse.Namespace, references: Sequence[str], training: str) -> int:
    smiles = read_smiles(locate(training))
    missing = [] if fcd.available() else ["fcd_torch"]
    results, rates = {}, {}
    for name in arguments.rows:
        say(f"{name}: {arguments.repeats} x {arguments.molecules} molecules")
        results[name], rates[name] = measure(ROWS[name](arguments, smiles), arguments, references, training)
    names = ", ".join(Path(reference).name for reference in references)
    title = f"MOSES, {arguments.repeats} x {arguments.molecules:,} molecules, seed {arguments.seed}, against {names}"
    misses = missed(results)
    counts = {"molecules": arguments.molecules, "repeats": arguments.repeats}
    return publish("molecules_moses", arguments, [table(title, results)], misses=misses, missing=missing,
                   results=results, drawn_per_second=rates, **counts)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
