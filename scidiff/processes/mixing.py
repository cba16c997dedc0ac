r"""Categorical noise that replaces classes by random ones: uniform, or by the marginal distribution of the data.

    q(x_t | x_0) = alpha_t [x_t = x_0] + (1 - alpha_t) pi(x_t)                                     (marginal)
    q(x_t | x_s) = alpha_{t|s} [x_t = x_s] + (1 - alpha_{t|s}) pi(x_t),   alpha_{t|s} = alpha_t / alpha_s
    q(x_s | x_t, x_0) = q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)                                   (posterior)

(D3PM, Austin et al. 2021, eq. 3; marginal noise, Vignac et al., DiGress, 2023.) The transition matrices have rank one
beside the identity, so nothing here needs more than K numbers an element.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.categorical import check_classes, log_normalise, one_class
from scidiff.processes.survival import Polynomial, Survival
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class MixingProcess(Process):
    r"""Each element keeps its class with probability alpha_t, or has another drawn from pi.

    Attributes:
        stationary: pi, [K] positive probabilities; keep them on the device of the states.
        survival: alpha_t.
        bound_weight: of the evidence lower bound in the loss.
        cross_entropy_weight: of -log p(x_0 | x_t) in the loss: both are D3PM's hybrid (eq. 5), (0, 1) is DiGress'.
    """

    stationary: Tensor
    survival: Survival = Polynomial()  # noqa: RUF009, a frozen record
    bound_weight: float = 1.0
    cross_entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        pi = self.stationary
        if pi.ndim != 1 or not bool((pi > 0).all()) or abs(float(pi.sum()) - 1) > 1e-6:
            raise ValueError(f"expected positive probabilities [K] that sum to 1, got {pi.tolist()}")

    @classmethod
    def uniform(cls, *, classes: int, survival: Survival | None = None) -> MixingProcess:
        """Replacement by any of K classes, equally likely."""
        pi = torch.full((classes,), 1 / classes, dtype=torch.float64)
        return cls(stationary=pi, survival=survival or Polynomial())

    @classmethod
    def marginal(cls, counts: Tensor, *, survival: Survival | None = None) -> MixingProcess:
        """Replacement as classes occur in the data: positive counts or frequencies [K]."""
        return cls(stationary=counts.double() / counts.double().sum(), survival=survival or Polynomial())

    @property
    def classes(self) -> int:
        """K."""
        return len(self.stationary)

    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """Classes drawn from pi: int64 [N, *shape]."""
        return self.random_classes(draw)

    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """Each element is drawn anew with probability 1 - alpha_t."""
        return self._replaced(x_0, self.survival(t), rows, draw)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """Each element is drawn anew with probability 1 - alpha_t / alpha_s."""
        return self._replaced(x_s, self.kept(s, t), rows, draw)

    def jump(self, x_0: Tensor, x_t: Tensor, rows: Rows, draw: Draw, *, s: Tensor, t: Tensor) -> Tensor:
        r"""A sample of q(x_s | x_t, x_0), which is proportional to

        a (b [x_t = x_0] + (1-b) pi(x_t)) [x_s = x_t]  +  (1-a) pi(x_t) b [x_s = x_0]  +  (1-a) pi(x_t) (1-b) pi(x_s)

        with a = alpha_t / alpha_s and b = alpha_s: x_s is x_t, or x_0, or drawn anew.
        """
        a, b = rows.per_row(self.kept(s, t)), rows.per_row(self.survival(s))
        pi = self._pi(x_t)[x_t]
        stays = a * (b * (x_t == x_0) + (1 - b) * pi)
        returns = (1 - a) * pi * b
        anew = (1 - a) * pi * (1 - b)
        place = draw.uniform(kind="jump") * (stays + returns + anew)
        moved = torch.where(place < stays + returns, x_0, self.random_classes(draw))
        return torch.where(place < stays, x_t, moved)

    def posterior(self, clean: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        r"""sum_{x_0} q(x_s | x_t, x_0) p(x_0): probabilities [N, *shape, K] in the precision of `clean`.

        q(x_t | x_s) (b w(x_s) + (1 - b) pi(x_s) sum w),   w(x_0) = p(x_0) / q(x_t | x_0),   b = alpha_s
        """
        a, not_a = _shares(self.kept(s, t), rows, clean)
        b, not_b = _shares(self.survival(s), rows, clean)
        pi, here = self._pi(clean), self._here(x_t, clean.dtype)
        ratio = clean.exp() / self._likelihood(x_t, t, rows, clean)
        forward = a * here + not_a * self._at(x_t, clean.dtype)
        return forward * (b * ratio + not_b * pi * ratio.sum(-1, keepdim=True))

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """Log-probabilities from logits [N, *shape, K]."""
        check_classes(output, self.classes)
        return log_normalise(output)

    def rates(self, clean: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        r"""Reverse rates from x_t to each class y (Campbell et al. 2022, eq. 5): [N, *shape, K], 0 for x_t itself.

        (-alpha'_t / alpha_t) pi(x_t) E_{p(x_0)}[q(y | x_0) / q(x_t | x_0)]
        """
        noise_rate = rows.per_row(self.noise_rate(t), ndim=clean.ndim).to(clean.dtype)
        rates = noise_rate * self._at(x_t, clean.dtype) * self._ratios(clean, x_t, t, rows)
        return torch.where(self._here(x_t, torch.bool), 0, rates)

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """bound_weight `bound_rate` - cross_entropy_weight log p(x_0 | x_t), in nats a sample: [B]."""
        total = torch.zeros(rows.batch, dtype=clean.dtype, device=clean.device)
        if self.bound_weight:
            total = total + self.bound_weight * self.bound_rate(clean, x_0, x_t, t, rows)
        if self.cross_entropy_weight:
            total = total + self.cross_entropy_weight * self.bound_data(clean, x_0, x_t, t, rows)
        return total

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        r"""What a unit of time adds to the negative evidence lower bound, in nats: [B].

        (-alpha'_t / alpha_t) pi(x_t) sum_{y != x_t} r(y) (d - log(1 + d)),   1 + d = r_clean(y) / r(y),

        r(y) = q(y | x_0) / q(x_t | x_0) and r_clean its mean over p(x_0): the divergence between jump processes of the
        true and the learned rates (Campbell et al. 2022, eq. 7; the score entropy of Lou et al. 2024).
        """
        known = one_class(x_0, self.classes, clean.dtype)
        truth = self._ratios(known, x_t, t, rows)
        # r_clean - r with the large part that both share taken out: it is of order alpha_t.
        alpha, not_alpha = _shares(self.survival(t), rows, clean)
        change = (clean.exp() - known.exp()) / self._likelihood(x_t, t, rows, clean)
        excess = alpha * change + not_alpha * self._pi(clean) * change.sum(-1, keepdim=True)
        d = excess / truth
        divergence = torch.where(self._here(x_t, torch.bool), 0, truth * (d - torch.log1p(d))).sum(-1)
        noise_rate = rows.per_row(self.noise_rate(t)).to(clean.dtype)
        return rows.sum(noise_rate * self._at(x_t, clean.dtype).squeeze(-1) * divergence)

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), in nats: [B] (D3PM, eq. 1)."""
        truth = self.posterior(one_class(x_0, self.classes, clean.dtype), x_t, rows, s=s, t=t)
        guess = self.posterior(clean, x_t, rows, s=s, t=t)
        return rows.sum(torch.where(truth > 0, truth * (truth.log() - guess.log()), 0).sum(-1))

    def bound_prior(self, x_0: Tensor, rows: Rows) -> Tensor:
        """KL(q(x_1 | x_0) || pi), in nats: [B]."""
        one = torch.ones((), dtype=torch.float64, device=x_0.device)
        alpha, pi = self.survival(one), self._pi(one)[x_0]
        own = alpha + (1 - alpha) * pi  # all other classes have (1 - alpha) times their prior probability
        return rows.sum(torch.xlogy(own, own / pi) + torch.xlogy((1 - alpha) * (1 - pi), 1 - alpha))

    def bound_data(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-log p(x_0 | x_t), in nats: [B]."""
        return -rows.sum(clean.gather(-1, x_0[..., None]).squeeze(-1))

    def kept(self, s: Tensor, t: Tensor) -> Tensor:
        """alpha_{t|s}: the probability of no change between s and t; 1 for s = t."""
        alpha_s = self.survival(s)
        return torch.where(alpha_s > 0, self.survival(t) / alpha_s, 1)

    def noise_rate(self, t: Tensor) -> Tensor:
        """-alpha'_t / alpha_t, the rate at which elements are drawn anew; at most 1e12 of the slope."""
        return -self.survival.slope(t) / self.survival(t).clamp_min(1e-12)

    def random_classes(self, draw: Draw) -> Tensor:
        """Classes drawn from pi: int64 [N, *shape]."""
        cumulative = self._pi(draw.index).cumsum(0)
        place = draw.uniform(kind="class") * cumulative[-1]
        return torch.searchsorted(cumulative, place, right=True).clamp_max(self.classes - 1)

    def _replaced(self, x: Tensor, kept: Tensor, rows: Rows, draw: Draw) -> Tensor:
        return torch.where(draw.uniform(kind="kept") < rows.per_row(kept), x, self.random_classes(draw))

    def _pi(self, like: Tensor) -> Tensor:
        """pi, [K], on the device and in the precision of a tensor (float64 beside integers)."""
        dtype = like.dtype if like.is_floating_point() else torch.float64
        return self.stationary.to(device=like.device, dtype=dtype)

    def _at(self, x_t: Tensor, dtype: torch.dtype) -> Tensor:
        """pi(x_t), [N, *shape, 1]."""
        return self.stationary.to(device=x_t.device, dtype=dtype)[x_t][..., None]

    def _here(self, x_t: Tensor, dtype: torch.dtype) -> Tensor:
        """[y = x_t], [N, *shape, K]."""
        return (x_t[..., None] == torch.arange(self.classes, device=x_t.device)).to(dtype)

    def _likelihood(self, x_t: Tensor, t: Tensor, rows: Rows, clean: Tensor) -> Tensor:
        """q(x_t | x_0) for every x_0, [N, *shape, K], in the precision of `clean`."""
        alpha, not_alpha = _shares(self.survival(t), rows, clean)
        return alpha * self._here(x_t, clean.dtype) + not_alpha * self._at(x_t, clean.dtype)

    def _ratios(self, clean: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """E_{p(x_0)}[q(y | x_0) / q(x_t | x_0)] for every y, [N, *shape, K]."""
        alpha, not_alpha = _shares(self.survival(t), rows, clean)
        ratio = clean.exp() / self._likelihood(x_t, t, rows, clean)
        return alpha * ratio + not_alpha * self._pi(clean) * ratio.sum(-1, keepdim=True)


def _shares(part: Tensor, rows: Rows, like: Tensor) -> tuple[Tensor, Tensor]:
    """A share of one and the rest, each rounded once: [B] -> [N, 1, ..., 1] with the axes and precision of `like`."""
    return tuple(rows.per_row(v, ndim=like.ndim).to(like.dtype) for v in (part, 1 - part))  # type: ignore[return-value]
