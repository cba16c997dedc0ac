"""Categorical solvers against the distributions they must give, known in closed form or by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff import grids
from scidiff.denoiser import Denoiser
from scidiff.noise import Draw, Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.mixing import MixingProcess
from scidiff.processes.survival import CosineSurvival, Polynomial
from scidiff.sampling import sample
from scidiff.solvers.base import Trace
from scidiff.solvers.categorical import (
    Confidence,
    CountedUnmasking,
    PosteriorJump,
    Remasking,
    TauLeap,
    margin_order,
    random_order,
)
from scidiff.solvers.following import Following
from scidiff.solvers.joint import Sharpened, independent, likeliest, nucleus
from scidiff.state import Layout, Rows, State

COUNT = 20_000
PAIR = torch.tensor([[8.0, 1.0, 1.0], [1.0, 1.0, 4.0], [0.0, 6.0, 2.0]])
MASKED = MaskedProcess(classes=3)
UNIFORM = MixingProcess.uniform(classes=3)


def noise(count: int = COUNT, seed: int = 0) -> Noise:
    return Noise(seed=seed, index=torch.arange(count))


def run(denoiser: Denoiser, rule: Following, *, count: int = COUNT, seed: int = 0) -> Tensor:
    layout = Layout.dense(count, {"x": (denoiser.length,)})  # type: ignore[attr-defined]
    process = denoiser.process  # type: ignore[attr-defined]
    return sample(denoiser, {"x": process}, {"x": rule}, layout, noise(count, seed)).state["x"]


def blended(exact: Any, together: float) -> Tensor:
    """Two elements: drawn at once, independently, with probability `together`, else one after the other."""
    one, other = exact.marginals()
    return ((1 - together) * exact.probabilities + together * one[:, None] * other).flatten()


@pytest.mark.parametrize("rule", [PosteriorJump, TauLeap, CountedUnmasking, Remasking])
@pytest.mark.parametrize("steps", [1, 3])
def test_one_element_is_exact_at_any_number_of_steps(enumerated: Any, drawn_from: Any, rule: Any, steps: int) -> None:
    exact = enumerated(MASKED, torch.tensor([5.0, 0.0, 2.0]))
    drawn_from(exact.histogram(run(exact, rule.on(grids.uniform(steps)))), exact.probabilities)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_jumps_of_masks_coincide_once_in_n(enumerated: Any, drawn_from: Any, steps: int) -> None:
    # alpha_t = 1 - t and equal steps: each mask is lifted in a uniformly random step.
    exact = enumerated(MASKED, PAIR)
    got = run(exact, PosteriorJump.on(grids.uniform(steps)))
    drawn_from(exact.histogram(got), blended(exact, 1 / steps))


@pytest.mark.parametrize("survival", [CosineSurvival(), Polynomial(power=3.0)], ids=str)
def test_jumps_coincide_as_the_schedule_says(enumerated: Any, drawn_from: Any, survival: Any) -> None:
    process = MaskedProcess(classes=3, survival=survival)
    exact, grid = enumerated(process, PAIR), grids.uniform(4)
    together = float(survival(grid).diff().square().sum())
    drawn_from(exact.histogram(run(exact, PosteriorJump.on(grid))), blended(exact, together))


def test_tau_leaps_coincide_as_frozen_rates_say(enumerated: Any, drawn_from: Any) -> None:
    # P(lifted in a step from t) = 1 - exp(-dt / t), and what is left is lifted in the last step.
    exact, steps = enumerated(MASKED, PAIR), 4
    left, together = 1.0, 0.0
    for k in range(steps):
        chance = 1 - torch.exp(torch.tensor(-1 / (steps - k))) if k < steps - 1 else torch.tensor(1.0)
        together += (left * float(chance)) ** 2
        left *= 1 - float(chance)
    drawn_from(exact.histogram(run(exact, TauLeap.on(grids.uniform(steps)))), blended(exact, together))


@pytest.mark.parametrize("steps", [3, 4, 10])
def test_counted_unmasking_is_exact_with_as_many_steps_as_elements(
    enumerated: Any, drawn_from: Any, steps: int
) -> None:
    weights = torch.tensor([3.0, 0.0, 1.0, 2.0, 5.0, 1.0, 0.0, 4.0]).reshape(2, 2, 2)
    exact = enumerated(MaskedProcess(classes=2), weights)
    drawn_from(exact.histogram(run(exact, CountedUnmasking.on(grids.uniform(steps)))), exact.probabilities)


def test_counted_unmasking_in_one_step_is_independent(enumerated: Any, drawn_from: Any) -> None:
    exact = enumerated(MASKED, PAIR)
    drawn_from(exact.histogram(run(exact, CountedUnmasking.on(grids.uniform(1)))), blended(exact, 1.0))


def test_counted_unmasking_lifts_evenly() -> None:
    class Uniform(Denoiser):
        process, length = MaskedProcess(classes=2), 12

        def __init__(self) -> None:
            super().__init__()
            self.left: list[Tensor] = []

        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            self.left.append((x_t["x"] == 2).sum(-1))
            return {"x": torch.zeros(*x_t["x"].shape, 2).log_softmax(-1)}

    for steps, expected in ((4, [12, 9, 6, 3]), (12, list(range(12, 0, -1))), (5, [12, 10, 7, 5, 2])):
        denoiser = Uniform()
        run(denoiser, CountedUnmasking.on(grids.uniform(steps)), count=50)
        assert [left.unique().tolist() for left in denoiser.left] == [[n] for n in expected]


def test_counted_unmasking_of_ragged_and_padded_sequences() -> None:
    counts = torch.tensor([5, 1, 3])
    ragged = Layout.ragged({"x": counts}, {"x": ()})
    padded = Layout.dense(3, {"x": (5,)}, masks={"x": torch.arange(5) < counts[:, None]})

    class Uniform(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.left: list[list[int]] = []

        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            masks = (x_t["x"] == 2).double()
            self.left.append([int(n) for n in layout.rows("x").sum(masks)])
            return {"x": torch.zeros(*x_t["x"].shape, 2).log_softmax(-1)}

    rule = {"x": CountedUnmasking.on(grids.uniform(5))}
    finished = []
    for layout in (ragged, padded):
        denoiser = Uniform()
        got = sample(denoiser, {"x": MaskedProcess(classes=2)}, rule, layout, noise(3)).state["x"]
        assert [n[0] for n in denoiser.left] == [5, 4, 3, 2, 1]
        assert denoiser.left[0] == [5, 1, 3]
        assert bool((got < 2).all())
        finished.append(got)
    assert torch.equal(finished[0], finished[1][padded.rows("x").mask])


def drawing(count: int) -> Draw:
    return noise(count).at("x", 0, Layout.dense(count, {"x": (3,)}).rows("x"))


def test_orders() -> None:
    clean = torch.tensor([[[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3]]]).expand(COUNT, 3, 3).log()
    x_0 = torch.tensor([[1, 1, 0]]).expand(COUNT, 3)
    assert Confidence()(clean, x_0, drawing(COUNT))[0].argsort().tolist() == [1, 2, 0]  # 0.7, 0.6, 0.4
    assert margin_order(clean, x_0, drawing(COUNT))[0].argsort().tolist() == [1, 2, 0]  # 0.5, 0.3, 0.1
    first = random_order(clean, x_0, drawing(COUNT)).argmin(-1).bincount() / COUNT
    torch.testing.assert_close(first, torch.full((3,), 1 / 3), atol=0.015, rtol=0)
    # Gumbel noise of size 1 draws the first in proportion to the probabilities 0.4, 0.7, 0.6.
    first = Confidence(noise=1.0)(clean, x_0, drawing(COUNT)).argmin(-1).bincount() / COUNT
    torch.testing.assert_close(first, torch.tensor([0.4, 0.7, 0.6]) / 1.7, atol=0.015, rtol=0)


def test_the_most_confident_masks_are_lifted_first() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])

    class Fixed(Denoiser):
        process, length = MaskedProcess(classes=2), 4

        def __init__(self) -> None:
            super().__init__()
            self.shown: list[Tensor] = []

        def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
            self.shown.append(x_t["x"][0])
            return {"x": probabilities.log().expand(len(x_t["x"]), 4, 2)}

    denoiser = Fixed()
    got = run(denoiser, CountedUnmasking.on(grids.uniform(4), order=Confidence(), joint=likeliest), count=2)
    assert [x.tolist() for x in denoiser.shown] == [[2, 2, 2, 2], [2, 0, 2, 2], [2, 0, 1, 2], [2, 0, 1, 0]]
    assert got[0].tolist() == [0, 0, 1, 0]


def test_remasking_without_remasking_is_the_posterior_jump(enumerated: Any) -> None:
    exact = enumerated(MASKED, PAIR)
    for settings in ({"cap": 0.0}, {"rescale": 0.0}, {"window": (2.0, 3.0)}):
        got = run(exact, Remasking.on(grids.uniform(4), **settings), count=500)
        assert torch.equal(got, run(exact, PosteriorJump.on(grids.uniform(4)), count=500))


@pytest.mark.parametrize("settings", [{}, {"cap": 0.1}, {"rescale": 0.5}, {"window": (0.3, 0.6)}], ids=str)
def test_remasking_keeps_the_share_of_masks(enumerated: Any, settings: Any) -> None:
    exact = enumerated(MASKED, PAIR)
    rows, grid = Layout.dense(COUNT, {"x": (2,)}).rows("x"), grids.uniform(5)
    rule = Remasking.on(grid, **settings)
    x, remasked = MASKED.prior(rows, noise().at("x", 0, rows)), 0
    for k in range(4):
        t = grid[k].expand(COUNT)
        clean = exact({"x": x}, t, Layout(batch=COUNT, leaves={"x": rows}))["x"]
        trace = Trace(x=[None] * k + [x], clean=[None] * k + [clean])
        after = rule.advance(k, trace, MASKED, rows, lambda step: noise().at("x", step, rows))
        remasked += int(((x != 3) & (after == 3)).sum())
        x = after
        share = float((x == 3).double().mean())
        assert share == pytest.approx(float(grid[k + 1]), abs=5 * 0.5 / (2 * COUNT) ** 0.5)
    assert remasked > 100


def test_remasking_lets_many_steps_forget_an_early_mistake(enumerated: Any, drawn_from: Any) -> None:
    # At equal times the state is resampled in place: two elements drawn at once come into agreement.
    exact = enumerated(MASKED, PAIR)
    times = (1.0, 0.5, *[0.5] * 12, 0.25, *[0.25] * 12, 0.0)
    rule = Remasking(times=times, reach=times[1:], cap=0.3)
    got = exact.histogram(run(exact, rule)) / COUNT
    few = exact.histogram(run(exact, PosteriorJump.on(torch.tensor([1.0, 0.5, 0.25, 0.0])))) / COUNT
    target = exact.probabilities.flatten()
    assert float((got - target).abs().sum()) < 0.6 * float((few - target).abs().sum())


def propagated(exact: Any, grid: Tensor, kind: str) -> Tensor:
    """The exact distribution of a product-form sampler of a mixing process, by its transition matrix."""
    states = torch.tensor(list(itertools.product(range(3), repeat=2)))
    rows = Layout.dense(9, {"x": (2,)}).rows("x")
    process = exact.process
    p = process.stationary[states].prod(-1)
    for t, s in itertools.pairwise(grid):
        here, there = t.expand(9), s.expand(9)
        clean = exact({"x": states}, here, Layout(batch=9, leaves={"x": rows}))["x"]
        if kind == "jump" or float(s) == 0:
            each = process.posterior(clean, states, rows, s=there, t=here)
        else:
            rates = process.rates(clean, states, here, rows)
            total = rates.sum(-1, keepdim=True)
            chance = 1 - torch.exp(-(t - s) * total)
            stay = torch.nn.functional.one_hot(states, 3)
            each = chance * rates / total + (1 - chance) * stay
        p = torch.einsum("s,sa,sb->ab", p, each[:, 0], each[:, 1]).flatten()
    return p


@pytest.mark.parametrize("marginal", [False, True])
@pytest.mark.parametrize(("rule", "kind"), [(PosteriorJump, "jump"), (TauLeap, "leap")])
def test_replaced_classes_follow_the_transition_matrix(
    enumerated: Any, drawn_from: Any, rule: Any, kind: str, marginal: bool
) -> None:
    process = MixingProcess.marginal(torch.tensor([1, 2, 4])) if marginal else UNIFORM
    exact, grid = enumerated(process, PAIR), grids.uniform(4)
    drawn_from(exact.histogram(run(exact, rule.on(grid))), propagated(exact, grid, kind))


@pytest.mark.parametrize("kind", ["jump", "leap"])
def test_replaced_classes_converge_with_order_one(enumerated: Any, kind: str) -> None:
    exact = enumerated(UNIFORM, PAIR)
    target = exact.probabilities.flatten()
    coarse, fine = (float((propagated(exact, grids.uniform(n), kind) - target).abs().sum()) for n in (64, 128))
    assert torch.tensor(coarse / fine).log2() == pytest.approx(1, abs=0.15)


def equal(log_probs: Tensor, draw: Draw, rows: Rows) -> Tensor:
    """A joint sampler: all elements are of the class drawn for the first."""
    return independent(log_probs, draw, rows)[:, :1].expand(log_probs.shape[:-1])


@pytest.mark.parametrize("rule", [PosteriorJump, CountedUnmasking, TauLeap, Remasking])
def test_joint_samplers_decide(enumerated: Any, rule: Any) -> None:
    exact = enumerated(MASKED, torch.ones(3, 3, 3))
    got = run(exact, rule.on(grids.uniform(1), joint=equal), count=200)
    assert bool((got == got[:, :1]).all())
    assert len(got[:, 0].unique()) == 3


def test_temperature_and_top_p(enumerated: Any, drawn_from: Any) -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    exact = enumerated(MaskedProcess(classes=4), p)
    for temperature, top_p, expected in (
        (0.5, 1.0, p**2),
        (2.0, 1.0, p**0.5),
        (1.0, 0.75, p * torch.tensor([1, 1, 0, 0])),
        (1.0, 0.81, p * torch.tensor([1, 1, 1, 0])),
        (1.0, 0.01, p * torch.tensor([1, 0, 0, 0])),
        (0.5, 0.9, p**2 * torch.tensor([1, 1, 0, 0])),
    ):
        joint = Sharpened(temperature=temperature, top_p=top_p)
        got = run(exact, PosteriorJump.on(grids.uniform(2), joint=joint))
        drawn_from(exact.histogram(got), expected / expected.sum())


def test_nucleus_by_sorting() -> None:
    log_probs = noise(40).at("p", 0, Layout.dense(40, {"p": (7,)}).rows("p")).normal().double().log_softmax(-1)
    for top_p in (0.2, 0.6, 0.95):
        kept = nucleus(log_probs, top_p).exp()
        torch.testing.assert_close(kept.sum(-1), torch.ones(40).double())
        for row, chosen in zip(log_probs.exp(), kept > 0, strict=True):
            total, expected = 0.0, set()
            for k in row.argsort(descending=True).tolist():
                if total >= top_p:
                    break
                expected.add(k)
                total += float(row[k])
            assert set(chosen.nonzero().flatten().tolist()) == expected


def test_sharpening_leaves_known_classes_alone() -> None:
    x_t = torch.tensor([[2, 3, 0]])
    rows = Layout.dense(1, {"x": (3,)}).rows("x")
    clean = MASKED.clean(torch.zeros(1, 3, 3), x_t, torch.tensor([0.5]), rows)
    got = Sharpened(temperature=50.0, top_p=0.9)(clean, noise(1).at("x", 0, rows), rows)
    assert (int(got[0, 0]), int(got[0, 2])) == (2, 0)


def test_rules_refuse_what_they_cannot_do(enumerated: Any) -> None:
    exact = enumerated(UNIFORM, PAIR)
    for rule in (CountedUnmasking, Remasking):
        with pytest.raises(TypeError, match="expected a MaskedProcess, got MixingProcess"):
            run(exact, rule.on(grids.uniform(2)), count=2)
    with pytest.raises(ValueError, match="n reaches, got 3 and 1"):
        PosteriorJump(times=(1.0, 0.5, 0.0), reach=(0.5,))
    with pytest.raises(ValueError, match=r"expected reach\[0\]"):
        PosteriorJump(times=(1.0, 0.5), reach=(0.7,))
    with pytest.raises(ValueError, match="temperature > 0, got 0"):
        Sharpened(temperature=0.0)
    with pytest.raises(ValueError, match=r"top_p in \(0, 1\], got 2"):
        Sharpened(top_p=2.0)
    with pytest.raises(ValueError, match="cap and rescale"):
        Remasking.on(grids.uniform(2), cap=1.5)
