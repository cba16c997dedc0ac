"""The model for a table: the shipped one, another, or one trained on the table, whichever fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scidiff.errors import UserError
from scidiff.timeseries import fit
from scidiff.timeseries.aliases import match
from scidiff.timeseries.grid import Grid, irregular, regular
from scidiff.timeseries.holdout import Holdout, Split, split
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.smoothness import sharpened
from scidiff.timeseries.standardise import Translation, config_of, model_step, seconds_per_unit, typical_step
from scidiff.timeseries.warm import SIZES, adopt, warm_start

_CELLS = 3000  # of a window: what attention among all of them takes in little time and memory
_ROWS = (24, 192)  # bounds on the rows of a window
_SHIPPED = {"step_seconds": 3600.0, "window": 48}  # of the packaged weights, if their card does not say otherwise


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What to start from, and whether to train it.

    Attributes:
        start: trained weights; None if there are none that know any variable of the table.
        train: whether to train on the table.
        notes: the reasons, one line each.
    """

    start: ImputerModel | None
    train: bool
    notes: tuple[str, ...]


def packaged() -> Path | None:
    """The folder of the weights that travel with the package; None if there is none."""
    folder = Path(str(resources.files("scidiff.timeseries").joinpath("weights", "physionet2012")))
    return folder if folder.exists() else None


def choose(panel: Panel, *, model: ImputerModel | Path | None, train: bool | None, device: str) -> Choice:
    """Decide between what is there and training.

    Args:
        panel: the table.
        model: a model or its folder. Default: the packaged one.
        train: True to train on the table, from the weights where variables match; False never to. Default: only if
            there are variables that the model does not know.
        device: to load weights to.

    Raises:
        UserError: no training is allowed, but no weights know a variable of the table; or weights cannot be read.
    """
    start = _load(model, device)
    measured = [panel.variables[v] for v in np.flatnonzero(panel.observed.any(0))]
    found = match(panel.variables, start.config.variables) if start is not None else {}
    unknown = [name for name in measured if name not in found]
    if start is not None and not found:
        if train is False or model is not None:
            known = ", ".join(start.config.variables[:6])
            raise UserError(f"expected variables that the model knows ({known}, ...), got {', '.join(panel.variables)}")
        start = None
    if train is False and start is None:
        raise UserError("expected a model, since training is forbidden, got none: give --model FOLDER, or --train")
    notes = [f"{name} is {other} of the model" for name, other in found.items() if name != other]
    wanted = bool(unknown) if train is None else train
    if wanted and start is not None and start.config.network != "panel":
        notes.append(f"trained from nothing, since weights of the network {start.config.network!r} cannot be adapted")
        start = None
    if wanted and unknown and start is not None:
        notes.append(f"trained, since the weights do not know {', '.join(unknown)}")
    if not wanted and unknown:
        notes.append(f"left as they are, since the model does not know them: {', '.join(unknown)}")
    return Choice(start=start, train=wanted, notes=tuple(notes))


def _load(model: ImputerModel | Path | None, device: str) -> ImputerModel | None:
    """A model, that of a folder, or the packaged one if there is one."""
    if isinstance(model, ImputerModel):
        return model
    if model is not None:
        return ImputerModel.load(model, device=device)
    folder = packaged()
    if folder is None:
        return None
    found = ImputerModel.load(folder, device=device)
    return replace(found, card={**_SHIPPED, **found.card})


def window_rows(panel: Panel, cells: int, start: ImputerModel | None) -> int:
    """Rows of a window: a function of the model, or of the table that one is trained on.

    Args:
        panel: the table.
        cells: rows of the longest series.
        start: the model.
    """
    if start is not None:
        return int(start.card.get("window", _SHIPPED["window"]))
    low, high = _ROWS
    bound = min(max(_CELLS // len(panel.variables), low), high)
    if len(panel) < 5:  # few series: enough windows, that some can be held out
        bound = min(bound, max(cells // 10, low))
    return bound


def make_grid(panel: Panel, *, step: float | None, window: int | None, overlap: int = 0) -> Grid:
    """A regular grid of a step, or the table's own times."""
    if step is None:
        return irregular(panel, window=window, overlap=overlap)
    return regular(panel, step=step, window=window, overlap=overlap)


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """A model for a table, and what was held out of it while it was trained.

    Attributes:
        model: in evaluation mode, on the device asked for.
        window: rows that it sees at once.
        holdout: of the training; None if there was none.
        translation: between the panel and the model.
    """

    model: ImputerModel
    window: int
    holdout: Holdout | None
    translation: Translation


def ready(panel: Panel, choice: Choice, *, step: float | None) -> Learned:
    """The model as it is; `step` of the grid."""
    if choice.start is None:
        raise ValueError("expected weights, got none")
    window = window_rows(panel, 0, choice.start)
    return Learned(
        model=choice.start, window=window, holdout=None, translation=Translation.of(choice.start, panel, step=step)
    )


def prepare(panel: Panel, choice: Choice, *, step: float | None, seed: int, device: str) -> Learned:
    """A fresh or warm-started model of the panel's variables, with a part of the table held out.

    Args:
        panel: the table.
        choice: what to start from.
        step: of the grid; None for the table's own times.
        seed: of the weights and of what is held out.
        device: to put the model on.

    Raises:
        UserError: no series has two values.
    """
    longest = int(np.diff(make_grid(panel, step=step, window=None).cell_offsets).max())
    window = window_rows(panel, longest, choice.start)
    grid = make_grid(panel, step=step, window=window)
    counts, series = torch.from_numpy(grid.mask.sum((1, 2))), torch.from_numpy(grid.series)
    try:
        chosen = split(counts, series, seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    model = _begin(panel, grid, chosen, choice.start, step=step, seed=seed)
    model = replace(model, card={**model.card, "window": window})
    translation = Translation.of(model, panel, step=step)
    holdout = Holdout.of(translation.standardised(grid), chosen, seed=seed)
    model = sharpened(model, holdout.train, trained=choice.start)
    if choice.start is not None:
        choice.start.denoiser.to("cpu")
        adopt(model, choice.start, holdout.train, seed=seed)
    model.denoiser.to(device).eval()
    return Learned(model=model, window=window, holdout=holdout, translation=translation)


def _begin(
    panel: Panel, grid: Grid, chosen: Split, start: ImputerModel | None, *, step: float | None, seed: int
) -> ImputerModel:
    """The model before training, on the scale of the training windows."""
    values = grid.values[chosen.train.numpy()]
    own = panel.select(np.unique(grid.series[chosen.train.numpy()]))
    length = (step or typical_step(panel)) if start is None else model_step(start, panel, step)
    unit = seconds_per_unit(panel)
    card = {} if unit is None else {"step_seconds": unit * length}
    if start is None:
        sizes: dict[str, Any] = fit.sizes(int((~np.isnan(values)).sum()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ImputerModel.create(config_of(own, values, step=length, sizes=sizes), card=card)
    sizes = {name: getattr(start.config, name) for name in SIZES}
    config = config_of(own, values, step=length, sizes=sizes)
    # on the scale that the weights know, where the table is in the same units
    known = Translation.of(start, panel)
    means, stds = list(config.means), list(config.stds)
    for v, u in zip(known.here, known.there, strict=True):
        if panel.variables[v] in config.variables:
            place = config.variables.index(panel.variables[v])
            means[place], stds[place] = float(known.mean[u]), float(known.std[u])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return replace(warm_start(start, replace(config, means=tuple(means), stds=tuple(stds))), card=card)
