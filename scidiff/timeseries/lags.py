"""What stood at the same place of earlier seasons: a step to come is told it, as in DeepAR (Salinas et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scidiff.timeseries.panel import Floats, Ints

LAGS = 4  # seasons back, at most


def places(context: int, horizon: int, season: int) -> Ints:
    """Rows of a context that stand whole seasons before each step, latest first: [K, H], K <= `LAGS`.

    Row L - m (ceil(h / m) + k) + h - 1 for step h = 1 .. H, m the season, k = 0 .. K - 1.
    """
    step = np.arange(horizon)
    last = context + step - season * (step // season + 1)
    rows = last - season * np.arange(LAGS)[:, None]
    return rows[(rows >= 0).all(1)]


def wanted(horizon: int, seasons: Sequence[int]) -> int:
    """How long a context has to be for `LAGS` lags of the longest season, and a short one more."""
    longest = seasons[-1]
    return longest * (LAGS - 1 + -(-horizon // longest)) + seasons[0]


def earlier(rows: Floats, horizon: int, seasons: Sequence[int]) -> Floats:
    """Features of each step from the rows [N, L, C] before the origin: [N, H, `count` C].

    Of each season the rows that stand whole seasons before the step and their median, which forgets a single odd one,
    and how the mean of the last season differs from that of the one before.
    """
    length = rows.shape[1]
    found = [np.empty((len(rows), horizon, 0))]
    for season in seasons:
        aligned = rows[:, places(length, horizon, season)]  # [N, K, H, C]
        found += [*np.moveaxis(aligned, 1, 0)]
        if aligned.shape[1] > 2:
            found.append(np.median(aligned, axis=1))
        if length >= 2 * season:
            change = rows[:, -season:].mean(1) - rows[:, -2 * season : -season].mean(1)
            found.append(np.repeat(change[:, None], horizon, axis=1))
    return np.concatenate(found, axis=2)


def count(context: int, horizon: int, seasons: Sequence[int]) -> int:
    """How many features `earlier` has for each column."""
    return earlier(np.zeros((1, context, 1)), horizon, seasons).shape[2]
