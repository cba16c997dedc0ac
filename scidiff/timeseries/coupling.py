r"""Draws of several series that go together as the errors of their forecasts have gone together.

Series are drawn apart. Before a rule links them, the values of each cell are put into another order, by which no cell
alone changes (Clark et al. 2004, "the Schaake shuffle"): they take the ranks of normal numbers of covariance

    [s, t] = B_s (R_st I) B_t^T,     B_s B_s^T = C_s

with C_s the covariance of the draws of series s, over its cells, and R the correlation between series of what the base
forecast has missed at earlier origins. Conditioning on a hierarchy in the covariance of such draws is the minimum-trace
reconciliation of Wickramasuriya et al. (2019) with its uncertainty; of draws that are independent it would take the
errors of a total and of its parts for independent witnesses, and be too sure.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from scidiff.timeseries.base import Base, scaled
from scidiff.timeseries.conditioning import shrunk_covariance
from scidiff.timeseries.correlation import unit_correlation
from scidiff.timeseries.frequency import Frequency
from scidiff.timeseries.horizons import horizons
from scidiff.timeseries.metrics import keyed_uniform
from scidiff.timeseries.panel import Floats, Ints, Panel
from scidiff.timeseries.widening import PILOT

ORIGINS = 100  # earlier ones, at most
LEAST = 4  # of them, to tell a correlation


def error_correlation(base: Base, panel: Panel, frequency: Frequency, ends: Ints) -> Floats:
    """Correlation [S, S] between series of what a base forecast has missed at the same steps of earlier origins.

    Args:
        base: the forecast; of the variables of the panel.
        panel: S histories that end together.
        frequency: of them.
        ends: [S] how many rows of each are known.
    """
    horizon, count = len(base.spread), len(panel)
    room = int(ends.min()) - base.context - horizon + 1
    if room < LEAST:
        return np.eye(count)
    back = horizon + np.arange(min(room, ORIGINS))
    series, origin = np.tile(np.arange(count), len(back)), (ends - back[:, None]).ravel()
    windows = horizons(panel, frequency, series, origin, context=base.context, horizon=horizon)
    context = scaled(windows.context, base.season)
    error = np.nan_to_num((context.standardise(windows.target) - base(context)) / base.spreads(context))
    together = np.moveaxis(error.reshape(len(back), count, -1), 1, 2).reshape(-1, count)
    return unit_correlation(shrunk_covariance(together))


def coupled(draws: Floats, correlation: Floats, *, seed: int) -> Floats:
    """Draws [S, K, H, V] with the values of each cell in another order.

    Args:
        draws: of S series; K is a multiple of `PILOT`: draw k depends on those of its block, and on the first one.
        correlation: [S, S].
        seed: keys the order.
    """
    cells = draws.reshape(*draws.shape[:2], -1)
    roots = np.stack([_root(shrunk_covariance(own[:PILOT])) for own in cells])
    joint = np.einsum("st,sij,tkj->sitk", correlation, roots, roots)
    joint = unit_correlation(joint.reshape(2 * [cells.shape[0] * cells.shape[2]]))
    uniform = keyed_uniform(cells.shape[1], seed=seed, name="coupling", shape=joint.shape[:1])
    normal = (stats.norm.ppf(uniform) @ _root(joint)).reshape(-1, cells.shape[0], cells.shape[2])
    blocks, ranks = (x.reshape(len(draws), -1, PILOT, cells.shape[2]) for x in (cells, np.moveaxis(normal, 0, 1)))
    rank = np.argsort(np.argsort(ranks, axis=2), axis=2)
    return np.take_along_axis(np.sort(blocks, axis=2), rank, axis=2).reshape(draws.shape)


def _root(covariance: Floats) -> Floats:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
