"""Futures that keep rules: exact where the conditional distribution is known, certified everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiff.errors import UserError
from scidiff.timeseries.conditioning import PILOT, condition, keep_rules, shrunk_covariance
from scidiff.timeseries.forecast_rules import ForecastRules, Future
from scidiff.timeseries.forecast_verdicts import judge, summary
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.panel import Floats

RNG = np.random.default_rng(7)
STEPS = np.arange(6)
COVARIANCE = 4 * 0.8 ** np.abs(STEPS[:, None] - STEPS) * np.outer(1 + STEPS / 3, 1 + STEPS / 3)
MEAN = 10 + 3.0 * STEPS


def gaussian(count: int, *, series: int = 1, variables: int = 1) -> Floats:
    """Draws [series, count, 6, variables] of N(MEAN, COVARIANCE), each series and variable by itself."""
    root = np.linalg.cholesky(COVARIANCE)
    normal = RNG.normal(size=(series, count, variables, 6))
    return np.moveaxis(MEAN + normal @ root.T, 2, 3)


def future(draws: Floats, *names: str, variables: tuple[str, ...] = ("x",), last: float = 9.0) -> Future:
    series = names or ("a",)
    return Future(
        series=series,
        variables=variables,
        times=np.tile(np.arange(7.0), (len(series), 1)),
        last=np.full((len(series), len(variables)), last),
        expected=draws[:, :PILOT].mean(1),
    )


def rules(**stated: object) -> ForecastRules:
    return ForecastRules.parse(stated, "rules")


def test_a_given_total_leaves_the_exact_conditional_distribution_and_the_euclidean_one_does_not() -> None:
    draws = gaussian(20_000)[0, :, :, 0]
    row = np.array([[0.0, 1, 1, 1, 0, 0]])
    target = np.array([1.1 * MEAN[1:4].sum()])
    gain = COVARIANCE @ row.T / (row @ COVARIANCE @ row.T)
    mean = MEAN + gain[:, 0] * (target - row @ MEAN)
    spread = COVARIANCE - gain @ row @ COVARIANCE
    found = condition(draws, shrunk_covariance(draws[:4000]), row, target)
    np.testing.assert_allclose(found @ row[0], target[0], rtol=1e-13)
    assert np.abs(found.mean(0) - mean).max() < 0.12
    np.testing.assert_allclose(found.var(0), np.diag(spread), rtol=0.06, atol=0.03)
    flat = condition(draws, np.eye(6), row, target)
    np.testing.assert_allclose(flat @ row[0], target[0], rtol=1e-13)
    assert np.abs(flat.mean(0) - mean).max() > 1.0  # steps outside the total do not move at all
    assert flat.var(0)[5] > 1.5 * spread[5, 5]


def test_known_first_values_condition_the_rest_as_a_markov_chain() -> None:
    draws = gaussian(4000)
    found = keep_rules(draws, rules(known=[{"variable": "x", "values": [13.0, None, 18.0]}]), future(draws))
    x = found[0, :, :, 0]
    np.testing.assert_array_equal(np.unique(x[:, [0, 2]].round(9), axis=0), [[13.0, 18.0]])
    given, rest = [0, 2], [1, 3, 4, 5]
    gain = COVARIANCE[np.ix_(rest, given)] @ np.linalg.inv(COVARIANCE[np.ix_(given, given)])
    mean = MEAN[rest] + gain @ (np.array([13.0, 18.0]) - MEAN[given])
    var = np.diag(COVARIANCE[np.ix_(rest, rest)] - gain @ COVARIANCE[np.ix_(given, rest)])
    assert np.abs((x[:, rest].mean(0) - mean) / np.sqrt(var)).max() < 0.25  # the pilot has 200 draws
    np.testing.assert_allclose(x[:, rest].var(0), var, rtol=0.25)


def test_shrinking_finds_independence_and_keeps_strong_correlations() -> None:
    apart = shrunk_covariance(RNG.normal(size=(100, 30)))
    assert np.abs(apart - np.diag(np.diag(apart))).max() < 0.05
    draws = gaussian(PILOT)[0, :, :, 0]
    np.testing.assert_allclose(shrunk_covariance(draws) / np.cov(draws.T), 1, atol=0.15)


TREE = {"T": ["A", "B"], "A": ["AA", "AB"]}
NAMES = ("T", "A", "B", "AA", "AB")


@pytest.mark.parametrize("integers", [(), ("x",)])
def test_every_draw_of_a_hierarchy_adds_up(integers: tuple[str, ...]) -> None:
    draws = gaussian(300, series=5) * np.array([4, 2, 2, 1, 1.0])[:, None, None, None]
    stated = rules(hierarchy=TREE, bounds={"x": [0, None]}, integers=integers)
    told = future(draws, *NAMES)
    found = keep_rules(draws, stated, told)[..., 0]
    size = np.abs(found[0]).max()
    assert np.abs(found[0] - found[1] - found[2]).max() < 1e-14 * size * 8
    assert np.abs(found[1] - found[3] - found[4]).max() < 1e-14 * size * 8
    assert found.min() >= 0
    assert not integers or bool((found == np.rint(found)).all())
    verdicts = judge(found[..., None], stated, told)
    assert not any(one.draws for one in verdicts.values())
    assert {"T == A + B", "A == AA + AB", "x >= 0"} <= set(verdicts)
    # the top is the least certain: it moves most, but it moves its parts as well
    assert found[0].std() < draws[0].std()


def test_all_rules_at_once_hold_and_what_holds_stays_to_the_bit() -> None:
    draws = gaussian(260)
    stated = rules(
        bounds={"x": [5, 30]},
        rates={"x": {"change": 6, "per": 1}},
        monotone={"x": "increasing"},
        totals=[{"variable": "x", "factor": 1.05, "first": 1, "last": 3}],
    )
    told = future(draws)
    found = keep_rules(draws, stated, told)
    verdicts = judge(found, stated, told)
    assert len(verdicts) == 6
    assert summary(verdicts, 260, 1) == "6 rules checked on 260 futures of 1 series: all hold"
    np.testing.assert_allclose(found[0, :, :3, 0].sum(1), 1.05 * told.expected[0, :3, 0].sum())
    loose = rules(bounds={"x": [-1e6, 1e6]}, rates={"x": {"change": 1e6, "per": 1}})
    np.testing.assert_array_equal(keep_rules(draws, loose, told), draws)


def test_whole_numbers_keep_totals_bounds_and_monotony() -> None:
    draws = gaussian(220)
    told = future(draws)
    for more in ({"totals": [{"variable": "x", "amount": 101}]}, {"monotone": {"x": "decreasing"}}):
        stated = rules(integers=["x"], bounds={"x": [0.5, 40.5]}, **more)
        found = keep_rules(draws, stated, told)
        assert not any(one.draws for one in judge(found, stated, told).values())
    with pytest.raises(UserError, match=r"x whole, and its total 100\.5"):
        keep_rules(draws, rules(integers=["x"], totals=[{"variable": "x", "amount": 100.5}]), told)


@pytest.mark.parametrize("integers", [(), ("x",)])
def test_a_factor_of_every_series_of_a_hierarchy_keeps_its_sums(integers: tuple[str, ...]) -> None:
    """Of series that are drawn apart the expected values do not add up, and ten per cent more is no whole number."""
    draws = gaussian(PILOT, series=5) * np.array([4.3, 2.1, 1.9, 1, 1.2])[:, None, None, None]
    stated = rules(hierarchy=TREE, integers=integers, totals=[{"variable": "x", "factor": 1.1}])
    told = future(draws, *NAMES)
    found = keep_rules(draws, stated, told)
    assert not any(one.draws for one in judge(found, stated, told).values())
    over = found[..., 0].sum(2).mean(1) / told.expected[..., 0].sum(1)
    np.testing.assert_allclose(over[[2, 3, 4]], 1.1, atol=5e-3)
    only = rules(hierarchy=TREE, integers=integers, totals=[{"variable": "x", "factor": 1.1, "series": "T"}])
    found = keep_rules(draws, only, told)
    assert not any(one.draws for one in judge(found, only, told).values())
    assert found[0].sum(1).mean() / told.expected[0].sum() == pytest.approx(1.1, abs=2e-3)


def test_the_oracle_catches_what_is_planted() -> None:
    draws = np.full((3, 2, 6, 1), 4.0)
    draws[0] = 8.0
    told = future(draws, "T", "A", "B", last=4.0)
    stated = rules(
        hierarchy={"T": ["A", "B"]},
        bounds={"x": [4, 8]},
        integers=["x"],
        monotone={"x": "increasing"},
        known=[{"variable": "x", "values": [4.0], "series": "A"}],
        totals=[{"variable": "x", "amount": 24, "series": "B"}],
    )
    assert not any(one.draws for one in judge(draws, stated, told).values())
    plants = {  # series, step, value: the rules that it breaks
        (1, 0, 3.5): {"T == A + B", "x >= 4", "x whole", "x as known", "x increasing"},
        (2, 5, 5.0): {"T == A + B", "x of steps 1 to 6 == 24"},
        (0, 5, 9.0): {"T == A + B", "x <= 8"},
    }
    for (s, step, value), wanted in plants.items():
        bad = draws.copy()
        bad[s, 1, step] = value
        verdicts = judge(bad, stated, told)
        assert {rule for rule, one in verdicts.items() if one.draws} == wanted
        assert all(one.draws == 1 for rule, one in verdicts.items() if rule in wanted)
    draws[2, 0, 2] = np.nan
    assert {"values are finite", "T == A + B"} <= {
        rule for rule, one in judge(draws, stated, told).items() if one.draws
    }


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"bounds": {"y": [0, 1]}}, "about y"),
        ({"hierarchy": {"T": ["a", "b"]}}, "hierarchy: expected names of"),
        ({"hierarchy": {"T": ["a"], "S": ["a"]}}, "each belong to one total"),
        ({"hierarchy": {"T": ["S"], "S": ["T"]}}, "expected a tree"),
        ({"totals": [{"variable": "x", "amount": 3, "last": 9}]}, "totals: expected steps of 1 to 6, got 9"),
        ({"totals": [{"variable": "x"}]}, "either an amount or a factor"),
        ({"known": [{"variable": "x", "values": [1.0] * 7}]}, "known: expected at most 6 values"),
        ({"known": [{"variable": "x", "values": [1.0], "series": "z"}]}, "expected one of the series a"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(stated: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        rules(**stated).check_future(("x",), ("a",), 6)


def test_rules_that_contradict_each_other_are_named() -> None:
    several = gaussian(PILOT, series=3)
    told = [{"variable": "x", "amount": size, "series": name} for name, size in (("T", 90), ("A", 60), ("B", 40))]
    with pytest.raises(UserError, match=r"T: x of steps 1 to 6 == 90 and A: x of steps 1 to 6 == 60 and B: x of"):
        keep_rules(several, rules(hierarchy={"T": ["A", "B"]}, totals=told), future(several, "T", "A", "B"))
    draws = gaussian(PILOT)
    known = [{"variable": "x", "values": [None, 50.0]}]
    with pytest.raises(UserError, match=r"contradict each other: x <= 40 and x == 50 at step 2$"):
        keep_rules(draws, rules(bounds={"x": [0, 40]}, known=known), future(draws))
    totals = [{"variable": "x", "amount": 500}]
    with pytest.raises(UserError, match=r"each other: x <= 40 and x of steps 1 to 6 == 500$"):
        keep_rules(draws, rules(bounds={"x": [0, 40]}, totals=totals), future(draws))


def test_a_constrained_draw_is_the_same_however_many_there_are() -> None:
    stamps = pd.date_range("2024-01-01", periods=150, freq="h")
    table = pd.DataFrame({"timestamp": stamps, "x": 4 + 3 * np.sin(np.arange(150) * np.pi / 12) + RNG.normal(size=150)})
    stated = {"bounds": {"x": [0, None]}, "totals": [{"variable": "x", "factor": 1.1}]}
    made = DiffusionForecaster(
        horizon=6, season=24, context=48, max_steps=1, members=1, steps=2, constraints=stated
    ).fit(table)
    few, many = (made.sample(table, count)["value"].to_numpy() for count in (3, 230))
    np.testing.assert_array_equal(few, many[:, :3])
    assert few.min() >= 0
