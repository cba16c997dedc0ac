"""Calibration of a table's intervals: fitted on some series, checked on others, in force in the quantiles."""

import numpy as np
import pandas as pd
import pytest

from scidiff.errors import UserError
from scidiff.timeseries import asking, calibrating
from scidiff.timeseries.calibrating import central
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.columns import Options
from scidiff.timeseries.filling import Request, fill, learned
from scidiff.timeseries.imputer import DiffusionImputer
from scidiff.timeseries.readers import read_panel
from scidiff.timeseries.sample import sample_path

REQUEST = Request(step=60.0, draws=10, steps=2, train=False, seed=3)


@pytest.fixture(scope="module")
def known():
    panel = read_panel(sample_path(), Options(variables=("HR", "pH")))
    return panel, learned(panel, REQUEST)[0]


@pytest.mark.parametrize(
    ("quantiles", "levels"),
    [((0.05, 0.95), (0.9,)), ((0.1, 0.25, 0.5, 0.75, 0.9), (0.5, 0.8)), ((), ()), ((0.5,), ())],
)
def test_levels_of_pairs(quantiles, levels):
    assert central(quantiles) == pytest.approx(levels)


def test_a_quantile_without_its_pair_is_refused():
    with pytest.raises(UserError, match=r"pairs p and 1 - p to calibrate, got none at 0\.9"):
        central((0.1, 0.25, 0.75))


def test_the_halves_share_no_series_and_ask_for_what_was_observed(known):
    panel, found = known
    first, second = (asking.ask(panel, found, REQUEST, half=half, most=200) for half in ("first", "second"))
    assert not set(first.series) & set(second.series)
    assert len(set(first.series) | set(second.series)) > 0.9 * len(panel)
    assert (first.draws.std(0) > 0).all()
    grid_means = panel.value[panel.series == first.series[0]]
    assert np.nanmin(grid_means) <= first.x[0] <= np.nanmax(grid_means)


def test_intervals_hold_on_series_that_were_not_used(known):
    panel, found = known
    narrow = asking.ask(panel, found, REQUEST, half="second", most=60)
    made, notes = calibrating.calibrate(panel, found, REQUEST, levels=(0.9,))
    assert made.levels == (0.5, 0.8, 0.9)
    assert notes[0].startswith("intervals of ")
    heart = narrow.variable == 0
    low, high = made.interval(narrow.draws[:, heart], narrow.variable[heart], 0.8)
    inside = ((low <= narrow.x[heart]) & (narrow.x[heart] <= high)).mean()
    assert heart.sum() > 200
    assert 0.72 < inside < 0.9


def test_quantiles_move_and_draws_and_median_stay(known):
    panel, found = known
    few = panel.select(np.arange(10))
    settings = {"variables": panel.variables, "levels": (0.5, 0.9), "spread": (1.0, 1.0)}
    none = Calibration(**settings, widening=((0.0, 0.0), (0.0, 0.0)))
    wide = Calibration(**settings, widening=((0.0, 0.0), (100.0, 0.5)))
    levels = (0.05, 0.25, 0.75, 0.95)
    (grid, plain), (_, moved) = (
        fill(few, found, REQUEST, quantiles=levels, keep=True, calibration=one) for one in (none, wide)
    )
    gap = ~grid.mask & grid.real[:, :, None]
    assert np.array_equal(plain.median, moved.median, equal_nan=True)
    assert np.array_equal(plain.draws, moved.draws, equal_nan=True)
    shift = {level: (moved.quantiles[level] - plain.quantiles[level]) for level in levels}
    assert shift[0.05][..., 0][gap[..., 0]] == pytest.approx(-100)
    assert shift[0.95][..., 1][gap[..., 1]] == pytest.approx(0.5)
    assert shift[0.25][gap] == pytest.approx(0)
    assert (plain.quantiles[0.05][gap] < plain.median[gap]).all()


def test_too_few_series_are_refused(known):
    panel, found = known
    few = panel.select(np.arange(12))
    with pytest.raises(UserError, match="at least 18 series"):
        calibrating.calibrate(few, found, REQUEST, levels=(0.9,))


def test_the_imputer_calibrates_its_quantiles_on_the_table_of_its_fit():
    table = pd.read_csv(sample_path()).query("variable == 'HR'")
    common = {"id": "RecordID", "time": "minute", "step": 60.0, "train": False, "n_draws": 10, "steps": 2}
    few = table[table.RecordID.isin(table.RecordID.unique()[:3])]
    plain, moved = (
        DiffusionImputer(**common, calibrate=calibrated).fit(table).impute_quantiles(few, (0.1, 0.9))
        for calibrated in (False, True)
    )
    assert plain["value"].equals(moved["value"])
    widths = [(one["value_p90"] - one["value_p10"]).mean() for one in (plain, moved)]
    assert widths[1] != pytest.approx(widths[0], rel=1e-3)
