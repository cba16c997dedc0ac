r"""The base forecast that a diffusion forecaster starts from: the last season again, and how far that is usually off.

    z = (context - mean) / scale,   base = z one season back,   x = mean + scale * base

Mean and scale are those of the context alone, so nothing after the origin is ever known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

_FAR = 10.0  # scales: an error farther out counts as if it stood there
_FLAT = 1e-3  # a scale is at least so much of the size of what it scales


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
    for step in range(filled.shape[1]):
        gap = np.isnan(filled[:, step])
        earlier = filled[:, step - season] if step >= season else np.zeros_like(filled[:, step])
        filled[:, step] = np.where(gap, earlier, filled[:, step])
    return Scaled(mean=mean, scale=scale, values=values, filled=filled)


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A base forecast.

    Attributes:
        spread: [H, V], the usual size of its errors, in units of the context.
        season: steps that it looks back.
    """

    spread: Floats
    season: int

    def __call__(self, context: Scaled) -> Floats:
        """The forecast in units of the context: [N, H, V]."""
        return naive(context.filled, self.season, len(self.spread))


def naive(filled: Floats, season: int, horizon: int) -> Floats:
    """What stood one season before, or as many as it takes: [N, L, V] -> [N, H, V]."""
    length = filled.shape[1]
    return filled[:, length - season + np.arange(horizon) % season]


def fit_base(windows: Horizons, *, season: int) -> Base:
    """The base forecast for windows with targets; the season is at most the length of the context."""
    context = scaled(windows.context, season)
    guess = naive(context.filled, season, windows.target.shape[1])
    error = np.clip(context.standardise(windows.target) - guess, -_FAR, _FAR)
    seen = ~np.isnan(error)
    spread = np.sqrt((np.where(seen, error, 0.0) ** 2).sum(0) / np.maximum(seen.sum(0), 1))
    return Base(spread=np.maximum(spread, 1e-3), season=season)
