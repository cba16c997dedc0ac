"""The variational bound of angles and rotations, for data whose likelihood is known: heat kernels themselves.

With data distributed as the kernel of variance v about a point, x_t is distributed as that of v + sigma_t^2, which
gives the exact score, the likelihood and every term of the bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.objective import Bound, bound
from scidiff.processes.carried import CarriedProcess
from scidiff.processes.manifold import Manifold, ManifoldProcess, ScaledScore
from scidiff.processes.so3 import SO3, rotation_exp
from scidiff.processes.torus import Torus
from scidiff.state import Layout, State

MANIFOLDS = pytest.mark.parametrize(
    "manifold", [Torus(), Torus(period=1.0), SO3()], ids=["angles", "unit", "rotations"]
)
SPREAD = 0.4  # variance of the data, in units of (period / 2 pi)^2
START = 0.15
COUNT = 6000


class Exploding:
    """sigma_t = first * ratio^t."""

    def __init__(self, first: float, ratio: float) -> None:
        self.first, self.ratio = first, ratio

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.first * self.ratio**t


def unit(manifold: Manifold) -> float:
    """Length of a radian."""
    return manifold.period / (2 * math.pi) if isinstance(manifold, Torus) else 1.0


def process(manifold: Manifold, *, last: float = 6.0) -> ManifoldProcess:
    """sigma from 0.03 to `last` radians."""
    schedule = Exploding(0.03 * unit(manifold), last / 0.03)
    return ManifoldProcess(manifold=manifold, schedule=schedule, parametrisation=ScaledScore())


def centre(manifold: Manifold) -> Tensor:
    if isinstance(manifold, Torus):
        return torch.tensor(2.5 * unit(manifold), dtype=torch.float64)
    return rotation_exp(torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))


class Kernel(Denoiser):
    """The exact Tweedie point of data distributed as a heat kernel; `kept` < 1 shortens the score."""

    def __init__(self, process: ManifoldProcess, *, kept: float = 1.0) -> None:
        super().__init__()
        self.process, self.kept = process, kept
        self.spread = SPREAD * unit(process.manifold) ** 2

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x, rows, manifold = x_t["x"], layout.rows("x"), self.process.manifold
        variance = self.process.variance(t)
        score = manifold.score(x, centre(manifold).expand_as(x), variance + self.spread, rows)
        return {"x": manifold.exp(x, manifold.per_vector(self.kept * variance, rows) * score)}


def entropy(manifold: Manifold, variance: Tensor | float) -> float:
    """Of a heat kernel, by the definition: the mean of -log q, on a fine grid of midpoints."""
    variance = torch.as_tensor(variance, dtype=torch.float64)
    reach = min(1.0, 12 * float(variance.sqrt()) / (math.pi * unit(manifold)))
    angle = reach * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 * math.pi
    rows = Layout.dense(1, {"x": (len(angle), *manifold.point)}).rows("x")
    if isinstance(manifold, Torus):
        x, x_0 = angle[None] * unit(manifold), torch.zeros(1, len(angle), dtype=torch.float64)
        measure = torch.full_like(angle, 2 * unit(manifold))
    else:
        x = rotation_exp(angle[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))[None]
        x_0 = torch.eye(3, dtype=torch.float64).expand_as(x)
        measure = (1 - angle.cos()) / math.pi
    log_density = manifold.log_kernel(x, x_0, variance[None], rows)[0]
    return float(-(log_density.exp() * log_density * measure).sum() * reach * math.pi / len(angle))


def noise(count: int) -> Noise:
    return Noise(seed=0, index=torch.arange(count))


def data(manifold: Manifold, count: int, *lead: int) -> tuple[Tensor, Layout]:
    layout = Layout.dense(count, {"x": (*lead, *manifold.point)})
    rows = layout.rows("x")
    start = centre(manifold).expand(count, *lead, *manifold.point)
    variance = torch.full((count,), SPREAD * unit(manifold) ** 2, dtype=torch.float64)
    return manifold.diffuse(start, variance, rows, noise(count).at("data", 0, rows)), layout


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


@MANIFOLDS
def test_each_term_of_the_bound(manifold: Manifold) -> None:
    # Where the kernel of t = 1 is far from uniform, so that no term vanishes. In the mean over the data,
    # diffusion = I(x_0; x_start) - I(x_0; x_1), a difference of entropies.
    here = process(manifold, last=1.2)
    x_0, layout = data(manifold, COUNT)
    got = bound(Kernel(here), {"x": here}, {"x": x_0}, layout, noise(COUNT), start=START)
    first, last = (float(here.variance(torch.tensor(t, dtype=torch.float64))) for t in (START, 1.0))
    spread = SPREAD * unit(manifold) ** 2

    def told(variance: float) -> float:
        return entropy(manifold, variance + spread) - entropy(manifold, variance)

    diffusion, error = mean_and_error(got.diffusion)
    assert error < 0.15
    assert diffusion == pytest.approx(told(first) - told(last), abs=4 * error)
    prior = -manifold.log_uniform - entropy(manifold, last)
    assert prior > 0.05
    torch.testing.assert_close(got.prior, torch.full_like(got.prior, prior), atol=1e-6, rtol=0)
    # p(x_0 | x_start) is all but the posterior, whose entropy is that of the data less what x_start tells
    reconstruction, error = mean_and_error(got.data)
    assert reconstruction == pytest.approx(entropy(manifold, spread) - told(first), abs=4 * error + 2e-3)


@MANIFOLDS
def test_bound_of_each_datum_is_its_log_likelihood(manifold: Manifold) -> None:
    here, count = process(manifold), COUNT
    rows = Layout.dense(1, {"x": manifold.point}).rows("x")
    spread = torch.full((1,), SPREAD * unit(manifold) ** 2, dtype=torch.float64)
    for distance in (0.0, 2.0):
        v = torch.full((1, *manifold.vector), distance * unit(manifold) / math.prod(manifold.vector) ** 0.5)
        x_0 = manifold.exp(centre(manifold)[None], v.double())
        layout = Layout.dense(count, {"x": manifold.point})
        state = {"x": x_0.expand(count, *manifold.point)}
        got = bound(Kernel(here), {"x": here}, state, layout, noise(count), start=START)
        expected = -float(manifold.log_kernel(x_0, centre(manifold)[None], spread, rows))
        mean, error = mean_and_error(got.total)
        assert error < 0.25
        assert mean == pytest.approx(expected, abs=4 * error + 2e-3)


@pytest.mark.parametrize(("manifold", "distance"), [(Torus(), 0.0), (Torus(), 1.3), (Torus(), 3.0), (SO3(), 0.0)])
def test_bound_by_quadrature_is_the_log_likelihood(manifold: Manifold, distance: float) -> None:
    # The same without chance: Gauss-Legendre in time, midpoints in the angle from x_0 (which is all that a rotation's
    # terms depend on if x_0 is the centre of the data).
    here = process(manifold)
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(40))
    times, weights = START + (1 - START) * (nodes + 1) / 2, weights * (1 - START) / 2
    turn = math.pi * (torch.arange(-600, 600, dtype=torch.float64) + 0.5) / 600
    if isinstance(manifold, Torus):
        offset, measure = turn, torch.full_like(turn, math.pi / 600)
    else:
        offset = turn[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        measure = (1 - turn.cos()) / 1200
    v = torch.full(manifold.vector, distance, dtype=torch.float64)
    x_0 = manifold.exp(centre(manifold)[None], v[None]).expand(len(turn), *manifold.point)
    layout = Layout.dense(len(turn), {"x": manifold.point})
    rows, x_t = layout.rows("x"), manifold.exp(x_0, offset)

    def mean(time: Tensor, *, rate: bool) -> float:
        t = time.expand(len(turn))
        density = manifold.log_kernel(x_t, x_0, here.variance(t), rows).exp()
        clean = Kernel(here)({"x": x_t}, t, layout)["x"]
        term = (here.bound_rate if rate else here.bound_data)(clean, x_0, x_t, t, rows)
        return float((measure * density * term).sum())

    diffusion = sum(float(w) * mean(t, rate=True) for t, w in zip(times, weights, strict=True))
    total = diffusion + mean(torch.tensor(START).double(), rate=False) + float(here.bound_prior(x_0, rows)[0])
    spread = torch.full((len(turn),), SPREAD, dtype=torch.float64)
    expected = -manifold.log_kernel(x_0, centre(manifold).expand_as(x_0), spread, rows)[0]
    # What is left is p(x_0 | x_start), the heat kernel where the posterior is a little narrower.
    assert total == pytest.approx(float(expected), rel=2e-4, abs=3e-4)


@MANIFOLDS
def test_a_wrong_score_raises_the_bound_by_its_divergence(manifold: Manifold) -> None:
    # A score shortened by c adds (c^2 / 2) int g^2 E|score|^2 dt = c^2 [entropy of x_1 - of x_start] (de Bruijn).
    here, short = process(manifold), 0.5
    x_0, layout = data(manifold, COUNT)

    def measured(kept: float) -> Bound:
        return bound(Kernel(here, kept=kept), {"x": here}, {"x": x_0}, layout, noise(COUNT), start=START)

    right, wrong = measured(1.0), measured(1 - short)
    first, last = (float(here.variance(torch.tensor(t, dtype=torch.float64))) for t in (START, 1.0))
    spread = SPREAD * unit(manifold) ** 2
    gap = short**2 * (entropy(manifold, last + spread) - entropy(manifold, first + spread))
    excess, error = mean_and_error(wrong.diffusion - right.diffusion)
    assert excess == pytest.approx(gap, abs=4 * error)
    assert excess > 8 * error
    assert torch.equal(wrong.prior, right.prior)


@MANIFOLDS
def test_points_of_a_sample_add_up(manifold: Manifold) -> None:
    here = process(manifold, last=1.2)
    x_0, layout = data(manifold, 6, 3)
    t = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)
    rows = layout.rows("x")
    x_t = here.corrupt(x_0, t, rows, noise(6).at("x", 0, rows))
    clean = Kernel(here)({"x": x_t}, t, layout)["x"]
    one = Layout.dense(6, {"x": manifold.point}).rows("x")
    for name in ("bound_rate", "bound_data"):
        each = [getattr(here, name)(clean[:, k], x_0[:, k], x_t[:, k], t, one) for k in range(3)]
        torch.testing.assert_close(getattr(here, name)(clean, x_0, x_t, t, rows), sum(each))
    torch.testing.assert_close(here.bound_prior(x_0, rows), 3 * here.bound_prior(x_0[:, 0], one))
    mask = torch.ones_like(x_0, dtype=torch.bool)
    mask[:, 1] = False
    masked = Layout.dense(6, {"x": rows.shape}, masks={"x": mask}).rows("x")
    torch.testing.assert_close(here.bound_prior(x_0, masked), 2 * here.bound_prior(x_0[:, 0], one))
    each = [here.bound_rate(clean[:, k], x_0[:, k], x_t[:, k], t, one) for k in (0, 2)]
    torch.testing.assert_close(here.bound_rate(clean, x_0, x_t, t, masked), sum(each))


@MANIFOLDS
def test_information_of_the_kernel(manifold: Manifold) -> None:
    variance = torch.tensor([1e-6, 1e-3, 0.3, 2.0, 9.0, 60.0], dtype=torch.float64) * unit(manifold) ** 2
    expected = torch.tensor([-manifold.log_uniform - entropy(manifold, v) for v in variance], dtype=torch.float64)
    torch.testing.assert_close(manifold.information(variance), expected, atol=1e-7, rtol=0)
    # the prior's term vanishes where the schedule ends at uniform noise
    assert float(manifold.information(variance)[-1]) < 1e-11


def test_what_has_no_bound_says_so() -> None:
    here, layout = process(Torus()), Layout.dense(2, {"x": ()})
    x = {"x": torch.zeros(2, dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"expected steps=None for a leaf on a manifold"):
        bound(Kernel(here), {"x": here}, x, layout, noise(2), start=START, steps=10)
    with pytest.raises(TypeError, match=r"a variational bound for leaf 'x', got CarriedProcess"):
        bound(Kernel(here), {"x": CarriedProcess()}, x, layout, noise(2), start=START)
