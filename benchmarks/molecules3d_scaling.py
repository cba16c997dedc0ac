#!/usr/bin/env python3
"""Processor time of a network call of the conformer model by the number of atoms: all pairs, and the nearest alone.

    python benchmarks/molecules3d_scaling.py [--quick] [--seed N] [--json FILE]

Alkanes of 11 to 200 atoms, one thread, noisy positions halfway through a draw. "all pairs" is the packaged network as
it is used; "nearest 24" is the same with attention cut off, each atom looking at itself, those bonded to it and those
nearest to it, 24 in all (`EquivariantTransformer.neighbours`); "EDM's size" is a plain equivariant network of nine
layers and 256 features on all pairs (Hoogeboom et al. 2022), untrained, which takes as long. The last row has exponents
fitted to the three largest molecules.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from _molecules3d_cost import edm_call, milliseconds, model_call
from _running import guarded, options, publish, say
from rdkit import Chem

from scidiff.molecules.three_d.graphs import Graph, graph_of
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.networks.geometric import EquivariantTransformer

CARBONS = (3, 6, 16, 33, 49, 66)
NEAREST = 24
BATCH, REPEATS = 4, 3
MOST_PLAIN = 101  # atoms of the plain network, whose pairs do not fit otherwise
WAYS = ("all pairs", f"nearest {NEAREST}", "EDM's size")


def near_call(model: ConformerModel, graph: Graph, batch: int) -> Callable[[], None]:
    """One call of the model that looks at the nearest atoms alone."""
    network = cast(EquivariantTransformer, model.denoiser.network)
    inner = model_call(model, model.denoiser, graph, batch)

    def call() -> None:
        network.neighbours = NEAREST
        try:
            inner()
        finally:
            network.neighbours = None

    return call


def run(chosen: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    model, rows = ConformerModel.load(), []
    for carbons in CARBONS[:4] if chosen.quick else CARBONS:
        graph = graph_of(Chem.AddHs(Chem.MolFromSmiles("C" * carbons)))
        n = len(graph.kind)
        calls = [model_call(model, model.denoiser, graph, BATCH), near_call(model, graph, BATCH)]
        spent = [milliseconds(call, batch=BATCH, repeats=REPEATS) for call in calls]
        plain = n <= MOST_PLAIN and not (chosen.quick and n > 50)
        rows.append([n, *spent, milliseconds(edm_call(n, 1), batch=1, repeats=REPEATS) if plain else None])
        say(f"{n} atoms: {spent}")
    powers = [exponent([(row[0], row[k]) for row in rows if row[k] is not None][-3:]) for k in (1, 2, 3)]
    table = {
        "title": "Processor time of a network call, ms a molecule",
        "columns": ["atoms", *WAYS],
        "rows": [*rows, ["exponent", *powers]],
    }
    return publish("molecules3d_scaling", chosen, [table])


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope of log(time) over log(atoms)."""
    atoms, spent = np.log(np.array(points)).T
    return float(np.polyfit(atoms, spent, 1)[0])


def main(arguments: list[str] | None = None) -> int:
    chosen = options(__doc__, "up to 101 atoms").parse_args(arguments)
    return guarded(run, chosen)


if __name__ == "__main__":
    sys.exit(main())
