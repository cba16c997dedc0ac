"""Diffusion of leaves that live on a compact manifold: angles on a torus, rotations in SO(3).

Data spread by Brownian motion run for time sigma_t^2, so that q(x_t | x_0) is the manifold's heat kernel and the prior
at t=1 is uniform. There is no alpha_t: a compact manifold needs no shrinking (De Bortoli et al., "Riemannian
score-based generative modelling", 2022; Jing et al., "Torsional diffusion for molecular conformer generation", 2022).

The clean estimate is a point of the manifold, the *Tweedie point*

    clean = exp_{x_t}( sigma_t^2 grad log p_t(x_t) )

A Gaussian leaf's posterior mean obeys the same equation (Tweedie's formula). It is chosen over a predicted x_0 because
it loses nothing: grad log p_t(x_t) = E[grad log q(x_t | x_0) | x_t] is what the exact reverse process needs, and unlike
in flat space the score of the kernel is not linear in x_0, so it cannot be had from any mean of x_0. On the torus it is
the posterior mean of the unwound x_0. Its displacement from x_t never exceeds half a turn, so log_{x_t}(clean) gives
sigma_t^2 times the score back, and it tends to x_0 as sigma_t falls, which is what constraints and guidance rely on.
Where the kernel is nearly uniform it stays near x_t: it says that nothing is known.

Tangent vectors at x are coordinates in a frame that the manifold carries along (angles as they are; the body frame of a
rotation), so that vectors at different points can be added, as multistep solvers do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.schedules import Schedule
from scidiff.state import Rows


class Manifold(ABC):
    """A compact manifold with its heat kernel.

    A leaf on it has rows of shape `[*lead, *point]`, tangent vectors of shape `[*lead, *vector]`. Variances are tensors
    [B], the time of Brownian motion of each sample.
    """

    point: tuple[int, ...]
    """Shape of one point."""
    vector: tuple[int, ...]
    """Shape of one tangent vector."""
    log_uniform: float
    """Log-density of the uniform distribution at one point."""

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Follow the geodesic that leaves x [N, *lead, *point] with velocity v [N, *lead, *vector] for unit time."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector at x that leads to y: [N, *lead, *vector]."""

    @abstractmethod
    def uniform(self, rows: Rows, draw: Draw, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniformly distributed points [N, *lead, *point]."""

    @abstractmethod
    def diffuse(self, x: Tensor, variance: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """A sample of the heat kernel that starts at x."""

    @abstractmethod
    def score(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Gradient of the heat kernel's log-density by x_t: [N, *lead, *vector]."""

    @abstractmethod
    def log_kernel(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Log-density of the heat kernel at each point, float64 [N, *lead]."""

    @abstractmethod
    def information(self, variance: Tensor) -> Tensor:
        """KL(heat kernel || uniform) of one point, what is left to tell of its start, in nats: float64 [B]."""

    def chart_velocity(self, theta: Tensor, v: Tensor) -> Tensor:
        """The rate of theta as exp_x(theta) moves with velocity v in its own frame: [N, *lead, *vector]."""
        return v

    def lead(self, rows: Rows) -> tuple[int, ...]:
        """How many points a row holds, by axis."""
        axes = len(rows.shape) - len(self.point)
        if axes < 0 or rows.shape[axes:] != self.point:
            raise ValueError(f"expected rows whose shape ends in {self.point}, got {rows.shape}")
        return rows.shape[:axes]

    def per_point(self, values: Tensor, rows: Rows) -> Tensor:
        """Spread one value a sample over the points: [B] -> [N, 1, ...], the axes of [N, *lead]."""
        return rows.per_row(values, ndim=1 + len(self.lead(rows)))

    def per_vector(self, values: Tensor, rows: Rows) -> Tensor:
        """Spread one value a sample over tangent vectors: [B] -> [N, 1, ...], the axes of [N, *lead, *vector]."""
        return rows.per_row(values, ndim=1 + len(self.lead(rows)) + len(self.vector))

    def mean_square(self, v: Tensor, rows: Rows) -> Tensor:
        """Mean over the points of each sample of |v|^2, v [N, *lead, *vector]: [B]."""
        return rows.mean(self._elements(self._square(v, rows), rows))

    def sum_square(self, v: Tensor, rows: Rows) -> Tensor:
        """Sum over the points of each sample of |v|^2, v [N, *lead, *vector]: [B]."""
        return self.sum(self._square(v, rows), rows)

    def sum(self, values: Tensor, rows: Rows) -> Tensor:
        """Sum of one value a point over each sample: [N, *lead] -> [B]."""
        return rows.sum(self._elements(values, rows)) / math.prod(self.point)

    def count(self, rows: Rows) -> Tensor:
        """Number of points of each sample: float64 [B]."""
        ones = torch.ones(len(rows.owner), *self.lead(rows), dtype=torch.float64, device=rows.owner.device)
        return self.sum(ones, rows)

    def _square(self, v: Tensor, rows: Rows) -> Tensor:
        """|v|^2 of each point: [N, *lead, *vector] -> [N, *lead]."""
        return v.square().reshape(len(v), *self.lead(rows), math.prod(self.vector)).sum(-1)

    def _elements(self, values: Tensor, rows: Rows) -> Tensor:
        """One value a point as one an element: [N, *lead] -> [N, *shape]."""
        return values.reshape(*values.shape, *([1] * len(self.point))).expand(-1, *rows.shape)

    def normal(self, rows: Rows, draw: Draw, *, dtype: torch.dtype = torch.float32, kind: str = "tangent") -> Tensor:
        """Standard normal tangent vectors [N, *lead, *vector]."""
        return torch.special.ndtri(draw.uniform(shape=self.lead(rows) + self.vector, kind=kind)).to(dtype)


class ManifoldParametrisation(ABC):
    """What a network's output stands for."""

    @abstractmethod
    def clean(self, output: Tensor, x_t: Tensor, variance: Tensor, manifold: Manifold, rows: Rows) -> Tensor:
        """The Tweedie point that `output` stands for."""


class ScaledScore(ManifoldParametrisation):
    """The network gives sigma_t times the score, a tangent vector [N, *lead, *vector] of order one."""

    def clean(self, output: Tensor, x_t: Tensor, variance: Tensor, manifold: Manifold, rows: Rows) -> Tensor:
        """exp_{x_t}(sigma_t * output)."""
        return manifold.exp(x_t, manifold.per_vector(variance.sqrt(), rows).to(x_t.dtype) * output)


class CleanPoint(ManifoldParametrisation):
    """The network guesses x_0, a point, and the score is the kernel's as if the guess were true (Yim et al. 2023).

    Exact only where the posterior of x_0 is narrow: prefer `ScaledScore` unless the network's form asks for points.
    """

    def clean(self, output: Tensor, x_t: Tensor, variance: Tensor, manifold: Manifold, rows: Rows) -> Tensor:
        """exp_{x_t}(sigma_t^2 grad log q(x_t | x_0 = output))."""
        return tweedie_point(manifold, x_t, output, variance, rows)


def tweedie_point(manifold: Manifold, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
    """exp_{x_t}(sigma_t^2 grad log q(x_t | x_0)): the clean estimate of one who knows x_0."""
    scale = manifold.per_vector(variance, rows).to(x_t.dtype)
    return manifold.exp(x_t, scale * manifold.score(x_t, x_0, variance, rows))


@dataclass(frozen=True, kw_only=True)
class ManifoldProcess(Process):
    """Brownian motion on a compact manifold, from data at t=0 to the uniform distribution at t=1.

    Attributes:
        manifold: `Torus()` or `SO3()`.
        schedule: a variance-exploding schedule (alpha_t = 1). sigma_1 decides how nearly uniform q(x_1) is: the largest
            relative departure of its density is 2 exp(-sigma_1^2/2) on a torus of period 2 pi (1e-8 at 2 pi) and
            9 exp(-sigma_1^2) on SO(3) (1e-6 at 4).
        parametrisation: what the network's output stands for.
        dtype: precision of the states drawn at t=1.
    """

    manifold: Manifold
    schedule: Schedule
    parametrisation: ManifoldParametrisation
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        alpha, _ = self.schedule(torch.tensor(1.0, dtype=torch.float64))
        if not math.isclose(float(alpha), 1.0):
            raise ValueError(f"expected a variance-exploding schedule (alpha_t = 1), got alpha_1 = {float(alpha):g}")

    def variance(self, t: Tensor) -> Tensor:
        """sigma_t^2, the time of Brownian motion at t: [B]."""
        return self.schedule(t)[1].square()

    def prior(self, rows: Rows, draw: Draw) -> Tensor:
        """Uniform on the manifold."""
        return self.manifold.uniform(rows, draw, dtype=self.dtype)

    def corrupt(self, x_0: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x_t ~ heat kernel from x_0 at time sigma_t^2."""
        return self.manifold.diffuse(x_0, self.variance(t), rows, draw)

    def renoise(self, x_s: Tensor, s: Tensor, t: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x_t ~ heat kernel from x_s at time sigma_t^2 - sigma_s^2 (the semigroup property)."""
        return self.manifold.diffuse(x_s, (self.variance(t) - self.variance(s)).clamp_min(0), rows, draw)

    def clean(self, output: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """The Tweedie point that a network output stands for."""
        return self.parametrisation.clean(output, x_t, self.variance(t), self.manifold, rows)

    def bound_prior(self, x_0: Tensor, rows: Rows) -> Tensor:
        """KL(q(x_1 | x_0) || uniform), the same for every x_0: float64 [B]."""
        one = torch.ones(rows.batch, dtype=torch.float64, device=x_0.device)
        return self.manifold.count(rows) * self.manifold.information(self.variance(one))

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        r"""What a unit of time adds to the bound, in nats: [B].

        (g_t^2 / 2) |score - grad log q(x_t|x_0)|^2,   g_t^2 = d sigma_t^2 / dt,   score = log_{x_t}(clean) / sigma_t^2

        By Girsanov's theorem it is the divergence between the
        reverse process that knows x_0 and the model's (Song et al., "Maximum likelihood training of score-based
        diffusion models", 2021, theorem 3; on manifolds Huang et al., "Riemannian diffusion models", 2022, section 3).
        """
        variance, growth = torch.func.jvp(self.variance, (t.clone(),), (torch.ones_like(t),))[:2]
        target = self.manifold.per_vector(variance, rows) * self.manifold.score(x_t, x_0, variance, rows)
        error = self.manifold.log(x_t, clean) - target.to(x_t.dtype)
        return 0.5 * growth / variance.square() * self.manifold.sum_square(error, rows)

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        """Not known: the posterior q(x_s | x_t, x_0) of a heat kernel has no closed form."""
        raise ValueError("expected steps=None for a leaf on a manifold, whose steps have no bound in closed form")

    def bound_data(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """-log of the heat kernel of time sigma_t^2 from the clean estimate to x_0: [B].

        Nats relative to arc length for angles, to the Haar measure for rotations.
        """
        return -self.manifold.sum(self.manifold.log_kernel(x_0, clean, self.variance(t), rows), rows)

    def loss(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        """Denoising score matching, mean over points of |log_{x_t}(clean) - sigma_t^2 grad log q|^2 / sigma_t^2: [B].

        That is the squared error of sigma_t times the score. Its minimiser is the true Tweedie point.
        """
        variance = self.variance(t)
        target = self.manifold.per_vector(variance, rows) * self.manifold.score(x_t, x_0, variance, rows)
        error = self.manifold.mean_square(self.manifold.log(x_t, clean) - target.to(x_t.dtype), rows)
        return error / variance.clamp_min(torch.finfo(variance.dtype).tiny).to(error.dtype)
