"""Adaptive integration: against solutions in closed form, sample by sample and whatever the batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.processes.so3 import SO3, rotation_exp
from scidiff.solvers.adaptive import Control, Curved, Flat, integrate
from scidiff.state import Layout, State

FLAT = {"x": Flat()}


def rates(x: State, t: Tensor) -> State:
    """dx/dt = -rate x + cos(t), a different rate for each sample."""
    rate = torch.linspace(0.3, 40.0, len(t), dtype=torch.float64)
    return {"x": -rate[:, None] * x["x"] + t.cos()[:, None]}


def solution(start: Tensor, t: float) -> Tensor:
    rate = torch.linspace(0.3, 40.0, len(start), dtype=torch.float64)[:, None]

    def forced(t: float) -> Tensor:
        return (rate * math.cos(t) + math.sin(t)) / (rate**2 + 1)

    return forced(t) + (start - forced(0.0)) * torch.exp(-rate * t)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_tolerance_is_met_on_a_linear_equation(tolerance: float) -> None:
    layout = Layout.dense(6, {"x": (2,)})
    start = torch.arange(12, dtype=torch.float64).reshape(6, 2) / 4 - 1
    control = Control(relative=tolerance, absolute=tolerance, attempts=300, look_every=5)
    path = integrate(rates, {"x": start}, FLAT, layout, start=0.0, end=2.0, control=control)
    assert bool(path.arrived.all())
    assert torch.equal(path.time, torch.full((6,), 2.0, dtype=torch.float64))
    error = (path.state["x"] - solution(start, 2.0)).abs().amax(1)
    assert float(error.max()) < 5 * tolerance
    # Samples choose their own steps: the fastest rate needs several times as many as the slowest.
    assert int(path.kept[-1]) > 1.7 * int(path.kept[0])
    assert int((path.kept + path.refused).max()) < 300


def test_error_falls_with_the_fifth_power_of_the_number_of_steps() -> None:
    layout = Layout.dense(1, {"x": (2,)})
    start = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    found = []
    for tolerance in (1e-6, 1e-11):
        control = Control(relative=0, absolute=tolerance, attempts=600, look_every=10)
        path = integrate(rates, {"x": start}, FLAT, layout, start=0.0, end=20.0, control=control)
        assert bool(path.arrived.all())
        found.append((int(path.kept[0]), float((path.state["x"] - solution(start, 20.0)).abs().max())))
    (few, coarse), (many, fine) = found
    assert math.log(coarse / fine) / math.log(many / few) == pytest.approx(5.0, abs=0.5)


def test_a_step_whose_error_is_above_the_tolerance_is_not_taken() -> None:
    # Nothing moves before t = 0.47, so steps are as long as they may be, and the one that leaps over the start is found
    # to err by some ten tolerances: dx/dt = rate [t > 0.47].
    layout, rate = Layout.dense(3, {"x": ()}), torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)

    def field(x: State, t: Tensor) -> State:
        return {"x": rate * (t > 0.47)}

    control = Control(relative=0, absolute=1e-4, attempts=200, look_every=5)
    start = {"x": torch.zeros(3, dtype=torch.float64)}
    path = integrate(field, start, FLAT, layout, start=0.0, end=1.0, control=control)
    assert bool(path.arrived.all())
    assert int(path.refused.min()) > 0


def test_error_in_units_of_the_tolerance() -> None:
    # root mean square of v / (absolute + relative max(|before|, |after|)), the worst leaf
    layout = Layout.dense(2, {"x": (2,), "y": ()})
    v = {"x": torch.tensor([[0.3, 0.0], [0.1, 0.2]]), "y": torch.tensor([0.05, 0.9])}
    before = {"x": torch.tensor([[2.0, 1.0], [0.0, 1.0]]), "y": torch.tensor([0.0, -3.0])}
    after = {"x": torch.tensor([[-4.0, 1.0], [0.0, 3.0]]), "y": torch.tensor([1.0, 1.0])}
    found = Control(relative=0.5, absolute=0.1).error(v, before, after, FLAT | {"y": Flat()}, layout)
    x = math.sqrt((0.3 / 2.1) ** 2 / 2), math.sqrt(((0.1 / 0.1) ** 2 + (0.2 / 1.6) ** 2) / 2)
    y = 0.05 / 0.6, 0.9 / 1.6
    expected = torch.tensor([max(x[0], y[0]), max(x[1], y[1])], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_time_may_run_either_way() -> None:
    layout = Layout.dense(3, {"x": (2,)})
    start = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0]], dtype=torch.float64)

    def field(x: State, t: Tensor) -> State:
        return {"x": -t[:, None] * x["x"]}

    control = Control(relative=1e-9, absolute=1e-9, look_every=5)
    there = integrate(field, {"x": start}, FLAT, layout, start=1.0, end=0.2, control=control)
    torch.testing.assert_close(there.state["x"], start * math.exp(0.48), rtol=1e-8, atol=0)
    back = integrate(field, there.state, FLAT, layout, start=0.2, end=1.0, control=control)
    torch.testing.assert_close(back.state["x"], start, rtol=1e-8, atol=0)


def test_a_spinning_top_on_the_rotation_group() -> None:
    # In the body frame the velocity (p, 0, 0) + exp(-p t e_x) (0, 0, q) is solved by exp(q t e_z) exp(p t e_x).
    p, q = 1.3, -2.1
    layout = Layout.dense(2, {"x": (3, 3)})
    e_x, e_z = torch.eye(3, dtype=torch.float64)[0], torch.eye(3, dtype=torch.float64)[2]

    def field(x: State, t: Tensor) -> State:
        turned = (rotation_exp(-p * t[:, None] * e_x) @ (q * e_z)[:, None]).squeeze(-1)
        return {"x": p * e_x + turned}

    start = rotation_exp(torch.tensor([[0.3, 1.0, -2.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
    expected = start @ rotation_exp(3 * q * e_z) @ rotation_exp(3 * p * e_x)
    errors = []
    for tolerance in (1e-5, 1e-9):
        control = Control(relative=0, absolute=tolerance, attempts=200, look_every=5)
        path = integrate(
            field, {"x": start}, {"x": Curved(manifold=SO3())}, layout, start=0.0, end=3.0, control=control
        )
        assert bool(path.arrived.all())
        errors.append((float((path.state["x"] - expected).abs().max()), int(path.kept[0])))
        assert errors[-1][0] < 10 * tolerance
    # The fifth order survives the curvature (on this problem it even falls with the sixth).
    (coarse, few), (fine, many) = errors
    assert math.log(coarse / fine) / math.log(many / few) > 4.8


def test_samples_that_do_not_arrive_are_told_apart() -> None:
    layout = Layout.dense(6, {"x": (2,)})
    start = torch.ones(6, 2, dtype=torch.float64)
    control = Control(relative=1e-8, absolute=1e-8, attempts=60)
    path = integrate(rates, {"x": start}, FLAT, layout, start=0.0, end=2.0, control=control)
    assert bool(path.arrived[0])
    assert not bool(path.arrived[-1])
    assert float(path.time[-1]) < 2.0
    assert int((path.kept + path.refused)[-1]) == 60


def test_a_field_without_a_value_stops_its_own_sample_only() -> None:
    layout = Layout.dense(2, {"x": (1,)})

    def field(x: State, t: Tensor) -> State:
        broken = (t > 0.5) & (torch.arange(2) == 1)
        return {"x": torch.where(broken[:, None], math.nan, -x["x"])}

    start = torch.ones(2, 1, dtype=torch.float64)
    path = integrate(field, {"x": start}, FLAT, layout, start=0.0, end=1.0)
    assert path.arrived.tolist() == [True, False]
    assert bool(path.state["x"].isfinite().all())
    assert float(path.state["x"][0, 0]) == pytest.approx(math.exp(-1), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_sample_is_the_same_bit_for_bit_whatever_its_batch(dtype: torch.dtype) -> None:
    counts = torch.tensor([3, 1, 5, 2])
    shapes = {"flat": (3,), "turn": (3, 3)}
    spaces = {"flat": Flat(), "turn": Curved(manifold=SO3())}

    def field(x: State, t: Tensor) -> State:
        pull = torch.stack([x["turn"][:, 2, 1], x["turn"][:, 0, 2], x["turn"][:, 1, 0]], -1)
        return {"flat": -3 * x["flat"] * x["flat"].abs() + pull, "turn": x["flat"] - pull}

    def run(members: list[int], dtype: torch.dtype) -> tuple[State, Tensor, Tensor]:
        layout = Layout.ragged(dict.fromkeys(shapes, counts[members]), shapes)
        noise = Noise(seed=9, index=torch.tensor(members))
        rows = layout.rows("flat")
        start = {
            "flat": noise.at("flat", 0, rows).normal(dtype=dtype),
            "turn": SO3().uniform(layout.rows("turn"), noise.at("turn", 0, layout.rows("turn")), dtype=dtype),
        }
        path = integrate(field, start, spaces, layout, start=0.0, end=1.0, control=Control(attempts=30, look_every=3))
        assert bool(path.arrived.all())
        return path.state, path.kept, rows.owner

    together, kept, owner = run([0, 1, 2, 3], dtype)
    assert len(set(kept.tolist())) > 1
    for members in ([2], [1], [3, 0, 2]):
        apart, steps, other = run(members, dtype)
        assert torch.equal(steps, kept[members])
        for place, b in enumerate(members):
            for leaf in shapes:
                assert apart[leaf].dtype == dtype
                assert torch.equal(apart[leaf][other == place], together[leaf][owner == b])


def test_a_step_into_the_undefined_is_taken_again_shorter() -> None:
    # x' = -sqrt(x) is solved by (1 - t/2)^2; a step that leads below 0 gives NaN, and must not be the end.
    start = torch.ones(1, 1, dtype=torch.float64)
    control = Control(relative=0.3, absolute=0.3, longest=1.0)
    path = integrate(
        lambda x, t: {"x": -x["x"].sqrt()}, {"x": start}, FLAT, Layout.dense(1, {"x": (1,)}), start=0.0, end=1.99,
        control=control,
    )  # fmt: skip
    assert bool(path.arrived.all())
    assert int(path.refused[0]) > 0
    assert float(path.state["x"][0, 0]) == pytest.approx(0.005**2, abs=0.1)


def test_arrived_samples_stand_still() -> None:
    layout = Layout.dense(1, {"x": (2,)})
    start = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    short, long = (
        integrate(rates, {"x": start}, FLAT, layout, start=0.0, end=1.0, control=Control(attempts=n)) for n in (40, 80)
    )
    assert bool(short.arrived.all())
    assert torch.equal(short.state["x"], long.state["x"])
    assert torch.equal(short.kept, long.kept)


def test_impossible_tolerances_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected relative >= 0 and absolute > 0, got 0\.1 and 0"):
        Control(relative=0.1, absolute=0)
    with pytest.raises(ValueError, match="expected at least one attempt, got 0"):
        Control(attempts=0)
