"""A panel whose cells are jointly normal, and its exact conditional distribution, for tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scidiff.timeseries.clock import Clock
from scidiff.timeseries.conditional import Drawn, Window
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.panel import Panel, build


class GaussianConditional:
    """Cells [L, V] that are normal: mean[v], covariance rho^|t - t'| covariance[v, v'].

    Args:
        variables: V names.
        mean: [V].
        covariance: [V, V] between variables.
        rho: between neighbouring rows.
        draws: K.
    """

    def __init__(
        self, variables: tuple[str, ...], *, mean: Floats, covariance: Floats, rho: float = 0.8, draws: int = 50
    ):
        self.variables, self.mean, self.between, self.rho, self.count = variables, mean, covariance, rho, draws
        self.calls = 0

    def covariance(self, time: Floats) -> Floats:
        """Of the cells of some rows, flattened: [L V, L V]."""
        return np.kron(self.rho ** np.abs(time[:, None] - time), self.between)

    def law(self, window: Window, *, visible: Bools, asked: Bools) -> tuple[Floats, Floats]:
        """Mean and covariance of the cells asked for, given the visible ones."""
        whole, mean = self.covariance(window.time), np.tile(self.mean, len(window.time))
        a, b = asked.ravel(), visible.ravel()
        gain = np.linalg.solve(whole[np.ix_(b, b)], whole[np.ix_(b, a)]).T
        known = (window.values.ravel() - mean)[b]
        return mean[a] + gain @ known, whole[np.ix_(a, a)] - gain @ whole[np.ix_(b, a)]

    def draw(self, window: Window, *, visible: Bools, asked: Bools) -> Drawn:
        assert not (visible & asked).any()
        assert not np.isnan(window.values[visible]).any()
        self.calls += 1
        mean, covariance = self.law(window, visible=visible, asked=asked)
        rng = np.random.default_rng(window.number)
        draws = np.full((self.count, *window.values.shape), np.nan)
        root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(mean)))
        draws[:, asked] = mean + rng.normal(size=(self.count, len(mean))) @ root.T
        return Drawn(draws=draws, normal=lambda x: x)

    def panel(self, *, series: int, length: int, seen: float = 1.0, seed: int = 0, digits: int = 12) -> Panel:
        """Series drawn from this distribution, each cell observed with a probability."""
        rng = np.random.default_rng(seed)
        root = np.linalg.cholesky(self.covariance(np.arange(length, dtype=np.float64)))
        z = rng.normal(size=(series, len(root))) @ root.T
        value = (z + np.tile(self.mean, length)).reshape(series * length, -1)
        value[rng.uniform(size=value.shape) > seen] = np.nan
        return build(
            ids=pd.Index([f"s{s}" for s in range(series)]),
            variables=self.variables,
            series=np.repeat(np.arange(series), length),
            time=np.tile(np.arange(length, dtype=np.float64), series),
            value=np.round(value, digits),
            clock=Clock(kind="number"),
        )
