r"""Classifier-free guidance: away from what the denoiser says without the condition (Ho & Salimans 2022).

    clean = clean(x_t) + w (clean(x_t, condition) - clean(x_t))

The score of a Gaussian leaf is affine in its clean estimate, so this is the score of p(x_t)^(1-w) p(x_t | condition)^w.
A categorical leaf is tilted in the same way, in the log-probabilities of its clean classes, and renormalised; a leaf on
a manifold along tangent vectors, which are the score times sigma_t^2. w = 0 ignores the condition, w = 1 is
the conditional denoiser, w > 1 exaggerates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.categorical import LOG_ZERO
from scidiff.processes.manifold import Manifold, ManifoldProcess
from scidiff.state import Layout, State


class CFG(Denoiser):
    """Classifier-free guidance, over all times or within an interval of them.

    Outside the interval the conditional estimate is returned bit for bit: guidance harms at the highest noise levels
    and does little at the lowest (Kynkaanniemi et al. 2024). Each call makes two of the denoiser inside.

    Args:
        denoiser: trained with the condition and without it.
        weight: w, a number or one a sample [B].
        null: what the denoiser is given as the condition when there is none.
        interval: the times (low, high] in which guidance acts.
        manifolds: the processes of the leaves that live on a manifold; a leaf not named here is taken for flat.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weight: float | Tensor,
        *,
        null: Any = None,
        interval: tuple[float, float] = (-math.inf, math.inf),
        manifolds: Mapping[str, ManifoldProcess] | None = None,
    ) -> None:
        if not interval[0] < interval[1]:
            raise ValueError(f"expected an interval (low, high] with low < high, got {interval}")
        super().__init__()
        self.denoiser, self.weight, self.null = denoiser, weight, null
        self.interval, self.manifolds = interval, dict(manifolds or {})

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        told = self.denoiser(x_t, t, layout, condition)
        untold = self.denoiser(x_t, t, layout, self.null)
        active = (t > self.interval[0]) & (t <= self.interval[1])
        weight = torch.where(active, self.weight, torch.ones_like(t))
        return _extrapolate(x_t, untold, told, weight, layout=layout, manifolds=self.manifolds)


class ResidualCFG(Denoiser):
    """Classifier-free guidance away from a fixed clean estimate: one call of the denoiser instead of two.

    The unconditional estimate is replaced by a reference that is known beforehand ("residual" guidance, Kodaira et al.,
    StreamDiffusion, 2023): the sample that is being edited, which makes the result differ from it ("self-negative"), or
    the unconditional estimate at the first time, kept for all times ("one-time negative").

    Args:
        denoiser: trained with the condition.
        weight: w, a number or one a sample [B].
        reference: the clean estimate of each leaf to be guided, [N, *shape] or log-probabilities [N, *shape, K].
            Leaves without a reference keep their conditional estimate.
        manifolds: the processes of the leaves that live on a manifold; a leaf not named here is taken for flat.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weight: float | Tensor,
        reference: State,
        *,
        manifolds: Mapping[str, ManifoldProcess] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.weight, self.reference = denoiser, weight, reference
        self.manifolds = dict(manifolds or {})

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        told = self.denoiser(x_t, t, layout, condition)
        weight = torch.ones_like(t) * self.weight
        return _extrapolate(x_t, self.reference, told, weight, layout=layout, manifolds=self.manifolds)


def _extrapolate(
    x_t: State,
    start: State,
    end: State,
    weight: Tensor,
    *,
    layout: Layout,
    manifolds: Mapping[str, ManifoldProcess],
) -> State:
    """start + weight (end - start) for every leaf of the state that has a start; other outputs are those of the end."""
    mixed = dict(end)
    for leaf, x in x_t.items():
        if leaf not in start:
            continue
        rows = layout.rows(leaf)
        if not x.is_floating_point():
            tilted = _tilt(start[leaf], end[leaf], rows.per_row(weight, ndim=end[leaf].ndim))
        elif leaf in manifolds:
            manifold = manifolds[leaf].manifold
            tilted = _bend(x, start[leaf], end[leaf], manifold.per_vector(weight, rows), manifold)
        else:
            tilted = torch.lerp(start[leaf], end[leaf], rows.per_row(weight).to(x.dtype))
        conditional = rows.per_row(weight == 1, ndim=end[leaf].ndim)
        mixed[leaf] = torch.where(conditional, end[leaf], tilted)
    return mixed


def _tilt(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """log of p_start^(1-w) p_end^w, normalised: [N, *shape, K]. A class that either end excludes stays excluded.

    An end of weight 0 excludes nothing. Where no class is left the end stands as it is.
    """
    weight = weight.to(end.dtype)
    excluded = (_excluded(start) & (weight != 1)) | (_excluded(end) & (weight != 0))
    raised = torch.where(weight == 1, 0, (1 - weight) * start) + torch.where(weight == 0, 0, weight * end)
    raised = torch.log_softmax(torch.where(excluded, LOG_ZERO, raised), -1)
    return torch.where(excluded.all(-1, keepdim=True), end, raised)


def _excluded(log_probs: Tensor) -> Tensor:
    return log_probs <= LOG_ZERO / 2


def _bend(x: Tensor, start: Tensor, end: Tensor, weight: Tensor, manifold: Manifold) -> Tensor:
    """exp_x of log_x(start) + w (log_x(end) - log_x(start)): displacements from x are the score times sigma_t^2."""
    return manifold.exp(x, torch.lerp(manifold.log(x, start), manifold.log(x, end), weight.to(x.dtype)))
