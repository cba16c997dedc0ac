"""How errors go together: found where windows tell it, none where they do not, and always a correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scidiff.timeseries.base import fit_base
from scidiff.timeseries.columns import Options
from scidiff.timeseries.correlation import apart, over_horizons
from scidiff.timeseries.forecast_model import ForecastConfig, ForecastModel, draw
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import horizons, origins
from scidiff.timeseries.panel import Panel

STEPS = np.arange(5)
ROWS = 0.8 ** np.abs(STEPS[:, None] - STEPS)
COLUMNS = np.array([[1.0, -0.6], [-0.6, 1.0]])


def errors(count: int, *, missing: float = 0.0) -> np.ndarray:
    """Of a Gaussian process of two variables: [count, 5, 2]."""
    rng = np.random.default_rng(4)
    white = rng.normal(size=(count, 5, 2))
    found = np.linalg.cholesky(ROWS) @ white @ np.linalg.cholesky(COLUMNS).T
    return np.where(rng.random(found.shape) < missing, np.nan, found)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_covariance_of_a_gaussian_process_is_found_from_many_windows(missing: float) -> None:
    steps, variables = over_horizons(errors(4000, missing=missing), independent=4000)
    np.testing.assert_allclose(steps, 0.95 * ROWS + 0.05 * np.eye(5), atol=0.05)
    np.testing.assert_allclose(variables, 0.95 * COLUMNS + 0.05 * np.eye(2), atol=0.05)


def test_few_windows_tell_little() -> None:
    def size(independent: int) -> float:
        return float(np.abs(over_horizons(errors(200), independent=independent)[0] - np.eye(5)).sum())

    assert size(1) == 0
    assert 0 < size(3) < 0.8 * size(200)


@given(
    arrays(np.float64, (3, 4, 2), elements=st.floats(-1e9, 1e9) | st.just(np.nan)),
    st.integers(1, 1000),
)
def test_whatever_the_errors_are_their_correlation_is_one(error: np.ndarray, independent: int) -> None:
    for found in over_horizons(error, independent=independent):
        np.testing.assert_allclose(np.diag(found), 1.0, rtol=1e-9)
        np.testing.assert_allclose(found, found.T, atol=1e-12)
        assert np.linalg.eigvalsh(found).min() > 0.04


def walks(rows: int = 1500) -> Panel:
    """Two random walks that go the same way, daily."""
    step = np.random.default_rng(6).normal(size=(rows, 2)) @ np.linalg.cholesky(np.array([[1, 0.8], [0.8, 1]])).T
    stamps = pd.date_range("2024-01-01", periods=rows, freq="D")
    return read_frame(pd.DataFrame({"time": stamps, "a": step[:, 0].cumsum(), "b": step[:, 1].cumsum()}), Options())


def test_windows_that_share_a_step_count_once() -> None:
    panel, sizes = walks(100), {"context": 20, "horizon": 10}
    every = horizons(panel, infer(panel), *origins(panel, **sizes, most=999), **sizes)
    assert len(every) == 71
    assert apart(every) == 8


def test_draws_of_an_untrained_model_go_together_as_errors_of_the_base_have() -> None:
    """Of random walks Corr[x_h, x_k] = sqrt(h / k), and 0.8 of that between the two."""
    panel, sizes = walks(), {"context": 20, "horizon": 4}
    windows = horizons(panel, infer(panel), *origins(panel, **sizes, most=9999), **sizes)
    base = fit_base(windows, seasons=(1,))
    config = ForecastConfig(variables=("a", "b"), season=1, frequency="D", **sizes)
    model = ForecastModel.create(config, base)
    draws = draw(model, windows[-1:], draws=2000, seed=1, steps=3)
    ahead = np.arange(1.0, 5.0)
    ratio = ahead[:, None] / ahead
    steps, variables = np.sqrt(np.minimum(ratio, 1 / ratio)), np.array([[1.0, 0.8], [0.8, 1.0]])
    expected = np.kron(0.95 * steps + 0.05 * np.eye(4), 0.95 * variables + 0.05 * np.eye(2))
    np.testing.assert_allclose(np.corrcoef(draws.reshape(2000, -1).T), expected, atol=0.1)
