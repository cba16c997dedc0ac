r"""The base forecast that a diffusion forecaster starts from: exponential smoothing, and how far that is usually off.

    z = (context - mean) / scale,   base = W z,   x = mean + scale * base

Mean and scale are those of the context alone, so nothing after the origin is ever known. Smoothing (`smoothing`) is
linear in the context. Theta of the line through it, theta = 0, 1/2 or 1, can be taken off first and continued beside
it, as in the theta method (Hyndman & Billah 2003). All this is linear, and so is a mean of several. At step h smoother
g has the weight  mse_gh^-10  of past windows of all series: one that is a fifth worse counts a sixth, and those that
are about as good are averaged, which forecasts better than the choice of one. The seasonal naive forecast (gamma = 1)
and the mean of all seasons are among them.

Where contexts are short, a series also has a record of its own, which is what ETS is fitted by: r_g, the mean square of
the one-step errors of smoother g in the context. The weights are then

    w_gh  =  mse_gh^-10 (r_g / usual_g)^-5 / sum,     usual_g  the geometric mean of r_g over past windows

unless past windows are forecast worse by that: errors of one step mislead where odd days make most of them. The size of
the errors to come goes half by  sqrt(sum_g w_g r_g),  on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scidiff.timeseries.correlation import apart, over_horizons
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats
from scidiff.timeseries.smoothing import records, smoothings

_FAR = 10.0  # scales: an error farther out counts as if it stood there
_FLAT = 1e-3  # a scale is at least so much of the size of what it scales
_STILL = 1e-2  # scales: a season differs from the next at least so much
_THETAS = np.array([0.0, 0.5, 1.0])[:, None, None]  # of the line, [3, 1, 1]
_POWER = 10.0  # of the mean squared error, in the weight of a smoother
_WINDOWS = 1500  # series of a variable that smoothers are weighed on, at most
_SHORT = 128  # steps of a context, in which a series has a record of its own
_TRUST = 5.0  # exponent of the record
_WORSE = 1.05  # mean squared error of past windows with it: then it is not used
_FLOOR = 1e-3  # added to mean squares of one-step errors


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base forecast.

    Attributes:
        share: [G, 3, H, V], of each of the `smoothings`, and of theta; they sum to 1 at each step.
        spread: [H, V], the usual size of its errors, in units of `unit`.
        usual: [G, V], geometric mean of the records of past windows.
        trust: exponent of the record of a series in the weights of smoothers; 0 leaves all series alike.
        steps: [H, H], the correlation of its errors over the steps of a horizon (see `correlation`).
        variables: [V, V], that over the variables at the same step.
        context: L, steps that it looks back.
        seasons: in steps, ascending; the last is that of `unit`.
    """

    share: Floats
    spread: Floats
    usual: Floats
    trust: float
    steps: Floats
    variables: Floats
    context: int
    seasons: tuple[int, ...]

    @property
    def season(self) -> int:
        """Steps of the longest season."""
        return self.seasons[-1]

    @property
    def recorded(self) -> bool:
        """Whether a context is one in which a series has a record of its own."""
        return 2 * self.season <= self.context <= _SHORT

    def __call__(self, context: Scaled) -> Floats:
        """The forecast in units of the context: [N, H, V]."""
        if not self.trust:
            return np.asarray((self._weights @ context.filled.T).T)
        factor, rise = self._factor(self.record(context)), _rise(context, self.season)
        total, norm = np.zeros((2, len(factor[0]), *self.spread.shape))
        for own, share, every, beyond in zip(factor, self.share, self._every, _beyond(self._every), strict=True):
            line = (share * _THETAS).sum(0) * beyond[:, None]
            smoothed = (every @ context.filled.T).T
            total += own[:, None] * (share.sum(0) * smoothed + line * rise[:, None])
            norm += own[:, None] * share.sum(0)
        return np.asarray(total / norm)

    def spreads(self, context: Scaled) -> Floats:
        """The usual size of its errors in units of the context: [N, H, V]."""
        return self.spread * self.unit(context)

    def unit(self, context: Scaled) -> Floats:
        """By which the errors of a context are large or small: [N, 1, V]."""
        change = unit(context, self.season)
        if not self.recorded:
            return change
        record, share = self.record(context), self.share.sum(1)
        factor = self._factor(record)
        norm = np.einsum("gnv,ghv->nhv", factor, share)
        size = np.einsum("gnv,ghv,nhv->nv", factor * record, share, 1 / norm, optimize=True) / len(self.spread)
        return np.asarray(np.sqrt(np.sqrt(size)[:, None] * change))

    def record(self, context: Scaled) -> Floats:
        """Mean square of the one-step errors of each smoother in a context: [G, N, V], > 0."""
        return records(context.filled, self.seasons) + _FLOOR

    def _factor(self, record: Floats) -> Floats:
        """What a record makes of the share of a smoother: [G, N, V]."""
        return np.asarray((record / self.usual[:, None]) ** -self.trust)

    @cached_property
    def _every(self) -> Floats:
        """[G, H, L]."""
        return smoothings(self.context, len(self.spread), self.seasons)

    @cached_property
    def _weights(self) -> Floats:
        """[V, H, L]."""
        line = (self.share * _THETAS).sum(1) * _beyond(self._every)[:, :, None]
        found = np.einsum("ghv,ghl->vhl", self.share.sum(1), self._every, optimize=True)
        return np.asarray(found + line.sum(0).T[:, :, None] * slope(self.context, self.season))


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
    every = smoothings(length, horizon, seasons)
    rise = _rise(context, season)
    square = np.empty((len(every), len(_THETAS), horizon, variables))
    for g, beyond in enumerate(_beyond(every)):
        error = target - (every[g] @ context.filled.T).T
        line = rise[:, None] * beyond[:, None]
        square[g] = [_mean_square(error - theta * line) for theta in _THETAS]
    square = np.maximum(square, 1e-12)
    share = (square / square.min((0, 1))) ** -_POWER
    share /= share.sum((0, 1))
    base = Base(
        share=share,
        spread=np.ones((horizon, variables)),
        steps=np.eye(horizon),
        variables=np.eye(variables),
        usual=np.ones((len(every), variables)),
        trust=0.0,
        context=length,
        seasons=tuple(seasons),
    )
    if base.recorded:
        usual = np.exp(np.log(base.record(context)).mean(1))
        trusting = replace(base, usual=usual, trust=_TRUST)
        before, after = (_mean_square(target - one(context)).mean() for one in (base, trusting))
        base = trusting if after <= _WORSE * before else base
    context, target = _target(windows, season)
    error = (target - base(context)) / base.unit(context)
    spread = np.maximum(np.sqrt(_mean_square(error)), 1e-3)
    steps, across = over_horizons(error / spread, independent=apart(windows))
    return replace(base, spread=spread, steps=steps, variables=across)


def _rise(context: Scaled, season: int) -> Floats:
    """The slope of contexts: [N, V]."""
    return np.asarray(np.einsum("l,nlv->nv", slope(context.filled.shape[1], season), context.filled))


def _target(windows: Horizons, season: int) -> tuple[Scaled, Floats]:
    """Contexts, and what followed in their units: [N, H, V]."""
    context = scaled(windows.context, season)
    return context, context.standardise(windows.target)


def _mean_square(error: Floats) -> Floats:
    """Of errors [N, H, V], as far as they are known: [H, V]."""
    error = np.clip(error, -_FAR, _FAR)
    seen = ~np.isnan(error)
    return np.asarray((np.where(seen, error, 0.0) ** 2).sum(0) / np.maximum(seen.sum(0), 1))
