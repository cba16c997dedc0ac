r"""The base forecast that a diffusion forecaster starts from: seasonal naive, corrected by a ridge regression.

    z = (context - mean) / scale,   base = z one season back + z W,   x = mean + scale * base

Mean and scale are those of the context alone, so nothing after the origin is ever known. W is shared by all series and
its penalty is chosen on folds of time; an infinite one, which leaves the seasonal naive forecast, is among the choices.
What the diffusion learns from are residuals of forecasts whose W was fitted without the fold that they stand in: those
of the fit itself would be too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

FOLDS = 5
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)  # in units of the mean square of a feature times the windows
_FAR = 10.0  # scales: what lies farther out counts as if it stood there
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
        weight: [V, R, H], W of each variable, by which the last R steps of the context count.
        spread: [H, V], the usual size of its errors, in units of the context.
        season: steps that the naive forecast looks back.
    """

    weight: Floats
    spread: Floats
    season: int

    def __call__(self, context: Scaled) -> Floats:
        """The forecast in units of the context: [N, H, V]."""
        rows, horizon = self.weight.shape[1:]
        return naive(context.filled, self.season, horizon) + _linear(context.filled[:, -rows:], self.weight)


def naive(filled: Floats, season: int, horizon: int) -> Floats:
    """What stood one season before, or as many as it takes: [N, L, V] -> [N, H, V]."""
    length = filled.shape[1]
    return filled[:, length - season + np.arange(horizon) % season]


def _linear(filled: Floats, weight: Floats) -> Floats:
    # one window at a time: a product of matrices may round differently with the number of its rows
    far = np.clip(filled, -_FAR, _FAR)
    return np.stack([np.einsum("lv,vlh->hv", one, weight) for one in far])


def fit_base(windows: Horizons, *, season: int, rows: int | None = None) -> tuple[Base, Floats]:
    """A base forecast for windows, and the forecasts of each by weights that did not see its fold: [N, H, V].

    Args:
        windows: with targets.
        season: at most the length of the context.
        rows: R, of the context that W is fitted to. Default: all.
    """
    context = scaled(windows.context, season)
    horizon, width = windows.target.shape[1:]
    features = np.clip(context.filled[:, -(rows or context.filled.shape[1]) :], -_FAR, _FAR)
    start = naive(context.filled, season, horizon)
    rest = np.clip(context.standardise(windows.target) - start, -_FAR, _FAR)
    crossed = start.copy()
    weight = np.zeros((width, features.shape[1], horizon))
    for v in range(width):
        whole = np.asarray(~np.isnan(rest[:, :, v]).any(1))
        x, y = features[:, :, v], np.nan_to_num(rest[:, :, v])
        guesses = _crossed(x, y, whole, windows)
        errors = [np.abs(y - guess)[whole].mean() if whole.any() else 0.0 for guess in guesses]
        best = len(errors) - 1 - int(np.argmin(errors[::-1]))  # the largest penalty, where some are as good
        crossed[:, :, v] += guesses[best]
        weight[v] = _ridge(x[whole], y[whole])[best]
    error = np.clip(context.standardise(windows.target) - crossed, -_FAR, _FAR)
    seen = ~np.isnan(error)
    square = np.where(seen, error, 0.0) ** 2
    spread = np.sqrt(square.sum(0) / np.maximum(seen.sum(0), 1))
    return Base(weight=weight, spread=np.maximum(spread, 1e-3), season=season), crossed


def _crossed(x: Floats, y: Floats, whole: np.ndarray, windows: Horizons) -> Floats:
    """What weights of each penalty, fitted outside the fold of a window, add to it: [penalties, N, H]."""
    guesses = np.zeros((len(_PENALTIES), *y.shape))
    for low, high in pairwise(np.linspace(0, 1, FOLDS + 1)):
        inside = (windows.place >= low) & ((windows.place < high) | (high == 1))
        near = (windows.place > low - windows.margin) & (windows.place < high + windows.margin)
        if not inside.any():
            continue
        fitted = _ridge(x[whole & ~near], y[whole & ~near])
        guesses[:, inside] = np.einsum("nl,plh->pnh", x[inside], fitted, optimize=True)
    return guesses


def _ridge(x: Floats, y: Floats) -> Floats:
    """(x' x + penalty)^-1 x' y for each of the penalties: x [N, L], y [N, H] -> [penalties, L, H]."""
    found = np.zeros((len(_PENALTIES), x.shape[1], y.shape[1]))
    square = float((x**2).sum() / max(x.shape[1], 1))
    if square == 0:
        return found
    value, vector = np.linalg.eigh(x.T @ x)
    seen = vector.T @ (x.T @ y)
    for k, penalty in enumerate(_PENALTIES):
        if np.isfinite(penalty):
            found[k] = vector @ (seen / (np.maximum(value, 0) + penalty * square)[:, None])
    return found
