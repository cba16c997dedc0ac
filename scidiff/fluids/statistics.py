"""By what sets of fields are compared: of second order, which a Gaussian field can have too, and of fourth."""

from __future__ import annotations

from torch import Tensor

from scidiff.fluids.spectral import Box

LARGE = 1e-3
"""A number of waves counts that holds this share of the mean square, or more."""


def spectra_apart(box: Box, found: Tensor, truth: Tensor) -> float:
    """The mean over numbers of waves of |log10| of the ratio of two sets' mean spectra, fields [N, H, W].

    Numbers of waves that hold less than `LARGE` of the mean square of the second set do not count.
    """
    of, to = (box.spectrum(fields).mean(0) for fields in (found, truth))
    large = to >= LARGE * to.sum()
    return float((of[large] / to[large]).log10().abs().mean())


def flatness(box: Box, fields: Tensor) -> float:
    """<g^4> / <g^2>^2 of g = d/dx of all fields [..., H, W]: 3 if they are Gaussian, more if their fronts are sharp."""
    _, s_x = box.symbols(like=fields)
    slope = box.back(1j * s_x * box.forward(fields)).flatten()
    return float(slope.pow(4).mean() / slope.square().mean().square())
