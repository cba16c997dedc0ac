"""Clustered bootstrap: intervals cover at their rate when series differ, pairs cancel what methods share."""

from __future__ import annotations

import numpy as np
import pytest

from scidiff.timeseries import metrics
from scidiff.timeseries.scores import ALL, judge, paired, scores

RNG = np.random.default_rng(1)


def problem(series: int = 30, each: int = 5, count: int = 9) -> dict[str, np.ndarray]:
    size = series * each
    return {
        "draws": RNG.normal(size=(count, size)),
        "x": RNG.normal(size=size),
        "series": np.repeat(np.arange(series), each),
        "variable": RNG.integers(0, 2, size=size),
    }


def test_values_are_those_of_the_metrics_per_variable_and_overall() -> None:
    p = problem()
    table = scores(judge(**p, variables=("a", "b", "never")), resamples=50)
    for name, here in (("a", p["variable"] == 0), ("b", p["variable"] == 1), (ALL, p["variable"] >= 0)):
        draws, x, found = p["draws"][:, here], p["x"][here], table.loc[name]["value"]
        assert found["MAE"] == pytest.approx(metrics.absolute_error(draws, x).mean())
        assert found["RMSE"] == pytest.approx(np.sqrt(metrics.squared_error(draws, x).mean()))
        assert found["CRPS (fair)"] == pytest.approx(metrics.crps_fair(draws, x).mean())
        assert found["CRPS (19 quantiles, normalised)"] == pytest.approx(metrics.crps_quantiles(draws, x))
        assert found["coverage 80 %"] == pytest.approx(metrics.covered(draws, x, 0.8).mean())
        pit = metrics.pit(p["draws"], p["x"])[here]
        distance = max(abs((pit <= a).mean() - a) for a in metrics.LEVELS)
        assert found["PIT distance"] == pytest.approx(distance)
        assert (table.loc[name]["values"] == here.sum()).all()
    assert table.loc["never"]["value"].isna().all()
    assert (table.loc["never"]["values"] == 0).all()


def test_a_chunk_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem()
    whole = scores(judge(**p, variables=("a", "b")), resamples=40)
    monkeypatch.setattr("scidiff.timeseries.scores._CHUNK", 9 * 7)
    monkeypatch.setattr("scidiff.timeseries.scores._BLOCK", 30 * 3)
    np.testing.assert_allclose(scores(judge(**p, variables=("a", "b")), resamples=40), whole, rtol=1e-12)


def test_order_and_names_of_series_do_not_matter() -> None:
    p = problem()
    order = RNG.permutation(len(p["x"]))
    shuffled = {"draws": p["draws"][:, order]} | {k: v[order] for k, v in p.items() if k != "draws"}
    shuffled["series"] = np.array([f"{s:03d}" for s in shuffled["series"]])
    before, after = (scores(judge(**q, variables=("a", "b")), resamples=40) for q in (p, shuffled))
    keep = [m for m in before.index if m[1] != "PIT distance"]  # whose coin is keyed by the value's place
    np.testing.assert_allclose(before.loc[keep], after.loc[keep], rtol=1e-12)


def test_bootstrap_spread_of_a_mean_is_the_closed_form_for_whole_series() -> None:
    # All values of a series err alike, by e_s: the bootstrap mean of |e| has the variance var(|e_s|) / S.
    size, each = 40, 6
    error = np.abs(RNG.normal(size=size))
    judged = judge(
        np.zeros((1, size * each)),
        np.repeat(error, each),
        series=np.repeat(np.arange(size), each),
        variable=np.zeros(size * each, int),
        variables=("a",),
    )
    table = scores(judged, resamples=20_000)
    width = table.loc[(ALL, "MAE"), "high"] - table.loc[(ALL, "MAE"), "low"]
    assert width == pytest.approx(2 * 1.96 * error.std() / np.sqrt(size), rel=0.04)
    assert "PIT distance" not in table.loc[ALL].index  # one draw has no distribution


def test_paired_differences_cancel_what_is_hard_for_both() -> None:
    size, each = 50, 4
    hard = np.repeat(10 * np.abs(RNG.normal(size=size)), each)
    shared = {"series": np.repeat(np.arange(size), each), "variable": np.zeros(size * each, int), "variables": ("a",)}
    first = judge(np.zeros((1, size * each)), hard + 0.1, **shared)
    second = judge(np.full((1, size * each), 0.1), hard + 0.1, **shared)
    found = paired(first, second, resamples=200).loc[(ALL, "MAE")]
    np.testing.assert_allclose(found[["value", "low", "high"]], 0.1, rtol=1e-9)
    alone = scores(first, resamples=200).loc[(ALL, "MAE")]
    assert alone["high"] - alone["low"] > 1
    reverse = paired(second, first, resamples=200).loc[(ALL, "MAE")]
    assert reverse["value"] == pytest.approx(-0.1)


def test_what_cannot_be_compared_or_judged_is_refused() -> None:
    p = problem()
    judged = judge(**p, variables=("a", "b"))
    with pytest.raises(ValueError, match="judged on the same values"):
        paired(judged, judge(**(p | {"x": p["x"] + 1}), variables=("a", "b")))
    with pytest.raises(ValueError, match="expected variables 0 to 0, got 0 to 1"):
        judge(**p, variables=("a",))
    with pytest.raises(ValueError, match="expected finite"):
        judge(**(p | {"x": np.full_like(p["x"], np.nan)}), variables=("a", "b"))
