r"""Certificates of flows by code that shares nothing with the sampler: NumPy, float64, no Fourier transform of it.

Derivatives are matrices in closed form (Trefethen 2000, "Spectral methods in MATLAB", ch. 3), point values and means
are trigonometric sums and Gauss-Legendre quadratures, integrals are plain means over the grid.

    D_ij = 1/2 (-1)^(i - j) cot((i - j) pi / N) 2 pi / L,   N even
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fields = NDArray[np.float64]
_NODES = 40  # of a quadrature, along each axis


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """What one sensor measured.

    Attributes:
        kind: "point", "line" or "area".
        quantity: "vorticity", "u" or "v".
        start, end: (y, x); a point's twice, a line's ends, an area's low and high corner.
        value: measured.
        name: for messages.
        time: when, since the start.
    """

    kind: Literal["point", "line", "area"]
    quantity: str
    start: tuple[float, float]
    end: tuple[float, float]
    value: float
    name: str
    time: float = 0.0


def derivative(points: int, length: float, difference: str = "spectral") -> Fields:
    """The matrix [N, N] of d/dy on a periodic grid."""
    if difference == "centred":
        ahead = np.roll(np.eye(points), 1, axis=1)
        return (ahead - ahead.T) * points / (2 * length)
    apart = np.arange(points)[:, None] - np.arange(points)[None]
    angle = np.where(apart == 0, 1, apart) * math.pi / points
    slope = 1 / np.tan(angle) if points % 2 == 0 else 1 / np.sin(angle)
    return np.where(apart == 0, 0.0, 0.5 * (-1.0) ** apart * slope) * 2 * math.pi / length


def second_derivative(points: int, length: float) -> Fields:
    """The matrix [N, N] of d^2/dy^2 on a periodic grid, N even (Trefethen 2000, eq. 3.12)."""
    apart = np.arange(points)[:, None] - np.arange(points)[None]
    half_angle = np.where(apart == 0, 1, apart) * math.pi / points
    found = np.where(apart == 0, -(points**2) / 12 - 1 / 6, -((-1.0) ** apart) / (2 * np.sin(half_angle) ** 2))
    return found * (2 * math.pi / length) ** 2


def divergence(u: Fields, v: Fields, lengths: tuple[float, float], difference: str = "spectral") -> Fields:
    """The greatest |du/dx + dv/dy| of each field [N, H, W], in units of the greatest |du/dx| or |dv/dy|: [N]."""
    height, width = u.shape[-2:]
    u_x = u @ derivative(width, lengths[1], difference).T
    v_y = derivative(height, lengths[0], difference) @ v
    size = np.maximum(np.abs(u_x).max((1, 2)), np.abs(v_y).max((1, 2)))
    return np.abs(u_x + v_y).max((1, 2)) / np.where(size > 0, size, 1)


def curl(u: Fields, v: Fields, lengths: tuple[float, float]) -> Fields:
    """dv/dx - du/dy: [N, H, W]."""
    height, width = u.shape[-2:]
    return v @ derivative(width, lengths[1]).T - derivative(height, lengths[0]) @ u


def value_at(field: Fields, y: Fields, x: Fields, lengths: tuple[float, float]) -> Fields:
    """The Fourier series of fields [N, H, W] at points [M]: [N, M]."""
    height, width = field.shape[-2:]
    return np.einsum("mj,nji,mi->nm", _kernel(height, y, lengths[0]), field, _kernel(width, x, lengths[1]))


def _kernel(points: int, at: Fields, length: float) -> Fields:
    """Weights [M, N] of the periodic interpolation by waves: Dirichlet's kernel as a sum of cosines."""
    apart = 2 * math.pi * (at[:, None] / length - np.arange(points)[None] / points)
    waves = np.arange(1, (points - 1) // 2 + 1)
    total = 1 + 2 * np.cos(waves[:, None, None] * apart).sum(0)
    if points % 2 == 0:
        total = total + np.cos(points / 2 * apart)
    return total / points


def measured(field: Fields, instrument: Instrument, lengths: tuple[float, float]) -> Fields:
    """What an instrument would see of fields [N, H, W]: [N]."""
    (y_0, x_0), (y_1, x_1) = instrument.start, instrument.end
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    share, weights = (nodes + 1) / 2, weights / 2
    if instrument.kind == "point":
        return value_at(field, np.array([y_0]), np.array([x_0]), lengths)[:, 0]
    if instrument.kind == "line":
        return value_at(field, y_0 + share * (y_1 - y_0), x_0 + share * (x_1 - x_0), lengths) @ weights
    height, width = field.shape[-2:]
    along_y = weights @ _kernel(height, y_0 + share * (y_1 - y_0), lengths[0])
    along_x = weights @ _kernel(width, x_0 + share * (x_1 - x_0), lengths[1])
    return np.asarray(along_y @ field @ along_x)


def misfit(fields: dict[str, Fields], instruments: Sequence[Instrument], lengths: tuple[float, float]) -> Fields:
    """How far each field is from each instrument, in units of the field's greatest value: [N, M]."""
    off = []
    for instrument in instruments:
        field = fields[instrument.quantity]
        size = np.abs(field).max((1, 2)) + abs(instrument.value)
        off.append(np.abs(measured(field, instrument, lengths) - instrument.value) / np.where(size > 0, size, 1))
    return np.stack(off, 1)


def energy(u: Fields, v: Fields) -> Fields:
    """mean (u^2 + v^2) / 2: [N]."""
    return (u**2 + v**2).mean((1, 2)) / 2


def enstrophy(vorticity: Fields) -> Fields:
    """mean omega^2 / 2: [N]."""
    return (vorticity**2).mean((1, 2)) / 2


def in_square(pressure: Fields, places: Fields) -> Fields:
    """Pressures of cells [N, K, K] of the unit square at places (y, x) [M, 2], 0 at its walls, bilinear: [N, M]."""
    from scipy.interpolate import RegularGridInterpolator

    cells = pressure.shape[-1]
    at = np.concatenate([[0.0], (np.arange(cells) + 0.5) / cells, [1.0]])
    walled = np.pad(pressure, ((0, 0), (1, 1), (1, 1)))
    return np.stack([RegularGridInterpolator((at, at), field)(places) for field in walled])


def imbalance(permeability: Fields, pressure: Fields) -> Fields:
    """Of what feeds a cell, the share that does not leave it again: [N, K, K], of -div(a grad p) = 1 (`darcy`)."""
    cells = pressure.shape[-1]
    found = np.full_like(pressure, -1.0)
    for axis in (1, 2):
        for step in (1, -1):
            there = np.roll(pressure, step, axis)
            between = 2 / (1 / permeability + 1 / np.roll(permeability, step, axis))
            edge = [slice(None)] * 3
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            there[tuple(edge)], between[tuple(edge)] = 0, 2 * permeability[tuple(edge)]
            found += between * (pressure - there) * cells**2
    return found


def line_means(u: Fields, *, ends: bool = False) -> Fields:
    """Means over x of frames [..., X], by the trapezoidal rule where the first and last point are the line's ends."""
    return np.asarray(np.trapezoid(u, dx=1 / (u.shape[-1] - 1)) if ends else u.mean(-1))


def burgers(u: Fields, *, viscosity: float, spacing: float, length: float = 2 * math.pi) -> Fields:
    """du/dt + (u^2 / 2)_x - nu u_xx at the middle between frames [N, T, X] of a period: [N, T - 1, X]."""
    along, twice = derivative(u.shape[-1], length), second_derivative(u.shape[-1], length)
    middle = (u[:, 1:] + u[:, :-1]) / 2
    return (u[:, 1:] - u[:, :-1]) / spacing + (middle**2 / 2) @ along.T - viscosity * middle @ twice.T


def navier_stokes(
    omega: Fields,
    *,
    viscosity: float,
    spacing: float,
    lengths: tuple[float, float],
    drag: float = 0.0,
    forcing: Fields | float = 0.0,
) -> Fields:
    """The vorticity equation at the middle between frames [N, T, H, W], 2/3 rule: [N, T - 1, H, W]."""
    shape = (omega.shape[-2], omega.shape[-1])
    rate = tendency(shape, viscosity=viscosity, lengths=lengths, drag=drag, forcing=forcing)
    return np.asarray((omega[:, 1:] - omega[:, :-1]) / spacing - rate((omega[:, 1:] + omega[:, :-1]) / 2))


def tendency(
    shape: tuple[int, int],
    *,
    viscosity: float,
    lengths: tuple[float, float],
    drag: float = 0.0,
    forcing: Fields | float = 0.0,
) -> Callable[[Fields], Fields]:
    """d omega / dt of the vorticity equation, in Basdevant's form (1983) with the 2/3 rule.

    Args:
        shape: (H, W).
        viscosity, drag: of the flow.
        lengths: of the box along y and x.
        forcing: the curl of the force, [H, W] or what is broadcast to it.

    Returns:
        Of vorticities [..., H, W] on a periodic grid: [..., H, W].
    """
    sides = tuple(zip(shape, lengths, strict=True))
    (d_y, d_x), (dd_y, dd_x) = ([of(*side) for side in sides] for of in (derivative, second_derivative))
    low_y, low_x = (_series(points, points, -(-points // 3)) for points in shape)
    twice_y, twice_x = d_y @ d_y, d_x @ d_x  # without the highest wave, which `second_derivative` has
    flow = velocity(shape, lengths)

    def rate(omega: Fields) -> Fields:
        u, v = flow(omega)
        cross, unequal = u * v, v**2 - u**2
        advection = cross @ twice_x.T - twice_y @ cross + d_y @ unequal @ d_x.T
        quadratic = low_y @ (advection - forcing) @ low_x.T
        return np.asarray(viscosity * (dd_y @ omega + omega @ dd_x.T) - drag * omega - quadratic)

    return rate


def velocity(shape: tuple[int, int], lengths: tuple[float, float]) -> Callable[[Fields], tuple[Fields, Fields]]:
    """What takes vorticities [..., H, W] on a box of these lengths along y and x to u and v, without mean flow."""
    d_y, d_x = (derivative(*side) for side in zip(shape, lengths, strict=True))
    (e_y, to_y), (e_x, to_x) = (np.linalg.eigh(d @ d) for d in (d_y, d_x))
    size = e_y[:, None] + e_x[None]
    inverse = np.where(size < -1e-9, 1 / np.where(size < -1e-9, size, 1), 0)

    def flow(omega: Fields) -> tuple[Fields, Fields]:
        psi = -to_y @ ((to_y.T @ omega @ to_x) * inverse) @ to_x.T
        return d_y @ psi, -psi @ d_x.T

    return flow


def carried(
    omega: Fields,
    times: Sequence[float],
    *,
    viscosity: float,
    lengths: tuple[float, float],
    drag: float,
    waves: int,
    force: float,
    step: float = 0.01,
) -> list[Fields]:
    """Vorticities [S, H, W] at ascending times from those at 0, by Runge and Kutta's classical method.

    On half as many points again along each axis, where no wave of a field is lost to the 2/3 rule.

    Args:
        omega: at 0.
        times: >= 0.
        viscosity, drag: of the flow.
        lengths: of the box along y and x.
        waves, force: the force along x is force sin(2 pi waves y / length).
        step: at most.
    """
    coarse = (omega.shape[-2], omega.shape[-1])
    fine = (coarse[0] * 3 // 2, coarse[1] * 3 // 2)
    (up_y, up_x), (down_y, down_x) = (
        [_series(a, b, -(-min(a, b) // 2)) for a, b in zip(*pair, strict=True)]
        for pair in ((coarse, fine), (fine, coarse))
    )
    k = 2 * math.pi * waves / lengths[0]
    curl_of_force = -force * k * np.cos(k * np.arange(fine[0]) * lengths[0] / fine[0])[:, None]
    rate = tendency(fine, viscosity=viscosity, lengths=lengths, drag=drag, forcing=curl_of_force)
    found, now, field = [], 0.0, up_y @ omega @ up_x.T
    for time in times:
        count = math.ceil((time - now) / step - 1e-9)
        for _ in range(count):
            h = (time - now) / count
            a = rate(field)
            b = rate(field + h / 2 * a)
            c = rate(field + h / 2 * b)
            field = field + h / 6 * (a + 2 * b + 2 * c + rate(field + h * c))
        now = time
        found.append(np.asarray(down_y @ field @ down_x.T))
    return found


def missed(
    flow: Mapping[float, Fields], instruments: Sequence[Instrument], lengths: tuple[float, float], *, noise: float
) -> dict[float, Fields]:
    """By the time of what was measured, its misses in units of the noise: [S, M].

    Args:
        flow: vorticities [S, H, W] by time.
        instruments: what was measured, at these times.
        lengths: of the box.
        noise: standard deviation of what was measured.
    """
    found = {}
    for time in sorted({tool.time for tool in instruments}):
        omega = flow[time]
        u, v = velocity((omega.shape[-2], omega.shape[-1]), lengths)(omega)
        fields, tools = {"vorticity": omega, "u": u, "v": v}, [tool for tool in instruments if tool.time == time]
        off = [measured(fields[tool.quantity], tool, lengths) - tool.value for tool in tools]
        found[time] = np.stack(off, 1) / noise
    return found


def _series(count: int, wanted: int, waves: int) -> Fields:
    """The matrix [wanted, N] to points of another grid of the same period, of waves below a number."""
    apart = 2 * math.pi * (np.arange(wanted)[:, None] / wanted - np.arange(count)[None] / count)
    return np.asarray(1 + 2 * np.cos(np.arange(1, waves)[:, None, None] * apart).sum(0)) / count
