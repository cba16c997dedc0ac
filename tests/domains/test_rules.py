"""Rules of tables: what is stated holds of every draw, by an oracle written from the rules alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from scidiff.errors import UserError
from scidiff.timeseries.restriction import restrict
from scidiff.timeseries.rules import Rules, terms

NAMES = ("dia", "map", "sys", "temp", "dose")
RULES = Rules.parse(
    {
        "bounds": {"dia": [0, 150], "temp": [30, 43]},
        "order": [["dia", "map", "sys"]],
        "rates": {"temp": {"change": 0.5, "per": 2}},
        "monotone": {"dose": "increasing"},
    },
    "test",
)
STDS = np.array([10.0, 12.0, 15.0, 0.7, 3.0])
MEANS = np.array([60.0, 80.0, 120.0, 37.0, 5.0])


def _series(seed, length=6, observed=0.3):
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.5, 3, length))
    truth = np.stack(
        [60 + random.normal(size=length), 80 + random.normal(size=length), 120 + random.normal(size=length),
         37 + 0.1 * np.cumsum(random.uniform(-1, 1, length)), np.cumsum(random.uniform(0, 2, length))], axis=1
    )  # fmt: skip
    seen = random.random(truth.shape) < observed
    return times, np.where(seen, truth, np.nan), ~seen


def _holds(x, times, tolerance=1e-9):
    """The rules, said again: x [L, V]."""
    dia, mean, sys, temp, dose = x.T
    return (
        (dia >= -tolerance).all() and (dia <= 150 + tolerance).all()
        and (temp >= 30 - tolerance).all() and (temp <= 43 + tolerance).all()
        and (dia <= mean + tolerance).all() and (mean <= sys + tolerance).all()
        and (np.abs(np.diff(temp)) <= 0.25 * np.diff(times) + tolerance).all()
        and (np.diff(dose) >= -tolerance).all()
    )  # fmt: skip


def _restriction(times, values, asked, rules=RULES):
    return restrict(terms(rules, NAMES, times, np.isfinite(values) | asked), values=values, asked=asked, stds=STDS)


@given(st.integers(0, 10_000), st.floats(0.1, 30), st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_projected_draws_hold_and_certify(seed, wild, length):
    times, values, asked = _series(seed, length)
    found = _restriction(times, values, asked)
    random = np.random.default_rng(seed + 1)
    draws = np.where(asked, MEANS + wild * STDS * random.standard_normal((5, *asked.shape)), values)
    x = torch.from_numpy(draws.reshape(5, -1))
    variance = torch.from_numpy(np.tile(STDS**2, length) * random.uniform(0.1, 3, asked.size))
    assert found.broken == ()
    assert found.contradictory == ()
    projected = found.project(x, variance)
    assert (found.violation(projected) == 0).all()
    whole = np.where(asked.reshape(-1), projected.numpy(), x.numpy()).reshape(5, *asked.shape)
    assert all(_holds(one, times) for one in whole)
    before = np.array([_holds(one, times, 0) for one in draws])
    assert (found.violation(x).numpy()[before] == 0).all()
    assert (found.violation(x).numpy()[~np.array([_holds(one, times) for one in draws])] > 0).all()
    torch.testing.assert_close(found.project(projected, variance), projected, rtol=1e-9, atol=1e-9)


def test_the_projection_is_the_nearest_point():
    times, values, asked = _series(3, 4, observed=0.2)
    found = _restriction(times, values, asked)
    random = np.random.default_rng(5)
    variance = np.tile(STDS**2, 4)
    x = np.where(asked, MEANS + 3 * STDS * random.standard_normal(asked.shape), np.nan_to_num(values)).reshape(-1)
    free = asked.reshape(-1)
    projected = found.project(torch.from_numpy(x)[None], torch.from_numpy(variance))[0].numpy()
    matrix, limit, unit = found.matrix.to_dense().numpy()[:, free], found.limit.numpy(), np.sqrt(variance[free])
    best = minimize(
        lambda u: u @ u,
        np.zeros(free.sum()),
        jac=lambda u: 2 * u,
        constraints={
            "type": "ineq",
            "fun": lambda u: limit - matrix @ (x[free] + unit * u),
            "jac": lambda u: -matrix * unit,
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-11},
    )
    assert best.success
    np.testing.assert_allclose((projected[free] - x[free]) / unit, best.x, atol=2e-5)


def test_totals_are_met():
    rules = Rules.parse({"sums": [{"total": "sys", "parts": ["dia", "map"]}], "bounds": {"dia": [0, None]}}, "test")
    asked = np.array([[True, True, False, False, False], [True, True, True, False, False]])
    values = np.where(asked, np.nan, 50.0)
    found = _restriction(np.array([0.0, 1.0]), values, asked, rules)
    x = torch.tensor([[[-30.0, 10, 50, 50, 50], [1.0, 2, 9, 50, 50]]], dtype=torch.float64).reshape(1, -1)
    y = found.project(x, torch.ones(10, dtype=torch.float64)).reshape(2, 5)
    # row 1: nearest point of {a + b = 50, a >= 0} to (-30, 10) is (5, 45); row 2: all three share the gap of 6
    torch.testing.assert_close(y[0, :3], torch.tensor([5.0, 45, 50], dtype=torch.float64))
    torch.testing.assert_close(y[1, :3], torch.tensor([3.0, 4, 7], dtype=torch.float64))
    assert (found.violation(y.reshape(1, -1)) == 0).all()


def test_observed_values_that_break_a_rule_are_told_and_kept():
    values = np.array([[90.0, np.nan, 70.0, 37.0, 1.0], [60.0, 80.0, 120.0, 50.0, 0.5]])
    asked = np.isnan(values)
    found = _restriction(np.array([0.0, 1.0]), values, asked)
    assert found.contradictory == ("row 1: dia <= map and map <= sys",)
    assert found.broken[0] == "row 2: temp <= 43"
    assert {"row 1: temp changes by at most 0.5 in 2", "row 1: dose increasing"} <= set(found.broken)
    x = torch.from_numpy(np.where(asked, 77.0, values).reshape(1, -1))
    # of rules that contradict each other the one stated first is kept
    kept = torch.from_numpy(np.where(asked, 90.0, values).reshape(1, -1))
    assert torch.equal(found.project(x, torch.ones(10, dtype=torch.float64)), kept)
    assert found.violation(kept)[0] > 0


def test_links_that_no_values_can_keep_are_told_and_dropped_and_bounds_stay():
    """From 37 at once to 43 and back: two steps of at most 0.5 cannot bridge 6."""
    rules = Rules.parse({"bounds": {"temp": [30, 43]}, "rates": {"temp": {"change": 0.5, "per": 1}}}, "test")
    values = np.full((5, 5), np.nan)
    values[[0, 3], 3] = 37.0, 43.0
    asked = np.zeros((5, 5), dtype=bool)
    asked[[1, 2, 4], 3] = True
    found = _restriction(np.arange(5.0), values, asked, rules)
    assert found.contradictory == ("row 2: temp changes by at most 0.5 in 1",)
    x = torch.from_numpy(np.where(asked, 90.0, np.nan_to_num(values)).reshape(1, -1))
    y = found.project(x, torch.ones(25, dtype=torch.float64)).reshape(5, 5)[:, 3]
    assert y.tolist() == [37.0, 37.5, 43.0, 43.0, 43.0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"bounds": {"dia": [3, 1]}}, "expected low <= high, got [3, 1]"),
        ({"bound": {}}, "bound: Extra inputs"),
        ({"rates": {"temp": {"change": -1, "per": 1}}}, "rates.temp.change"),
        ({"order": [["dia"]]}, "two or more different variables"),
        ({"order": [["dia", "map"]], "bounds": {"dia": [90, None], "map": [0, 80]}}, "dia >= 90, map <= 80"),
        ([1], "valid dictionary"),
    ],
)
def test_bad_rules_are_told_in_one_line(content, told):
    with pytest.raises(UserError) as caught:
        Rules.parse(content, "rules.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("rules.yaml: ")
    assert "\n" not in str(caught.value)


def test_unknown_variables_are_named():
    with pytest.raises(UserError, match="got one about dia"):
        RULES.check(["map", "sys", "temp", "dose"])
