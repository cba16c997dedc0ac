r"""Solvers of categorical leaves: how classes change on the way from noise to data.

Every rule draws x_0 from the clean estimate by a `joint` sampler and decides which elements take its classes. With
`joint=independent` elements that change in one step are drawn independently of each other, which is what limits the
quality of few steps; other joint samplers correlate them, or hold a constraint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.categorical import CategoricalDynamics, MaskedProcess
from scidiff.solvers.base import Trace, held
from scidiff.solvers.following import Following, everywhere
from scidiff.solvers.joint import Joint, independent
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class PosteriorJump(Following):
    """x_0 from the clean estimate, then x_s ~ q(x_s | x_t, x_0): ancestral sampling (D3PM, MDLM). Weak order 1.

    Each element follows the exact reverse posterior, at any number of steps.

    Attributes:
        joint: draws x_0.
    """

    joint: Joint = independent

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x_t, clean, s, t = _step(self, k, trace, rows)
        x_0 = self.joint(clean, draw(k + 1), rows)
        return cast(CategoricalDynamics, process).jump(x_0, x_t, rows, draw(k + 1), s=s, t=t)


@dataclass(frozen=True, kw_only=True)
class TauLeap(Following):
    r"""Jumps at the rates of time t, held for the whole step, at most one an element (Campbell et al. 2022, sec. 4.4).

        P(jump) = 1 - exp(-(t - s) sum_y rate(y)),   to y with probability rate(y) / sum_y rate(y)

    Weak order 1. The step to s = 0 takes x_0 itself, for rates need not stay finite there.

    Attributes:
        joint: draws x_0 at the last step.
    """

    joint: Joint = independent

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x_t, clean, s, t = _step(self, k, trace, rows)
        dynamics, here = cast(CategoricalDynamics, process), draw(k + 1)
        if self.reach[k] == 0:
            return dynamics.jump(self.joint(clean, here, rows), x_t, rows, here, s=s, t=t)
        rates = dynamics.rates(clean, x_t, t, rows)
        chance = -torch.expm1(-rows.per_row(t - s) * rates.sum(-1).double())
        return torch.where(here.uniform(kind="jump") < chance, here.categorical(rates, kind="target"), x_t)


Order = Callable[[Tensor, Tensor, Draw], Tensor]
"""From log-probabilities [N, *shape, K], classes x_0 and a draw to scores [N, *shape], the lowest unmasked first."""


def random_order(clean: Tensor, x_0: Tensor, draw: Draw) -> Tensor:
    """Any order, equally likely."""
    return draw.uniform(kind="order")


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """The class drawn with the highest probability first (MaskGIT, Chang et al. 2022).

    Attributes:
        noise: standard Gumbel noise of this size is added to the log-probabilities; 0 is greedy.
    """

    noise: float = 0.0

    def __call__(self, clean: Tensor, x_0: Tensor, draw: Draw) -> Tensor:
        score = -clean.gather(-1, x_0[..., None]).squeeze(-1).double()
        return score - self.noise * draw.gumbel() if self.noise else score


def margin_order(clean: Tensor, x_0: Tensor, draw: Draw) -> Tensor:
    """The largest gap between the two likeliest classes first (Kim et al., "Train for the worst", 2025)."""
    first, second = clean.exp().topk(2, dim=-1).values.unbind(-1)
    return (second - first).double()


@dataclass(frozen=True, kw_only=True)
class CountedUnmasking(Following):
    r"""Unmasks a fixed number of elements a step, in a given order.

    Of m masked elements, m (alpha_s - alpha_t) / (1 - alpha_t) are lifted, to the nearest number. With alpha_t = 1 - t
    and equal steps the masks are lifted evenly, and n steps for at most n masks lift one at a time: that is exact
    sampling for an exact clean estimate, whatever correlates the elements, since masks are hit in uniformly random
    order (Zheng et al., "Masked diffusion models are secretly time-agnostic masked models", 2024). Orders that look at
    the clean estimate alone keep that; `Confidence` looks at the classes drawn and prefers likely ones.

    Attributes:
        order: which masks are lifted first.
        joint: draws x_0.
    """

    order: Order = random_order
    joint: Joint = independent

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x_t, clean, s, t = _step(self, k, trace, rows)
        process = _masked(process)
        x_0 = self.joint(clean, draw(k + 1), rows)
        masked = x_t == process.mask
        if self.reach[k] == 0:
            return torch.where(masked, x_0, x_t)
        if rows.mask is not None:
            masked = masked & rows.mask
        score = torch.where(masked, self.order(clean, x_0, draw(k + 1)), torch.inf)
        lifted = rows.sum(masked.double()) * process.unmask_probability(s, t)
        count = torch.floor(lifted + (0.5 + 1e-9))  # to the nearest; halves up, whatever their last bit
        return torch.where(rows.rank(score) < rows.per_row(count), x_0, x_t)


@dataclass(frozen=True, kw_only=True)
class Remasking(Following):
    r"""Lifts masks and lays some down again, so that early classes are reconsidered (ReMDM, Wang et al. 2025, eq. 7).

        seen     masked again with probability sigma
        masked   x_0 with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)
        sigma  = min(cap, rescale sigma_max),   sigma_max = min(1, (1 - alpha_s) / alpha_t)

    The number of masks at each time is that of masked diffusion, whatever sigma is, and sigma = 0 is `PosteriorJump`.
    On equal times it resamples in place. Elements put in place by `initial` are masked as others are; those of `known`
    come back.

    Attributes:
        cap: in [0, 1].
        rescale: in [0, 1].
        window: between which times t masks are laid down again.
        joint: draws x_0.
    """

    cap: float = 1.0
    rescale: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    joint: Joint = independent
    moves_in_place = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.cap <= 1 and 0 <= self.rescale <= 1):
            raise ValueError(f"expected cap and rescale in [0, 1], got {self.cap} and {self.rescale}")

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x_t, clean, s, t = _step(self, k, trace, rows)
        process = _masked(process)
        tiny = torch.finfo(t.dtype).tiny
        alpha_s, alpha_t = process.survival(s), process.survival(t)
        sigma = (self.rescale * ((1 - alpha_s) / alpha_t.clamp_min(tiny)).clamp_max(1)).clamp_max(self.cap)
        sigma = torch.where((t >= self.window[0]) & (t <= self.window[1]), sigma, 0)
        lifted = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp_min(tiny)
        masked, u = x_t == process.mask, draw(k + 1).uniform(kind="jump")
        from_mask = torch.where(u < rows.per_row(lifted), self.joint(clean, draw(k + 1), rows), process.mask)
        from_seen = torch.where(u < rows.per_row(sigma), process.mask, x_t)
        return torch.where(masked, from_mask, from_seen)


def _step(rule: Following, k: int, trace: Trace, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, its clean estimate, and the times s and t [B] between which the rule steps."""
    x_t, clean = held(trace.x[k]), held(trace.clean[k])
    return x_t, clean, everywhere(rule.reach[k], x_t, rows), everywhere(rule.times[k], x_t, rows)


def _masked(process: Process) -> MaskedProcess:
    if not isinstance(process, MaskedProcess):
        raise TypeError(f"expected a MaskedProcess, got {type(process).__name__}")
    return process
