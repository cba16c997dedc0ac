r"""Boundary values of fields on grids that end, as linear facts on the points along a side.

    Dirichlet   u = value,      Neumann   du/dn = slope (n points outward),      periodic   first line = last line

The outermost grid points lie on the boundary. A slope is a one-sided difference of second order,

    du/dn = (3 u_0 - 4 u_1 + u_2) / 2 h,

exact for parabolas. Of a trajectory [T, X] the side "y low" is its start: Dirichlet values there are initial values.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scidiff.fluids.constraints import Measured

Side = Literal["y low", "y high", "x low", "x high"]
_SLOPE = (1.5, -2.0, 0.5)


def dirichlet(
    leaf: str, shape: tuple[int, int, int], side: Side, values: Tensor | float, *, at: Tensor | None = None
) -> Measured:
    """Values along a side.

    Args:
        leaf: the leaf.
        shape: (C, H, W) of its fields.
        side: which.
        values: one number, or those of all channels and points along the side, [C, L], or [C, len(at)].
        at: places along the side, int64; None: all.
    """
    return _facts(leaf, _lines(shape, side, 0), values, told=f"value on {side}", at=at)


def neumann(
    leaf: str,
    shape: tuple[int, int, int],
    side: Side,
    slopes: Tensor | float,
    *,
    spacing: float,
    at: Tensor | None = None,
) -> Measured:
    """Derivatives outward across a side.

    Args:
        leaf, shape, side, at: as of `dirichlet`.
        slopes: one number, or those of all channels and points along the side, [C, L], or [C, len(at)].
        spacing: h between grid points across the side.

    Raises:
        ValueError: fewer than three points across.
    """
    across = shape[1] if side.startswith("y") else shape[2]
    if across < len(_SLOPE):
        raise ValueError(f"expected at least {len(_SLOPE)} points across {side!r}, got {across}")
    if not 0 < spacing < torch.inf:
        raise ValueError(f"expected a positive spacing, got {spacing}")
    rows = torch.stack([share * _lines(shape, side, k) for k, share in enumerate(_SLOPE)]).sum(0) / spacing
    return _facts(leaf, rows, slopes, told=f"slope on {side}", at=at)


def periodic(leaf: str, shape: tuple[int, int, int], axis: Literal["y", "x"]) -> Measured:
    """The first and the last line along an axis agree, on grids [C, H, W] that hold both."""
    sides: tuple[Side, Side] = ("y low", "y high") if axis == "y" else ("x low", "x high")
    first, last = (_lines(shape, side, 0) for side in sides)
    return _facts(leaf, first - last, 0.0, told=f"{sides[0]} less {sides[1]}")


def _lines(shape: tuple[int, int, int], side: Side, inward: int) -> Tensor:
    """Rows that read the points of the line `inward` of a side: float64 [C, L, C, H, W]."""
    if side not in ("y low", "y high", "x low", "x high"):
        raise ValueError(f"expected a side among y low, y high, x low, x high, got {side!r}")
    place = inward if side.endswith("low") else -1 - inward
    every = torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape)
    chosen = every[:, place] if side.startswith("y") else every[:, :, place]
    rows = torch.zeros(chosen.numel(), every.numel(), dtype=torch.float64)
    rows[torch.arange(len(rows)), chosen.flatten()] = 1
    return rows.reshape(*chosen.shape, *shape)


def _facts(leaf: str, rows: Tensor, values: Tensor | float, *, told: str, at: Tensor | None = None) -> Measured:
    """Facts of rows [C, L, C, H, W], at some of the L places."""
    places = torch.arange(rows.shape[1]) if at is None else at
    chosen = rows[:, places]
    given = torch.as_tensor(values, dtype=torch.float64)
    if given.ndim and given.shape != chosen.shape[:2]:
        raise ValueError(f"expected one number or {list(chosen.shape[:2])} for a {told}, got {list(given.shape)}")
    names = [f"{told}, channel {c}, point {int(p)}" for c in range(len(rows)) for p in places]
    given = given.expand(chosen.shape[:2]).flatten()
    return Measured(leaf=leaf, rows=chosen.flatten(0, 1), values=given, names=tuple(names))
