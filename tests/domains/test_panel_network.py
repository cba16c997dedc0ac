"""The panel network: nothing hidden leaks, padding counts for nothing, its coordinates invert."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from imputers import L, S, V, configuration, shaken, standardised
from scipy import integrate, stats

from scidiff.networks.neighbours import neighbours
from scidiff.noise import Noise
from scidiff.timeseries.batches import LEAF, PanelBatches, Standardised, series
from scidiff.timeseries.draws import draw, encode
from scidiff.timeseries.masks import PATTERNS, hide
from scidiff.timeseries.model import crps_normal, imputation_loss

CONFIG = configuration(row_width=16, row_depth=1)


@pytest.fixture(scope="module")
def data():
    return standardised()


@pytest.fixture(scope="module")
def model():
    return shaken(CONFIG)


def _hidden(data):
    return hide(data.observed, data.observed.roll(1, 0), Noise(seed=3, index=torch.arange(S)), mixture={"random": 1.0})


def test_neighbours_against_a_loop(data):
    found = neighbours(data.values, data.observed, data.times)
    for s in range(S):
        for v in range(V):
            known = [row for row in range(L) if data.observed[s, row, v]]
            for row in range(L):
                t = data.times[s].double().numpy()
                others = [k for k in known if k != row]
                expected = 0.0
                if others:
                    expected = np.interp(t[row], t[others], data.values[s, others, v].double().numpy())
                assert float(found.between[s, row, v]) == pytest.approx(expected, abs=1e-5)


def test_hidden_values_do_not_leak(data, model):
    hidden = _hidden(data)
    visible = data.observed & ~hidden
    other = replace(data, values=torch.where(visible, data.values, 1e3 * torch.ones(())))
    one = model.denoiser.network.encode(series(data, visible=visible, asked=hidden))
    two = model.denoiser.network.encode(series(other, visible=visible, asked=hidden))
    assert hidden.any()
    assert torch.equal(one.location, two.location)
    assert torch.equal(one.send, two.send)


def test_a_cell_that_is_asked_for_does_not_change_another(data, model):
    hidden = _hidden(data)
    visible = data.observed & ~hidden
    fewer = hidden.clone()
    place = tuple(torch.nonzero(hidden)[0].tolist())
    fewer[place] = False
    one = model.denoiser.network.encode(series(data, visible=visible, asked=hidden))
    two = model.denoiser.network.encode(series(data, visible=visible, asked=fewer))
    torch.testing.assert_close(one.location[fewer], two.location[fewer])
    assert two.location[place] == 0


def test_known_values_matter(data, model):
    hidden = _hidden(data)
    visible = data.observed & ~hidden
    other = replace(data, values=data.values + visible * 0.5)
    one = model.denoiser.network.encode(series(data, visible=visible, asked=hidden))
    two = model.denoiser.network.encode(series(other, visible=visible, asked=hidden))
    assert (one.location - two.location).abs().max() > 0.1


def test_padded_rows_and_cells_count_for_nothing(data, model):
    hidden = _hidden(data)
    visible = data.observed & ~hidden
    padded = Standardised(
        values=torch.cat([data.values, torch.full((S, 3, V), 9.0)], 1),
        observed=torch.cat([data.observed, torch.zeros(S, 3, V, dtype=torch.bool)], 1),
        times=torch.cat([data.times, data.times[:, -1:].expand(S, 3)], 1),
        rows=torch.cat([data.rows, torch.zeros(S, 3, dtype=torch.bool)], 1),
        static=data.static,
    )
    more = torch.zeros(S, 3, V, dtype=torch.bool)
    x, t = torch.randn(S, L, V, generator=torch.Generator().manual_seed(1)), torch.full((S,), 0.4)
    outputs = []
    for these, rows in ((data, L), (padded, L + 3)):
        shown, asked = (visible, hidden) if rows == L else (torch.cat([m, more], 1) for m in (visible, hidden))
        context = model.denoiser.network.encode(series(these, visible=shown, asked=asked))
        noisy = torch.cat([x, torch.randn(S, rows - L, V)], 1)
        outputs.append(model.denoiser.network({LEAF: noisy}, t, None, context)[LEAF][:, :L][hidden])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    assert outputs[0].std() > 0


def test_noisy_cells_of_a_series_speak_to_each_other(data, model):
    hidden = _hidden(data)
    context = model.denoiser.network.encode(series(data, visible=data.observed & ~hidden, asked=hidden))
    x, t = torch.zeros(S, L, V), torch.full((S,), 0.4)
    place = torch.nonzero(hidden)[0]
    moved = x.clone()
    moved[tuple(place)] = 1.0
    one, two = (model.denoiser.network({LEAF: noisy}, t, None, context)[LEAF] for noisy in (x, moved))
    change = (one - two).abs() * hidden
    assert change[int(place[0])].flatten().topk(2).values[1] > 1e-4
    assert change[torch.arange(S) != place[0]].max() == 0


def test_draws_of_one_series_stand_side_by_side(data, model):
    hidden = _hidden(data)
    context = model.denoiser.network.encode(series(data, visible=data.observed & ~hidden, asked=hidden))
    x = torch.randn(2 * S, L, V, generator=torch.Generator().manual_seed(2))
    t = torch.linspace(0.2, 0.9, 2 * S)
    both = model.denoiser.network({LEAF: x}, t, None, context.repeat(2))[LEAF]
    for k in range(2):
        one = model.denoiser.network({LEAF: x[k::2]}, t[k::2], None, context)[LEAF]
        torch.testing.assert_close(both[k::2], one, rtol=1e-4, atol=1e-5)


def test_coordinates_invert(data, model):
    context = model.denoiser.network.encode(series(data, visible=data.observed, asked=~data.observed)).repeat(2)
    x = 30 * torch.randn(2 * S, L, V, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(context.restore(context.standardise(x)), x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("x", "mean", "std"), [(0.3, -0.2, 0.7), (5.0, 0.0, 1.0), (0.0, 0.0, 2.0)])
def test_crps_of_a_normal_by_quadrature(x, mean, std):
    def squared(z):
        return (stats.norm.cdf(z, mean, std) - (z >= x)) ** 2

    expected = integrate.quad(squared, mean - 12 * std, x)[0] + integrate.quad(squared, x, max(x, mean) + 12 * std)[0]
    found = crps_normal(*(torch.tensor(value, dtype=torch.float64) for value in (x, mean, std)))
    assert float(found) == pytest.approx(expected, abs=1e-7)


def test_loss_of_each_series_is_its_own(data, model):
    hidden = _hidden(data)
    batches = PanelBatches(data, size=S)
    batch = batches.at(4)
    noise = Noise(seed=0, index=batch.index)
    with torch.no_grad():
        whole = imputation_loss(
            model.denoiser, model.processes, batch.x_0, batch.layout, noise, condition=batch.condition
        )
        first = batch.shard(0, S)
        alone = imputation_loss(
            model.denoiser, model.processes, first.x_0, first.layout, Noise(seed=0, index=first.index),
            condition=first.condition,
        )  # fmt: skip
    torch.testing.assert_close(whole[:1], alone, rtol=1e-4, atol=1e-5)
    assert hidden.any()


def test_batches_show_what_they_do_not_ask_for(data):
    batches = PanelBatches(data, size=2, seed=1)
    for position in range(4):
        batch = batches.at(position)
        again = PanelBatches(data, size=2, seed=1).at(position)
        hidden = batch.layout.rows(LEAF).mask
        assert torch.equal(hidden, again.layout.rows(LEAF).mask)
        assert not (hidden & batch.condition["visible"]).any()
        assert (batch.condition["values"][hidden] == 0).all()


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_patterns_hide_observed_cells_alone(name):
    observed = torch.rand(400, 9, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    other = torch.rand(400, 9, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    hidden = hide(observed, other, Noise(seed=1, index=torch.arange(400)), mixture={name: 1.0})
    again = hide(observed[5:9], other[5:9], Noise(seed=1, index=torch.arange(5, 9)), mixture={name: 1.0})
    assert not (hidden & ~observed).any()
    assert torch.equal(hidden[5:9], again)
    assert 0.15 < hidden.sum() / observed.sum() < 0.65
    gone = hidden | ~observed
    if name == "variable":
        assert (hidden.any(1) == (hidden.any(1) & gone.all(1))).all()
    if name == "forecast":
        assert (hidden.any(2) <= torch.cummin(gone.all(2).flip(1).int(), 1).values.flip(1).bool()).all()
    if name == "historical":
        assert torch.equal(hidden, observed & ~other)


def test_a_draw_is_a_function_of_seed_series_and_draw(data, model):
    one = data[slice(0, 1)]
    hidden = ~one.observed
    context = encode(model, one, visible=one.observed, asked=hidden)
    many = draw(model, context, draws=23, seed=5, number=7)
    assert many.shape == (23, L, V)
    assert torch.equal(draw(model, context, draws=4, seed=5, number=7), many[:4])
    assert not torch.equal(draw(model, context, draws=4, seed=5, number=8), many[:4])
    assert not torch.equal(draw(model, context, draws=4, seed=6, number=7), many[:4])
    assert (many[:, hidden[0]].std(0) > 0).all()
