r"""Series of a panel that all others attend to, and what is told of them as of an origin.

Which series they are belongs to the model: they are chosen once, so that a draw stays a function of the model, of its
series and of theirs, whatever other series are asked for. Their changes from step to step explain most of the changes
of all series: they are columns of the correlation matrix C, picked by Cholesky's factorisation with pivots,

    k = argmax_k sum_s C_sk^2 / C_kk,     C <- C - C_.k C_k. / C_kk

(Farahat, Ghodsi & Kamel 2013, the greedy column subset selection).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scidiff.errors import UserError
from scidiff.timeseries.panel import Floats, Ints, Panel

_CANDIDATES = 500  # series that are looked at, at most
_TIMES = 2000  # last times that they are compared at
_LEAST = 1e-6  # of the variance of a series that the chosen ones leave
LAGS = (0, 1)  # steps that a reference may be ahead by, where its likeness to a series is told


def features(recent: int) -> int:
    """How many are told of a reference."""
    return 2 * recent + len(LAGS)


def chosen(panel: Panel, count: int) -> tuple[str, ...]:
    """Names of at most `count` series of a panel, its most telling ones first; UserError if it is of one alone."""
    if count and len(panel) < 2:
        raise UserError("references: expected several series, which attend to each other, got one")
    candidates = np.unique(np.linspace(0, len(panel) - 1, min(len(panel), _CANDIDATES)).round().astype(np.int64))
    left = _likeness(panel.select(candidates))
    found: list[int] = []
    for _ in range(min(count, len(candidates))):
        own = np.diag(left).copy()
        gain = np.where(own > _LEAST, (left**2).sum(0) / np.maximum(own, _LEAST), -np.inf)
        k = int(np.argmax(gain))
        if not np.isfinite(gain[k]):
            break
        found.append(k)
        left = left - np.outer(left[:, k], left[k]) / own[k]
    return tuple(str(panel.ids[candidates[k]]) for k in found)


def _likeness(panel: Panel) -> Floats:
    """Correlation [S, S] of changes from step to step at the same times, all variables together."""
    times = np.unique(panel.time)[-_TIMES:]
    table = np.full((len(times), len(panel), len(panel.variables)), np.nan)
    inside = panel.time >= times[0]
    table[np.searchsorted(times, panel.time[inside]), panel.series[inside]] = panel.value[inside]
    change = np.moveaxis(np.diff(table, axis=0), 1, 2).reshape(-1, len(panel))
    unit = _unit(change, axis=0)
    return unit.T @ unit


def _unit(x: Floats, axis: int) -> Floats:
    """x less its mean and over its norm, 0 where it is not known."""
    seen = ~np.isnan(x)
    value = np.where(seen, x, 0.0)
    mean = value.sum(axis, keepdims=True) / np.maximum(seen.sum(axis, keepdims=True), 1)
    value = np.where(seen, x - mean, 0.0)
    norm = np.sqrt((value**2).sum(axis, keepdims=True))
    return np.asarray(value / np.where(norm > 0, norm, 1.0))


def told(panel: Panel, names: Sequence[str], context: Floats, time: Floats, *, recent: int) -> np.ndarray:
    """What is told of references: float32 [N, V, K, features].

    The last values before the origin in units of the reference's own context, whether they were measured, and how
    alike its changes and those of the series are over the context, at the same time and one step ahead.

    Args:
        panel: of the same variables, the references among its series.
        names: K of them.
        context: [N, L, V] of the windows.
        time: [N] of the last row before each origin; nothing later is read.
        recent: how many of the last values.

    Raises:
        UserError: a reference that the panel does not have.
    """
    place = {str(name): k for k, name in enumerate(panel.ids)}
    length = context.shape[1]
    change = _unit(np.diff(context, axis=1), axis=1)
    found = np.zeros((len(context), context.shape[2], len(names), features(recent)), dtype=np.float32)
    for k, name in enumerate(names):
        if name not in place:
            raise UserError(f"expected the series {name} in the table, which the model's other series attend to")
        times, values = panel.times[place[name]], panel.values[place[name]]
        padded = np.concatenate([np.full((length, values.shape[1]), np.nan), values])
        end: Ints = np.searchsorted(times, time, side="right")
        own = padded[end[:, None] + np.arange(length)]
        found[:, :, k] = np.concatenate([*_values(own, recent), *_alike(change, own)], axis=1).swapaxes(1, 2)
    return found


def _values(own: Floats, recent: int) -> tuple[Floats, Floats]:
    """The last values [N, recent, V] of contexts, and whether they were measured."""
    seen = ~np.isnan(own)
    count = np.maximum(seen.sum(1, keepdims=True), 1)
    mean = np.where(seen, own, 0.0).sum(1, keepdims=True) / count
    std = np.sqrt((np.where(seen, own - mean, 0.0) ** 2).sum(1, keepdims=True) / count)
    value = np.where(seen, (own - mean) / np.where(std > 0, std, 1.0), 0.0)
    return np.arcsinh(value[:, -recent:]), seen[:, -recent:].astype(float)


def _alike(change: Floats, own: Floats) -> list[Floats]:
    """Correlation of the changes of series with those of a reference, [N, 1, V] for each of `LAGS`."""
    other = _unit(np.diff(own, axis=1), axis=1)
    steps = change.shape[1]
    return [(change[:, lag:] * other[:, : steps - lag]).sum(1, keepdims=True) for lag in LAGS]
