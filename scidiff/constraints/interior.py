r"""A primal-dual interior-point method for convex quadratic programs, batched and of a fixed number of steps.

    min_x 1/2 (x - c)^T W (x - c)    subject to    A x = b,  G x <= h

Source: Mehrotra's predictor-corrector steps, as in Nocedal and Wright, "Numerical Optimization", 2006, sec. 16.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 40  # it takes 10 to 25 to reach rounding


def quadratic_program(
    c: Tensor,
    weight: Tensor,
    *,
    equal: Tensor,
    target: Tensor,
    below: Tensor,
    bound: Tensor,
    relax: float = 0.0,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The iteration, each program on its own; those that are solved rest.

    Args:
        c: [N, D] float64, where the iteration starts, too.
        weight: W, positive definite, [N, D, D] or [1, D, D] for all.
        equal, target: A and b, [N or 1, M, D] and [N or 1, M].
        below, bound: G and h, [N or 1, K, D] and [N or 1, K], K > 0.
        relax: 0, or how much a constraint may give way for each unit of its multiplier; programs that contradict
            themselves then have an answer, too.
        steps: of the iteration.

    Returns:
        x: [N, D].
        pull: multipliers of the equalities, [N, M].
        multiplier, slack: of the inequalities, [N, K] > 0; those whose multiplier is the greater are active.
    """
    batch, rows, faces = len(c), equal.shape[1], below.shape[1]
    equal, below = equal.expand(batch, -1, -1), below.expand(batch, -1, -1)
    x, y = c.clone(), c.new_zeros(batch, rows)
    scale = 1 + (_times(below, x) - bound).abs().amax(-1, keepdim=True)
    z, s = scale.expand(batch, faces).clone(), scale.expand(batch, faces).clone()
    corner = -relax * torch.eye(rows, dtype=c.dtype, device=c.device).expand(batch, -1, -1)
    program = _Program(
        c=c, weight=weight, equal=equal, target=target, below=below, bound=bound, relax=relax, corner=corner
    )
    for _ in range(steps):
        mean = (s * z).mean(-1, keepdim=True)
        move = program.newton(x, y, z, s)
        _, _, ds, dz = move(s * z)
        affine = ((s + _length(s, ds) * ds) * (z + _length(z, dz) * dz)).mean(-1, keepdim=True)
        aim = (affine / mean.clamp_min(1e-300)) ** 3 * mean
        dx, dy, ds, dz = move(s * z + ds * dz - aim)
        step = 0.995 * torch.minimum(_length(s, ds), _length(z, dz))
        done = (mean < 1e-15 * scale) | ~torch.isfinite(dx).all(-1, keepdim=True)
        if all_rest(done):
            break
        step = torch.where(done, 0, step)
        x, y = x + step * torch.nan_to_num(dx), y + step * torch.nan_to_num(dy)
        s = (s + step * torch.nan_to_num(ds)).clamp_min(1e-150)
        z = (z + step * torch.nan_to_num(dz)).clamp_min(1e-150)
    return x, y, z, s


@dataclass(frozen=True, kw_only=True)
class _Program:
    """A batch of programs. Where one is solved, with s the slack of its inequalities, y and z the multipliers,

    W (x - c) + A^T y + G^T z = 0,   A x = b + relax y,   G x + s = h + relax z,   s z = 0
    """

    c: Tensor
    weight: Tensor
    equal: Tensor
    target: Tensor
    below: Tensor
    bound: Tensor
    relax: float
    corner: Tensor  # -relax on the diagonal

    def newton(self, x: Tensor, y: Tensor, z: Tensor, s: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """Newton's steps (dx, dy, ds, dz) from a point, as a function of how far s z is to fall, [N, K].

        The matrix is factored once for the two steps of an iteration.
        """
        equal, below, relax = self.equal, self.below, self.relax
        dual = _times(self.weight, x - self.c) + _times(equal.mT, y) + _times(below.mT, z)
        primal, inside = _times(equal, x) - self.target - relax * y, _times(below, x) + s - self.bound - relax * z
        soft = s + relax * z
        block = self.weight + below.mT @ ((z / soft)[:, :, None] * below)
        matrix = torch.cat([torch.cat([block, equal.mT], 2), torch.cat([equal, self.corner], 2)], 1)
        # a matrix that is singular to rounding gives infinities, and the row stays where it is
        factor = torch.linalg.lu_factor_ex(matrix)[:2]

        def move(fall: Tensor) -> tuple[Tensor, ...]:
            top = -dual - _times(below.mT, (z * inside - fall) / soft)
            step = torch.linalg.lu_solve(*factor, torch.cat([top, -primal], 1)[:, :, None])[:, :, 0]
            dx, dy = step[:, : x.shape[1]], step[:, x.shape[1] :]
            dz = (z * (inside + _times(below, dx)) - fall) / soft
            return dx, dy, -inside - _times(below, dx) + relax * dz, dz

        return move


def all_rest(done: Tensor) -> bool:
    """Whether no row moves any more. Only asked where the answer is at hand: on accelerators, and for compilers, the
    iteration goes on to its fixed end, and rows that rest stay bit for bit."""
    return done.device.type == "cpu" and not torch.compiler.is_compiling() and bool(done.all())


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """[N, A, D] times [N, D]: [N, A]."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def _length(value: Tensor, change: Tensor) -> Tensor:
    """The longest step in [0, 1] that keeps value + step * change >= 0: [N, 1]."""
    limit = torch.where(change < 0, -value / change, torch.inf)
    return limit.amin(-1, keepdim=True).clamp_max(1.0)
