"""Flows forward in time: one field after the other, each drawn given the last.

A trajectory is a function of (seed, number, start) alone: the noise of step n is keyed by a seed that follows from the
run's and n, and trajectories are computed in tiles of `TILE`, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.fluids.transition import LEAF, TransitionModel
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import Plan, recommended
from scidiff.state import Layout

TILE = 8
CALLS = 6

Step = Callable[[Tensor, Noise], Tensor]
"""From fields [B, 1, H, W], in units of the scale, to those an interval later."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """Flows that were drawn.

    Attributes:
        vorticity: [S, T + 1, H, W] in its own unit, float64, the start first.
        times: [T + 1] since the start.
        calls: of the network a step.
        seed: of the run.
    """

    vorticity: Tensor
    times: Tensor
    calls: int
    seed: int

    def __len__(self) -> int:
        return len(self.vorticity)


def rollout(
    model: TransitionModel,
    start: Tensor,
    *,
    steps: int,
    samples: int,
    seed: int = 0,
    calls: int = CALLS,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Draw what comes after a field, or after an ensemble of them.

    Args:
        model: the weights.
        start: vorticity [R, H, W] in its own unit; trajectory s starts from field s modulo R.
        steps: how many intervals.
        samples: how many trajectories.
        seed: of the run.
        calls: of the network a step; one that learned the mean alone takes one, whatever is asked.
        progress: called with how many steps are done, of how many, all tiles together.

    Raises:
        FloatingPointError: a field is no longer finite.
    """
    calls = calls if model.config.generative else 1
    step = drawn(model, calls) if model.config.generative else expected(model)
    tiles = -(-samples // TILE)
    kept = []
    for tile in range(tiles):
        number = tile * TILE + torch.arange(TILE, device=start.device)
        said = None if progress is None else lambda n, tile=tile: progress(tile * steps + n, tiles * steps)
        first = start[number % len(start)] / model.config.scale
        kept.append(unrolled(step, first, number, seed=seed, steps=steps, progress=said))
    vorticity = model.config.scale * torch.cat(kept)[:samples].double()
    times = model.config.interval * torch.arange(steps + 1, dtype=torch.float64)
    return Trajectories(vorticity=vorticity, times=times, calls=calls, seed=seed)


@torch.no_grad()
def unrolled(
    step: Step,
    start: Tensor,
    number: Tensor,
    *,
    seed: int,
    steps: int,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """A step again and again: fields [B, H, W], numbered, in units of the scale -> [B, steps + 1, H, W], float32."""
    x = start.float()[:, None]
    found = [x[:, 0]]
    for n in range(steps):
        x = step(x, Noise(seed=seed_of(seed, n), index=number))
        if not bool(x.isfinite().all()):
            raise FloatingPointError(f"expected finite fields, got others after {n + 1} steps")
        found.append(x[:, 0])
        if progress is not None:
            progress(n + 1)
    return torch.stack(found, 1)


def drawn(model: TransitionModel, calls: int, *, rule: Plan | None = None) -> Step:
    """A step that is drawn: A x + m + c r, r by so many calls of the network."""
    rule = rule or recommended(Cosine(), calls)

    def step(x: Tensor, noise: Noise) -> Tensor:
        layout = Layout.dense(len(x), {LEAF: tuple(x.shape[1:])}, device=x.device)
        found = sample(model.denoiser, model.processes, {LEAF: rule}, layout, noise, condition=model.told(x))
        return model.predicted(x) + model.config.change * found.state[LEAF]

    return step


def expected(model: TransitionModel) -> Step:
    """A step without chance, to the mean: one call that sees no noisy state."""

    def step(x: Tensor, noise: Noise) -> Tensor:
        layout = Layout.dense(len(x), {LEAF: tuple(x.shape[1:])}, device=x.device)
        t = torch.ones(len(x), dtype=torch.float64, device=x.device)
        r = model.denoiser({LEAF: torch.zeros_like(x)}, t, layout, model.told(x))[LEAF]
        return model.predicted(x) + model.config.change * r

    return step


def seed_of(seed: int, step: int) -> int:
    """The seed of a step's noise, 64 bits that follow from the run's seed and the step's number."""
    rows = Layout.dense(1, {"step": (2,)}).rows("step")
    low, high = Noise(seed=seed, index=torch.tensor([step])).at("step", 0, rows).words("seed", 2)[0].tolist()
    return int(high << 32 | low)
