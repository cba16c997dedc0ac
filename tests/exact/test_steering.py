"""Steering: weights, resampling and log Z against enumeration, closed forms and a slow twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scalar_run import F64, PROCESS, SCHEDULE, Scalar, law, noise
from torch import Tensor

from scidiff import grids
from scidiff.denoiser import Denoiser
from scidiff.guidance import Steering, effective_sample_size
from scidiff.guidance.steering import guess, systematic
from scidiff.noise import Draw, Noise
from scidiff.processes.base import Process
from scidiff.processes.categorical import MaskedProcess
from scidiff.sampling import sample
from scidiff.solvers.ancestral import ddpm
from scidiff.solvers.base import Rule, Trace
from scidiff.solvers.plan import Plan
from scidiff.state import Layout, Rows, State

# --- resampling ------------------------------------------------------------------------------------------------------


def test_effective_sample_size() -> None:
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]], dtype=F64)
    expected = torch.tensor([4.0, 1.0, 16 / 10, 0.0], dtype=F64)
    for shift in (0.0, 900.0, -900.0):
        got = effective_sample_size(weights.log() + shift)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


WEIGHTS = torch.tensor([0.31, 0.0, 0.07, 0.42, 0.0, 0.2], dtype=F64)


def test_systematic_resampling_is_unbiased_and_off_by_less_than_one() -> None:
    # Over all offsets each particle is drawn P w times on average; the grid of offsets errs by at most P / J.
    count, grid = len(WEIGHTS), 6000
    offset = (torch.arange(grid, dtype=F64) + 0.5) / grid
    chosen = systematic((WEIGHTS.log() + 5).expand(grid, -1), offset)
    drawn = torch.nn.functional.one_hot(chosen, count).sum(1)
    assert (drawn.sum(-1) == count).all()
    assert ((drawn - count * WEIGHTS).abs() < 1).all()
    torch.testing.assert_close(drawn.to(F64).mean(0), count * WEIGHTS, rtol=0, atol=count / grid)
    assert (drawn[:, WEIGHTS == 0] == 0).all()


def test_systematic_resampling_at_the_edges_of_rounding() -> None:
    # Weights whose sum in floating point is below 1, the largest offset, and trailing particles of weight 0.
    log_weight = torch.full((1, 1000), math.log(0.1), dtype=F64)
    log_weight[:, 990:] = -math.inf
    chosen = systematic(log_weight, torch.tensor([1 - 2.0**-53], dtype=F64))
    assert chosen.min() >= 0
    assert chosen.max() == 989
    dead = systematic(torch.full((1, 4), -math.inf, dtype=F64), torch.tensor([0.5], dtype=F64))
    assert torch.equal(dead, torch.arange(4)[None])


# --- weights ---------------------------------------------------------------------------------------------------------


def walk(steering: Steering, clean: Tensor, keys: Noise) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Steer a walk that needs no solver: at call k particle b shows clean[k, b] plus half of its ancestor's value."""
    value, log_weight, trail = torch.zeros_like(clean[0]), torch.zeros_like(clean[0]), []
    for k, fresh in enumerate(clean):
        value = value / 2 + fresh
        ancestors, log_weight = steering.resample(k, {"x": value}, {"x": value}, log_weight, keys)
        value = value[ancestors]
        trail.append(ancestors)
    return value, log_weight, trail


def scored(state: State) -> Tensor:
    return -2 * (state["x"] - 0.5) ** 2


def test_without_resampling_the_weight_is_the_potential_of_the_finished_sample() -> None:
    steering = Steering(potential=scored, particles=4, threshold=1e-9)
    value, log_weight, trail = walk(steering, noise(8).at("w", 0, rows(8, (5,))).normal(dtype=F64).T, noise(8))
    assert all(torch.equal(ancestors, torch.arange(8)) for ancestors in trail)
    assert torch.equal(log_weight, torch.zeros(8, dtype=F64))
    torch.testing.assert_close(steering.final({"x": value}, log_weight), scored({"x": value}), rtol=0, atol=0)


def rows(count: int, shape: tuple[int, ...]) -> Rows:
    return Layout.dense(count, {"x": shape}).rows("x")


def tempered(k: int) -> float:
    """Every other call, more strongly towards the end."""
    return 0.0 if k % 2 else (k + 1) / 6


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_weights_are_those_of_a_slow_twin(threshold: float) -> None:
    """The textbook: incremental weights of potential differences, reset to the running estimate of Z when resampled."""
    particles, calls = 4, 7
    steering = Steering(potential=scored, particles=particles, threshold=threshold, tempering=tempered)
    fresh = 1.5 * noise(12).at("w", 0, rows(12, (calls,))).normal(dtype=F64).T
    value, log_weight, trail = walk(steering, fresh, noise(12))
    resampled = 0
    for group in range(3):
        places = slice(group * particles, (group + 1) * particles)
        values, potential = [0.0] * particles, [0.0] * particles
        increments, log_z = [0.0] * particles, 0.0
        for k in range(calls):
            values = [v / 2 + float(f) for v, f in zip(values, fresh[k, places], strict=True)]
            ancestors = (trail[k][places] - places.start).tolist()
            if tempered(k) != 0:
                now = [tempered(k) * float(scored({"x": torch.tensor(v, dtype=F64)})) for v in values]
                increments = [w + n - p for w, n, p in zip(increments, now, potential, strict=True)]
                potential = now
                weights = [math.exp(w) for w in increments]
                if sum(weights) ** 2 / sum(w**2 for w in weights) < threshold * particles:
                    resampled += 1
                    drawn = [ancestors.count(i) - particles * weights[i] / sum(weights) for i in range(particles)]
                    assert max(abs(d) for d in drawn) < 1
                    log_z += math.log(sum(weights) / particles)
                    increments = [0.0] * particles
                else:
                    assert ancestors == list(range(particles))
            values, potential = [values[a] for a in ancestors], [potential[a] for a in ancestors]
        end = [float(scored({"x": torch.tensor(v, dtype=F64)})) for v in values]
        expected = [log_z + w + e - p for w, e, p in zip(increments, end, potential, strict=True)]
        got = steering.final({"x": value}, log_weight)[places]
        torch.testing.assert_close(got, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)
        z = math.log(sum(math.exp(w) for w in expected) / particles)
        log_zs = steering.log_z(steering.final({"x": value}, log_weight), noise(12).index)
        assert float(log_zs[group]) == pytest.approx(z, abs=1e-12)
    assert resampled > 3


def test_a_call_without_tempering_does_not_ask_the_potential() -> None:
    asked: list[int] = []

    def counted(state: State) -> Tensor:
        asked.append(1)
        return scored(state)

    walk(Steering(potential=counted, particles=2, tempering=tempered), torch.zeros(6, 4, dtype=F64), noise(4))
    assert len(asked) == 3


def test_populations_do_not_depend_on_order_or_company() -> None:
    steering = Steering(potential=scored, particles=4, threshold=1.0)
    fresh = 1.5 * noise(12).at("w", 0, rows(12, (5,))).normal(dtype=F64).T
    value, log_weight, trail = walk(steering, fresh, noise(12))
    order = torch.tensor([9, 2, 7, 0, 11, 4, 1, 10, 3, 5, 8, 6])
    shuffled, shuffled_weight, shuffled_trail = walk(steering, fresh[:, order], Noise(seed=8, index=order))
    assert torch.equal(shuffled, value[order])
    assert torch.equal(shuffled_weight, log_weight[order])
    for ours, theirs in zip(trail, shuffled_trail, strict=True):
        assert torch.equal(order[theirs], ours[order])
    alone, alone_weight, _ = walk(steering, fresh[:, 4:8], Noise(seed=8, index=torch.arange(4, 8)))
    assert torch.equal(alone, value[4:8])
    assert torch.equal(alone_weight, log_weight[4:8])
    _, other, _ = walk(steering, fresh, noise(12, seed=9))
    assert not torch.equal(other, log_weight)


def test_each_call_and_population_draws_its_own_offset() -> None:
    # 40 equal populations of weights near 1/3, 2/3: a shared offset would give them all the same ancestors.
    x = {"x": torch.tensor([0.0, math.log(2)], dtype=F64).repeat(40)}
    steering = Steering(potential=lambda state: state["x"], particles=2, threshold=1.0)
    drawn = [steering.resample(k, x, x, torch.zeros(80, dtype=F64), noise(80))[0] % 2 for k in range(2)]
    first = [ancestors.reshape(40, 2)[:, 0].double().mean() for ancestors in drawn]
    assert all(0.1 < float(share) < 0.6 for share in first)  # 1/3 of them on average
    assert not torch.equal(drawn[0], drawn[1])


def test_a_population_without_hope_is_reported_and_not_nan() -> None:
    # Population 0: all ruled out; 1: one left; 2: NaN and +inf count as ruled out.
    table = torch.tensor([-math.inf] * 4 + [-math.inf, 1.5, -math.inf, -math.inf] + [math.nan, 0.0, math.inf, 0.0])
    steering = Steering(potential=lambda state: table[state["x"].long()], particles=4)
    x = {"x": torch.arange(12, dtype=F64)}
    ancestors, log_weight = steering.resample(0, x, x, torch.zeros(12, dtype=F64), noise(12))
    assert torch.equal(ancestors[:8], torch.tensor([0, 1, 2, 3, 5, 5, 5, 5]))
    assert torch.equal(log_weight[:4], torch.zeros(4, dtype=F64))
    torch.testing.assert_close(log_weight[4:8], torch.full((4,), math.log(1 / 4), dtype=F64))
    finished = {"x": x["x"][ancestors]}
    final = steering.final(finished, log_weight)
    assert torch.equal(final[:4], torch.full((4,), -math.inf, dtype=F64))
    assert not final.isnan().any()
    assert final[8:].tolist() == [-math.inf, 0.0, -math.inf, 0.0]
    log_z = steering.log_z(final, noise(12).index)
    torch.testing.assert_close(log_z, torch.tensor([-math.inf, 1.5 - math.log(4), math.log(0.5)], dtype=F64))
    torch.testing.assert_close(effective_sample_size(final.reshape(3, 4)), torch.tensor([0.0, 4.0, 2.0], dtype=F64))


def test_a_guess_is_the_plain_estimate_and_the_likeliest_class() -> None:
    x = {"x": torch.zeros(2), "y": torch.zeros(2), "c": torch.tensor([3, 3])}
    clean = {"x": torch.ones(2), "y": torch.ones(2), "y.plain": torch.full((2,), 0.5), "x.variance": torch.zeros(2)}
    clean["c"] = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]).log()
    got = guess(x, clean)
    assert {leaf: value.tolist() for leaf, value in got.items()} == {"x": [1, 1], "y": [0.5, 0.5], "c": [1, 0]}


# --- whole runs ------------------------------------------------------------------------------------------------------


def steer_scalars(steering: Steering, count: int) -> tuple[Tensor, Tensor, Plan]:
    plan = ddpm(SCHEDULE, grids.to_data(grids.log_snr_uniform(SCHEDULE, 5, end=0.05)))
    finished = sample(
        Scalar(), {"x": PROCESS}, {"x": plan}, Layout.dense(count, {"x": ()}), noise(count), steering=steering
    )
    assert finished.log_weight is not None
    return finished.state["x"], finished.log_weight, plan


@pytest.mark.parametrize("threshold", [1e-9, 0.6, 1.0])
def test_z_of_a_gaussian_run_is_unbiased(threshold: float) -> None:
    # U = -(x - 2)^2 / (2 tau^2):  Z = sqrt(tau^2 / (v + tau^2)) exp(-(m - 2)^2 / (2 (v + tau^2))), and
    # E[w x] = Z times the mean of the product of the two Gaussians. Within 4 standard errors, each below 1 % of Z.
    tau2, particles, populations = 0.25, 4, 20_000
    steering = Steering(
        potential=lambda state: -((state["x"] - 2) ** 2) / (2 * tau2), particles=particles, threshold=threshold
    )
    x, log_weight, plan = steer_scalars(steering, particles * populations)
    m, v = law(plan)
    z = math.sqrt(tau2 / (v + tau2)) * math.exp(-((m - 2) ** 2) / (2 * (v + tau2)))
    weight = log_weight.exp().reshape(populations, particles)
    for estimate, expected in (
        (weight.mean(-1), z),
        ((weight * x.reshape(populations, particles)).mean(-1), z * (m * tau2 + 2 * v) / (v + tau2)),
    ):
        error = float(estimate.std()) / math.sqrt(populations)
        assert error < 0.012 * z
        assert abs(float(estimate.mean()) - expected) < 4 * error
    torch.testing.assert_close(steering.log_z(log_weight, noise(len(x)).index).exp(), weight.mean(-1))


def test_resampling_lowers_the_variance_of_z() -> None:
    # What steering is for. U is sharp and far out: weights at the end alone are very unequal.
    def potential(state: State) -> Tensor:
        return -((state["x"] - 3) ** 2) / 0.08

    spread = []
    for threshold in (1e-9, 0.5):
        steering = Steering(potential=potential, particles=16, threshold=threshold, tempering=lambda k: (k + 1) / 6)
        _, log_weight, _ = steer_scalars(steering, 16 * 1000)
        z = steering.log_z(log_weight, noise(len(log_weight)).index).exp()
        spread.append(float(z.std() / z.mean()))
    assert spread[1] < 0.7 * spread[0]


class OneByOne(Rule):
    """Reveals element k after call k: with an exact denoiser, samples of the joint distribution by the chain rule."""

    def __init__(self, length: int) -> None:
        self.times = tuple(1 - k / length for k in range(length + 1))
        self.reach = self.times[1:]
        self.memory = 0

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        x, clean = trace.x[k], trace.clean[k]
        assert x is not None
        assert clean is not None
        drawn = draw(k + 1).categorical(clean.exp())
        return torch.where(torch.arange(x.shape[-1]) == k, drawn, x)


LENGTH, CLASSES = 3, 3
STATES = torch.cartesian_prod(*[torch.arange(CLASSES)] * LENGTH)
JOINT = torch.softmax(1.3 * torch.sin(3.0 * torch.arange(27, dtype=F64)), 0)
REWARD = 1.5 * torch.cos(2.0 * torch.arange(27, dtype=F64))


class Enumerated(Denoiser):
    """The exact marginals of the masked elements of JOINT given the others."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        c = x_t["c"]
        consistent = ((c[:, None] == STATES) | (c[:, None] == CLASSES)).all(-1) * JOINT
        marginal = torch.stack([consistent @ STATES.eq(k).to(F64) for k in range(CLASSES)], -1)
        return {"c": (marginal / marginal.sum(-1, keepdim=True)).log()}


def number(c: Tensor) -> Tensor:
    return (c * CLASSES ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)


def steer_classes(steering: Steering, count: int) -> tuple[Tensor, Tensor]:
    finished = sample(
        Enumerated(),
        {"c": MaskedProcess(classes=CLASSES)},
        {"c": OneByOne(LENGTH)},
        Layout.dense(count, {"c": (LENGTH,)}),
        noise(count),
        steering=steering,
    )
    assert finished.log_weight is not None
    return number(finished.state["c"]), finished.log_weight


def test_every_enumerated_state_gets_its_weight_without_bias() -> None:
    # E[mean_i w_i 1{x_i = s}] = p(s) exp(U(s)) for each of the 27 states s, at two particles already. The bound of 4.5
    # standard errors is passed by chance once in 5,000 such tests, if the sampler is right.
    steering = Steering(potential=lambda state: REWARD[number(state["c"])], particles=2, threshold=1.0)
    populations = 20_000
    state, log_weight = steer_classes(steering, 2 * populations)
    weight = torch.nn.functional.one_hot(state, 27) * log_weight.exp()[:, None]
    estimate = weight.reshape(populations, 2, 27).mean(1)
    error = estimate.std(0) / math.sqrt(populations)
    expected = JOINT * REWARD.exp()
    assert ((estimate.mean(0) - expected).abs() < 4.5 * error).all()
    total = estimate.sum(-1)
    assert abs(float(total.mean() - expected.sum())) < 4 * float(total.std()) / math.sqrt(populations)
    assert float(total.std()) / math.sqrt(populations) < 0.01 * float(expected.sum())


def test_a_large_population_follows_the_tilted_distribution() -> None:
    # One population of 20,000: the weighted histogram is within total variation 0.02 of p exp(U) / Z.
    steering = Steering(potential=lambda state: REWARD[number(state["c"])], particles=20_000, threshold=0.9)
    state, log_weight = steer_classes(steering, 20_000)
    histogram = torch.zeros(27, dtype=F64).index_add(0, state, torch.softmax(log_weight, 0))
    target = JOINT * REWARD.exp()
    assert 0.5 * float((histogram - target / target.sum()).abs().sum()) < 0.02
    assert float(steering.log_z(log_weight, torch.arange(20_000))[0]) == pytest.approx(
        math.log(float(target.sum())), abs=0.03
    )


def test_batches_of_whole_populations_give_the_same_run() -> None:
    steering = Steering(potential=lambda state: REWARD[number(state["c"])], particles=4, threshold=1.0)
    state, log_weight = steer_classes(steering, 12)
    index = torch.tensor([7, 4, 6, 5])
    part = sample(
        Enumerated(),
        {"c": MaskedProcess(classes=CLASSES)},
        {"c": OneByOne(LENGTH)},
        Layout.dense(4, {"c": (LENGTH,)}),
        Noise(seed=8, index=index),
        steering=steering,
    )
    assert torch.equal(number(part.state["c"]), state[index])
    assert part.log_weight is not None
    assert torch.equal(part.log_weight, log_weight[index])


def test_resampling_compiles_into_one_graph() -> None:
    steering = Steering(potential=scored, particles=4, threshold=1.0)
    x = {"x": noise(8).at("w", 0, rows(8, ())).normal(dtype=F64)}
    zero = torch.zeros(8, dtype=F64)
    expected = steering.resample(2, x, x, zero, noise(8))
    compiled = torch.compile(lambda: steering.resample(2, x, x, zero, noise(8)), fullgraph=True, backend="eager")()
    assert torch.equal(compiled[0], expected[0])
    torch.testing.assert_close(compiled[1], expected[1], rtol=0, atol=1e-14)


def test_bad_arguments_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least 2 particles, got 1"):
        Steering(potential=scored, particles=1)
    with pytest.raises(ValueError, match=r"threshold in \(0, 1\], got 0"):
        Steering(potential=scored, particles=2, threshold=0.0)
    with pytest.raises(ValueError, match="whole populations of 4 particles, got 6 samples"):
        Steering(potential=scored, particles=4).populations(torch.arange(6))
