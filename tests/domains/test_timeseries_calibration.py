"""Calibration: the exact minimiser of the CRPS, and the finite-sample guarantee of conformal intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scidiff.errors import UserError
from scidiff.timeseries import metrics
from scidiff.timeseries.calibration import (
    Calibration,
    conformal_quantile,
    fit,
    needed,
    spread_factor,
    spread_out,
)

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5])
def test_spread_factor_makes_the_fair_crps_smallest(truth: float) -> None:
    location = RNG.normal(size=120)
    draws = location + RNG.normal(size=(8, 120))
    x = location + truth * RNG.normal(size=120)

    def crps(f: float) -> float:
        return float(metrics.crps_fair(spread_out(draws, np.full(120, f)), x).mean())

    found = spread_factor(draws, x)
    best = minimize_scalar(crps, bounds=(0, 10), method="bounded", options={"xatol": 1e-9})
    assert crps(found) <= best.fun + 1e-12
    assert all(crps(found) <= crps(found + step) + 1e-15 for step in (-0.02, -1e-4, 1e-4, 0.02))


def test_spread_factor_finds_the_truth_and_never_turns_draws_around() -> None:
    # with many draws and values the smallest CRPS is at the true distribution
    draws = RNG.normal(size=(60, 6000))
    assert spread_factor(draws, 1.7 * RNG.normal(size=6000)) == pytest.approx(1.7, rel=0.05)
    assert spread_factor(draws, np.median(draws, axis=0)) == 0
    assert spread_factor(np.ones((5, 3)), np.array([1.0, 2.0, 3.0])) == 1


def test_spreading_keeps_the_median_and_scales_distances() -> None:
    draws = RNG.normal(size=(9, 4))
    out = spread_out(draws, [0.0, 1.0, 2.0, 0.5])
    np.testing.assert_allclose(np.median(out, axis=0), np.median(draws, axis=0), atol=1e-15)
    np.testing.assert_allclose(out.std(0), draws.std(0) * [0, 1, 2, 0.5], atol=1e-15)


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (19, 0.9), (10, 0.9), (37, 0.8), (4, 0.5), (1, 0.5)])
def test_conformal_coverage_is_exact_over_all_ranks(count: int, level: float) -> None:
    # Of count + 1 exchangeable scores without ties each is the new one equally often.
    scores = RNG.normal(size=count + 1)
    inside = [scores[i] <= conformal_quantile(np.delete(scores, i), level) for i in range(count + 1)]
    coverage = np.mean(inside)
    assert level <= coverage + 1e-12
    assert coverage <= level + 1 / (count + 1)
    assert coverage == pytest.approx(np.ceil((count + 1) * level - 1e-9) / (count + 1))


@pytest.mark.parametrize("level", [0.5, 0.7])
def test_conformal_coverage_of_series_holds_over_all_choices(level: float) -> None:
    # Exchangeable series of unlike sizes and levels: any of them is the new one, and any of its values the new value.
    series = [RNG.normal(size=n) + 3 * RNG.normal() for n in (1, 7, 2, 4, 30)]
    coverage = 0.0
    for new in range(len(series)):
        rest = [s for i, s in enumerate(series) if i != new]
        label = np.repeat(np.arange(len(rest)), [len(s) for s in rest])
        quantile = conformal_quantile(np.concatenate(rest), level, series=label)
        coverage += (series[new] <= quantile).mean() / len(series)
    assert coverage >= level - 1e-12
    values = np.concatenate(series)
    label = np.repeat(np.arange(5), [len(s) for s in series])
    order = RNG.permutation(len(values))
    assert conformal_quantile(values, level, series=label) == conformal_quantile(
        values[order], level, series=label[order]
    )


def test_one_value_a_series_is_ordinary_split_conformal() -> None:
    scores = RNG.normal(size=25)
    assert conformal_quantile(scores, 0.8) == np.sort(scores)[int(np.ceil(26 * 0.8)) - 1]
    assert conformal_quantile(scores, 0.8, series=list("abcdefghijklmnopqrstuvwxy")) == conformal_quantile(scores, 0.8)


@pytest.mark.parametrize(("level", "count"), [(0.9, 9), (0.8, 4), (0.5, 1), (0.95, 19), (0.99, 99)])
def test_the_fewest_series_are_named_and_enough(level: float, count: int) -> None:
    assert needed(level) == count
    conformal_quantile(RNG.normal(size=count), level)
    if count > 1:
        with pytest.raises(UserError, match=f"at least {count} series for intervals of {100 * level:g} %, got"):
            conformal_quantile(RNG.normal(size=count - 1), level)
        with pytest.raises(UserError, match=f"at least {count} series"):
            conformal_quantile(RNG.normal(size=200), level, series=np.arange(200) % (count - 1))


def forecasts(series: int, each: int) -> dict[str, np.ndarray]:
    """Draws of two variables that are too narrow by 2 and skewed, too wide by 3."""
    size = series * each
    variable = np.arange(size) % 2
    scale = np.array([2.0, 1 / 3])[variable]
    location = RNG.normal(size=size)
    x = location + scale * np.where(variable == 0, RNG.exponential(size=size) - 1, RNG.normal(size=size))
    return {
        "draws": location + RNG.normal(size=(39, size)),
        "x": x,
        "series": np.repeat(np.arange(series), each),
        "variable": variable,
    }


def test_fitted_intervals_cover_new_series_at_their_level() -> None:
    calibration = fit(**forecasts(1200, 4), variables=("narrow", "wide"))
    assert calibration.spread[0] > 1.2
    # the median of 39 draws errs by 0.2, which the spread has to cover too
    assert calibration.spread[1] == pytest.approx(np.hypot(1 / 3, 0.2), rel=0.1)
    new = forecasts(3000, 4)
    for level in calibration.levels:
        raw_low, raw_high = metrics.interval(new["draws"], level)
        low, high = calibration.interval(new["draws"], new["variable"], level)
        for v in (0, 1):
            here = new["variable"] == v
            coverage = ((low <= new["x"]) & (new["x"] <= high))[here].mean()
            raw = ((raw_low <= new["x"]) & (new["x"] <= raw_high))[here].mean()
            assert coverage == pytest.approx(level, abs=0.035)  # 1200 values to learn from: 0.5 / sqrt(1200) twice
            assert abs(raw - level) > 0.08


def test_the_two_steps_learn_from_different_series() -> None:
    # Whatever a value's series is for, changing the series of one step leaves the other step's result alone.
    data = forecasts(60, 2)
    before = fit(**data, variables=("a", "b"))
    moved_spread, only_widening = set(), set()
    for s in range(60):
        x = np.where(data["series"] == s, data["x"] + 1000, data["x"])
        after = fit(**(data | {"x": x}), variables=("a", "b"))
        if after.spread != before.spread:
            moved_spread.add(s)
        elif after.widening != before.widening:
            only_widening.add(s)
    assert len(moved_spread) == 30
    assert len(only_widening) > 15  # of 30: a value that is far out already may go farther


def test_too_few_series_of_a_variable_are_an_error_that_says_how_many() -> None:
    data = forecasts(30, 2)
    rare = (data["variable"] == 0) | (data["series"] < 4)
    few = {"draws": data["draws"][:, rare]} | {k: v[rare] for k, v in data.items() if k != "draws"}
    with pytest.raises(UserError, match=r"rare: expected held-out values in at least 18 series for intervals of 90 %"):
        fit(**few, variables=("common", "rare"), levels=(0.9,))


def test_ends_that_would_cross_meet_in_the_middle() -> None:
    calibration = Calibration(variables=("a",), levels=(0.5,), spread=(1.0,), widening=((-5.0,),))
    low, high = calibration.interval([[0.0], [1.0], [3.0]], [0], 0.5)
    assert low == high
    with pytest.raises(ValueError, match="expected one of the levels"):
        calibration.interval([[0.0], [1.0], [3.0]], [0], 0.9)
