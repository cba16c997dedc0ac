r"""Trajectories from sparse and noisy observations in time: data assimilation with a diffusion model as the prior.

The unknown is where the flow starts; the equation does the rest. With A the map from a start to what sensors see
(`Observed`), linearised at the clean estimate as in Gauss-Newton's method,

    E[x_0 | x_t, y] = clean + V A'^T (A' V A'^T + noise^2)^-1 (y - A(clean)),     V = Cov[x_0 | x_t],

where V is that of a Gaussian field of the data's covariance, as in `Conditioned`, whose case A' = A, noise = 0 is. The
system is solved by conjugate gradients: each round costs one tangent and one adjoint run of the equation. How wrong the
linearised A' is grows with the time that errors had to grow, and with V: to the noise is added  trace V / n (t / T)^2,
with T = `TURNS` over the vorticity's standard deviation, which reads the window from its start on as V shrinks.

Observed at the end alone, it inverts the flow. With a Gaussian field's own denoiser it is an ensemble of 4D-Var.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.ensemble import plan
from scidiff.fluids.model import LEAF, FlowModel
from scidiff.fluids.trajectory import Observed, trajectory
from scidiff.guidance.conjugate_gradients import conjugate_gradients
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.sampling import sample
from scidiff.state import Layout, State

TILE = 8
CALLS = 16
ROUNDS = 4  # of the conjugate gradients
TURNS = 2.0
NOISE = 1.5  # of the reverse SDE, 1 is the plain one


class Assimilated(Denoiser):
    """The denoiser whose clean estimates start flows that go by what was observed.

    Args:
        denoiser: what is told.
        process: of the leaf.
        observed: what was seen.
        covariance: of the data.
        rounds: of the conjugate gradients.
        turns: T in units of 1 / (the vorticity's standard deviation); infinity for a linear flow.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: GaussianProcess,
        observed: Observed,
        covariance: Covariance,
        *,
        rounds: int = ROUNDS,
        turns: float = TURNS,
    ) -> None:
        super().__init__()
        self.denoiser, self.process, self.observed = denoiser, process, observed
        self.covariance, self.rounds, self.turns = covariance, rounds, turns

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop."""
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        alpha, sigma = self.process.schedule(t[0])
        left = self.covariance.posterior((sigma / alpha).square())
        bent = left.variance.mean() * (self.observed.lags * self.observed.scale / self.turns).square()
        outputs = self.denoiser(x_t, t, layout, condition)
        with torch.autocast(t.device.type, enabled=False):
            found = self._moved(outputs[LEAF], left, self.observed.noise**2 + bent)
        return outputs | {LEAF: found}

    def _moved(self, start: Tensor, covariance: Covariance, variance: Tensor) -> Tensor:
        """A step of Gauss and Newton from starts [B, 1, H, W] with errors of a covariance; of what is seen, [M]."""
        predicted, pull = torch.func.vjp(self.observed.seen, start)

        def spread(weights: Tensor) -> Tensor:
            return covariance.spread(pull(weights)[0]).to(start)

        def matrix(weights: Tensor) -> Tensor:
            tangent = torch.func.jvp(self.observed.seen, (start,), (spread(weights),))[1]
            return tangent + variance.to(start) * weights

        off = self.observed.values.to(predicted) - predicted
        return start + spread(conjugate_gradients(matrix, off, iterations=self.rounds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """Flows that were drawn.

    Attributes:
        vorticity: float64 [S, T, H, W], in its own unit.
        times: [T], from the start on.
        calls: of the network for each.
        seed: of the run.
    """

    vorticity: Tensor
    times: Tensor
    calls: int
    seed: int

    def __len__(self) -> int:
        return len(self.vorticity)


def draw(
    model: FlowModel,
    observed: Observed,
    *,
    samples: int,
    steps: tuple[int, ...],
    seed: int = 0,
    calls: int = CALLS,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Draw trajectories that go by what was observed, each a function of (seed, number) alone.

    Args:
        model: the weights.
        observed: what was seen, in units of the model's scale.
        samples: how many.
        steps: of time, that are wanted, ascending.
        seed: of the run.
        calls: of the network for each.
        progress: called with how many are done, of how many.
    """
    device = model.prior.mean.device
    parts = []
    for first in range(0, samples, TILE):
        layout = Layout.dense(TILE, {LEAF: (1, *model.config.shape)}, device=device)
        noise = Noise(seed=seed, index=first + torch.arange(TILE, device=device))
        start = model.config.scale * starts(model, observed, layout, noise, calls)[:, 0]
        parts.append(torch.stack(list(trajectory(observed.equation, start, steps, step=observed.step)), 1))
        if progress is not None:
            progress(min(first + TILE, samples), samples)
    times = observed.step * torch.tensor(steps, dtype=torch.float64)
    return Trajectories(vorticity=torch.cat(parts)[:samples], times=times, calls=calls, seed=seed)


def starts(model: FlowModel, observed: Observed, layout: Layout, noise: Noise, calls: int) -> Tensor:
    """Where the trajectories of one batch start, in units of the scale: float64 [B, 1, H, W]."""
    process = model.processes[LEAF]
    if not isinstance(process, GaussianProcess):
        raise TypeError(f"expected a Gaussian process, got {type(process).__name__}")
    told = Assimilated(model.denoiser, process, observed, model.covariance)
    with torch.autocast(noise.index.device.type, dtype=torch.bfloat16):
        done = sample(told, model.processes, {LEAF: plan(model, calls, noise=NOISE)}, layout, noise)
    return done.state[LEAF].double()
