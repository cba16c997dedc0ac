"""`scidiff timeseries forecast`: ensembles of what comes next."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.atomic import check_folder, check_writable
from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.cli.forecasting import Options, calibrated, facts_of, forecaster_of, notes_of, panel_of, rules_of
from scidiff.cli.progress import StatusLine
from scidiff.cli.sharing import sharing
from scidiff.cli.tables import File
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.timeseries.forecast import Forecast
    from scidiff.timeseries.forecaster import DiffusionForecaster

FORECAST = """Forecast time series, as ensembles of coherent futures.

FILE holds one row a time, of one series or of many: CSV, Parquet or netCDF; - reads standard input. The frequency is
found out and said. Cells may be empty, but rows may not be missing. A diffusion model is trained on what exponential
smoothing leaves unexplained, until it gets no better on the last part of the table or the time budget is over. The same
seed and model give the same futures of a series, alone or among others.

Covariates are columns of the same table: those of --future-covariates go on over the horizon, in rows with empty
targets; those of --past-covariates end with the history. A model that is kept knows which it needs.

The ending of --out decides what is written: .nc and .zarr all futures over (series, sample, time, variable); .csv and
.parquet one row a series and time with the median and quantiles. --report writes fan charts. With --save FOLDER the
model is kept, and --model FOLDER forecasts with it at once.

\b
Examples:
  scidiff timeseries forecast load.csv --time timestamp --target load --horizon 48 --out forecast.nc
  scidiff timeseries forecast shops.parquet --id shop --target sales --horizon 28 --samples 500 --out forecast.parquet
  scidiff timeseries forecast load.csv --target load --horizon 48 --time-budget 10m --save model --out forecast.csv
  scidiff timeseries forecast load.csv --target load --horizon 48 --future-covariates temperature --holidays DE
  scidiff timeseries forecast load.csv --target load --horizon 48 --constraints rules.yaml --scenario tomorrow.yaml
  scidiff timeseries forecast today.csv --target load --model model --seed 7 --quantiles 0.1,0.9 > forecast.csv

\b
Exit codes: 0 done; 2 the request cannot be carried out; 130 Ctrl-C (nothing is written).
"""

Quantiles = Annotated[str, typer.Option(metavar="LEVELS", help="Quantiles to write, with commas.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="File to write (.nc .zarr .csv .parquet), or - for CSV on standard output, the default."
    ),
]
Kept = Annotated[Path | None, typer.Option("--model", metavar="FOLDER", help="A model that --save has written.")]
Scenario = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What is told of the future (YAML): totals, known values.")
]
Save = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the model here.")]


@sharing(Options)
def forecast(
    *,
    file: File,
    options: Options,
    quantiles: Quantiles = "0.05,0.95",
    scenario: Scenario = None,
    out: Out = None,
    model: Kept = None,
    save: Save = None,
) -> None:
    """See `FORECAST`."""
    from scidiff.timeseries import filling
    from scidiff.weights import RECORD

    began = time.monotonic()
    out = _place(out, options.report, as_json=options.as_json)
    levels = filling.levels(quantiles)
    if save is not None:
        check_folder(save, RECORD)
    forecaster = forecaster_of(options, model)
    forecaster.constraints = rules_of(options.constraints, scenario)
    trained = not hasattr(forecaster, "model_")
    found = _forecast(file, options, forecaster, save)
    _write(found, out, levels, options.seed)
    seconds = time.monotonic() - began
    if options.report is not None:
        _report(forecaster, found, options.report, options.samples, seconds)
    if options.as_json:
        run = {"samples": options.samples, "seed": options.seed, "seconds": round(seconds, 2), "out": out}
        typer.echo(json.dumps(_record(forecaster, found, trained=trained) | run, indent=1))
    _tell(forecaster, found, options.samples, seconds)


def _forecast(file: str, options: Options, forecaster: DiffusionForecaster, save: Path | None) -> Forecast:
    """What follows the series of the file; the model learns from them if it has not, and is kept if asked for."""
    line = StatusLine(options.progress)
    try:
        panel = panel_of(file, options, forecaster)
        forecaster.check_rules(panel)
        if not hasattr(forecaster, "model_"):
            forecaster.fit_panel(panel, show=lambda text: line.show(text) if line.due() else None)
        if save is not None:
            forecaster.save(save)
        return forecaster.forecast_panel(
            panel, progress=lambda done, total: line.show(f"series {done} of {total}") if line.due() else None
        )
    finally:
        line.clear()


def _record(forecaster: DiffusionForecaster, found: Forecast, *, trained: bool) -> dict[str, Any]:
    """What `--json` says of the model and of what came."""
    config, widening = forecaster.model_.config, forecaster.widening()
    return {
        "series": len(found.panel),
        "variables": list(found.panel.variables),
        "frequency": config.frequency,
        "season": config.season,
        "context": config.context,
        "horizon": config.horizon,
        "training": dict(forecaster.model_.card.get("training", {})) if trained else None,
        "calibration": None if widening is None else widening.describe(),
        "constraints": {rule: vars(one) for rule, one in found.verdicts.items()},
    }


def _tell(forecaster: DiffusionForecaster, found: Forecast, samples: int, seconds: float) -> None:
    """What was done, on standard error."""
    from scidiff.timeseries.forecast_verdicts import summary

    panel, config, widening = found.panel, forecaster.model_.config, forecaster.widening()
    for note in panel.source.notes if panel.source else ():
        typer.echo(note, err=True)
    typer.echo(
        f"{len(panel)} series every {config.frequency} (season {config.season}, context {config.context}): "
        f"{samples} futures of {config.horizon} steps in {seconds:.1f} s",
        err=True,
    )
    if widening is not None:
        typer.echo(calibrated(widening), err=True)
    if found.verdicts:
        typer.echo(summary(found.verdicts, samples * len(panel), len(panel)), err=True)


def _place(out: str | None, report: Path | None, *, as_json: bool) -> str | None:
    """Where the forecast goes: `-` for standard output, None for nowhere; checked before any work starts."""
    from scidiff.timeseries.writers import STORE, check_store, format_of

    check_file("--report", report, PAGES)
    if as_json and out == "-":
        raise UserError("--json and --out -: expected one of them on standard output, got both")
    if out is None:
        return None if as_json or report is not None else "-"
    if out.lower().endswith(STORE):
        check_store(out)
    elif out != "-":
        format_of(out)
        check_writable(out)
    return out


def _report(forecaster: DiffusionForecaster, found: Forecast, report: Path, samples: int, seconds: float) -> None:
    from scidiff.timeseries.forecast_report import write_forecast_report

    notes = (*(found.panel.source.notes if found.panel.source else ()), *notes_of(forecaster))
    facts = facts_of(forecaster, samples, seconds)
    write_forecast_report(found, report, facts=facts, notes=notes, command=command_line())


def _write(found: Forecast, out: str | None, levels: tuple[float, ...], seed: int) -> None:
    from scidiff.timeseries.writers import STORE, write_dataset, write_store, write_table

    if out is None:
        return
    history = command_line()
    if out == "-":
        found.table(levels).to_csv(sys.stdout, index=False)
    elif out.lower().endswith(".nc"):
        write_dataset(found.dataset({"seed": seed, "history": history}), out)
    elif out.lower().endswith(STORE):
        write_store(found.dataset({"seed": seed, "history": history}), out)
    else:
        write_table(found.table(levels), out)
