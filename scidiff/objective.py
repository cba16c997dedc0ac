r"""The one forward path: corrupt the data, denoise it, and compare.

    loss      E_t[ sum over leaves of weight * process.loss ]                 what training minimises
    bound     KL(q(x_1|x_0) || prior) + diffusion + E[-log p(x_0 | x_start)]   an upper bound of -log p(x_0), in nats

Times are functions of the keyed noise, like everything random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Draw, Noise, philox
from scidiff.processes.base import Process
from scidiff.schedules import Schedule
from scidiff.state import Layout, Rows, State

_GOLDEN = 0x9E3779B9  # 2^32 divided by the golden ratio, odd: i -> i * _GOLDEN runs through all words mod 2^32
_WORD = 0xFFFFFFFF

Times = Callable[[Noise], Tensor]
"""From keyed noise to the time of each sample, float64 [B]."""

Coupling = Callable[[Tensor, Tensor, Rows], Tensor]
"""From data and noise [N, *shape] to the noise that goes with the data: see `scidiff.coupling`."""


def stratified(noise: Noise) -> Tensor:
    """Times in (0, 1), float64 [B], spread evenly over any run of consecutive samples.

    t_i = (u + i / golden ratio) mod 1, a Kronecker sequence with an offset u drawn by the seed. Each t_i is uniform and
    a function of (seed, index) alone, whatever the batch.
    """
    zero = torch.zeros((), dtype=torch.int64, device=noise.index.device)
    offset = philox((zero, 0, 0, 0), (noise.seed & _WORD, (noise.seed >> 32) & _WORD))[0]
    return (((offset + noise.index * _GOLDEN) & _WORD).double() + 0.5) * 2.0**-32


@dataclass(frozen=True, kw_only=True)
class DiscreteTimes:
    """The times 1/steps, 2/steps .. 1, equally likely (DDPM, D3PM)."""

    steps: int

    def __call__(self, noise: Noise) -> Tensor:
        return torch.ceil(stratified(noise) * self.steps) / self.steps


@dataclass(frozen=True, kw_only=True)
class NormalLogSigma:
    """log(sigma_t / alpha_t) normally distributed: EDM's noise levels (Karras et al. 2022, table 1)."""

    schedule: Schedule
    mean: float = -1.2
    std: float = 1.2

    def __call__(self, noise: Noise) -> Tensor:
        return self.schedule.time(-2 * (self.mean + self.std * torch.special.ndtri(stratified(noise))))


@dataclass(frozen=True, kw_only=True)
class LogitNormalTimes:
    """logit(t) normally distributed: more work in the middle of a flow (Esser et al., Stable Diffusion 3, 2024)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, noise: Noise) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(stratified(noise)))


def loss(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    weights: Mapping[str, float] | None = None,
    times: Times = stratified,
    couplings: Mapping[str, Coupling] | None = None,
    condition: Any = None,
) -> Tensor:
    """The training loss of each sample: [B].

    Args:
        denoiser: gives the clean estimates, and where it learns them the variances ("leaf.variance").
        processes: of every leaf; each brings its own loss.
        x_0: the data.
        layout: who owns which row.
        noise: the index of a sample must differ from visit to visit.
        weights: factor of each leaf's loss, 1 where it is not named.
        times: the time of each sample.
        couplings: of Gaussian leaves whose noise is paired with the data.
        condition: passed to the denoiser.
    """
    weights, couplings = weights or {}, couplings or {}
    t = times(noise)
    x_t = {}
    for leaf, process in processes.items():
        rows = layout.rows(leaf)
        draw = noise.at(leaf, 0, rows)
        if leaf in couplings:
            mixes = cast(Mixes, process)
            paired = couplings[leaf](x_0[leaf], mixes.unit_noise(rows, draw, dtype=x_0[leaf].dtype), rows)
            x_t[leaf] = mixes.mix(x_0[leaf], paired, t, rows)
        else:
            x_t[leaf] = process.corrupt(x_0[leaf], t, rows, draw)
    clean = denoiser.forward_training(x_t, t, layout, noise, condition)
    total = torch.zeros(layout.batch, device=t.device)
    for leaf, process in processes.items():
        rows, factor = layout.rows(leaf), weights.get(leaf, 1.0)
        total = total + factor * process.loss(clean[leaf], x_0[leaf], x_t[leaf], t, rows)
        variance = clean.get(f"{leaf}.variance")
        if variance is not None:
            learned = cast(LearnsVariance, process)
            total = total + factor * learned.variance_loss(variance, clean[leaf], x_0[leaf], t, rows)
    return total


class Mixes(Protocol):
    """What a coupling asks of a process."""

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str = ...) -> Tensor: ...
    def mix(self, x_0: Tensor, noise: Tensor, t: Tensor, rows: Rows) -> Tensor: ...


class LearnsVariance(Protocol):
    """What a learned variance asks of a process."""

    def variance_loss(self, variance: Tensor, clean: Tensor, x_0: Tensor, t: Tensor, rows: Rows) -> Tensor: ...


@runtime_checkable
class Bounded(Protocol):
    """What the bound asks of a process: its terms, each in nats a sample, [B]."""

    def bound_prior(self, x_0: Tensor, rows: Rows) -> Tensor:
        """KL(q(x_1 | x_0) || prior)."""

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), p by the clean estimate."""

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The limit of `bound_step` / (t - s) as s approaches t."""

    def bound_data(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-log p(x_0 | x_t)."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The terms of the variational bound of -log p(x_0), in nats a sample: [B] each.

    Attributes:
        prior: L_T, what x_1 still tells of the data.
        diffusion: the sum of all L_t.
        data: L_0, the reconstruction from x_start.
    """

    prior: Tensor
    diffusion: Tensor
    data: Tensor

    @property
    def total(self) -> Tensor:
        """The bound: [B]."""
        return self.prior + self.diffusion + self.data


@torch.no_grad()
def bound(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    start: float,
    steps: int | None = None,
    condition: Any = None,
) -> Bound:
    r"""An unbiased estimate of the variational bound of -log p(x_0), from one time a sample and two network calls.

        -log p(x_0) <= KL(q(x_1|x_0) || p(x_1)) + sum_i E KL(q(x_s|x_t,x_0) || p(x_s|x_t)) + E[-log p(x_0|x_start)]

    (Ho et al. 2020, eq. 5; Kingma et al., VDM, 2021, eq. 11; for classes D3PM, eq. 1; on manifolds Huang et al. 2022).
    Leaves of a mixed state are bounded together: x_t joins them, each step is a product over them.

    Args:
        denoiser: gives the clean estimates.
        processes: of every leaf: Gaussian, categorical, or on a manifold.
        x_0: the data.
        layout: who owns which row.
        noise: average over many indices to estimate the bound of one sample.
        start: the least time, in [0, 1); above 0 for Gaussian leaves and those on a manifold.
        steps: number of equal steps from 1 to `start`, or None for infinitely many, which leaves on a manifold need.
        condition: passed to the denoiser.

    Raises:
        TypeError: a leaf's process has no bound.
        ValueError: `start` is outside [0, 1), or `steps` is given where it has no closed form.
    """
    if not 0 <= start < 1:
        raise ValueError(f"expected a start in [0, 1), got {start}")
    _check_bounded(processes)
    unit = stratified(noise)
    span = 1 - start
    upper = unit if steps is None else torch.ceil(unit * steps) / steps
    t, first = start + span * upper, torch.full_like(unit, start)
    terms = {}
    for name, time, step in (("diffusion", t, 0), ("data", first, 1)):
        x_t = {}
        for leaf, process in processes.items():
            rows = layout.rows(leaf)
            x_t[leaf] = process.corrupt(x_0[leaf], time, rows, noise.at(leaf, step, rows))
        clean = denoiser(x_t, time, layout, condition)
        parts = torch.zeros(layout.batch, dtype=torch.float64, device=unit.device)
        for leaf, process in processes.items():
            rows, bounded = layout.rows(leaf), cast(Bounded, process)
            seen = clean[leaf], x_0[leaf], x_t[leaf]
            if name == "data":
                parts = parts + bounded.bound_data(*seen, time, rows)
            elif steps is None:
                parts = parts + span * bounded.bound_rate(*seen, time, rows)
            else:
                parts = parts + steps * bounded.bound_step(*seen, rows, s=time - span / steps, t=time)
        terms[name] = parts
    prior = [cast(Bounded, process).bound_prior(x_0[leaf], layout.rows(leaf)) for leaf, process in processes.items()]
    return Bound(prior=torch.stack(prior).sum(0), diffusion=terms["diffusion"], data=terms["data"])


def _check_bounded(processes: Mapping[str, Process]) -> None:
    for leaf, process in processes.items():
        if not isinstance(process, Bounded):
            raise TypeError(
                f"expected a process with a variational bound for leaf {leaf!r}, got {type(process).__name__}"
            )
