r"""Categorical leaves: classes that are masked, or replaced by random ones.

    q(x_t | x_0) = alpha_t [x_t = x_0] + (1 - alpha_t) pi(x_t)                                     (marginal)
    q(x_t | x_s) = alpha_{t|s} [x_t = x_s] + (1 - alpha_{t|s}) pi(x_t),   alpha_{t|s} = alpha_t / alpha_s

(Austin et al., D3PM, 2021; Sahoo et al., MDLM, 2024.) The state is int64 classes [N, *shape]; the clean estimate is the
log-probabilities [N, *shape, K] of the K classes of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.survival import Polynomial, Survival
from scidiff.state import Rows

LOG_ZERO = -3e4
"""Logarithm of probability zero: exp gives 0 in every precision, and sums and differences of it stay finite."""


def one_class(x: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Log-probabilities of one certain class: [...] -> [..., K]."""
    certain = torch.full((*x.shape, classes), LOG_ZERO, dtype=dtype, device=x.device)
    return certain.scatter(-1, x[..., None], 0.0)


def log_normalise(output: Tensor) -> Tensor:
    """Log-probabilities from unnormalised ones, in float32 at least."""
    return torch.log_softmax(output, dim=-1, dtype=torch.promote_types(output.dtype, torch.float32))


class CategoricalDynamics(Protocol):
    """What rules for categorical leaves ask of a process, beyond `Process`."""

    survival: Survival

    def jump(self, x_0: Tensor, x_t: Tensor, rows: Rows, draw: Draw, *, s: Tensor, t: Tensor) -> Tensor:
        """A sample of q(x_s | x_t, x_0)."""

    def rates(self, clean: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """Rates at which the reverse process leaves x_t for each of the K classes, [N, *shape, K], 0 for x_t itself."""


def check_classes(output: Tensor, classes: int) -> None:
    """ValueError unless the last axis holds `classes` logits."""
    if output.shape[-1] != classes:
        raise ValueError(f"expected logits of {classes} classes, got {output.shape[-1]}")


@dataclass(frozen=True, kw_only=True)
class MaskedProcess(Process):
    r"""Absorbing noise: each element is its own class or the mask, class K (Sahoo et al., MDLM, 2024).

    Attributes:
        classes: K, the number of classes of the data; states hold classes 0 .. K, of which K is the mask.
        survival: the probability alpha_t of not being masked.
    """

    classes: int
    survival: Survival = Polynomial()  # noqa: RUF009, a frozen record

    @property
    def mask(self) -> int:
        """The mask's class, K."""
        return self.classes

    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """All masked: int64 [N, *shape]."""
        return torch.full((len(rows.owner), *rows.shape), self.mask, device=rows.owner.device)

    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """Each element is masked with probability 1 - alpha_t."""
        return torch.where(draw.uniform() < rows.per_row(self.survival(t)), x_0, self.mask)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """Each element is masked with probability 1 - alpha_t / alpha_s."""
        kept = self.survival(t) / self.survival(s).clamp_min(torch.finfo(s.dtype).tiny)
        return torch.where(draw.uniform() < rows.per_row(kept), x_s, self.mask)

    def unmask_probability(self, s: Tensor, t: Tensor) -> Tensor:
        """Probability that an element masked at t is no longer masked at s: (alpha_s - alpha_t) / (1 - alpha_t)."""
        alpha_s, alpha_t = self.survival(s), self.survival(t)
        return (alpha_s - alpha_t) / (1 - alpha_t).clamp_min(torch.finfo(t.dtype).tiny)

    def jump(self, x_0: Tensor, x_t: Tensor, rows: Rows, draw: Draw, *, s: Tensor, t: Tensor) -> Tensor:
        """A sample of q(x_s | x_t, x_0): each mask becomes x_0 with `unmask_probability` (MDLM, eq. 6)."""
        revealed = (x_t == self.mask) & (draw.uniform(kind="jump") < rows.per_row(self.unmask_probability(s, t)))
        return torch.where(revealed, x_0, x_t)

    def posterior(self, clean: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """sum_{x_0} q(x_s | x_t, x_0) p(x_0): probabilities [N, *shape, K + 1]."""
        reveal = rows.per_row(self.unmask_probability(s, t), ndim=clean.ndim).to(clean.dtype)
        masked = torch.cat([reveal * clean.exp(), (1 - reveal).expand(*clean.shape[:-1], 1)], dim=-1)
        kept = one_hot(x_t, self.classes + 1).to(clean.dtype)
        return torch.where((x_t == self.mask)[..., None], masked, kept)

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """Log-probabilities from logits [N, *shape, K], with what is not masked known for certain (MDLM, sec. 3.2.3).

        The mask is no class of the data, so its probability is zero; an unmasked element is copied.
        """
        check_classes(output, self.classes)
        masked = x_t == self.mask
        known = torch.where(masked, 0, x_t)
        log_probs = log_normalise(output)
        return torch.where(masked[..., None], log_probs, one_class(known, self.classes, log_probs.dtype))

    def observed(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x_0 itself at every time: what the posterior of a mask depends on is only which elements are seen."""
        return x_0

    def hazard(self, t: Tensor) -> Tensor:
        """-alpha'_t / (1 - alpha_t): the rate at which a mask is lifted in reverse time, whatever it hides."""
        return -self.survival.slope(t) / (1 - self.survival(t))

    def rates(self, clean: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """`hazard` times p(x_0 = class) where masked, else 0: [N, *shape, K]."""
        hazard = rows.per_row(self.hazard(t), ndim=clean.ndim).to(clean.dtype)
        return torch.where((x_t == self.mask)[..., None], hazard * clean.exp(), 0)

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """`bound_rate`: its mean over uniform t is the negative evidence lower bound, in nats a sample: [B]."""
        return self.bound_rate(clean, x_0, x_t, t, rows)

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        r"""What a unit of time adds to the negative evidence lower bound, in nats: [B] (MDLM, eq. 11).

        -alpha'_t / (1 - alpha_t) sum_l -log p(x_0^l | x_t),   the sum over masked elements
        """
        hidden = self.hidden_nats(clean, x_0, x_t, rows)
        return self.hazard(t).to(hidden.dtype) * hidden

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), in nats: [B]."""
        hidden = self.hidden_nats(clean, x_0, x_t, rows)
        return self.unmask_probability(s, t).to(hidden.dtype) * hidden

    def bound_prior(self, x_0: Tensor, rows: Rows) -> Tensor:
        """KL(q(x_1 | x_0) || prior): [B]; infinite unless alpha_1 = 0."""
        one = torch.ones((), dtype=torch.float64, device=x_0.device)
        return torch.where(self.survival(one) > 0, torch.inf, 0.0).expand(rows.batch)

    def bound_data(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-log p(x_0 | x_t), in nats: [B]."""
        return self.hidden_nats(clean, x_0, x_t, rows)

    def hidden_nats(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows) -> Tensor:
        """-log p(x_0 | x_t) over the masked elements: [B]."""
        log_likelihood = clean.gather(-1, x_0[..., None]).squeeze(-1)
        return -rows.sum(torch.where(x_t == self.mask, log_likelihood, 0))
