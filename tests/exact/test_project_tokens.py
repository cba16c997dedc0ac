"""Projection of token probabilities: the exponential tilt in closed form, the dual optimum of two constraints."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq

from scidiff.denoiser import Denoiser
from scidiff.guidance import ProjectTokens
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


def projected(log_p: torch.Tensor, *ends: tuple[float, float], rounds: int = 8) -> torch.Tensor:
    """On ends of the first property, and maybe of the second."""
    low, high = torch.tensor(ends, dtype=torch.float64).T
    scores = torch.stack([SCORES, SECOND][: len(ends)], 1)
    denoiser = ProjectTokens(Fixed(log_p), leaf="x", scores=scores, low=low, high=high, rounds=rounds)
    t = torch.ones(len(log_p))
    found = denoiser({"x": log_p.argmax(-1)}, t, Layout.dense(len(log_p), {"x": (log_p.shape[1],)}))
    assert found["other"] is t
    return found["x"]


def mean(log_q: torch.Tensor, scores: torch.Tensor = SCORES) -> torch.Tensor:
    return (log_q.exp() @ scores).sum(1)


@pytest.mark.parametrize(("ends", "value"), [((5.0, math.inf), 5.0), ((-math.inf, -0.5), -0.5)])
def test_one_constraint_is_met_by_the_exponential_tilt(ends: tuple[float, float], value: float) -> None:
    log_p = product()
    found = projected(log_p, ends, rounds=8)
    for k in range(len(log_p)):

        def excess(multiplier: float, k: int = k) -> float:
            return float(((log_p[k] + multiplier * SCORES).softmax(-1) @ SCORES).sum()) - value

        multiplier = brentq(excess, -6, 6)
        assert torch.allclose(found[k], (log_p[k] + multiplier * SCORES).log_softmax(-1), atol=1e-5)


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
