"""Where imputed tables, samples and reports go, and what is said of them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scidiff.timeseries.account import Account
    from scidiff.timeseries.csv_text import Dialect
    from scidiff.timeseries.panel import Panel
    from scidiff.timeseries.report import Outcome


def destination(out: str | None, draws: Path | None, report: Path | None, *, as_json: bool) -> str | None:
    """Where the table goes: `-` for standard output, None for nowhere."""
    if as_json and out == "-":
        raise UserError("--json and --out -: expected one of them on standard output, got both")
    return "-" if out is None and draws is None and report is None and not as_json else out


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where results go; checked before any work starts.

    Attributes:
        out: of the table: a file, `-` for standard output, or None for nowhere.
        draws, report: files of the samples and of the report, or None.
    """

    out: str | None
    draws: Path | None
    report: Path | None

    @property
    def text(self) -> bool:
        """Whether the table is written as text."""
        return self.out is None or not self.out.lower().endswith(".parquet")

    def check(self) -> None:
        """UserError for what cannot be written."""
        from scidiff.atomic import check_writable
        from scidiff.timeseries.writers import ARRAYS, format_of

        if self.out not in (None, "-"):
            format_of(str(self.out))
            check_writable(str(self.out))
        if self.draws is not None:
            if format_of(self.draws) not in ARRAYS:
                raise UserError(f"--draws: expected a file name ending in .nc, got {str(self.draws)!r}")
            check_writable(self.draws)
        check_file("--report", self.report, PAGES)

    def check_layout(self, panel: Panel) -> None:
        """UserError if the table cannot be written in the format asked for."""
        array = panel.source is not None and panel.source.layout == "array"
        if self.out is not None and array != self.out.lower().endswith(".nc"):
            wanted = "a file name ending in .nc, since netCDF came" if array else "a table, since a table came"
            raise UserError(f"--out: expected {wanted}, got {self.out!r}")

    def write(self, outcome: Outcome, *, levels: tuple[float, ...], complete: bool) -> None:
        """Table, samples and report, as far as they are asked for."""
        from scidiff.timeseries.arrays import draws_dataset, imputed_dataset
        from scidiff.timeseries.imputed import imputed_table
        from scidiff.timeseries.report import write_report
        from scidiff.timeseries.writers import write_dataset

        panel, grid, median = outcome.panel, outcome.grid, outcome.filled.median
        quantiles = {level: outcome.filled.quantiles[level] for level in levels}
        if self.out is not None and self.out.lower().endswith(".nc"):
            write_dataset(imputed_dataset(panel, grid, median, quantiles), self.out)
        elif self.out is not None:
            table = imputed_table(panel, grid, median, quantiles, complete=complete, text=self.text)
            self.write_tables(table, None if panel.source is None else panel.source.text)
        command = command_line()
        if self.draws is not None:
            held = outcome.filled.draws
            attributes = {"seed": outcome.request.seed, "steps": outcome.request.steps, "history": command}
            write_dataset(draws_dataset(panel, grid, held, attributes=attributes), self.draws)  # type: ignore[arg-type]
        if self.report is not None:
            write_report(outcome, self.report, command=command)

    def write_tables(self, tables: pd.DataFrame | Iterable[pd.DataFrame], dialect: Dialect | None) -> None:
        """The table, or its pieces; pieces are made even if they go nowhere."""
        from scidiff.timeseries.writers import write_table

        if self.out is None:
            for _ in tables:
                pass
        elif self.out != "-":
            write_table(tables, self.out, dialect if self.text else None)
        else:
            with tempfile.TemporaryDirectory(prefix="scidiff-") as folder:
                path = Path(folder) / "out.csv"
                write_table(tables, path, dialect)
                with path.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()


def say_account(account: Account, places: Places, *, as_json: bool) -> None:
    """What came of it: lines on standard error, and JSON on standard output if it is asked for."""
    if as_json:
        named = {"out": places.out, "draws": places.draws, "report": places.report}
        files = {name: None if place is None else str(place) for name, place in named.items()}
        typer.echo(json.dumps({**account.as_dict(), **files}, indent=1))
    for line in account.lines():
        typer.echo(line, err=True)
