"""The network of CSDI: nothing hidden leaks, padding counts for nothing, what is known is read once a series."""

import copy
from dataclasses import replace

import pytest
import torch
from imputers import L, S, V, configuration, shaken, standardised

from scidiff.noise import Noise
from scidiff.objective import stratified
from scidiff.state import Layout
from scidiff.timeseries.batches import LEAF, PanelBatches, Standardised, series
from scidiff.timeseries.draws import draw, encode
from scidiff.timeseries.model import ImputerModel, imputation_loss

CONFIG = configuration(network="csdi")


@pytest.fixture(scope="module")
def data():
    return standardised()


@pytest.fixture(scope="module")
def model():
    return shaken(CONFIG)


@pytest.fixture(scope="module")
def hidden(data):
    coin = torch.rand(data.observed.shape, generator=torch.Generator().manual_seed(3))
    return data.observed & (coin < 0.5)


def _output(model, data, hidden, x, t, *, draws=1):
    context = model.denoiser.network.encode(series(data, visible=data.observed & ~hidden, asked=hidden))
    return model.denoiser.network({LEAF: x}, t, None, context.repeat(draws))[LEAF]


def _noisy(count=S, seed=1):
    return torch.randn(count, L, V, generator=torch.Generator().manual_seed(seed)), torch.linspace(0.2, 0.9, count)


def test_hidden_values_and_cells_not_asked_for_do_not_leak(data, model, hidden):
    x, t = _noisy()
    visible = data.observed & ~hidden
    other = replace(data, values=torch.where(visible, data.values, 1e3 * torch.ones(())))
    one = _output(model, data, hidden, x, t)
    two = _output(model, other, hidden, torch.where(hidden, x, 77.0), t)
    assert hidden.any()
    assert torch.equal(one, two)
    assert (one[~hidden] == 0).all()
    assert one[hidden].std() > 0.1


@pytest.mark.parametrize("what", ["values", "times", "static"])
def test_what_is_known_matters(data, model, hidden, what):
    x, t = _noisy()
    shift = {"values": data.values + 0.5, "times": data.times**1.2, "static": data.static + 0.5}
    one, two = (_output(model, these, hidden, x, t) for these in (data, replace(data, **{what: shift[what]})))
    assert (one - two).abs().amax((1, 2)).min() > 1e-4


def test_only_differences_of_times_matter(data, model, hidden):
    x, t = _noisy()
    one, two = (_output(model, these, hidden, x, t) for these in (data, replace(data, times=data.times + 64)))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_padded_rows_count_for_nothing(data, model, hidden):
    padded = Standardised(
        values=torch.cat([data.values, torch.full((S, 3, V), 9.0)], 1),
        observed=torch.cat([data.observed, torch.zeros(S, 3, V, dtype=torch.bool)], 1),
        times=torch.cat([data.times, data.times[:, -1:].expand(S, 3)], 1),
        rows=torch.cat([data.rows, torch.zeros(S, 3, dtype=torch.bool)], 1),
        static=data.static,
    )
    x, t = _noisy()
    more = torch.cat([hidden, torch.zeros(S, 3, V, dtype=torch.bool)], 1)
    one = _output(model, data, hidden, x, t)
    two = _output(model, padded, more, torch.cat([x, torch.full((S, 3, V), 5.0)], 1), t)[:, :L]
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    padded.rows[1] = True  # a longer series in the batch changes nothing for the others
    three = _output(model, padded, more, torch.cat([x, torch.full((S, 3, V), 5.0)], 1), t)[:, :L]
    torch.testing.assert_close(one[[0, 2]], three[[0, 2]], rtol=1e-4, atol=1e-5)
    assert (one[1] - three[1]).abs().max() > 1e-4


def test_attention_knows_distances_in_time(data, model, hidden):
    x, t = _noisy()
    network = copy.deepcopy(model)
    with torch.no_grad():
        network.denoiser.network.embed_time.weight.zero_()
    one, two = (_output(network, these, hidden, x, t) for these in (data, replace(data, times=2 * data.times)))
    assert (one - two).abs().amax((1, 2)).min() > 1e-4


def test_cells_speak_along_time_and_along_variables_but_not_across_series(data, model, hidden):
    x, t = _noisy()
    place = tuple(torch.nonzero(hidden)[0].tolist())
    moved = x.clone()
    moved[place] += 1.0
    change = (_output(model, data, hidden, x, t) - _output(model, data, hidden, moved, t)).abs()
    series_, row, variable = place
    elsewhere = hidden[series_].clone()
    elsewhere[row], elsewhere[:, variable] = False, False
    assert elsewhere.any()
    assert change[series_][elsewhere].min() > 1e-5  # two layers reach every cell
    assert change[torch.arange(S) != series_].max() == 0


def test_a_single_layer_reaches_along_time_before_variables(data, hidden):
    """Along time first: a cell of another row and another variable hears of it through its own variable's attention."""
    torch.manual_seed(1)
    made = ImputerModel.create(replace(CONFIG, depth=1))
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        made.denoiser.network.layers[0].variable.attend_out.weight.zero_()
    x, t = _noisy()
    place = tuple(torch.nonzero(hidden)[0].tolist())
    moved = x.clone()
    moved[place] += 1.0
    change = (_output(made, data, hidden, x, t) - _output(made, data, hidden, moved, t)).abs()[place[0]]
    others = torch.arange(V) != place[2]
    assert change[:, others].max() == 0
    assert change[hidden[place[0]][:, place[2]], place[2]].min() > 1e-6


def test_variables_that_change_places_change_with_their_embedding(data, model, hidden):
    """Nothing but the embedding tells variables apart."""
    order = torch.tensor([2, 0, 3, 1])
    x, t = _noisy()
    one = _output(model, data, hidden, x, t)
    turned = replace(data, values=data.values[..., order], observed=data.observed[..., order])
    held = model.denoiser.network.embed_variable.weight.detach().clone()
    try:
        with torch.no_grad():
            model.denoiser.network.embed_variable.weight.copy_(held[order])
        two = _output(model, turned, hidden[..., order], x[..., order], t)
    finally:
        with torch.no_grad():
            model.denoiser.network.embed_variable.weight.copy_(held)
    torch.testing.assert_close(one[..., order], two, rtol=1e-4, atol=1e-5)


def test_draws_of_one_series_stand_side_by_side(data, model, hidden):
    x, t = _noisy(2 * S)
    both = _output(model, data, hidden, x, t, draws=2)
    for k in range(2):
        torch.testing.assert_close(both[k::2], _output(model, data, hidden, x[k::2], t[k::2]), rtol=1e-4, atol=1e-5)


def test_what_is_known_is_read_once(data, model, hidden):
    """Drawing calls the denoiser alone: none of the encoder's layers runs again."""
    one = data[slice(0, 1)]
    context = encode(model, one, visible=one.observed & ~hidden[:1], asked=hidden[:1])
    network, calls = model.denoiser.network, []
    hooks = [
        layer.register_forward_hook(lambda *_: calls.append(1))
        for layer in (network.embed_known, network.embed_time, network.embed_static, network.side_in, network.side_out)
    ]
    try:
        draw(model, context, draws=13, seed=0, number=1)
    finally:
        for hook in hooks:
            hook.remove()
    assert calls == []


def test_loss_of_fresh_weights_in_closed_form(data):
    """The first output is 0, so the clean estimate is c_skip y_t: the loss is known to the last term."""
    model = ImputerModel.create(CONFIG)
    batch = PanelBatches(data, size=S).at(4)
    noise, copies = Noise(seed=0, index=batch.index), 4
    with torch.no_grad():
        found = imputation_loss(
            model.denoiser, model.processes, batch.x_0, batch.layout, noise, condition=batch.condition, copies=copies
        )
    asked = batch.layout.rows(LEAF).mask
    process, sd = model.processes[LEAF], 0.9
    x = batch.x_0[LEAF].double()
    cdf, density = torch.special.ndtr(x), torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5
    crps = x * (2 * cdf - 1) + 2 * density - 1 / torch.pi**0.5
    y = 8**0.5 * torch.sinh(torch.asinh(x * (3 / 8**0.5)) / 3)
    assert (y + y**3 / 6 - x).abs().max() < 1e-6
    total = (crps * asked).sum((1, 2)) / asked.sum((1, 2))
    for k in range(copies):
        index = batch.index * copies + k
        one = replace(noise, index=index)
        t = stratified(one)
        alpha, sigma = (c[:, None, None] for c in process.schedule(t))
        rows = Layout.dense(S, {LEAF: (L, V)}, masks={LEAF: asked}).rows(LEAF)
        y_t = alpha * y + sigma * one.at(LEAF, 0, rows).normal(dtype=torch.float32, kind="noise").double()
        variance = (alpha * sd) ** 2 + sigma**2
        error = (y - alpha * sd**2 / variance * y_t) / (sigma * sd / variance.sqrt())
        total = total + (error.square() * asked).sum((1, 2)) / asked.sum((1, 2)) / copies
    torch.testing.assert_close(found.double(), total, rtol=1e-4, atol=1e-5)


def test_draws_are_functions_of_seed_series_and_draw_and_survive_the_disk(data, model, tmp_path):
    one = data[slice(0, 1)]
    model.save(tmp_path / "model", dtype=torch.float32)
    again = ImputerModel.load(tmp_path / "model")
    assert again.config == CONFIG
    drawn = []
    for these in (model, again):
        context = encode(these, one, visible=one.observed, asked=~one.observed)
        drawn.append(draw(these, context, draws=23, seed=5, number=7))
        assert torch.equal(draw(these, context, draws=4, seed=5, number=7), drawn[0][:4])
    assert torch.equal(*drawn)
    assert drawn[0].shape == (23, L, V)
    assert (drawn[0][:, ~one.observed[0]].std(0) > 0).all()
