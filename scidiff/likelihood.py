r"""Log-likelihood by the probability flow.

Along a solution of dx/dt = v(x, t) the density obeys d log p_t(x_t)/dt = -div v (Chen et al., "Neural ordinary
differential equations", 2018; Song et al. 2021, eq. 39), so with the data at `start`, close to 0, and the prior at 1,

    log p_start(x) = log p_1(x_1) + int_start^1 div v(x_t, t) dt

The integral is carried along with the state by the adaptive solver. It is the density of what the model would generate
from its prior, in nats: relative to Lebesgue measure for Gaussian leaves (on the subspace of zero mean for those that
have it, of (n - 1) d dimensions for n points), to arc length for angles, to the Haar measure for rotations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess, centred
from scidiff.processes.manifold import ManifoldProcess
from scidiff.solvers.adaptive import Control, Flat, integrate
from scidiff.solvers.flow import ProbabilityFlow
from scidiff.state import Layout, Rows, State

_LOG_DENSITY = "log density"


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """What `log_prob` found.

    Attributes:
        log_prob: [B] float64, nats a sample.
        latent: the state at t=1 that the flow takes to the data.
        arrived: [B] bool, whether the flow reached t=1 within the attempts. Where it did not, `log_prob` is no result.
    """

    log_prob: Tensor
    latent: State
    arrived: Tensor


class Divergence(ABC):
    """How the divergence of the flow is found: a mean of v^T J v over probes v."""

    @abstractmethod
    def probes(self, flow: ProbabilityFlow, example: State) -> Iterator[tuple[State, float]]:
        """Tangent vectors of every leaf, and the weight of each."""


class Exact(Divergence):
    """The trace itself: one backward pass for each coordinate of the largest sample."""

    def probes(self, flow: ProbabilityFlow, example: State) -> Iterator[tuple[State, float]]:
        """The unit vectors. Samples do not see each other, so that one probe serves the same coordinate of all."""
        for leaf, vectors in example.items():
            rows = flow.layout.rows(leaf)
            width = math.prod(vectors.shape[1:])
            for local in range(int(rows.local.max()) + 1 if len(vectors) else 0):
                for element in range(width):
                    probe = torch.zeros(len(vectors), width, dtype=vectors.dtype, device=vectors.device)
                    probe[:, element] = (rows.local == local).to(probe)
                    yield {leaf: probe.reshape(vectors.shape)}, 1.0


@dataclass(frozen=True, kw_only=True)
class Hutchinson(Divergence):
    """An unbiased estimate from random signs (Hutchinson 1990; FFJORD, Grathwohl et al. 2019), the same at all times.

    Attributes:
        noise: keyed randomness, of the samples in the batch.
        probes_per_sample: how many to average over, one backward pass each.
    """

    noise: Noise
    probes_per_sample: int = 1

    def __post_init__(self) -> None:
        if self.probes_per_sample < 1:
            raise ValueError(f"expected at least one probe, got {self.probes_per_sample}")

    def probes(self, flow: ProbabilityFlow, example: State) -> Iterator[tuple[State, float]]:
        """Independent signs for every coordinate of every leaf."""
        for number in range(self.probes_per_sample):
            signs = {}
            for leaf, vectors in example.items():
                draw = self.noise.at(leaf, number, flow.layout.rows(leaf))
                uniform = draw.uniform(shape=tuple(vectors.shape[1:]), kind="probe")
                signs[leaf] = torch.where(uniform < 0.5, -1.0, 1.0).to(vectors.dtype)
            yield signs, 1.0 / self.probes_per_sample


def log_prob(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    *,
    divergence: Divergence | None = None,
    start: float = 1e-5,
    control: Control | None = None,
    condition: Any = None,
) -> Likelihood:
    """The log-density of data under the model's probability flow.

    Args:
        denoiser: gives the clean estimates; differentiable.
        processes: of every leaf, Gaussian or on a manifold. A density of several leaves is their joint density.
        x_0: the data. Data of `ZeroMeanGaussianProcess` must be centred.
        layout: who owns which row.
        divergence: `Exact()`, the default, or `Hutchinson(noise=...)`.
        start: the time at which the data are placed, at alpha_start x_0: the density is that of data blurred by noise
            of standard deviation sigma_start / alpha_start.
        control: tolerances; by default 1e-6, with an end as soon as all samples have arrived.
        condition: passed to the denoiser.

    Raises:
        TypeError: a leaf has no probability flow (a categorical one).
        ValueError: `start` is not in (0, 1).
    """
    if not 0 < start < 1:
        raise ValueError(f"expected a start in (0, 1), got {start}")
    flow = ProbabilityFlow(denoiser, processes, layout, condition)
    control = control or Control(relative=1e-6, absolute=1e-6, attempts=500, look_every=5)
    device = next(iter(x_0.values())).device
    joint = Layout(
        batch=layout.batch,
        leaves={**layout.leaves, **Layout.dense(layout.batch, {_LOG_DENSITY: ()}, device=device).leaves},
    )
    x, gained = {}, torch.zeros(layout.batch, dtype=torch.float64, device=device)
    for leaf, process in flow.processes.items():
        x[leaf], change = _placed(process, x_0[leaf], start, layout.rows(leaf))
        gained = gained + change
    x[_LOG_DENSITY] = torch.zeros_like(gained)
    chosen = (divergence or Exact()).probes(flow, _still(flow, x))
    probes = [(_admissible(flow, probe), weight) for probe, weight in chosen]

    def field(x: State, t: Tensor) -> State:
        velocity, rate = _velocity_and_divergence(flow, x, t, probes)
        return {**velocity, _LOG_DENSITY: rate}

    path = integrate(field, x, {**flow.spaces, _LOG_DENSITY: Flat()}, joint, start=start, end=1.0, control=control)
    total = gained + path.state.pop(_LOG_DENSITY)
    for leaf, process in flow.processes.items():
        total = total + _log_prior(process, path.state[leaf], layout.rows(leaf))
    return Likelihood(log_prob=total, latent=path.state, arrived=path.arrived)


def _velocity_and_divergence(
    flow: ProbabilityFlow, x: State, t: Tensor, probes: list[tuple[State, float]]
) -> tuple[State, Tensor]:
    """v and sum over probes of probe^T (d v / d theta) probe at theta = 0, x moved by theta: float64 [B]."""
    with torch.enable_grad():
        theta = {leaf: vectors.requires_grad_() for leaf, vectors in _still(flow, x).items()}
        moved = {leaf: space.move(x[leaf].detach(), theta[leaf]) for leaf, space in flow.spaces.items()}
        velocity = flow(moved, t)
        total = torch.zeros(flow.layout.batch, dtype=torch.float64, device=t.device)
        for probe, weight in probes:
            along = sum(((velocity[leaf] * vectors).sum() for leaf, vectors in probe.items()), torch.zeros(()).to(t))
            pulled = torch.autograd.grad(along, list(theta.values()), retain_graph=True, materialize_grads=True)
            for leaf, gradient in zip(theta, pulled, strict=True):
                if leaf in probe:
                    total = total + weight * _total((gradient * probe[leaf]).double(), flow.layout.rows(leaf))
    return {leaf: value.detach() for leaf, value in velocity.items()}, total.detach()


def _still(flow: ProbabilityFlow, x: State) -> State:
    """Zero tangent vectors at x."""
    still = {}
    for leaf, process in flow.processes.items():
        shape: tuple[int, ...] = x[leaf].shape
        if isinstance(process, ManifoldProcess):
            shape = (len(x[leaf]), *process.manifold.lead(flow.layout.rows(leaf)), *process.manifold.vector)
        still[leaf] = x[leaf].new_zeros(shape)
    return still


def _admissible(flow: ProbabilityFlow, probe: State) -> State:
    """The part of a probe that moves something: within the mask, and of zero mean where states are."""
    kept = {}
    for leaf, vectors in probe.items():
        rows, process = flow.layout.rows(leaf), flow.processes[leaf]
        there = vectors if rows.mask is None else torch.where(_of_vectors(rows.mask, process, vectors), vectors, 0)
        kept[leaf] = centred(there, rows) if isinstance(process, ZeroMeanGaussianProcess) else there
    return kept


def _of_vectors(mask: Tensor, process: GaussianProcess | ManifoldProcess, vectors: Tensor) -> Tensor:
    """A mask of elements as a mask of tangent vectors."""
    if isinstance(process, GaussianProcess) or not process.manifold.point:
        return mask
    points = mask.flatten(-len(process.manifold.point))[..., 0]
    return points.reshape(*points.shape, *([1] * len(process.manifold.vector))).expand_as(vectors)


def _placed(
    process: GaussianProcess | ManifoldProcess, x_0: Tensor, start: float, rows: Rows
) -> tuple[Tensor, Tensor | float]:
    """Data at the time `start`, and the log-volume the placing takes away: alpha_start x_0, d log alpha_start."""
    if isinstance(process, ManifoldProcess):
        return x_0, 0.0
    alpha, _ = process.schedule(torch.full((rows.batch,), start, dtype=torch.float64, device=x_0.device))
    return rows.per_row(alpha).to(x_0.dtype) * x_0, _dimension(process, x_0, rows) * alpha.log()


def _log_prior(process: GaussianProcess | ManifoldProcess, x: Tensor, rows: Rows) -> Tensor:
    """log p_1: [B]. Uniform on a manifold, N(0, sigma_1^2) in the space of a Gaussian leaf."""
    if isinstance(process, ManifoldProcess):
        points = rows.sum(torch.ones_like(x, dtype=torch.float64)) / math.prod(process.manifold.point)
        return points * process.manifold.log_uniform
    _, sigma = process.schedule(torch.ones(rows.batch, dtype=torch.float64, device=x.device))
    scale = (2 * math.pi * sigma.square()).log()
    return -0.5 * (rows.sum(x.double().square()) / sigma.square() + _dimension(process, x, rows) * scale)


def _dimension(process: GaussianProcess, x: Tensor, rows: Rows) -> Tensor:
    """Number of degrees of freedom of each sample, float64 [B]: that of its elements, less a mean if that is held."""
    count = rows.sum(torch.ones_like(x, dtype=torch.float64))
    if isinstance(process, ZeroMeanGaussianProcess):
        return (count - math.prod(rows.shape)).clamp_min(0)
    return count


def _total(v: Tensor, rows: Rows) -> Tensor:
    """Sum of tangent vectors' coordinates over each sample: [B]."""
    v = v.reshape(len(v), -1).sum(-1)
    return v if rows.single else v.new_zeros(rows.batch).index_add(0, rows.owner, v)
