r"""What instruments see of a field on a periodic box: its values at points, its means along lines and over areas.

A field is its Fourier series f(p) = (1 / HW) sum_k f_k exp(i k p), so that all three are exact and one formula:

    mean over the set = (1 / HW) sum_k f_k exp(i k c) shape_k,
    shape_k = 1 at a point,   sinc(k . d / 2) along a line,   sinc(k_y h / 2) sinc(k_x w / 2) over an area,

with c its centre, d from end to end, (h, w) its sides and sinc(z) = sin(z) / z. Each becomes a row: a field whose inner
product with f is the mean. Positions are (y, x), in the unit of the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from scidiff.fluids.spectral import Box

_SNAP = 1e-11  # of a spacing: what lies so close to a grid point is on it, to less than certificates allow


def points(box: Box, at: Tensor) -> Tensor:
    """Rows of values at points [M, 2]: float64 [M, H, W]; at grid points one entry is 1 and the others 0."""
    at = _inside(box, at)
    rows = _rows(box, at, lambda k_y, k_x: torch.ones_like(k_y * k_x))
    spacing = torch.tensor(box.spacings, dtype=torch.float64)
    place = (at / spacing).round()
    on = ((at / spacing - place).abs() <= _SNAP).all(1)
    j, i = (place.long() % torch.tensor(box.shape)).T
    exact = torch.zeros_like(rows)
    exact[torch.arange(len(at)), j, i] = 1
    return torch.where(on[:, None, None], exact, rows)


def lines(box: Box, start: Tensor, end: Tensor) -> Tensor:
    """Rows of means along straight lines between points [M, 2]: float64 [M, H, W]. Ends may lie in a next period."""
    start, end = _inside(box, start), end.double()
    d = (end - start)[:, :, None, None]
    return _rows(box, (start + end) / 2, lambda k_y, k_x: _sinc((k_y * d[:, 0] + k_x * d[:, 1]) / 2))


def areas(box: Box, low: Tensor, high: Tensor) -> Tensor:
    """Rows of means over rectangles between corners [M, 2], low < high: float64 [M, H, W]."""
    low, high = _inside(box, low), high.double()
    if not bool((high > low).all()):
        raise ValueError("expected areas between a low and a higher corner, got one without extent")
    side = (high - low)[:, :, None, None]
    return _rows(box, (low + high) / 2, lambda k_y, k_x: _sinc(k_y * side[:, 0] / 2) * _sinc(k_x * side[:, 1] / 2))


def through_vorticity(box: Box, rows: Tensor) -> Tensor:
    """Rows on velocities, [M, 2, H, W], as rows on the vorticity that they have (without mean flow): [M, H, W]."""
    flow = box.flow_symbol(like=rows)
    return box.back((box.forward(rows) * flow.conj()).sum(-3))


def _inside(box: Box, at: Tensor) -> Tensor:
    at = at.double()
    lengths = torch.tensor(box.lengths, dtype=torch.float64)
    if at.ndim != 2 or at.shape[1] != 2 or not bool(((at >= 0) & (at <= lengths)).all()):
        raise ValueError(f"expected positions (y, x) [M, 2] between 0 and {box.lengths}, got {list(at.shape)} others")
    return at


def _sinc(z: Tensor) -> Tensor:
    return torch.sinc(z / math.pi)


def _rows(box: Box, centre: Tensor, shape: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Rows of a centre and a shape; the highest frequency of an even grid is half a wave of either sign."""
    c, total = centre[:, :, None, None], torch.zeros(1, dtype=torch.complex128)
    k_y, k_x = box.wavenumbers()
    for y, x in product((k_y, _turned(k_y, 0)), (k_x, _turned(k_x, 1))):
        phase = torch.polar(torch.ones(1, dtype=torch.float64), -(y * c[:, 0] + x * c[:, 1]))
        total = total + phase * shape(y, x) / 4
    return box.back(total)


def _turned(k: Tensor, axis: int) -> Tensor:
    """The frequencies, the highest with the other sign."""
    return torch.where(k.abs() == k.abs().max(), -k, k) if axis == 1 or k.shape[0] % 2 == 0 else k
