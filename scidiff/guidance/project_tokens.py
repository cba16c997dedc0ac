r"""Projection of token probabilities on constraints of additive properties (after Cardei et al., arXiv 2503.09790).

    q = argmin KL(q || p)   subject to   low_j <= b_j + E_q sum_l s_j(x^l) <= high_j

for the product p = prod_l p_l that a denoiser gives. For properties that are sums over tokens the minimum is a tilt,
log q_l(k) = log p_l(k) + lambda . s(k) + const, whose multipliers the augmented Lagrangian finds (Hestenes 1969; Powell
1969). With v_j the expectation now, each round takes the force of both penalties for the new multiplier,

    lambda_j <- max(0, lambda_j + mu_j (low_j - v_j)) + min(0, lambda_j + mu_j (high_j - v_j)),

of which at most one is not 0. The penalty mu_j = 1 / (J Var_q sum_l s_j) is each sample's own: with one constraint a
round is Newton's step in the multiplier. Rounds are fixed in number, so that a sample does not depend on its batch.
An expectation that meets a constraint is no sample that does: what comes out must be certified.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.categorical import LOG_ZERO
from scidiff.state import Layout, State

_LEAST = 1e-6  # variance below which nothing is left to choose


class ProjectTokens(Denoiser):
    """A denoiser whose token probabilities meet constraints of additive properties in expectation, as far as they can.

    Args:
        denoiser: gives log-probabilities [B, L, K] of the leaf.
        leaf: the leaf.
        scores: s, what each token adds to each property, [K, J].
        low, high: the ends less b, [J]; infinite where there is none.
        rounds: of the multipliers.
        most: the largest tilt of one token, in nats: where too few tokens are left to meet a constraint nothing does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        leaf: str,
        scores: Tensor,
        low: Tensor,
        high: Tensor,
        rounds: int = 5,
        most: float = 6.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.leaf, self.scores = denoiser, leaf, scores
        self.low, self.high, self.rounds, self.most = low, high, rounds, most

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = self.denoiser(x_t, t, layout, condition)
        with torch.autocast(t.device.type, enabled=False):
            return {**clean, self.leaf: self.project(clean[self.leaf])}

    def project(self, log_probs: Tensor) -> Tensor:
        """log q from log p: [B, L, K]. A p that meets the constraints is given back as it is."""
        scores = self.scores.to(log_probs.dtype)
        count, both = scores.shape[1], torch.cat([scores, scores.square()], 1)
        multiplier, tilt = log_probs.new_zeros(len(log_probs), count), log_probs.new_zeros(len(log_probs), len(scores))
        for _ in range(self.rounds):
            first, second = ((log_probs + tilt[:, None]).softmax(-1) @ both).split(count, -1)
            value, variance = first.sum(1), (second - first.square()).sum(1)
            penalty = 1 / (count * variance.clamp_min(_LEAST))
            lift = (multiplier + penalty * (self.low - value)).clamp_min(0)
            multiplier = lift + (multiplier + penalty * (self.high - value)).clamp_max(0)
            tilt = multiplier @ scores.T
            fits = (self.most / tilt.abs().amax(1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
            multiplier, tilt = multiplier * fits, tilt * fits
        changed = (multiplier != 0).any(1)[:, None, None] & (log_probs > LOG_ZERO / 2)
        return torch.where(changed, (log_probs + tilt[:, None]).log_softmax(-1), log_probs)
