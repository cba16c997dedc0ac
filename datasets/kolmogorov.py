#!/usr/bin/env python3
"""Kolmogorov flow at Reynolds number 200: 8,192 fields of vorticity on 64 x 64 points, 128 trajectories.

    d omega / dt + u . grad omega = laplace omega / 200 - omega / 10 - 4 cos(4 y)      on [0, 2 pi)^2

Simulated on 96 x 96 points, of which the 2/3 rule keeps 31 waves: as many as 64 points hold, so nothing is lost by
storing those. Each trajectory starts from random large waves, runs 20 units of time before the first field (velocity is
about 1.2), then gives one field a unit. Trajectories 0-111 are to train on, 112-119 to watch, 120-127 to test.

    python datasets/kolmogorov.py                    simulate into the cache (some three minutes) and print the folder
    python datasets/kolmogorov.py --trajectories 16 --fields 8        a small one, for trials; kept apart
    python datasets/kolmogorov.py --trajectories 32 --fields 24 --reynolds 50 100 200 400     of each; kept apart
    ... --waves 2          the force is sin(2 y), its curl -2 cos(2 y); kept apart too

Flows of fewer waves are larger and faster: their time step is shorter in proportion. The folder holds
vorticity.safetensors ("vorticity", float16 [trajectory, time, y, x], with --reynolds one axis more in front) and
manifest.json. A second call finds them. The cache is `$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`, else
`~/.cache/scidiff`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from _fetching import cache_folder, finished
from _simulated import kept
from safetensors.torch import load_file
from torch import Tensor

from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov, resampled
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.state import Layout

TRAJECTORIES, FIELDS, POINTS = 128, 64, 64
SPLITS = {"train": (0.0, 0.875), "validation": (0.875, 0.9375), "test": (0.9375, 1.0)}
FLOW = {"viscosity": 0.005, "drag": 0.1, "waves": 4, "points": 96, "step": 0.02, "spacing": 1.0, "spin_up": 20.0}
SEED = 2026
_TILE = 32  # trajectories that are simulated together, whatever is asked for


def flow(reynolds: float | None = None, waves: int = FLOW["waves"]) -> NavierStokes:
    """The equation, of another Reynolds number if one is given."""
    box = Box(shape=(FLOW["points"], FLOW["points"]))
    force = kolmogorov(box, waves=waves)
    viscosity = FLOW["viscosity"] if reynolds is None else 1 / reynolds
    return NavierStokes(box=box, viscosity=viscosity, drag=FLOW["drag"], forcing=force)


def started(index: Tensor, seed: int) -> Tensor:
    """Random vorticity of 1 to 8 waves and standard deviation 4: float32 [B, H, W]."""
    box = flow().box
    rows = Layout.dense(len(index), {"start": box.shape}).rows("start")
    white = Noise(seed=seed, index=index).at("start", 0, rows).normal()
    shells = box.shells()
    large = box.multiply(white, (shells > 0) & (shells <= 8))
    return 4 * large / large.std((-2, -1), keepdim=True)


def time_step(waves: int) -> float:
    """Of the solver, for a force of so many waves."""
    return FLOW["step"] * min(1.0, waves / FLOW["waves"])


def simulate(
    trajectories: int, fields: int, seed: int, *, reynolds: float | None = None, waves: int = FLOW["waves"]
) -> Tensor:
    """float16 [trajectories, fields, 64, 64]."""
    equation, step, found = flow(reynolds, waves), time_step(waves), []
    per_field, before = (round(FLOW[name] / step) for name in ("spacing", "spin_up"))
    for first in range(0, trajectories, _TILE):
        omega = equation.integrate(started(first + torch.arange(_TILE), seed), step=step, steps=before)
        series = []
        for _ in range(fields):
            omega = equation.integrate(omega, step=step, steps=per_field)
            series.append(resampled(omega, (POINTS, POINTS)).half())
        found.append(torch.stack(series, 1))
        print(f"{min(first + _TILE, trajectories)} of {trajectories} trajectories", file=sys.stderr, flush=True)
    return torch.cat(found)[:trajectories]


def later(omega: Tensor, duration: float) -> Tensor:
    """Fields [S, 64, 64] of the data set a while later, by the same solver."""
    equation, steps, found = flow(), round(duration / FLOW["step"]), []
    for part in omega.split(_TILE):
        fine = resampled(part, equation.box.shape)
        found.append(resampled(equation.integrate(fine, step=FLOW["step"], steps=steps), tuple(omega.shape[-2:])))
    return torch.cat(found)


def fetch(
    cache: Path | None = None,
    *,
    trajectories: int = TRAJECTORIES,
    fields: int = FIELDS,
    reynolds: Sequence[float] = (),
    waves: int = FLOW["waves"],
) -> Path:
    """The folder with the fields, of each of some Reynolds numbers if they are given; simulated if it is not there."""
    other = [f"n{waves}"] if waves != FLOW["waves"] else []
    whole = (trajectories, fields) == (TRAJECTORIES, FIELDS) and not reynolds and not other
    sizes = [*other, *(f"re{number:g}" for number in reynolds), trajectories, fields]
    name = "kolmogorov" if whole else "-".join(["kolmogorov", *map(str, sizes)])
    folder = (cache_folder() if cache is None else cache) / name

    def made() -> dict[str, Tensor]:
        if not reynolds:
            return {"vorticity": simulate(trajectories, fields, SEED, waves=waves)}
        each = [simulate(trajectories, fields, SEED + round(of), reynolds=of, waves=waves) for of in reynolds]
        return {"vorticity": torch.stack(each)}

    record = {"flow": FLOW | {"waves": waves, "step": time_step(waves)}, "seed": SEED}
    record |= {"reynolds": list(reynolds)} if reynolds else {}
    return kept(folder, "vorticity.safetensors", made, record)


def read(folder: Path, split: str) -> Tensor:
    """Vorticity of one split, "train", "validation" or "test": float32 [trajectory, time, y, x], or [reynolds, ...]."""
    fields = load_file(folder / "vorticity.safetensors")["vorticity"]
    first, last = (round(share * fields.shape[-4]) for share in SPLITS[split])
    return fields[..., first:last, :, :, :].float()


def windows(folder: Path, split: str, *, frames: int, interval: float) -> Tensor:
    """Each field of a split and what comes after it: float16 [trajectory, time, frames, y, x], an interval apart.

    Simulated once (64 ms of a core each for four intervals of 0.3) and kept beside the folder of the fields.
    """

    def simulated() -> dict[str, Tensor]:
        fields = read(folder, split)
        found = [fields.flatten(0, 1)]
        for _ in range(1, frames):
            found.append(later(found[-1], interval))
        return {"vorticity": torch.stack(found, 1).half().unflatten(0, fields.shape[:2])}

    place = folder.with_name(f"{folder.name}-{split}-{frames}x{interval:g}")
    record = {"flow": FLOW, "seed": SEED, "frames": frames, "interval": interval}
    return load_file(kept(place, "vorticity.safetensors", simulated, record) / "vorticity.safetensors")["vorticity"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="cache folder")
    parser.add_argument("--trajectories", type=int, default=TRAJECTORIES)
    parser.add_argument("--fields", type=int, default=FIELDS, help="of each trajectory")
    parser.add_argument("--reynolds", type=float, nargs="+", default=[], help="numbers, simulated one after the other")
    parser.add_argument("--waves", type=int, choices=range(1, 17), default=FLOW["waves"], help="of the force along y")
    sizes = vars(parser.parse_args(arguments))
    return finished(lambda: fetch(sizes.pop("cache"), **sizes))


if __name__ == "__main__":
    sys.exit(main())
