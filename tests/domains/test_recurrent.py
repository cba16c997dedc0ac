"""TimeGrad: what it tells in training is what it draws from, step by step, and nothing that came later is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.networks.recurrent import RecurrentNetwork
from scidiff.timeseries.forecast_fit import windows_of
from scidiff.timeseries.forecast_judge import examples
from scidiff.timeseries.forecast_model import STEP_TILE, draw
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import Horizons

RNG = np.random.default_rng(7)
HORIZON = 5


def walk(rows: int = 300) -> pd.DataFrame:
    """A random walk of a known step, daily: what it is tomorrow depends on today alone."""
    stamps = pd.date_range("2024-01-01", periods=rows)
    return pd.DataFrame({"time": stamps, "x": np.cumsum(RNG.normal(size=rows)), "y": RNG.normal(size=rows)})


@pytest.fixture(scope="module")
def fitted() -> tuple[DiffusionForecaster, Horizons]:
    table = walk()
    settings = {"horizon": HORIZON, "season": 7, "context": 28, "max_steps": 3, "seed": 2, "members": 1}
    forecaster = DiffusionForecaster(**settings, network="recurrent").fit(table)
    with torch.no_grad():  # far from the base, so that the state counts
        for parameter in forecaster.model_.members[0].denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    panel = read_frame(table)
    return forecaster, windows_of(panel, infer(panel), forecaster.model_.config)


def test_states_of_training_are_those_of_drawing(fitted: tuple[DiffusionForecaster, Horizons]) -> None:
    forecaster, windows = fitted
    (model,) = forecaster.model_.members
    network = model.denoiser.network
    assert isinstance(network, RecurrentNetwork)
    known = examples(model, windows[:6]).known
    with torch.no_grad():
        together = network.encode(known)
        state = network.start(known)
        for step in range(HORIZON):
            told = (known[name][:, step : step + 1] for name in ("base", "spread", "ahead"))
            outlook = network.look(state.unsqueeze(1), *told)
            torch.testing.assert_close(outlook.location[:, 0], together.location[:, step])
            torch.testing.assert_close(outlook.about[:, 0], together.about[:, step])
            state = network.advance(state, known["came"][:, step])


def test_a_step_is_told_what_came_before_it_and_nothing_later(fitted: tuple[DiffusionForecaster, Horizons]) -> None:
    forecaster, windows = fitted
    network = forecaster.model_.members[0].denoiser.network
    known = dict(examples(forecaster.model_.members[0], windows[:2]).known)
    with torch.no_grad():
        before = network.encode(known)  # type: ignore[operator]
        known["came"] = known["came"].clone()
        known["came"][:, 2] += 1.0
        after = network.encode(known)  # type: ignore[operator]
    moved = (before.about != after.about).any(-1).any(0)
    assert moved.tolist() == [False, False, False, True, True]


def test_draws_depend_on_what_was_drawn_before_and_not_on_their_number(
    fitted: tuple[DiffusionForecaster, Horizons], tmp_path: Path
) -> None:
    forecaster, windows = fitted
    many = draw(forecaster.model_.members[0], windows[:1], draws=STEP_TILE + 3, seed=5)
    np.testing.assert_array_equal(draw(forecaster.model_.members[0], windows[:1], draws=2, seed=5), many[:2])
    assert len(np.unique(many[:, 1, 0])) == STEP_TILE + 3
    forecaster.save(tmp_path / "model")
    back = DiffusionForecaster.load(tmp_path / "model")
    np.testing.assert_array_equal(draw(back.model_.members[0], windows[:1], draws=2, seed=5), many[:2])
    assert back.network == "recurrent"
