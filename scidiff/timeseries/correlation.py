r"""How the errors of a base forecast go together, over the steps of a horizon and over its variables.

    Corr[(h, v), (g, w)] = S_hg V_vw

each of them estimated from past windows as  (1 - white) R + white I,  R the correlation of the errors in the
coordinates that the denoiser works in. White is the share that minimises the expected squared error of correlations
from so many independent windows (Schaefer & Strimmer 2005, target D, with the variance of correlations of normal
numbers), and at least 0.05: a direction in which past errors hardly varied is no place where nothing can happen.
"""

from __future__ import annotations

import numpy as np
import torch

from scidiff.networks.coordinates import Coordinates
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

_WHITE = 0.05  # at least
_FAR = 10.0  # an error farther out counts as if it stood there


def over_horizons(error: Floats, *, independent: int) -> tuple[Floats, Floats]:
    """S [H, H] and V [V, V], positive definite with ones on the diagonal.

    Args:
        error: [N, H, V] of N windows, in units of their usual size; NaN where not known.
        independent: how many of the windows do not overlap.
    """
    plain = Coordinates(location=torch.zeros(()), scale=torch.ones(()))
    y = plain.standardise(torch.from_numpy(np.clip(error, -_FAR, _FAR))).numpy()
    steps = np.moveaxis(y, 1, 2).reshape(-1, y.shape[1])
    return _shrunk(steps, independent), _shrunk(y.reshape(-1, y.shape[2]), independent)


def apart(windows: Horizons) -> int:
    """How many windows there are that share no step of their horizons, about."""
    block = windows.origin // windows.target.shape[1]
    return len(np.unique(np.stack([windows.series, block]), axis=1).T)


def _shrunk(y: Floats, independent: int) -> Floats:
    """Of the columns of y [N, D], as far as they are known in pairs; shrunk."""
    seen = ~np.isnan(y)
    value, one = np.where(seen, y, 0.0), np.eye(y.shape[1])
    found = unit_correlation(value.T @ value / np.maximum(seen.T.astype(float) @ seen, 1.0))
    off = found[one == 0] ** 2
    noise, size = ((1 - off) ** 2).sum(), (independent - 1) * off.sum()
    white = min(max(noise / size, _WHITE), 1.0) if size > 0 else 1.0
    values, vectors = np.linalg.eigh(found)  # of pairs that are known at different times: it may have values below 0
    found = unit_correlation((vectors * np.maximum(values, 0.0)) @ vectors.T)
    return (1 - white) * found + white * one


def unit_correlation(covariance: Floats) -> Floats:
    """The correlation of a covariance [D, D]; what does not vary is alone."""
    variance = np.diag(covariance)
    std = np.sqrt(np.where(variance > 0, variance, 1.0))
    return np.asarray(covariance / std / std[:, None] + np.diag((variance <= 0).astype(float)))
