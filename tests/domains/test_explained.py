"""How much of a field's variance sensors tell, against dense matrices."""

from __future__ import annotations

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


def test_the_share_is_that_of_kriging() -> None:
    rows = torch.randn(5, 1, 6, 8, generator=SOURCE, dtype=torch.float64)
    seen = Measured(leaf="x", rows=rows, values=torch.zeros(5, dtype=torch.float64))
    for known in (covariance(), Blended(base=covariance(), patterns=PATTERNS)):
        dense = known.spread(torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 6, 8)).reshape(SIZE, SIZE)
        torch.testing.assert_close(known.total(), dense.trace())
        r = rows.flatten(1)
        left = dense - dense @ r.T @ torch.linalg.solve(r @ dense @ r.T, r @ dense)
        expected = 1 - float(left.trace() / dense.trace())
        assert 0.05 < expected < 0.95
        assert abs(explained(known, seen) - expected) < 1e-9
        assert abs(explained(known, joined(Curl(leaf="x", box=BOX), seen)) - expected) < 1e-9


def test_nothing_and_everything() -> None:
    assert explained(covariance(), Curl(leaf="x", box=BOX)) == 0
    every = torch.eye(SIZE, dtype=torch.float64).reshape(SIZE, 1, 6, 8)[1:]  # the last follows, as the mean is 0
    seen = Measured(leaf="x", rows=every, values=torch.zeros(SIZE - 1, dtype=torch.float64))
    assert abs(explained(covariance(), seen) - 1) < 1e-6
