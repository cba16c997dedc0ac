r"""Projection of token probabilities on constraints of properties (after Cardei et al., "Constrained discrete
diffusion", arXiv 2503.09790).

    q = argmin KL(q || p)   subject to   low_j <= v_j(q) <= high_j

for the product p = prod_l p_l that a denoiser gives, where v_j(q) is what property j is expected to be under q. At the
minimum q is p tilted by the slopes of the expectations,

    log q_l(k) = log p_l(k) + sum_j lambda_j s_j,l(k) + const,   s_j,l(k) = dv_j / dq_l(k),

with the multipliers of the augmented Lagrangian (Hestenes 1969; Powell 1969). Each round takes the force of both
penalties for the new multiplier,

    lambda_j <- max(0, lambda_j + mu_j (low_j - v_j)) + min(0, lambda_j + mu_j (high_j - v_j)),

of which at most one is not 0, and moves q to the tilt of p by the slopes where it is. The penalty
mu_j = 1 / (J Var_q sum_l s_j,l) is each sample's own: with one constraint a round is Newton's step in the multiplier.
Properties that are sums over tokens (`Sums`) have the same slopes everywhere, and the tilt is exponential in them.
Rounds are fixed in number, so that a sample does not depend on its batch.

An expectation at the end of an interval leaves half of the samples outside, and one that needs more than tokens can
give ruins them. Where the standard deviation of property j under p is known, e_j >= sqrt(Var_p sum_l s_j,l), both ends
are moved to what is expected of the part that tokens decide given that y_j, taken for normal, lies between them,

    v_j + (Var_p sum_l s_j,l / e_j^2) (E[y_j | low_j <= y_j <= high_j] - v_j),

for of all tilts the nearest to p given the constraint has the expectations of that. To first order it is the product
that twisted sequential Monte Carlo asks for, p_l(k) P(low <= y <= high | k). None of it makes a sample meet a
constraint: what comes out must be certified.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.categorical import LOG_ZERO
from scidiff.state import Layout, State

_LEAST = 1e-6  # variance below which nothing is left to choose


@dataclass(frozen=True, kw_only=True, eq=False)
class Tangent:
    """J properties near a product q.

    Attributes:
        value: v, what is expected of them under q, [B, J].
        variance: Var_q sum_l s_l of their slopes s = dv / dq, [B, J].
        spread: their standard deviations in a sample of q, [B, J]; None if nobody knows.
        tilt: from multipliers [B, J] to sum_j lambda_j s_j,l(k), [B, L, K] or of a shape that is broadcast to it.
    """

    value: Tensor
    variance: Tensor
    spread: Tensor | None
    tilt: Callable[[Tensor], Tensor]


Properties = Callable[[Tensor], Tangent]
"""From probabilities q, [B, L, K], to what properties are near it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Properties that are sums over tokens of scores [K, J], but for an error of a standard deviation `left`, [J].

    Without it, spreads are not told.
    """

    scores: Tensor
    left: Tensor | None = None

    def __call__(self, q: Tensor) -> Tangent:
        scores = self.scores.to(q.dtype)
        first, second = (q @ torch.cat([scores, scores.square()], 1)).chunk(2, -1)
        variance = (second - first.square()).sum(1).clamp_min(0)
        return Tangent(
            value=first.sum(1),
            variance=variance,
            spread=None if self.left is None else (variance + self.left.square()).sqrt(),
            tilt=lambda multiplier: (multiplier @ scores.T)[:, None],
        )


class ProjectTokens(Denoiser):
    """A denoiser whose token probabilities meet constraints of properties in expectation, as far as they can.

    Args:
        denoiser: gives log-probabilities [B, L, K] of the leaf.
        leaf: the leaf.
        properties: what is constrained.
        low, high: the ends, [J]; infinite where there is none.
        rounds: of the multipliers.
        most: the largest tilt of a token, in nats.
        far: the largest multiplier, in units of 1 / sqrt(Var_p sum_l s_l): how many standard deviations an expectation
            is moved, about. Where too few tokens are left to meet a constraint nothing does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        leaf: str,
        properties: Properties,
        low: Tensor,
        high: Tensor,
        rounds: int = 3,
        most: float = 6.0,
        far: float = 4.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.leaf, self.properties = denoiser, leaf, properties
        self.low, self.high, self.rounds, self.most, self.far = low, high, rounds, most, far

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = self.denoiser(x_t, t, layout, condition)
        with torch.autocast(t.device.type, enabled=False):
            return {**clean, self.leaf: self.project(clean[self.leaf])}

    def project(self, log_probs: Tensor) -> Tensor:
        """log q from log p: [B, L, K]. A p whose expectations are where they should be is given back as it is."""
        near = self.properties(log_probs.exp())
        low, high = self._ends(near)
        farthest = self.far / near.variance.clamp_min(_LEAST).sqrt()
        multiplier, tilt = torch.zeros_like(near.value), log_probs.new_zeros(())
        for k in range(self.rounds):
            if k:
                near = self.properties((log_probs + tilt).softmax(-1))
            penalty = 1 / (len(self.low) * near.variance.clamp_min(_LEAST))
            lift = (multiplier + penalty * (low - near.value)).clamp_min(0)
            multiplier = lift + (multiplier + penalty * (high - near.value)).clamp_max(0)
            multiplier = multiplier.clamp(-farthest, farthest)
            tilt = near.tilt(multiplier).clamp(-self.most, self.most)
        changed = (multiplier != 0).any(1)[:, None, None] & (log_probs > LOG_ZERO / 2)
        return torch.where(changed, (log_probs + tilt).log_softmax(-1), log_probs)

    def _ends(self, near: Tangent) -> tuple[Tensor, Tensor]:
        """The ends that expectations are to meet, [J] or [B, J]."""
        if near.spread is None:
            return self.low, self.high
        inside = mean_inside(near.value, near.spread, self.low, self.high)
        decided = (near.variance / near.spread.square().clamp_min(_LEAST)).clamp_max(1)
        aim = near.value + decided * (inside - near.value)
        return torch.where(self.low.isfinite(), aim, self.low), torch.where(self.high.isfinite(), aim, self.high)


def mean_inside(mean: Tensor, spread: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """E[y | low <= y <= high] of normal y with these means and standard deviations [B, J]; ends [J]: [B, J].

    E = mean + spread (phi(a) - phi(b)) / (Phi(b) - Phi(a)),  a = (low - mean) / spread,  b = (high - mean) / spread
    """
    centre, width = mean.double(), spread.double()
    a, b = (low.double() - centre) / width, (high.double() - centre) / width
    mirrored = a < -b  # seen from the other side: then nothing is a small difference of numbers near 1
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    log_tail = torch.special.log_ndtr(-a)
    density = torch.exp(-a.square() / 2 - log_tail) - torch.exp(-b.square() / 2 - log_tail)
    mass = -torch.expm1(torch.special.log_ndtr(-b) - log_tail)
    shift = width * density / (mass * math.sqrt(2 * math.pi))
    inside = centre + torch.where(mirrored, -shift, shift)
    return torch.where(inside.isfinite(), inside, centre).clamp(low.double(), high.double()).to(mean.dtype)
