"""What `scidiff timeseries forecast` and `backtest` share: options, the forecaster and the series that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scidiff.cli.tables import Reading, read
from scidiff.cli.tables import names as listed
from scidiff.devices import check_device
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.timeseries.forecast_rules import ForecastRules
    from scidiff.timeseries.forecaster import DiffusionForecaster
    from scidiff.timeseries.panel import Panel
    from scidiff.timeseries.widening import Widening

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
References = Annotated[
    int | None, typer.Option(metavar="N", help="Series, chosen by training, that all others attend to. Default: none.")
]
Samples = Annotated[int, typer.Option("--samples", "-n", help="Futures of each series.")]
TimeBudget = Annotated[str | None, typer.Option(help="For training: 90s, 10m, 2h. Default: 5m at most.")]
Steps = Annotated[int, typer.Option(help="Network calls a sample.")]
Constraints = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Rules that every future has to keep (YAML): see the README.")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Widen or narrow the futures until their intervals hold on past windows.")
]
Report = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file that opens offline.")]
Init = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Start training from a model that --save has written.")
]


@dataclass(frozen=True, kw_only=True)
class Options(Reading):
    """What both commands take."""

    target: Target = None
    future_covariates: Ahead = None
    past_covariates: Before = None
    holidays: Holidays = None
    horizon: Horizon = None
    look: Look = None
    season: Season = None
    references: References = None
    network: Network = None
    members: Members = None
    samples: Samples = 200
    constraints: Constraints = None
    calibrate: Calibrate = False
    init: Init = None
    time_budget: TimeBudget = None
    steps: Steps = 6
    report: Report = None


def forecaster_of(options: Options, model: Path | None = None) -> DiffusionForecaster:
    """The forecaster that is asked for, with the model of a folder if one is named."""
    from scidiff.timeseries.forecaster import DiffusionForecaster

    check_device(options.device)
    if options.time_budget is not None:
        from scidiff.timeseries import filling

        filling.seconds(options.time_budget, what="--time-budget")
    same = ("time_budget", "max_steps", "seed", "steps", "device", "calibrate")
    settings = {name: getattr(options, name) for name in same}
    settings |= {"n_draws": options.samples, "target": listed(options.target)}
    told: dict[str, Any] = {"holidays": options.holidays, "init": options.init}
    told |= {name: listed(getattr(options, name)) or () for name in ("future_covariates", "past_covariates")}
    if model is None:
        if options.horizon is None:
            raise UserError("--horizon: expected the number of steps to forecast, got none")
        own = {name: getattr(options, name) for name in ("references", "network", "members")}
        told |= {name: value for name, value in own.items() if value is not None}
        sizes: dict[str, Any] = {"horizon": options.horizon, "context": options.look, "season": options.season}
        made = DiffusionForecaster(**sizes, **told, **settings)
        made.check()
        return made
    if options.calibrate:
        raise UserError("--calibrate: expected a model that is fitted now, got --model, which is as it was saved")
    learned = ("horizon", "look", "season", "references", "network", "members")
    for name in (*learned, "future_covariates", "past_covariates", "holidays", "init"):
        option, given = "--context" if name == "look" else f"--{name.replace('_', '-')}", getattr(options, name)
        if given is not None:
            raise UserError(f"{option}: expected it to be left out with --model, whose it is, got {given}")
    return DiffusionForecaster.read(model, **{k: v for k, v in settings.items() if v is not None})


def panel_of(file: str, options: Options, forecaster: DiffusionForecaster) -> Panel:
    """The series of the file, with the columns that were asked for; UserError names what is wrong with it."""
    return read(file, options.told(forecaster.columns()), options.static)


def rules_of(constraints: Path | None, scenario: Path | None) -> ForecastRules | None:
    """The rules of both files, those of the scenario last."""
    from scidiff.timeseries.forecast_rules import ForecastRules

    stated = [ForecastRules.read(path) for path in (constraints, scenario) if path is not None]
    return reduce(ForecastRules.__and__, stated) if stated else None


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
    return () if widening is None else (calibrated(widening),)


def calibrated(widening: Widening) -> str:
    """What calibration has done, in one line."""
    told = "; ".join(f"{name} held {a:.1%}, now {b:.1%}" for name, (a, b) in widening.describe().items())
    return f"calibrated on {widening.windows} past windows, and on these same windows: {told}"
