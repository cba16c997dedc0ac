"""Exponential smoothing, all smoothers at once: what each makes of a context, and how it has done there.

    e = z_t - l - phi b - s_{t-m},     l <- l + phi b + alpha e,   b <- phi b + beta e,   s_t = s_{t-m} + gamma e

with an additive season of m steps and a damped trend (Hyndman et al. 2008, table 2.1, in error-correction form), from
the means of the context. e is the error of the forecast of one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from scidiff.timeseries.panel import Floats

_DAMPING = 0.95  # phi
_RECENT = 2.0  # of the longest seasons, after which an error counts a half


def smoothers(season: int) -> tuple[Floats, Floats, Floats]:
    """Those of a season that are tried: alpha of the level, beta of the trend, gamma of the season, each [G]."""
    gammas = (0.0, 0.1, 0.3, 1.0) if season > 1 else (0.0,)
    found = [
        (alpha, trend * alpha, gamma)
        for alpha, trend, gamma in product((0.0, 0.05, 0.15, 0.4, 0.8, 1.0), (0.0, 0.1), gammas)
        if alpha + gamma <= 1 and (alpha or not trend)
    ]
    alpha, beta, gamma = np.array(found).T
    return alpha, beta, gamma


def smoothing(context: int, horizon: int, season: int) -> Floats:
    """What each of the `smoothers` of a season makes of a context: weights [G, H, L].

    The recursion is run backwards on what the forecast is a function of: `level` l + `trend` b + sum_t season_t s_t.
    """
    m, (alpha, beta, gamma) = season, (one[:, None] for one in smoothers(season))
    level = np.ones((len(alpha), horizon))
    trend = np.cumsum(_DAMPING ** np.arange(1, horizon + 1)) * level
    seasonal, found = np.zeros((2, context, len(alpha), horizon))
    seasonal[context - m + np.arange(horizon) % m, :, np.arange(horizon)] = 1.0
    for t in range(context - 1, m - 1, -1):
        error = alpha * level + beta * trend + gamma * seasonal[t]
        found[t] = error
        level, trend = level - error, _DAMPING * (level + trend - error)
        seasonal[t - m] += seasonal[t] - error
    # it begins from the mean of the context, and of each place of the season
    place = np.arange(context) % m
    found += (level - seasonal[:m].sum(0)) / context + seasonal[place] / np.bincount(place)[place, None, None]
    return np.moveaxis(found, 0, 2)


def smoothings(context: int, horizon: int, seasons: Sequence[int]) -> Floats:
    """`smoothing` without a season, and with each of the seasons: [G, H, L]."""
    return np.concatenate([smoothing(context, horizon, season) for season in sorted({1, *seasons})])


def records(filled: Floats, seasons: Sequence[int]) -> Floats:
    """Mean square of the one-step errors of each smoother of `smoothings` in contexts [N, L, V]: [G, N, V].

    The longest season before the first error is left out, and late errors weigh more.
    """
    length, longest = filled.shape[1], seasons[-1]
    weight = 0.5 ** (np.arange(length)[::-1] / (_RECENT * longest))
    weight[:longest] = 0.0
    weight /= weight.sum()
    return np.concatenate([_record(filled, season, weight) for season in sorted({1, *seasons})])


def _record(filled: Floats, m: int, weight: Floats) -> Floats:
    """Sum of the squared one-step errors of the smoothers of a season, weighted [L]: [G, N, V]."""
    alpha, beta, gamma = (one[:, None, None] for one in smoothers(m))
    mean = filled.mean(1)
    seasonal = [filled[:, k::m].mean(1) - mean + 0.0 * alpha for k in range(m)]
    level, trend, total = mean + 0.0 * alpha, 0.0 * (mean + alpha), 0.0 * (mean + alpha)
    for t in range(m, filled.shape[1]):
        ahead = level + _DAMPING * trend
        error = filled[:, t] - ahead - seasonal[t % m]
        level, trend = ahead + alpha * error, _DAMPING * trend + beta * error
        seasonal[t % m] = seasonal[t % m] + gamma * error
        total += weight[t] * error**2
    return np.asarray(total)
