r"""The covariance of a field that is partly alike at all x, partly not: a few patterns (EOFs) stand where they stand.

    C = A + F^T F,    A a `Covariance`, F [E, D] patterns

Once the field was seen in white noise of a variance s it is of the same form (Woodbury): with B = (A + s)^-1,

    C - C (C + s)^-1 C = s A B + F'^T F',    F' = s L^-1 F B,    L L^T = 1 + F B F^T.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.fluids.covariance import Covariance
from scidiff.fluids.principal import Principal


@dataclass(frozen=True, kw_only=True, eq=False)
class Blended:
    """A covariance of fields [N, ..., H, W].

    Attributes:
        base: A.
        patterns: F, [E, H, W].
    """

    base: Covariance
    patterns: Tensor

    def to(self, like: Tensor) -> Blended:
        """The same, on the device of a tensor, in float64."""
        return replace(self, base=self.base.to(like), patterns=self.patterns.to(like.device).double())

    def spread(self, x: Tensor) -> Tensor:
        """C x for fields x [..., H, W]."""
        share = torch.einsum("...yx,eyx->...e", x, self.patterns)
        return self.base.spread(x) + torch.einsum("...e,eyx->...yx", share, self.patterns)

    def total(self) -> Tensor:
        """The trace of C: the variance summed over the points of one channel."""
        return self.base.total() + self.patterns.square().sum()

    def posterior(self, noise: Tensor) -> Blended:
        """What is left once the field was seen with white noise of a variance `noise`, a number >= 0; inf: all."""
        base, noise = self.base, torch.as_tensor(noise, dtype=torch.float64, device=self.patterns.device)
        along = base.coordinates(self.patterns)
        kept = along / (1 + base.variance / noise)[..., None]  # s B F
        gram = torch.einsum("akmr,bkmr->ab", along, kept) / noise
        lower = torch.linalg.cholesky_ex(gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).L
        left = torch.linalg.solve_triangular(lower, base.fields(kept).flatten(1), upper=False)
        return Blended(base=base.posterior(noise), patterns=left.reshape(self.patterns.shape))


FieldCovariance = Covariance | Blended | Principal
"""A covariance of a field, too large to write down."""


def homogeneous(covariance: Covariance | Blended) -> tuple[Covariance, Tensor]:
    """The part that shifts along x leave alike, and the patterns of the other, [E, H, W]."""
    if isinstance(covariance, Blended):
        return covariance.base, covariance.patterns
    lines, width = covariance.variance.shape[1], covariance.width
    return covariance, covariance.variance.new_zeros(0, lines, width)
