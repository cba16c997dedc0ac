"""Sampling by the adaptive probability flow: against flows in closed form, for one leaf and for mixed states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes import so3_kernel
from scidiff.processes.base import Process
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess, centred
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.parametrisations import Data
from scidiff.processes.so3 import SO3, rotation_exp
from scidiff.schedules import VE, Cosine, Karras, RectifiedFlow, Schedule, SubVP, VPLinear
from scidiff.solvers.adaptive import Control, integrate
from scidiff.solvers.flow import ProbabilityFlow, sample_adaptively
from scidiff.state import Layout, State

MEAN, STD = 0.7, 0.6


class Leaves(Denoiser):
    """A denoiser that is one function a leaf, (x_t, t) -> clean, and counts its calls."""

    def __init__(self, functions: dict[str, Callable[[Tensor, Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions
        self.calls = 0

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.calls += 1
        return {leaf: function(x_t[leaf], t) for leaf, function in self.functions.items()}


def exact(schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] for independent N(MEAN, STD^2) elements of [B, L]."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None].to(x.dtype) for level in schedule(t))
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    return clean


def gaussian(schedule: Schedule, dtype: torch.dtype = torch.float64) -> GaussianProcess:
    return GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=dtype)


def image(schedule: Schedule, x_1: Tensor, end: float) -> Tensor:
    """Where the flow takes x_1: the affine map that keeps the standardised value."""
    levels = (schedule(torch.tensor(t, dtype=torch.float64)) for t in (1.0, end))
    (alpha_1, sigma_1), (alpha, sigma) = levels
    stretch = torch.hypot(alpha * STD, sigma) / torch.hypot(alpha_1 * STD, sigma_1)
    return alpha * MEAN + stretch * (x_1 - alpha_1 * MEAN)


SCHEDULES = [VPLinear(), SubVP(), Cosine(), VE(), Karras(), RectifiedFlow()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_flow_of_gaussian_data_meets_its_tolerance(schedule: Schedule) -> None:
    layout = Layout.dense(4, {"x": (3,)})
    rows = layout.rows("x")
    x_1 = gaussian(schedule).prior(rows, Noise(seed=1, index=torch.arange(4)).at("x", 0, rows))
    flow = ProbabilityFlow(Leaves({"x": exact(schedule)}), {"x": gaussian(schedule)}, layout)
    for tolerance in (1e-4, 1e-7):
        control = Control(relative=tolerance, absolute=tolerance, attempts=400, look_every=5)
        path = integrate(flow, {"x": x_1}, flow.spaces, layout, start=1.0, end=1e-3, control=control)
        assert bool(path.arrived.all())
        assert float((path.state["x"] - image(schedule, x_1, 1e-3)).abs().max()) < 10 * tolerance


def mixed(dtype: torch.dtype, counts: list[int]) -> tuple[Layout, dict[str, Process], dict[str, Any]]:
    """Positions of zero mean, orientations and numbers: data N(0, STD^2), a heat kernel, N(MEAN, STD^2)."""
    shapes = {"pos": (3,), "turn": (3, 3), "x": (2,)}
    layout = Layout.ragged(dict.fromkeys(shapes, torch.tensor(counts)), shapes)
    flow, exploding = RectifiedFlow(), VE(sigma_min=0.05, sigma_max=3.0)
    rows = layout.rows("pos")
    processes: dict[str, Process] = {
        "pos": ZeroMeanGaussianProcess(schedule=flow, parametrisation=Data(), dtype=dtype),
        "turn": ManifoldProcess(manifold=SO3(), schedule=exploding, parametrisation=ScaledScore(), dtype=dtype),
        "x": gaussian(VPLinear(), dtype),
    }
    frame = rotation_exp(torch.tensor([0.5, -1.2, 0.8], dtype=torch.float64))
    turn = processes["turn"]
    assert isinstance(turn, ManifoldProcess)

    def position(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (rows.per_row(level).to(x.dtype) for level in flow(t))
        return centred(alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x, rows)

    def orientation(x: Tensor, t: Tensor) -> Tensor:
        variance = turn.variance(t)
        frames = layout.rows("turn")
        score = turn.manifold.score(x, frame.to(x).expand_as(x), variance + 0.3, frames)
        return turn.manifold.exp(x, turn.manifold.per_vector(variance, frames).to(x.dtype) * score)

    def number(x: Tensor, t: Tensor) -> Tensor:
        return exact(VPLinear())(x, t[rows.owner])

    return layout, processes, {"pos": position, "turn": orientation, "x": number}


def test_mixed_states_flow_together() -> None:
    layout, processes, functions = mixed(torch.float64, [3, 1, 4])
    noise = Noise(seed=5, index=torch.arange(3))
    x_1 = {leaf: p.prior(layout.rows(leaf), noise.at(leaf, 0, layout.rows(leaf))) for leaf, p in processes.items()}
    flow = ProbabilityFlow(Leaves(functions), processes, layout)
    control = Control(relative=1e-6, absolute=1e-6, attempts=200, look_every=5)
    path = integrate(flow, x_1, flow.spaces, layout, start=1.0, end=0.1, control=control)
    assert bool(path.arrived.all())
    torch.testing.assert_close(path.state["x"], image(VPLinear(), x_1["x"], 0.1), atol=1e-5, rtol=0)
    # Positions: the same map with no mean.
    stretch = (0.9**2 * STD**2 + 0.1**2) ** 0.5
    torch.testing.assert_close(path.state["pos"], stretch * x_1["pos"], atol=1e-5, rtol=0)
    # Rotations keep their axis about the frame and the quantile of their angle.
    frame = rotation_exp(torch.tensor([0.5, -1.2, 0.8], dtype=torch.float64)).expand(8, 3, 3)
    before, after = (SO3().log(frame, x) for x in (x_1["turn"], path.state["turn"]))
    omega_1, omega = before.norm(dim=-1), after.norm(dim=-1)
    torch.testing.assert_close(after / omega[:, None], before / omega_1[:, None], atol=1e-5, rtol=0)
    times = torch.tensor([1.0, 0.1], dtype=torch.float64)
    wide, narrow = 0.3 + VE(sigma_min=0.05, sigma_max=3.0)(times)[1].square()
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    quantiles = [
        torch.trapezoid(so3_kernel.angle_density(grid * o, v), grid * o, dim=0)
        for o, v in ((omega_1, wide), (omega, narrow))
    ]
    torch.testing.assert_close(quantiles[0], quantiles[1], atol=1e-5, rtol=0)


def test_samples_are_the_clean_estimate_at_the_end() -> None:
    schedule = RectifiedFlow()
    layout, noise = Layout.dense(500, {"x": (4,)}), Noise(seed=3, index=torch.arange(500))
    denoiser = Leaves({"x": exact(schedule)})
    control = Control(relative=1e-6, absolute=1e-6, attempts=40)
    path = sample_adaptively(denoiser, {"x": gaussian(schedule)}, layout, noise, end=1e-4, control=control)
    assert bool(path.arrived.all())
    assert denoiser.calls == 2 + 6 * 40
    x_1 = gaussian(schedule).prior(layout.rows("x"), noise.at("x", 0, layout.rows("x")))
    torch.testing.assert_close(path.state["x"], image(schedule, x_1, 0.0), atol=2e-4, rtol=0)
    assert float(path.state["x"].mean()) == pytest.approx(MEAN, abs=4 * STD / 2000**0.5)
    again = sample_adaptively(
        Leaves({"x": exact(schedule)}), {"x": gaussian(schedule)}, layout, noise, end=1e-4, control=control,
        initial={"x": x_1},
    )  # fmt: skip
    assert torch.equal(again.state["x"], path.state["x"])


def test_each_sample_is_the_same_bit_for_bit_whatever_its_batch() -> None:
    counts, index = [3, 1, 4, 2], torch.tensor([7, 3, 9, 4])

    def run(members: list[int]) -> tuple[State, Tensor]:
        layout, processes, functions = mixed(torch.float32, [counts[b] for b in members])
        noise = Noise(seed=5, index=index[members])
        control = Control(relative=1e-3, absolute=1e-3, attempts=30, look_every=3)
        path = sample_adaptively(Leaves(functions), processes, layout, noise, end=0.2, control=control)
        assert bool(path.arrived.all())
        return path.state, layout.rows("x").owner

    together, owner = run([0, 1, 2, 3])
    for members in ([2], [3, 1, 0]):
        apart, other = run(members)
        for place, b in enumerate(members):
            for leaf, value in together.items():
                assert value.dtype == torch.float32
                assert torch.equal(apart[leaf][other == place], value[owner == b])


@pytest.mark.slow
def test_the_whole_adaptive_sampler_compiles_without_a_break() -> None:
    schedule = RectifiedFlow()
    layout, noise = Layout.dense(3, {"x": (2,)}), Noise(seed=3, index=torch.arange(3))
    processes, functions = {"x": gaussian(schedule, torch.float32)}, {"x": exact(schedule)}

    def run(x_1: Tensor) -> Tensor:
        path = sample_adaptively(
            Leaves(functions), processes, layout, noise, control=Control(attempts=1), initial={"x": x_1}
        )
        return path.state["x"]

    x_1 = torch.linspace(-1, 1, 6).reshape(3, 2)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_1), run(x_1))


def test_leaves_without_a_flow_are_refused() -> None:
    layout, noise = Layout.dense(1, {"x": (2,)}), Noise(seed=0, index=torch.arange(1))
    with pytest.raises(TypeError, match="expected a process with a probability flow for 'x', got MaskedProcess"):
        sample_adaptively(Leaves({}), {"x": MaskedProcess(classes=3)}, layout, noise)
    with pytest.raises(ValueError, match=r"expected an end in \(0, 1\), got 0"):
        sample_adaptively(Leaves({}), {"x": gaussian(VE())}, layout, noise, end=0)
