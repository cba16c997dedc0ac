"""Known parts in the clean estimate, and projection from a given time on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff import grids
from scidiff.constraints.linear import LinearEquality
from scidiff.denoiser import Denoiser
from scidiff.guidance import CFG, Inpaint, Project
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.parametrisations import Data
from scidiff.processes.so3 import SO3
from scidiff.processes.torus import Torus
from scidiff.sampling import Known, sample
from scidiff.schedules import VE, VPLinear
from scidiff.solvers.ancestral import ddim, ddpm
from scidiff.solvers.dpmpp import dpmpp_2m
from scidiff.state import Layout, State

F64 = torch.float64
SCHEDULE = VPLinear()
PROCESS = GaussianProcess(schedule=SCHEDULE, parametrisation=Data(), dtype=F64)
GRID = grids.to_data(grids.log_snr_uniform(SCHEDULE, 7, end=1e-3))
B, D = 3, 4
LAYOUT = Layout.dense(B, {"x": (D,)})
NOISE = Noise(seed=4, index=torch.arange(B))


class Mixing(Denoiser):
    """A nonlinear estimate in which every element depends on every other; classes and all else pass as given."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean = torch.tanh(x_t["x"] + x_t["x"].cumsum(-1).flip(-1) / 2) + t[:, None]
        return {"x": clean if condition is None else clean * condition, "x.variance": clean * 2}


VALUE = torch.linspace(-2, 2, B * D, dtype=F64).reshape(B, D)
MASK = torch.tensor([True, False, True, False]).expand(B, D)


def test_known_elements_are_exact_and_the_others_untouched() -> None:
    x, t = {"x": VALUE.flip(0)}, torch.full((B,), 0.5, dtype=F64)
    got = Inpaint(Mixing(), {"x": VALUE}, {"x": MASK})(x, t, LAYOUT)
    plain = Mixing()(x, t, LAYOUT)
    assert torch.equal(got["x"][MASK], VALUE[MASK])
    assert torch.equal(got["x"][~MASK], plain["x"][~MASK])
    assert torch.equal(got["x.variance"], plain["x.variance"])


@pytest.mark.parametrize("solver", [ddim, ddpm, dpmpp_2m])
def test_finished_samples_hold_the_known_values_to_the_bit(solver: Any) -> None:
    guided = Inpaint(Mixing(), {"x": VALUE}, {"x": MASK})
    finished = sample(guided, {"x": PROCESS}, {"x": solver(SCHEDULE, GRID)}, LAYOUT, NOISE).state["x"]
    assert torch.equal(finished[MASK], VALUE[MASK])
    assert finished[~MASK].isfinite().all()


def test_deterministic_solvers_make_the_states_of_known() -> None:
    # DDIM keeps the noise of a known element: x_s = alpha_s value + sigma_s noise, the one path of `known=`.
    start = PROCESS.observed(VALUE, torch.ones(B, dtype=F64), LAYOUT.rows("x"), NOISE.at("x", 0, LAYOUT.rows("x")))
    prior = PROCESS.prior(LAYOUT.rows("x"), NOISE.at("x", 0, LAYOUT.rows("x")))
    initial = {"x": torch.where(MASK, start, prior)}
    rules = {"x": ddim(SCHEDULE, GRID)}
    guided = Inpaint(Mixing(), {"x": VALUE}, {"x": MASK})
    ours = sample(guided, {"x": PROCESS}, rules, LAYOUT, NOISE, initial=initial).state["x"]
    known = Known(values={"x": VALUE}, mask={"x": MASK})
    theirs = sample(Mixing(), {"x": PROCESS}, rules, LAYOUT, NOISE, known=known, initial={"x": prior}).state["x"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    free = sample(Mixing(), {"x": PROCESS}, rules, LAYOUT, NOISE, initial={"x": prior}).state["x"]
    assert (free - theirs).abs()[~MASK].min() > 1e-3  # the known part matters


class Fixed(Denoiser):
    """The same estimates whatever it is asked."""

    def __init__(self, clean: State) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        return self.clean


def test_known_classes_are_certain() -> None:
    log_probs = torch.log_softmax(torch.arange(24.0).reshape(2, 3, 4).sin(), -1)
    process = MaskedProcess(classes=4)
    value = torch.tensor([[3, 0, process.mask], [-1, 2, 1]])  # anything where unknown, masks too
    mask = torch.tensor([[True, False, False], [False, False, True]])
    layout = Layout.dense(2, {"c": (3,)})
    guided = Inpaint(Fixed({"c": log_probs}), {"c": value}, {"c": mask})
    got = guided({"c": torch.full((2, 3), 4)}, torch.tensor([0.5, 0.5]), layout)["c"]
    assert torch.equal(got[mask].exp(), torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))
    assert torch.equal(got[~mask], log_probs[~mask])


def test_known_points_of_a_manifold_give_the_score_of_their_kernel() -> None:
    t = torch.tensor([0.75, 0.85], dtype=F64)
    mask = torch.tensor([[True], [False]])
    angles = ManifoldProcess(manifold=Torus(), schedule=VE(), parametrisation=ScaledScore())
    layout = Layout.dense(2, {"a": (3,), "r": (3, 3)})
    x = torch.tensor([[3.0, -1.0, 0.5], [0.1, 0.2, 0.3]], dtype=F64)
    value = torch.tensor([[-3.0, 1.0, 0.4], [1.0, 1.0, 1.0]], dtype=F64)
    plain = torch.zeros(2, 3, dtype=F64)
    got = Inpaint(Fixed({"a": plain}), {"a": value}, {"a": mask}, manifolds={"a": angles})({"a": x}, t, layout)["a"]
    # The wrapped normal's score, by brute force over the windings.
    lifted = value[0, :, None] + 2 * math.pi * torch.arange(-20, 21, dtype=F64) - x[0, :, None]
    variance = angles.variance(t)[0]
    weights = torch.softmax(-(lifted**2) / (2 * variance), -1)
    torch.testing.assert_close(Torus().log(x[0], got[0]), (weights * lifted).sum(-1), rtol=0, atol=1e-9)
    assert torch.equal(got[1], plain[1])

    rotations = ManifoldProcess(manifold=SO3(), schedule=VE(), parametrisation=ScaledScore())
    eye = torch.eye(3, dtype=F64).expand(2, 3, 3)
    at = SO3().exp(eye, torch.tensor([[0.3, 0.1, -0.2], [0.0, 0.0, 1.0]], dtype=F64))
    guided = Inpaint(Fixed({"r": at}), {"r": eye}, {"r": mask[..., None]}, manifolds={"r": rotations})
    got = guided({"r": at}, t, layout)["r"]
    score = SO3().score(at, eye, rotations.variance(t), layout.rows("r"))
    turned = SO3().log(at, got) / rotations.variance(t)[:, None]
    torch.testing.assert_close(turned[0], score[0], rtol=0, atol=1e-8)
    assert torch.equal(got[1], at[1])


def test_leaves_must_agree() -> None:
    with pytest.raises(ValueError, match=r"same leaves, got \['x'\] and \['y'\]"):
        Inpaint(Mixing(), {"x": VALUE}, {"y": MASK})


class Zeros:
    """The constraint that the rows sum to zero, nearest in the metric of diagonal weights."""

    def project(self, clean: State, layout: Layout, metric: Any = None) -> State:
        x = clean["x"]
        spread = torch.ones_like(x) if metric is None else metric.expand_as(x)
        return {"x": x - spread * (x.sum(-1, keepdim=True) / spread.sum(-1, keepdim=True))}


def test_projection_acts_from_a_time_on() -> None:
    x, t = {"x": VALUE}, torch.tensor([0.8, 0.4, 0.2], dtype=F64)
    plain = Mixing()(x, t, LAYOUT)
    got = Project(Mixing(), Zeros(), start=0.4)(x, t, LAYOUT)
    assert torch.equal(got["x"][0], plain["x"][0])
    assert got["x"][1:].sum(-1).abs().max() < 1e-14
    torch.testing.assert_close(got["x"][1:], (plain["x"] - plain["x"].mean(-1, keepdim=True))[1:])
    assert torch.equal(got["x.variance"], plain["x.variance"])


def test_projection_knows_the_metric_and_the_guidance_inside() -> None:
    x, t = {"x": VALUE}, torch.full((B,), 0.3, dtype=F64)
    metric, condition = torch.tensor([1.0, 0.0, 3.0, 0.0], dtype=F64), torch.tensor(0.8, dtype=F64)
    guided = CFG(Mixing(), 2.0)
    got = Project(guided, Zeros(), metric)(x, t, LAYOUT, condition)["x"]
    inside = guided(x, t, LAYOUT, condition)["x"]
    assert inside.sum(-1).abs().min() > 0.1
    assert got.sum(-1).abs().max() < 1e-14
    assert torch.equal(got[:, 1::2], inside[:, 1::2])  # elements of no spread stay
    torch.testing.assert_close((got - inside)[:, 2], 3 * (got - inside)[:, 0])


def test_projected_samples_are_certified() -> None:
    total = LinearEquality(leaf="x", matrix=torch.ones(1, D), target=torch.tensor([0.5]))
    guided, rules = Project(Mixing(), total, start=0.2), {"x": ddpm(SCHEDULE, GRID)}
    finished = sample(guided, {"x": PROCESS}, rules, LAYOUT, NOISE, certify={"total": total})
    assert torch.equal(finished.certificate["total"], torch.zeros(B, dtype=F64))
    free = sample(Mixing(), {"x": PROCESS}, rules, LAYOUT, NOISE, certify={"total": total})
    assert free.certificate["total"].min() > 0.01


def test_a_projection_must_act_at_some_time() -> None:
    with pytest.raises(ValueError, match=r"start in \(0, 1\], got 0"):
        Project(Mixing(), Zeros(), start=0.0)
