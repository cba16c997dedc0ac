"""How good draws are, value by value: error, CRPS, energy score, coverage, PIT.

Draws X_1, ..., X_K of each of N values x are an array [K, N]; every function gives one number a value, [N], whose mean
is the metric. A method without draws is a point forecast, K = 1. Two estimators of the CRPS are in use, and their
numbers must not be compared:

    crps_fair        unbiased at every K; the mean over values, in their units
    crps_quantiles   of CSDI: 19 quantiles, divided by the mean size of the values; overstates by about 20 / 19, and by
                     more when K is small, since the quantiles of few draws are too narrow
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scidiff.noise import Noise
from scidiff.state import Layout

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVELS = np.arange(1, 20) / 20
"""The 19 levels of CSDI's CRPS: .05, .10, ..., .95."""


def checked(draws: npt.ArrayLike, x: npt.ArrayLike, *, least: int = 1) -> tuple[Floats, Floats]:
    """Draws [K, N] and values [N] as float64. ValueError if shapes differ, K < least, or one is not finite."""
    many, one = np.asarray(draws, dtype=np.float64), np.asarray(x, dtype=np.float64)
    if many.ndim != one.ndim + 1 or many.shape[1:] != one.shape:
        raise ValueError(f"expected draws [K, ...] of values [...], got {many.shape} of {one.shape}")
    if len(many) < least:
        raise ValueError(f"expected at least {least} draws, got {len(many)}")
    if not (np.isfinite(many).all() and np.isfinite(one).all()):
        raise ValueError("expected finite draws and values, got infinities or NaN")
    return many, one


def absolute_error(draws: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """|x - median of the draws|: [N]. Its mean is the MAE."""
    many, one = checked(draws, x)
    return np.abs(one - np.median(many, axis=0))


def squared_error(draws: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """(x - mean of the draws)^2: [N]. The root of its mean is the RMSE."""
    many, one = checked(draws, x)
    return np.asarray((one - many.mean(0)) ** 2)


def crps_fair(draws: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """Unbiased estimate of the CRPS of the distribution that the draws come from (Ferro 2014, eq. 8): [N].

    E|X - x| - E|X - X'| / 2, the second mean over the K (K - 1) pairs of different draws. May be negative for a single
    value. Of one draw it is |x - X|, a point forecast's CRPS.
    """
    many, one = checked(draws, x)
    return np.asarray(np.abs(many - one).mean(0) - half_gap(many))


def crps_midpoints(quantiles: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """CRPS of a distribution that is given by its quantiles (k - 1/2) / K, k = 1 .. K: twice their mean loss, [N].

    `crps_fair` would take them for random draws, whose mean gap is larger by K / (K - 1): 2 % too low at K = 50.

    Args:
        quantiles: [K, N], in any order.
        x: [N].
    """
    many, one = checked(quantiles, x)
    return np.asarray(np.abs(many - one).mean(0) - half_gap(many) * (len(many) - 1) / len(many))


def half_gap(draws: Floats) -> Floats:
    """E|X - X'| / 2 over pairs of different draws: [K, N] -> [N]; 0 if K = 1.

    Of sorted draws it is sum_k (2 k - K - 1) X_(k) / (K (K - 1)).
    """
    count = len(draws)
    if count < 2:
        return np.zeros(draws.shape[1:])
    weight = 2 * np.arange(1, count + 1) - count - 1
    return np.asarray(np.tensordot(weight, np.sort(draws, axis=0), axes=1) / (count * (count - 1)), dtype=np.float64)


def pinball_quantiles(draws: npt.ArrayLike, x: npt.ArrayLike) -> Floats:
    """2 |q_a - x| |1(x <= q_a) - a|, the mean over the 19 levels a, with q_a the quantiles of the draws: [N].

    The numerator of `crps_quantiles`.
    """
    many, one = checked(draws, x)
    total = np.zeros_like(one)
    for level, quantile in zip(LEVELS, np.quantile(many, LEVELS, axis=0), strict=True):
        total += 2 * np.abs((quantile - one) * ((one <= quantile) - level))
    return total / len(LEVELS)


def crps_quantiles(draws: npt.ArrayLike, x: npt.ArrayLike) -> float:
    """CSDI's CRPS: the sum of `pinball_quantiles` over all values, divided by the sum of |x| (Tashiro et al. 2021).

    A pure number, of all values together: it has no meaning for one. NaN if all values are 0.
    """
    many, one = checked(draws, x)
    size = np.abs(one).sum()
    return float(pinball_quantiles(many, one).sum() / size) if size > 0 else float("nan")


def energy_score(draws: npt.ArrayLike, x: npt.ArrayLike, event: npt.ArrayLike) -> Floats:
    """Unbiased energy score of values that are forecast together (Gneiting & Raftery 2007, eq. 22): [G].

    E|X - x| - E|X - X'| / 2 with Euclidean norms over the values of one event, pairs of different draws. Of events of
    one value it is `crps_fair`.

    Args:
        draws: [K, N].
        x: [N].
        event: [N] which event each value belongs to, for instance its series; anything that can be sorted. Results are
            in the order of `np.unique`.
    """
    many, one = checked(draws, x)
    names, place = np.unique(np.asarray(event), return_inverse=True)
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], np.arange(len(names)))
    many, one = many[:, order], one[order]

    def norm(gap: Floats) -> Floats:
        return np.asarray(np.sqrt(np.add.reduceat(gap**2, first, axis=-1)))

    count = len(many)
    near = norm(many - one).mean(0)
    spread = np.zeros(len(names))
    for lag in range(1, count):  # draw k and draw k + lag: each pair twice, once by each of its lags
        spread += norm(many - np.roll(many, lag, axis=0)).sum(0)
    return np.asarray(near - spread / max(2 * count * (count - 1), 1))


def interval(draws: npt.ArrayLike, level: float) -> tuple[Floats, Floats]:
    """The central interval of a level in (0, 1): low [N], high [N].

    Quantiles at the places a (K + 1) among the sorted draws, a = (1 -+ level) / 2 (Weibull 1939; type 6 of Hyndman &
    Fan 1996): if x comes from the distribution of the draws, the interval holds it with a probability of just `level`
    whenever a (K + 1) is a whole number. With fewer than 2 / (1 - level) - 1 draws it ends at the outermost two.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    many = np.asarray(draws, dtype=np.float64)
    low, high = np.quantile(many, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    return low, high


def covered(draws: npt.ArrayLike, x: npt.ArrayLike, level: float) -> Bools:
    """Whether the central interval holds x, ends included: [N]. Its mean is the coverage."""
    many, one = checked(draws, x)
    low, high = interval(many, level)
    return np.asarray((low <= one) & (one <= high))


def pit_bounds(draws: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Where the PIT of x may lie: [below, below + ties + 1] / (K + 1), low [N] and high [N]."""
    many, one = checked(draws, x)
    below, ties = (many < one).sum(0), (many == one).sum(0)
    return below / (len(many) + 1), (below + ties + 1) / (len(many) + 1)


def pit(draws: npt.ArrayLike, x: npt.ArrayLike, *, seed: int = 0) -> Floats:
    """Randomised probability integral transform of x among the draws (Czado et al. 2009, for ranks): [N] in (0, 1).

    Uniform on (0, 1) for every K, ties or none, if x comes from the distribution of the draws. What lies between the
    bounds is drawn by noise keyed by the seed and the value's place.
    """
    low, high = pit_bounds(draws, x)
    return low + keyed_uniform(len(low), seed=seed, name="pit") * (high - low)


def uniformity(values: npt.ArrayLike) -> float:
    """Kolmogorov's distance of numbers in [0, 1] from the uniform distribution: sup |F_N(u) - u|, in [1 / 2N, 1]."""
    u = np.sort(np.asarray(values, dtype=np.float64))
    if not len(u) or u[0] < 0 or u[-1] > 1:
        raise ValueError("expected numbers in [0, 1], got none or others")
    place = np.arange(len(u))
    return float(max((u - place / len(u)).max(), ((place + 1) / len(u) - u).max()))


def keyed_uniform(count: int, *, seed: int, name: str, shape: tuple[int, ...] = ()) -> Any:
    """Uniform numbers in (0, 1) keyed by the seed, a name and their place: float64 [count, *shape]."""
    rows = Layout.dense(count, {name: shape}).rows(name)
    return Noise(seed=seed, index=torch.arange(count)).at(name, 0, rows).uniform().numpy()
