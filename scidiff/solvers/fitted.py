r"""Solvers fitted to a denoiser: whatever a plan depends on is chosen so that few calls end where many do.

A family gives a plan for every vector of numbers; `fit` finds the vector whose plan ends closest to a fine solution of
the probability flow from the same starts. `fit_grid` does so for the grid of any solver, `fit_plan` for the grid and
the coefficients of the family `Fitted`. The results are an ordinary grid and an ordinary plan.

With errors e_b of the starts b of a problem, root mean squares over elements, what is minimised is the mean over
problems of 2 log(mean_b sqrt(e_b)): a power below one, so that the few starts near a watershed, which end in another
mode by any small error, do not decide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.schedules import Schedule
from scidiff.solvers.adaptive import Control
from scidiff.solvers.check import Solver
from scidiff.solvers.flow import sample_adaptively
from scidiff.solvers.levels import Level, first_order, levels, levels_at
from scidiff.solvers.plan import Linear, Plan, Tape
from scidiff.state import Layout

Family = Callable[[np.ndarray], Plan]
REACH = 3.0
"""How far `fit` looks from where it begins, in every entry."""

TOLERANCE = 1e-5
"""An error that is as good as none."""

FINE = Control(relative=1e-6, absolute=1e-6, attempts=600, look_every=20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Starts of the probability flow and where it takes them. Build it with `solve`.

    Attributes:
        denoiser: gives the clean estimates; differentiable in state and time.
        process: of the leaf, the only one of the state.
        layout: who owns which row.
        leaf: its name.
        start: the states at t = 1, [N, *shape].
        end: the states at t = 0 to the tolerance of `solve`, [N, *shape].
        parts: the batch is this many problems of equal size, one after the other.
    """

    denoiser: Denoiser
    process: GaussianProcess
    layout: Layout
    leaf: str
    start: Tensor
    end: Tensor
    parts: int = 1

    @classmethod
    def solve(
        cls,
        denoiser: Denoiser,
        process: GaussianProcess,
        layout: Layout,
        noise: Noise,
        *,
        leaf: str = "x",
        parts: int = 1,
        last: float = 1e-5,
        control: Control = FINE,
    ) -> Problem:
        """The problem of the prior's samples.

        Args:
            denoiser, process, layout, leaf, parts: see `Problem`.
            noise: the prior's.
            last: the time at which the flow ends and the clean estimate is taken.
            control: tolerances of the flow.

        Raises:
            ArithmeticError: some samples did not arrive within the attempts of `control`.
        """
        if layout.batch % parts:
            raise ValueError(f"expected a batch of {parts} equal parts, got {layout.batch} samples")
        rows = layout.rows(leaf)
        start = process.prior(rows, noise.at(leaf, 0, rows))
        path = sample_adaptively(
            denoiser, {leaf: process}, layout, noise, end=last, control=control, initial={leaf: start}
        )
        if not bool(path.arrived.all()):
            raise ArithmeticError(
                f"expected all samples to arrive within {control.attempts} steps, {int((~path.arrived).sum())} did not"
            )
        return cls(
            denoiser=denoiser,
            process=process,
            layout=layout,
            leaf=leaf,
            start=start,
            end=path.state[leaf],
            parts=parts,
        )

    def run(self, plan: Plan, times: Tensor, coefficients: Tensor) -> Tensor:
        """Where a plan takes the starts, [N, *shape]: the loop of `scidiff.sampling` with numbers to differentiate by.

        Args:
            plan: says which terms there are.
            times: [calls] of the calls.
            coefficients: one for each term, row after row.
        """
        series: dict[str, list[Tensor]] = {"x": [self.start], "clean": []}
        numbers = iter(coefficients.to(self.start.dtype).unbind())
        for time, row in zip(times.unbind(), plan.rows, strict=True):
            t = time.expand(self.layout.batch)
            clean = self.denoiser({self.leaf: series["x"][-1]}, t, self.layout)
            series["clean"].append(clean[self.leaf])
            terms = [next(numbers) * series[atom.kind][atom.number] for atom, _ in row]
            series["x"].append(torch.stack(terms).sum(0))
        return series["x"][-1]

    def errors(self, end: Tensor) -> Tensor:
        """Root mean square over the elements of each sample, with `TOLERANCE` besides: [B]."""
        return (self.layout.rows(self.leaf).mean((end - self.end).square()) + TOLERANCE**2).sqrt()

    def loss(self, end: Tensor) -> Tensor:
        """The sum over the parts of what is minimised."""
        return 2 * self.errors(end).sqrt().reshape(self.parts, -1).mean(-1).log().sum()


def fit(family: Family, begin: np.ndarray, problems: Sequence[Problem], *, iterations: int = 60) -> np.ndarray:
    """The vector whose plan has the smallest errors, by L-BFGS from `begin`.

    Derivatives are exact through the denoiser, and finite differences of the plan's table on the host.

    Args:
        family: makes a plan without noise from a vector.
        begin: where to begin; no entry moves by more than `REACH`.
        problems: what is fitted to.
        iterations: of L-BFGS, at most.
    """
    from scipy.optimize import minimize

    total = sum(problem.parts for problem in problems)

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        plan = family(vector)
        numbers = _numbers(plan, plan)
        leaves = [torch.tensor(part, requires_grad=True) for part in (numbers[: plan.calls], numbers[plan.calls :])]
        losses = torch.stack([problem.loss(problem.run(plan, *leaves)) for problem in problems])
        value = losses.sum() / total
        gradient = torch.cat(torch.autograd.grad(value, leaves)).numpy()
        if not (math.isfinite(float(value.detach())) and np.isfinite(gradient).all()):
            return 1e3, np.zeros_like(vector)  # the line search turns back
        return float(value.detach()), _jacobian(family, vector, plan).T @ gradient

    bounds = [(entry - REACH, entry + REACH) for entry in begin]
    found = minimize(objective, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    return np.asarray(found.x)


def _numbers(plan: Plan, pattern: Plan) -> np.ndarray:
    """The times of a plan's calls, then the coefficients of the terms that `pattern` has."""
    rows = [dict(row) for row in plan.rows]
    terms = [rows[k].get(atom, 0.0) for k, row in enumerate(pattern.rows) for atom, _ in row]
    return np.array([*plan.times[:-1], *terms])


def _jacobian(family: Family, vector: np.ndarray, plan: Plan, step: float = 1e-6) -> np.ndarray:
    """d numbers / d vector, [numbers, entries]."""
    columns = []
    for entry in np.eye(len(vector)):
        there, back = (_numbers(family(vector + sign * step * entry), plan) for sign in (1, -1))
        columns.append((there - back) / (2 * step))
    return np.stack(columns, axis=-1)


# Grids ---------------------------------------------------------------------------------------------------------------


def angle_grid(schedule: Schedule, places: Sequence[float], *, std: float = 1.0) -> Tensor:
    r"""The times at given places between data and noise, float64 [n + 1], with t = 1 and t = 0 at the ends.

    The place of a time is its angle relative to that of t = 1, angle = arctan(sigma_t / (alpha_t std)): the way from
    noise to data on a circle, on which it has a finite length whatever the schedule.

    Args:
        schedule: the process's.
        places: n - 1 numbers falling strictly within (0, 1).
        std: the data's standard deviation.
    """
    (start,) = levels_at(schedule, torch.ones(1, dtype=torch.float64))
    angles = math.atan2(start.sigma, start.alpha * std) * torch.tensor(places, dtype=torch.float64)
    times = schedule.time(-2 * torch.log(std * torch.tan(angles))).detach()
    return torch.cat([times.new_ones(1), times, times.new_zeros(1)])


def _places(logits: np.ndarray) -> list[float]:
    """n - 1 falling places from n numbers: the steps are in the ratios of exp(logits)."""
    steps = np.exp(logits - logits.max())
    return [float(place) for place in (1 - np.cumsum(steps) / steps.sum())[:-1]]


def _logits(places: Sequence[float]) -> np.ndarray:
    """The numbers, zero in the mean, that `_places` takes to these places."""
    found = np.log(-np.diff([1.0, *places, 0.0]))
    return np.asarray(found - found.mean())


def fit_grid(solver: Solver, problem: Problem, grid: Tensor, *, iterations: int = 60) -> Tensor:
    """The grid on which a solver's few calls end where the fine solution does, with as many times as `grid`.

    Args:
        solver: deterministic.
        problem: what is fitted to.
        grid: where to begin, from t = 1 to t = 0.
        iterations: of the optimiser, at most.
    """
    schedule = problem.process.schedule
    found = levels(schedule, grid)
    if found[0].t != 1 or found[-1].t != 0:
        raise ValueError(f"expected a grid from t = 1 to t = 0, got {found[0].t} to {found[-1].t}")
    first = math.atan2(found[0].sigma, found[0].alpha)
    begin = _logits([math.atan2(level.sigma, level.alpha) / first for level in found[1:-1]])
    vector = fit(
        lambda at: solver(schedule, angle_grid(schedule, _places(at))), begin, [problem], iterations=iterations
    )
    return angle_grid(schedule, _places(vector))


# Grids and coefficients ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fitted:
    r"""A fitted solver, for any schedule: DDIM on an extrapolated clean estimate.

        x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) guess,
        guess = clean + slope_k (clean - clean_1) + bend_k (clean_1 - clean_2)

    with the clean estimates of this call, the last and the one before. Any slopes and bends leave it exact for data at
    one point; DPM-Solver++ (2M, 3M), the exponential methods on the clean estimate and UniPC-2 are of this form. The
    first step, which has nothing to extrapolate from, is exact for normal data of the given deviation instead.

    Attributes:
        places: n - 1 places of the calls after the first, see `angle_grid`.
        slopes: n - 1, of the calls after the first.
        bends: n - 2, of the calls after the second (none for n = 1).
    """

    places: tuple[float, ...]
    slopes: tuple[float, ...]
    bends: tuple[float, ...]

    def __post_init__(self) -> None:
        n = self.calls
        if len(self.slopes) != n - 1 or len(self.bends) != max(n - 2, 0):
            raise ValueError(
                f"expected {n - 1} slopes and {max(n - 2, 0)} bends with {n - 1} places, "
                f"got {len(self.slopes)} and {len(self.bends)}"
            )

    @property
    def calls(self) -> int:
        """Number of calls of the denoiser."""
        return len(self.places) + 1

    def plan(self, schedule: Schedule, *, std: float = 1.0) -> Plan:
        """The plan on a schedule, for data whose elements have this standard deviation in the mean."""
        found = levels(schedule, angle_grid(schedule, self.places, std=std))
        tape = Tape()
        x = tape.start
        last = before = None
        for k, (t, s) in enumerate(itertools.pairwise(found)):
            x, clean = tape.denoise(x, t.t)
            guess = clean
            if last is None:
                x = gaussian_step(x, clean, t, s, std=std)
            else:
                guess = guess + self.slopes[k - 1] * (clean - last)
                if before is not None:
                    guess = guess + self.bends[k - 2] * (last - before)
                x = first_order(tape, x, guess, t, s)
            last, before = clean, last
        return tape.plan(x, 0.0)

    def vector(self) -> np.ndarray:
        """All numbers as one vector, for `fit`."""
        return np.concatenate([_logits(self.places), self.slopes, self.bends])

    @classmethod
    def of(cls, vector: np.ndarray) -> Fitted:
        """The inverse of `vector`."""
        n = (len(vector) + 3) // 3
        logits, slopes, bends = np.split(vector, [n, 2 * n - 1])
        return cls(places=tuple(_places(logits)), slopes=tuple(slopes.tolist()), bends=tuple(bends.tolist()))


def gaussian_step(x: Linear, clean: Linear, t: Level, s: Level, *, std: float) -> Linear:
    r"""The step of the probability flow that is exact for data N(mean, std^2), whatever the mean.

    x_s - alpha_s mean = ratio (x_t - alpha_t mean),
    ratio^2 = (alpha_s^2 std^2 + sigma_s^2) / (alpha_t^2 std^2 + sigma_t^2)

    where the clean estimate, mean + gain (x_t - alpha_t mean), tells the mean.
    """
    variance = (t.alpha * std) ** 2 + t.sigma**2
    ratio = math.sqrt(((s.alpha * std) ** 2 + s.sigma**2) / variance)
    gain = t.alpha * std**2 / variance
    mean = (clean - gain * x) / (1 - gain * t.alpha)
    return ratio * x + (s.alpha - t.alpha * ratio) * mean


def fit_plan(problems: Sequence[Problem], begin: Fitted, *, iterations: int = 100) -> Fitted:
    """The fitted solver with as many calls as `begin` whose plans end where the fine solutions do.

    Args:
        problems: what is fitted to, all on one schedule, with data of standard deviation 1 in the mean.
        begin: where to begin, such as `recommended` has.
        iterations: of the optimiser, at most.
    """
    schedule = problems[0].process.schedule
    vector = fit(lambda at: Fitted.of(at).plan(schedule), begin.vector(), problems, iterations=iterations)
    return Fitted.of(vector)
