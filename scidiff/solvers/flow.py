r"""The probability flow: the ordinary differential equation whose solutions have the marginals of the diffusion.

    Gaussian leaf    dx/dt = (sigma' / sigma) x + (alpha' - alpha sigma' / sigma) clean
    manifold leaf    dx/dt = -(sigma' / sigma) log_x(clean)          (a tangent vector)

with primes for d/dt (Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
section 4.3, in terms of the clean estimate). Categorical leaves have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.manifold import ManifoldProcess
from scidiff.solvers.adaptive import Control, Curved, Flat, Path, Space, integrate
from scidiff.state import Layout, State


class ProbabilityFlow:
    """The velocity of every leaf of a state, ready to be integrated.

    Args:
        denoiser: gives the clean estimates.
        processes: of every leaf, Gaussian or on a manifold.
        layout: who owns which row.
        condition: passed to the denoiser.

    Raises:
        TypeError: a leaf's process has no probability flow.
    """

    def __init__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], layout: Layout, condition: Any = None
    ) -> None:
        self.denoiser = denoiser
        self.layout = layout
        self.condition = condition
        self.processes = {leaf: _with_flow(leaf, process) for leaf, process in processes.items()}
        self.spaces: dict[str, Space] = {
            leaf: Curved(manifold=process.manifold) if isinstance(process, ManifoldProcess) else Flat()
            for leaf, process in self.processes.items()
        }

    def __call__(self, x: State, t: Tensor) -> State:
        """dx/dt of every leaf at times t, float64 [B] in (0, 1]."""
        clean = self.denoiser(x, t, self.layout, self.condition)
        velocity = {}
        for leaf, process in self.processes.items():
            rows, space = self.layout.rows(leaf), self.spaces[leaf]
            levels, rates = torch.func.jvp(process.schedule, (t,), (torch.ones_like(t),))[:2]
            (alpha, sigma), (alpha_rate, sigma_rate) = levels, rates
            shrink = sigma_rate / sigma
            if isinstance(process, ManifoldProcess):
                towards = space.per_vector(-shrink, rows).to(x[leaf].dtype)
                velocity[leaf] = towards * process.manifold.log(x[leaf], clean[leaf])
            else:
                here, there = (rows.per_row(c).to(x[leaf].dtype) for c in (shrink, alpha_rate - alpha * shrink))
                velocity[leaf] = here * x[leaf] + there * clean[leaf]
        return velocity


@torch.no_grad()
def sample_adaptively(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    layout: Layout,
    noise: Noise,
    *,
    end: float = 1e-3,
    control: Control | None = None,
    condition: Any = None,
    initial: State | None = None,
) -> Path:
    """Draw samples by the probability flow with steps of each sample's own, then denoise what is left at `end`.

    The denoiser is called 2 + 6 `control.attempts` times.

    Args:
        denoiser: gives the clean estimates.
        processes: of every leaf, Gaussian or on a manifold.
        layout: who owns which row.
        noise: the prior's, at step 0: each sample is a function of (seed, index), whatever the batch.
        end: the time at which the flow ends and the clean estimate is taken, in (0, 1).
        control: tolerances.
        condition: passed to the denoiser.
        initial: the state at t=1, in place of the prior.
    """
    if not 0 < end < 1:
        raise ValueError(f"expected an end in (0, 1), got {end}")
    flow = ProbabilityFlow(denoiser, processes, layout, condition)
    x = dict(initial) if initial else {}
    for leaf, process in processes.items():
        rows = layout.rows(leaf)
        x[leaf] = x[leaf] if leaf in x else process.prior(rows, noise.at(leaf, 0, rows))
    path = integrate(flow, x, flow.spaces, layout, start=1.0, end=end, control=control)
    clean = denoiser(path.state, path.time, layout, condition)
    return Path(
        state={leaf: clean[leaf] for leaf in processes},
        time=path.time,
        arrived=path.arrived,
        kept=path.kept,
        refused=path.refused,
    )


def _with_flow(leaf: str, process: Process) -> GaussianProcess | ManifoldProcess:
    if not isinstance(process, GaussianProcess | ManifoldProcess):
        raise TypeError(f"expected a process with a probability flow for {leaf!r}, got {type(process).__name__}")
    return process
