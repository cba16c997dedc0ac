r"""The nearest point of a smooth set, by sequential quadratic programming.

    min_x 1/2 (x - c)^T S^-1 (x - c)    subject to    h(x) = 0,  g(x) <= 0

In u with x = c + R u, R R^T = S, the objective is 1/2 |u|^2, and a variance of 0 needs no inverse. Each step solves

    min_d 1/2 d^T W d + u^T d    subject to    h + J_h d = 0,  g + J_g d <= 0

where W = 1 + sum_m lambda_m h_m'' + sum_k mu_k g_k'' is the Hessian of the Lagrangian, with the multipliers of least
squares, made positive definite where that does not change the step on the surface (a multiple of the projector onto the
constraints' gradients) and else by raising its eigenvalues. The merit 1/2 |u|^2 + sum nu |h| + sum nu max(g, 0) decides
how much of a step is taken, after a correction for the curvature of the constraints (Nocedal and Wright, "Numerical
Optimization", 2006, ch. 18). Near the answer the whole step is, and the error is squared each time.

Constraints are measured in units of their gradient at the point, so that their own units do not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING
from scidiff.constraints.interior import all_rest, quadratic_program
from scidiff.constraints.smooth import Functions, curvature, linearise

STEPS = 24  # most problems take 4 to 10
APPROACH = 5  # Gauss-Newton steps before
POLISH = 4  # Newton steps on the faces found active; the error is squared in each
PROGRAM_STEPS = 12  # of the interior-point method; the active constraints it finds are then solved as equalities
GROWTH = 1e4  # a point farther away than this many times the start has run off
RELAX = 1e-9  # how much a linearised constraint gives way for each unit of its multiplier
FLATTEST = 0.01  # eigenvalue of W up to which the surface's own curvature is trusted
FAR = 1e6  # constraints are not seen beyond this many times the distance to go
SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)  # of a step, the first that does
CLOSE = 1e-10  # of the distance: what counts as none of it
RANK = 1e-12  # singular values of J J^T, of the greatest, that count as none


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What a projection came to, row by row.

    Attributes:
        x: [N, D] the nearest points found; the very rows that came in, where it tripped.
        steps: [N] int64, how many steps were taken.
        error: [N] how far the answer is from the conditions of Karush, Kuhn and Tucker, in units of the distance: the
            part of the gradient that no constraint holds up, and what is left of the constraints.
        tripped: [N] bool, whether no point of the set was found: the linearised constraints lost their rank or
            contradict each other, the point ran off, or the steps ran out.
    """

    x: Tensor
    steps: Tensor
    error: Tensor
    tripped: Tensor


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """M equalities, then K inequalities.

    Attributes:
        functions: their values, [N, D] -> [N, M + K].
        equalities: M.
        c: the centre, [N, D].
        root: R, [D, D].
    """

    functions: Functions
    equalities: int
    c: Tensor
    root: Tensor

    def equal(self, value: Tensor) -> Tensor:
        """[M + K] bool, which are equalities."""
        return torch.arange(value.shape[-1], device=value.device) < self.equalities

    def at(self, u: Tensor) -> Tensor:
        return self.c.repeat(len(u) // len(self.c), 1) + u @ self.root.T

    def linearise(self, x: Tensor) -> _Linear:
        value, gradient = linearise(self.functions, x)
        gradient = gradient @ self.root
        whole = value.isfinite() & gradient.isfinite().all(-1)
        value, gradient = torch.where(whole, value, 0), torch.where(whole[:, :, None], gradient, 0)
        unit = torch.linalg.vector_norm(gradient, dim=-1)
        unit = torch.where(unit > 0, unit, 1)
        return _Linear(value=value / unit, gradient=gradient / unit[:, :, None], unit=unit)

    def off(self, value: Tensor) -> Tensor:
        """How far each constraint is from holding, >= 0."""
        return torch.where(self.equal(value), value.abs(), value.clamp_min(0))

    def hessian(self, u: Tensor, linear: _Linear, pull: Tensor) -> Tensor:
        """W of the Lagrangian, [N, D, D], before it is made positive definite."""
        bend = self.root.T @ curvature(self.functions, self.at(u), pull / linear.unit) @ self.root
        bend = torch.where(bend.isfinite().all(-1).all(-1)[:, None, None], bend, 0)
        return torch.eye(u.shape[-1], dtype=u.dtype, device=u.device) + (bend + bend.mT) / 2


@dataclass(frozen=True, kw_only=True)
class _Linear:
    """Values [N, M + K] and gradients [N, M + K, D] in u, of length 1: both in units [N, M + K] of what they were."""

    value: Tensor
    gradient: Tensor
    unit: Tensor

    def of(self, active: Tensor) -> _Linear:
        """The same, 0 for what is not active [N, M + K]."""
        return _Linear(value=self.value * active, gradient=self.gradient * active[:, :, None], unit=self.unit)

    def least(self) -> Tensor:
        """The shortest move to where the linearised constraints are 0: [N, D]."""
        return -_times(self.gradient.mT, _solve(self.gradient @ self.gradient.mT, self.value))

    def pull(self, u: Tensor, equal: Tensor) -> Tensor:
        """The multipliers that hold up most of the gradient u, [N, M + K]; none of an inequality is negative."""
        pull = -_solve(self.gradient @ self.gradient.mT, _times(self.gradient, u))
        return torch.where(equal, pull, pull.clamp_min(0))


@dataclass(frozen=True, kw_only=True)
class _State:
    """One step to the next.

    Attributes:
        u: [N, D].
        active: [N, M + K] which constraints hold with equality.
        reach: [N, 1] how far the first steps went.
        steps: [N].
        price: [N, M + K] of a violation in the merit, in the constraints' own units.
        done, lost: [N, 1] bool, no step is left to take; the point ran off.
    """

    u: Tensor
    active: Tensor
    reach: Tensor
    steps: Tensor
    price: Tensor
    done: Tensor
    lost: Tensor


def nearest_on(
    functions: Functions,
    equalities: int,
    c: Tensor,
    metric: Tensor | None,
    *,
    excess: Callable[[Tensor], tuple[Tensor, Tensor]],
    settle: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Projection:
    """The nearest point, from c; of a set that is not convex, a point that is stationary and usually the nearest.

    Args:
        functions: equalities = 0, then inequalities <= 0, [N, D] -> [N, M + K], twice differentiable.
        equalities: M.
        c: float64 [N, D].
        metric: covariance, [D] or [D, D].
        excess: what decides whether a row holds: its violation and the size of the terms, [N] each.
        settle: mends the last bits of rows that do not hold yet, given them and c.
    """

    def holds(x: Tensor) -> Tensor:
        amount, scale = excess(x)
        return (amount <= ROUNDING * torch.finfo(x.dtype).eps * scale)[:, None] & x.isfinite().all(-1, keepdim=True)

    whole = c.isfinite().all(-1, keepdim=True)
    problem = _Problem(functions=functions, equalities=equalities, c=torch.where(whole, c, 0), root=_root(metric, c))
    value = functions(problem.c)
    no = torch.zeros_like(c[:, :1], dtype=torch.bool)
    state = _State(
        u=torch.zeros_like(c),
        active=problem.equal(value).expand(len(c), -1),
        reach=torch.zeros_like(c[:, :1]),
        steps=torch.zeros_like(c[:, 0], dtype=torch.int64),
        price=torch.zeros_like(value),
        done=holds(problem.c),
        lost=no,
    )
    state = _approach(problem, state)
    for _ in range(STEPS):
        if all_rest(state.done | state.lost):
            break
        state = _advance(problem, state)
    u = state.u
    for _ in range(POLISH):
        u = u + _newton(problem, u, state.active)
    u = torch.where(_error(problem, u, state.active) <= _error(problem, state.u, state.active), u, state.u)
    error = _error(problem, u, state.active)
    x = problem.at(u)
    x = torch.where(holds(x), x, onto_touching(functions, equalities, problem.c, x, metric))
    x = x if settle is None else torch.where(holds(x), x, settle(x, problem.c))
    tripped = ~(holds(x) & whole & ~state.lost)
    return Projection(x=torch.where(tripped, c, x), steps=state.steps, error=error[:, 0], tripped=tripped[:, 0])


def onto_touching(functions: Functions, equalities: int, c: Tensor, x: Tensor, metric: Tensor | None) -> Tensor:
    """The last digits of a nearest point x to c: the shortest way back onto the equalities and the inequalities that
    hold with equality, whatever rounding of a far c is left in x. All [N, D]; arguments as of `nearest_on`."""
    problem = _Problem(functions=functions, equalities=equalities, c=c, root=_root(metric, c))
    inverse = torch.linalg.pinv(problem.root)
    for _ in range(3):
        linear = problem.linearise(x)
        near = -CLOSE * torch.linalg.vector_norm((x - c) @ inverse.T, dim=-1, keepdim=True)
        x = x + linear.of(problem.equal(linear.value) | (linear.value >= near)).least() @ problem.root.T
    return x


def _approach(problem: _Problem, state: _State) -> _State:
    """A start near the set: Gauss-Newton steps onto what is violated, as far as they lessen that."""
    u, reach = state.u, state.reach
    for count in range(APPROACH):
        linear = problem.linearise(problem.at(u))
        step = linear.of(problem.off(linear.value) > 0).least()
        trials = u + torch.tensor(SHARES[:5], dtype=u.dtype, device=u.device)[:, None, None] * torch.where(
            step.isfinite(), step, 0
        )
        values = problem.functions(problem.at(trials.flatten(0, 1))).unflatten(0, trials.shape[:2])
        off = problem.off(values / linear.unit).sum(-1, keepdim=True)
        off = torch.where(off.isnan(), torch.inf, off)
        less = off < problem.off(linear.value).sum(-1, keepdim=True)
        u = _pick(trials, less & (off == off.amin(0)), u)
        far = torch.linalg.vector_norm(step if count == 0 else u, dim=-1, keepdim=True)
        reach = torch.maximum(reach, torch.where(far.isfinite(), far, 0))
    return replace(state, u=torch.where(state.done, state.u, u), reach=reach)


def _advance(problem: _Problem, state: _State) -> _State:
    """One step, of those rows that still move."""
    u = state.u
    linear = problem.linearise(problem.at(u))
    held = linear.of(state.active)
    pull = held.pull(u, problem.equal(held.value))
    inverse, weight, fall = _definite(problem.hessian(u, linear, pull), held.gradient)
    step, force, active = _program(problem, linear, u, inverse, weight)
    rests = ~step.isfinite().all(-1, keepdim=True)
    step = torch.where(rests, 0, step) + _off_the_ridge(u, step, fall)
    asked = 2 * force.abs() / linear.unit
    price = torch.maximum(asked, 0.9 * state.price)
    moved = _search(problem, linear, u, step=step, active=active, price=price)
    way, size = step @ problem.root.T, problem.at(u).abs() + problem.c.abs()
    tiny = way.abs().amax(-1, keepdim=True) <= ROUNDING * torch.finfo(u.dtype).eps * size.amax(-1, keepdim=True)
    lost = state.lost | (torch.linalg.vector_norm(moved, dim=-1, keepdim=True) > GROWTH * state.reach)
    still = state.done | state.lost
    return _State(
        u=torch.where(still | lost, u, moved),
        active=torch.where(still, state.active, active),
        reach=state.reach,
        steps=state.steps + ~still[:, 0],
        price=price,
        done=state.done | tiny | rests,
        lost=lost & ~state.done,
    )


def _program(
    problem: _Problem, linear: _Linear, u: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The step, multipliers, and which constraints are active, of the quadratic program at u."""
    rows = problem.equalities
    if rows == linear.value.shape[1]:
        step, force = _onto(linear, u, inverse)
        return step, force, torch.ones_like(force, dtype=torch.bool)
    value, gradient = linear.value, linear.gradient
    length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    length = length + problem.off(value).amax(-1, keepdim=True)
    length = torch.where(length > 0, length, 1)
    step, pull, push, slack = quadratic_program(
        -_times(inverse, u / length),
        weight,
        equal=gradient[:, :rows],
        target=-(value / length)[:, :rows],
        below=gradient[:, rows:],
        bound=-(value / length)[:, rows:].clamp_max(FAR),
        relax=RELAX,
        steps=PROGRAM_STEPS,
    )
    force = torch.cat([pull, push], 1) * length
    active = torch.cat([torch.ones_like(pull, dtype=torch.bool), push > slack], 1)
    step = step * length
    exact, exact_force = _onto(linear.of(active), u, inverse)
    over = problem.off(value + _times(gradient, exact)).amax(-1, keepdim=True)
    under = torch.where(problem.equal(value), 0, -exact_force).amax(-1, keepdim=True)
    fits = torch.maximum(over, under) <= CLOSE * length
    return torch.where(fits, exact, step), torch.where(fits, exact_force, force), active


def _search(problem: _Problem, linear: _Linear, u: Tensor, *, step: Tensor, active: Tensor, price: Tensor) -> Tensor:
    """How far to go: the first of ever shorter steps that lowers the merit enough; u itself if none does.

    The whole step is tried with a correction first, which moves back to the active constraints.
    """

    def merit(u: Tensor) -> Tensor:
        off = problem.off(problem.functions(problem.at(u)))
        found = u.square().sum(-1, keepdim=True) / 2 + (price.repeat(len(u) // len(price), 1) * off).sum(
            -1, keepdim=True
        )
        return torch.where(found.isfinite(), found, torch.inf)

    bent = problem.functions(problem.at(u + step)) / linear.unit
    back = _Linear(value=torch.where(bent.isfinite(), bent, 0), gradient=linear.gradient, unit=linear.unit)
    start = merit(u)
    slope = (u * step).sum(-1, keepdim=True) - (price * linear.unit * problem.off(linear.value)).sum(-1, keepdim=True)
    slack = 16 * torch.finfo(u.dtype).eps * (start + u.square().sum(-1, keepdim=True))
    shares = torch.tensor([1.0, *SHARES], dtype=u.dtype, device=u.device)[:, None, None]
    trials = u + shares * step
    trials = torch.cat([trials[:1] + back.of(active).least(), trials[1:]])
    tried = merit(trials.flatten(0, 1)).unflatten(0, trials.shape[:2])
    good = tried <= start + 1e-4 * shares * slope.clamp_max(0) + slack
    return _pick(trials, good, u)


def _pick(trials: Tensor, good: Tensor, u: Tensor) -> Tensor:
    """The first good one of trials [T, N, D], good being [T, N, 1]; u [N, D] if none is."""
    first = good.to(torch.uint8).argmax(0, keepdim=True).expand(1, *u.shape)
    return torch.where(good.any(0), trials.gather(0, first)[0], u)


def _newton(problem: _Problem, u: Tensor, active: Tensor) -> Tensor:
    """The step to the nearest point of the active constraints, as equalities."""
    linear = problem.linearise(problem.at(u)).of(active)
    inverse, _, _ = _definite(problem.hessian(u, linear, linear.pull(u, problem.equal(active))), linear.gradient)
    step, _ = _onto(linear, u, inverse)
    return torch.where(step.isfinite().all(-1, keepdim=True), step, 0)


def _onto(linear: _Linear, u: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """argmin_d 1/2 d^T W d + u^T d where the linearised constraints are 0, and their multipliers."""
    toward = linear.gradient @ inverse
    force = _solve(toward @ linear.gradient.mT, linear.value - _times(toward, u))
    return -_times(inverse, u + _times(linear.gradient.mT, force)), force


def _off_the_ridge(u: Tensor, step: Tensor, fall: Tensor) -> Tensor:
    """Where no step is left, but the surface bends down along `fall`: a tenth of the distance that way."""
    far = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    rests = torch.linalg.vector_norm(step, dim=-1, keepdim=True) < 1e-3 * far
    down = torch.where((u * fall).sum(-1, keepdim=True) > 0, -fall, fall)
    return torch.where(rests, 0.1 * far * down, 0)


def _definite(weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of a positive definite matrix that agrees with `weight` on what the gradients leave free, and it.

    Where `weight` bends down there, the objective's own curvature of 1 takes the place of all that is less, and the
    direction in which it does so most is the third to be returned, [N, D]; else 0.
    """
    curved, along = torch.linalg.eigh(weight)
    bend = curved.abs().amax(-1)[:, None, None]
    normal = gradient.mT @ torch.linalg.pinv(gradient @ gradient.mT, hermitian=True, rtol=RANK) @ gradient
    stiff = weight + torch.where(curved[:, :1, None] < FLATTEST, bend + bend**2 / FLATTEST, 0) * normal
    value, axes = torch.linalg.eigh((stiff + stiff.mT) / 2)
    falls = value[:, :1] < FLATTEST
    most = torch.where(value[:, :1] < -FLATTEST, axes[:, :, 0], 0)
    value = torch.where(falls, curved.clamp_min(1), value)[:, None, :]
    axes = torch.where(falls[:, :, None], along, axes)
    return (axes / value) @ axes.mT, (axes * value) @ axes.mT, most


def _error(problem: _Problem, u: Tensor, active: Tensor) -> Tensor:
    """How far u is from the conditions of Karush, Kuhn and Tucker, in units of u: [N, 1]; inf for what is no number."""
    linear = problem.linearise(problem.at(u))
    held = linear.of(active)
    left = torch.linalg.vector_norm(
        u + _times(held.gradient.mT, held.pull(u, problem.equal(active))), dim=-1, keepdim=True
    )
    error = torch.maximum(left, problem.off(linear.value).amax(-1, keepdim=True))
    return torch.where(error.isfinite(), error, torch.inf)


def _root(metric: Tensor | None, c: Tensor) -> Tensor:
    if metric is None:
        return torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    if metric.ndim == 1:
        return torch.diag(metric.sqrt())
    variance, axes = torch.linalg.eigh(metric)
    return axes * variance.clamp_min(0).sqrt()


def _solve(gram: Tensor, value: Tensor) -> Tensor:
    """The least solution for matrices that may have lost rank: [N, M, M], [N, M] -> [N, M]."""
    return _times(torch.linalg.pinv(gram, hermitian=True, rtol=RANK), value)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]
