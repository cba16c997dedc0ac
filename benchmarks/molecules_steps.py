"""Quality of molecules against the number of network calls, as a table and a plot.

    python benchmarks/molecules_steps.py [--quick] [--seed N] [--json FILE] [--molecules N] [--repeats N]
                                         [--model FOLDER] [--device NAME] [--calls N ...]

Draws as they come, with at most so many network calls a molecule, against the test split of MOSES (metrics of `scidiff
molecules evaluate`). A molecule takes one call for each fragment at most, so that from the longest on more calls change
nothing: `mean calls` is what was spent. FCD has a floor, what as many training molecules score. Means and half-widths
of the 95 % interval over repeats with disjoint samples. The plot goes beside FILE. `--quick` uses the vendored sample.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from _running import guarded, interval, options, publish, say
from molecules_moses import quick_files

from scidiff.molecules import certified, evaluate
from scidiff.molecules.generator import Generator
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate

CALLS = (1, 2, 3, 5, 7, 10, 20, 50, 100)
SHOWN = ("valid", "unique", "novelty", "filters", "SNN/test", "Scaf/test", "FCD/test")
FLOOR = "training molecules"


def drawn(generator: Generator, calls: int, repeat: int, arguments: argparse.Namespace) -> tuple[list[str], float]:
    """SMILES of a repeat, and network calls a molecule."""
    found = list(
        islice(
            generator.stream(seed=arguments.seed, start=repeat * arguments.molecules, steps=calls), arguments.molecules
        )
    )
    return [one.smiles for one in found], statistics.fmean(one.calls for one in found)


def measured(smiles: list[str], reference: str, training: str) -> dict[str, float]:
    """The metrics that are shown; the reference's name left out of theirs."""
    found = evaluate(smiles, references=(reference,), training=training, with_floor=False).as_dict()
    plain = {name.split("/")[0]: float(value) for name, value in found.items()}
    return {name: plain[name.split("/")[0]] for name in SHOWN if name.split("/")[0] in plain}


def table(results: dict[str, list[dict[str, float]]], title: str) -> dict[str, Any]:
    """One line a number of calls."""
    names = list(results[FLOOR][0])
    cells = {row: [interval([one[name] for one in found]) for name in names] for row, found in results.items()}
    lines = [[row, *(f"{mean:.4g} ± {half:.2g}" for mean, half in found)] for row, found in cells.items()]
    return {"title": title, "columns": ["calls at most", *names], "rows": lines}


def plot(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """FCD and the share that passes the filters against network calls, with the training molecules as lines."""
    import matplotlib.pyplot as plt

    names = [name for name in ("FCD/test", "filters") if name in results[FLOOR][0]]
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = [found for row, found in results.items() if row != FLOOR]
        calls = [statistics.fmean(one["mean calls"] for one in found) for found in rows]
        means, halves = zip(*(interval([one[name] for one in found]) for found in rows), strict=True)
        axis.errorbar(calls, means, yerr=halves, marker="o", label="model")
        axis.axhline(statistics.fmean(one[name] for one in results[FLOOR]), color="grey", ls="--", label=FLOOR)
        axis.set(
            xlabel="network calls a molecule, mean", ylabel=name, yscale="log" if name.startswith("FCD") else "linear"
        )
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "256 molecules, 2 repeats, three numbers of calls")
    parser.add_argument("--molecules", type=int, help="a repeat; default 2,560")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--model", type=Path, help="a folder of weights instead of the packaged ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", type=int, nargs="+", metavar="N", help=f"default {' '.join(map(str, CALLS))}")
    chosen = parser.parse_args(arguments)
    chosen.molecules = chosen.molecules or (256 if chosen.quick else 2560)
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 3)
    chosen.calls = sorted(set(chosen.calls or ((1, 5, 50) if chosen.quick else CALLS)))
    return chosen


def run(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        reference, training = quick_files(Path(folder)) if arguments.quick else ("test", "train")
        return _run(arguments, reference, training)


def _run(arguments: argparse.Namespace, reference: str, training: str) -> int:
    generator = certified.load(arguments.model, arguments.device)
    longest = int(generator.model.length_probabilities.nonzero().max())
    results: dict[str, list[dict[str, float]]] = {}
    for calls in arguments.calls:
        name = str(calls)
        if same := next((row for row in results if int(row) >= longest), None):
            results[name] = results[same]  # the same molecules to the bit
            continue
        results[name] = []
        for repeat in range(arguments.repeats):
            smiles, mean = drawn(generator, calls, repeat, arguments)
            results[name].append({"mean calls": mean, **measured(smiles, reference, training)})
        say(f"{calls} calls: {results[name]}")
    pool = read_smiles(locate(training))
    shuffled = random.Random(f"{arguments.seed}/steps").sample(pool, len(pool))
    size = arguments.molecules
    parts = [shuffled[k * size : (k + 1) * size] for k in range(arguments.repeats)]
    results[FLOOR] = [{"mean calls": 0.0, **measured(part, reference, training)} for part in parts]
    title = f"MOSES, {arguments.repeats} x {size:,} molecules by network calls, seed {arguments.seed}"
    if arguments.json is not None:
        plot(results, arguments.json.with_name("molecules_steps.png"))
    return publish("molecules_steps", arguments, [table(results, title)], results=results)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
