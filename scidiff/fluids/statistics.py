"""By what sets of fields are compared: of second order, which a Gaussian field can have too, and of fourth."""

from __future__ import annotations

import torch
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


def structure_function(velocity: Tensor, order: float) -> Tensor:
    r"""How velocities differ between two points, by their distance, on a periodic box of square cells.

        S_p(r) = < | (u(x + r e) - u(x)) . e |^p >

    over all points x and the directions e of both axes: longitudinal increments (Frisch, Turbulence, 1995, section
    5.1). S_2 says what the spectrum says; a Gaussian field has S_4 = 3 S_2^2, a turbulent one more of it at small r.

    Args:
        velocity: u along x and v along y, [..., 2, H, W].
        order: p > 0.

    Returns:
        S_p at distances of 1 to R = min(H, W) // 2 points, [..., R].
    """
    if order <= 0:
        raise ValueError(f"expected an order > 0, got {order}")
    u, v = velocity.unbind(-3)
    found = []
    for distance in range(1, min(u.shape[-2:]) // 2 + 1):
        along = [u.roll(-distance, -1) - u, v.roll(-distance, -2) - v]
        found.append(torch.stack([part.abs().pow(order).mean((-2, -1)) for part in along]).mean(0))
    return torch.stack(found, -1)
