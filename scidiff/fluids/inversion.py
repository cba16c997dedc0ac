r"""How a flow began, from what was measured of it later: the equation ties every time to the start.

    y_m = R_m omega(t_m) + noise,    omega(t) = the solver from omega(0),    omega(0) ~ the model's prior

First the likeliest start under a Gaussian prior of the data's covariance is sought (4D-Var with strong constraint),
with the noise taken for larger at first, and from it the same for noisy values about random fields, which for a linear
flow are draws from the posterior (randomised maximum likelihood). Noised again, they are where the reverse diffusion of
the model begins; at each call its clean estimate is moved towards the measured values through the solver and its
derivative (`scidiff.guidance.GaussNewton`). Where that leads further away from what was measured than draws from the
posterior are, the start is moved back, as little as does it. The derivative near the likeliest start preconditions all
of these searches (`scidiff.guidance.sketch`). For a linear flow of a Gaussian field all of it is Kalman's smoother.
Compare Rozet & Louppe, "Score-based data assimilation", 2023, who learn pieces of trajectories and use no equation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel
from scidiff.fluids.navier_stokes import resampled
from scidiff.fluids.oracle import Instrument
from scidiff.fluids.sensors import seen
from scidiff.fluids.spectral import Box
from scidiff.grids import to_data
from scidiff.guidance import GaussNewton, Measurement
from scidiff.guidance.gauss_newton import Misfit
from scidiff.guidance.sketch import Sketch
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import Plan, dpmpp_sde_2m
from scidiff.state import Layout, State

TILE = 4
CALLS = 8
ITERATIONS = 8  # of the conjugate gradients in a step, where they are preconditioned; twice as many else
COARSER = (16.0, 8.0, 4.0), (2.0, 1.0, 1.0)  # the noise of each step to the likeliest start, in its own units
RANK = 512  # of the derivative that preconditions, at most
STEPS = 3  # from the likeliest start to a draw
LEVELS = (0.01, 1.5)  # sigma / alpha where the reverse diffusion ends and begins
CLOSER = (0.2, 0.3, 0.4, 0.6, 0.8)  # the levels whose metrics lead back to what was measured, one after the other
STEP = 0.02  # of the solver, at most
LEVEL = 0.999  # of the certificate's test


class Flow(Protocol):
    """An equation: fields [..., H, W] on the points of its box some time steps later, differentiable."""

    @property
    def box(self) -> Box: ...

    def integrate(self, vorticity: Tensor, *, step: float, steps: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """What was measured of a flow.

    Attributes:
        times: [T] ascending, since the start.
        rows: of each time what was read, as inner products: [M_t, H, W].
        values: of each time, [M_t].
        noise: standard deviation of what was measured, > 0.
    """

    times: tuple[float, ...]
    rows: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    noise: float

    @classmethod
    def of(cls, instruments: Sequence[Instrument], config: FlowConfig, noise: float) -> Observations:
        """Of instruments, by their times."""
        times = sorted({tool.time for tool in instruments})
        groups = [[tool for tool in instruments if tool.time == time] for time in times]
        values = tuple(torch.tensor([tool.value for tool in group], dtype=torch.float64) for group in groups)
        return cls(times=tuple(times), rows=tuple(seen(group, config) for group in groups), values=values, noise=noise)

    def predicted(self, flow: Flow, vorticity: Tensor) -> Tensor:
        """What would be measured, without noise, of flows that start as [B, H, W]: [B, M]."""
        found = []
        for rows, field in zip(self.rows, evolved(flow, vorticity, self.times), strict=True):
            found.append(field.flatten(1) @ rows.to(field).flatten(1).T)
        return torch.cat(found, 1)

    def misfit(self, flow: Flow, vorticity: Tensor) -> Tensor:
        """Sum of squares of what is off, in units of the noise, of flows that start as [B, H, W]: [B]."""
        off = (self.predicted(flow, vorticity) - torch.cat(self.values).to(vorticity)) / self.noise
        return off.square().sum(1)

    @property
    def count(self) -> int:
        """How many values."""
        return sum(map(len, self.values))

    def bound(self) -> float:
        """What the misfit of a draw from the posterior stays below with probability `LEVEL` (chi-square)."""
        return float(chi2.ppf(LEVEL, self.count))


def evolved(flow: Flow, vorticity: Tensor, times: Sequence[float]) -> list[Tensor]:
    """Fields [B, H, W] at ascending times >= 0 from those at 0.

    Raises:
        FloatingPointError: the flow is too fast for the solver's steps of `STEP`.
    """
    found, now, shape = [], 0.0, (vorticity.shape[-2], vorticity.shape[-1])
    for time in times:
        if time > now:
            steps = math.ceil((time - now) / STEP - 1e-9)
            fine = flow.integrate(resampled(vorticity, flow.box.shape), step=(time - now) / steps, steps=steps)
            vorticity, now = resampled(fine, shape), time
        found.append(vorticity)
    return found


def trajectories(flow: Flow, vorticity: Tensor, times: Sequence[float]) -> Tensor:
    """The same as [S, T, H, W], one flow at a time, as rounding depends on the shape of a batch."""
    return torch.cat([torch.stack(evolved(flow, start, times), 1) for start in vorticity.split(1)])


class Prior(Protocol):
    """A denoiser of the leaf `LEAF`, its process, and the covariance of its data."""

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def processes(self) -> Mapping[str, Process]: ...

    @property
    def covariance(self) -> Covariance: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Likeliest:
    """The likeliest start mean + C^(1/2) u under the Gaussian prior.

    Attributes:
        u: [1, 1, H, W].
        sketch: of what is measured of starts nearby.
    """

    u: Tensor
    sketch: Sketch


@dataclass(frozen=True, kw_only=True)
class Inverse:
    """A field model, an equation and what was measured, in units of the model's scale.

    Attributes:
        model: of how a flow may look.
        mean: of the data, [1, H, W].
        scale: vorticity of a unit.
        flow: the equation.
        observations: what was measured.
        iterations: of the conjugate gradients in a step that is preconditioned.
    """

    model: Prior
    mean: Tensor
    scale: float
    flow: Flow
    observations: Observations
    iterations: int = ITERATIONS

    def operator(self, state: State) -> Tensor:
        """What would be measured of starts: infinity where the solver fails."""
        vorticity = self.scale * state[LEAF][:, 0]
        try:
            return self.observations.predicted(self.flow, vorticity)
        except FloatingPointError:
            return vorticity.new_full((len(vorticity), self.observations.count), math.inf)

    def measurement(self, *, coarser: float = 1.0, values: Tensor | None = None) -> Measurement:
        """What was measured, or other values [B, M], under a noise so many times as large."""
        seen = torch.cat(self.observations.values) if values is None else values
        return Measurement(operator=self.operator, value=seen, variance=(coarser * self.observations.noise) ** 2)

    def guided(self, sketch: Sketch | None = None) -> GaussNewton:
        """The model's denoiser of starts, told what was measured later."""
        return GaussNewton(
            self.model.denoiser,
            self.model.processes,
            self.measurement(),
            posterior=lambda level: self.model.covariance.posterior(level).root,
            iterations=self.iterations,
            sketch=sketch,
        )

    def likeliest(self) -> Likeliest:
        """The likeliest start under the Gaussian prior."""
        u, (first, last) = torch.zeros_like(self.mean)[None], COARSER
        for coarser in first:
            u = self._misfit(self.measurement(coarser=coarser)).step(u, iterations=2 * self.iterations)
        at = self._misfit(self.measurement()).at(u)
        sketch = Sketch.of(self.operator, LEAF, at, rank=RANK, probes=self._probes)
        for coarser in last:
            u = self._misfit(self.measurement(coarser=coarser), sketch=sketch).step(u, iterations=self.iterations)
        return Likeliest(u=u, sketch=sketch)

    def _probes(self, count: int) -> Tensor:
        """Random fields of the prior, without mean: [count, 1, H, W]."""
        rows = Layout.dense(count, {LEAF: tuple(self.mean.shape)}).rows(LEAF)
        white = Noise(seed=0, index=torch.arange(count)).at("probes", 0, rows).normal(dtype=self.mean.dtype)
        return self.model.covariance.root(white.to(self.mean.device))

    def noisy(self, noise: Noise) -> Tensor:
        """What was measured with other noise besides, for each draw: [B, M]."""
        rows = Layout.dense(len(noise.index), {"measured": (self.observations.count,)}).rows("measured")
        off = self.observations.noise * noise.at("measured", 0, rows).normal(dtype=torch.float64)
        return torch.cat(self.observations.values) + off.to(self.mean.device)

    def draws(self, best: Likeliest, noise: Noise) -> Tensor:
        """Starts about random fields from noisy values: [B, 1, H, W]; draws where all is linear."""
        count = len(noise.index)
        rows = Layout.dense(count, {LEAF: tuple(self.mean.shape)}).rows(LEAF)
        around = noise.at("around", 0, rows).normal(dtype=self.mean.dtype)
        misfit = self._misfit(self.measurement(values=self.noisy(noise)), around=around, sketch=best.sketch)
        u = best.u.expand(count, -1, -1, -1)
        for _ in range(STEPS):
            u = misfit.step(u, iterations=self.iterations)
        return misfit.at(u)

    def _misfit(
        self, measurement: Measurement, *, around: Tensor | float = 0.0, sketch: Sketch | None = None
    ) -> Misfit:
        root, centre = self.model.covariance.root, self.mean[None]
        return Misfit(leaf=LEAF, measurement=measurement, centre=centre, root=root, around=around, sketch=sketch)

    def closer(self, starts: Tensor, best: Likeliest, noise: Noise) -> Tensor:
        """Starts [B, 1, H, W] that miss what was measured by more than draws do, moved until they miss it as draws do.

        Each step seeks the noisy values about a start in the metric of what is left of the prior at a level (randomise,
        then optimise), at the finest level first: waves move as far as values that differ by their noise ask for.
        """
        count, measurement = self.observations.count, self.measurement(values=self.noisy(noise))
        missed = self._missed(starts)
        moving = missed.isfinite() & (missed > self.observations.bound())
        for level in CLOSER:
            if not bool(moving.any()):
                break
            root = self.model.covariance.posterior(torch.tensor(level**2)).root
            misfit = Misfit(leaf=LEAF, measurement=measurement, centre=starts, root=root, sketch=best.sketch)
            moved = misfit.at(misfit.step(torch.zeros_like(starts), iterations=self.iterations))
            starts = torch.where(moving[:, None, None, None], moved, starts)
            moving = moving & (self._missed(starts) > count + math.sqrt(2 * count))  # a standard deviation more
        return starts

    def _missed(self, starts: Tensor) -> Tensor:
        """The misfit, [B]."""
        return 2 * self.measurement().energy({LEAF: starts})

    def refined(self, draws: Tensor, best: Likeliest, noise: Noise, rule: Plan) -> Tensor:
        """What the model makes of draws, noised to where a plan begins, and what was measured: [B, 1, H, W]."""
        layout = Layout.dense(len(draws), {LEAF: tuple(draws.shape[1:])}, device=draws.device)
        rows, process = layout.rows(LEAF), self.model.processes[LEAF]
        first = torch.full((len(draws),), rule.times[0], dtype=torch.float64, device=draws.device)
        initial = {LEAF: process.corrupt(draws, first, rows, noise.at("noised", 0, rows))}
        done = sample(self.guided(best.sketch), self.model.processes, {LEAF: rule}, layout, noise, initial=initial)
        return self.closer(done.state[LEAF], best, noise)


def starts(
    model: FlowModel,
    observations: Observations,
    *,
    samples: int,
    seed: int = 0,
    calls: int = CALLS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw how a flow began, in tiles whatever is asked for: vorticity [samples, H, W] at time 0, float64.

    Args:
        model: the weights.
        observations: what was measured.
        samples: how many.
        seed: of the run.
        calls: of the network for each.
        progress: called with how many are done, of how many.
    """
    mean = model.prior.mean
    flow, scale = model.config.equation, model.config.scale
    inverse = Inverse(model=model, mean=mean, scale=scale, flow=flow, observations=observations)
    best, rule, parts = inverse.likeliest(), plan(calls, noise=1.0), []
    for first in range(0, samples, TILE):
        noise = Noise(seed=seed, index=first + torch.arange(TILE, device=mean.device))
        parts.append(inverse.refined(inverse.draws(best, noise), best, noise, rule)[:, 0].double())
        if progress is not None:
            progress(min(first + TILE, samples), samples)
    return scale * torch.cat(parts)[:samples]


def plan(calls: int, *, noise: float) -> Plan:
    """The reverse SDE between `LEVELS`, with `noise` times the noise that it needs."""
    low, high = (math.log(level) for level in LEVELS)
    levels = torch.linspace(high, low, calls, dtype=torch.float64)
    return dpmpp_sde_2m(Cosine(), to_data(Cosine().time(-2 * levels)), eta=noise)


def held(observations: Observations, flow: Flow, vorticity: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The misfit of each start over the number of measured values, and whether it is one that a draw may have: [S]."""
    misfit = observations.misfit(flow, vorticity)
    return (misfit / observations.count).cpu().numpy(), (misfit <= observations.bound()).cpu().numpy()
