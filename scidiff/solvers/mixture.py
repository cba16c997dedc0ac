"""Gaussian mixtures as data: a nonlinear denoiser, known exactly. Solvers are fitted and judged on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.schedules import Schedule
from scidiff.state import Layout, State


class GaussianMixture(Denoiser):
    r"""The exact denoiser of a dense leaf [B, C] whose samples are drawn from a mixture of K normal distributions.

        p(x_0) = sum_k weight_k N(mean_k, axes_k diag(std_k^2) axes_k^T)
        clean  = sum_k p(k | x_t) (mean_k + axes_k diag(gain_k) axes_k^T (x_t - alpha_t mean_k)),
        gain   = alpha_t std^2 / (alpha_t^2 std^2 + sigma_t^2)

    Args:
        schedule: the process's.
        weights: [K] or, for samples of different mixtures, [B, K]; normalised here.
        means: [K, C] or [B, K, C].
        stds: [K, C] or [B, K, C], along the principal axes.
        axes: [K, C, C], orthonormal columns; None for the coordinates' own. Only for one mixture for all.
        leaf: the leaf's name.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        weights: Tensor,
        means: Tensor,
        stds: Tensor,
        axes: Tensor | None = None,
        leaf: str = "x",
    ) -> None:
        super().__init__()
        if means.shape != stds.shape or means.shape[:-1] != weights.shape:
            raise ValueError(
                "expected weights [K] and means and stds [K, C], or all with one more axis in front, "
                f"got {tuple(weights.shape)}, {tuple(means.shape)} and {tuple(stds.shape)}"
            )
        if axes is not None and axes.shape != (*means.shape, means.shape[-1]):
            raise ValueError(f"expected axes {(*means.shape, means.shape[-1])}, got {tuple(axes.shape)}")
        self.schedule, self.leaf = schedule, leaf
        self.log_weights: Tensor
        self.means: Tensor
        self.variances: Tensor
        self.axes: Tensor | None
        self.register_buffer("log_weights", torch.log(weights / weights.sum(-1, keepdim=True)))
        self.register_buffer("means", means)
        self.register_buffer("variances", stds.square())
        self.register_buffer("axes", axes)

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x = x_t[self.leaf]
        alpha, sigma = (level.to(x.dtype)[:, None, None] for level in self.schedule(t))
        offset = x[:, None] - alpha * self.means  # [B, K, C], along the principal axes
        if self.axes is not None:
            offset = torch.einsum("bkc,kcd->bkd", offset, self.axes)
        variance = alpha.square() * self.variances + sigma.square()
        likelihood = -0.5 * (offset.square() / variance + variance.log()).sum(-1)
        posterior = torch.softmax(self.log_weights + likelihood, dim=-1)
        shift = alpha * self.variances / variance * offset
        if self.axes is not None:
            shift = torch.einsum("bkd,kcd->bkc", shift, self.axes)
        return {self.leaf: (posterior[..., None] * (self.means + shift)).sum(1)}
