"""What a model believes of some cells of a series given others: the one question that checks of data ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from scidiff.errors import UserError
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.draws import STEPS, draw, encode
from scidiff.timeseries.grid import Grid
from scidiff.timeseries.metrics import Bools, Floats
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.standardise import Translation


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A series, or a stretch of one: L rows of V variables.

    Attributes:
        values: [L, V] in the user's units; NaN where nothing was measured.
        time: [L], in the panel's unit.
        number: of the window in its grid; it keys the noise.
        series: number of the series in its panel.
        suspect: [L, V] what others are not to be judged by; None for nothing.
    """

    values: Floats
    time: Floats
    number: int
    series: int
    suspect: Bools | None = None

    @property
    def observed(self) -> Bools:
        """[L, V] where something was measured."""
        return ~np.isnan(self.values)

    @property
    def trusted(self) -> Bools:
        """[L, V] what is observed and not suspect."""
        return self.observed if self.suspect is None else self.observed & ~self.suspect


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Joint draws of some cells of a window.

    Attributes:
        draws: [K, L, V] in the user's units; NaN where nothing was asked.
        normal: [..., L, V] in the user's units -> coordinates, increasing cell by cell, in which the conditional
            distribution is about normal: that is where tails are judged.
    """

    draws: Floats
    normal: Callable[[Floats], Floats]


class Conditional(Protocol):
    """A joint distribution of the cells of a window given others.

    Attributes:
        variables: V names, those of the panel.
    """

    variables: tuple[str, ...]

    def draw(self, window: Window, *, visible: Bools, asked: Bools) -> Drawn:
        """Draws of the cells asked for, given the visible ones: bool [L, V] each; asked cells are not visible."""


def windows(grid: Grid) -> list[Window]:
    """The windows of a grid, without their padding."""
    return [
        Window(
            values=np.asarray(grid.values[w, :length], dtype=np.float64),
            time=grid.time[w, :length],
            number=w,
            series=int(grid.series[w]),
        )
        for w, length in enumerate(grid.length)
    ]


class ImputerConditional:
    """The conditional distribution of an imputation model.

    Args:
        model: its variables are matched by name; those that the panel has besides are not drawn (NaN).
        panel: whose series are asked about.
        draws: K, >= 2.
        seed: of the draws.
        steps: network calls a draw.
        step: of the grid, in the panel's unit of time; None for the table's own times.

    Raises:
        UserError: the model knows none of the panel's variables.
    """

    def __init__(
        self,
        model: ImputerModel,
        panel: Panel,
        *,
        draws: int = 50,
        seed: int = 0,
        steps: int = STEPS,
        step: float | None = None,
    ) -> None:
        self._translation = Translation.of(model, panel, step=step)
        if not len(self._translation.here):
            known = ", ".join(model.config.variables[:8])
            raise UserError(f"expected variables that the model knows ({known}, ...), got {', '.join(panel.variables)}")
        self.variables = panel.variables
        self._model, self._draws, self._seed, self._steps = model, draws, seed, steps

    def draw(self, window: Window, *, visible: Bools, asked: Bools) -> Drawn:
        """See `Conditional`."""
        own = self._translation
        asked_there, visible_there = own.across(asked, False), own.across(visible, False)
        device = next(self._model.denoiser.parameters()).device
        data = Standardised(**{name: part.to(device) for name, part in vars(self._standardised(window)).items()})
        context = encode(
            self._model, data, visible=_tensor(visible_there).to(device), asked=_tensor(asked_there).to(device)
        )
        z = draw(self._model, context, draws=self._draws, seed=self._seed, number=window.number, steps=self._steps)
        draws = own.units(np.where(asked_there, z.double().cpu().numpy(), np.nan), len(self.variables))
        location, scale = (part[0].double().cpu().numpy() for part in (context.location, context.scale))

        def normal(x: Floats) -> Floats:
            """y, the root of y + y^3 / 6 = (z - location) / scale (`Context.standardise`), in float64."""
            z = (own.across(x, np.nan) - own.mean) / own.std
            y = 8**0.5 * np.sinh(np.arcsinh((z - location) / scale * (3 / 8**0.5)) / 3)
            back = np.full(x.shape, np.nan)
            back[..., own.here] = y[..., own.there]
            return back

        return Drawn(draws=draws, normal=normal)

    def _standardised(self, window: Window) -> Standardised:
        own = self._translation
        values = (own.across(window.values, np.nan) - own.mean) / own.std
        times = (window.time - window.time[0]) / own.step
        return Standardised(
            values=torch.tensor(np.nan_to_num(values), dtype=torch.float32)[None],
            observed=torch.from_numpy(~np.isnan(values))[None],
            times=torch.tensor(times, dtype=torch.float32)[None],
            rows=torch.ones(1, len(window.time), dtype=torch.bool),
            static=own.static[window.series][None],
        )


def _tensor(mask: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask))[None]
