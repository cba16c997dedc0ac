r"""The nearest field on linear facts and quadratic integrals by the multipliers of the integrals alone.

    min_x 1/2 |x - c|^2   subject to   P x = x,   x = y at some places,   q_j(x) = 1/2 mean x M_j x = e_j

For multipliers l_j the quadratic 1/2 |x - c|^2 + sum_j l_j q_j(x) has the Hessian H = 1 + sum_j l_j M_j, diagonal in
Fourier space as Leray's projection P is, so its least point x(l) under the linear facts costs a few transforms and one
Cholesky factorisation of the entries of P / H between the places. Then dq_j / dl_k = -<M_j x, T M_k x>, T what the
facts leave of P / H, and Newton's method on (q_j / e_j)^(-1/2) - 1, nearly straight in l (Reinsch's trick for the
secular equation), takes a few steps from the multipliers that are right where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from scidiff.constraints.interior import all_rest
from scidiff.fluids.constraints import Conserved

FIRST, STEPS, LAST = 8, 8, 4
CLOSE = 1e-4  # relative, of an integral: the last steps go on from there without new factors
FOUND = 1e-11
KEPT = 0.2  # of the Hessian's least entry, at least, from one step to the next


@dataclass(frozen=True, kw_only=True, eq=False)
class Secular:
    """The search, prepared for one set.

    Attributes:
        shape: (C, H, W).
        free: P on Fourier coefficients [..., C, H, W // 2 + 1].
        multipliers: M_j / HW, alike for all channels: [J, H, W // 2 + 1].
        values: e_j, [J].
        places: of the flattened field, [M].
        seen: y, [M].
    """

    shape: tuple[int, int, int]
    free: Callable[[Tensor], Tensor]
    multipliers: Tensor
    values: Tensor
    places: Tensor
    seen: Tensor

    @classmethod
    def of(
        cls,
        integrals: Sequence[Conserved],
        free: Callable[[Tensor], Tensor],
        places: Tensor,
        seen: Tensor,
    ) -> Secular | None:
        """None where channels have integrals of their own."""
        if any(not bool((q.multiplier == q.multiplier[:1]).all()) for q in integrals):
            return None
        shape = integrals[0].shape
        found = torch.stack([q.multiplier[0] for q in integrals]).to(seen) / prod(shape[1:])
        values = seen.new_tensor([q.value for q in integrals])
        return cls(shape=shape, free=free, multipliers=found, values=values, places=places, seen=seen)

    def nearest(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """From points [N, D] that meet the linear facts: the nearest ones that meet all, and which were found, [N]."""
        start = torch.fft.rfft2(c.unflatten(-1, self.shape), norm="ortho")
        share = self._without_facts(start)
        for _ in range(STEPS):
            point, pulls, amount, slope = self._at(start, share)
            off = amount / self.values - 1
            if all_rest(off.abs().amax(-1) <= CLOSE):
                break
            share = self._moved(share, amount, slope)
        for _ in range(LAST):
            step = prod(self.shape[1:]) * torch.linalg.solve_ex(slope, amount - self.values).result
            point = (
                point
                - (step.to(pulls)[:, None] @ pulls.flatten(2)).unflatten(2, self.shape[:2] + pulls.shape[-1:])[:, 0]
            )
            amount = self._amounts(point)
        held = ((amount / self.values - 1).abs() <= FOUND).all(-1) & (self._hessian(share) > 0).flatten(1).all(-1)
        return torch.fft.irfft2(point, s=self.shape[1:], norm="ortho").flatten(1), held

    def _hessian(self, share: Tensor) -> Tensor:
        """H, [N, H, W // 2 + 1]."""
        return 1 + prod(self.shape[1:]) * torch.einsum("nj,jhw->nhw", share, self.multipliers)

    def _twice(self) -> Tensor:
        """How many waves each coefficient stands for, [W // 2 + 1]."""
        twice = torch.full_like(self.multipliers[0, 0], 2)
        twice[0] = 1
        if self.shape[2] % 2 == 0:
            twice[-1] = 1
        return twice

    def _amounts(self, point: Tensor) -> Tensor:
        """q_j of coefficients: [N, J]."""
        return torch.einsum("nhw,jhw->nj", self._power(point), self.multipliers) / 2

    def _power(self, point: Tensor) -> Tensor:
        return torch.view_as_real(point).square().sum((1, -1)) * self._twice()

    def _without_facts(self, start: Tensor) -> Tensor:
        """The multipliers where nothing was measured: sums over waves alone."""
        power, size = self._power(start), prod(self.shape[1:])
        share = power.new_zeros(len(start), len(self.values))
        for _ in range(FIRST):
            hessian = self._hessian(share)
            left = power / hessian.square()
            amount = torch.einsum("nhw,jhw->nj", left, self.multipliers) / 2
            slope = size * torch.einsum("nhw,jhw,khw->njk", left / hessian, self.multipliers, self.multipliers)
            share = self._moved(share, amount, slope)
        return share

    def _moved(self, share: Tensor, amount: Tensor, slope: Tensor) -> Tensor:
        """A step of Newton's, as far as the Hessian stays positive; slope is -dq_j / dl_k."""
        root = (amount / self.values).clamp_min(1e-300).rsqrt()
        matrix = root[..., None] ** 3 * slope / (2 * self.values[:, None])
        step = torch.linalg.solve_ex(matrix, 1 - root).result
        step = torch.where(step.isfinite(), step, 0)
        shrink = ((self._hessian(step) - 1) / self._hessian(share)).flatten(1).amin(1)
        return share + step * ((1 - KEPT) / (-shrink).clamp_min(1 - KEPT))[:, None]

    @cached_property
    def _between(self) -> tuple[Tensor, Tensor]:
        """P between channels [C, C, H, W // 2 + 1], and where its entries between places lie, [M, M]."""
        channels, height, width = self.shape
        ones = torch.eye(channels, dtype=torch.complex128, device=self.seen.device)[:, :, None, None]
        symbol = self.free(ones.expand(channels, channels, height, width // 2 + 1))
        c, y, x = self.places // (height * width), self.places // width % height, self.places % width
        away = [(n[None] - n[:, None]) % size for n, size in ((y, height), (x, width))]
        return symbol, ((c[:, None] * channels + c) * height + away[0]) * width + away[1]

    def _at(self, start: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x(l), T M_j x(l) / HW, q_j and -dq_j / dl_k, coefficients [N, (J,) C, H, W // 2 + 1]."""
        hessian = self._hessian(share)[:, None]
        point, size = start / hessian, prod(self.shape[1:])
        if len(self.places):
            symbol, index = self._between
            table = torch.fft.irfft2(symbol / hessian[:, None], s=self.shape[1:])
            factor = torch.linalg.cholesky_ex(table.flatten(1)[:, index]).L
            point = point + self._lifted(torch.cholesky_solve(self._missing(point), factor)[..., 0], hessian)
        pulls = self.multipliers[:, None] * point[:, None]
        moves = pulls / hessian[:, None]
        if len(self.places):
            back = torch.cholesky_solve(self._seen(moves).mT, factor).mT
            moves = moves - self._lifted(back, hessian[:, None])
        twice = torch.view_as_real(moves) * self._twice()[:, None]
        slope = torch.view_as_real(pulls).flatten(2) @ twice.flatten(2).mT
        return point, moves, self._amounts(point), size * slope

    def _missing(self, point: Tensor) -> Tensor:
        """What is to be added at the places, [N, M, 1]."""
        return (self.seen - self._seen(point))[..., None]

    def _seen(self, point: Tensor) -> Tensor:
        """Coefficients [..., C, H, W // 2 + 1] at the places: [..., M]."""
        return torch.fft.irfft2(point, s=self.shape[1:], norm="ortho").flatten(-3)[..., self.places]

    def _lifted(self, weight: Tensor, hessian: Tensor) -> Tensor:
        """P / H of weights [..., M] at the places: coefficients."""
        field = weight.new_zeros(*weight.shape[:-1], prod(self.shape)).index_copy(-1, self.places, weight)
        return self.free(torch.fft.rfft2(field.unflatten(-1, self.shape), norm="ortho")) / hessian
