r"""The covariance of a few fields that belong together, whatever their symmetries: principal axes, and white noise.

Each channel has axes of its own, so that what they leave out, which is taken for white noise, has a variance of its
own; the coordinates along the axes of all channels covary:

    C = B Q diag(v) Q^T B^T + sum_c f_c (1 - B_c B_c^T),     B = blockdiag(B_c) and Q orthogonal.

All that follows from C and white noise is a function of the variances v and f_c: Wiener's filter, and what it leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.fluids.spectral import reciprocal
from scidiff.processes.parametrisations import Parametrisation

Gain = Callable[[Tensor], Tensor]
"""A function of variances, element by element."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Principal:
    """A covariance of fields [N, C, H, W].

    Attributes:
        axes: B_c, an axis a row, [C, E, H W].
        mixing: Q, [C E, C E].
        variance: v, [C E], >= 0; white noise has 1.
        floor: f_c, [C], > 0.
    """

    axes: Tensor
    mixing: Tensor
    variance: Tensor
    floor: Tensor

    @classmethod
    def of(cls, fields: Tensor, count: int) -> Principal:
        """The sample covariance of fields [S, C, H, W] without mean, by `count` axes of each channel.

        The axes are those of some 4,096 of the fields, spread evenly, as float16 keeps them.
        """
        flat = fields.flatten(2)
        few = flat[:: max(len(flat) // 4096, 1)].float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of the search for the axes
            axes = torch.stack([torch.svd_lowrank(part, q=count, niter=2)[2].T for part in few.unbind(1)])
        return cls.of_axes(flat, orthonormal(axes.half()))

    @classmethod
    def of_axes(cls, flat: Tensor, axes: Tensor) -> Principal:
        """The sample covariance of fields [S, C, H W] without mean, by given axes [C, E, H W]."""
        along = torch.cat([torch.einsum("scd,ced->sce", part, axes.to(part)) for part in flat.split(4096)])
        along = along.flatten(1).double()
        variance, mixing = torch.linalg.eigh(along.T @ along / len(flat))
        whole = flat.square().sum((0, 2), dtype=torch.float64) - along.square().sum(0).reshape(len(axes), -1).sum(1)
        floor = whole / len(flat) / max(axes.shape[2] - axes.shape[1], 1)
        least = 1e-9 * float(variance.max())
        return cls(axes=axes, mixing=mixing, variance=variance.clamp_min(0), floor=floor.clamp_min(least))

    def to(self, like: Tensor) -> Principal:
        """The same, on the device of a tensor, in float64."""
        return self._as(like.device, torch.float64)

    def single(self) -> Principal:
        """The same in single precision, for a network's use."""
        return self._as(self.axes.device, torch.float32)

    def _as(self, device: torch.device, dtype: torch.dtype) -> Principal:
        parts = {name: getattr(self, name).to(device, dtype) for name in ("axes", "mixing", "variance", "floor")}
        return replace(self, **parts)

    def scaled(self, x: Tensor, gain: Gain) -> Tensor:
        """The function `gain` of C applied to fields [..., C, H, W], in the precision of the axes.

        The gains may differ among fields: [..., C E] and [..., C], of variances that broadcast against them.
        """
        flat = x.to(self.axes.dtype).flatten(-2)
        along = torch.einsum("...cd,ced->...ce", flat, self.axes)
        joint = along.flatten(-2) @ self.mixing
        moved = ((joint * gain(self.variance)) @ self.mixing.T).unflatten(-1, along.shape[-2:])
        rest = gain(self.floor)[..., None]
        found = rest * flat + torch.einsum("...ce,ced->...cd", moved - rest * along, self.axes)
        return found.reshape(x.shape)

    def spread(self, x: Tensor) -> Tensor:
        """C x for fields x [..., C, H, W]."""
        return self.scaled(x, lambda v: v)

    def root(self, white: Tensor) -> Tensor:
        """C^(1/2) x, fields of covariance C from white noise [..., C, H, W]."""
        return self.scaled(white, torch.sqrt)

    def posterior(self, noise: Tensor) -> Principal:
        """What is left once the fields were seen with white noise of a variance `noise`, a number >= 0; inf: all."""
        noise = torch.as_tensor(noise, dtype=self.variance.dtype, device=self.variance.device)
        left = {name: v / (1 + v / noise) for name, v in (("variance", self.variance), ("floor", self.floor))}
        return replace(self, **left)

    def total(self) -> Tensor:
        """The trace of C over the number of channels: the variance summed over the points of one."""
        return self.mean_of(lambda v: v) * self.axes.shape[2]

    def mean_of(self, gain: Gain) -> Tensor:
        """The mean of `gain` over all dimensions of the fields."""
        channels, count, size = self.axes.shape
        return (gain(self.variance).sum(-1) + (size - count) * gain(self.floor).sum(-1)) / (channels * size)


def orthonormal(axes: Tensor) -> Tensor:
    """The nearest axes [C, E, D] that are orthonormal: float64."""
    rows = axes.double()
    size, turned = torch.linalg.eigh(rows @ rows.mT)
    return (turned * size[:, None].rsqrt()) @ turned.mT @ rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Filtered(Parametrisation):
    r"""Wiener's filter, and a network for the rest, as `scidiff.processes.stationary` has it wave by wave.

        clean = W x_t + g output,   W = alpha_t v / r,   g = sigma_t sqrt(v / r),   r = alpha_t^2 v + sigma_t^2

    The network is given x_t and its filtered estimate, [N, 2 C, H, W]; fields are without mean.

    Attributes:
        covariance: of the data, in single precision.
    """

    covariance: Principal

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of W, and the root mean square of g: the standard deviation that Wiener's filter leaves."""
        a, s = alpha.reshape(-1, 1), sigma.reshape(-1, 1)
        keep = self.covariance.mean_of(lambda v: _kept(v.to(a), a, s))
        square = self.covariance.mean_of(lambda v: _left(v.to(a), a, s).square())
        return keep.reshape(alpha.shape), square.sqrt().reshape(alpha.shape)

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """One over the standard deviation of x_t."""
        variance = self.covariance.mean_of(lambda v: v).to(alpha)
        return (alpha.square() * variance + sigma.square()).rsqrt()

    def network_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_t and its filtered estimate, both of about unit variance: [N, 2 C, H, W]."""
        plain = self.input_scale(alpha, sigma).to(x_t.dtype) * x_t
        return torch.cat([plain, self._scaled(x_t, alpha, sigma, _kept)], 1)

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """W x_t + g output."""
        return self._scaled(x_t, alpha, sigma, _kept) + self._scaled(output.to(x_t.dtype), alpha, sigma, _left)

    def output(self, clean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output that stands for a clean estimate; 0 in axes without variance."""
        rest = clean - self._scaled(x_t, alpha, sigma, _kept)
        return self._scaled(rest, alpha, sigma, lambda v, a, s: reciprocal(_left(v, a, s)))

    def _scaled(self, x: Tensor, alpha: Tensor, sigma: Tensor, gain: Callable[..., Tensor]) -> Tensor:
        """A function of variances and levels applied, in single precision always: solutions are smooth."""
        a, s = alpha.reshape(-1, 1).float(), sigma.reshape(-1, 1).float()
        with torch.autocast(x.device.type, enabled=False):
            return self.covariance.scaled(x, lambda v: gain(v, a, s)).to(x.dtype)


def _kept(v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """W."""
    return alpha * v * reciprocal(alpha.square() * v + sigma.square())


def _left(v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """g."""
    return sigma * (v * reciprocal(alpha.square() * v + sigma.square())).sqrt()
