"""`scidiff timeseries backtest`: how good forecasts would have been."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.cli.forecasting import Options, facts_of, forecaster_of, notes_of, panel_of, rules_of
from scidiff.cli.progress import StatusLine
from scidiff.cli.sharing import sharing
from scidiff.cli.tables import File
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.timeseries.backtest import Backtest
    from scidiff.timeseries.forecaster import DiffusionForecaster
    from scidiff.timeseries.panel import Panel

BACKTEST = """Forecast the past from several origins, and judge the forecasts beside naive ones.

The model learns from what came before the first origin and from nothing later; at each origin it is told the history up
to it. Beside it stand the seasonal naive forecast, and the same with its own past errors for a spread. Scores: CRPS
(fair), MAE, wQL (quantile loss over 0.1 to 0.9, divided by the mean size: the quantile form of the CRPS), MASE,
CRPS-sum, energy and variogram score (lower is better), coverage of central intervals, and the distance of the PIT from
uniform. The Diebold-Mariano test says whether the CRPS by origin differs from that of either naive forecast.

\b
Examples:
  scidiff timeseries backtest load.csv --time timestamp --target load --horizon 48 --origins 8
  scidiff timeseries backtest shops.parquet --id shop --target sales --horizon 28 --origins 4 --json > scores.json
  scidiff timeseries backtest load.csv --target load --horizon 24 --stride 12 --time-budget 2m --out scores.csv
  scidiff timeseries backtest load.csv --target load --horizon 24 --constraints rules.yaml --report report.html

\b
Exit codes: 0 done, whoever won; 2 the request cannot be carried out; 130 Ctrl-C.
"""

Origins = Annotated[int, typer.Option(help="How many origins; the last stands a horizon before the end.")]
Stride = Annotated[int | None, typer.Option(help="Steps between origins. Default: the horizon.")]
Out = Annotated[str | None, typer.Option(metavar="FILE", help="Write the scores too (.csv .parquet).")]


@sharing(Options)
def backtest(*, file: File, options: Options, origins: Origins = 4, stride: Stride = None, out: Out = None) -> None:
    """See `BACKTEST`."""
    began = time.monotonic()
    _check(out)
    check_file("--report", options.report, PAGES)
    forecaster = forecaster_of(options)
    forecaster.constraints = rules_of(options.constraints, None)
    panel, found = _judged(file, options, forecaster, count=origins, stride=stride)
    if out is not None:
        from scidiff.timeseries.writers import write_table

        write_table(found.table.reset_index(), out)
    seconds = time.monotonic() - began
    if options.report is not None:
        from scidiff.timeseries.forecast_report import write_backtest_report

        facts = facts_of(forecaster, options.samples, seconds)
        command = command_line()
        write_backtest_report(found, options.report, facts=facts, notes=notes_of(forecaster), command=command)
    typer.echo(json.dumps(_record(found, seconds), indent=1) if options.as_json else _shown(found))
    typer.echo(f"{len(panel)} series, {found.origins} origins, {forecaster.horizon} steps: {seconds:.1f} s", err=True)


def _check(out: str | None) -> None:
    """UserError if the scores cannot be written there."""
    from scidiff.atomic import check_writable
    from scidiff.timeseries.writers import ARRAYS, format_of

    if out is not None:
        if format_of(out) in ARRAYS:
            raise UserError(f"--out: expected a file name ending in .csv or .parquet, got {out!r}")
        check_writable(out)


def _judged(
    file: str, options: Options, forecaster: DiffusionForecaster, *, count: int, stride: int | None
) -> tuple[Panel, Backtest]:
    """The series, and what became of forecasting them."""
    from scidiff.timeseries.backtest import backtest as judge

    line = StatusLine(options.progress)
    try:
        panel = panel_of(file, options, forecaster)
        forecaster.check_rules(panel)
        return panel, judge(
            forecaster, panel, count=count, stride=stride, show=lambda text: line.show(text) if line.due() else None
        )
    finally:
        line.clear()


def _shown(found: Backtest) -> str:
    """The table, and what the tests say."""
    lines = [found.table.rename_axis(None).to_string(float_format=lambda value: f"{value:.4g}")]
    for name, test in found.against.items():
        verdict = "cannot be tested" if math.isnan(test.statistic) else f"Diebold-Mariano p = {test.p:.2g}"
        lines.append(f"CRPS less that of {name}: {test.difference:+.4g} ({verdict})")
    return "\n".join(lines)


def _record(found: Backtest, seconds: float) -> dict[str, Any]:
    """Plain values, None where there is no number."""
    table = {
        str(method): {name: None if math.isnan(value) else float(value) for name, value in row.items()}
        for method, row in found.table.to_dict("index").items()
    }
    tests = {
        name: {key: None if math.isnan(value) else float(value) for key, value in vars(test).items()}
        for name, test in found.against.items()
    }
    return {"origins": found.origins, "scores": table, "diebold_mariano": tests, "seconds": round(seconds, 2)}
