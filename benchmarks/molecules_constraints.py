"""Molecules under property constraints: steered, projected and guided draws against rejection with the same weights.

    python benchmarks/molecules_constraints.py [--quick] [--seed N] [--json FILE] [--draws N] [--repeats N]
                                               [--model FOLDER] [--methods NAME ...]

Tables:
* `enumerable`: a small random model of sequences of two and three tokens whose probabilities are summed over all orders
  of unmasking. Total variation between samples given `n_atoms[N] == 1` and the exact conditional distribution, of as
  many draws: tilted and guided draws by their weights, and rejection. Bar: 0.02.
* `MOSES`: three sets of conditions that about 10 %, 1 % and 0.1 % of the training molecules meet, and two about QED,
  which fragments do not add up to. `head` and `sums` are projection by the property head and by what fragments add.
  Certified molecules a processor second: `rate` leaves out the pilot of steering, stated beside it; `rate of 1,000`
  counts 1,000 molecules and the pilot that they share. `worth` counts the independent draws that they are worth by
  their weights instead. `share` is the share of the model's molecules that meet the set, by weights. Internal
  diversity of the certified, without pairs of one. The bars are about what the planner chooses for 1,000; draws as they
  come are rejection. Rejection draws once, eight times as many, and is judged on each set. Mean ± half-width of the
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

import torch
from _running import guarded, options, publish, say, spread
from rdkit import Chem

from scidiff.guidance import Sums
from scidiff.molecules.effort import Effort
from scidiff.molecules.generator import Drawn, Generator
from scidiff.molecules.guiding import ByProjection
from scidiff.molecules.language import Expression
from scidiff.molecules.metrics import fingerprints, internal_diversity
from scidiff.molecules.model import LEAF, FragmentModel, ModelConfig
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.planning import choose
from scidiff.molecules.tilting import MOST
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.state import Layout

SETS = {
    "10 %": (["logp >= 3.5"], 1.0),
    "1 %": (["tpsa >= 110", "logp <= 1"], 5.0),
    "0.1 %": (["tpsa >= 125", "logp <= 0"], 20.0),
    "QED, 1.7 %": (["qed >= 0.94"], 0.0),
    "QED, 0.9 %": (["qed >= 0.9", "logp <= 1.5"], 0.0),
}  # conditions and the bar of certified molecules a second over rejection, 0 for none
METHODS = ("steer", "head", "sums", "guide")
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
    ends = torch.tensor([[0.8], [1.3]])
    moved = ByProjection(
        properties=Sums(scores=table.clamp_min(0).float()[:, None]),
        low=ends[0],
        high=ends[1],
        lengths=generator.model.length_probabilities,
    )
    sources = {
        "steer, by weights": replace(generator, tilt=0.7 * table),
        "project, by weights": replace(generator, guide=moved),
        "rejection": generator,
    }
    found = {}
    for name, source in sources.items():
        held = [d for d in islice(source.stream(seed=seed), draws) if oracle.certify(d.smiles).holds]
        found[name] = variation(held, mass, None if source is generator else [math.exp(d.log_weight) for d in held])
    return found


def variation(found: Sequence[Drawn], mass: dict[str, float], weights: list[float] | None) -> float:
    """Total variation between weighted samples and masses."""
    weights = weights or [1.0] * len(found)
    share: dict[str, float] = {}
    for one, weight in zip(found, weights, strict=True):
        share[one.smiles] = share.get(one.smiles, 0.0) + weight / sum(weights)
    return sum(abs(share.get(s, 0.0) - p / sum(mass.values())) for s, p in mass.items()) / 2


def judge(source: Generator, drawn: Sequence[Drawn], where: list[str], seconds: float) -> dict[str, float]:
    """What was drawn in so many processor seconds, certified; rates are of these and those of certifying."""
    oracle, effort, certified = Oracle(parse_all(where)), Effort(scale=source.feasible), set()
    began = time.process_time()
    for one in drawn:
        holds = oracle.certify(one.smiles).holds
        effort.add(one, holds=holds)
        if holds and one.kept:
            certified.add(one.smiles)
    seconds += time.process_time() - began
    found = {"rate": len(certified) / seconds, "worth": effort.effective / seconds, "certified": float(len(certified))}
    mols = [Chem.MolFromSmiles(text) for text in sorted(certified)]
    return {
        **found,
        "share": effort.share,
        "draws worth": effort.effective,
        "diversity": internal_diversity(fingerprints(mols)) * len(mols) / (len(mols) - 1)
        if len(mols) > 1
        else math.nan,
        "oracle calls a molecule": len(drawn) / max(len(certified), 1),
        "network calls a molecule": effort.calls / max(len(certified), 1),
    }


def taken(source: Generator, draws: int, seed: int) -> tuple[list[Drawn], float]:
    """The first draws of a seed, and the processor seconds they took."""
    began = time.process_time()
    return list(islice(source.stream(seed=seed), draws)), time.process_time() - began


def compare(
    generator: Generator, methods: Sequence[str], draws: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Every method on every set, by set."""
    plain, seconds = taken(generator, 8 * draws, seed + 1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, (where, _) in SETS.items():
        terms, ours = parse_all(where), {}
        for method in methods:
            given, began, pilot = generator.given(terms), time.process_time(), 0.0
            if method == "steer":
                source = given.steered(terms, seed=seed, steps=None, most=MOST).source
                pilot = time.process_time() - began
            else:
                source = leaning(given, method, terms)
            drawn, spent = taken(source, draws, seed)
            ours[method] = shared(judge(source, drawn, where, spent), pilot)
        ours["rejection"] = shared(judge(generator, plain, where, seconds), 0.0)
        found[name] = ours
        say(f"seed {seed}, {name}: {ours}")
    return found


def leaning(given: Generator, method: str, terms: Sequence[Expression]) -> Generator:
    """A generator guided, or projected by sums of scores or, as if these said nothing, by the property head."""
    if method == "guide":
        return given.guided(terms)
    scores = given.model.scores
    if method == "head" and scores is not None and scores.left is not None:
        scores = replace(scores, left=torch.full_like(scores.left, torch.inf))
    head = None if method == "sums" else given.model.head
    return replace(given, model=replace(given.model, head=head, scores=scores)).projected(terms)


def shared(found: dict[str, float], pilot: float) -> dict[str, float]:
    """The rate of 1,000 molecules and the pilot that they share, beside the rest."""
    rate = 1000 / (1000 / found["rate"] + pilot) if found["rate"] else 0.0
    return {"rate of 1,000": rate, "pilot seconds": pilot, **found}


def missed(generator: Generator, results: dict[str, list[dict[str, dict[str, float]]]]) -> list[str]:
    """The bars that the planner's choice misses."""
    misses = []
    for name, (where, bar) in SETS.items():
        choice = choose(generator.model, generator.given(parse_all(where)).enforcement, parse_all(where), num=1000)
        method = "rejection" if choice.method == "exact" else choice.method
        if method not in results[name][0] or not bar:
            continue
        mean = {
            (one, what): statistics.fmean(run[one][what] for run in results[name])
            for one in (method, "rejection")
            for what in ("rate of 1,000", "diversity")
        }
        times = mean[method, "rate of 1,000"] / max(mean["rejection", "rate of 1,000"], 1e-9)
        if times < bar:
            misses.append(f"{name}: {times:.2g} times rejection, bar {bar:g}")
        if not abs(mean[method, "diversity"] / mean["rejection", "diversity"] - 1) <= 0.05:
            ours, theirs = (mean[one, "diversity"] for one in (method, "rejection"))
            misses.append(f"{name}: internal diversity {ours:.3f} against {theirs:.3f}")
    return misses


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "256 draws, one seed: numbers that mean little")
    parser.add_argument("--draws", type=int, help="draws a set and method; default 2,560")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    parser.add_argument("--model", type=Path, help="a folder of weights instead of the packaged ones")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all that the model can")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    draws = chosen.draws or (256 if chosen.quick else 2560)
    seeds = [chosen.seed + 10 * k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    generator = Generator.load(chosen.model)
    able = {"guide": generator.model.config.edges, "head": generator.model.head}
    methods = chosen.methods or [one for one in METHODS if able.get(one, True)]
    near = [enumerable(4_096 if chosen.quick else 51_200, seed) for seed in seeds]
    distances = [[name, spread([one[name] for one in near])] for name in near[0]]
    tables = [{"title": "enumerable", "columns": ["", "total variation"], "rows": distances}]
    runs = [compare(generator, methods, draws, seed) for seed in seeds]
    results = {name: [run[name] for run in runs] for name in SETS}
    rows = [
        [
            f"{name}: {' and '.join(where)}",
            method,
            *(spread([one[method][key] for one in results[name]]) for key in keys),
        ]
        for name, (where, _) in SETS.items()
        for method, keys in results[name][0].items()
    ]
    keys = list(results["10 %"][0]["rejection"])
    title = f"MOSES, {draws} draws, rejection {8 * draws}, seeds {seeds}"
    tables.append({"title": title, "columns": ["set", "method", *keys], "rows": rows})
    off = [n for n in near[0] if statistics.fmean(x[n] for x in near) > DISTANCE]
    misses = [f"{name}: total variation above {DISTANCE}" for name in off] + missed(generator, results)
    found = {"enumerable": near, "moses": results}
    return publish("molecules_constraints", chosen, tables, misses=misses, results=found)


if __name__ == "__main__":
    sys.exit(main())
