"""Windows of a Gauss-Markov chain, whose denoisers are known: what is composed of them, drawn on, or told values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.composed import Composed
from scidiff.fluids.measured_frames import Measured
from scidiff.fluids.observed import Facts, Observed
from scidiff.fluids.oracle import Instrument
from scidiff.fluids.space_time import SpaceTime, extended, memory_of
from scidiff.fluids.windowed import Told, rollout
from scidiff.fluids.windows import (
    LEAF,
    WindowBatches,
    WindowConfig,
    WindowModel,
    chosen,
    known_frames,
)
from scidiff.noise import Noise
from scidiff.processes.stationary import Stationary
from scidiff.schedules import Cosine
from scidiff.state import Layout, State

F64 = torch.float64
W, SIZE, SCALE = 3, 8, 3.0


def levels(s: float, count: int) -> Tensor:
    """Times at which sigma / alpha = s."""
    return Cosine().time(torch.full((count,), -2 * math.log(s), dtype=F64))


class Chain(Denoiser):
    """E[x_0 | x_t, known frames] of frames whose points all have the memory rho^|lag|, each of them by itself.

    Noise and data have the same spectrum, so that every wave is the same problem.
    """

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        x = x_t[LEAF].double()
        alpha, sigma = (level.double()[0] for level in Cosine()(t))
        steps = torch.arange(x.shape[1], dtype=F64)
        memory = self.rho ** (steps[:, None] - steps).abs()
        seen = x / alpha if alpha > 1e-9 else torch.zeros_like(x)
        variance = (sigma / alpha.clamp_min(1e-9)).square().expand(x.shape[:2])
        if condition is not None:
            seen = torch.where(condition["known"], condition["values"].double(), seen)
            variance = torch.where(condition["known"][:, :, 0, 0], 0, variance)
        gain = torch.linalg.solve(memory + torch.diag_embed(variance), memory, left=True).mT  # C (C + s)^-1
        clean = torch.einsum("bij,bjyx->biyx", gain, seen)
        return {LEAF: clean.to(x_t[LEAF])}


def told(denoiser: Denoiser, x: Tensor, s: float, condition: Any = None) -> Tensor:
    layout = Layout.dense(len(x), {LEAF: tuple(x.shape[1:])})
    return denoiser({LEAF: x}, levels(s, len(x)), layout, condition)[LEAF]


def composed(rho: float, frames: int, *, memory: float = 0.0) -> Composed:
    """Of exact windows; without a memory as the Gaussian estimate has it, they alone say what comes."""

    def covariance(length: int) -> SpaceTime:
        return alike(memory, length)

    return Composed(Chain(rho), leaf=LEAF, frames=frames, schedule=Cosine(), covariance=covariance)


def noisy(frames: int, seed: int = 0) -> Tensor:
    """Fields without the mean that no wave of the spectrum has."""
    x = torch.randn(2, frames, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return x - x.mean((-2, -1), keepdim=True)


@pytest.mark.parametrize(("rho", "length"), [(0.9, 5), (0.0, 9)])
def test_what_is_composed_is_exact_of_one_window_and_of_independent_frames(rho: float, length: int) -> None:
    x = noisy(length)
    torch.testing.assert_close(told(composed(rho, 5), x, 0.7), told(Chain(rho), x, 0.7), rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", [0.05, 0.7, 5.0])
@pytest.mark.parametrize("frames", [2, 3, 4])
def test_what_is_composed_of_a_gauss_markov_chain_is_exact_at_every_level_of_noise(frames: int, s: float) -> None:
    """The score too, which is linear in the estimate; windows of two hold all that such a chain remembers."""
    x = noisy(9)
    exact = told(Chain(0.9), x, s)
    torch.testing.assert_close(told(composed(0.9, frames, memory=0.9), x, s), exact, rtol=0, atol=1e-5)
    off = (told(composed(0.9, frames), x, s) - exact).abs().max()
    assert off > 1e-4


@pytest.mark.parametrize(("rho", "s"), [(0.9, 0.5), (0.8, 2.0), (0.95, 0.2)])
def test_what_windows_leave_out_falls_as_the_kernel_of_the_smoother(rho: float, s: float) -> None:
    b = (1 + rho**2 + (1 - rho**2) / s**2) / rho
    rate = (b - math.sqrt(b * b - 4)) / 2
    x, middle, left = noisy(81), 40, []
    exact = told(Chain(rho), x, s)[:, middle]
    for half in (4, 5, 6, 7, 8):
        left.append(float((told(composed(rho, 2 * half + 1), x, s)[:, middle] - exact).square().mean().sqrt()))
    assert left[0] < 1
    found = (left[-1] / left[0]) ** (1 / 4)
    assert abs(found / rate - 1) < 0.15, (found, rate)


def test_the_composed_score_goes_to_the_exact_one_with_the_noise() -> None:
    """Without noise the chain is Markov, and windows of three hold the neighbours of every frame."""
    steps = torch.arange(9, dtype=F64)
    memory = 0.9 ** (steps[:, None] - steps).abs()
    x_0 = torch.einsum("ij,bjyx->biyx", torch.linalg.cholesky(memory), noisy(9))
    off = []
    for s in (0.1, 0.01, 0.001):
        alpha, sigma = (float(level[0]) for level in Cosine()(levels(s, 1)))
        x_t = alpha * x_0 + sigma * noisy(9, seed=2)
        scores = [(alpha * told(one, x_t, s) - x_t) / sigma**2 for one in (composed(0.9, 3), Chain(0.9))]
        off.append(float((scores[0] - scores[1]).norm() / scores[1].norm()))
    assert off[0] > 30 * off[1] > 900 * off[2]
    assert off[2] < 1e-4


def test_fewer_frames_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 5 frames, got 4"):
        told(composed(0.5, 5), noisy(4), 1.0)


# --- the covariance over space and time


def spectrum() -> Tensor:
    k = torch.fft.fftfreq(SIZE, 1 / SIZE)[:, None].abs() + torch.arange(SIZE // 2 + 1)
    found = 1 / (1 + k.double()) ** 2
    found[0, 0] = 0
    return found


def memory() -> Tensor:
    """Of the first W lags: rho^lag, rho falling with the waves."""
    k = torch.fft.fftfreq(SIZE, 1 / SIZE)[:, None].abs() + torch.arange(SIZE // 2 + 1)
    rho = 0.95 * torch.exp(-k.double() / 6)
    return torch.stack([rho**lag for lag in range(W)])


def covariance(frames: int) -> SpaceTime:
    return SpaceTime.of(spectrum(), memory(), frames=frames, width=SIZE)


def alike(rho: float, frames: int) -> SpaceTime:
    """The memory rho^|lag| of all waves."""
    first = torch.tensor([1, rho])[:, None, None].expand(-1, *spectrum().shape)
    return SpaceTime.of(spectrum(), first, frames=frames, width=SIZE)


def dense(one: SpaceTime, frames: int) -> Tensor:
    shape = (frames, SIZE, SIZE)
    return one.spread(torch.eye(frames * SIZE**2, dtype=F64).reshape(-1, *shape)).flatten(1)


def test_a_memory_goes_on_as_the_autoregression_that_has_it() -> None:
    one = torch.tensor([[1, 0.8], [1, -0.3]], dtype=F64)
    torch.testing.assert_close(extended(one, 6), one[:, 1:] ** torch.arange(6))
    a, b = 0.6, 0.25  # x_n = a x_{n-1} + b x_{n-2} + noise
    two = [1, a / (1 - b)]
    for _ in range(5):
        two.append(a * two[-1] + b * two[-2])
    torch.testing.assert_close(extended(torch.tensor(two[:3], dtype=F64), 7), torch.tensor(two, dtype=F64))


def test_a_covariance_over_time_is_what_its_entries_say() -> None:
    frames = 5
    one = covariance(frames)
    whole = dense(one, frames)
    places = torch.tensor([0, 7, 64, 100, 319])
    torch.testing.assert_close(one.lags().between(places, places[1:]), whole[places][:, places[1:]])
    root = one.root(torch.eye(frames * SIZE**2, dtype=F64).reshape(-1, frames, SIZE, SIZE)).flatten(1)
    torch.testing.assert_close(root.T @ root, whole)
    power = torch.fft.rfft2(root.reshape(-1, frames, SIZE, SIZE), norm="ortho")
    between = torch.einsum("niyx,njyx->ijyx", power.conj(), power).real
    for lag in range(frames):
        wanted = spectrum() * memory()[1] ** lag
        torch.testing.assert_close(between[0, lag], wanted, rtol=1e-4, atol=1e-5)


def test_what_noise_leaves_of_it_is_the_posterior_covariance() -> None:
    frames, noise = 3, 0.4
    whole = dense(covariance(frames), frames)
    loud = noise * dense(alike(0.0, frames), frames)
    exact = whole - whole @ torch.linalg.pinv(whole + loud, rtol=1e-10, hermitian=True) @ whole
    torch.testing.assert_close(dense(covariance(frames).posterior(torch.tensor(noise)), frames), exact)
    torch.testing.assert_close(dense(covariance(frames).posterior(torch.tensor(math.inf)), frames), whole)


def test_a_memory_is_found_from_windows() -> None:
    windows = covariance(W).root(
        torch.randn(4000, W, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(1))
    )
    mean = torch.linspace(-1, 1, SIZE, dtype=F64)[:, None].expand(SIZE, SIZE)
    found, seen = memory_of(windows + mean, mean), spectrum() > 0
    assert (found - memory())[:, seen].abs().max() < 0.06
    assert found[:, ~seen].flatten().tolist() == [1, 0, 0]


# --- trajectories told values


def model(denoiser: Denoiser | None = None, **changed: Any) -> WindowModel:
    sizes: dict[str, Any] = {"shape": (SIZE, SIZE), "widths": (8, 8), "blocks": 1, **changed}
    config = WindowConfig(
        lengths=(2 * math.pi, 2 * math.pi), scale=SCALE, waves=2, interval=0.5, frames=W, error=0.1, **sizes
    )
    mean = torch.cos(2 * config.box.coordinates()[0])[:, None].expand(config.shape)[None].float()
    found = WindowModel.create(config, Stationary(mean=mean, variance=spectrum()[None].float()), memory().float())
    return found if denoiser is None else replace(found, denoiser=denoiser)


def facts(frames: int, noise: float) -> Facts:
    """Of two frames: points of one, a mean of the other."""
    rows = [torch.zeros(4, SIZE, SIZE, dtype=F64), torch.zeros(1, SIZE, SIZE, dtype=F64)]
    rows[0][torch.arange(4), torch.tensor([0, 2, 5, 7]), torch.tensor([1, 1, 6, 3])] = 1
    rows[1][0, 2:5, 3:6] = 1 / 9
    values = [torch.tensor([0.7, -1.2, 0.1, 0.4], dtype=F64), torch.tensor([0.2], dtype=F64)]
    return Facts.of((frames, SIZE, SIZE), [0, frames - 1], rows, values, noise=noise)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_estimates_that_know_values_are_those_of_kalmans_smoother(noise: float) -> None:
    """By one regression on the noisy trajectory and the values at once, with dense matrices."""
    frames, s, rho = 4, 0.8, 0.7
    one = SpaceTime.of(
        spectrum(), torch.tensor([1, rho])[:, None, None].expand(-1, *spectrum().shape), frames=frames, width=SIZE
    )
    white = SpaceTime.of(
        spectrum(), torch.tensor([1, 0.0])[:, None, None].expand(-1, *spectrum().shape), frames=frames, width=SIZE
    )
    prior, known = dense(one, frames), facts(frames, noise)
    rows = torch.zeros(5, frames * SIZE**2, dtype=F64)
    rows[:, known.places] = known.weights
    x_t = one.root(torch.randn(2, frames, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(3)))
    alpha = float(Cosine()(levels(s, 1))[0][0])
    stacked = torch.cat([torch.eye(len(prior), dtype=F64), rows])
    loud = torch.block_diag(s**2 * dense(white, frames), noise * torch.eye(5, dtype=F64))
    seen = torch.cat([x_t.flatten(1) / alpha, known.values.expand(2, -1)], 1)
    gram = stacked @ prior @ stacked.T + loud
    exact = seen @ torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ stacked @ prior
    denoiser = Observed(Chain(rho), model().process, leaf=LEAF, facts=known, covariance=one)
    found = told(denoiser, x_t, s)
    torch.testing.assert_close(found.flatten(1), exact, rtol=0, atol=1e-5)
    off = (known.seen(found) - known.values).abs().max()
    assert off < 1e-10 if noise == 0 else off > 1e-3


def test_trajectories_hold_measured_values_whoever_is_drawn_beside() -> None:
    frames = 5
    task = Told(model=model(Chain(0.7)), facts=facts(frames, 0.0))
    many, few = task.draw(samples=9, seed=4, calls=4), task.draw(samples=2, seed=4, calls=4)
    assert torch.equal(many[:2], few)
    leaf = task.model.leaf(many)
    assert (task.facts.seen(leaf) - task.facts.values).abs().max() < 1e-10
    assert (many[0] - many[1]).abs().max() > 0.1


def test_what_instruments_read_is_told_in_the_units_of_the_leaf() -> None:
    """A trajectory meets the facts of what is read of it, in its own unit and with the mean; noise is scaled too."""
    one, noise, u = model(), 0.3, torch.randn(2, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(9))
    vorticity = one.vorticity(covariance(2).root(u))
    step = 2 * math.pi / SIZE
    tools = [
        Instrument(kind="point", quantity="vorticity", start=(3 * step, step), end=(3 * step, step), time=0.5 * k,
                   value=float(vorticity[k, 3, 1]), name=f"value {k}")
        for k in range(2)
    ]  # fmt: skip
    measured = Measured.of(tools, one.config, until=0.5, noise=noise)
    facts = measured.facts(one)
    assert (facts.shape, measured.wanted, measured.frames) == ((W, SIZE, SIZE), 2, (0, 1))
    assert facts.noise == pytest.approx((noise / SCALE) ** 2)
    whole = torch.cat([vorticity, vorticity[:1]])[None]
    torch.testing.assert_close(facts.seen(one.leaf(whole))[0], facts.values, rtol=0, atol=1e-6)
    off, limit = measured.certificate(whole + 0.6)["misfit"]  # two standard deviations
    assert off.tolist() == pytest.approx([4], rel=1e-6)
    assert limit == pytest.approx(13.8155 / 2, rel=1e-4)
    whole[:, 1] += 0.3
    assert {time: off.tolist() for time, off in measured.misses(whole).items()} == {
        0: pytest.approx([0], abs=1e-9),
        0.5: pytest.approx([1], rel=1e-6),
    }


def test_trajectories_that_miss_noisy_values_are_moved_until_they_miss_them_as_draws_do() -> None:
    task, prior, bound = Told(model=model(), facts=facts(5, 0.001)), covariance(5), 20.515  # chi-square of 5, 99.9 %
    drawn = prior.root(torch.randn(16, 5, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(1)))
    drawn[:4] = facts(5, 0.0).told(drawn[:4], prior)
    assert (task.facts.missed(drawn)[4:] > bound).all()
    found = task.closer(drawn, prior, Noise(seed=1, index=torch.arange(16)))
    missed = task.facts.missed(found)
    assert (missed < bound).all()
    assert missed[4:].mean() > 2  # not onto the values, but as far from them as their noise asks for
    assert torch.equal(found[:4], drawn[:4])
    assert (found - drawn).abs().mean() < 0.5 * drawn.abs().mean()


# --- trajectories that go on


def test_frames_drawn_window_after_window_have_the_memory_of_the_chain() -> None:
    """From a start of the data's law: variance S at every step, and rho^lag of it, across the seams of windows too."""
    count, steps = 192, 7
    one = model()
    white = torch.randn(count, 1, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(5))
    start = covariance(1).root(white)
    found = rollout(one, one.vorticity(start), steps=steps, samples=count, seed=6, calls=8)
    waves = torch.fft.rfft2(one.leaf(found.vorticity), norm="ortho")
    known = spectrum() > 0
    for lag in range(4):
        pairs = (waves[:, : steps + 1 - lag].conj() * waves[:, lag:]).real.mean(0)
        off = pairs[:, known] / spectrum()[known] - memory()[1, known] ** lag
        assert off.mean(1).abs().max() < 0.03, (lag, off)
        assert off.abs().max() < 0.5
    assert found.times.tolist() == [0.5 * n for n in range(steps + 1)]


def test_a_trajectory_is_the_same_whatever_is_drawn_beside_it_and_holds_its_start() -> None:
    one = model()
    start = 3 * torch.randn(2, 4, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(2))
    many = rollout(one, start, steps=5, samples=10, seed=7)
    few = rollout(one, start, steps=2, samples=3, seed=7)
    assert torch.equal(many.vorticity[:3, :6], few.vorticity)
    assert torch.equal(many.vorticity[:, :4], start[torch.arange(10) % 2])
    assert (many.vorticity[0, 4:] - many.vorticity[2, 4:]).abs().amax((-2, -1)).min() > 0.1
    with pytest.raises(ValueError, match="expected 1 to 2 frames held, got 3"):
        rollout(one, start, steps=1, samples=1, held=3)


# --- the network's side


def stirred(one: WindowModel) -> WindowModel:
    with torch.no_grad():
        for parameter in one.denoiser.parameters():
            parameter.copy_((parameter + 0.1 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))).half())
    return one


@pytest.mark.parametrize("s", [0.1, 1.0, 8.0])
def test_a_network_that_answers_nothing_estimates_as_regression_does(s: float) -> None:
    """On the noisy and the known frames at once, with dense matrices; every set of known frames."""
    one, whole = model(), dense(covariance(W), W)
    loud = dense(alike(0.0, W), W)
    alpha = float(Cosine()(levels(s, 1))[0][0])
    root = covariance(W).root(torch.randn(8, W, SIZE, SIZE, dtype=F64, generator=torch.Generator().manual_seed(1)))
    known = torch.tensor([[bool(n >> k & 1) for k in range(W)] for n in range(8)])
    found = told(one.denoiser, alpha * root.float(), s, known_frames(root.float(), known))
    for n in range(8):
        frames = known[n].repeat_interleave(SIZE**2)
        noise = torch.where(frames[:, None] | frames, 0, s**2 * loud)
        exact = whole @ torch.linalg.pinv(whole + noise, rtol=1e-11, hermitian=True) @ root[n].flatten()
        torch.testing.assert_close(found[n].double().flatten(), exact, rtol=0, atol=2e-4)


def test_known_frames_are_read_without_noise_and_given_back() -> None:
    one, x = stirred(model()), noisy(W, seed=8)[:, :, :1, :1] * torch.randn(2, W, SIZE, SIZE)
    values, known = torch.randn(2, W, SIZE, SIZE), torch.tensor([[True, False, False], [False, True, True]])
    x = x.float()
    condition = known_frames(values, known)
    clean = told(one.denoiser, x, 0.5, condition)
    assert torch.equal(clean[known], values[known])
    other = torch.where(known[:, :, None, None], torch.randn_like(x), x)
    torch.testing.assert_close(told(one.denoiser, other, 0.5, condition), clean)
    moved = told(one.denoiser, x, 0.5, known_frames(values + 0.5, known)) - clean
    assert moved[~known].abs().max() > 0.01  # the others learn of them
    assert (told(one.denoiser, x, 0.5) - clean)[~known].abs().max() > 0.01
    shifted = told(one.denoiser, x.roll(4, -1), 0.5, known_frames(values.roll(4, -1), known))
    torch.testing.assert_close(shifted, clean.roll(4, -1), rtol=1e-4, atol=1e-4)


def test_windows_to_learn_from_move_as_one_and_know_some_of_their_frames() -> None:
    windows = torch.randn(9, W, SIZE, SIZE, generator=torch.Generator().manual_seed(4)).half()
    one = model()
    batch = WindowBatches(windows, one, size=3, seed=5).at(4)
    power = one.vorticity(batch.x_0[LEAF]).square().mean((2, 3))
    owners = [
        [int((power[b, c] - windows[:, c].float().square().mean((1, 2))).abs().argmin()) for c in range(W)]
        for b in range(3)
    ]
    assert all(len(set(owner)) == 1 for owner in owners)
    assert isinstance(batch.condition, dict)
    error = batch.condition["values"] - batch.x_0[LEAF]
    left = (spectrum() * (1 - memory()[1] ** 2) * torch.tensor([1, 2, 2, 2, 1.0])).sum() / SIZE**2
    assert 0.6 < float(error.double().std() / (0.1 * left.sqrt())) < 1.4
    known = chosen(Noise(seed=1, index=torch.arange(6000)), frames=4)
    assert not known.all(1).any()
    counts = known.sum(1)
    begun = (known.cumsum(1) == counts[:, None]).long().argmax(1) + 1 == counts
    assert abs(float((counts == 0).double().mean()) - (1 / 3 + 1 / 6 / 16)) < 0.03
    assert float((begun & (counts > 0)).double().mean()) > 0.5


def test_a_model_of_windows_comes_back_from_its_folder(tmp_path) -> None:
    one = stirred(model())
    one.save(tmp_path / "model")
    again = WindowModel.load(tmp_path / "model")
    assert again.config == one.config
    x = torch.randn(2, W, SIZE, SIZE, generator=torch.Generator().manual_seed(6))
    condition = known_frames(x, torch.tensor([[True, False, False]]).expand(2, -1))
    clean, same = (told(each.denoiser, x, 0.6, condition) for each in (one, again))
    torch.testing.assert_close(same, clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(again.memory, one.memory)
