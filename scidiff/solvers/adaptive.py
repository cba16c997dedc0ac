r"""Adaptive integration of the probability flow: every sample takes its own steps, decided on the device.

The embedded pair of Dormand and Prince, orders 5 and 4 ("A family of embedded Runge-Kutta formulae", 1980), carried to
manifolds by Munthe-Kaas' method: within a step a leaf is x exp(theta), and theta is what is integrated ("High order
Runge-Kutta methods on manifolds", 1999). In flat space that is the method as it is.

This stands apart from the loop of `scidiff.sampling`, whose rules take one leaf each from one host time to the next,
the same for every sample. Here time is a tensor [B], and the size of a step and whether it is kept depend on all leaves
of a sample together; parts known in advance and particles that change places need samples that keep time with each
other. Guidance and constraints wrap the denoiser and work here as there.

Nothing is read back unless asked for: the number of attempted steps is fixed, samples that have arrived stand still,
and whether each has arrived is part of the answer. What becomes of a sample does not depend on its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.processes.manifold import Manifold
from scidiff.state import Layout, Rows, State

Field = Callable[[State, Tensor], State]
"""The velocity of every leaf, a tangent vector, at a state and the times [B] of its samples."""

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class Space(ABC):
    """Where a leaf lives, as the integrator sees it."""

    @abstractmethod
    def move(self, x: Tensor, theta: Tensor) -> Tensor:
        """exp_x(theta)."""

    @abstractmethod
    def chart_velocity(self, theta: Tensor, v: Tensor) -> Tensor:
        """The rate of theta as exp_x(theta) moves with velocity v."""

    @abstractmethod
    def per_vector(self, values: Tensor, rows: Rows) -> Tensor:
        """Spread one value a sample over tangent vectors."""

    @abstractmethod
    def size(self, x: Tensor) -> Tensor:
        """What a relative error is relative to, broadcastable against tangent vectors at x."""

    @abstractmethod
    def mean_square(self, v: Tensor, rows: Rows) -> Tensor:
        """Mean square of a tangent vector's coordinates: [B]."""


class Flat(Space):
    """Rows of numbers. Errors are relative to each number's magnitude."""

    def move(self, x: Tensor, theta: Tensor) -> Tensor:
        """x + theta."""
        return x + theta

    def chart_velocity(self, theta: Tensor, v: Tensor) -> Tensor:
        """v."""
        return v

    def per_vector(self, values: Tensor, rows: Rows) -> Tensor:
        """[B] -> [N, 1, ...]."""
        return rows.per_row(values)

    def size(self, x: Tensor) -> Tensor:
        """|x|."""
        return x.abs()

    def mean_square(self, v: Tensor, rows: Rows) -> Tensor:
        """Over the existing elements of each sample."""
        return rows.mean(v.square())


@dataclass(frozen=True, kw_only=True)
class Curved(Space):
    """Points of a manifold. Errors are relative to its unit of length (a radian)."""

    manifold: Manifold

    def move(self, x: Tensor, theta: Tensor) -> Tensor:
        """The manifold's exponential map."""
        return self.manifold.exp(x, theta)

    def chart_velocity(self, theta: Tensor, v: Tensor) -> Tensor:
        """The manifold's."""
        return self.manifold.chart_velocity(theta, v)

    def per_vector(self, values: Tensor, rows: Rows) -> Tensor:
        """[B] -> [N, 1, ...]."""
        return self.manifold.per_vector(values, rows)

    def size(self, x: Tensor) -> Tensor:
        """1."""
        return torch.ones((), dtype=x.dtype, device=x.device)

    def mean_square(self, v: Tensor, rows: Rows) -> Tensor:
        """Over the points of each sample."""
        return self.manifold.mean_square(v, rows)


@dataclass(frozen=True, kw_only=True)
class Control:
    """How exactly to integrate, and how long to try.

    Attributes:
        relative: tolerance of a step's error relative to the state.
        absolute: tolerance of a step's error. The mean square over a leaf of error / (absolute + relative size) is kept
            below 1.
        longest: the longest step, as a part of the whole way: an estimate of the error cannot tell what a step leaps
            over. With the default the error at the end stayed below 7 tolerances on Gaussian data, for tolerances from
            1e-3 to 1e-7, every schedule and 256 samples; without a limit it reached 94.
        attempts: number of steps attempted, kept or not, by every sample: six calls of the field each.
        look_every: after so many attempts, ask the device whether all samples have arrived, and end early if so; None
            never asks. It changes no result, since samples that have arrived stand still.
    """

    relative: float = 1e-4
    absolute: float = 1e-4
    longest: float = 0.125
    attempts: int = 50
    look_every: int | None = None

    def __post_init__(self) -> None:
        if not (self.relative >= 0 and self.absolute > 0):
            raise ValueError(f"expected relative >= 0 and absolute > 0, got {self.relative} and {self.absolute}")
        if not 0 < self.longest <= 1:
            raise ValueError(f"expected longest in (0, 1], got {self.longest}")
        if self.attempts < 1:
            raise ValueError(f"expected at least one attempt, got {self.attempts}")
        if self.look_every is not None and self.look_every < 1:
            raise ValueError(f"expected look_every >= 1 or None, got {self.look_every}")

    def error(self, v: State, before: State, after: State, spaces: Mapping[str, Space], layout: Layout) -> Tensor:
        """The largest leaf's root mean square of v in units of the tolerance: float64 [B]."""
        worst = []
        for leaf, space in spaces.items():
            size = torch.maximum(space.size(before[leaf]), space.size(after[leaf]))
            scaled = v[leaf] / (self.absolute + self.relative * size)
            worst.append(space.mean_square(scaled, layout.rows(leaf)).double())
        return torch.stack(worst).amax(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class Path:
    """Where an integration came to.

    Attributes:
        state: the state of each sample at its `time`.
        time: [B] float64.
        arrived: [B] bool, whether `time` is the end asked for. A sample that has not arrived is not a result.
        kept: [B] int64, steps taken.
        refused: [B] int64, steps attempted and not taken.
    """

    state: State
    time: Tensor
    arrived: Tensor
    kept: Tensor
    refused: Tensor


def integrate(
    field: Field,
    x: State,
    spaces: Mapping[str, Space],
    layout: Layout,
    *,
    start: float,
    end: float,
    control: Control | None = None,
) -> Path:
    """Follow dx/dt = field(x, t) from `start` to `end`, either way in time.

    Args:
        field: the velocity of every leaf, at times float64 [B].
        x: the state at `start`, of the leaves in `spaces`.
        spaces: where each leaf lives.
        layout: who owns which row.
        start: a time.
        end: another.
        control: tolerances.
    """
    control = control or Control()
    longest = control.longest * abs(end - start)
    leaf_device = next(iter(x.values())).device
    t = torch.full((layout.batch,), start, dtype=torch.float64, device=leaf_device)
    goal = torch.full_like(t, end)
    kept = torch.zeros(layout.batch, dtype=torch.int64, device=leaf_device)
    refused = torch.zeros_like(kept)
    velocity = field(x, t)
    step = _first_step(x, velocity, spaces, layout, control) * (1.0 if end > start else -1.0)
    for attempt in range(control.attempts):
        if control.look_every is not None and attempt % control.look_every == 0 and bool((t == goal).all()):
            break
        remaining = goal - t
        step = step.clamp(-longest, longest)
        last = step.abs() >= remaining.abs()
        step = torch.where(last, remaining, step)
        there, velocity_there, error = _attempt(field, x, velocity, spaces, layout, t=t, step=step, goal=goal)
        ratio = control.error(error, x, there, spaces, layout)
        good = ratio <= 1
        x = {leaf: torch.where(layout.rows(leaf).per_row(good), there[leaf], x[leaf]) for leaf in spaces}
        velocity = {
            leaf: torch.where(space.per_vector(good, layout.rows(leaf)), velocity_there[leaf], velocity[leaf])
            for leaf, space in spaces.items()
        }
        moving = remaining != 0
        kept, refused = kept + (good & moving), refused + ~good
        t = torch.where(good, torch.where(last, goal, t + step), t)
        growth = (_SAFETY * ratio.clamp_min(1e-10) ** -0.2).clamp(_SHRINK, _GROW)
        step = step * torch.where(ratio.isfinite(), growth, _SHRINK)
    return Path(state=x, time=t, arrived=t == goal, kept=kept, refused=refused)


def _attempt(
    field: Field,
    x: State,
    velocity: State,
    spaces: Mapping[str, Space],
    layout: Layout,
    *,
    t: Tensor,
    step: Tensor,
    goal: Tensor,
) -> tuple[State, State, State]:
    """One step of the pair: the new state, the velocity there, and the estimate of the error."""
    lengths = {
        leaf: space.per_vector(step, layout.rows(leaf)).to(velocity[leaf].dtype) for leaf, space in spaces.items()
    }
    rates = [velocity]  # of theta, stage by stage
    for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
        theta = {leaf: lengths[leaf] * _combine(weights, rates, leaf) for leaf in spaces}
        x_stage = {leaf: space.move(x[leaf], theta[leaf]) for leaf, space in spaces.items()}
        # The last stage is at the step's end, which may be the goal: rounding must not carry it beyond.
        t_stage = torch.where(step > 0, torch.minimum(t + node * step, goal), torch.maximum(t + node * step, goal))
        velocity = field(x_stage, t_stage)
        rates.append({leaf: space.chart_velocity(theta[leaf], velocity[leaf]) for leaf, space in spaces.items()})
    error = {leaf: lengths[leaf] * _combine(_ERROR, rates, leaf) for leaf in spaces}
    return x_stage, velocity, error


def _combine(weights: tuple[float, ...], rates: list[State], leaf: str) -> Tensor:
    """sum_i weights[i] rates[i]."""
    total = weights[0] * rates[0][leaf]
    for weight, rate in zip(weights[1:], rates[1:], strict=True):
        if weight != 0:
            total = torch.add(total, rate[leaf], alpha=weight)
    return total


def _first_step(x: State, velocity: State, spaces: Mapping[str, Space], layout: Layout, control: Control) -> Tensor:
    """A hundredth of the time in which a leaf would change by its own size, float64 [B] (Hairer et al. 1993, II.4)."""
    size = {leaf: space.size(x[leaf]).expand_as(velocity[leaf]) for leaf, space in spaces.items()}
    here = control.error(size, x, x, spaces, layout)
    rate = control.error(velocity, x, x, spaces, layout)
    return torch.where(rate > 0, 0.01 * here / rate.clamp_min(1e-30), 1e-3).clamp_min(1e-6)
