"""`scidiff timeseries`: tables of time series."""

from __future__ import annotations

import typer

from scidiff.cli.detect import DETECT, detect
from scidiff.cli.impute import IMPUTE, impute

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Time series with gaps: imputation, and values that cannot be believed.",
)
app.command(help=DETECT)(detect)
app.command(help=IMPUTE)(impute)
