"""The one loop: what it shows the denoiser, what it keeps, and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff import grids
from scidiff.denoiser import Denoiser, NetworkDenoiser, SelfConditioned
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess, one_class
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.mixing import MixingProcess
from scidiff.processes.parametrisations import Data, Epsilon
from scidiff.processes.torus import Torus
from scidiff.sampling import Known, Samples, sample
from scidiff.schedules import VE, Cosine, RectifiedFlow, VPLinear
from scidiff.solvers.ancestral import ddim, ddpm, ddpm_learned
from scidiff.solvers.carry import with_estimates
from scidiff.solvers.categorical import CountedUnmasking, PosteriorJump
from scidiff.solvers.check import Gaussian, moments
from scidiff.solvers.dpmpp import dpmpp_2m
from scidiff.solvers.heun import heun
from scidiff.solvers.manifold import GeodesicEuler
from scidiff.solvers.renoise import time_travel
from scidiff.state import Layout, State

SCHEDULE = VPLinear()
GAUSSIAN = GaussianProcess(schedule=SCHEDULE, parametrisation=Data(), dtype=torch.float64)
GRID = grids.uniform(6, end=0.01)


def noise(count: int, seed: int = 0) -> Noise:
    return Noise(seed=seed, index=torch.arange(count))


class Spy(Denoiser):
    """Notes what it is shown and passes it on."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.shown: list[State] = []
        self.times: list[Tensor] = []
        self.answers: list[State] = []

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.shown.append(dict(x_t))
        self.times.append(t)
        self.answers.append(self.denoiser(x_t, t, layout, condition))
        return self.answers[-1]


@pytest.mark.parametrize("solver", [ddim, ddpm, dpmpp_2m, heun], ids=lambda s: s.__name__)
def test_the_loop_is_the_table_of_the_plan(gaussian_data: Any, solver: Any) -> None:
    plan = solver(SCHEDULE, GRID)
    layout, spy = Layout.dense(3, {"x": (4,)}), Spy(gaussian_data(SCHEDULE))
    got = sample(spy, {"x": GAUSSIAN}, {"x": plan}, layout, noise(3))
    assert got.nfe == plan.calls == len(spy.shown)
    assert [float(t[0]) for t in spy.times] == list(plan.times[:-1])
    rows = layout.rows("x")
    fresh = [
        GAUSSIAN.unit_noise(rows, noise(3).at("x", key.step, rows), dtype=torch.float64, kind=key.kind)
        for key in plan.noises
    ]
    atoms = torch.stack([spy.shown[0]["x"], *(answer["x"] for answer in spy.answers), *fresh])
    replayed = torch.einsum("ka,a...->k...", plan.table(), atoms)
    for k in range(1, plan.calls):
        torch.testing.assert_close(spy.shown[k]["x"], replayed[k - 1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.state["x"], replayed[-1], rtol=1e-9, atol=1e-9)
    prior = GAUSSIAN.prior(rows, noise(3).at("x", 0, rows))
    assert torch.equal(spy.shown[0]["x"], prior)


def test_samples_have_the_moments_of_the_plan(gaussian_data: Any) -> None:
    count, schedule = 40_000, RectifiedFlow()
    plan = ddpm(schedule, grids.uniform(12))
    process = GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)
    x = sample(
        gaussian_data(schedule), {"x": process}, {"x": plan}, Layout.dense(count, {"x": ()}), noise(count)
    ).state["x"]
    mean, std = moments(plan, schedule, Gaussian(mean=0.7, std=0.6))
    assert float(x.mean()) == pytest.approx(mean, abs=4 * std / count**0.5)
    assert float(x.std()) == pytest.approx(std, abs=4 * std / (2 * count) ** 0.5)


def test_known_elements_follow_one_path_and_end_exact(gaussian_data: Any) -> None:
    layout, spy = Layout.dense(4, {"x": (5,)}), Spy(gaussian_data(SCHEDULE))
    rows = layout.rows("x")
    values = noise(4, seed=9).at("v", 0, rows).normal(dtype=torch.float64)
    mask = torch.tensor([True, False, True, False, False]).expand(4, 5)
    plan = ddpm(SCHEDULE, GRID)
    free = sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": plan}, layout, noise(4))
    known = Known(values={"x": torch.where(mask, values, torch.nan)}, mask={"x": mask})
    got = sample(spy, {"x": GAUSSIAN}, {"x": plan}, layout, noise(4), known=known)
    assert torch.equal(got.state["x"][mask], values[mask])
    assert torch.equal(got.state["x"][~mask], free.state["x"][~mask])  # elements do not see each other here
    path = GAUSSIAN.unit_noise(rows, noise(4).at("x", 0, rows), dtype=torch.float64)
    for x, t in zip(spy.shown, spy.times, strict=True):
        alpha, sigma = (v[:, None] for v in SCHEDULE(t))
        torch.testing.assert_close(x["x"][mask], (alpha * values + sigma * path)[mask])


def test_known_classes_are_seen_from_the_start(enumerated: Any) -> None:
    process = MaskedProcess(classes=3)
    spy = Spy(enumerated(process, torch.ones(3, 3, 3)))
    values, mask = torch.tensor([[0, 2, 1]] * 5), torch.tensor([[False, True, False]] * 5)
    rules = {"x": CountedUnmasking.on(grids.uniform(3))}
    known = Known(values={"x": values}, mask={"x": mask})
    got = sample(spy, {"x": process}, rules, Layout.dense(5, {"x": (3,)}), noise(5), known=known)
    for x in spy.shown:
        assert bool((x["x"][:, 1] == 2).all())
    assert bool((got.state["x"][:, 1] == 2).all())
    assert bool((got.state["x"] < 3).all())


def test_known_leaves_may_be_few(gaussian_data: Any, enumerated: Any) -> None:
    masked = MaskedProcess(classes=2)
    layout, denoiser, processes, rules = mixed(gaussian_data, enumerated, ddim(SCHEDULE, GRID), masked)
    known = Known(values={"v": torch.full((4, 3), 2.0).double()}, mask={"v": torch.ones(4, 3, dtype=torch.bool)})
    got = sample(denoiser, processes, rules, layout, noise(4), known=known)
    assert bool((got.state["v"] == 2).all())


class Together(Denoiser):
    """Independent denoisers of different leaves."""

    def __init__(self, *denoisers: Denoiser) -> None:
        super().__init__()
        self.denoisers = denoisers

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean: State = {}
        for denoiser in self.denoisers:
            clean |= denoiser(x_t, t, layout, condition)
        return clean


def mixed(gaussian_data: Any, enumerated: Any, plan: Any, masked: Any) -> Any:
    layout = Layout.dense(4, {"v": (3,), "x": (2,)})
    denoiser = Together(gaussian_data(SCHEDULE, leaf="v"), enumerated(masked, torch.tensor([[3.0, 1], [1, 2]])))
    rule = PosteriorJump.beside(plan)
    return layout, denoiser, {"v": GAUSSIAN, "x": masked}, {"v": plan, "x": rule}


@pytest.mark.parametrize("solver", [ddim, heun, dpmpp_2m, time_travel], ids=lambda s: s.__name__)
@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_mixed_states_advance_together(gaussian_data: Any, enumerated: Any, solver: Any, kind: str) -> None:
    classes = MaskedProcess(classes=2) if kind == "masked" else MixingProcess.uniform(classes=2)
    plan = solver(SCHEDULE, grids.uniform(4))
    layout, denoiser, processes, rules = mixed(gaussian_data, enumerated, plan, classes)
    got = sample(denoiser, processes, rules, layout, noise(4))
    assert bool((got.state["x"] < 2).all())
    # Each leaf goes its own way: alone it comes out the same, bit for bit.
    alone = sample(denoiser.denoisers[0], {"v": GAUSSIAN}, {"v": plan}, Layout.dense(4, {"v": (3,)}), noise(4))
    assert torch.equal(got.state["v"], alone.state["v"])
    alone = sample(denoiser.denoisers[1], {"x": classes}, {"x": rules["x"]}, Layout.dense(4, {"x": (2,)}), noise(4))
    assert torch.equal(got.state["x"], alone.state["x"])


def test_time_travel_takes_masks_up_again(enumerated: Any) -> None:
    masked = MaskedProcess(classes=2)
    spy = Spy(enumerated(masked, torch.tensor([[3.0, 1], [1, 2]])))
    plan = time_travel(SCHEDULE, grids.uniform(4), jump=4, repeats=2)
    count = 20_000
    rule = PosteriorJump.beside(plan)
    sample(spy, {"x": masked}, {"x": rule}, Layout.dense(count, {"x": (2,)}), noise(count))
    for x, t in zip(spy.shown, spy.times, strict=True):
        share = float((x["x"] == 2).double().mean())
        assert share == pytest.approx(float(t[0]), abs=5 / (2 * count) ** 0.5)


class Swap:
    """Copies particles at one call."""

    def __init__(self, at: int, ancestors: list[int]) -> None:
        self.at, self.ancestors = at, torch.tensor(ancestors)

    def resample(self, k: int, x: State, clean: State, log_weight: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        here = self.ancestors if k == self.at else torch.arange(len(log_weight))
        return here, log_weight[here] + k

    def final(self, x: State, log_weight: Tensor) -> Tensor:
        return log_weight + 100 * x["x"][:: len(x["x"]) // len(log_weight), 0]


@pytest.mark.parametrize("solver", [ddim, dpmpp_2m, heun], ids=lambda s: s.__name__)
def test_steering_moves_whole_histories(gaussian_data: Any, solver: Any) -> None:
    # Without fresh noise, particles that change places at any call end where their ancestors would have.
    plan, layout = solver(SCHEDULE, GRID), Layout.dense(4, {"x": (3,)})
    free = sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": plan}, layout, noise(4))
    assert free.log_weight is None
    for at in (0, 3, plan.calls - 1):
        steering = Swap(at, [2, 2, 0, 1])
        got = sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": plan}, layout, noise(4), steering=steering)
        assert torch.equal(got.state["x"], free.state["x"][[2, 2, 0, 1]])
        assert got.log_weight is not None
        passed_on = got.log_weight - 100 * got.state["x"][:, 0]
        torch.testing.assert_close(passed_on, torch.full((4,), sum(range(plan.calls))).double())


def test_steering_of_ragged_samples(gaussian_data: Any) -> None:
    plan, counts = dpmpp_2m(SCHEDULE, GRID), torch.tensor([3, 2, 3, 4])
    layout = Layout.ragged({"x": counts}, {"x": (2,)})
    settings = {"processes": {"x": GAUSSIAN}, "rules": {"x": plan}, "layout": layout, "noise": noise(4)}
    free = sample(gaussian_data(SCHEDULE), **settings).state["x"]
    got = sample(gaussian_data(SCHEDULE), **settings, steering=Swap(2, [2, 1, 2, 3])).state["x"]
    assert torch.equal(got, torch.cat([free[5:8], free[3:5], free[5:]]))


def test_certificates_report_each_violation(gaussian_data: Any) -> None:
    class Positive:
        def violation(self, sample: State, layout: Layout) -> Tensor:
            return layout.rows("x").sum((-sample["x"]).clamp_min(0).double())

    layout = Layout.dense(5, {"x": (2,)})
    got = sample(
        gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": ddim(SCHEDULE, GRID)}, layout, noise(5, seed=4),
        certify={"positive": Positive()},
    )  # fmt: skip
    expected = got.state["x"].clamp_max(0).sum(1).neg()
    torch.testing.assert_close(got.certificate["positive"], expected)
    assert (got.seed, got.nfe) == (4, 6)
    assert torch.equal(got.index, torch.arange(5))
    with pytest.raises(AttributeError):
        got.nfe = 3  # type: ignore[misc]
    assert isinstance(got, Samples)


def test_initial_state_replaces_the_prior(gaussian_data: Any) -> None:
    spy, start = Spy(gaussian_data(SCHEDULE)), {"x": torch.full((2, 3), 0.25, dtype=torch.float64)}
    grid = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64)
    sample(spy, {"x": GAUSSIAN}, {"x": ddim(SCHEDULE, grid)}, Layout.dense(2, {"x": (3,)}), noise(2), initial=start)
    assert bool((spy.shown[0]["x"] == 0.25).all())
    assert float(spy.times[0][0]) == 0.5
    assert bool((start["x"] == 0.25).all())


def test_conditions_and_extra_outputs_reach_their_readers(gaussian_data: Any) -> None:
    class Variance(Denoiser):
        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            return {"x": x_t["x"] * 0 + condition, "x.variance": x_t["x"] * 0 + condition}

    rule = ddpm_learned(SCHEDULE, GRID)
    layout = Layout.dense(2, {"x": (3,)})
    wide, narrow = (
        sample(Variance(), {"x": GAUSSIAN}, {"x": rule}, layout, noise(2), condition=v).state["x"] for v in (1.0, -1.0)
    )
    assert not torch.equal(wide - 1, narrow + 1)
    with pytest.raises(ValueError, match="expected a learned variance"):
        sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": rule}, layout, noise(2))


def test_self_conditioning_sees_the_last_estimate() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shown: list[State] = []

        def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Any) -> State:
            self.shown.append(dict(inputs))
            logits = inputs["c.estimate"] + torch.tensor([0.3, 0.0, -0.2])
            return {"x": 0.5 * inputs["x.estimate"] + inputs["x"], "c": logits}

    network, masked = Network(), MaskedProcess(classes=3)
    plan = ddim(SCHEDULE, GRID)
    processes = {"x": GaussianProcess(schedule=SCHEDULE, parametrisation=Epsilon()), "c": masked}
    estimates: dict[str, tuple[int, ...]] = {"x": (), "c": (3,)}
    denoiser = Spy(SelfConditioned(NetworkDenoiser(network, processes), estimates))
    rules = {"x": plan, "c": PosteriorJump.beside(plan)}
    layout = Layout.dense(2, {"x": (4,), "c": (5,)})
    got = sample(denoiser, *with_estimates(estimates, processes, rules, layout), noise(2))
    assert not bool(network.shown[0]["x.estimate"].any())
    assert not bool(network.shown[0]["c.estimate"].any())
    for k in range(1, len(network.shown)):
        assert torch.equal(network.shown[k]["x.estimate"], denoiser.answers[k - 1]["x"])
        assert torch.equal(network.shown[k]["c.estimate"], denoiser.answers[k - 1]["c"].exp())
    again = sample(denoiser, *with_estimates(estimates, processes, rules, layout), noise(2))
    assert torch.equal(got.state["x"], again.state["x"])


def test_zero_mean_states_stay_centred() -> None:
    process = ZeroMeanGaussianProcess(schedule=SCHEDULE, parametrisation=Data(), dtype=torch.float64)
    network = torch.nn.Module()
    network.forward = lambda inputs, t, layout, condition: {"x": inputs["x"].tanh() + 3}  # type: ignore[method-assign]
    layout = Layout.ragged({"x": torch.tensor([3, 5])}, {"x": (3,)})
    denoiser = Spy(NetworkDenoiser(network, {"x": process}))
    got = sample(denoiser, {"x": process}, {"x": ddpm(SCHEDULE, GRID)}, layout, noise(2))
    for x in (*(shown["x"] for shown in denoiser.shown), got.state["x"]):
        means = torch.stack([part.mean(0) for part in x.split([3, 5])])
        torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-12, rtol=0)


def test_old_calls_are_forgotten(gaussian_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dpmpp_2m(SCHEDULE, GRID)
    kept: list[int] = []
    advance = type(plan).advance

    def watched(self: Any, k: int, trace: Any, *rest: Any) -> Tensor:
        kept.append(sum(value is not None for value in trace.clean))
        return advance(self, k, trace, *rest)

    monkeypatch.setattr(type(plan), "advance", watched)
    sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN}, {"x": plan}, Layout.dense(2, {"x": ()}), noise(2))
    assert max(kept) == plan.memory + 1 == 2


def test_rules_must_fit(gaussian_data: Any) -> None:
    layout, one = Layout.dense(2, {"x": (), "y": ()}), ddim(SCHEDULE, GRID)
    with pytest.raises(ValueError, match=r"one rule for each of the leaves \['x', 'y'\], got \['x'\]"):
        sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN, "y": GAUSSIAN}, {"x": one}, layout, noise(2))
    other = ddim(SCHEDULE, grids.uniform(7))
    with pytest.raises(ValueError, match="same times, got other times for 'y'"):
        sample(gaussian_data(SCHEDULE), {"x": GAUSSIAN, "y": GAUSSIAN}, {"x": one, "y": other}, layout, noise(2))


class Smooth(Denoiser):
    """Mixes three kinds of leaves."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x, c, angle = x_t["x"], x_t["c"], x_t["angle"]
        logits = torch.sin(x[:, :1, None] + c[..., None] + torch.arange(3.0))
        known = one_class(torch.where(c == 3, 0, c), 3, torch.float32)
        log_probs = torch.where((c == 3)[..., None], torch.log_softmax(logits, -1), known)
        return {"x": torch.tanh(x + angle[:, :1]) * (1 - t[:, None]).float(), "c": log_probs, "angle": angle * 0.5}


PLAN = ddpm(Cosine(), grids.uniform(3))
PROCESSES = {
    "x": GaussianProcess(schedule=Cosine(), parametrisation=Data()),
    "c": MaskedProcess(classes=3),
    "angle": ManifoldProcess(
        manifold=Torus(), schedule=VE(sigma_min=0.05, sigma_max=6.0), parametrisation=ScaledScore()
    ),
}
RULES = {
    "x": PLAN,
    "c": PosteriorJump.beside(PLAN),
    "angle": GeodesicEuler(times=PLAN.times, reach=PLAN.reach, eta=1.0),
}


def whole_sampler(index: Tensor) -> State:
    layout = Layout.dense(4, {"x": (3,), "c": (5,), "angle": (2,)})
    return sample(Smooth(), PROCESSES, RULES, layout, Noise(seed=1, index=index)).state


def test_compile_takes_a_whole_sampler_of_a_mixed_state() -> None:
    # fullgraph: one graph from the keys of the noise to the finished state, no break, no read-back.
    compiled = torch.compile(whole_sampler, fullgraph=True, backend="eager")
    index = torch.tensor([3, 1, 4, 15])
    for leaf, x in compiled(index).items():
        assert torch.equal(x, whole_sampler(index)[leaf])


@pytest.mark.slow
def test_compiled_kernels_give_the_same_samples() -> None:
    compiled = torch.compile(whole_sampler, fullgraph=True)
    index = torch.tensor([3, 1, 4, 15])
    for leaf, x in compiled(index).items():
        torch.testing.assert_close(x, whole_sampler(index)[leaf], atol=1e-5, rtol=1e-5)
