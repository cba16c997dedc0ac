"""A request for a table, from the choice of the model to the account of what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scidiff.timeseries import calibrating, evaluate, filling
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.evaluate import Checked
from scidiff.timeseries.filling import Budget, Request
from scidiff.timeseries.impute import Interrupted
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.report import BAND, Outcome


def run(
    panel: Panel,
    request: Request,
    *,
    budget: Budget,
    quantiles: Sequence[float],
    keep: bool = False,
    check: bool = False,
    calibrate: bool = False,
    show: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Learn, calibrate and check if asked to, and fill. Ctrl-C while filling gives the outcome so far.

    Args:
        panel: the table.
        request: what is asked for.
        budget: of time.
        quantiles: to fill in beside the median.
        keep: the draws.
        check: hide observed values and judge what is drawn for them; makes the quantiles of a report as well.
        calibrate: the quantiles.
        show: takes lines on how far it is.

    Raises:
        UserError: what `filling.learned` and `calibrating.calibrate` raise.
        KeyboardInterrupt: Ctrl-C before anything was filled.
    """
    learned, notes = filling.learned(panel, request, budget=budget, show=show)
    notes = (*(Path(note).name for note in (panel.source.notes if panel.source else ())), *notes)
    wanted = tuple(sorted({*quantiles, *BAND})) if check else tuple(quantiles)

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: show(f"{what} {done} of {total} windows")

    calibration, checked = None, None
    if calibrate:
        levels = calibrating.central(wanted)
        calibration, more = calibrating.calibrate(panel, learned, request, levels=levels, progress=told("calibrating:"))
        notes = (*notes, *more)
    if check:
        checked = evaluate.check(panel, learned, request, calibration=calibration, progress=told("checking:"))
    return outcome_of(
        panel,
        learned,
        request,
        quantiles=wanted,
        keep=keep,
        calibration=calibration,
        checked=checked,
        notes=notes,
        began=budget.began,
        progress=told("imputed"),
    )


def outcome_of(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    quantiles: Sequence[float],
    keep: bool = False,
    calibration: Calibration | None = None,
    checked: Checked | None = None,
    notes: tuple[str, ...] = (),
    began: float,
    progress: Callable[[int, int], None],
) -> Outcome:
    """Fill; Ctrl-C gives what is finished. Arguments as of `filling.fill` and `Outcome`; `began` on the clock."""
    interrupted = False
    try:
        grid, filled = filling.fill(
            panel, learned, request, quantiles=quantiles, keep=keep, calibration=calibration, progress=progress
        )
    except Interrupted as stop:
        grid, filled, interrupted = filling.fill_grid(panel, learned, request.step), stop.filled, True
    return Outcome(
        panel=panel,
        learned=learned,
        request=request,
        grid=grid,
        filled=filled,
        checked=checked,
        notes=notes,
        seconds=time.monotonic() - began,
        interrupted=interrupted,
    )
