"""`scidiff timeseries impute`: fill the gaps of tables of time series, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.progress import StatusLine
from scidiff.cli.results import Places, destination, say_account
from scidiff.cli.sharing import sharing
from scidiff.cli.tables import Common, File, read, step_of
from scidiff.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from scidiff.timeseries.account import Account
    from scidiff.timeseries.filling import Request

IMPUTE = """Fill the gaps of time series, with intervals from many samples.

FILE holds one row a time (wide) or one a measurement (long): CSV, Parquet or netCDF, one series or many; - reads
standard input, and `sample` is 163 stays in intensive care that come with the package. Columns of identity, time,
variable and value are found by their names, or named. What was observed is written back as it came; gaps get the
median, and beside it quantiles. The same seed gives the same samples of a series, alone or among others.

The packaged weights are used where they know all variables (by names such as HR, heart rate or LOINC 8867-4). Else a
model is trained on the table first, from these weights where they know some, until it gets no better on series that
are kept from it or the time budget is over.

A CSV or Parquet file that does not fit into memory is read, filled and written some series at a time, if the rows of a
series stand together.

\b
Examples:
  scidiff timeseries impute sample --step 60 --out imputed.csv --report report.html
  scidiff timeseries impute vitals.csv --id stay_id --time charttime --step 1h --samples 50 --out imputed.parquet
  scidiff timeseries impute vitals.csv --step 1h --constraints rules.yaml --out imputed.csv
  scidiff timeseries impute vitals.parquet --draws draws.nc --time-budget 10m --seed 7
  cat vitals.csv | scidiff timeseries impute - --quantiles 0.1,0.9 > imputed.csv

\b
Exit codes: 0 done; 2 the request cannot be carried out; 130 Ctrl-C (what was finished is written).
"""

Samples = Annotated[int, typer.Option("--samples", "-n", help="Samples of each gap.")]
Quantiles = Annotated[str, typer.Option(metavar="LEVELS", help="Quantiles to write, with commas.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File to write (.csv .parquet; .nc of netCDF), or - for CSV on standard output. "
        "Default: -, unless --draws, --report or --json is given.",
    ),
]
Draws = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all samples (.nc).")]
Report = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file that opens offline.")]
Constraints = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Rules that every sample has to keep (YAML): see the README.")
]
Bounds = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=LOW:HIGH", help="Bounds of a variable, either may be left out; may be given again."),
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Widen or narrow the quantiles until they hold, on a half of the series.")
]
Complete = Annotated[
    bool, typer.Option("--complete/--no-complete", help="Also write times and measurements without a row.")
]
Stream = Annotated[
    bool | None,
    typer.Option("--stream/--no-stream", help="Some series at a time. Default: if the file does not fit into memory."),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(help="For training and imputing together: 90s, 10m, 2h. Default: 5m of training at most."),
]
Run = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Keep the training here; one that was cut off goes on.")
]
Steps = Annotated[int | None, typer.Option(help="Network calls a sample. Default: 6.")]


@sharing(Common)
def impute(
    context: typer.Context,
    *,
    file: File,
    options: Common,
    samples: Samples = 50,
    quantiles: Quantiles = "0.05,0.95",
    out: Out = None,
    draws: Draws = None,
    report: Report = None,
    constraints: Constraints = None,
    bounds: Bounds = None,
    calibrate: Calibrate = False,
    complete: Complete = True,
    stream: Stream = None,
    time_budget: TimeBudget = None,
    run: Run = None,
    steps: Steps = None,
) -> None:
    """See `IMPUTE`."""
    places = Places(out=destination(out, draws, report, as_json=options.as_json), draws=draws, report=report)
    places.check()
    request = _request(context)
    levels = _levels(quantiles, calibrate=calibrate)
    line = StatusLine(options.progress)
    try:
        way = _streamed if _in_pieces(context, request) else _whole
        account = way(context, options, request, levels, places, line=line)
    finally:
        line.clear()
    say_account(account, places, as_json=options.as_json)
    if account.interrupted:
        raise typer.Exit(INTERRUPTED)


def _request(context: typer.Context) -> Request:
    """What is asked for, checked as far as that can be done without the table."""
    from scidiff.timeseries import filling
    from scidiff.timeseries.draws import STEPS
    from scidiff.timeseries.rules import Rules

    given = context.params
    budget, steps = given["time_budget"], given["steps"]
    rules = Rules() if given["constraints"] is None else Rules.read(given["constraints"])
    rules = rules.with_bounds(given["bounds"] or ())
    request = filling.Request(
        draws=given["samples"],
        seconds=None if budget is None else filling.seconds(budget, what="--time-budget"),
        steps=STEPS if steps is None else steps,
        rules=rules if rules.variables() else None,
        **{name: given[name] for name in ("model", "train", "max_steps", "seed", "device", "run")},
    )
    request.check()
    return request


def _levels(quantiles: str, *, calibrate: bool) -> tuple[float, ...]:
    from scidiff.timeseries import filling
    from scidiff.timeseries.calibrating import central

    levels = filling.levels(quantiles)
    if calibrate:
        central(levels)
    return levels


def _in_pieces(context: typer.Context, request: Request) -> bool:
    """Whether the file is read some series at a time; UserError if it has to be, and what is asked for forbids it."""
    from scidiff.timeseries.memory import fits_in_memory
    from scidiff.timeseries.pieces import check_streamed

    given = context.params
    path = Path(given["file"])
    if given["stream"] is not None:
        wanted = bool(given["stream"])
    else:
        wanted = path.is_file() and not fits_in_memory(path) and path.suffix != ".nc"
    if wanted:
        for name in ("draws", "report", "calibrate"):
            if given[name]:
                raise UserError(f"--{name}: expected a file that fits into memory, got one that is read in pieces")
        check_streamed(path, request)
    return wanted


def _shower(line: StatusLine) -> Callable[[str], None]:
    def show(text: str) -> None:
        if line.due():
            line.show(text)

    if line.due(now=True):
        line.show("reading")
    return show


def _streamed(
    context: typer.Context,
    options: Common,
    request: Request,
    levels: tuple[float, ...],
    places: Places,
    *,
    line: StatusLine,
) -> Account:
    """Read, fill and write some series at a time."""
    from scidiff.timeseries.pieces import Pieces

    given = context.params
    step = options.step
    pieces = Pieces(
        path=Path(given["file"]),
        options=options.reading(),
        request=request,
        static=options.static,
        step_of=lambda panel: None if step is None else step_of(step, panel),
        quantiles=levels,
        complete=given["complete"],
        text=places.text,
        show=_shower(line),
    )
    places.write_tables(pieces, pieces.dialect)
    return pieces.account()


def _whole(
    context: typer.Context,
    options: Common,
    request: Request,
    levels: tuple[float, ...],
    places: Places,
    *,
    line: StatusLine,
) -> Account:
    """Read, learn, fill, check and write."""
    from scidiff.timeseries import filling
    from scidiff.timeseries.running import run

    given = context.params
    budget, show = filling.Budget.of(request), _shower(line)
    panel = read(given["file"], options.reading(), options.static)
    places.check_layout(panel)
    step = options.step
    request = replace(request, step=None if step is None else step_of(step, panel))
    outcome = run(
        panel,
        request,
        budget=budget,
        quantiles=levels,
        keep=places.draws is not None,
        check=places.report is not None,
        calibrate=given["calibrate"],
        show=show,
    )
    if places.report is not None and given["file"] == "sample" and request.model is None:
        why = "the packaged weights were trained on stays that the sample is a part of: its check flatters"
        outcome = replace(outcome, notes=(*outcome.notes, why))
    places.write(outcome, levels=levels, complete=given["complete"])
    return outcome.account
