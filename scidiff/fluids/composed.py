r"""A denoiser of trajectories of any length out of one of windows.

    E[x_i | x_t]  ~  E_window[x_i | frames s .. s + W - 1 of x_t] + G[x_i | x_t] - G[x_i | frames s .. s + W - 1],

with s = i - floor(W / 2), moved to where a window fits: every frame is read off the window whose middle it is next to
(Rozet & Louppe, "Score-based data assimilation", 2023, section 3.2, algorithm 2, in terms of clean estimates: the noise
is independent from frame to frame, so the score of a frame is linear in its own estimate). What frames beyond the
window tell of it is left out there, as if the noisy trajectory were Markov, which it is not even if the clean one is.
G, the estimate of a Gaussian field with the data's spectrum and memory, makes up for it to second order: for such a
field what is composed is exact at every level of noise.

Without G, for a memory rho^|lag| of all waves and at sigma / alpha = a, what is left out falls as r^d with the distance
d to the window's edge, the kernel of Kalman's smoother:  r + 1 / r = (1 + rho^2 + (1 - rho^2) / a^2) / rho.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.space_time import SpaceTime
from scidiff.schedules import Schedule
from scidiff.state import Layout, State


class Composed(Denoiser):
    """The denoiser of trajectories [B, L, H, W], with no frame known.

    Args:
        window: of W frames, [B, W, H, W'].
        leaf: of the frames.
        frames: W.
        schedule: of the process.
        covariance: of the Gaussian field, for a number of frames; one without a memory leaves G out.
    """

    def __init__(
        self,
        window: Denoiser,
        *,
        leaf: str,
        frames: int,
        schedule: Schedule,
        covariance: Callable[[int], SpaceTime],
    ) -> None:
        super().__init__()
        self.window, self.leaf, self.frames = window, leaf, frames
        self.schedule, self.covariance = schedule, cache(covariance)

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop, and told nothing.

        Raises:
            ValueError: there are fewer frames than a window has.
        """
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        x = x_t[self.leaf]
        windows = x.shape[1] - self.frames + 1
        if windows < 1:
            raise ValueError(f"expected at least {self.frames} frames, got {x.shape[1]}")
        inside = torch.arange(windows, device=x.device)[:, None] + torch.arange(self.frames, device=x.device)
        parts = x[:, inside].flatten(0, 1)
        of_parts = Layout.dense(len(parts), {self.leaf: tuple(parts.shape[1:])}, device=x.device)
        clean = self.window({self.leaf: parts}, t.repeat_interleave(windows), of_parts)[self.leaf]
        if windows == 1:
            return {self.leaf: clean}
        levels = self.schedule(t[0])
        rest = clean - self.covariance(self.frames).to(x).filtered(parts, *levels)
        frame = torch.arange(x.shape[1], device=x.device)
        first = (frame - self.frames // 2).clamp(0, windows - 1)
        read = rest.unflatten(0, (len(x), windows))[:, first, frame - first]
        return {self.leaf: (read + self.covariance(x.shape[1]).to(x).filtered(x, *levels)).to(x)}
