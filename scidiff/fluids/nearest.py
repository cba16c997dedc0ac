r"""The nearest field that meets linear facts, quadratic integrals and bounds.

Linear facts have a closed form, `Linear`, which leaves S' free. Integrals are linearised about the last point
(Gauss-Newton), bounds are equalities where they are active, and both are solved within S': few unknowns a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.constraints.base import ROUNDING
from scidiff.constraints.interior import all_rest
from scidiff.constraints.rounding import worst
from scidiff.fluids.constraints import Bounded, Conserved
from scidiff.fluids.linear import RIDGE, Linear
from scidiff.fluids.secular import Secular

STEPS = 24  # most need 3 to 6
SHARES = (1.0, 0.7, 0.5, 0.25, 0.1, 0.03)  # of a step
CLOSE = 1e-13  # of the field: a step that ends the search for a point of the set
NEAR = 1e-7  # and that for the nearest
ROUNDS = 30  # of the active set
ALTERNATIONS = 200


def onto_integrals(integrals: Sequence[Conserved], linear: Linear, c: Tensor, search: Secular | None = None) -> Tensor:
    """The nearest point to c, which meets the linear facts, that meets the integrals too.

    Of the set, which is not convex, a point where the distance is stationary; the end of plain Gauss-Newton where the
    search for that one fails. By the multipliers alone where that can be done, field by field else.
    """
    if search is None:
        return _stationary(integrals, linear, c)
    near, done = search.nearest(c)
    near = linear.onto(near)
    if all_rest(done):
        return near
    return near.masked_scatter(~done[:, None], _stationary(integrals, linear, c[~done]))


def _stationary(integrals: Sequence[Conserved], linear: Linear, c: Tensor) -> Tensor:
    near = _gauss_newton(integrals, linear, linear.onto(_sequential(integrals, linear, c)))
    amount, scale = worst(*(torch.stack(part, 1) for part in zip(*(q.excess(near) for q in integrals), strict=True)))
    held = amount <= ROUNDING * torch.finfo(c.dtype).eps * scale
    if all_rest(held):
        return near
    return near.masked_scatter(~held[:, None], _gauss_newton(integrals, linear, c[~held]))


def _gauss_newton(integrals: Sequence[Conserved], linear: Linear, x: Tensor) -> Tensor:
    """From x to the integrals by the least moves, each as long as brings them closest."""
    for _ in range(STEPS):
        gradient, off = _linearised(integrals, x)
        moves = linear.within(gradient)
        share = torch.linalg.solve_ex(gradient @ moves.mT, off).result
        step = -(share[:, None] @ moves)[:, 0]
        ahead = _ahead(integrals, off, gradient, step)
        x = x + _best(ahead.abs().sum(-1)) * step
        if all_rest(step.abs().amax(-1) <= CLOSE * x.abs().amax(-1)):
            break
    return x


def _sequential(integrals: Sequence[Conserved], linear: Linear, c: Tensor) -> Tensor:
    """Sequential quadratic programming with the distance for a Hessian, from c; x - c = S' pull throughout.

    The length of a step is what lowers  1/2 |x - c|^2 + sum_j weight_j |q_j - e_j|,  weights above the multipliers.
    """
    x, pull, weight = c, torch.zeros_like(c), c.new_zeros(len(c), len(integrals))
    for _ in range(STEPS):
        gradient, off = _linearised(integrals, x)
        moves = linear.within(gradient)
        goal = off + (gradient @ (c - x)[..., None])[..., 0]
        share = torch.linalg.solve_ex(gradient @ moves.mT, goal).result
        step, turn = c - (share[:, None] @ moves)[:, 0] - x, -(share[:, None] @ gradient)[:, 0] - pull
        weight = torch.maximum(weight, 2 * share.abs())
        a = torch.tensor(SHARES, dtype=x.dtype, device=x.device)
        distance = [
            (u * v).sum(-1, keepdim=True) for u, v in ((pull, x - c), (turn, x - c), (pull, step), (turn, step))
        ]
        far = (distance[0] + a * (distance[1] + distance[2]) + a * a * distance[3]) / 2
        best = _best(far + (weight[:, None] * _ahead(integrals, off, gradient, step).abs()).sum(-1))
        x, pull = x + best * step, pull + best * turn
        if all_rest(step.abs().amax(-1) <= NEAR * x.abs().amax(-1)):
            break
    return x


def _ahead(integrals: Sequence[Conserved], off: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """The integrals less what they are to be after each share of a step, exactly: [N, shares, J]."""
    a = torch.tensor(SHARES, dtype=step.dtype, device=step.device)[:, None]
    slope = (gradient @ step[..., None])[..., 0][:, None]
    bend = torch.stack([(step * q.gradient(step)).sum(-1) for q in integrals], -1)[:, None]
    return off[:, None] + a * slope + a * a * bend / 2


def _best(merit: Tensor) -> Tensor:
    """The share of the least merit [N, shares]: [N, 1]."""
    return torch.tensor(SHARES, dtype=merit.dtype, device=merit.device)[merit.argmin(-1)][:, None]


def _linearised(integrals: Sequence[Conserved], x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients [N, J, D] and values [N, J] of integrals less what they are to be."""
    if not integrals:
        return x[:, None][:, :0], x[:, :0]
    gradient = torch.stack([q.gradient(x) for q in integrals], 1)
    return gradient, (gradient @ x[..., None])[..., 0] / 2 - x.new_tensor([q.value for q in integrals])


def onto_bounds(bounds: Bounded, integrals: Sequence[Conserved], linear: Linear, c: Tensor) -> Tensor:
    """The nearest point to c within bounds that meets linear facts and integrals, in the Euclidean metric.

    Args:
        bounds: on the entries.
        integrals: quadratic.
        linear: facts, Euclidean.
        c: [N, D], which meets the linear facts.
    """
    search = _ActiveSet(bounds=bounds, integrals=integrals, linear=linear, c=c)
    x, done = search.run(c, torch.zeros_like(c))
    if all_rest(done):
        return x
    hard = replace(search, c=c[~done])
    again, _ = hard.run(*_alternating(bounds, linear, hard.c))
    return x.masked_scatter(~done[:, None], again)


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
    """A primal-dual active set: an entry sits on its bound where multiplier + (x - bound) points outward."""

    bounds: Bounded
    integrals: Sequence[Conserved]
    linear: Linear
    c: Tensor

    def run(self, x: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        """From a point and multipliers [N, D] to the answer, and whether it was found, [N]."""
        low, high = self.bounds.ends(x)
        before, done = torch.full_like(x, 2), x.new_zeros(len(x), dtype=torch.bool)
        for _ in range(ROUNDS):
            rows = (~done).nonzero()[:, 0]
            here = x[rows]
            side = (push[rows] + (here - high) > 0).to(x) - (push[rows] + (here - low) < 0).to(x)
            search = replace(self, c=self.c[rows])
            here, push[rows] = search._step(here, side, torch.where(side > 0, high, low))
            x, done[rows] = x.index_copy(0, rows, here), self._held(here) & (side == before[rows]).all(1)
            before[rows] = side
            if bool(done.all()):
                break
        return x, done

    def _held(self, x: Tensor) -> Tensor:
        """Whether bounds and integrals hold but for rounding: bool [N]."""
        parts = [part.excess(x) for part in (self.bounds, *self.integrals)]
        amount, scale = worst(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))
        return amount <= ROUNDING * torch.finfo(x.dtype).eps * scale

    def _step(self, x: Tensor, side: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest point on the bounds that are active and the linearised integrals; the bounds' multipliers."""
        at, sits = _places(side)
        gradient, off = _linearised(self.integrals, x)
        moves, count = self.linear.within(gradient), len(self.integrals)
        goal = off + (gradient @ (self.c - x)[..., None])[..., 0]
        matrix, moved, push = self._matrix(gradient, moves, at, sits), self.c, torch.zeros_like(x)
        for _ in range(2):  # the second makes up for rounding
            over = torch.where(sits, (moved - bound).gather(1, at), 0)
            share = _solved(matrix, torch.cat([goal, over], 1))
            more = torch.zeros_like(x).scatter_add(1, at, torch.where(sits, share[:, count:], 0))
            moved = moved - (share[:, None, :count] @ moves)[:, 0] - self.linear.within(more)
            moved, push = self.linear.onto(moved), push + more
            _, goal = _linearised(self.integrals, moved)
        return moved, push

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
    factor, pivots, _ = torch.linalg.lu_factor_ex(
        matrix + torch.diag_embed(RIDGE * (diagonal + diagonal.amax(1)[:, None]))
    )
    share = torch.linalg.lu_solve(factor, pivots, goal[..., None])
    for _ in range(2):
        share = share + torch.linalg.lu_solve(factor, pivots, goal[..., None] - matrix @ share)
    return share[..., 0]
