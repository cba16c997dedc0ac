"""An ensemble is the mixture of its members: which draw is whose, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.errors import UserError
from scidiff.timeseries import forecast_model
from scidiff.timeseries.covariates import NONE
from scidiff.timeseries.ensemble import Ensemble, draw
from scidiff.timeseries.forecast_fit import PARTS, _split, learn, sizes, windows_of
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.frequency import infer
from scidiff.timeseries.horizons import Horizons

RNG = np.random.default_rng(11)
SETTINGS = {"horizon": 3, "season": 7, "context": 21}


def table(rows: int = 120) -> pd.DataFrame:
    stamps = pd.date_range("2024-01-01", periods=rows)
    return pd.DataFrame({"time": stamps, "x": 20 + np.arange(rows) % 7 + RNG.normal(size=rows)})


@pytest.fixture(scope="module")
def trained() -> tuple[Ensemble, Horizons]:
    panel = read_frame(table())
    config = sizes(panel, infer(panel), NONE, network="patches", **SETTINGS)
    found = learn(panel, infer(panel), config, seconds=60, max_steps=2, members=3, seed=5)
    with torch.no_grad():  # further from the base than two steps of training go, and each elsewhere
        for k, member in enumerate(found.model.members):
            for parameter in member.denoiser.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k)))
    return found.model, windows_of(panel, infer(panel), config)


def test_draw_k_is_of_member_k_mod_m_whatever_their_number(trained: tuple[Ensemble, Horizons]) -> None:
    ensemble, windows = trained
    draws = draw(ensemble, windows[:1], draws=14, seed=2**64 - 1)
    assert len(np.unique(draws[:, 0, 0])) == 14
    for count in (1, 2, 7):
        np.testing.assert_array_equal(draw(ensemble, windows[:1], draws=count, seed=2**64 - 1), draws[:count])
    first = forecast_model.draw(ensemble.members[0], windows[:1], draws=5, seed=2**64 - 1)
    np.testing.assert_array_equal(draws[::3], first)
    changed = replace(ensemble, members=(*ensemble.members[:2], ensemble.members[0]))
    moved = (draw(changed, windows[:1], draws=14, seed=2**64 - 1) != draws).all((1, 2))
    np.testing.assert_array_equal(np.flatnonzero(moved), [2, 5, 8, 11])


def test_members_have_noise_and_weights_of_their_own(trained: tuple[Ensemble, Horizons]) -> None:
    ensemble, windows = trained
    same = replace(ensemble, members=(ensemble.members[0],) * 3)
    draws = draw(same, windows[:1], draws=300, seed=0)[:, :, 0]
    own = [draws[k::3] - draws[k::3].mean(0) for k in range(3)]
    for k in range(3):
        between = np.corrcoef(own[k].ravel(), own[(k + 1) % 3].ravel())[0, 1]
        assert abs(between) < 0.25  # 300 numbers; 1 if they shared their noise
    states = [member.denoiser.state_dict() for member in ensemble.members]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_training_is_kept_where_it_surely_helps_and_nowhere_else() -> None:
    told = RNG.normal(size=240)
    stamps = pd.date_range("2024-01-01", periods=240)
    noise = 0.1 * RNG.normal(size=240)
    settings = {**SETTINGS, "time": "time", "target": "x", "max_steps": 60, "members": 2, "seed": 3}
    clear = pd.DataFrame({"time": stamps, "x": 3 * told + noise, "told": told})
    training = DiffusionForecaster(**settings, future_covariates=("told",)).fit(clear).model_.card["training"]
    assert min(training["steps"]) > 0
    assert training["held_out_crps"] < 0.9 * training["held_out_crps_before"]
    short = clear[:60]  # its last windows are of two periods
    training = DiffusionForecaster(**settings, future_covariates=("told",)).fit(short).model_.card["training"]
    assert training["steps"] == (0, 0)
    assert training["held_out_crps"] == training["held_out_crps_before"]


def test_members_are_judged_by_windows_of_other_times_that_they_have_not_seen() -> None:
    panel = read_frame(table(200))
    config = sizes(panel, infer(panel), NONE, network="patches", **SETTINGS)
    windows, ends = windows_of(panel, infer(panel), config), []
    for part in range(PARTS):
        early, held = _split(windows, part)
        ends += [(windows.origin[held].min(), windows.origin[held].max())]
        apart = np.abs(windows.origin[early][:, None] - windows.origin[held])
        assert apart.min() >= SETTINGS["horizon"]  # no horizon is shared
        assert len(early) > 0.7 * len(windows)
    assert ends[0][1] == windows.origin.max()
    for later, earlier in pairwise(ends):
        assert earlier[1] < later[0] <= earlier[1] + 2


def test_an_ensemble_comes_back_from_disk(trained: tuple[Ensemble, Horizons], tmp_path: Path) -> None:
    ensemble, windows = trained
    ensemble.save(tmp_path / "model")
    back = Ensemble.load(tmp_path / "model")
    assert len(back.members) == 3
    assert (back.base.trust, back.base.recorded) == (ensemble.base.trust, True)
    assert len(back.card["training"]["steps"]) == 3
    same = {"draws": 7, "seed": 1}
    np.testing.assert_array_equal(draw(back, windows[:1], **same), draw(ensemble, windows[:1], **same))


def test_an_ensemble_has_one_member_at_least() -> None:
    with pytest.raises(UserError, match="members: expected at least 1, got 0"):
        DiffusionForecaster(**SETTINGS, members=0).check()
    with pytest.raises(ValueError, match="at least one member, got none"):
        Ensemble(members=())
