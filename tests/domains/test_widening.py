"""Ensembles that are too narrow or too wide come to hold, and nothing else about them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scidiff.errors import UserError
from scidiff.timeseries import metrics
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.widening import LEVELS, PILOT, fit

RNG = np.random.default_rng(11)
SCALE = np.array([1.0, 2.0, 4.0])[:, None]  # by step


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_intervals_of_new_windows_hold_after_calibration(wrong: float) -> None:
    def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
        centre = 10 * RNG.normal(size=(count, 3, 2))
        x = centre + SCALE * np.array([1, -1]) * (RNG.exponential(size=(count, 3, 2)) - 1)
        draws = centre[:, None] + wrong * SCALE * np.array([1, -1]) * (RNG.exponential(size=(count, 200, 3, 2)) - 1)
        return draws, x

    found = fit(*windows(1500), np.arange(1500.0))
    draws, x = windows(400)
    wide = np.stack([found(own, own[:PILOT]) for own in draws])
    for level in (0.8, 0.95):
        assert metrics.covered(np.moveaxis(wide, 1, 0).reshape(200, -1), x.ravel(), level).mean() == pytest.approx(
            level, abs=0.025
        )
    np.testing.assert_array_equal(np.argsort(wide, axis=1), np.argsort(draws, axis=1))
    np.testing.assert_allclose(np.median(wide, 1), np.median(draws, 1), rtol=1e-12, atol=0.05)
    assert found.after[1] == pytest.approx(0.8, abs=0.02)
    assert abs(found.before[1] - 0.8) > 0.08


def test_what_is_right_already_is_left_alone_and_too_few_windows_are_refused() -> None:
    draws, x = RNG.normal(size=(500, 200, 4, 1)), RNG.normal(size=(500, 4, 1))
    found = fit(draws, x, np.arange(500.0))
    assert np.array(found.factors) == pytest.approx(np.ones((1, len(LEVELS))), abs=0.08)
    with pytest.raises(UserError, match="at least 19 past windows that training left out, got 18"):
        fit(draws[:18], x[:18], np.arange(18.0))


def test_few_periods_say_little_of_those_to_come() -> None:
    draws, x = RNG.normal(size=(400, 200, 2, 1)), 2 * RNG.normal(size=(400, 2, 1))
    found = {count: np.array(fit(draws, x, np.arange(400.0) % count).factors) for count in (1, 20, 400)}
    assert found[1] == pytest.approx(np.full((1, 3), 2 ** (1 / 21)), rel=0.02)
    assert found[20] == pytest.approx(np.full((1, 3), 2**0.5), rel=0.1)
    assert found[400] == pytest.approx(np.full((1, 3), 2 ** (400 / 420)), rel=0.15)


def test_a_calibrated_forecaster_comes_back_from_disk_and_its_draws_do_not_depend_on_their_number(
    tmp_path: Path,
) -> None:
    stamps = pd.date_range("2024-01-01", periods=400, freq="h")
    table = pd.DataFrame({"timestamp": stamps, "x": np.sin(np.arange(400) * np.pi / 12) + RNG.normal(size=400)})
    settings = {"horizon": 6, "season": 24, "context": 48, "max_steps": 1, "members": 1, "steps": 2}
    made = DiffusionForecaster(**settings, calibrate=True).fit(table)
    few, many = (made.sample(table, count)["value"].to_numpy() for count in (3, 230))
    np.testing.assert_array_equal(few, many[:, :3])
    made.save(tmp_path / "model")
    back = DiffusionForecaster.load(tmp_path / "model", steps=2)
    assert back.widening() == made.widening()
    np.testing.assert_array_equal(back.sample(table, 3)["value"], few)
    plain = DiffusionForecaster(**settings).fit(table).sample(table, 3)["value"].to_numpy()
    assert np.abs(plain - few).max() > 1e-3
