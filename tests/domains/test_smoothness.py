"""The unit of a variable is what the line between its neighbours misses it by."""

from __future__ import annotations

from dataclasses import replace

import torch
from imputers import configuration

from scidiff.timeseries.batches import Standardised, series
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.smoothness import sharpened

L, V = 12, 4


def _windows() -> Standardised:
    """A line, a zigzag of size 1, one value a window, nothing."""
    rows = torch.arange(L, dtype=torch.float32)
    values = torch.stack([0.1 * rows, (-1) ** rows, torch.full((L,), 2.0), torch.zeros(L)], dim=-1).expand(3, L, V)
    observed = torch.ones(3, L, V, dtype=torch.bool)
    observed[:, 1:, 2] = False
    observed[:, :, 3] = False
    return Standardised(values=values.clone(), observed=observed, times=rows.expand(3, L),
                        rows=torch.ones(3, L, dtype=torch.bool), static=torch.zeros(3, 2, 2))  # fmt: skip


def test_units_are_the_errors_of_the_line() -> None:
    found = sharpened(ImputerModel.create(configuration()), _windows()).config.units
    # the line between the neighbours of a zigzag is 2 off; the ends of the straight line miss by 0.1 of 12 each
    torch.testing.assert_close(found, (4 * 0.2 / 12, 4.0, 1.0, 1.0), rtol=1e-5, atol=0)


def test_the_first_guess_moves_by_units() -> None:
    """Half the unit: half as far from the line, half the scale; a loaded model keeps them."""
    torch.manual_seed(0)
    model = ImputerModel.create(configuration())
    torch.nn.init.normal_(model.denoiser.network.encoder.guess.weight)
    data = _windows()
    asked = torch.zeros_like(data.observed)
    asked[:, 3:5, :2] = True
    told = series(data, visible=data.observed & ~asked, asked=asked)
    guess = {unit: model.with_units((unit,) * V).denoiser.network.encode(told) for unit in (1.0, 0.5, 0.0)}
    line = guess[0.0].location
    torch.testing.assert_close(guess[0.5].location - line, (guess[1.0].location - line) / 2)
    torch.testing.assert_close(guess[0.5].scale[asked], guess[1.0].scale[asked] / 2)
    assert (guess[1.0].location - line)[asked].abs().min() > 1e-3


def test_known_variables_keep_their_units(tmp_path) -> None:
    trained = ImputerModel.create(configuration()).with_units((0.1, 0.2, 0.3, 0.4))
    trained.save(tmp_path / "weights")
    assert ImputerModel.load(tmp_path / "weights").config.units == (0.1, 0.2, 0.3, 0.4)
    other = ImputerModel.create(replace(configuration(), variables=("b", "y", "a", "z")))
    assert sharpened(other, _windows(), trained=trained).config.units == (0.2, 4.0, 0.1, 1.0)
