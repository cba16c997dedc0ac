r"""Solvers of leaves on a manifold: geodesic steps in the frame that the manifold carries along.

The clean estimate of such a leaf is the Tweedie point, so that v = log_{x_t}(clean) = sigma_t^2 score, and the
probability flow, followed in the noise level sigma, reads (Jing et al., "Torsional diffusion", 2022; De Bortoli et al.,
"Riemannian score-based generative modelling", 2022)

    dx/dsigma = -v / sigma        (a tangent vector; v / sigma is bounded)

A step is taken in the Lie algebra and applied by the exponential map, x_s = exp_{x_t}(...), so the state never leaves
the manifold. One geodesic a step is enough up to order two: what the brackets of the algebra add in a step of length h
is of order h^3 (Magnus' expansion; Iserles et al., "Lie-group methods", Acta Numerica 2000).

The rules here follow any `times` and `reach`, so that the leaf keeps pace with a plan for the other leaves of a state:
equal times leave it as it is, and where the plan goes back up it is noised again by its process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.manifold import ManifoldProcess
from scidiff.solvers.base import Trace, held
from scidiff.solvers.following import Following, everywhere
from scidiff.state import Rows


@dataclass(frozen=True, kw_only=True)
class GeodesicEuler(Following):
    r"""Geodesic Euler steps, deterministic (order 1) or with fresh noise, as DDIM has it (weak order 1).

        x_s = exp_{x_t}( (1 - sqrt(sigma_s^2 - fresh^2) / sigma_t) v + fresh noise ),
        fresh^2 = eta^2 sigma_s^2 (1 - sigma_s^2 / sigma_t^2)

    At eta = 0 it is Euler's method in sigma, exact for data at one point; at eta = 1 a geodesic random walk with the
    variance of the posterior.

    Attributes:
        eta: fresh noise, in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        """One step."""
        process = _on_manifold(process)
        x, clean, manifold = held(trace.x[k]), held(trace.clean[k]), process.manifold
        sigma_t, sigma_s = _sigma(process, self.times[k], x, rows), _sigma(process, self.reach[k], x, rows)
        fresh = self.eta * sigma_s * (1 - (sigma_s / sigma_t).square()).sqrt()
        kept = (sigma_s.square() - fresh.square()).clamp_min(0).sqrt() / sigma_t
        v = manifold.per_vector(1 - kept, rows).to(x.dtype) * manifold.log(x, clean)
        if self.eta > 0:
            noise = manifold.normal(rows, draw(k + 1), dtype=x.dtype)
            v = v + manifold.per_vector(fresh, rows).to(x.dtype) * noise
        return manifold.exp(x, v)


@dataclass(frozen=True, kw_only=True)
class GeodesicMultistep(Following):
    r"""The two-step Adams-Bashforth method in the Lie algebra: order 2, one call a step.

        x_s = exp_{x_t}( (sigma_t - sigma_s) [u_t + (r / 2) (u_t - u_before)] ),
        u = v / sigma,   r = (sigma_t - sigma_s) / (sigma_before - sigma_t)

    The step before is looked for across one call at an equal time, which plans of two calls a step have. The first
    step, and any that does not follow a plain descent, is Euler's.
    """

    memory = 2

    def descend(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        """One step."""
        process = _on_manifold(process)
        x, manifold = held(trace.x[k]), process.manifold
        sigma_t, sigma_s = _sigma(process, self.times[k], x, rows), _sigma(process, self.reach[k], x, rows)
        now = manifold.log(x, held(trace.clean[k]))
        j = k - 2 if k > 1 and self.times[k - 1] == self.times[k] else k - 1
        if j >= 0 and self.times[j] > self.times[k] == self.reach[j]:
            sigma_before = _sigma(process, self.times[j], x, rows)
            before = manifold.log(held(trace.x[j]), held(trace.clean[j]))
            ahead = (sigma_t - sigma_s) / (2 * (sigma_before - sigma_t))
            parts = (1 + ahead) / sigma_t, -ahead / sigma_before
            now_part, before_part = (manifold.per_vector((sigma_t - sigma_s) * p, rows).to(x.dtype) for p in parts)
            return manifold.exp(x, now_part * now + before_part * before)
        return manifold.exp(x, manifold.per_vector(1 - sigma_s / sigma_t, rows).to(x.dtype) * now)


def _on_manifold(process: Process) -> ManifoldProcess:
    if not isinstance(process, ManifoldProcess):
        raise TypeError(f"expected a ManifoldProcess, got {type(process).__name__}")
    return process


def _sigma(process: ManifoldProcess, t: float, x: Tensor, rows: Rows) -> Tensor:
    """sigma_t of each sample, float64 [B]."""
    return process.variance(everywhere(t, x, rows)).sqrt()
