"""Statistics of sets of fields, of which they are known."""

from __future__ import annotations

import math

import pytest
import torch

from scidiff.fluids.spectral import Box
from scidiff.fluids.statistics import flatness, spectra_apart, structure_function

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


def test_increments_of_waves() -> None:
    """u = sin(3 x): u(x + r) - u(x) = 2 sin(3 r / 2) cos(3 (x + r / 2)), whose even moments are those of a cosine."""
    _, x = BOX.coordinates()
    u = torch.sin(3 * x).expand(BOX.shape)
    flow = torch.stack([u, torch.zeros_like(u)])
    size = 2 * torch.sin(1.5 * x[1:13])
    torch.testing.assert_close(structure_function(flow, 2), size**2 * (1 / 2) / 2)  # v has no part in it
    torch.testing.assert_close(structure_function(flow, 4), size**4 * (3 / 8) / 2)


def test_increments_across_the_axis_do_not_count() -> None:
    y, _ = BOX.coordinates()
    shear = torch.sin(y * 2 * math.pi / BOX.lengths[0])[:, None].expand(BOX.shape)
    assert (structure_function(torch.stack([shear, torch.zeros_like(shear)]), 2) == 0).all()


def test_the_second_order_is_told_by_the_spectrum() -> None:
    """S_2(r) = 2 (R(0) - R(r)), R the correlation along each axis (Wiener and Khinchin)."""
    flow = torch.randn(3, 2, *BOX.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    power = torch.fft.fft2(flow).abs().square() / (24 * 32) ** 2
    correlation = torch.fft.ifft2(power).real * (24 * 32)
    along = torch.stack([correlation[:, 0, 0, :13], correlation[:, 1, :13, 0]]).mean(0)
    expected = 2 * (along[:, :1] - along[:, 1:])
    torch.testing.assert_close(structure_function(flow, 2), expected, rtol=1e-10, atol=1e-12)


def test_gaussian_fields_have_gaussian_increments() -> None:
    flow = torch.randn(400, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    second, fourth = (structure_function(flow, order).mean(0) for order in (2, 4))
    torch.testing.assert_close(fourth, 3 * second**2, rtol=0.03, atol=0)


def test_orders_are_positive() -> None:
    with pytest.raises(ValueError, match="order > 0, got 0"):
        structure_function(torch.zeros(2, 8, 8), 0)
