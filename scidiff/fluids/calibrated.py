r"""The covariance of a field, and what a denoiser leaves of it.

A network sees more than Wiener's filter does. How much more was measured, by principal axis and level of noise: with
the axes a_km and variances v_km of `Covariance`, and s the level of noise,

    Cov[x_0 | x_0 + s noise] = sum_km share_km(s) v_km s^2 / (v_km + s^2) a_km a_km^*,

    share_km(s) = E |<a_km, x_0 - clean>|^2 (v_km + s^2) / (v_km s^2).

This is the metric in which clean estimates are moved onto facts (Peng et al., "Improving diffusion models for inverse
problems using optimal posterior covariance", 2024, arXiv 2402.02149). Its size cancels; what counts is that a network
knows some waves better than others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from scidiff.denoiser import Denoiser
from scidiff.fluids.covariance import Covariance
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Layout

LEVELS = torch.logspace(-2, 1.2, 17, dtype=torch.float64)  # sigma / alpha at which a denoiser is looked at
PART = 16  # fields that are denoised together
ALIKE = 3  # axes whose shares are taken together


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated(Covariance):
    """A covariance whose posterior is what a denoiser leaves.

    Attributes:
        levels: s, float64 [L], rising.
        share: [L, W // 2 + 1, H], of what Wiener's filter leaves along each axis; between levels it is linear in log s,
            beyond them it is that of the last one.
    """

    levels: Tensor
    share: Tensor

    @classmethod
    def of_shares(cls, covariance: Covariance, levels: Tensor, share: Tensor) -> Calibrated:
        """A covariance with the shares of its axes that a denoiser leaves."""
        return cls(
            axes=covariance.axes, variance=covariance.variance, width=covariance.width, levels=levels, share=share
        )

    def to(self, like: Tensor) -> Self:
        """The same, on the device of a tensor, in float64."""
        moved = {name: getattr(self, name).to(like.device) for name in ("axes", "variance", "levels", "share")}
        return replace(self, **moved)

    def posterior(self, noise: Tensor) -> Covariance:
        """What the denoiser leaves of a field in white noise of a variance `noise`, a number >= 0; inf: all."""
        left = super().posterior(noise)
        share = torch.ones_like(left.variance) if torch.isinf(torch.as_tensor(noise)) else self._share(noise)
        return Covariance(axes=left.axes, variance=left.variance * share, width=left.width)

    def _share(self, noise: Tensor) -> Tensor:
        """share(s) for noise = s^2."""
        logs = self.levels.log()
        level = torch.as_tensor(noise).to(logs).log() / 2
        above = torch.searchsorted(logs, level).clamp(1, len(logs) - 1)
        weight = ((level - logs[above - 1]) / (logs[above] - logs[above - 1])).clamp(0, 1)
        return torch.lerp(self.share[above - 1], self.share[above], weight.to(self.share))


def calibrated(
    covariance: Covariance, denoiser: Denoiser, process: GaussianProcess, fields: Tensor, *, leaf: str, seed: int
) -> Calibrated:
    """Look at what a denoiser leaves of fields that it is shown in noise.

    A share is that of `ALIKE` axes that are neighbours in variance, as which of two axes of one variance is which is
    chance. One that comes out above 1, where the covariance itself is not exact, is taken for 1.

    Args:
        covariance: of the fields.
        denoiser: of the leaf.
        process: of the leaf.
        fields: [S, 1, H, W], in units in which the covariance is, and such as the denoiser learned from.
        leaf: its name.
        seed: of the noise.
    """
    shares = []
    for level in LEVELS:
        power = torch.zeros_like(covariance.variance)
        for number in torch.arange(len(fields)).split(PART):
            clean = _seen(denoiser, process, fields[number], level, leaf=leaf, noise=Noise(seed=seed, index=number))
            power += covariance.coordinates((fields[number] - clean)[:, 0]).square().sum(-1).sum(0)
        filtered = covariance.posterior(level.square()).variance * covariance.multiplicity()[:, None]
        power, filtered = (avg_pool1d(part, ALIKE, 1, ALIKE // 2) for part in (power / len(fields), filtered))
        shares.append(torch.where(filtered > 0, power / torch.where(filtered > 0, filtered, 1), 1).clamp_max(1))
    return Calibrated.of_shares(covariance, LEVELS, torch.stack(shares))


@torch.no_grad()
def _seen(
    denoiser: Denoiser, process: GaussianProcess, fields: Tensor, level: Tensor, *, leaf: str, noise: Noise
) -> Tensor:
    """The clean estimates of fields that are shown in noise of a level sigma / alpha, as an ensemble is drawn."""
    layout = Layout.dense(len(fields), {leaf: tuple(fields.shape[1:])})
    t = process.schedule.time(-2 * level.log()).expand(len(fields))
    x_t = process.corrupt(fields, t, layout.rows(leaf), noise.at(leaf, 0, layout.rows(leaf)))
    with torch.autocast(fields.device.type, dtype=torch.bfloat16):
        return denoiser({leaf: x_t}, t, layout)[leaf]
