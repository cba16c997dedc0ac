"""Imputation of files larger than memory: some series are read, filled and written, then the next.

The model is chosen, or trained, on the first piece, and with it the scale of every variable: from there on a series is
filled the same in whatever piece it comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd

from scidiff.errors import UserError
from scidiff.timeseries import csv_text, filling
from scidiff.timeseries.account import Account, together
from scidiff.timeseries.columns import Options
from scidiff.timeseries.filling import Budget, Request
from scidiff.timeseries.imputed import imputed_table
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.readers import PARQUET, TEXT
from scidiff.timeseries.running import outcome_of
from scidiff.timeseries.static import with_static
from scidiff.timeseries.stream import PIECE, stream_panels


def check_streamed(path: Path, request: Request) -> None:
    """UserError for what cannot be done without the whole table in memory."""
    if not path.name.lower().endswith((*TEXT, *PARQUET)):
        raise UserError(f"expected a CSV or Parquet file, to read some series at a time, got {str(path)!r}")
    if request.seconds is not None:
        raise UserError(
            "expected no time budget with a file that is read some series at a time, since its size is unknown"
        )


@dataclass(kw_only=True, eq=False)
class Pieces:
    """The imputed tables of a file, one after another; iterate just once, then ask for the account.

    Ctrl-C ends it after the series that are finished; those of the piece in work that are not come as they were read.

    Attributes:
        path, options: of the file.
        request: what is asked for; without a budget of time.
        static: file of covariates.
        step_of: the step of the grid, given the first panel.
        quantiles, complete, text: as of `imputed_table`.
        piece: bytes that are read at a time.
        show: takes lines on how far it is.
        parts: accounts of what is done.
    """

    path: Path
    options: Options
    request: Request
    static: Path | None = None
    step_of: Callable[[Panel], float | None] = lambda panel: None
    quantiles: Sequence[float] = ()
    complete: bool = True
    text: bool = True
    piece: int = PIECE
    show: Callable[[str], None] = lambda text: None
    parts: list[Account] = field(default_factory=list)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        learned: Learned | None = None
        request, notes = self.request, tuple[str, ...]()
        done = 0
        for read in stream_panels(self.path, self.options, piece=self.piece):
            began = time.monotonic()
            panel = read if self.static is None else with_static(read, self.static, partly=learned is not None)
            if learned is None:
                request = replace(request, step=self.step_of(panel))
                learned, notes = filling.learned(panel, request, budget=Budget.of(request), show=self.show)
                what = "the scale of units" if learned.holdout is None else "the training"
                notes = (*notes, f"read some series at a time: {what} is of the first {len(panel):,}")
            learned = replace(learned, translation=learned.translation.alike(learned.model, panel))
            outcome = outcome_of(
                panel,
                learned,
                request,
                quantiles=self.quantiles,
                notes=notes,
                began=began,
                progress=partial(self._told, done),
            )
            self.parts.append(outcome.account)
            yield imputed_table(
                panel,
                outcome.grid,
                outcome.filled.median,
                {level: outcome.filled.quantiles[level] for level in self.quantiles},
                complete=self.complete,
                text=self.text,
            )
            if outcome.interrupted:
                return
            done += len(panel)

    def _told(self, first: int, done: int, total: int) -> None:
        self.show(f"series {first + 1:,} and on: imputed {done} of {total} windows")

    @property
    def dialect(self) -> csv_text.Dialect | None:
        """How the file is written, if it is text."""
        if not self.path.name.lower().endswith(TEXT):
            return None
        said = self.options
        return csv_text.sniff(self.path, delimiter=said.delimiter, encoding=said.encoding, decimal=said.decimal)

    def account(self) -> Account:
        """Of all pieces."""
        return together(self.parts)
