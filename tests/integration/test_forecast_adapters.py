"""sktime's and GluonTS's interfaces say what the forecaster says; each is tested where its package is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scidiff.timeseries.forecaster import DiffusionForecaster

SMALL: dict[str, Any] = {"season": 4, "context": 12, "n_draws": 9, "max_steps": 2, "members": 1, "seed": 3}


def series(rows: int = 90) -> np.ndarray:
    return 10 + np.sin(np.arange(rows) * np.pi / 2) + np.random.default_rng(1).normal(size=rows) / 5


def test_sktime_has_the_medians_and_quantiles_and_takes_new_rows() -> None:
    pytest.importorskip("sktime")
    from scidiff.timeseries.sktime_adapter import SktimeForecaster

    y = pd.Series(series(), index=pd.period_range("2000Q1", periods=90, freq="Q"), name="x")
    adapted = SktimeForecaster(horizon=4, **SMALL).fit(y.iloc[:80])
    table = pd.DataFrame({"time": y.index.to_timestamp(), "y0": y.to_numpy()})
    own = DiffusionForecaster(horizon=4, time="time", **SMALL).fit(table[:80])
    expected = own.sample(table[:80])["value"].to_numpy()[0, :, :, 0]
    found = adapted.predict(fh=[1, 3])
    assert list(found.index.astype(str)) == ["2020Q1", "2020Q3"]
    np.testing.assert_allclose(found.to_numpy().ravel(), np.median(expected, axis=0)[[0, 2]])
    quantiles = adapted.predict_quantiles(fh=[2], alpha=[0.1, 0.9])
    np.testing.assert_allclose(quantiles.to_numpy().ravel(), np.quantile(expected[:, 1], [0.1, 0.9]))
    adapted.update(y.iloc[80:], update_params=False)
    later = own.sample(table)["value"].to_numpy()[0, :, :, 0]
    np.testing.assert_allclose(adapted.predict(fh=[1]).to_numpy().ravel(), np.median(later, axis=0)[:1])
    with pytest.raises(ValueError, match="fh: expected steps of 1 to 4, got 5 to 5"):
        adapted.predict(fh=[5])


@pytest.mark.filterwarnings("ignore")
def test_gluonts_has_the_samples_of_each_series() -> None:
    pytest.importorskip("gluonts")
    from scidiff.timeseries.gluonts_adapter import GluonTSEstimator

    start = pd.Period("2000Q1", freq="Q")
    dataset = [{"start": start, "target": series() + k, "item_id": f"s{k}"} for k in range(2)]
    predictor = GluonTSEstimator(prediction_length=4, **SMALL).train(dataset)
    first, second = predictor.predict(dataset, num_samples=7)
    assert (first.samples.shape, str(first.start_date), second.item_id) == ((7, 4), "2022Q3", "s1")
    stamps = pd.period_range(start, periods=90, freq="Q").to_timestamp()
    table = pd.concat([pd.DataFrame({"id": f"s{k}", "time": stamps, "y0": series() + k}) for k in range(2)])
    expected = predictor.forecaster.sample(table, 7)["value"].to_numpy()
    np.testing.assert_array_equal(np.stack([first.samples, second.samples]), expected[..., 0])
    wide = {"start": start, "target": np.stack([series(), series()])}
    (several,) = GluonTSEstimator(prediction_length=4, **SMALL).train([wide]).predict([wide])
    assert several.samples.shape == (9, 4, 2)
