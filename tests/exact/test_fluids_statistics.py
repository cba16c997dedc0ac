"""Statistics of sets of fields, of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from scidiff.fluids.spectral import Box
from scidiff.fluids.statistics import flatness, spectra_apart

BOX = Box(shape=(24, 32), lengths=(1.5 * math.pi, 2 * math.pi))


def test_spectra_are_apart_by_what_their_waves_are_scaled_by() -> None:
    fields = torch.randn(5, *BOX.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert spectra_apart(BOX, fields.flip(0), fields) == pytest.approx(0, abs=1e-12)
    assert spectra_apart(BOX, 10 * fields, fields) == pytest.approx(2)
    _, x = BOX.coordinates()
    one, two, none = (size * torch.cos(k * x).expand(1, *BOX.shape) for size, k in ((1, 1), (1, 2), (1e-3, 3)))
    assert spectra_apart(BOX, one + 0.1 * two, one + two + none) == pytest.approx(1)  # 0 and 2; of the third nothing


def test_flatness_of_waves_and_of_noise() -> None:
    """Of a wave <cos^4> / <cos^2>^2 = (3 / 8) / (1 / 2)^2, and of it in one field of two twice that."""
    _, x = BOX.coordinates()
    wave = torch.sin(3 * x).expand(BOX.shape)
    assert flatness(BOX, 7 * wave[None]) == pytest.approx(1.5)
    assert flatness(BOX, torch.stack([wave, torch.zeros_like(wave)])) == pytest.approx(3)
    noise = torch.randn(400, *BOX.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert flatness(BOX, noise) == pytest.approx(3, abs=0.05)
