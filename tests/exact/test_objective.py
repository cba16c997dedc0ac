"""The forward path: times, losses, the bound in closed form, and what denoisers are shown in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from scidiff.denoiser import Denoiser, NetworkDenoiser, SelfConditioned
from scidiff.noise import Noise
from scidiff.objective import DiscreteTimes, LogitNormalTimes, NormalLogSigma, bound, loss, stratified
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.loss_weights import data_error
from scidiff.processes.mixing import MixingProcess
from scidiff.processes.parametrisations import EDM, Data, Epsilon
from scidiff.schedules import Cosine, Karras, LearnedSchedule, RectifiedFlow, VPLinear
from scidiff.state import Layout, Rows, State


def noise(count: int, *, seed: int = 0, first: int = 0) -> Noise:
    return Noise(seed=seed, index=torch.arange(first, first + count))


def test_stratified_times_are_even_over_any_run_of_samples() -> None:
    for first, count in ((0, 64), (1_000_003, 64), (2**32 - 100, 100), (5, 1000)):
        t = stratified(noise(count, first=first)).sort().values
        assert 0 < float(t[0]) < float(t[-1]) < 1
        expected = (torch.arange(count) + 0.5) / count
        # Independent times would stray by about 1 / sqrt(count).
        assert float((t - expected).abs().max()) < 2.5 / count * (1 + 0.1 * count**0.25)


def test_stratified_times_are_functions_of_seed_and_index() -> None:
    whole = stratified(noise(100))
    assert torch.equal(stratified(Noise(seed=0, index=torch.tensor([70, 3]))), whole[[70, 3]])
    offsets = torch.stack([stratified(noise(1, seed=seed))[0] for seed in range(400)])
    assert stats.kstest(offsets.numpy(), "uniform").pvalue > 1e-3


def test_other_times() -> None:
    t = DiscreteTimes(steps=10)(noise(1000))
    assert torch.bincount((t * 10).round().long(), minlength=11)[1:].tolist() == pytest.approx([100] * 10, abs=3)
    torch.testing.assert_close(t * 10, (t * 10).round())
    schedule = Karras()
    sigma = schedule(NormalLogSigma(schedule=schedule)(noise(2000)))[1]
    assert stats.kstest(sigma.log().numpy(), stats.norm(-1.2, 1.2).cdf).statistic < 0.01
    logit = torch.logit(LogitNormalTimes(mean=0.5, std=2.0)(noise(2000)))
    assert stats.kstest(logit.numpy(), stats.norm(0.5, 2.0).cdf).statistic < 0.01


class Off(Denoiser):
    """Knows x_0, up to a constant; notes what it was shown."""

    def __init__(self, x_0: State, by: float = 0.0) -> None:
        super().__init__()
        self.x_0, self.by = x_0, by
        self.seen: list[tuple[State, Tensor]] = []

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.seen.append((x_t, t))
        return {leaf: x + self.by for leaf, x in self.x_0.items()}


def test_loss_is_the_weighted_error_at_the_drawn_time() -> None:
    layout = Layout.dense(50, {"x": (3,), "y": (2, 2)})
    x_0 = {"x": torch.ones(50, 3), "y": torch.zeros(50, 2, 2)}
    processes = {
        "x": GaussianProcess(schedule=VPLinear(), parametrisation=Epsilon()),
        "y": GaussianProcess(schedule=Cosine(), parametrisation=Epsilon(), weight=data_error),
    }
    assert float(loss(Off(x_0), processes, x_0, layout, noise(50)).abs().max()) == 0
    off = Off(x_0, by=0.5)
    got = loss(off, processes, x_0, layout, noise(50), weights={"x": 2.0})
    t = stratified(noise(50))
    torch.testing.assert_close(off.seen[0][1], t)
    expected = 2 * 0.25 * VPLinear().log_snr(t).exp() + 0.25
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    fixed = loss(off, processes, x_0, layout, noise(50), times=lambda n: torch.full((50,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(fixed.double(), (0.25 * VPLinear().log_snr(t * 0 + 0.5).exp() + 0.25), rtol=1e-4, atol=0)


def test_loss_of_a_sample_does_not_depend_on_its_batch(gaussian_data: Any) -> None:
    processes = {"x": GaussianProcess(schedule=Cosine(), parametrisation=Data(), weight=data_error)}
    x_0 = noise(12).at("data", 0, Layout.dense(12, {"x": (5,)}).rows("x")).normal()
    part = torch.tensor([7, 2, 11])

    def run(chosen: Tensor) -> Tensor:
        layout = Layout.dense(len(chosen), {"x": (5,)})
        return loss(gaussian_data(Cosine()), processes, {"x": x_0[chosen]}, layout, Noise(seed=3, index=chosen))

    assert torch.equal(run(part), run(torch.arange(12))[part])


def test_couplings_choose_the_noise() -> None:
    layout = Layout.dense(4, {"x": (3,)})
    x_0 = {"x": torch.arange(12.0).reshape(4, 3)}
    processes = {"x": GaussianProcess(schedule=RectifiedFlow(), parametrisation=Data())}

    def turned(data: Tensor, draws: Tensor, rows: Any) -> Tensor:
        assert torch.equal(data, x_0["x"])
        return draws.flip(0)

    plain, coupled = Off(x_0), Off(x_0)
    loss(plain, processes, x_0, layout, noise(4))
    loss(coupled, processes, x_0, layout, noise(4), couplings={"x": turned})
    t = stratified(noise(4))[:, None].float()
    draws = (plain.seen[0][0]["x"] - (1 - t) * x_0["x"]) / t
    torch.testing.assert_close(coupled.seen[0][0]["x"], (1 - t) * x_0["x"] + t * draws.flip(0))


def standard_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("steps", [None, 7])
def test_bound_of_gaussian_data(gaussian_data: Any, steps: int | None) -> None:
    count, start, std, mean = 20_000, 0.05, 0.6, 0.7
    schedule = RectifiedFlow()
    processes = {"x": GaussianProcess(schedule=schedule, parametrisation=Data(), dtype=torch.float64)}
    layout = Layout.dense(count, {"x": ()})
    rows = layout.rows("x")
    x_0 = mean + std * noise(count).at("data", 0, rows).normal(dtype=torch.float64)
    got = bound(gaussian_data(schedule), processes, {"x": x_0}, layout, noise(count), start=start, steps=steps)
    # sum over steps of (SNR_s - SNR_t) / 2 mmse_t, which for infinitely many is the mutual information's growth
    if steps is None:
        high, low = torch.log1p(schedule.log_snr(torch.tensor([start, 1.0], dtype=torch.float64)).exp() * std**2)
        diffusion = float(high - low) / 2
    else:
        snr = schedule.log_snr(start + (1 - start) * torch.arange(steps + 1, dtype=torch.float64) / steps).exp()
        diffusion = float((-snr.diff() / 2 * std**2 / (1 + snr[1:] * std**2)).sum())
    assert float(got.prior.abs().max()) == 0
    assert float(got.diffusion.mean()) == pytest.approx(diffusion, abs=4 * standard_error(got.diffusion))
    snr_0 = schedule.log_snr(torch.tensor(start, dtype=torch.float64)).exp()
    mmse = std**2 / (1 + snr_0 * std**2)
    data = 0.5 * (snr_0 * mmse + torch.log(2 * torch.pi / snr_0))
    assert float(got.data.mean()) == pytest.approx(float(data), abs=4 * standard_error(got.data))
    torch.testing.assert_close(got.total, got.prior + got.diffusion + got.data)


class Even(GaussianProcess):
    """Each unit of time adds one nat to the bound."""

    def bound_rate(self, clean: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, rows: Rows) -> Tensor:
        return torch.ones_like(t)

    def bound_step(self, clean: Tensor, x_0: Tensor, x_t: Tensor, rows: Rows, *, s: Tensor, t: Tensor) -> Tensor:
        return t - s


@pytest.mark.parametrize("steps", [None, 7])
def test_bound_covers_the_time_from_start_to_one(gaussian_data: Any, steps: int | None) -> None:
    layout, schedule = Layout.dense(5, {"x": ()}), Cosine()
    processes = {"x": Even(schedule=schedule, parametrisation=Data())}
    got = bound(gaussian_data(schedule), processes, {"x": torch.ones(5)}, layout, noise(5), start=0.4, steps=steps)
    torch.testing.assert_close(got.diffusion, torch.full((5,), 0.6, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_bound_of_classes_is_their_log_likelihood(enumerated: Any, kind: str) -> None:
    process = MaskedProcess(classes=2) if kind == "masked" else MixingProcess.uniform(classes=2)
    exact = enumerated(process, torch.tensor([[4.0, 1.0], [2.0, 3.0]]))
    count = 20_000
    layout = Layout.dense(count, {"x": (2,)})
    for x_0, probability in zip(exact.sequences, exact.probabilities.flatten(), strict=True):
        state = {"x": x_0.expand(count, 2)}
        got = bound(exact, {"x": process}, state, layout, noise(count), start=1e-3).total
        assert float(got.mean()) == pytest.approx(-float(probability.log()), abs=4 * standard_error(got) + 2e-3)


def test_masked_bound_of_few_steps(enumerated: Any) -> None:
    # Two elements are lifted in the same of n steps with probability 1/n, and then drawn independently:
    # (1 - 1/n) (-log p(a, b)) + (1/n) (-log p(a) p(b))
    process, count, steps = MaskedProcess(classes=2), 20_000, 3
    exact = enumerated(process, torch.tensor([[4.0, 1.0], [2.0, 3.0]]))
    layout = Layout.dense(count, {"x": (2,)})
    one, other = exact.marginals()
    for x_0, probability in zip(exact.sequences, exact.probabilities.flatten(), strict=True):
        apart = one[x_0[0]] * other[x_0[1]]
        expected = -((1 - 1 / steps) * probability.log() + apart.log() / steps)
        state = {"x": x_0.expand(count, 2)}
        got = bound(exact, {"x": process}, state, layout, noise(count), start=0.0, steps=steps).total
        assert float(got.mean()) == pytest.approx(float(expected), abs=4 * standard_error(got))


def test_two_step_masked_bound_by_hand(enumerated: Any) -> None:
    # One position, alpha_t = 1 - t, two steps: masked at 1 and, with probability 1/2, at 1/2:
    # (1/2) / 1 * -log p + (1/2) (1/2) / (1/2) * -log p = -log p
    process = MaskedProcess(classes=3)
    exact = enumerated(process, torch.tensor([1.0, 2.0, 5.0]))
    layout = Layout.dense(4000, {"x": (1,)})
    state = {"x": torch.full((4000, 1), 1)}
    got = bound(exact, {"x": process}, state, layout, noise(4000), start=0.0, steps=2)
    assert float(got.total.mean()) == pytest.approx(-float(torch.tensor(0.25).log()), abs=4 * standard_error(got.total))
    assert float(got.data.abs().max()) == 0


def test_bound_of_a_mixed_state_is_the_sum_over_independent_leaves(gaussian_data: Any, enumerated: Any) -> None:
    masked = MaskedProcess(classes=2)
    classes, values = enumerated(masked, torch.tensor([3.0, 1.0])), gaussian_data(VPLinear(), leaf="v")

    class Both(Denoiser):
        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            return {**classes(x_t, t, layout), **values(x_t, t, layout)}

    layout = Layout.dense(8, {"x": (1,), "v": (2,)})
    x_0 = {"x": torch.tensor([[0], [1]] * 4), "v": torch.ones(8, 2, dtype=torch.float64)}
    processes = {"x": masked, "v": GaussianProcess(schedule=VPLinear(), parametrisation=Data())}
    together = bound(Both(), processes, x_0, layout, noise(8), start=0.1)
    apart = [
        bound(alone, {leaf: processes[leaf]}, x_0, layout, noise(8), start=0.1).total
        for leaf, alone in (("x", classes), ("v", values))
    ]
    torch.testing.assert_close(together.total, apart[0] + apart[1])
    with pytest.raises(ValueError, match=r"start in \[0, 1\), got 1"):
        bound(Both(), processes, x_0, layout, noise(8), start=1.0)


class Spy(nn.Module):
    """A network that answers a learned multiple of its input, a variance, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.seen: list[tuple[State, Tensor]] = []

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Any) -> State:
        self.seen.append(({name: x.detach() for name, x in inputs.items()}, t))
        shown = inputs.get("x.estimate", torch.zeros(()))
        return {"x": self.factor * inputs["x"] + shown, "x.variance": 0.1 * self.factor * torch.ones_like(inputs["x"])}


def test_network_denoiser_scales_inputs_and_reads_outputs() -> None:
    edm = EDM(sigma_data=0.4)
    process = GaussianProcess(schedule=Karras(), parametrisation=edm)
    network = Spy()
    denoiser = NetworkDenoiser(network, {"x": process})
    x, t = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 5).double()
    outputs = denoiser({"x": x}, t, Layout.dense(5, {"x": (3,)}))
    alpha, sigma = (v[:, None].float() for v in Karras()(t))
    scaled = x / (sigma**2 + 0.16).sqrt()
    torch.testing.assert_close(network.seen[0][0]["x"], scaled)
    assert network.seen[0][1].dtype == torch.float32
    torch.testing.assert_close(outputs["x"], edm.clean(2 * scaled, x, alpha, sigma))
    assert torch.equal(outputs["x.variance"], torch.full((5, 3), 0.2))


def test_a_learned_schedule_belongs_to_the_denoiser() -> None:
    schedule = LearnedSchedule()
    processes = {leaf: GaussianProcess(schedule=schedule, parametrisation=Epsilon()) for leaf in ("x", "y")}
    denoiser = NetworkDenoiser(Spy(), processes)
    assert {id(p) for p in schedule.parameters()} < {id(p) for p in denoiser.parameters()}
    assert len(list(denoiser.parameters())) == len(list(schedule.parameters())) + 1


def test_learned_variance_joins_the_loss() -> None:
    process = GaussianProcess(schedule=VPLinear(), parametrisation=Epsilon())
    denoiser = NetworkDenoiser(Spy(), {"x": process})
    layout = Layout.dense(6, {"x": (3,)})
    x_0 = torch.ones(6, 3)
    got = loss(denoiser, {"x": process}, {"x": x_0}, layout, noise(6), weights={"x": 3.0})
    t, rows = stratified(noise(6)), layout.rows("x")
    x_t = process.corrupt(x_0, t, rows, noise(6).at("x", 0, rows))
    outputs = denoiser({"x": x_t}, t, layout)
    expected = process.loss(outputs["x"], x_0, x_t, t, rows)
    expected = expected + process.variance_loss(outputs["x.variance"], outputs["x"], x_0, t, rows)
    torch.testing.assert_close(got, 3 * expected)


def test_self_conditioning_shows_the_first_answer_to_a_part_of_the_samples() -> None:
    process = GaussianProcess(schedule=VPLinear(), parametrisation=Data())
    layout = Layout.dense(2000, {"x": (2,)})
    x_0 = {"x": torch.ones(2000, 2)}
    network = Spy()
    denoiser = SelfConditioned(NetworkDenoiser(network, {"x": process}), {"x": ()}, chance=0.3)
    loss(denoiser, {"x": process}, x_0, layout, noise(2000)).sum().backward()
    (first, _), (second, _) = network.seen
    assert torch.equal(first["x"], second["x"])
    assert not bool(first["x.estimate"].any())
    shown = second["x.estimate"].any(-1)
    assert float(shown.float().mean()) == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(second["x.estimate"][shown], 2 * first["x"][shown])
    # d(factor x + stopped)/d factor = x alone
    assert network.factor.grad is not None
    network.seen.clear()
    loss(denoiser, {"x": process}, x_0, layout, noise(2000))
    assert torch.equal(network.seen[1][0]["x.estimate"], second["x.estimate"])


def test_no_gradient_passes_through_the_shown_estimate() -> None:
    process = GaussianProcess(schedule=VPLinear(), parametrisation=Data(), weight=data_error)
    layout, zeros = Layout.dense(1, {"x": ()}), {"x": torch.zeros(1)}
    network = Spy()
    network.register_forward_hook(lambda module, args, out: {"x": out["x"]})
    denoiser = SelfConditioned(NetworkDenoiser(network, {"x": process}), {"x": ()}, chance=1.0)
    loss(denoiser, {"x": process}, zeros, layout, noise(1)).sum().backward()
    x = network.seen[0][0]["x"]
    # (factor x + shown)^2 with shown = 2 x held fixed: 2 (2 x + 2 x) x
    assert network.factor.grad is not None
    torch.testing.assert_close(network.factor.grad, (8 * x * x).squeeze())
