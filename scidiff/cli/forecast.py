"""`scidiff timeseries forecast`: ensembles of what comes next."""

from __future__ import annotations

import json
import shlex
import sys
import time
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scidiff.atomic import check_folder, check_writable
from scidiff.cli.checks import PAGES, check_device, check_file
from scidiff.cli.progress import StatusLine
from scidiff.cli.tables import (
    AsJson,
    Decimal,
    Delimiter,
    Device,
    Duplicates,
    Encoding,
    File,
    Id,
    MaxSteps,
    Progress,
    Seed,
    Static,
    Time,
    Unsorted,
)
from scidiff.cli.tables import names as listed
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.timeseries.forecast import Forecast
    from scidiff.timeseries.forecast_rules import ForecastRules
    from scidiff.timeseries.forecaster import DiffusionForecaster
    from scidiff.timeseries.panel import Panel
    from scidiff.timeseries.widening import Widening

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

Target = Annotated[
    str | None, typer.Option(metavar="NAMES", help="What to forecast; several, with commas, together. Default: all.")
]
Horizon = Annotated[int | None, typer.Option(help="Steps to forecast. Needed, unless --model knows it.")]
Look = Annotated[int | None, typer.Option("--context", help="Steps that a forecast looks back.")]
Ahead = Annotated[
    str | None,
    typer.Option(
        "--future-covariates", metavar="NAMES", help="Columns known over the horizon too, in rows with empty targets."
    ),
]
Before = Annotated[
    str | None, typer.Option("--past-covariates", metavar="NAMES", help="Columns known up to the end of the history.")
]
Holidays = Annotated[
    str | None, typer.Option(metavar="COUNTRY", help="Tell public holidays: DE, US-IL, ... (package holidays).")
]
Season = Annotated[int | None, typer.Option(help="Steps of the season. Default: by the frequency.")]
Network = Annotated[
    Literal["patches", "recurrent"] | None,
    typer.Option(help="The whole horizon at once (the default), or step by step (TimeGrad)."),
]
Members = Annotated[
    int | None,
    typer.Option(help="Networks, each of which draws a share of the futures. Default: 4, or 1 of recurrent."),
]
Samples = Annotated[int, typer.Option("--samples", "-n", help="Futures of each series.")]
Quantiles = Annotated[str, typer.Option(metavar="LEVELS", help="Quantiles to write, with commas.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="File to write (.nc .zarr .csv .parquet), or - for CSV on standard output, the default."
    ),
]
TimeBudget = Annotated[str | None, typer.Option(help="For training: 90s, 10m, 2h. Default: 5m at most.")]
Steps = Annotated[int, typer.Option(help="Network calls a sample.")]
Kept = Annotated[Path | None, typer.Option("--model", metavar="FOLDER", help="A model that --save has written.")]
Constraints = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Rules that every future has to keep (YAML): see the README.")
]
Scenario = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What is told of the future (YAML): totals, known values.")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Widen or narrow the futures until their intervals hold on past windows.")
]
Report = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file that opens offline.")]
Init = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Start training from a model that --save has written.")
]
Save = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the model here.")]


def forecast(
    context: typer.Context,
    *,
    file: File,
    id_: Id = None,
    time_: Time = None,
    target: Target = None,
    future_covariates: Ahead = None,
    past_covariates: Before = None,
    holidays: Holidays = None,
    static: Static = None,
    horizon: Horizon = None,
    look: Look = None,
    season: Season = None,
    network: Network = None,
    members: Members = None,
    samples: Samples = 200,
    quantiles: Quantiles = "0.05,0.95",
    out: Out = None,
    report: Report = None,
    model: Kept = None,
    init: Init = None,
    save: Save = None,
    constraints: Constraints = None,
    scenario: Scenario = None,
    calibrate: Calibrate = False,
    time_budget: TimeBudget = None,
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    steps: Steps = 6,
    device: Device = "cpu",
    duplicates: Duplicates = "refuse",
    unsorted: Unsorted = "refuse",
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    decimal: Decimal = ".",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `FORECAST`."""
    from scidiff.timeseries import filling
    from scidiff.weights import RECORD

    began = time.monotonic()
    out = _place(out, report, as_json=as_json)
    levels = filling.levels(quantiles)
    if save is not None:
        check_folder(save, RECORD)
    forecaster = forecaster_of(context)
    forecaster.constraints = rules_of(constraints, scenario)
    trained = not hasattr(forecaster, "model_")
    found = _forecast(context, forecaster)
    _write(found, out, levels, seed)
    seconds = time.monotonic() - began
    if report is not None:
        _report(forecaster, found, report, samples, seconds)
    if as_json:
        run = {"samples": samples, "seed": seed, "seconds": round(seconds, 2), "out": out}
        typer.echo(json.dumps(_record(forecaster, found, trained=trained) | run, indent=1))
    _tell(forecaster, found, samples, seconds)


def _forecast(context: typer.Context, forecaster: DiffusionForecaster) -> Forecast:
    """What follows the series of the file; the model learns from them if it has not, and is kept if asked for."""
    given = context.params
    line = StatusLine(given["progress"])
    try:
        panel = panel_of(context, forecaster)
        forecaster.check_rules(panel)
        if not hasattr(forecaster, "model_"):
            forecaster.fit_panel(panel, show=lambda text: line.show(text) if line.due() else None)
        if given["save"] is not None:
            forecaster.save(given["save"])
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
        typer.echo(_calibrated(widening), err=True)
    if found.verdicts:
        typer.echo(summary(found.verdicts, samples * len(panel), len(panel)), err=True)


def _calibrated(widening: Widening) -> str:
    told = "; ".join(f"{name} held {a:.1%}, now {b:.1%}" for name, (a, b) in widening.describe().items())
    return f"calibrated on {widening.windows} past windows, and on these same windows: {told}"


def rules_of(constraints: Path | None, scenario: Path | None) -> ForecastRules | None:
    """The rules of both files, those of the scenario last."""
    from scidiff.timeseries.forecast_rules import ForecastRules

    stated = [ForecastRules.read(path) for path in (constraints, scenario) if path is not None]
    return reduce(ForecastRules.__and__, stated) if stated else None


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


def facts_of(forecaster: DiffusionForecaster, samples: int, seconds: float) -> dict[str, str]:
    """What a report says of the model and of the run."""
    config, training = forecaster.model_.config, forecaster.model_.card.get("training", {})
    facts = {
        "Frequency": f"every {config.frequency}",
        "Season": f"{config.season} steps",
        "Context": f"{config.context} steps",
        "Samples": f"{samples}",
        "Seed": f"{forecaster.seed}",
        "Time": f"{seconds:.1f} s",
    }
    if training:
        crps = f"{training['held_out_crps_before']:.3f} -> {training['held_out_crps']:.3f}"
        facts["Training"] = f"{training['windows']:,} windows, held-out CRPS {crps}"
    return facts


def notes_of(forecaster: DiffusionForecaster) -> tuple[str, ...]:
    """What calibration has done."""
    widening = forecaster.widening()
    return () if widening is None else (_calibrated(widening),)


def _report(forecaster: DiffusionForecaster, found: Forecast, report: Path, samples: int, seconds: float) -> None:
    from scidiff.timeseries.forecast_report import write_forecast_report

    notes = (*(found.panel.source.notes if found.panel.source else ()), *notes_of(forecaster))
    facts = facts_of(forecaster, samples, seconds)
    write_forecast_report(found, report, facts=facts, notes=notes, command=shlex.join(["scidiff", *sys.argv[1:]]))


def forecaster_of(context: typer.Context) -> DiffusionForecaster:
    """The forecaster that is asked for, with the model of a folder if one is named."""
    from scidiff.timeseries.forecaster import DiffusionForecaster

    given = context.params
    check_device(given["device"])
    if given["time_budget"] is not None:
        from scidiff.timeseries import filling

        filling.seconds(given["time_budget"], what="--time-budget")
    same = ("time_budget", "max_steps", "seed", "steps", "device", "calibrate")
    settings = {name: given[name] for name in same} | {"n_draws": given["samples"], "target": listed(given["target"])}
    told: dict[str, Any] = {name: listed(given[name]) or () for name in ("future_covariates", "past_covariates")}
    told |= {name: given[name] for name in ("holidays", "init")}
    if given.get("model") is None:
        if given["horizon"] is None:
            raise UserError("--horizon: expected the number of steps to forecast, got none")
        told |= {name: given[name] for name in ("network", "members") if given[name] is not None}
        sizes = {"horizon": given["horizon"], "context": given["look"], "season": given["season"]}
        made = DiffusionForecaster(**sizes, **told, **settings)
        made.check()
        return made
    if given["calibrate"]:
        raise UserError("--calibrate: expected a model that is fitted now, got --model, which is as it was saved")
    told |= {name: given[name] for name in ("horizon", "look", "season", "network", "members")}
    for name in told:
        option = "--context" if name == "look" else f"--{name.replace('_', '-')}"
        if given[name] is not None:
            raise UserError(f"{option}: expected it to be left out with --model, whose it is, got {given[name]}")
    return DiffusionForecaster.read(given["model"], **{k: v for k, v in settings.items() if v is not None})


def panel_of(context: typer.Context, forecaster: DiffusionForecaster) -> Panel:
    """The series of the file, with the columns that were asked for; UserError names what is wrong with it."""
    from scidiff.cli.tables import read
    from scidiff.timeseries.columns import Options

    given = context.params
    options = Options(
        id=given["id_"],
        time=given["time_"],
        variables=forecaster.columns(),
        **{name: given[name] for name in ("duplicates", "unsorted", "delimiter", "encoding", "decimal")},
    )
    return read(given["file"], options, given["static"])


def _write(found: Forecast, out: str | None, levels: tuple[float, ...], seed: int) -> None:
    from scidiff.timeseries.writers import STORE, write_dataset, write_store, write_table

    if out is None:
        return
    history = shlex.join(["scidiff", *sys.argv[1:]])
    if out == "-":
        found.table(levels).to_csv(sys.stdout, index=False)
    elif out.lower().endswith(".nc"):
        write_dataset(found.dataset({"seed": seed, "history": history}), out)
    elif out.lower().endswith(STORE):
        write_store(found.dataset({"seed": seed, "history": history}), out)
    else:
        write_table(found.table(levels), out)
