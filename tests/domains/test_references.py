"""Series that all others attend to: the telling ones, nothing after the origin, and no other company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.errors import UserError
from scidiff.networks.forecast import Others
from scidiff.timeseries.columns import Options
from scidiff.timeseries.forecast_model import TILE
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.references import LAGS, chosen, told

DAYS = 90


def table(columns: dict[str, np.ndarray], first: str = "2024-01-01") -> pd.DataFrame:
    """A long table of daily series that begin together."""
    stamps = pd.date_range(first, periods=DAYS, freq="D")
    frames = [pd.DataFrame({"id": name, "timestamp": stamps[: len(x)], "x": x}) for name, x in columns.items()]
    return pd.concat(frames, ignore_index=True)


def panel_of(frame: pd.DataFrame) -> Panel:
    return read_frame(frame, Options())


def families(seed: int = 0) -> dict[str, np.ndarray]:
    """Two random walks, and four more series that each go with one of them."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, DAYS)).cumsum(1)
    noise = 0.3 * rng.normal(size=(4, DAYS))
    return {"a1": 2 * a + noise[0], "a": a, "b1": b + noise[1], "a2": a + noise[2], "b": -3 * b, "b2": b + noise[3]}


def test_the_series_that_tell_most_of_all_are_chosen_one_of_a_kind() -> None:
    assert set(chosen(panel_of(table(families())), 2)) == {"a", "b"}
    twins = {"x": families()["a"], "y": 5 * families()["a"]}
    assert len(chosen(panel_of(table(twins)), 2)) == 1  # the other has nothing to add
    with pytest.raises(UserError, match="expected several series"):
        chosen(panel_of(table({"x": families()["a"]})), 1)


def test_what_is_told_stops_at_the_origin_and_is_in_units_of_the_reference() -> None:
    series = families()
    panel, origin, length = panel_of(table(series)), 60, 20
    context = series["a1"][None, origin - length : origin, None]
    time = panel.times[0][[origin - 1]]
    found = told(panel, ["b", "a"], context, time, recent=5)
    assert found.shape == (1, 1, 2, 10 + len(LAGS))
    own = series["b"][origin - length : origin]
    np.testing.assert_allclose(np.sinh(found[0, 0, 0, :5]), ((own - own.mean()) / own.std())[-5:], rtol=1e-5)
    np.testing.assert_array_equal(found[0, 0, :, 5:10], 1.0)
    change, other = np.diff(context[0, :, 0]), np.diff(series["a"][origin - length : origin])
    assert found[0, 0, 1, 10] == pytest.approx(np.corrcoef(change, other)[0, 1], abs=1e-6)
    later = panel.value.copy()
    for first in panel.offsets[:-1]:
        later[first + origin : first + DAYS] = 1e6
    np.testing.assert_array_equal(told(replace(panel, value=later), ["b", "a"], context, time, recent=5), found)


def test_a_reference_that_runs_ahead_is_seen_to() -> None:
    a = np.random.default_rng(1).normal(size=DAYS).cumsum()
    panel = panel_of(table({"first": a, "second": np.append(0.0, a[:-1])}))
    found = told(panel, ["first"], panel.values[1][None, 30:60], panel.times[1][[59]], recent=5)[0, 0, 0]
    assert found[-1] > 0.85  # 1 but for the ends of the context
    assert abs(found[-2]) < 0.5


def test_a_reference_that_begins_late_is_told_as_far_as_it_goes() -> None:
    series = families()
    late = table({"late": series["b"][:30]}, first="2024-02-20")
    panel = panel_of(pd.concat([table({"a": series["a"]}), late], ignore_index=True))
    values = panel.values[0]
    found = told(panel, ["late"], np.stack([values[20:40], values[33:53]]), panel.times[0][[39, 52]], recent=5)
    assert not found[0].any()  # it begins on day 50
    np.testing.assert_array_equal(found[1, 0, 0, 5:10], [0, 0, 1, 1, 1])
    assert np.isfinite(found).all()


def test_attention_to_others_begins_with_nothing_and_reads_each_of_them() -> None:
    torch.manual_seed(0)
    layer, x, others = Others(3, 7, 16, 4), torch.randn(2, 1, 16), torch.randn(2, 1, 3, 7)
    assert not layer(x, others).any()
    torch.nn.init.normal_(layer.add.weight)
    before = layer(x, others)
    for k in range(3):
        moved = others.clone()
        moved[1, 0, k] += 1.0
        after = layer(x, moved)
        assert (after[0] == before[0]).all()
        assert (after[1] - before[1]).abs().max() > 1e-4
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        layer.which.copy_(layer.which[order])
    torch.testing.assert_close(layer(x, others[:, :, order]), before)


@pytest.fixture(scope="module")
def fitted() -> DiffusionForecaster:
    settings = {"horizon": 4, "context": 14, "season": 1, "references": 2, "members": 2, "max_steps": 3, "seed": 2}
    found = DiffusionForecaster(**settings, n_draws=3).fit(table(families()))
    for member in found.model_.members:
        for layer in (member.denoiser.network.others.add, member.denoiser.network.guess):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return found


def test_a_draw_depends_on_the_references_and_on_no_other_series(fitted: DiffusionForecaster) -> None:
    panel = panel_of(table(families()))
    names = list(map(str, panel.ids))
    assert set(fitted.model_.config.references) == {"a", "b"}
    among = fitted.forecast_panel(panel, samples=TILE + 2).draws
    few = panel.select([names.index(name) for name in ("b", "a2", "a")])
    np.testing.assert_array_equal(fitted.forecast_panel(few, samples=3).draws[1], among[names.index("a2"), :3])
    value = panel.value.copy()
    last = panel.offsets[names.index("b") + 1] - 1
    value[last] += 5.0
    moved = fitted.forecast_panel(replace(panel, value=value), samples=3).draws
    assert (moved[names.index("a2")] != among[names.index("a2"), :3]).all()
    with pytest.raises(UserError, match="expected the series a in the table"):
        fitted.forecast_panel(panel.select([names.index("b")]))


def test_new_series_attend_too_and_the_model_comes_back_from_disk(fitted: DiffusionForecaster, tmp_path: Path) -> None:
    series = families()
    new = table({"new": series["a1"][::-1].copy(), "a": series["a"], "b": series["b"]})
    fitted.save(tmp_path / "model")
    back = DiffusionForecaster.load(tmp_path / "model", seed=2, n_draws=3)
    assert back.references == 2
    np.testing.assert_array_equal(back.sample(new)["value"], fitted.sample(new)["value"])
    with pytest.raises(ValueError, match="references: expected 0 or more, and 0 of a recurrent network"):
        DiffusionForecaster(horizon=4, references=2, network="recurrent").fit(new)


@pytest.mark.slow
def test_a_series_that_follows_another_is_forecast_by_it() -> None:
    """x_t = leader_(t-1), so that the next value is known, and nothing in the follower's own past tells it."""
    rng = np.random.default_rng(3)
    leader = rng.normal(size=600)
    stamps = pd.date_range("2024-01-01", periods=600, freq="D")
    frame = pd.concat(
        [
            pd.DataFrame({"id": "leader", "timestamp": stamps, "x": leader}),
            pd.DataFrame({"id": "follower", "timestamp": stamps, "x": np.append(0.0, leader[:-1])}),
        ]
    )
    panel, error = panel_of(frame), {}
    for references in (0, 2):
        settings = {"horizon": 2, "context": 14, "season": 1, "references": references, "max_steps": 400, "seed": 1}
        forecaster = DiffusionForecaster(**settings).fit(frame[frame["timestamp"] < stamps[560]])
        ends = np.array([[end, end] for end in range(560, 598)])
        draws = [np.median(forecaster.forecast_panel(panel, samples=50, origins=end).draws[1, :, 0, 0]) for end in ends]
        truth = panel.values[1][ends[:, 1], 0]
        error[references] = float(np.abs(draws - truth).mean())
    assert error[2] < 0.4 * error[0]
