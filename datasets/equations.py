#!/usr/bin/env python3
"""Pairs of fields that an equation ties together, 64 x 64 points each: 4,608 of every kind.

    darcy            permeability 3 or 12 by the sign of a Gaussian field of covariance (9 - laplace)^-2 with no flux
                     through the walls (Li et al. 2021, A.3.2) -> pressure
    poisson          such a field, of standard deviation 1, as a source -> potential
    navier-stokes    vorticity of spectrum (k^2 + 1.24)^-2.5 and standard deviation 1, periodic (as in Li et al.
                     2021, A.3.3, but nothing drives it) -> vorticity a unit of time later, viscosity 0.005

by the solvers of `scidiff.fluids.equations`. Pairs 0-4095 are to train on, 4096-4351 to watch, 4352-4607 to test.

    python datasets/equations.py darcy               simulate into the cache (two minutes) and print the folder
    python datasets/equations.py darcy --pairs 64    a small one, for trials; kept apart

The folder holds pairs.safetensors ("pairs", float32 [pair, 2, y, x]) and manifest.json. A second call finds them. The
cache is `$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`, else `~/.cache/scidiff`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from _fetching import cache_folder, finished
from _simulated import kept
from safetensors.torch import load_file
from scipy.fft import idctn
from torch import Tensor

from scidiff.fluids.darcy import two_phase
from scidiff.fluids.equations import EQUATIONS, Decay
from scidiff.noise import Noise
from scidiff.state import Layout

PAIRS, POINTS = 4608, 64
SPLITS = {"train": (0.0, 8 / 9), "validation": (8 / 9, 17 / 18), "test": (17 / 18, 1.0)}
SEED = 2026
_TILE = 64  # pairs that are simulated together


def walled(white: Tensor) -> Tensor:
    """Gaussian fields [B, N, N] of covariance (9 - laplace)^-2 without flux through the walls, standard deviation 1."""
    waves = torch.arange(white.shape[-1], dtype=torch.float64)
    size = 1 / (9 + torch.pi**2 * (waves[:, None] ** 2 + waves**2))
    found = torch.from_numpy(idctn((white * size).numpy(), axes=(-2, -1), norm="ortho"))
    return found * (white.shape[-1] / size.norm())


def periodic(white: Tensor) -> Tensor:
    """Vorticities [B, N, N] of spectrum (k^2 + 1.24)^-2.5, standard deviation 1, of waves that the solver keeps."""
    points = white.shape[-1]
    waves = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64)
    square = waves[:, None] ** 2 + waves**2
    few = 3 * waves.abs() < Decay().points
    size = (square + 1.24) ** -1.25 * (few[:, None] & few & (square > 0))
    return torch.fft.ifft2(torch.fft.fft2(white) * size).real * (points / size.norm())


def simulate(kind: str, pairs: int) -> Tensor:
    """float32 [pairs, 2, 64, 64]."""
    equation, found = EQUATIONS[kind], []
    for first in range(0, pairs, _TILE):
        index = first + torch.arange(_TILE)
        rows = Layout.dense(_TILE, {kind: (POINTS, POINTS)}).rows(kind)
        white = Noise(seed=SEED, index=index).at(kind, 0, rows).normal(dtype=torch.float64)
        field = periodic(white) if equation.periodic else walled(white)
        coefficient = two_phase(field) if kind == "darcy" else field
        found.append(torch.stack([coefficient, equation.solve(coefficient)], 1).float())
    return torch.cat(found)[:pairs]


def fetch(kind: str, cache: Path | None = None, *, pairs: int = PAIRS) -> Path:
    """The folder with the pairs; simulated if it is not there."""
    name = kind if pairs == PAIRS else f"{kind}-{pairs}"
    folder = (cache_folder() if cache is None else cache) / "equations" / name
    record = {"equation": str(EQUATIONS[kind]), "seed": SEED}
    return kept(folder, "pairs.safetensors", lambda: {"pairs": simulate(kind, pairs)}, record)


def read(folder: Path, split: str) -> Tensor:
    """Pairs of one split, "train", "validation" or "test": float32 [S, 2, N, N]."""
    pairs = load_file(folder / "pairs.safetensors")["pairs"]
    first, last = (round(share * len(pairs)) for share in SPLITS[split])
    return pairs[first:last]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=EQUATIONS)
    parser.add_argument("--cache", type=Path, help="cache folder")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    chosen = parser.parse_args(arguments)
    return finished(lambda: fetch(chosen.kind, chosen.cache, pairs=chosen.pairs))


if __name__ == "__main__":
    sys.exit(main())
