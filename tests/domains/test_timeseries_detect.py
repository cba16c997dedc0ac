"""Checks of data under a model whose conditional distributions are known: what is flagged, and what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from gaussian_panel import GaussianConditional
from scipy import stats

from scidiff.errors import UserError
from scidiff.timeseries.conditional import Window, windows
from scidiff.timeseries.detect import detect
from scidiff.timeseries.grid import irregular
from scidiff.timeseries.mistaken import Columns, mistaken
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.planted import plant, recall
from scidiff.timeseries.stuck import Run, continuing, habit, resolution, runs, step_probabilities, stuck

NAMES = ("HR", "SysABP", "DiasABP", "Temp")
MEAN = np.array([85.0, 120.0, 60.0, 37.0])
STD = np.array([12.0, 15.0, 9.0, 0.6])
CORRELATION = np.array([[1, 0.3, 0.2, 0.4], [0.3, 1, 0.8, 0.1], [0.2, 0.8, 1, 0.1], [0.4, 0.1, 0.1, 1]])


def vitals(*, rho: float = 0.8, draws: int = 50) -> GaussianConditional:
    return GaussianConditional(NAMES, mean=MEAN, covariance=CORRELATION * np.outer(STD, STD), rho=rho, draws=draws)


def changed(panel: Panel, cells: dict[tuple[int, int], float]) -> Panel:
    value = panel.value.copy()
    for place, x in cells.items():
        value[place] = x
    return replace(panel, value=value)


def test_scores_of_independent_cells_are_the_exact_tail_probabilities() -> None:
    model = GaussianConditional(("a", "b"), mean=np.array([1.0, -2.0]), covariance=np.diag([4.0, 9.0]), rho=0.0)
    model.count = 4000
    panel = model.panel(series=3, length=10, seen=0.8)
    table = detect(model, panel, checks=["value"])
    mean, std = (table["variable"].map(dict(zip("ab", each, strict=True))) for each in ((1, -2), (2, 3)))
    exact = 2 * stats.norm.sf(np.abs(table["value"] - mean) / std)
    np.testing.assert_allclose(table["p"], exact, atol=4 * np.sqrt(0.25 / 4000) * 2)
    np.testing.assert_allclose(table["expected"], mean, atol=0.3)
    np.testing.assert_allclose((table["high"] - table["low"]) / (2 * 1.645 * std), 1, atol=0.1)


def test_the_table_has_every_observed_value_once_as_it_came() -> None:
    model = vitals()
    panel = model.panel(series=4, length=7, seen=0.6)
    table = detect(model, panel)
    row, variable = np.nonzero(panel.observed)
    np.testing.assert_array_equal(table["value"], panel.value[row, variable])
    np.testing.assert_array_equal(table["time"], panel.time[row])
    assert list(table["series"]) == [panel.ids[s] for s in panel.series[row]]
    assert list(table["variable"]) == [NAMES[v] for v in variable]
    assert table[["p", "q", "expected"]].notna().all().all()
    assert (table["flagged"] == (table[["q", "q_stuck", "q_column"]] <= 0.05).any(axis=1)).all()
    pd.testing.assert_frame_equal(table, detect(model, panel))


def test_every_value_is_judged_once_and_while_it_is_hidden() -> None:
    seen: list[np.ndarray] = []

    class Watching(GaussianConditional):
        def draw(self, window: Window, *, visible: np.ndarray, asked: np.ndarray) -> object:
            assert not (visible & asked).any()
            seen.append(asked)
            return super().draw(window, visible=visible, asked=asked)

    model = Watching(NAMES, mean=MEAN, covariance=CORRELATION * np.outer(STD, STD))
    panel = model.panel(series=1, length=12, seen=0.7)
    detect(model, panel, checks=["value"], folds=3)
    for once in (seen[:3], seen[3:]):  # to find who stands out, and without them
        np.testing.assert_array_equal(np.sum(once, axis=0), panel.observed)
    assert len(seen) == 6


def test_values_that_only_others_contradict_are_found() -> None:
    model = GaussianConditional(("a", "b"), mean=np.zeros(2), covariance=np.array([[1, 0.995], [0.995, 1]]), rho=0.9)
    panel = model.panel(series=5, length=12, seed=3)
    wrong = float(-np.sign(panel.value[30, 1]) * 1.5)
    table = detect(model, changed(panel, {(30, 0): wrong}), checks=["value"])
    assert table.index[table["flagged"]].tolist() == [60]
    assert table.loc[60, "reason"] == "far from what the others say"


def test_an_error_does_not_drag_down_those_beside_it() -> None:
    model = vitals(rho=0.95)
    panel = model.panel(series=4, length=16, seed=5)
    bad = {(5, 0): 850.0, (21, 3): 3.7, (40, 1): 12.0, (41, 2): 600.0}
    table = detect(model, changed(panel, bad), checks=["value"])
    assert set(table.index[table["flagged"]]) == {4 * r + v for r, v in bad}


def test_false_alarms_are_as_rare_as_promised() -> None:
    model = vitals()
    alarms = [detect(model, model.panel(series=2, length=8, seed=s), rate=0.2)["flagged"].any() for s in range(25)]
    # three checks at .2 each: at most 1 - .8^3 = .49 of clean panels give an alarm, here with three standard errors
    assert np.mean(alarms) <= 0.49 + 3 * np.sqrt(0.25 / 25)


def test_runs_and_how_often_they_go_on_by_hand() -> None:
    values = np.array([[1, 1, np.nan, 1, 2, 2, 3, 4]]).T
    window = Window(values=values, time=np.arange(8.0), number=0, series=0)
    found = runs([window])
    assert [run.rows.tolist() for run in found] == [[0, 1, 3], [4, 5], [6], [7]]
    assert [run.last for run in found] == [False, False, False, True]
    # of those with a first value: 3 and 2 went on, the third did not, the last may still. The rates after two values,
    # 1 of 2, and after three, 0 of 1, are less than that.
    many = found * 40
    np.testing.assert_allclose(continuing(many), [2 / 3] * 3)
    assert resolution([window], 0) == 1
    # runs that go on ever more often
    rising = [Run(window=0, variable=0, rows=np.arange(n), last=False) for n in (1, 1, 2, 4, 4, 4) for _ in range(40)]
    np.testing.assert_allclose(continuing(rising), [4 / 6, 3 / 4, 1, 1])
    # too few to tell: the largest rate of shorter runs
    long = [*many, Run(window=0, variable=0, rows=np.arange(9), last=False)]
    np.testing.assert_allclose(continuing(long), [81 / 121] * 9)


def test_the_share_of_other_series_with_runs_as_long_by_hand() -> None:
    one = Window(values=np.zeros((9, 1)), time=np.arange(9.0), number=0, series=0)
    series = [replace(one, number=n, series=n // 2) for n in range(42)]  # 21 series of two windows each
    lengths = {0: 9, 1: 2, 2: 7, 4: 7, 6: 5}  # by window; all others have none longer than 3
    found = [Run(window=n, variable=0, rows=np.arange(lengths.get(n, 3)), last=False) for n in range(42)]
    share = habit(found, series)
    # as long as 9: none other; as 7: 2 of 20 others; as 5: 3; as 3 and as 2: all
    np.testing.assert_allclose(share[[0, 2, 4, 6, 8, 1]], [0, 0.1, 0.1, 0.15, 1, 1])
    np.testing.assert_array_equal(habit(found[:1], series), [0])  # a series alone has no others
    np.testing.assert_array_equal(habit(found[:4], series)[[0, 2]], [0, 0])  # one other series is no habit


def test_step_probabilities_are_those_of_the_conditional_distribution() -> None:
    model = vitals(rho=0.7, draws=40_000)
    window = windows(irregular(model.panel(series=1, length=9)))[0]
    rows = np.array([2, 3, 4, 6])
    width = 4.0
    found = step_probabilities(model, window, Run(window=0, variable=0, rows=rows, last=False), width=width)
    asked = np.zeros(window.values.shape, dtype=bool)
    asked[rows[1:], 0] = True
    mean, covariance = model.law(window, visible=~asked, asked=asked)
    steps = np.diff(np.eye(3), axis=0)
    mean = np.concatenate([[mean[0] - window.values[2, 0]], steps @ mean])
    std = np.sqrt(np.concatenate([[covariance[0, 0]], np.diag(steps @ covariance @ steps.T)]))
    exact = stats.norm.cdf((width / 2 - mean) / std) - stats.norm.cdf((-width / 2 - mean) / std)
    np.testing.assert_allclose(found, exact, atol=0.01)


def test_stuck_sensors_are_found_and_coarse_or_copied_values_are_not_accused() -> None:
    model = vitals()
    panel = model.panel(series=12, length=20, digits=0)  # whole numbers: neighbours agree now and then
    panel = changed(panel, {(45 + i, 0): panel.value[45, 0] for i in range(8)})
    copied = panel.value.copy()
    copied[:, 3] = np.repeat(copied[::5, 3], 5)  # charted every five hours, copied between
    table = detect(model, replace(panel, value=copied), checks=["stuck"])
    assert set(table.index[table["flagged"]]) == {4 * (45 + i) for i in range(8)}
    assert set(table.loc[table["flagged"], "reason"]) == {"stuck"}
    found = stuck(model, windows(irregular(panel)))
    for v in range(4):  # no run is less likely than the table's own habits make it
        some = [run for run in found if run.variable == v]
        rate = continuing(some)
        assert all(run.p >= np.prod(rate[: len(run.rows) - 1]) * (1 - 1e-9) for run in some)


def test_runs_that_several_series_have_are_a_habit_of_charting() -> None:
    model = vitals()
    panel = model.panel(series=12, length=20, digits=0)
    several = changed(panel, {(20 * s + 4 + i, 0): panel.value[20 * s + 4, 0] for s in (2, 5, 9) for i in range(10)})
    alone = changed(panel, {(20 * 5 + 4 + i, 0): panel.value[20 * 5 + 4, 0] for i in range(10)})
    assert detect(model, several, checks=["stuck"])["flagged"].sum() == 0
    assert detect(model, alone, checks=["stuck"])["flagged"].sum() == 10


def test_a_constant_column_and_a_single_value_are_no_accusation() -> None:
    model = vitals()
    panel = model.panel(series=3, length=12)
    value = panel.value.copy()
    value[:, 3] = 37.0
    value[:, 2] = np.nan
    value[3, 2] = 60.0
    found = stuck(model, windows(irregular(replace(panel, value=value))))
    assert all(run.p == 1 for run in found if run.variable in (2, 3))


def test_fit_of_a_column_is_its_log_likelihood() -> None:
    model = GaussianConditional(("a", "b"), mean=np.array([1.0, -2.0]), covariance=np.diag([4.0, 9.0]), rho=0.0)
    model.count = 20_000
    window = windows(irregular(model.panel(series=1, length=6)))[0]
    columns = Columns(model, window, [np.array([0]), np.array([1])])
    at = np.array([True, True, False, True, False, True])
    for v, law in enumerate((stats.norm(1, 2), stats.norm(-2, 3))):
        x = np.array([0.0, 1.0, 99.0, -4.0, np.nan, 3.0])
        assert columns.fit(v, x, at) == pytest.approx(law.logpdf(x[at]).sum(), abs=0.05)


def test_gain_of_another_unit_is_the_likelihood_ratio() -> None:
    model = GaussianConditional(("a", "b"), mean=np.array([2.5, 5.0]), covariance=np.diag([1.0, 1.0]), rho=0.0)
    model.count = 20_000
    panel = model.panel(series=1, length=4)
    x = 2.0 * np.array([1.9, 2.4, 2.5, 3.3])
    panel = changed(panel, {(i, 0): x[i] for i in range(4)})
    found, _ = mistaken(model, windows(irregular(panel)), factors=(2.0,))
    law = stats.norm(2.5, 1)
    exact = (law.logpdf(x / 2) - np.log(2) - law.logpdf(x)).sum()
    assert [m.gain for m in found if m.variable == 0] == [pytest.approx(exact, rel=0.05, abs=0.0)]
    assert 4 * np.log(2) > 0.2 * exact  # the change of unit is more than the error allowed


def test_exchanged_columns_and_wrong_units_are_found_and_named() -> None:
    model = vitals()
    panel = model.panel(series=10, length=15, seed=8)
    value = panel.value.copy()
    value[30:45, [1, 2]] = value[30:45, [2, 1]]  # systolic and diastolic of the third series
    value[60:75, 0] /= 10  # heart rate of the fifth
    table = detect(model, replace(panel, value=value), checks=["column"], rate=0.01)
    said = table[table["flagged"]].groupby(["series", "variable"])["reason"].agg(["unique", "size"])
    assert set(said.index) == {("s2", "SysABP"), ("s2", "DiasABP"), ("s4", "HR")}
    assert (said["size"] == 15).all()
    assert said.loc[("s2", "SysABP"), "unique"].tolist() == ["column exchanged with DiasABP"]
    assert said.loc[("s4", "HR"), "unique"].tolist() == ["column in another unit, factor 0.1"]


def test_gains_of_whole_columns_are_judged_by_those_of_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # two variables that are nearly alike: exchanging them often fits better, by chance, and is no accusation
    model = GaussianConditional(
        ("a", "b"), mean=np.array([0.0, 0.1]), covariance=np.array([[1, 0.5], [0.5, 1]]), rho=0.9, draws=60
    )
    found, tried = mistaken(model, windows(irregular(model.panel(series=80, length=8))), factors=())
    assert tried == 80
    assert len(found) < 4
    monkeypatch.setattr("scidiff.timeseries.mistaken.LEAST_GAIN", -100.0)  # their probabilities, of any gain at all
    found, _ = mistaken(model, windows(irregular(model.panel(series=80, length=8))), factors=())
    assert len(found) > 15
    p = np.array([mistake.p for mistake in found])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).sum() <= 80 * level + 3 * np.sqrt(80 * level)


def test_planted_errors_are_where_they_are_said_to_be() -> None:
    panel = vitals().panel(series=20, length=12, seen=0.8)
    planted = plant(panel, unit=15, exchanged=3, stuck=4, run=5, seed=2)
    before, after = panel.value, planted.panel.value
    touched = np.any(list(planted.kind.values()), axis=0)
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    assert same[~touched & ~np.isnan(before) & ~np.isnan(after)].all()
    assert planted.kind["unit"].sum() == 15
    ratio = (after / before)[planted.kind["unit"]]
    assert set(np.round(ratio, 9)) <= {0.01, 0.1, 10.0, 100.0}
    assert planted.kind["stuck"].sum() == 4 * 5
    for s in range(20):
        rows = slice(12 * s, 12 * s + 12)
        here = planted.kind["exchanged"][rows]
        if here.any():
            a, b = np.flatnonzero(here.any(0))
            np.testing.assert_array_equal(after[rows, a], before[rows, b])
            np.testing.assert_array_equal(after[rows, b], before[rows, a])
        for v in np.flatnonzero(planted.kind["stuck"][rows].any(0)):
            assert len(set(after[rows, v][planted.kind["stuck"][rows, v]])) == 1
    assert np.sum(list(planted.kind.values()), axis=0).max() == 1
    again = plant(panel, unit=15, exchanged=3, stuck=4, run=5, seed=2)
    np.testing.assert_array_equal(again.panel.value, after)
    assert (plant(panel, unit=15, exchanged=3, stuck=4, run=5, seed=3).kind["unit"] != planted.kind["unit"]).any()
    with pytest.raises(ValueError, match="at least 999 columns to stick in"):
        plant(panel, stuck=999)


def test_planted_errors_are_found_and_counted() -> None:
    model = vitals(rho=0.9)
    panel = model.panel(series=30, length=20, seen=0.9, seed=1)
    planted = plant(panel, unit=25, exchanged=4, stuck=4, run=8)
    table = detect(model, planted.panel)
    found = recall(table, planted)
    assert found.loc["all", "planted"] == sum(here.sum() for here in planted.kind.values())
    assert found.loc["all", "found"] == found["found"].drop("all").sum()
    assert found.loc["unit", "recall"] == 1
    assert found.loc["stuck", "recall"] >= 0.9
    assert found.loc["exchanged", "recall"] >= 0.9
    assert found.loc["all", "precision"] >= 0.9
    with pytest.raises(ValueError, match="expected the table of `detect`"):
        recall(table.iloc[1:], planted)


def test_windows_of_long_series_are_judged_like_short_ones() -> None:
    model = vitals(rho=0.0)
    panel = model.panel(series=1, length=230)
    table = detect(model, changed(panel, {(100, 0): 850.0, (229, 3): 30.0}), checks=["value"], rate=0.001)
    assert table["p"].notna().all()
    assert set(table.index[table["flagged"]]) == {400, 4 * 229 + 3}


def test_wrong_requests_are_refused() -> None:
    model = vitals()
    panel = model.panel(series=1, length=5)
    for wrong in ({"rate": 0.0}, {"folds": 1}, {"draws": 1}, {"checks": ["nonsense"]}, {"factors": [0.0]}):
        with pytest.raises(UserError, match="expected rate in"):
            detect(model, panel, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected a model of"):
        detect(GaussianConditional(("x",), mean=np.zeros(1), covariance=np.eye(1)), panel)
