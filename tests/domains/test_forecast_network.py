"""Variables that are forecast together: their order says nothing, and their draws go together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from scidiff.networks.forecast import ForecastNetwork, Outlook
from scidiff.state import Layout
from scidiff.timeseries.ensemble import Ensemble
from scidiff.timeseries.forecaster import DiffusionForecaster
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.metrics import energy_score
from scidiff.weights import WeightsError

S, V, R, H, F, DRAWS = 2, 4, 6, 19, 5, 3


def network(variables: int = V) -> ForecastNetwork:
    """With weights far from the first ones, which are 0 where it ends."""
    torch.manual_seed(0)
    found = ForecastNetwork(leaf="x", variables=variables, recent=R, features=F, horizon=H, hidden=16, width=16)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return found.eval()


def known(seed: int = 1) -> dict[str, torch.Tensor]:
    shapes = {"recent": (S, V, R), "ahead": (S, V, H, F), "base": (S, H, V), "spread": (S, H, V)}
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "spread": found["spread"].exp()}


@torch.no_grad()
def outputs(model: ForecastNetwork, told: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[Outlook, torch.Tensor]:
    outlook = model.encode(told).repeat(DRAWS)
    t = torch.linspace(0.1, 0.9, S * DRAWS)
    return outlook, model({"x": x}, t, Layout.dense(S * DRAWS, {"x": x.shape[1:]}), outlook)["x"]


def noisy() -> torch.Tensor:
    return torch.randn(S * DRAWS, H, V, generator=torch.Generator().manual_seed(2))


def test_variables_in_another_order_are_the_same_variables() -> None:
    model, told, x = network(), known(), noisy()
    outlook, out = outputs(model, told, x)
    order = torch.tensor([2, 0, 3, 1])
    moved = {name: value[:, order] if value.shape[1] == V else value[:, :, order] for name, value in told.items()}
    with torch.no_grad():
        model.variable.copy_(model.variable[order])
    permuted, again = outputs(model, moved, x[:, :, order])
    for name in ("location", "scale"):
        torch.testing.assert_close(getattr(permuted, name), getattr(outlook, name)[:, :, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, out[:, :, order], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model.variable.copy_(model.variable.roll(1, 0))  # each is told apart
    assert float((outputs(model, moved, x[:, :, order])[1] - again).abs().max()) > 1e-2


def test_a_guess_reads_its_own_variable_and_a_denoised_token_all_of_them() -> None:
    model, told, x = network(), known(), noisy()
    outlook, out = outputs(model, told, x)
    recent, base = told["recent"].clone(), told["base"].clone()
    recent[0, 1] += 1.0
    base[1, 5, 2] += 1.0
    moved = outputs(model, {**told, "recent": recent, "base": base}, x)[0].location != outlook.location
    assert moved[0].all(0).tolist() == [v == 1 for v in range(V)]
    assert moved[0].any(0).tolist() == [v == 1 for v in range(V)]
    assert moved[1].nonzero().tolist() == [[5, 2]]
    x[4, -1, 2] += 1.0
    changed = outputs(model, told, x)[1] != out
    assert changed[4].all()
    assert not changed[torch.arange(S * DRAWS) != 4].any()


def test_the_loss_of_the_denoiser_does_not_move_the_first_guess() -> None:
    model, x = network(), noisy()
    outlook = model.encode(known()).repeat(DRAWS)
    t = torch.linspace(0.1, 0.9, S * DRAWS)
    model({"x": x}, t, Layout.dense(S * DRAWS, {"x": x.shape[1:]}), outlook)["x"].square().sum().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("recent", "ahead", "mix", "guess", "variable")) for name in moved)
    assert "project.weight" in moved


def test_one_variable_needs_no_embedding() -> None:
    one, several = (dict(network(variables).named_parameters()) for variables in (1, V))
    assert set(several) - set(one) == {"variable"}


def pair(rows: int = 24 * 25) -> pd.DataFrame:
    """Two series, one of which goes up as the other goes down, hourly: their errors have the correlation -0.99."""
    rng = np.random.default_rng(5)
    both = np.sin(2 * np.pi * np.arange(rows) / 24) + rng.normal(size=rows)
    own = 0.1 * rng.normal(size=(2, rows))
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    return pd.DataFrame({"time": stamps, "a": both + own[0], "b": 20 - 5 * (both + own[1])})


def test_weights_of_other_sizes_are_refused_in_one_line(tmp_path: Path) -> None:
    model = DiffusionForecaster(horizon=6, season=24, context=48, max_steps=1, members=1).fit(pair()).model_
    other = replace(model.config, variables=("a", "b", "c"))
    replace(model, members=tuple(replace(one, config=other) for one in model.members)).save(tmp_path)
    with pytest.raises(WeightsError, match="expected weights of a forecaster, got others") as caught:
        Ensemble.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_draws_of_variables_that_go_together_go_together() -> None:
    table, horizon = pair(), 12
    forecaster = DiffusionForecaster(horizon=horizon, season=24, context=48, max_steps=400, members=1, seed=1).fit(
        table[:-120]
    )
    panel, event = read_frame(table), np.zeros(2 * horizon)
    gains, correlations = [], []
    for end in range(len(table) - 120, len(table), horizon):
        draws = forecaster.forecast_panel(panel, origins=np.array([end]), samples=100).draws[0] / [1, 5]
        truth = table[["a", "b"]].to_numpy()[end : end + horizon].ravel() / np.tile([1, 5], horizon)
        apart = np.stack([draws[..., 0], np.roll(draws[..., 1], 1, axis=0)], axis=-1)
        joint_score, apart_score = (energy_score(x.reshape(100, -1), truth, event)[0] for x in (draws, apart))
        gains.append(apart_score - joint_score)
        correlations.append(np.corrcoef((draws - draws.mean(0)).reshape(-1, 2).T)[0, 1])
    assert np.mean(correlations) < -0.5
    assert np.mean(gains) > 2 * np.std(gains) / len(gains) ** 0.5
