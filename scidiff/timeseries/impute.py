"""Filling the gaps of a panel with draws, window by window.

A draw is a function of the seed, the identity of its series, the window's place in it and the draw's number: of nothing
else, so that a series is imputed the same alone or among others, in any order, on any number of threads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.draws import STEPS, TILE, draw, encode
from scidiff.timeseries.grid import Array, Grid
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.standardise import Translation


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """A grid of W windows of L cells of V variables without its gaps, in the user's units.

    Attributes:
        median: [W, L, V]; what was observed where something was, NaN where the model knows nothing.
        quantiles: [W, L, V] by level in (0, 1), alike.
        draws: [W, K, L, V], alike; None if they were not to be kept.
        finished: windows that are done; the others are left as they came.
        total: of the windows, W.
    """

    median: Floats
    quantiles: dict[float, Floats]
    draws: Floats | None
    finished: int
    total: int


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle. `filled` holds the windows that were finished."""

    def __init__(self, filled: Filled):
        super().__init__("interrupted")
        self.filled = filled


def series_seed(seed: int, identity: object) -> int:
    """The seed of one series, in [0, 2^64): a function of the run's seed and its identity as text."""
    digest = hashlib.sha256(f"{seed}\n{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@dataclass(frozen=True, kw_only=True, eq=False)
class Imputation:
    """What it takes to impute the windows of a panel.

    Attributes:
        model: of the weights.
        panel, grid: the table, and its windows.
        translation: between both and the model.
        draws: K.
        seed: of the run.
        steps: network calls a draw.
    """

    model: ImputerModel
    panel: Panel
    grid: Grid
    translation: Translation
    draws: int
    seed: int = 0
    steps: int = STEPS

    def window(self, number: int, *, hidden: Bools | None = None) -> Floats:
        """Draws of what one window of L cells (without padding) lacks: [K, L, V], NaN for what was not asked.

        Args:
            number: of the window.
            hidden: [L, V] observed cells to hide and to ask for as well.
        """
        data = self.translation.standardised(self.grid, number)
        real = data.rows[:, :, None]
        visible = data.observed
        if hidden is not None:
            visible = visible & ~torch.from_numpy(self.translation.across(hidden, False))[None]
        asked = ~visible & real & self._known()
        if not asked.any():
            return np.full((self.draws, *data.values.shape[1:2], len(self.panel.variables)), np.nan)
        return self._draw(data, visible, asked, number)

    def _known(self) -> torch.Tensor:
        """[1, 1, U] which of the model's variables the panel has."""
        known = torch.zeros(len(self.translation.mean), dtype=torch.bool)
        known[torch.from_numpy(self.translation.there)] = True
        return known[None, None]

    def _draw(self, data: Standardised, visible: torch.Tensor, asked: torch.Tensor, number: int) -> Floats:
        device = next(self.model.denoiser.parameters()).device
        data = Standardised(**{name: value.to(device) for name, value in vars(data).items()})
        context = encode(self.model, data, visible=visible.to(device), asked=asked.to(device))
        series = int(self.grid.series[number])
        nth = number - int(np.searchsorted(self.grid.series, series))
        z = draw(
            self.model,
            context,
            draws=self.draws,
            seed=series_seed(self.seed, self.panel.ids[series]),
            number=nth,
            steps=self.steps,
        )
        z = torch.where(asked, z.cpu(), torch.nan)
        return self.translation.units(z.double().numpy(), len(self.panel.variables))

    def fill(
        self,
        *,
        levels: Sequence[float] = (),
        keep: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Filled:
        """Fill all windows.

        Args:
            levels: of the quantiles, in (0, 1).
            keep: also keep the draws.
            progress: told of finished windows and their number in all.

        Raises:
            Interrupted: Ctrl-C; carries what was finished.
        """
        values = self.grid.values.astype(np.float64, copy=False)
        median = values.copy()
        quantiles = {level: values.copy() for level in levels}
        draws = np.repeat(values[:, None], self.draws, axis=1) if keep else None
        number, total = 0, len(self.grid)
        try:
            for number in range(total):
                progress(number, total)
                self._fill_one(number, median, quantiles, draws)
            number = total
            progress(total, total)
        except KeyboardInterrupt:
            raise Interrupted(_filled(median, quantiles, draws, number, total)) from None
        return _filled(median, quantiles, draws, total, total)

    def _fill_one(self, number: int, median: Floats, quantiles: dict[float, Floats], draws: Array | None) -> None:
        gap = ~self.grid.mask[number, : self.grid.length[number]]
        found = self.window(number)[:, gap]
        here = (number, slice(int(self.grid.length[number])))
        made = np.quantile(found, [0.5, *quantiles], axis=0)
        median[here][gap] = made[0]
        for level, row in zip(quantiles, made[1:], strict=True):
            quantiles[level][here][gap] = row
        if draws is not None:
            draws[number, :, here[1]][:, gap] = found

    def seconds_per_window(self, tries: int = 3) -> float:
        """About how long a window takes, from a few of middling size: a part for each, and a part for each tile."""
        order = np.argsort(self.grid.mask.sum((1, 2)), kind="stable")
        chosen = [int(order[len(order) * (2 * k + 1) // (2 * tries)]) for k in range(tries)]
        replace(self, draws=TILE).window(chosen[0])  # what is made once
        spent = []
        for tiles in (1, 2):
            began = time.perf_counter()
            for number in chosen:
                replace(self, draws=tiles * TILE).window(number)
            spent.append((time.perf_counter() - began) / tries)
        tile = max(spent[1] - spent[0], 0.1 * spent[0])
        return max(spent[0] - tile, 0) + tile * -(-self.draws // TILE)


def _filled(median: Floats, quantiles: dict[float, Floats], draws: Floats | None, finished: int, total: int) -> Filled:
    return Filled(median=median, quantiles=quantiles, draws=draws, finished=finished, total=total)
