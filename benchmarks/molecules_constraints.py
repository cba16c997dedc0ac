"""Molecules under property constraints: steered draws against rejection with the same weights.

    python benchmarks/molecules_constraints.py [--quick] [--seed N] [--json FILE] [--draws N] [--repeats N]

Tables:
* `enumerable`: a small random model of sequences of two and three tokens whose probabilities are summed over all orders
  of unmasking. Total variation between samples given `n_atoms[N] == 1` and the exact conditional distribution, of as
  many draws: tilted draws by their weights, and rejection. Bar: 0.02.
* `MOSES`: three sets of conditions that about 10 %, 1 % and 0.1 % of the training molecules meet. Certified molecules a
  processor second: `rate` leaves out the pilot of steering, stated beside it; `rate of 1,000` counts 1,000 molecules
  and the pilot that they share, and the bars are about it. `worth` counts the independent draws that they are worth by
  their weights instead. Internal diversity of the certified, without pairs of one. Mean ± half-width of the
  95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from scipy.stats import t as student

import scidiff
from scidiff import atomic
from scidiff.molecules.effort import Effort
from scidiff.molecules.generator import Drawn, Generator
from scidiff.molecules.metrics import fingerprints, internal_diversity
from scidiff.molecules.model import LEAF, FragmentModel, ModelConfig
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.tilting import MOST
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.state import Layout

SETS = {
    "10 %": (["logp >= 3.5"], 1.0),
    "1 %": (["tpsa >= 110", "logp <= 1"], 5.0),
    "0.1 %": (["tpsa >= 125", "logp <= 0"], 20.0),
}  # conditions and the bar of certified molecules a second over rejection
SMALL = ("*C", "*N*", "*O*", "[1*]C", "[1*]N", "[1*]F", "*C[1*]", "*N[1*]")
DISTANCE = 0.02


def small() -> Generator:
    """A random model of sequences of two and three tokens."""
    torch.manual_seed(0)
    config = ModelConfig(width=32, depth=2, heads=2, lengths=(0, 0, 3, 4))
    model = FragmentModel.create(Vocabulary(tokens=SMALL), config)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.denoiser.eval()
    return Generator(model=model)


def probability(generator: Generator, sequence: tuple[int, ...]) -> float:
    """Of a sequence given its length: the mean over all orders of unmasking."""
    chances = []
    for order in itertools.permutations(range(len(sequence))):
        state, chance = torch.full((1, len(sequence)), len(SMALL)), 1.0
        for place in order:
            share = state.eq(len(SMALL)).double().mean(1).float()
            layout = Layout.dense(1, {LEAF: (len(sequence),)})
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                clean = generator.model.denoiser({LEAF: state}, share, layout)[LEAF]
            fixed = clean.clone()
            fixed[0, place] = torch.where(
                torch.arange(len(SMALL)) == sequence[place], clean[0, place], torch.tensor(-torch.inf)
            )
            both = generator.automaton.log_acceptance(torch.cat([fixed, clean]))
            chance *= float((both[0] - both[1]).exp())
            state[0, place] = sequence[place]
        chances.append(chance)
    return statistics.fmean(chances)


def enumerable(draws: int, seed: int) -> dict[str, float]:
    """Total variation of three samplers from the exact conditional distribution."""
    generator, oracle, mass = small(), Oracle(parse_all(["n_atoms[N] == 1"])), {}
    for length, share in enumerate(generator.model.length_probabilities.tolist()):
        for sequence in itertools.product(range(len(SMALL)), repeat=length) if share else ():
            if bool(generator.automaton.accepts(torch.tensor([sequence]))):
                smiles = Chem.MolToSmiles(generator.model.vocabulary.decode(sequence))
                if oracle.certify(smiles).holds:
                    mass[smiles] = mass.get(smiles, 0.0) + share * probability(generator, sequence)
    table = torch.tensor([1.0 if "N" in text else -0.3 for text in SMALL], dtype=torch.float64)
    tilted = replace(generator, tilt=0.7 * table)
    held = [d for d in islice(tilted.stream(seed=seed), draws) if oracle.certify(d.smiles).holds]
    plain = [d for d in islice(generator.stream(seed=seed), draws) if oracle.certify(d.smiles).holds]
    return {
        "steer, by weights": variation(held, mass, [math.exp(d.log_weight) for d in held]),
        "rejection": variation(plain, mass, None),
    }


def variation(found: Sequence[Drawn], mass: dict[str, float], weights: list[float] | None) -> float:
    """Total variation between weighted samples and masses."""
    weights = weights or [1.0] * len(found)
    share: dict[str, float] = {}
    for one, weight in zip(found, weights, strict=True):
        share[one.smiles] = share.get(one.smiles, 0.0) + weight / sum(weights)
    return sum(abs(share.get(s, 0.0) - p / sum(mass.values())) for s, p in mass.items()) / 2


def judge(generator: Generator, where: list[str], draws: int, seed: int) -> dict[str, float]:
    """Draw and certify; rates are of processor seconds."""
    oracle, effort, certified = Oracle(parse_all(where)), Effort(scale=generator.feasible), set()
    began = time.process_time()
    for one in islice(generator.stream(seed=seed), draws):
        holds = oracle.certify(one.smiles).holds
        effort.add(one, holds=holds)
        if holds and one.kept:
            certified.add(one.smiles)
    seconds = time.process_time() - began
    found = {"rate": len(certified) / seconds, "worth": effort.effective / seconds, "certified": float(len(certified))}
    mols = [Chem.MolFromSmiles(text) for text in sorted(certified)]
    return {
        **found,
        "share": effort.share,
        "draws worth": effort.effective,
        "diversity": internal_diversity(fingerprints(mols)) * len(mols) / (len(mols) - 1)
        if len(mols) > 1
        else math.nan,
        "oracle calls a molecule": draws / max(len(certified), 1),
        "network calls a molecule": effort.calls / max(len(certified), 1),
    }


def compare(generator: Generator, where: list[str], draws: int, seed: int) -> dict[str, dict[str, float]]:
    """Both methods on one set; rejection gets four times the draws, for few of them hold."""
    terms, began = parse_all(where), time.process_time()
    steered = generator.given(terms).steered(terms, seed=seed, steps=None, most=MOST)
    pilot = time.process_time() - began
    ours, plain = judge(steered.source, where, draws, seed), judge(generator, where, 4 * draws, seed + 1)
    return {"steer": shared(ours, pilot), "rejection": shared(plain, 0.0)}


def shared(found: dict[str, float], pilot: float) -> dict[str, float]:
    """The rate of 1,000 molecules and the pilot that they share, beside the rest."""
    rate = 1000 / (1000 / found["rate"] + pilot) if found["rate"] else 0.0
    return {"rate of 1,000": rate, "pilot seconds": pilot, **found}


def interval(values: Sequence[float]) -> str:
    """Mean ± half-width of the 95 % interval, by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5:.2g}"


def table(title: str, columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    """Print a table and return it."""
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return {"title": title, "columns": columns, "rows": rows}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 draws, one seed: numbers that mean little")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--draws", type=int, help="steered draws a set; default 2,560")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    chosen = parser.parse_args(arguments)
    draws = chosen.draws or (512 if chosen.quick else 2560)
    seeds = [chosen.seed + 10 * k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    began, generator = time.perf_counter(), Generator.load()
    near = [enumerable(10_240 if chosen.quick else 102_400, seed) for seed in seeds]
    tables = [table("enumerable", ["", "total variation"], [[n, interval([x[n] for x in near])] for n in near[0]])]
    misses = [f"total variation above {DISTANCE}"] * (statistics.fmean(x["steer, by weights"] for x in near) > DISTANCE)
    results, rows = {}, []
    for name, (where, bar) in SETS.items():
        found = results[name] = [compare(generator, where, draws, seed) for seed in seeds]
        for method in ("steer", "rejection"):
            cells = [interval([one[method][key] for one in found]) for key in found[0]["rejection"]]
            rows.append([f"{name}: {' and '.join(where)}", method, *cells])
        speed = {m: statistics.fmean(one[m]["rate of 1,000"] for one in found) for m in ("steer", "rejection")}
        spread = {m: statistics.fmean(one[m]["diversity"] for one in found) for m in ("steer", "rejection")}
        if not speed["steer"] >= bar * speed["rejection"]:
            misses.append(f"{name}: {speed['steer'] / max(speed['rejection'], 1e-9):.2g} times rejection, bar {bar:g}")
        if not abs(spread["steer"] / spread["rejection"] - 1) <= 0.05:
            misses.append(f"{name}: internal diversity {spread['steer']:.3f} against {spread['rejection']:.3f}")
    keys = list(found[0]["rejection"])
    tables.append(table(f"MOSES, {draws} steered draws, seeds {seeds}", ["set", "method", *keys], rows))
    for text in misses:
        print(f"bar missed: {text}", file=sys.stderr)
    if chosen.json is not None:
        document = {
            "benchmark": "molecules_constraints",
            "quick": chosen.quick,
            "seed": chosen.seed,
            "seconds": round(time.perf_counter() - began, 1),
            "tables": tables,
            "results": {"enumerable": near, "moses": results},
            "bars_missed": misses,
            "versions": {"scidiff": scidiff.__version__},
        }
        atomic.write_json(chosen.json, document)
    return 1 if misses and not chosen.quick else 0


if __name__ == "__main__":
    sys.exit(main())
