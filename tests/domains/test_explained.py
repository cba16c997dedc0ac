"""How much of a field's variance sensors tell, against dense matrices."""

from __future__ import annotations

import pytest
import torch

from scidiff.fluids.blended import Blended
from scidiff.fluids.constraints import Curl, Measured
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.ensemble import explained
from scidiff.fluids.joined import joined
from scidiff.fluids.spectral import Box

BOX = Box(shape=(6, 8))
SIZE = 48
SOURCE = torch.Generator().manual_seed(0)
PATTERNS = 0.3 * torch.randn(2, 6, 8, generator=SOURCE, dtype=torch.float64)


def covariance() -> Covariance:
    variance = 2.0 / (1 + BOX.shells().double())
    variance[0, 0] = 0
    return Covariance.stationary(variance, 8)


@pytest.mark.parametrize("level", [1e6, 1.0, 0.2])
def test_the_share_is_that_of_kriging_wave_by_wave(level: float) -> None:
    rows = torch.randn(5, 1, 6, 8, generator=SOURCE, dtype=torch.float64)
    seen = Measured(leaf="x", rows=rows, values=torch.zeros(5, dtype=torch.float64))
    for known in (covariance(), Blended(base=covariance(), patterns=PATTERNS)):
        dense = known.spread(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 6, 8)).reshape(SIZE, SIZE)
        torch.testing.assert_close(known.total(), dense.trace())
        r = rows.flatten(1)
        left = dense - dense @ r.T @ torch.linalg.solve(r @ dense @ r.T, r @ dense)
        size, axes = torch.linalg.eigh(dense)
        told = 1 - (axes.T @ left @ axes).diagonal() / size  # of the variance along each axis
        open_ = size * level**2 / (size + level**2)
        expected = float((told * open_)[size > 1e-9].sum() / open_.sum())
        assert 0.05 < expected < 0.95
        assert abs(explained(known, seen)(level) - expected) < 1e-9
        assert abs(explained(known, joined(Curl(leaf="x", box=BOX), seen))(level) - expected) < 1e-9


def test_less_is_told_of_what_is_open_at_lower_noise_down_to_sensors_over_points() -> None:
    rows = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 1, 6, 8)[::7]
    share = explained(covariance(), Measured(leaf="x", rows=rows, values=torch.zeros(len(rows), dtype=torch.float64)))
    falling = [share(level) for level in (100.0, 3.0, 1.0, 0.3, 0.1, 1e-3)]
    assert falling == sorted(falling, reverse=True)
    assert abs(falling[-1] - len(rows) / (SIZE - 1)) < 1e-4  # a field without mean has one dimension less


def test_nothing_and_everything() -> None:
    assert explained(covariance(), Curl(leaf="x", box=BOX))(1.0) == 0
    every = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 1, 6, 8)[1:]  # the last follows, as the mean is 0
    seen = Measured(leaf="x", rows=every, values=torch.zeros(SIZE - 1, dtype=torch.float64))
    for level in (0.1, 10.0):
        assert abs(explained(covariance(), seen)(level) - 1) < 1e-6
