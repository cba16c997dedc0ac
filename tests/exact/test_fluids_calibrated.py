"""What a denoiser leaves of a field, where it is known: Wiener's filter, and filters that see more than it."""

from __future__ import annotations

import pytest
import torch

from scidiff.denoiser import Denoiser
from scidiff.fluids.calibrated import LEVELS, Calibrated, calibrated
from scidiff.fluids.covariance import Covariance
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.schedules import Cosine
from scidiff.state import Layout, State

SHAPE = (16, 12)
PROCESS = GaussianProcess(schedule=Cosine(), parametrisation=Data(), dtype=torch.float64)


def covariance() -> Covariance:
    """Of a field that no shift along x changes, and shifts along y do."""
    random = torch.randn(7, 16, 16, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    random[0], random[-1] = random[0].real, random[-1].real  # waves that are their own conjugates
    axes = torch.linalg.qr(random).Q
    return Covariance.from_matrices(axes * 8 * 0.7 ** torch.arange(16) @ axes.mH, 12)


def fields(count: int) -> torch.Tensor:
    """Of that covariance."""
    rows = Layout.dense(count, {"field": (1, *SHAPE)}).rows("field")
    white = Noise(seed=3, index=torch.arange(count)).at("field", 0, rows).normal(dtype=torch.float64)
    return covariance().root(white)


class Filter(Denoiser):
    """The posterior mean where a further look at the field, in noise of a variance `beside`, is had."""

    def __init__(self, truth: torch.Tensor, beside: float) -> None:
        super().__init__()
        self.truth, self.beside, self.asked = truth, beside, 0

    def forward(self, x_t: State, t: torch.Tensor, layout: Layout, condition: object = None) -> State:
        alpha, sigma = PROCESS.schedule(t[0])
        seen, level = x_t["field"] / alpha, (sigma / alpha).square()
        if self.beside == float("inf"):
            return {"field": covariance().filtered(seen, level)}
        first = self.asked % len(self.truth)
        self.asked += len(seen)
        rows = Layout.dense(len(seen), {"field": (1, *SHAPE)}).rows("field")
        noise = Noise(seed=7 + self.asked // len(self.truth), index=torch.arange(first, first + len(seen)))
        other = self.truth[first : first + len(seen)] + self.beside**0.5 * noise.at("field", 0, rows).normal(
            dtype=torch.float64
        )
        both = (seen / level + other / self.beside) / (1 / level + 1 / self.beside)
        return {"field": covariance().filtered(both, 1 / (1 / level + 1 / self.beside))}


@pytest.fixture(scope="module")
def shown() -> torch.Tensor:
    return fields(1600)


def test_wieners_filter_leaves_what_it_says(shown: torch.Tensor) -> None:
    found = calibrated(covariance(), Filter(shown, float("inf")), PROCESS, shown, leaf="field", seed=1)
    assert found.share.shape == (len(LEVELS), 7, 16)
    assert (found.share > 0.94).all()
    assert found.share.mean() > 0.98  # 1 but for chance: what is above 1 is cut


def test_a_denoiser_that_sees_more_leaves_less(shown: torch.Tensor) -> None:
    beside = 0.3
    found = calibrated(covariance(), Filter(shown, beside), PROCESS, shown, leaf="field", seed=1)
    for level in (0.05, 0.4, 3.0):
        noise = torch.tensor(level**2, dtype=torch.float64)
        left, right = found.posterior(noise), covariance().posterior(1 / (1 / noise + 1 / beside))
        assert float(left.total()) == pytest.approx(float(right.total()), rel=0.03)
        x = torch.linalg.vector_norm(left.matrices() - right.matrices())
        assert float(x / torch.linalg.vector_norm(right.matrices())) < 0.12  # of single axes: chance, and neighbours


def test_shares_hold_beyond_the_levels_and_join_the_prior_without_a_look() -> None:
    levels = torch.tensor([0.1, 1.0], dtype=torch.float64)
    share = torch.tensor([0.2, 0.6], dtype=torch.float64)[:, None, None].expand(2, 7, 16)
    found = Calibrated.of_shares(covariance(), levels, share)

    def ratio(level: float) -> float:
        noise = torch.tensor(level**2, dtype=torch.float64)
        return float(found.posterior(noise).total() / covariance().posterior(noise).total())

    expected = {0.01: 0.2, 0.1: 0.2, 0.1**0.5: 0.4, 1.0: 0.6, 50.0: 0.6, float("inf"): 1.0}
    assert {level: ratio(level) for level in expected} == pytest.approx(expected, rel=1e-12)
    assert type(found.posterior(levels[0])) is Covariance  # what is left was looked at once
