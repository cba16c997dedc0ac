#!/usr/bin/env python3
"""Atoms, bonds and coordinates of QM9-like molecules from one reverse pass, beside a graph first and then a geometry.

    python datasets/qm9.py
    python benchmarks/molecules3d_joint.py [--quick] [--seed N] [--json FILE] [--molecules M] [--repeats R]

For each of R seeds M molecules are taken as they are drawn, nothing left out; the rows are

    one pass, raw            {pos, atom, bond} on one grid of times, every estimate of classes projected on molecules
    one pass                 those whose geometry is certified as well, as `generate --jointly` writes them
    one pass, unprojected    raw, classes drawn one by one: what makes no molecule fails in every way
    scidiff, ETKDG, QM9      the way of two passes and others: see `molecules3d_generation.py`, with all measures

The second table judges the molecules themselves, the third says what was refused and where the time goes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from _running import guarded, options, publish, say
from molecules3d_generation import (
    Made,
    canonical,
    distribution,
    geometries,
    graphs,
    made,
    measured,
    random_part,
    reference,
)

from scidiff.molecules.generator import Generator
from scidiff.molecules.three_d.generated import fragments_of_small_molecules
from scidiff.molecules.three_d.joint.draws import STEPS
from scidiff.molecules.three_d.joint.generator import JointDrawn, JointGenerator
from scidiff.molecules.three_d.model import load


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples in their order, and the seconds of the processor that each took."""

    samples: list[JointDrawn]
    seconds: float

    @classmethod
    def of(cls, generator: JointGenerator, count: int, seed: int) -> Drawn:
        """The first so many samples of a seed."""
        began = time.process_time()
        samples = list(islice(generator.stream(seed=seed, start=0, steps=None, batch_size=count), count))
        return cls(samples=samples, seconds=(time.process_time() - began) / count)

    @property
    def raw(self) -> Made:
        """All of them."""
        mols = [one.mol for one in self.samples if one.mol is not None]
        return Made(mols=mols, asked=len(self.samples), calls=STEPS, seconds=self.seconds)

    @property
    def certified(self) -> Made:
        """Those that are not refused, with the cost of those that are."""
        mols = [one.mol for one in self.samples if one.mol is not None and not one.refused]
        times = len(self.samples) / max(1, len(mols))
        return Made(mols=mols, asked=len(mols), calls=STEPS * times, seconds=self.seconds * times)

    @property
    def account(self) -> list[str]:
        """Draws, those that make a molecule, those certified, and why others are not."""
        count, reasons = len(self.samples), Counter(why for one in self.samples for why in one.refused)
        why = ", ".join(f"{reason}: {100 * n / count:.1f} %" for reason, n in reasons.most_common())
        molecules, certified = len(self.raw.mols) / count, len(self.certified.mols) / count
        return [f"{count:,}", f"{molecules:.3f}", f"{certified:.3f}", f"{1000 * self.seconds:.0f}", why]


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "20 molecules, one seed, a part of QM9")
    parser.add_argument("--molecules", type=int, help="of each seed; default 1,000")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights of the joint model")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    count = chosen.molecules or (20 if chosen.quick else 1000)
    seeds = [chosen.seed + k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    torch.set_num_threads(1)
    known = reference(400 if chosen.quick else None)
    generator, fragments = JointGenerator.load(chosen.model), Generator.load(fragments_of_small_molecules())
    conformers = load(None, "cpu")
    results: dict[str, list[dict[str, float]]] = {}
    drawn: dict[str, list[dict[str, float]]] = {}
    rows = []
    for seed in seeds:
        ways = {
            "one pass": Drawn.of(generator, count, seed),
            "one pass, unprojected": Drawn.of(replace(generator, projected=False, geometries={}), count, seed),
        }
        rows += [[name, seed, *one.account] for name, one in ways.items()]
        held = {f"{name}, raw" if name == "one pass" else name: one.raw for name, one in ways.items()}
        others, smiles = made(fragments, conformers, count, seed)
        for name, given in (held | {"one pass": ways["one pass"].certified} | others).items():
            results.setdefault(name, []).append(measured(given, known))
            say(f"{name} { ({k: round(v, 4) for k, v in results[name][-1].items()}) }")
        found = [one.smiles for one in ways["one pass"].samples if one.smiles]
        for name, texts in (("one pass", found), ("scidiff", smiles)):
            drawn.setdefault(name, []).append(distribution(texts, known))
    held_out = random_part(known.held, count)
    results["QM9, held out"] = [measured(Made(mols=held_out, asked=len(held_out)), known)]
    drawn["QM9, held out"] = [distribution([canonical(mol) for mol in held_out], known)]
    columns = ["way", "seed", "drawn", "molecules", "certified", "ms", "refused"]
    tables = [
        geometries(f"One pass and two, {len(seeds)} x {count:,} drawn", results),
        graphs(f"Molecules, {len(seeds)} x {count:,} drawn", drawn),
        {"title": "What comes of a draw", "columns": columns, "rows": rows},
    ]
    return publish(
        "molecules3d_joint",
        chosen,
        tables,
        misses=[],
        missing=[],
        results=results | {"molecules": drawn},
        card=dict(generator.model.card),
    )


if __name__ == "__main__":
    sys.exit(main())
