"""Draws of several series put together as their errors have been: cells stay as they are, sums become right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scidiff.timeseries.base import fit_base
from scidiff.timeseries.columns import Options
from scidiff.timeseries.conditioning import condition, shrunk_covariance
from scidiff.timeseries.coupling import coupled, error_correlation
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import horizons, origins
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.widening import PILOT

RNG = np.random.default_rng(17)
RHO = 0.8


def panel_of(x: np.ndarray) -> Panel:
    """Series [S, T]."""
    count, length = x.shape
    frame = {"id": np.repeat(np.arange(count), length), "time": np.tile(np.arange(length), count), "x": x.ravel()}
    return read_frame(pd.DataFrame(frame), Options())


def test_coupling_changes_no_cell_and_gives_the_covariance_that_it_says() -> None:
    steps = np.arange(4)
    within = 0.7 ** np.abs(steps[:, None] - steps)
    draws = RNG.normal(size=(2, 40 * PILOT, 4)) @ np.linalg.cholesky(within).T * np.array([1.0, 3.0])[:, None, None]
    told = np.array([[1.0, RHO], [RHO, 1.0]])
    found = coupled(draws[..., None], told, seed=1)[..., 0]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(draws, axis=1))
    joint = np.corrcoef(np.concatenate(list(found), axis=1).T)
    np.testing.assert_allclose(joint[:4, :4], within, atol=0.06)
    np.testing.assert_allclose(joint[:4, 4:], RHO * within, atol=0.08)
    few = coupled(draws[:, : 2 * PILOT, :, None], told, seed=1)[..., 0]
    np.testing.assert_array_equal(few, found[:, : 2 * PILOT])  # however many there are


@pytest.mark.parametrize("rho", [0.0, RHO])
def test_the_correlation_of_past_errors_is_found(rho: float) -> None:
    noise = RNG.normal(size=(2, 400))
    noise[1] = rho * noise[0] + (1 - rho**2) ** 0.5 * noise[1]
    panel = panel_of(np.tile([0.0, 5.0, 2.0, -3.0], 100) + noise)
    sizes = {"context": 24, "horizon": 4}
    base = fit_base(horizons(panel, infer(panel), *origins(panel, **sizes, most=999), **sizes), seasons=(4,))
    found = error_correlation(base, panel, infer(panel), np.array([400, 400]))
    assert np.diag(found) == pytest.approx(1.0)
    assert found[0, 1] == pytest.approx(rho, abs=0.15)
    short = np.array([30, 30])  # three origins only
    np.testing.assert_array_equal(error_correlation(base, panel, infer(panel), short), np.eye(2))


def test_parts_whose_errors_go_together_leave_their_sum_as_uncertain_as_it_is() -> None:
    # total and parts are forecast without bias, and with the errors that they really have
    parts = 1.0 * np.ones(2)
    total = float(np.sqrt(2 + 2 * RHO))
    std = np.array([total, *parts])
    truth = np.array([[1.0, *[(1 + RHO) / total] * 2], [(1 + RHO) / total, 1.0, RHO], [(1 + RHO) / total, RHO, 1.0]])
    draws = RNG.normal(size=(3, 10 * PILOT, 1, 1)) * std[:, None, None, None]
    row = np.array([[1.0, -1.0, -1.0]])
    spread = []
    for correlation in (truth, np.eye(3)):
        own = coupled(draws, correlation, seed=3)[:, :, 0, 0].T
        found = condition(own, shrunk_covariance(own), row, np.zeros(1))
        np.testing.assert_allclose(found @ row[0], 0.0, atol=1e-12)
        spread.append(found.std(0))
    np.testing.assert_allclose(spread[0], std, rtol=0.06)
    assert spread[1][0] < 0.75 * total  # independent witnesses
