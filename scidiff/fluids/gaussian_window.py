r"""What a Gaussian field over time tells of a window, some of whose frames are known and the others seen in noise.

Of each wave, with the memory C between frames, A known and B the others, in units of the spectrum, as noise has it:

    m = C_BA C_AA^-1 x_A,     V = C_BB - C_BA C_AA^-1 C_AB = U diag(v) U^T
    E[x_B | x_A, x_t] = m + U diag(alpha_t v / (alpha_t^2 v + sigma_t^2)) U^T (x_t - alpha_t m)

and the variance that is left, diag(U diag(v sigma_t^2 / (alpha_t^2 v + sigma_t^2)) U^T). There are 2^W sets A, each of
which is worked out once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scidiff.fluids.space_time import matrices


class GaussianWindow(nn.Module):
    """Estimates of windows [B, W, H, W'].

    Args:
        spectrum: of the data and of the noise, S_k [H, W' // 2 + 1].
        memory: c_k of `SpaceTime`, [W, H, W' // 2 + 1].
    """

    spectrum: Tensor
    predicted: Tensor
    axes: Tensor
    variance: Tensor

    def __init__(self, spectrum: Tensor, memory: Tensor) -> None:
        super().__init__()
        frames = len(memory)
        whole = matrices(memory, frames)
        parts = [_given(whole, [k for k in range(frames) if number >> k & 1]) for number in range(2**frames)]
        for name, of_each in zip(("predicted", "axes", "variance"), zip(*parts, strict=True), strict=True):
            self.register_buffer(name, torch.stack(of_each).float(), persistent=False)
        self.register_buffer("spectrum", spectrum.float(), persistent=False)

    def forward(self, x: Tensor, known: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The estimate and the standard deviation that it leaves.

        Args:
            x: [B, W, H, W'], the very values where known, alpha_t x_0 + sigma_t noise elsewhere.
            known: bool [B, W].
            alpha, sigma: [B].

        Returns:
            [B, W, H, W'], and of each wave [B, W, H, W' // 2 + 1], 0 where known.
        """
        number = (known.long() << torch.arange(known.shape[1], device=known.device)).sum(1)
        axes, variance = self.axes[number].to(x), self.variance[number].to(x)
        alpha, sigma = (level.to(x)[:, None, None, None] for level in (alpha, sigma))
        waves = torch.fft.rfft2(x).movedim(1, -1)  # [B, H, K, W]
        m = (self.predicted[number].to(x) * waves[..., None, :]).sum(-1)
        total = alpha.square() * variance + sigma.square()
        total = torch.where(total > 0, total, 1)
        along = (axes * (waves - alpha * m)[..., None]).sum(-2) * (alpha * variance / total)
        estimate = (m + (axes * along[..., None, :]).sum(-1)).movedim(-1, 1)
        left = (axes.square() * (variance * sigma.square() / total)[..., None, :]).sum(-1).movedim(-1, 1)
        return torch.fft.irfft2(estimate, s=x.shape[-2:]), (left * self.spectrum.to(x)).clamp_min(0).sqrt()


def _given(whole: Tensor, known: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """What predicts all frames from known ones, and axes and variances of what is left: [..., W, W], [..., W]."""
    frames = whole.shape[-1]
    other = [k for k in range(frames) if k not in known]
    predicted, axes = torch.zeros_like(whole), torch.zeros_like(whole)
    variance = torch.zeros_like(whole[..., 0])
    left = whole[..., other, :][..., other]
    for k in known:
        predicted[..., k, k] = 1
    if known and other:
        across = whole[..., other, :][..., known]
        weights = torch.linalg.solve(whole[..., known, :][..., known], across.mT).mT
        left = left - weights @ across.mT
        rows = torch.tensor(other)[:, None]
        predicted[..., rows, torch.tensor(known)] = weights
    if other:
        share, turned = torch.linalg.eigh(left)
        variance[..., : len(other)] = share.clamp_min(0)
        axes[..., other, : len(other)] = turned
    return predicted, axes, variance
