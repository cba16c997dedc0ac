r"""The nearest field that meets linear facts, curved ones (integrals, equations, entropies) and bounds.

Linear facts have a closed form, `Linear`, which leaves S' free. Curved ones are linearised about the last point
(Gauss-Newton), inequalities are equalities where they are active, and all are solved within S': one unknown for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING
from scidiff.constraints.interior import all_rest
from scidiff.constraints.rounding import worst
from scidiff.fluids.constraints import Bounded, Curved
from scidiff.fluids.linear import RIDGE, Linear
from scidiff.fluids.secular import Secular

STEPS = 24  # most need 3 to 6
SHARES = (1.0, 0.7, 0.5, 0.25, 0.1, 0.03)  # of a step
CLOSE = 1e-13  # of the field: a step that ends the search for a point of the set
NEAR = 1e-7  # and that for the nearest
ROUNDS = 30  # of the active set
ALTERNATIONS = 200
LAGS = (0.0, 0.7, 1.0)  # of the searches that follow one that failed


def onto_equal(equal: Sequence[Curved], linear: Linear, c: Tensor, search: Secular | None = None) -> Tensor:
    """The nearest point to c, which meets the linear facts, that meets the curved equalities too.

    Of the set, which is not convex, a point where the distance is stationary; the end of plain Gauss-Newton where the
    search for that one fails. By the multipliers alone where that can be done, field by field else.
    """
    if search is None:
        return _stationary(equal, linear, c)
    near, done = search.nearest(c)
    near = linear.onto(near)
    if all_rest(done):
        return near
    return near.masked_scatter(~done[:, None], _stationary(equal, linear, c[~done]))


def _stationary(equal: Sequence[Curved], linear: Linear, c: Tensor) -> Tensor:
    near = _gauss_newton(equal, linear, linear.onto(_sequential(equal, linear, c)))
    amount, scale = worst(*(torch.stack(part, 1) for part in zip(*(q.excess(near) for q in equal), strict=True)))
    held = amount <= ROUNDING * torch.finfo(c.dtype).eps * scale
    if all_rest(held):
        return near
    return near.masked_scatter(~held[:, None], _gauss_newton(equal, linear, c[~held]))


def _gauss_newton(equal: Sequence[Curved], linear: Linear, x: Tensor) -> Tensor:
    """From x to the equal by the least moves, each as long as brings them closest."""
    for _ in range(STEPS):
        gradient, off = _linearised(equal, x)
        moves = linear.within(gradient)
        share = _solved(gradient @ moves.mT, off)
        step = -(share[:, None] @ moves)[:, 0]
        ahead = _ahead(equal, x, off, gradient, step)
        x = x + _best(ahead.abs().sum(-1)) * step
        if all_rest(step.abs().amax(-1) <= CLOSE * x.abs().amax(-1)):
            break
    return x


def _sequential(equal: Sequence[Curved], linear: Linear, c: Tensor) -> Tensor:
    """Sequential quadratic programming with the distance for a Hessian, from c; x - c = S' pull throughout.

    The length of a step is what lowers  1/2 |x - c|^2 + sum_j weight_j |q_j - e_j|,  weights above the multipliers.
    """
    x, pull, weight = c, torch.zeros_like(c), c.new_zeros(len(c), len(equal))
    for _ in range(STEPS):
        gradient, off = _linearised(equal, x)
        moves = linear.within(gradient)
        goal = off + (gradient @ (c - x)[..., None])[..., 0]
        share = _solved(gradient @ moves.mT, goal)
        step, turn = c - (share[:, None] @ moves)[:, 0] - x, -(share[:, None] @ gradient)[:, 0] - pull
        weight = torch.maximum(weight, 2 * share.abs())
        a = torch.tensor(SHARES, dtype=x.dtype, device=x.device)
        distance = [
            (u * v).sum(-1, keepdim=True) for u, v in ((pull, x - c), (turn, x - c), (pull, step), (turn, step))
        ]
        far = (distance[0] + a * (distance[1] + distance[2]) + a * a * distance[3]) / 2
        best = _best(far + (weight[:, None] * _ahead(equal, x, off, gradient, step).abs()).sum(-1))
        x, pull = x + best * step, pull + best * turn
        if all_rest(step.abs().amax(-1) <= NEAR * x.abs().amax(-1)):
            break
    return x


def _ahead(curved: Sequence[Curved], x: Tensor, value: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """Curved facts at x after each share of a step: [N, shares, J]."""
    shares, counts = step.new_tensor(SHARES), [part.count for part in curved]
    slope = (gradient @ step[..., None])[..., 0]
    told = zip(curved, value.split(counts, -1), slope.split(counts, -1), strict=True)
    return torch.cat([part.ahead(x, step, shares, off, along) for part, off, along in told], -1)


def _best(merit: Tensor) -> Tensor:
    """The share of the least merit [N, shares]: [N, 1]."""
    return torch.tensor(SHARES, dtype=merit.dtype, device=merit.device)[merit.argmin(-1)][:, None]


def _linearised(curved: Sequence[Curved], x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [N, J, D] and values [N, J] of curved facts."""
    if not curved:
        return x[:, None][:, :0], x[:, :0]
    gradients, values = zip(*(part.linearised(x) for part in curved), strict=True)
    return torch.cat(gradients, 1), torch.cat(values, 1)


def onto_inequalities(bounds: Bounded, curved: Sequence[Curved], linear: Linear, c: Tensor) -> Tensor:
    """The nearest point to c within bounds that meets linear and curved facts, in the Euclidean metric.

    Args:
        bounds: on the entries.
        curved: equalities and inequalities.
        linear: facts, Euclidean.
        c: [N, D], which meets the linear facts.
    """
    search = _ActiveSet(bounds=bounds, curved=curved, linear=linear, c=c)
    x, done = search.run(c, torch.zeros_like(c))
    for lag in LAGS:
        if all_rest(done):
            break
        hard = replace(search, c=c[~done], lag=lag)
        again, held = hard.run(*_alternating(bounds, linear, hard.c))
        x, done = x.masked_scatter(~done[:, None], again), done.masked_scatter(~done, held)
    return x


def _alternating(bounds: Bounded, linear: Linear, c: Tensor) -> tuple[Tensor, Tensor]:
    """About the nearest point within bounds and on linear facts, and the bounds' multipliers: the alternating direction
    method of multipliers, which is slow and does not cycle."""
    low, high = bounds.ends(c)
    z, push = c, torch.zeros_like(c)
    for _ in range(ALTERNATIONS):
        x = linear.onto(c + linear.within(z - push - c) / 2)
        z = torch.minimum(torch.maximum(x + push, low), high)
        push = push + x - z
    return x, push


@dataclass(frozen=True, kw_only=True)
class _ActiveSet:
    """A primal-dual active set: an entry sits on its bound where multiplier + (x - bound) points outward, a curved
    inequality is an equality while its multiplier is positive, and from when it is broken.

    With a lag each step looks for the point nearest to one between c and the last: steps are shorter, which strongly
    curved facts need, and with a lag of 1 what is found meets all but need not be the nearest.
    """

    bounds: Bounded
    curved: Sequence[Curved]
    linear: Linear
    c: Tensor
    lag: float = 0.0

    def run(self, x: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        """From a point and multipliers of bounds [N, D] to the answer, and whether it was found, [N]."""
        low, high = self.bounds.ends(x)
        before, done = torch.full_like(x, 2), x.new_zeros(len(x), dtype=torch.bool)
        equal = self._equal(x)
        on, force = equal.expand(len(x), -1).clone(), x.new_zeros(len(x), len(equal))
        for _ in range(ROUNDS):
            rows = (~done).nonzero()[:, 0]
            here = x[rows]
            side = (push[rows] + (here - high) > 0).to(x) - (push[rows] + (here - low) < 0).to(x)
            stays = equal | torch.where(on[rows], force[rows] > 0, self._broken(here))
            same = (side == before[rows]).all(1) & (stays == on[rows]).all(1)
            before[rows], on[rows] = side, stays
            search = replace(self, c=torch.lerp(self.c[rows], here, self.lag))
            here, push[rows], force[rows] = search._step(here, stays, side, torch.where(side > 0, high, low))
            x, done[rows] = x.index_copy(0, rows, here), self._held(here) & same
            if bool(done.all()):
                break
        return x, done

    def _equal(self, x: Tensor) -> Tensor:
        """Which curved facts are equalities: bool [J]."""
        told = [not part.inequality for part in self.curved for _ in range(part.count)]
        return torch.tensor(told, dtype=torch.bool, device=x.device)

    def _broken(self, x: Tensor) -> Tensor:
        """Which curved facts do not hold, but for rounding: bool [N, J]."""
        if not self.curved:
            return x[:, :0] > 0
        rounding = ROUNDING * torch.finfo(x.dtype).eps
        found = [part.off(part.values(x)) > rounding * part.sizes(x) for part in self.curved]
        return torch.cat(found, 1)

    def _held(self, x: Tensor) -> Tensor:
        """Whether bounds and curved facts hold but for rounding: bool [N]."""
        parts = [part.excess(x) for part in (self.bounds, *self.curved)]
        amount, scale = worst(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))
        return amount <= ROUNDING * torch.finfo(x.dtype).eps * scale

    def _step(self, x: Tensor, on: Tensor, side: Tensor, bound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest point on what is active, linearised; the multipliers of bounds and of curved facts."""
        at, sits = _places(side)
        gradient, off = _linearised(self.curved, x)
        gradient, off = gradient * on[:, :, None], off * on
        moves, count = self.linear.within(gradient), gradient.shape[1]
        goal = off + (gradient @ (self.c - x)[..., None])[..., 0]
        matrix, moved, push = self._matrix(gradient, moves, at, sits), self.c, torch.zeros_like(x)
        force = torch.zeros_like(goal)
        for last in (False, True):  # which makes up for rounding
            over = torch.where(sits, (moved - bound).gather(1, at), 0)
            share = _solved(matrix, torch.cat([goal, over], 1))
            more = torch.where(sits, share[:, count:], 0)
            moved = moved - (share[:, None, :count] @ moves)[:, 0] - self.linear.within_entries(at, more)
            push, force = push.scatter_add(1, at, more), force + share[:, :count]
            if not last:
                goal = _linearised(self.curved, moved)[1] * on
        return self.linear.closer(moved), push, force

    def _matrix(self, gradient: Tensor, moves: Tensor, at: Tensor, sits: Tensor) -> Tensor:
        """S' between gradients and active entries: [N, J + K, J + K]."""
        both = sits[:, :, None] & sits[:, None, :]
        corner = torch.where(both, self.linear.entries(at), torch.diag_embed((~sits).to(moves)))
        cross = torch.where(sits[:, None], moves.gather(2, at[:, None].expand(-1, moves.shape[1], -1)), 0)
        return torch.cat([torch.cat([gradient @ moves.mT, cross], 2), torch.cat([cross.mT, corner], 2)], 1)


def _places(side: Tensor) -> tuple[Tensor, Tensor]:
    """The entries that sit on bounds, as many for every field: places [N, K], and which of them do."""
    most = max(int((side != 0).sum(1).max()), 1)
    found, at = side.abs().topk(most, 1)
    return at, found > 0


def _solved(matrix: Tensor, goal: Tensor) -> Tensor:
    """[N, A, A] times the answer is goal [N, A]; a ridge keeps dependent rows apart, more passes make up for it."""
    diagonal = matrix.diagonal(dim1=1, dim2=2).abs()
    most = diagonal.amax(1, keepdim=True) if matrix.shape[1] else diagonal
    factor, pivots, _ = torch.linalg.lu_factor_ex(matrix + torch.diag_embed(RIDGE * (diagonal + most)))
    share = torch.linalg.lu_solve(factor, pivots, goal[..., None])
    for _ in range(2):
        share = share + torch.linalg.lu_solve(factor, pivots, goal[..., None] - matrix @ share)
    return share[..., 0]
