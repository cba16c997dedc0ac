"""Problems for `solvers.py` whose denoiser is known exactly, and where the probability flow takes their starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.integrate
import torch
from _solver_peers import TOP, Levels, Runner
from torch import Tensor

from scidiff.noise import Noise
from scidiff.schedules import Karras
from scidiff.solvers.mixture import GaussianMixture
from scidiff.state import Layout

F64 = torch.float64


def normal(name: str, seed: int, batch: int, *shape: int) -> Tensor:
    """Standard normal numbers, float64 [batch, *shape]."""
    layout = Layout.dense(batch, {name: shape})
    return Noise(seed=seed, index=torch.arange(batch)).at(name, 0, layout.rows(name)).normal(dtype=F64)


def ring() -> dict[str, Tensor]:
    """Eight modes of deviation 0.2 on a circle; variance 1 along each coordinate."""
    angle = torch.arange(8, dtype=F64) * (2 * math.pi / 8)
    radius = math.sqrt(2 * (1 - 0.2**2))
    means = radius * torch.stack([angle.cos(), angle.sin()], -1)
    return {"weights": torch.ones(8, dtype=F64), "means": means, "stds": torch.full((8, 2), 0.2, dtype=F64)}


def anisotropic() -> dict[str, Tensor]:
    """Five modes in 64 dimensions: half of the variance, 1 in the mean over coordinates, lies between them.

    The deviations within a mode fall geometrically by a factor of 100, along random axes of its own.
    """
    means = normal("means", 0, 1, 5, 64)[0]
    means = means - means.mean(0)
    stds = torch.logspace(0, -2, 64, dtype=F64).expand(5, 64)
    return {
        "weights": torch.ones(5, dtype=F64),
        "means": means * (0.5 / means.square().mean()).sqrt(),
        "stds": stds * (0.5 / stds.square().mean()).sqrt(),
        "axes": torch.linalg.qr(normal("axes", 0, 1, 5, 64, 64)[0])[0],
    }


PROBLEMS = {"2-D ring": ring, "64-D anisotropic mixture": anisotropic}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Starts z [B, C] and where the probability flow takes TOP z, for data of a mixture."""

    exact: GaussianMixture  # at alpha = 1, with the noise level for the time
    starts: Tensor
    ends: Tensor

    @classmethod
    def make(cls, mixture: Mapping[str, Tensor], starts: Tensor) -> Problem:
        exact = GaussianMixture(Karras(sigma_max=1.0, rho=1.0), **mixture)
        shape = starts.shape

        def velocity(log_level: float, y: np.ndarray) -> np.ndarray:
            """dy / d log sigma = y - clean."""
            state = torch.from_numpy(y).reshape(shape)
            found: np.ndarray = (state - clean_of(exact, state, torch.tensor(log_level).exp())).flatten().numpy()
            return found

        last = 1e-4
        interval, start = (math.log(TOP), math.log(last)), TOP * starts.flatten().numpy()
        solution = scipy.integrate.solve_ivp(velocity, interval, start, method="DOP853", rtol=1e-7, atol=1e-7)
        ends = torch.from_numpy(solution.y[:, -1].copy()).reshape(shape)
        return cls(exact=exact, starts=starts, ends=clean_of(exact, ends, torch.tensor(last)))

    def errors(self, runner: Runner, calls: int) -> dict[str, float]:
        """Distance of a runner's ends from the true ones, in both measures; ValueError if it calls too often."""
        called = 0

        def denoise(x: Tensor, levels: Levels) -> Tensor:
            nonlocal called
            called += 1
            alpha, sigma = levels()
            return clean_of(self.exact, x / alpha, sigma / alpha)

        ends = runner(denoise, self.starts)
        if called > calls:
            raise ValueError(f"expected at most {calls} calls of the denoiser, got {called}")
        squares = (ends - self.ends).square().mean(-1)
        return {"root mean square": float(squares.mean().sqrt()), "mean": float(squares.sqrt().mean())}


def clean_of(exact: GaussianMixture, y: Tensor, level: Tensor) -> Tensor:
    """The clean estimate of y = x_0 + level noise."""
    layout = Layout.dense(len(y), {"x": tuple(y.shape[1:])})
    return exact({"x": y}, level.to(y.dtype).expand(len(y)), layout)["x"]
