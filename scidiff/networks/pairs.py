r"""Which atoms look at which: all at all, or each at the nearest few, for molecules that are large.

A layer of attention asks four things of the pairs (i, j): what stands at their other ends, how they lie to each other,
products of both ends, and sums over j. For all pairs these are products of matrices; for some they gather rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

_REACH, BINS = 8.0, 16  # angstrom; radial features
SMALL = 1e-4
_NOTHING = 30.0  # exp(-30): what is less would be denormal numbers, which are slow


class Pairs(ABC):
    """K others of each of n atoms."""

    @abstractmethod
    def there(self, z: Tensor) -> Tensor:
        """Features z [B, n, F] of the other end, [B, n, K, F] or what broadcasts to it."""

    @abstractmethod
    def along(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Components of x_j - x_i along the vectors v [B, n, 3, C] of i, and of x_i - x_j along those of j.

        Both [B, n, K, C], of positions x [B, n, 3].
        """

    @abstractmethod
    def products(self, q: Tensor, k: Tensor) -> Tensor:
        """q_i . k_j of q and k [B, H, n, F]: [B, H, n, K]."""

    @abstractmethod
    def sums(self, weight: Tensor, z: Tensor) -> Tensor:
        """sum_j weight_ij z_j of weights [B, H, n, K] and z [B, H or 1, n, F]: [B, H, n, F]."""


class AllPairs(Pairs):
    """Every atom and every atom, itself among them: K = n."""

    def there(self, z: Tensor) -> Tensor:
        return z[:, None]

    def along(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.einsum("bicv,bjc->bijv", v, x) - (x[..., None] * v).sum(-2)[:, :, None]
        return found, found.transpose(1, 2)

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-1, -2)

    def sums(self, weight: Tensor, z: Tensor) -> Tensor:
        return weight @ z


@dataclass(frozen=True, kw_only=True, eq=False)
class SomePairs(Pairs):
    """Chosen others.

    Attributes:
        index: int64 [B, n, K].
    """

    index: Tensor

    @classmethod
    def nearest(cls, x: Tensor, pairs: Tensor, bonds: Tensor, count: int) -> SomePairs:
        """The atom itself and those bonded to it, then the nearest.

        Args:
            x: positions [B, n, 3].
            pairs: which pairs there are, bool [B, n, n].
            bonds: which are bonded, bool [B, n, n].
            count: K.
        """
        apart = torch.cdist(x.float(), x.float())
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        apart = torch.where(own | bonds, apart - 1e6, torch.where(pairs, apart, torch.inf))
        return cls(index=apart.topk(min(count, x.shape[1]), dim=-1, largest=False).indices)

    def there(self, z: Tensor) -> Tensor:
        return self._gathered(z[:, None])[:, 0]

    def along(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        beam = (self.there(x) - x[:, :, None])[..., None]
        other = self.there(v.flatten(2)).unflatten(-1, v.shape[2:])
        return (beam * v[:, :, None]).sum(-2), -(beam * other).sum(-2)

    def products(self, q: Tensor, k: Tensor) -> Tensor:
        return (self._gathered(k) @ q[..., None])[..., 0]

    def sums(self, weight: Tensor, z: Tensor) -> Tensor:
        return (weight[..., None, :] @ self._gathered(z))[..., 0, :]

    def chosen(self, table: Tensor) -> Tensor:
        """Of a table of all pairs [B, n, n], those chosen: [B, n, K]."""
        return table.gather(2, self.index)

    def _gathered(self, z: Tensor) -> Tensor:
        """Rows of z [B, H, n, F] at the other ends: [B, H, n, K, F]."""
        rows = self.index.flatten(1)[:, None, :, None].expand(-1, z.shape[1], -1, z.shape[-1])
        return z.gather(2, rows).unflatten(2, self.index.shape[1:])


def pair_geometry(x: Tensor, v: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Radial features and components along the vectors of either end [B, n, K, ...], and distances [B, n, K]."""
    apart = ((x[:, :, None] - pairs.there(x)).square().sum(-1) + SMALL).sqrt()
    centres = torch.linspace(0, _REACH, BINS, device=x.device, dtype=x.dtype)
    away = ((apart[..., None] - centres) * (BINS / _REACH)).square()
    radial = torch.exp(-away.clamp_max(_NOTHING))
    here, there = pairs.along(x, v)
    nearer = 1 / (1 + apart[..., None])
    return torch.cat([radial, here * nearer, there * nearer], dim=-1), apart
