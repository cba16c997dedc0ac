"""`scidiff timeseries`: tables of time series."""

from __future__ import annotations

import typer

from scidiff.cli.backtest import BACKTEST, backtest
from scidiff.cli.detect import DETECT, detect
from scidiff.cli.forecast import FORECAST, forecast
from scidiff.cli.impute import IMPUTE, impute

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Time series: gaps filled, values that cannot be believed, and what comes next.",
)
app.command(help=BACKTEST)(backtest)
app.command(help=DETECT)(detect)
app.command(help=FORECAST)(forecast)
app.command(help=IMPUTE)(impute)
