"""Filling the gaps of a panel with draws, window by window.

A draw is a function of the seed, the identity of its series, the window's place in it and the draw's number: of nothing
else, so that a series is imputed the same alone or among others, in any order, on any number of threads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scidiff.networks.panel import Context
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.constrained import constrained_draws
from scidiff.timeseries.draws import STEPS, TILE, draw, encode
from scidiff.timeseries.grid import Array, Grid
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Ints, Panel
from scidiff.timeseries.restriction import restrict
from scidiff.timeseries.rules import Rules, terms
from scidiff.timeseries.standardise import Translation, scale
from scidiff.timeseries.verdicts import Certifier


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """A grid of W windows of L cells of V variables without its gaps, in the user's units.

    Attributes:
        median: [W, L, V]; what was observed where something was, NaN where the model knows nothing.
        quantiles: [W, L, V] by level in (0, 1), alike.
        draws: [W, K, L, V], alike; None if they were not to be kept.
        verdicts: on the rules, of the series that are done; None if there were none.
        finished: windows that are done; the others are left as they came.
        total: of the windows, W.
    """

    median: Floats
    quantiles: dict[float, Floats]
    draws: Floats | None
    verdicts: Certifier | None
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
        rules: that every draw has to keep, checked against the panel's variables.
        calibration: of the quantiles, in the panel's units; draws and median are left as they are.
    """

    model: ImputerModel
    panel: Panel
    grid: Grid
    translation: Translation
    draws: int
    seed: int = 0
    steps: int = STEPS
    rules: Rules | None = None
    calibration: Calibration | None = None

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
        context = self._context(data, visible, asked)
        if self.rules is None:
            z = draw(self.model, context, **self._keys(number)).cpu()
            z = torch.where(asked, z, torch.nan)
            return self.translation.units(z.double().numpy(), len(self.panel.variables))
        return self._keeping(self.rules, context, number, visible=visible, asked=asked)

    def _known(self) -> torch.Tensor:
        """[1, 1, U] which of the model's variables the panel has."""
        known = torch.zeros(len(self.translation.mean), dtype=torch.bool)
        known[torch.from_numpy(self.translation.there)] = True
        return known[None, None]

    def _context(self, data: Standardised, visible: torch.Tensor, asked: torch.Tensor) -> Context:
        device = next(self.model.denoiser.parameters()).device
        data = Standardised(**{name: value.to(device) for name, value in vars(data).items()})
        return encode(self.model, data, visible=visible.to(device), asked=asked.to(device))

    def _keys(self, number: int) -> dict[str, Any]:
        """What a window's draws are a function of."""
        series = int(self.grid.series[number])
        nth = number - int(np.searchsorted(self.grid.series, series))
        seed = series_seed(self.seed, self.panel.ids[series])
        return {"draws": self.draws, "seed": seed, "number": nth, "steps": self.steps}

    def _keeping(
        self, rules: Rules, context: Context, number: int, *, visible: torch.Tensor, asked: torch.Tensor
    ) -> Floats:
        """Draws that keep the rules within the window."""
        length, columns = asked.shape[1], len(self.panel.variables)
        known = self.grid.mask[number, :length].copy()
        known[:, self.translation.here] &= visible[0].numpy()[:, self.translation.there]
        wanted = np.zeros((length, columns), dtype=bool)
        wanted[:, self.translation.here] = asked[0].numpy()[:, self.translation.there]
        restriction = restrict(
            terms(rules, self.panel.variables, self.grid.time[number, :length], known | wanted),
            values=np.where(known, self.grid.values[number, :length].astype(np.float64), np.nan),
            asked=wanted,
            stds=scale(self.panel.value)[1],
        )
        drawn, _ = constrained_draws(
            self.model, context, restriction, **self._keys(number), panel=(self.translation, columns)
        )
        return np.where(wanted, drawn.cpu().numpy(), np.nan)

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
        verdicts = None if self.rules is None else Certifier(self.rules, self.panel, self.grid)
        number, total = 0, len(self.grid)

        def filled() -> Filled:
            return Filled(
                median=median, quantiles=quantiles, draws=draws, verdicts=verdicts, finished=number, total=total
            )

        try:
            for number in range(total):
                progress(number, total)
                found = self.window(number)
                self._put(found, number, median, quantiles, draws)
                if verdicts is not None:
                    verdicts.add(number, found)
            number = total
            progress(total, total)
        except KeyboardInterrupt:
            raise Interrupted(filled()) from None
        return filled()

    def _put(
        self, found: Floats, number: int, median: Floats, quantiles: dict[float, Floats], draws: Array | None
    ) -> None:
        """Take the draws of a window over where nothing was observed, as the table records values."""
        gap = ~self.grid.mask[number, : self.grid.length[number]]
        found, variable = found[:, gap], np.nonzero(gap)[1]
        here = (number, slice(int(self.grid.length[number])))
        median[here][gap] = self._recorded(np.median(found, axis=0), variable)
        for level, row in self._quantiles(found, variable, list(quantiles)).items():
            quantiles[level][here][gap] = self._recorded(row, variable)
        if draws is not None:
            draws[number, :, here[1]][:, gap] = self._recorded(found, variable)

    def _recorded(self, x: Floats, variable: Ints) -> Floats:
        """Values [..., N] of variables [N] as recorded; as they are under rules, which that could break."""
        return x if self.rules is not None else self.translation.recorded(x, variable)

    def _quantiles(self, found: Floats, variable: Ints, levels: Sequence[float]) -> dict[float, Floats]:
        """Quantiles of draws [K, N] of some variables [N]: [N] by level."""
        made = dict(zip(levels, np.quantile(found, levels, axis=0), strict=True)) if levels else {}
        for level in () if self.calibration is None else levels:
            if level < 0.5:
                own = min(self.calibration.levels, key=lambda held: abs(held - (1 - 2 * level)))  # type: ignore[union-attr]
                upper = min(levels, key=lambda other: abs(other - (1 - level)))
                made[level], made[upper] = self.calibration.interval(found, variable, own)  # type: ignore[union-attr]
        return made

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
