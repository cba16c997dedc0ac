"""Projection of token probabilities: tilts in closed form, of sums and others, and the dual optimum of two ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import truncnorm

from scidiff.denoiser import Denoiser
from scidiff.guidance import ProjectTokens, Sums
from scidiff.guidance.project_tokens import Properties, Tangent, mean_inside
from scidiff.processes.categorical import LOG_ZERO
from scidiff.state import Layout, State

SCORES = torch.tensor([0.0, 1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
SECOND = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)


class Fixed(Denoiser):
    def __init__(self, log_probs: torch.Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs

    def forward(self, x_t: State, t: torch.Tensor, layout: Layout, condition: object = None) -> State:
        return {"x": self.log_probs, "other": t}


def product(batch: int = 3, length: int = 4) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(batch, length, 5, generator=source, dtype=torch.float64).log_softmax(-1)


def projected(
    log_p: torch.Tensor, *ends: tuple[float, float], rounds: int = 8, properties: Properties | None = None
) -> torch.Tensor:
    """On ends of the first property, and maybe of the second."""
    low, high = torch.tensor(ends, dtype=torch.float64).T
    properties = properties or Sums(scores=torch.stack([SCORES, SECOND][: len(ends)], 1))
    denoiser = ProjectTokens(Fixed(log_p), leaf="x", properties=properties, low=low, high=high, rounds=rounds)
    t = torch.ones(len(log_p))
    found = denoiser({"x": log_p.argmax(-1)}, t, Layout.dense(len(log_p), {"x": (log_p.shape[1],)}))
    assert found["other"] is t
    return found["x"]


def mean(log_q: torch.Tensor, scores: torch.Tensor = SCORES) -> torch.Tensor:
    return (log_q.exp() @ scores).sum(1)


@pytest.mark.parametrize(("ends", "value"), [((5.0, math.inf), 5.0), ((-math.inf, -0.5), -0.5)])
def test_one_constraint_is_met_by_the_exponential_tilt(ends: tuple[float, float], value: float) -> None:
    log_p = product()
    assert torch.allclose(projected(log_p, ends, rounds=8), tilted(log_p, [value] * len(log_p)), atol=1e-5)


def tilted(log_p: torch.Tensor, values: list[float]) -> torch.Tensor:
    """The exponential tilt of each product under which the sum of scores has this expectation."""
    found = []
    for one, value in zip(log_p, values, strict=True):

        def excess(multiplier: float, one: torch.Tensor = one, value: float = value) -> float:
            return float(((one + multiplier * SCORES).softmax(-1) @ SCORES).sum()) - value

        found.append((one + brentq(excess, -6, 6) * SCORES).log_softmax(-1))
    return torch.stack(found)


def bent(q: torch.Tensor) -> Tangent:
    """V + V^2 / 10 of an expected sum V: with slopes that change with q."""
    near = Sums(scores=SCORES[:, None])(q)
    steepness = 1 + near.value / 5
    return Tangent(
        value=near.value + near.value.square() / 10,
        variance=near.variance * steepness.square(),
        spread=None,
        tilt=lambda multiplier: near.tilt(multiplier * steepness),
    )


def test_a_property_that_is_no_sum_is_met_by_the_nearest_product() -> None:
    log_p = product()
    found = projected(log_p, (5.6, math.inf), rounds=30, properties=bent)
    assert torch.allclose(found, tilted(log_p, [4.0] * len(log_p)), atol=1e-6)


def test_what_tokens_decide_of_a_property_gets_the_mean_that_it_has_inside() -> None:
    """S = sum of scores and y = S + error, taken for jointly normal: E[S | 4 <= y <= 5]."""
    log_p, left = product(), torch.tensor([0.7], dtype=torch.float64)
    near = Sums(scores=SCORES[:, None], left=left)(log_p.exp())
    assert near.spread is not None
    assert torch.allclose(near.spread, (near.variance + left.square()).sqrt())
    ends = torch.tensor([4.0], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    inside = mean_inside(near.value, near.spread, *ends)
    regressed = near.value + near.variance / (near.variance + 0.49) * (inside - near.value)
    found = projected(log_p, (4.0, 5.0), rounds=12, properties=Sums(scores=SCORES[:, None], left=left))
    assert torch.allclose(found, tilted(log_p, regressed[:, 0].tolist()), atol=1e-5)


@given(
    mean=st.floats(-50, 50),
    spread=st.floats(0.01, 20),
    low=st.one_of(st.just(-math.inf), st.floats(-30, 30)),
    width=st.one_of(st.just(math.inf), st.floats(0.01, 40)),
)
def test_the_mean_inside_is_that_of_a_truncated_normal(mean: float, spread: float, low: float, width: float) -> None:
    high = low + width if math.isfinite(low) else width
    pair = [torch.tensor([x], dtype=torch.float64) for x in (low, high)]
    found = float(mean_inside(torch.tensor([[mean]]).double(), torch.tensor([[spread]]).double(), *pair))
    assert low <= found <= high
    known = float(truncnorm.mean((low - mean) / spread, (high - mean) / spread, loc=mean, scale=spread))
    if low <= known <= high:  # farther out than some 1e4 spreads SciPy's own leaves the interval
        assert found == pytest.approx(known, abs=1e-4 * spread, rel=1e-6)


@given(seed=st.integers(0, 2**32 - 1), low=st.floats(-8, 8), width=st.floats(0.1, 4))
def test_projections_move_to_the_interval_and_not_past_it(seed: int, low: float, width: float) -> None:
    source = torch.Generator().manual_seed(seed)
    log_p = (2 * torch.randn(5, 3, 5, generator=source, dtype=torch.float64)).log_softmax(-1)
    found = projected(log_p, (low, low + width), rounds=40)
    before, after = mean(log_p), mean(found)
    nearest = before.clamp(low, low + width)
    assert bool(((after - nearest).abs() <= (before - nearest).abs() + 1e-6).all())
    assert bool((((after - before) * (nearest - before)) >= -1e-9).all())
    inside = before == nearest
    assert found[inside].equal(log_p[inside])
    assert float((found - log_p).amax() - (found - log_p).amin()) <= 4 * 6.0  # by 6 nats up and down, normalised


def test_what_holds_is_given_back_and_what_is_known_stays() -> None:
    log_p = product()
    assert projected(log_p, (-10.0, 10.0)).equal(log_p)
    known = log_p.clone()
    known[:, 0] = LOG_ZERO
    known[:, 0, 2] = 0.0
    found = projected(known, (3.0, math.inf))
    assert found[:, 0].equal(known[:, 0])
    assert torch.allclose(mean(found), torch.tensor(3.0, dtype=torch.float64), atol=1e-4)
    assert projected(log_p[:1], (3.0, math.inf)).equal(projected(log_p, (3.0, math.inf))[:1])


def test_two_constraints_are_met_by_the_nearest_product() -> None:
    """Conditions of Karush, Kuhn and Tucker: feasible, a tilt by both scores, multipliers of the right sign or 0."""
    log_p = product(batch=20)
    found = projected(log_p, (2.0, 3.0), (-math.inf, 1.0), rounds=200)
    value, other = mean(found), mean(found, SECOND)
    assert bool((value > 2 - 1e-4).all() and (value < 3 + 1e-4).all() and (other < 1 + 1e-4).all())
    tilt = (found - log_p) - (found - log_p)[..., :1]
    scores = torch.stack([SCORES, SECOND], 1)
    solved = torch.linalg.lstsq((scores - scores[0]).expand(80, -1, -1), tilt.reshape(80, 5, 1))[0].reshape(20, 4, 2)
    assert torch.allclose(solved, solved[:, :1].expand_as(solved), atol=1e-6)
    first, second = solved[:, 0].unbind(1)
    assert bool(((first > 1e-6) <= ((value - 2).abs() < 1e-4)).all())
    assert bool(((first < -1e-6) <= ((value - 3).abs() < 1e-4)).all())
    assert bool((second < 1e-6).all() and ((second < -1e-6) <= ((other - 1).abs() < 1e-4)).all())
    assert bool((first.abs() > 1e-3).any() and (second < -1e-3).any())


def test_what_cannot_be_met_stays_finite() -> None:
    found = projected(product(), (100.0, math.inf))
    assert bool(found.isfinite().all())
    assert torch.allclose(found.exp().sum(-1), torch.ones(3, 4, dtype=torch.float64))
