r"""A denoiser of trajectories that knows what was measured of them, with or without noise.

    E[x_0 | x_t, y] = clean + V R^T (R V R^T + s)^-1 (y - R clean),     y = R x_0 + noise of variance s

V = Cov[x_0 | x_t] is that of a Gaussian field with the data's spectrum and memory (`SpaceTime`), and no solver of the
equation is asked: what ties the times is the denoiser. For Gaussian data it is Kalman's smoother.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.linear import Linear
from scidiff.fluids.space_time import SpaceTime
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Layout, State


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """Linear facts of a trajectory of fields.

    Attributes:
        shape: (L, H, W).
        places: of the flattened trajectory that are read, int64 [P].
        weights: with which, float64 [M, P].
        values: float64 [M], or of each trajectory [B, M].
        noise: variance of what the values carry; 0: they hold exactly.
        apart: whether fact m reads place m alone.
    """

    shape: tuple[int, int, int]
    places: Tensor
    weights: Tensor = field(repr=False)
    values: Tensor
    noise: float = 0.0
    apart: bool = False

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], frames: Sequence[int], rows: Sequence[Tensor], values: Sequence[Tensor],
        *, noise: float = 0.0,
    ) -> Facts:  # fmt: skip
        """Of what was read at some frames as inner products with rows [M_k, H, W], and came to values [M_k]."""
        places, weights, apart = [], [], True
        for frame, read in zip(frames, rows, strict=True):
            flat = read.double().flatten(1)
            here = (flat != 0).any(0).nonzero()[:, 0]
            if len(here) == len(flat) and bool(((flat != 0).sum(1) == 1).all()):
                here = here[(flat[:, here] != 0).int().argmax(0).argsort()]  # by the fact that reads it
            else:
                apart = False
            places.append(here + frame * prod(shape[1:]))
            weights.append(flat[:, here])
        return cls(
            shape=shape,
            places=torch.cat(places),
            weights=torch.block_diag(*weights),
            values=torch.cat([value.double() for value in values]),
            noise=noise,
            apart=apart,
        )

    def seen(self, x: Tensor) -> Tensor:
        """What would be read, without noise, of trajectories [B, L, H, W]: [B, M]."""
        return x.double().flatten(1)[:, self.places.to(x.device)] @ self.weights.to(x.device).T

    def missed(self, x: Tensor) -> Tensor:
        """Sum of squares of what trajectories are off, in units of the noise, which is > 0: [B]."""
        return (self.seen(x) - self.values.to(x.device)).square().sum(1) / self.noise

    def linear(self, covariance: SpaceTime, like: Tensor) -> Linear:
        """The facts in the metric of a covariance."""

        def spread(x: Tensor) -> Tensor:
            return covariance.spread(x.unflatten(-1, self.shape)).flatten(-3)

        places, weights, values = (part.to(like.device) for part in (self.places, self.weights, self.values))
        return Linear(
            places=places,
            weights=weights,
            values=values,
            spread=spread,
            size=prod(self.shape),
            table=covariance.lags(),
            noise=self.noise,
            apart=self.apart,
        )

    def told(self, x: Tensor, covariance: SpaceTime) -> Tensor:
        """Trajectories [B, L, H, W] that know the facts, in the precision of x."""
        linear, flat = self.linear(covariance.to(x), x), x.double().flatten(1)
        return (linear.closer(flat) if self.noise else linear.onto(flat)).to(x).reshape(x.shape)


class Observed(Denoiser):
    """The denoiser whose clean estimates know facts.

    Args:
        denoiser: of trajectories.
        process: of their leaf: noise with the spectrum of the covariance.
        leaf: its name.
        facts: what was measured.
        covariance: of the data.
    """

    def __init__(
        self, denoiser: Denoiser, process: GaussianProcess, *, leaf: str, facts: Facts, covariance: SpaceTime
    ) -> None:
        super().__init__()
        self.denoiser, self.process, self.leaf = denoiser, process, leaf
        self.facts, self.covariance = facts, covariance

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop."""
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        alpha, sigma = self.process.schedule(t[0])
        clean = self.denoiser(x_t, t, layout, condition)[self.leaf]
        return {self.leaf: self.facts.told(clean, self.covariance.posterior((sigma / alpha).square()))}
