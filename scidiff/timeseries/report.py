"""What came of an imputation: the account, and a report, one HTML file that holds all it shows and opens offline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.timeseries.account import CELLS, Account
from scidiff.timeseries.charts import Chart, chart
from scidiff.timeseries.evaluate import ALL, Checked
from scidiff.timeseries.filling import Request
from scidiff.timeseries.grid import Grid
from scidiff.timeseries.impute import Filled
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.metrics import Floats
from scidiff.timeseries.pages import made, page, write_page
from scidiff.timeseries.panel import Panel

BAND = (0.05, 0.95)  # quantiles that a report needs
_SERIES, _VARIABLES = 3, 4  # of the drawings
_MOST_ROWS = 400  # of a drawing


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """An imputation and the account of it.

    Attributes:
        panel, learned, request: what was imputed, by what, and what was asked for.
        grid, filled: the result.
        checked: how well observed values were told when they were hidden; None if that was not asked.
        notes: what was decided, one line each.
        seconds: that it took.
        interrupted: whether it was cut off.
    """

    panel: Panel
    learned: Learned
    request: Request
    grid: Grid
    filled: Filled
    checked: Checked | None
    notes: tuple[str, ...]
    seconds: float
    interrupted: bool = False

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """Cells of each variable [V]: in all, observed, filled, left."""
        mask = self.grid.cells(self.grid.mask)
        left = np.isnan(self.grid.cells(self.filled.median))
        total = np.full(mask.shape[1], len(mask))
        return {"cells": total, "observed": mask.sum(0), "filled": (~mask & ~left).sum(0), "left": left.sum(0)}

    def left(self) -> dict[str, str]:
        """Variables with gaps that were not filled, and why."""
        why: dict[str, str] = {}
        here = set(self.learned.translation.here.tolist())
        for v, name in enumerate(self.panel.variables):
            if self.counts["left"][v]:
                if v in here:
                    why[name] = "interrupted"
                elif not self.counts["observed"][v]:
                    why[name] = "the table has no value of it, and the model does not know it"
                else:
                    why[name] = "the model does not know it"
        return why

    @cached_property
    def account(self) -> Account:
        """What came of it, without the numbers themselves."""
        return Account(
            series=len(self.panel),
            variables=self.panel.variables,
            counts={name: int(self.counts[name].sum()) for name in CELLS},
            samples=self.request.draws,
            seed=self.request.seed,
            left_because=self.left(),
            windows=(self.filled.finished, self.filled.total),
            interrupted=self.interrupted,
            verdicts=self.filled.verdicts,
            training=self.learned.model.card.get("training", {}) if self.learned.holdout else {},
            held_out=() if self.checked is None else tuple(self._checked()),
            notes=self.notes,
            seconds=self.seconds,
        )

    def _checked(self) -> list[dict[str, Any]]:
        table = self.checked.table.rename_axis("variable").reset_index()  # type: ignore[union-attr]
        return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def write_report(outcome: Outcome, path: str | Path, *, command: str = "") -> None:
    """Write the report, whole or not at all; the quantiles `BAND` must have been made.

    Args:
        outcome: a run.
        path: the HTML file.
        command: how the run was started.

    Raises:
        UserError: the file cannot be written.
    """
    write_page(render(outcome, command=command), path)


def render(outcome: Outcome, *, command: str = "") -> str:
    """The report as text."""
    return page(
        "report.html.jinja",
        outcome=outcome,
        command=command,
        charts=_charts(outcome),
        rows=_rows(outcome),
        overall=_row(outcome, ALL),
        facts=_facts(outcome),
    )


def _charts(outcome: Outcome) -> list[tuple[str, list[tuple[str, Chart]]]]:
    """Of the series in the middle of how much was observed, the variables with most observations."""
    grid, panel = outcome.grid, outcome.panel
    observed = grid.cells(grid.mask)
    count = np.add.reduceat(observed.sum(1), grid.cell_offsets[:-1])
    rank = np.argsort(count, kind="stable")
    parts = sorted({int(len(rank) * q) for q in (0.5, 0.75, 0.97)})
    drawn = []
    for series in [int(rank[min(part, len(rank) - 1)]) for part in parts][:_SERIES]:
        cells = slice(int(grid.cell_offsets[series]), int(grid.cell_offsets[series + 1]))
        cells = slice(cells.start, min(cells.stop, cells.start + _MOST_ROWS))
        seen = observed[cells].sum(0)
        best = [v for v in np.argsort(-seen, kind="stable")[:_VARIABLES] if seen[v]]
        each = [(panel.label(v), _chart(outcome, cells, v)) for v in best]
        drawn.append((f"{panel.ids[series]}", [(label, c) for label, c in each if c is not None]))
    return [(name, each) for name, each in drawn if each]


def _chart(outcome: Outcome, cells: slice, v: int) -> Chart | None:
    grid = outcome.grid

    def of(dense: Floats) -> Floats:
        return np.asarray(grid.cells(dense[:, :, v])[cells], dtype=np.float64)

    median, low, high = of(outcome.filled.median), *(of(outcome.filled.quantiles[level]) for level in BAND)
    if np.isnan(median).all() or len(median) < 2:
        return None
    time = grid.cell_time[cells]
    first, last = (str(text) for text in outcome.panel.clock.back(time[[0, -1]]))
    seen = np.asarray(grid.cells(grid.mask[:, :, v])[cells])
    return chart(time, median, [(low, high)], np.where(seen, median, np.nan), labels=(first, last))


def _row(outcome: Outcome, name: str) -> dict[str, float]:
    """What the check found of a variable; nothing if it has no hidden value."""
    table = None if outcome.checked is None else outcome.checked.table
    return {} if table is None or name not in table.index else {str(k): v for k, v in table.loc[name].items()}


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The variables, one row each: how much is missing, and what the check found."""
    why = outcome.left()
    return [
        {
            "name": outcome.panel.label(v),
            "observed": int(outcome.counts["observed"][v]),
            "missing": 1 - outcome.counts["observed"][v] / outcome.counts["cells"][v],
            "left": why.get(name, ""),
            "check": _row(outcome, name),
        }
        for v, name in enumerate(outcome.panel.variables)
    ]


def _facts(outcome: Outcome) -> dict[str, str]:
    training = outcome.learned.model.card.get("training", {}) if outcome.learned.holdout else {}
    facts = {
        "Samples": f"{outcome.request.draws}",
        "Seed": f"{outcome.request.seed}",
        "Windows": f"{len(outcome.grid):,} of at most {outcome.grid.values.shape[1]} rows",
        "Time": f"{outcome.seconds:.1f} s",
        **made(),
    }
    if training:
        facts["Training"] = (
            f"held-out loss {training['held_out_loss_before']:.3f} -> {training['held_out_loss']:.3f} "
            f"({training['held_out']} held out)"
        )
    return facts
