r"""The base forecast that a diffusion forecaster starts from: exponential smoothing, and how far that is usually off.

    z = (context - mean) / scale,   base = W z,   x = mean + scale * base

Mean and scale are those of the context alone, so nothing after the origin is ever known. Smoothing with an additive
season of m steps and a damped trend (Hyndman et al. 2008, table 2.1, in error-correction form; phi = 0.95),

    e = z_t - l - phi b - s_{t-m},     l <- l + phi b + alpha e,   b <- phi b + beta e,   s_t = s_{t-m} + gamma e

from the means of the context, is linear in the context. Theta of the line through it, theta = 0, 1/2 or 1, can be taken
off first and continued beside it, as in the theta method (Hyndman & Billah 2003). All this is linear, and so is a mean
of several. At step h smoother g has the weight  mse_gh^-10  of past windows: one that is a fifth worse counts a sixth,
and those that are about as good are averaged, which forecasts better than the choice of one. The seasonal naive
forecast (gamma = 1) and the mean of all seasons are among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

_FAR = 10.0  # scales: an error farther out counts as if it stood there
_FLAT = 1e-3  # a scale is at least so much of the size of what it scales
_STILL = 1e-2  # scales: a season differs from the next at least so much
_DAMPING = 0.95  # phi
_THETAS = np.array([0.0, 0.5, 1.0])[:, None, None]  # of the line
_POWER = 10.0  # of the mean squared error, in the weight of a smoother
_WINDOWS = 1500  # series of a variable that smoothers are weighed on, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaled:
    """Contexts [N, L, V] in their own units.

    Attributes:
        mean, scale: [N, 1, V].
        values: [N, L, V] standardised, NaN where missing.
        filled: [N, L, V], gaps filled with what stood a season before.
    """

    mean: Floats
    scale: Floats
    values: Floats
    filled: Floats

    def standardise(self, x: Floats) -> Floats:
        """x [N, H, V] in the units of the context."""
        return (x - self.mean) / self.scale

    def restore(self, z: Floats) -> Floats:
        """The inverse of `standardise`."""
        return self.mean + self.scale * z


def scaled(context: Floats, season: int) -> Scaled:
    """Contexts [N, L, V], NaN where missing, in units of their mean and standard deviation."""
    seen = ~np.isnan(context)
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    value = np.where(seen, context, 0.0)
    mean = value.sum(1, keepdims=True) / count
    std = np.sqrt((np.where(seen, context - mean, 0.0) ** 2).sum(1, keepdims=True) / count)
    size = np.sqrt((value**2).sum(1, keepdims=True) / count)
    scale = np.maximum(std, _FLAT * size)
    scale = np.where(scale > 0, scale, 1.0)
    values = (context - mean) / scale
    filled = values.copy()
    for step in np.flatnonzero(~seen.all((0, 2))):
        gap = np.isnan(filled[:, step])
        earlier = filled[:, step - season] if step >= season else np.zeros_like(filled[:, step])
        filled[:, step] = np.where(gap, earlier, filled[:, step])
    return Scaled(mean=mean, scale=scale, values=values, filled=filled)


def smoothers(season: int) -> tuple[Floats, Floats, Floats]:
    """Those of a season that are tried: alpha of the level, beta of the trend, gamma of the season, each [G]."""
    gammas = (0.0, 0.1, 0.3, 1.0) if season > 1 else (0.0,)
    found = [
        (alpha, trend * alpha, gamma)
        for alpha, trend, gamma in product((0.0, 0.05, 0.15, 0.4, 0.8), (0.0, 0.1), gammas)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base forecast.

    Attributes:
        share: [G, 3, H, V], of each of the `smoothers` of each season, and of theta; they sum to 1 at each step.
        spread: [H, V], the usual size of its errors, in units of `unit`.
        context: L, steps that it looks back.
        seasons: in steps, ascending; the last is that of `unit`.
    """

    share: Floats
    spread: Floats
    context: int
    seasons: tuple[int, ...]

    @property
    def season(self) -> int:
        """Steps of the longest season."""
        return self.seasons[-1]

    def __call__(self, context: Scaled) -> Floats:
        """The forecast in units of the context: [N, H, V]."""
        return np.asarray((self._weights @ context.filled.T).T)

    def spreads(self, context: Scaled) -> Floats:
        """The usual size of its errors in units of the context: [N, H, V]."""
        return self.spread * unit(context, self.season)

    @cached_property
    def _weights(self) -> Floats:
        """[V, H, L]."""
        every = _smoothing(self.context, len(self.spread), self.seasons)
        line = (self.share * _THETAS).sum(1) * _beyond(every)[:, :, None]
        found = np.einsum("ghv,ghl->vhl", self.share.sum(1), every, optimize=True)
        return np.asarray(found + line.sum(0).T[:, :, None] * slope(self.context, self.season))


def _smoothing(context: int, horizon: int, seasons: Sequence[int]) -> Floats:
    """That of no season, and of each of the seasons: [G, H, L]."""
    return np.concatenate([smoothing(context, horizon, season) for season in sorted({1, *seasons})])


def _beyond(every: Floats) -> Floats:
    """How far a line of slope 1 that ends at 0 goes beyond what smoothing [G, H, L] makes of it: [G, H]."""
    _, horizon, context = every.shape
    return np.arange(1, horizon + 1) - every @ np.arange(1.0 - context, 1.0)


def slope(context: int, season: int) -> Floats:
    """The slope of a context, between the means of its first season and of its last, as weights [L]."""
    found = np.zeros(context)
    if context > season:
        found[:season] -= 1 / (season * (context - season))
        found[-season:] += 1 / (season * (context - season))
    return found


def unit(context: Scaled, season: int) -> Floats:
    """By which the errors of a context are large or small: [N, 1, V].

    The root of the median change from season to season, between that (which a few odd days could hide) and 1.
    """
    change = np.abs(context.filled[:, season:] - context.filled[:, :-season])
    if not change.shape[1]:
        return np.ones_like(context.scale)
    return np.asarray(np.sqrt(np.median(change, axis=1, keepdims=True) + _STILL))


def naive(filled: Floats, season: int, horizon: int) -> Floats:
    """What stood one season before, or as many as it takes: [N, L, V] -> [N, H, V]."""
    length = filled.shape[1]
    return filled[:, length - season + np.arange(horizon) % season]


def fit_base(windows: Horizons, *, seasons: Sequence[int]) -> Base:
    """The base forecast for windows with targets; the last season is at most the length of the context."""
    season, (length, variables), horizon = seasons[-1], windows.context.shape[1:], windows.target.shape[1]
    most = min(len(windows), max(_WINDOWS // variables, 1))
    context, target = _target(windows[np.linspace(0, len(windows) - 1, most).round().astype(np.int64)], season)
    every = _smoothing(length, horizon, seasons)
    rise = np.einsum("l,nlv->nv", slope(length, season), context.filled)
    square = np.empty((len(every), len(_THETAS), horizon, variables))
    for g, beyond in enumerate(_beyond(every)):
        error = target - (every[g] @ context.filled.T).T
        line = rise[:, None] * beyond[:, None]
        square[g] = [_mean_square(error - theta * line) for theta in _THETAS]
    square = np.maximum(square, 1e-12)
    share = (square / square.min((0, 1))) ** -_POWER
    share /= share.sum((0, 1))
    base = Base(share=share, spread=np.ones((horizon, variables)), context=length, seasons=tuple(seasons))
    context, target = _target(windows, season)
    spread = np.sqrt(_mean_square((target - base(context)) / unit(context, season)))
    return replace(base, spread=np.maximum(spread, 1e-3))


def _target(windows: Horizons, season: int) -> tuple[Scaled, Floats]:
    """Contexts, and what followed in their units: [N, H, V]."""
    context = scaled(windows.context, season)
    return context, context.standardise(windows.target)


def _mean_square(error: Floats) -> Floats:
    """Of errors [N, H, V], as far as they are known: [H, V]."""
    error = np.clip(error, -_FAR, _FAR)
    seen = ~np.isnan(error)
    return np.asarray((np.where(seen, error, 0.0) ** 2).sum(0) / np.maximum(seen.sum(0), 1))
