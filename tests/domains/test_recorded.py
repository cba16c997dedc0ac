"""Draws at the values that a table records: scores stay scores, and no interval loses what it held."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scidiff.timeseries.imputer import DiffusionImputer
from scidiff.timeseries.recorded import MOST, levels, nearest

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


def test_scores_have_levels_and_measurements_have_none():
    rng = np.random.default_rng(0)
    table = np.stack([rng.integers(3, 16, 400), rng.normal(size=400), np.full(400, np.nan)], axis=-1)
    table[::7, 0] = np.nan
    assert levels(table) == (tuple(map(float, range(3, 16))), (), ())


def test_few_values_seen_once_each_are_no_levels():
    assert levels(np.arange(10.0)[:, None]) == ((),)
    assert levels(np.tile(np.arange(10.0), 4)[:, None]) == (tuple(map(float, range(10))),)
    assert levels(np.tile(np.arange(MOST + 1.0), 8)[:, None]) == ((),)


@given(
    st.lists(NUMBERS, min_size=1, max_size=9, unique=True).map(sorted),
    arrays.arrays(np.float64, 12, elements=NUMBERS),
)
def test_the_nearest_is_nearest_monotone_and_leaves_levels_alone(own, x):
    variable = np.zeros(len(x), dtype=np.int64)
    found = nearest(x, variable, [own])
    assert set(found.tolist()) <= set(own)
    best = np.abs(x[:, None] - np.array(own)).min(1)
    np.testing.assert_allclose(np.abs(found - x), best, rtol=1e-9, atol=1e-9)
    assert (np.diff(found[np.argsort(x, kind="stable")]) >= 0).all()
    np.testing.assert_array_equal(nearest(found, variable, [own]), found)


@given(st.lists(NUMBERS, min_size=2, max_size=9, unique=True).map(sorted), NUMBERS, NUMBERS, st.data())
def test_an_interval_that_holds_a_level_still_does(own, one, other, data):
    low, high = nearest(np.array(sorted((one, other))), np.zeros(2, dtype=np.int64), [own])
    truth = data.draw(st.sampled_from(own))
    if min(one, other) <= truth <= max(one, other):
        assert low <= truth <= high


def test_continuous_variables_and_gaps_stay():
    x = np.array([[0.3, np.nan, 0.3], [2.6, 1.4, np.nan]])
    np.testing.assert_array_equal(
        nearest(x, np.array([0, 0, 1]), [(0.0, 1.0, 2.0), ()]), [[0, np.nan, 0.3], [2, 1, np.nan]]
    )


def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    score = np.clip(8 + rng.integers(-1, 2, (40, 30)).cumsum(1), 3, 15).astype(float)
    score[rng.random(score.shape) < 0.3] = np.nan
    pulse = 80 + rng.normal(size=score.shape).cumsum(1)
    rows = pd.MultiIndex.from_product([range(40), range(30)], names=["id", "hour"])
    pulse[rng.random(score.shape) < 0.2] = np.nan
    return pd.DataFrame({"score": score.ravel(), "pulse": pulse.ravel()}, index=rows).reset_index()


def test_a_model_of_a_table_fills_in_what_the_table_could_hold():
    imputer = DiffusionImputer(id="id", time="hour", train=True, max_steps=3, n_draws=6, seed=0)
    asked = table()
    gap = asked.score.isna().to_numpy()
    recorded = set(asked.score.dropna())
    filled = imputer.fit_transform(asked)
    assert len(recorded) > 5
    assert set(filled.score[gap]) <= recorded
    bounds = imputer.impute_quantiles(asked)
    assert set(bounds.score_p5[gap]) | set(bounds.score_p95[gap]) <= recorded
    draws = imputer.impute_samples(asked)["value"].sel(variable="score").to_numpy()
    assert set(draws[~np.isnan(draws)]) <= recorded
    pulse = filled.pulse[asked.pulse.isna()]
    assert not set(pulse) & set(asked.pulse.dropna())


def test_rules_are_kept_exactly_and_not_rounded_away():
    rules = {"bounds": {"score": [3.2, 14.8]}}
    imputer = DiffusionImputer(id="id", time="hour", train=True, max_steps=3, n_draws=6, seed=0, constraints=rules)
    asked = table()
    asked = asked[asked.score.isna() | asked.score.between(4, 14)]
    filled = imputer.fit_transform(asked)
    found = filled.score[asked.score.isna().to_numpy()]
    assert found.between(3.2, 14.8).all()
    assert not set(found) <= set(asked.score.dropna())
