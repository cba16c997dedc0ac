"""Classifier-free guidance against tilted Gaussians, enumerated classes and turning points on a manifold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance import CFG, ResidualCFG
from scidiff.noise import Noise
from scidiff.processes.categorical import LOG_ZERO
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.so3 import SO3
from scidiff.processes.torus import Torus, wrap
from scidiff.schedules import VE, Cosine
from scidiff.state import Layout, State

F64 = torch.float64
B = 5
T = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.05], dtype=F64)
LAYOUT = Layout.dense(B, {"x": (4,)})
SCHEDULE = Cosine()


def numbers(name: str, *shape: int) -> Tensor:
    """Fixed standard normal numbers."""
    layout = Layout.dense(1, {"x": shape})
    return Noise(seed=3, index=torch.zeros(1, dtype=torch.long)).at(name, 0, layout.rows("x")).normal(dtype=F64)[0]


class Switched(Denoiser):
    """E[x_0 | x_t] of N(0.3, 1.5) without a condition, of N(condition, 0.4) with one (variances)."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        mean, variance = (0.3, 1.5) if condition is None else (condition, 0.4)
        alpha, sigma = (level[:, None] for level in SCHEDULE(t))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        told = 0.0 if condition is None else 1.0
        return {"x": mean + gain * (x_t["x"] - alpha * mean), "x.variance": torch.full_like(x_t["x"], told)}


class Given(Denoiser):
    """Fixed estimates: `untold` without a condition, `told` with one."""

    def __init__(self, untold: State, told: State) -> None:
        super().__init__()
        self.untold, self.told = untold, told

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return self.untold if condition is None else self.told


X = {"x": 2 * numbers("x", B, 4)}
MEAN = numbers("mean", B, 4)


@pytest.mark.parametrize("weight", [-0.5, 0.3, 1.7, 4.0])
def test_gaussians_are_tilted(weight: float) -> None:
    # p_untold(x_t)^(1-w) p_told(x_t)^w is Gaussian again: precisions and precision-weighted means are mixed.
    alpha, sigma = (level[:, None] for level in SCHEDULE(T))
    untold, told = alpha**2 * 1.5 + sigma**2, alpha**2 * 0.4 + sigma**2
    precision = (1 - weight) / untold + weight / told
    mean = ((1 - weight) / untold * alpha * 0.3 + weight / told * alpha * MEAN) / precision
    score = -precision * (X["x"] - mean)
    guided = CFG(Switched(), weight)(X, T, LAYOUT, MEAN)
    torch.testing.assert_close(guided["x"], (X["x"] + sigma**2 * score) / alpha, rtol=1e-11, atol=1e-11)
    assert torch.equal(guided["x.variance"], torch.ones(B, 4, dtype=F64))  # the conditional one


def test_weight_one_is_the_condition_and_zero_ignores_it() -> None:
    assert torch.equal(CFG(Switched(), 1.0)(X, T, LAYOUT, MEAN)["x"], Switched()(X, T, LAYOUT, MEAN)["x"])
    assert torch.equal(CFG(Switched(), 0.0)(X, T, LAYOUT, MEAN)["x"], Switched()(X, T, LAYOUT)["x"])


def test_each_sample_may_have_its_own_weight() -> None:
    weight = torch.tensor([0.0, 1.0, 2.0, -1.0, 5.0], dtype=F64)
    got = CFG(Switched(), weight)(X, T, LAYOUT, MEAN)["x"]
    for b, w in enumerate(weight.tolist()):
        torch.testing.assert_close(got[b], CFG(Switched(), w)(X, T, LAYOUT, MEAN)["x"][b], rtol=0, atol=0)


def test_weights_reach_the_rows_of_ragged_samples() -> None:
    layout = Layout.ragged({"x": torch.tensor([3, 1])}, {"x": (2,)})
    untold, told = {"x": numbers("untold", 4, 2)}, {"x": numbers("told", 4, 2)}
    weight = torch.tensor([2.0, -1.0], dtype=F64)
    got = CFG(Given(untold, told), weight)(untold, torch.tensor([0.5, 0.5], dtype=F64), layout, 1)["x"]
    w = torch.tensor([2.0, 2.0, 2.0, -1.0], dtype=F64)[:, None]
    torch.testing.assert_close(got, (1 - w) * untold["x"] + w * told["x"], rtol=1e-12, atol=1e-12)


def test_null_condition_is_what_the_denoiser_is_given() -> None:
    got = CFG(Switched(), 0.0, null=torch.tensor(7.0, dtype=F64))(X, T, LAYOUT, MEAN)["x"]
    assert torch.equal(got, Switched()(X, T, LAYOUT, torch.tensor(7.0, dtype=F64))["x"])


def test_outside_the_interval_nothing_changes_by_a_bit() -> None:
    # (0.3, 0.7]: the upper end belongs to it, the lower does not.
    guided = CFG(Switched(), 3.0, interval=(0.3, 0.7))(X, T, LAYOUT, MEAN)["x"]
    everywhere, told = CFG(Switched(), 3.0)(X, T, LAYOUT, MEAN)["x"], Switched()(X, T, LAYOUT, MEAN)["x"]
    inside = torch.tensor([False, True, True, False, False])
    assert torch.equal(guided[inside], everywhere[inside])
    assert torch.equal(guided[~inside], told[~inside])
    assert (everywhere - told).abs().amin() > 1e-3
    with pytest.raises(ValueError, match=r"low < high, got \(0.7, 0.3\)"):
        CFG(Switched(), 3.0, interval=(0.7, 0.3))


def test_residual_form_replaces_the_unconditional_call() -> None:
    reference = {"x": Switched()(X, T, LAYOUT)["x"]}
    both = CFG(Switched(), 2.5)(X, T, LAYOUT, MEAN)
    one = ResidualCFG(Switched(), 2.5, reference)(X, T, LAYOUT, MEAN)
    assert torch.equal(one["x"], both["x"])
    assert torch.equal(one["x.variance"], both["x.variance"])
    # Away from the sample that is edited: told + 1.5 (told - sample).
    told, sample = Switched()(X, T, LAYOUT, MEAN)["x"], numbers("sample", B, 4)
    edited = ResidualCFG(Switched(), 2.5, {"x": sample})(X, T, LAYOUT, MEAN)["x"]
    torch.testing.assert_close(edited, told + 1.5 * (told - sample), rtol=1e-12, atol=1e-12)
    assert torch.equal(ResidualCFG(Switched(), 2.5, {})(X, T, LAYOUT, MEAN)["x"], told)


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.3, 1.0, 2.5])
def test_classes_are_tilted_and_renormalised(weight: float) -> None:
    layout = Layout.dense(2, {"c": (3,)})
    p, q = (torch.softmax(numbers(name, 2, 3, 4), -1) for name in ("p", "q"))
    guided = CFG(Given({"c": p.log()}, {"c": q.log()}), weight)
    got = guided({"c": torch.zeros(2, 3, dtype=torch.long)}, torch.tensor([0.4, 0.6], dtype=F64), layout, 1)["c"]
    tilted = p ** (1 - weight) * q**weight
    torch.testing.assert_close(got.exp(), tilted / tilted.sum(-1, keepdim=True), rtol=1e-12, atol=0)


@pytest.mark.parametrize("zero", [LOG_ZERO, -math.inf])
@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.3, 1.0, 2.5])
def test_excluded_classes_stay_excluded(zero: float, weight: float) -> None:
    # Class 0 is excluded by both, 1 by the condition, 2 without the condition; 3 and 4 by neither.
    untold = torch.tensor([zero, math.log(0.3), zero, math.log(0.2), math.log(0.5)], dtype=F64)
    told = torch.tensor([zero, zero, math.log(0.5), math.log(0.4), math.log(0.1)], dtype=F64)
    layout = Layout.dense(1, {"c": ()})
    guided = CFG(Given({"c": untold[None]}, {"c": told[None]}), weight)
    got = guided({"c": torch.zeros(1, dtype=torch.long)}, torch.tensor([0.5], dtype=F64), layout, 1)["c"][0].exp()
    p, q = untold.exp(), told.exp()
    if weight not in (0.0, 1.0):
        p, q = torch.where(q == 0, 0, p), torch.where(p == 0, 0, q)
    tilted = torch.where((p == 0) & (q == 0), 0, p ** (1 - weight) * q**weight)
    torch.testing.assert_close(got, tilted / tilted.sum(), rtol=1e-12, atol=0)


def test_contradicting_certainties_leave_the_condition() -> None:
    untold, told = (torch.tensor([[0.0, LOG_ZERO]]), torch.tensor([[LOG_ZERO, 0.0]]))
    layout = Layout.dense(1, {"c": ()})
    got = CFG(Given({"c": untold}, {"c": told}), 3.0)(
        {"c": torch.zeros(1, dtype=torch.long)}, torch.tensor([0.5]), layout, 1
    )
    assert torch.equal(got["c"], told)


def test_angles_are_guided_the_short_way_round() -> None:
    # Displacements from x_t are sigma_t^2 times the score: they extrapolate, the angles themselves do not.
    process = ManifoldProcess(manifold=Torus(), schedule=VE(), parametrisation=ScaledScore())
    layout = Layout.dense(1, {"a": (3,)})
    x = torch.tensor([[3.0, -3.0, 0.2]], dtype=F64)
    untold, told = torch.tensor([[0.1, 0.3, 0.1]], dtype=F64), torch.tensor([[0.5, -0.6, -1.0]], dtype=F64)
    guided = CFG(Given({"a": wrap(x + untold)}, {"a": wrap(x + told)}), 2.0, manifolds={"a": process})
    got = guided({"a": x}, torch.tensor([0.5], dtype=F64), layout, 1)["a"]
    torch.testing.assert_close(got, wrap(x + 2 * told - untold), rtol=0, atol=1e-12)


def test_rotations_about_one_axis_add_their_angles() -> None:
    manifold = SO3()
    process = ManifoldProcess(manifold=manifold, schedule=VE(), parametrisation=ScaledScore())
    layout = Layout.dense(1, {"r": (3, 3)})
    x = manifold.exp(torch.eye(3, dtype=F64)[None], torch.tensor([[0.4, -2.0, 1.0]], dtype=F64))
    axis = torch.tensor([[0.6, 0.0, 0.8]], dtype=F64)
    untold, told = ({"r": manifold.exp(x, angle * axis)} for angle in (0.2, 0.5))
    guided = CFG(Given(untold, told), 3.0, manifolds={"r": process})
    got = guided({"r": x}, torch.tensor([0.5], dtype=F64), layout, 1)["r"]
    torch.testing.assert_close(got, manifold.exp(x, (0.2 + 3 * 0.3) * axis), rtol=0, atol=1e-9)


def test_compiles_into_one_graph() -> None:
    guided = CFG(Switched(), 2.0, interval=(0.2, 0.8))
    compiled = torch.compile(guided, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X, T, LAYOUT, MEAN)["x"], guided(X, T, LAYOUT, MEAN)["x"], rtol=0, atol=1e-14)
