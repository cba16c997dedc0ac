"""Trajectories by a denoiser of windows: on from frames that are known, window after window, or from sparse values.

A trajectory is a function of (seed, number) and of what is known alone, drawn in tiles of `TILE` whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.stats import chi2
from torch import Tensor

from scidiff.fluids.composed import Composed
from scidiff.fluids.inversion import CLOSER, LEVEL
from scidiff.fluids.observed import Facts, Observed
from scidiff.fluids.rollout import TILE, Trajectories, seed_of
from scidiff.fluids.space_time import SpaceTime
from scidiff.fluids.windows import LEAF, WindowModel, known_frames
from scidiff.grids import karras, to_data
from scidiff.noise import Noise
from scidiff.sampling import Known, sample
from scidiff.schedules import Cosine
from scidiff.solvers import Plan, dpmpp_sde_2m, recommended
from scidiff.state import Layout

CALLS = 6  # a window
HELD = 2  # frames of a window that the next one begins with
CALLS_MEASURED = 16  # a trajectory
LEVELS = (0.02, 12.0)  # sigma / alpha between which those lie
RATE = 3.0  # of the noise of the reverse SDE

Progress = Callable[[int, int], None]


def rollout(
    model: WindowModel,
    start: Tensor,
    *,
    steps: int,
    samples: int,
    seed: int = 0,
    calls: int = CALLS,
    held: int = HELD,
    progress: Progress | None = None,
) -> Trajectories:
    """Draw what comes after known frames, or after an ensemble of them, a window at a time.

    Args:
        model: the weights.
        start: vorticity [R, K, H, W] in its own unit, an interval apart; of trajectory s that of s modulo R. They stand
            first among the trajectories, untouched; the last W - 1 of them are read.
        steps: how many intervals beyond.
        samples: how many trajectories.
        seed: of the run.
        calls: of the network a window.
        held: frames of a window that the next one begins with, from 1 to W - 1.
        progress: called with how many steps are done, of how many, all tiles together.

    Raises:
        FloatingPointError: a field is no longer finite.
    """
    if not 1 <= held < model.config.frames:
        raise ValueError(f"expected 1 to {model.config.frames - 1} frames held, got {held}")
    tiles, rule, kept = -(-samples // TILE), recommended(Cosine(), calls), []
    for tile in range(tiles):
        number = tile * TILE + torch.arange(TILE, device=start.device)
        first = start[number % len(start)]
        found, done, window = model.leaf(first).float(), 0, 0
        while done < steps:
            last = found[:, -(held if window else model.config.frames - 1) :]
            new = continued(model, last, Noise(seed=seed_of(seed, window), index=number), rule)
            found, done, window = torch.cat([found, new], 1), done + new.shape[1], window + 1
            if not bool(new.isfinite().all()):
                raise FloatingPointError(f"expected finite fields, got others after {done} steps")
            if progress is not None:
                progress(tile * steps + min(done, steps), tiles * steps)
        drawn = model.vorticity(found[:, first.shape[1] :].double())
        kept.append(torch.cat([first.double(), drawn], 1)[:, : first.shape[1] + steps])
    times = model.config.interval * torch.arange(start.shape[1] + steps, dtype=torch.float64)
    return Trajectories(vorticity=torch.cat(kept)[:samples], times=times, calls=calls, seed=seed)


def continued(model: WindowModel, last: Tensor, noise: Noise, rule: Plan) -> Tensor:
    """The frames of a window after those it begins with, [B, K, H, W] of the leaf: [B, W - K, H, W]."""
    held, frames = last.shape[1], model.config.frames
    values = torch.cat([last, last.new_zeros(len(last), frames - held, *last.shape[2:])], 1)
    begun = torch.arange(frames, device=last.device) < held
    told = known_frames(values, begun.expand(len(last), -1))
    layout = Layout.dense(len(last), {LEAF: tuple(values.shape[1:])}, device=last.device)
    known = Known(values={LEAF: values}, mask={LEAF: told["known"]})
    found = sample(model.denoiser, model.processes, {LEAF: rule}, layout, noise, condition=told, known=known)
    return found.state[LEAF][:, held:]


@dataclass(frozen=True, kw_only=True)
class Told:
    """Trajectories of which sparse values are known.

    Attributes:
        model: the weights.
        facts: what was measured, of the leaf.
    """

    model: WindowModel
    facts: Facts

    def draw(
        self, *, samples: int, seed: int = 0, calls: int = CALLS_MEASURED, progress: Progress | None = None
    ) -> Tensor:
        """Draw trajectories: vorticity float64 [samples, L, H, W] in its own unit.

        Args:
            samples: how many.
            seed: of the run.
            calls: of the network for each window.
            progress: called with how many are done, of how many.
        """
        parts, device = [], self.model.prior.mean.device
        for first in range(0, samples, TILE):
            noise = Noise(seed=seed, index=first + torch.arange(TILE, device=device))
            parts.append(self.model.vorticity(self.tile(noise, plan(calls))))
            if progress is not None:
                progress(min(first + TILE, samples), samples)
        return torch.cat(parts)[:samples]

    def tile(self, noise: Noise, rule: Plan) -> Tensor:
        """Trajectories of the leaf, float64 [B, L, H, W]; facts without noise hold to rounding."""
        model, facts = self.model, self.facts
        covariance = model.covariance(facts.shape[0])
        composed = Composed(
            model.denoiser,
            leaf=LEAF,
            frames=model.config.frames,
            schedule=model.process.schedule,
            covariance=model.covariance,
        )
        told = Observed(composed, model.process, leaf=LEAF, facts=facts, covariance=covariance)
        layout = Layout.dense(len(noise.index), {LEAF: facts.shape}, device=noise.index.device)
        found = sample(told, model.processes, {LEAF: rule}, layout, noise).state[LEAF].double()
        return self.closer(found, covariance, noise) if facts.noise else facts.told(found, covariance)

    def closer(self, found: Tensor, covariance: SpaceTime, noise: Noise) -> Tensor:
        """Those that miss the values by more than draws do, moved to values with noise anew.

        In the metric of what is left of the prior at a level, the finest first (`Inverse.closer`).
        """
        facts = self.facts
        rows = Layout.dense(len(found), {"measured": facts.values.shape}).rows("measured")
        anew = facts.noise**0.5 * noise.at("measured", 0, rows).normal(dtype=torch.float64)
        aim = replace(facts, values=facts.values.to(anew) + anew)
        for level in CLOSER:
            moving = facts.missed(found) > chi2.ppf(LEVEL, len(facts.values))
            if not bool(moving.any()):
                break
            moved = aim.told(found, covariance.posterior(torch.tensor(level**2)))
            found = torch.where(moving[:, None, None, None], moved, found)
        return found


def plan(calls: int) -> Plan:
    """The reverse SDE between `LEVELS`."""
    low, high = LEVELS
    grid = karras(Cosine(), max(calls - 1, 1), rho=5.0, sigma_min=low, sigma_max=high)
    return dpmpp_sde_2m(Cosine(), to_data(grid), eta=RATE)
