"""Draws that keep rules: certified, and conditioned rather than merely moved."""

import numpy as np
import pytest
import torch

from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.constrained import constrained_draws
from scidiff.timeseries.draws import draw, encode
from scidiff.timeseries.model import ImputerConfig, ImputerModel
from scidiff.timeseries.restriction import restrict
from scidiff.timeseries.rules import Rules, terms

NAMES, MEANS, STDS = ("a", "b", "c"), (50.0, 70.0, 7.4), (10.0, 12.0, 0.1)
L = 8


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(1)
    config = ImputerConfig(
        variables=NAMES, means=MEANS, stds=STDS, width=16, depth=1, heads=2, row_width=16, row_depth=1
    )
    model = ImputerModel.create(config)
    random = np.random.default_rng(0)
    observed = random.random((L, 3)) < 0.3
    z = random.standard_normal((L, 3))
    data = Standardised(
        values=torch.tensor(np.where(observed, z, 0), dtype=torch.float32)[None],
        observed=torch.tensor(observed)[None],
        times=torch.arange(L, dtype=torch.float32)[None],
        rows=torch.ones(1, L, dtype=torch.bool),
        static=torch.zeros(1, 0, 2),
    )
    context = encode(model, data, visible=data.observed, asked=~data.observed)
    return model, context, np.where(observed, np.array(MEANS) + np.array(STDS) * z, np.nan)


def _restriction(values, content):
    asked = np.isnan(values)
    stated = terms(Rules.parse(content, "rules"), NAMES, np.arange(L, dtype=float), np.ones_like(asked))
    return restrict(stated, values=values, asked=asked, stds=np.array(STDS)), asked


def test_draws_hold_in_the_units_of_the_table(setting):
    model, context, values = setting
    rules = {"bounds": {"a": [45, 60], "c": [7.3, None]}, "rates": {"b": {"change": 40.0, "per": 1}}}
    restriction, asked = _restriction(values, rules)
    drawn, violation = constrained_draws(model, context, restriction, draws=13, seed=1, number=2)
    assert drawn.shape == (13, L, 3)
    assert (violation == 0).all()
    a, b, c = (drawn[:, :, k].numpy() for k in range(3))
    assert (a[:, asked[:, 0]] >= 45).all()
    assert (a[:, asked[:, 0]] <= 60).all()
    assert (c[:, asked[:, 2]] >= 7.3).all()
    whole = np.where(asked[:, 1], b, values[:, 1])
    assert (np.abs(np.diff(whole, axis=1)) <= 40 + 1e-9).all()
    assert a[:, asked[:, 0]].std(0).min() > 0


def test_rules_that_hold_anyway_change_nothing(setting):
    model, context, values = setting
    restriction, _ = _restriction(values, {"bounds": {"a": [-1e6, 1e6]}})
    drawn, violation = constrained_draws(model, context, restriction, draws=5, seed=1, number=2)
    free = draw(model, context, draws=5, seed=1, number=2)
    expected = torch.tensor(MEANS, dtype=torch.float64) + torch.tensor(STDS, dtype=torch.float64) * free.double()
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-3)
    assert (violation == 0).all()


def test_what_cannot_hold_is_certified_as_violated(setting):
    model, context, values = setting
    values = values.copy()
    row = int(np.flatnonzero(np.isnan(values[:, 0]) & ~np.isnan(values[:, 1]))[0])
    values[row, 1] = 40.0
    restriction, _ = _restriction(values, {"order": [["a", "b"]], "bounds": {"a": [45, None]}})
    assert restriction.contradictory == (f"row {row + 1}: a >= 45 and a <= b",)
    _, violation = constrained_draws(model, context, restriction, draws=3, seed=1, number=2)
    assert (violation > 0).all()
