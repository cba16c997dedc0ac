"""`scidiff timeseries`: fill the gaps of tables of time series, with intervals."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.detect import DETECT, detect
from scidiff.cli.tables import (
    Decimal,
    Delimiter,
    Device,
    Duplicates,
    Encoding,
    File,
    Id,
    MaxSteps,
    Model,
    Progress,
    Seed,
    Static,
    Step,
    Time,
    Train,
    Unsorted,
    Value,
    Variable,
    Variables,
    names,
    read,
    step_of,
)
from scidiff.errors import INTERRUPTED, UserError

if TYPE_CHECKING:
    from scidiff.timeseries.columns import Options
    from scidiff.timeseries.filling import Request
    from scidiff.timeseries.panel import Panel
    from scidiff.timeseries.report import Outcome

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Time series with gaps: imputation, and values that cannot be believed.",
)

_IMPUTE = """Fill the gaps of time series, with intervals from many samples.

FILE holds one row a time (wide) or one a measurement (long): CSV, Parquet or netCDF, one series or many; - reads
standard input, and `sample` is 163 stays in intensive care that come with the package. Columns of identity, time,
variable and value are found by their names, or named. What was observed is written back as it came; gaps get the
median, and beside it quantiles. The same seed gives the same samples of a series, alone or among others.

The packaged weights are used where they know all variables (by names such as HR, heart rate or LOINC 8867-4). Else a
model is trained on the table first, from these weights where they know some, until it gets no better on series that
are kept from it or the time budget is over.

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


app.command(help=DETECT)(detect)


@app.command(help=_IMPUTE)
def impute(
    *,
    file: File,
    id_: Id = None,
    time_: Time = None,
    variable: Variable = None,
    value: Value = None,
    variables: Variables = None,
    static: Static = None,
    step: Step = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples of each gap.")] = 50,
    quantiles: Annotated[str, typer.Option(metavar="LEVELS", help="Quantiles to write, with commas.")] = "0.05,0.95",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File to write (.csv .parquet; .nc of netCDF), or - for CSV on standard output. "
            "Default: -, unless --draws, --report or --json is given.",
        ),
    ] = None,
    draws: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all samples (.nc).")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file that opens offline.")
    ] = None,
    constraints: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rules that every sample has to keep (YAML): see the README."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Widen or narrow the quantiles until they hold, on a half of the series."),
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete/--no-complete", help="Also write times and measurements without a row.")
    ] = True,
    model: Model = None,
    train: Train = None,
    time_budget: Annotated[
        str | None,
        typer.Option(help="For training and imputing together: 90s, 10m, 2h. Default: 5m of training at most."),
    ] = None,
    max_steps: MaxSteps = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the training here; one that was cut off goes on.")
    ] = None,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Network calls a sample. Default: 6.")] = None,
    device: Device = "cpu",
    duplicates: Duplicates = "refuse",
    unsorted: Unsorted = "refuse",
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    decimal: Decimal = ".",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
    progress: Progress = None,
) -> None:
    """See `_IMPUTE`."""
    from scidiff.timeseries import filling
    from scidiff.timeseries.calibrating import central
    from scidiff.timeseries.columns import Options
    from scidiff.timeseries.draws import STEPS
    from scidiff.timeseries.rules import Rules

    places = _Places(out=_destination(out, draws, report, as_json=as_json), draws=draws, report=report)
    places.check()
    options = Options(
        id=id_,
        time=time_,
        variable=variable,
        value=value,
        variables=names(variables),
        duplicates=duplicates,
        unsorted=unsorted,
        delimiter=delimiter,
        encoding=encoding,
        decimal=decimal,
    )
    request = filling.Request(
        draws=samples,
        model=model,
        train=train,
        seconds=None if time_budget is None else filling.seconds(time_budget, what="--time-budget"),
        max_steps=max_steps,
        steps=STEPS if steps is None else steps,
        seed=seed,
        device=device,
        run=run,
        rules=None if constraints is None else Rules.read(constraints),
    )
    request.check()
    if calibrate:
        central(filling.levels(quantiles))
    outcome = _run(file, options, request, static=static, step=step, levels=filling.levels(quantiles), places=places,
                   calibrate=calibrate, progress=progress)  # fmt: skip
    _finish(outcome, places, levels=filling.levels(quantiles), complete=complete, as_json=as_json)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


class _Places:
    """Where results go; checked before any work starts."""

    def __init__(self, *, out: str | None, draws: Path | None, report: Path | None) -> None:
        self.out, self.draws, self.report = out, draws, report

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
        if self.report is not None:
            if not self.report.name.lower().endswith((".html", ".htm")):
                raise UserError(f"--report: expected a file name ending in .html, got {str(self.report)!r}")
            check_writable(self.report)

    def check_layout(self, panel: Panel) -> None:
        """UserError if the table cannot be written in the format asked for."""
        array = panel.source is not None and panel.source.layout == "array"
        if self.out is not None and array != self.out.lower().endswith(".nc"):
            wanted = "a file name ending in .nc, since netCDF came" if array else "a table, since a table came"
            raise UserError(f"--out: expected {wanted}, got {self.out!r}")


def _destination(out: str | None, draws: Path | None, report: Path | None, *, as_json: bool) -> str | None:
    if as_json and out == "-":
        raise UserError("--json and --out -: expected one of them on standard output, got both")
    return "-" if out is None and draws is None and report is None and not as_json else out


def _run(
    file: str,
    options: Options,
    request: Request,
    *,
    static: Path | None,
    step: str | None,
    levels: tuple[float, ...],
    places: _Places,
    calibrate: bool,
    progress: bool | None,
) -> Outcome:
    """Read, learn, fill and check."""
    from dataclasses import replace

    from scidiff.cli.progress import StatusLine
    from scidiff.timeseries import filling
    from scidiff.timeseries.running import run as carry_out

    line = StatusLine(progress)
    budget = filling.Budget.of(request)

    def show(text: str) -> None:
        if line.due():
            line.show(text)

    try:
        if line.due(now=True):
            line.show("reading")
        panel = read(file, options, static)
        places.check_layout(panel)
        request = replace(request, step=None if step is None else step_of(step, panel))
        outcome = carry_out(
            panel,
            request,
            budget=budget,
            quantiles=levels,
            keep=places.draws is not None,
            check=places.report is not None,
            calibrate=calibrate,
            show=show,
        )
    finally:
        line.clear()
    if places.report is not None and file == "sample" and request.model is None:
        why = "the packaged weights were trained on stays that the sample is a part of: its check flatters"
        return replace(outcome, notes=(*outcome.notes, why))
    return outcome


def _finish(outcome: Outcome, places: _Places, *, levels: tuple[float, ...], complete: bool, as_json: bool) -> None:
    """Write the files, then say what came of it."""
    from scidiff.timeseries.arrays import draws_dataset
    from scidiff.timeseries.report import write_report
    from scidiff.timeseries.writers import write_dataset

    if places.out is not None:
        _write(outcome, places.out, levels=levels, complete=complete)
    command = shlex.join(["scidiff", *sys.argv[1:]])
    if places.draws is not None:
        held = outcome.filled.draws
        attributes = {"seed": outcome.request.seed, "steps": outcome.request.steps, "history": command}
        write_dataset(draws_dataset(outcome.panel, outcome.grid, held, attributes=attributes), places.draws)  # type: ignore[arg-type]
    if places.report is not None:
        write_report(outcome, places.report, command=command)
    if as_json:
        named = {"out": places.out, "draws": places.draws, "report": places.report}
        files = {name: None if place is None else str(place) for name, place in named.items()}
        typer.echo(json.dumps({**outcome.as_dict(), **files}, indent=1))
    for note in outcome.notes:
        _say(note)
    for name, why in outcome.left().items():
        if not outcome.interrupted:
            _say(f"{name}: gaps left, since {why}")
    _say(outcome.summary())
    if outcome.filled.verdicts is not None:
        _say(outcome.filled.verdicts.summary())


def _write(outcome: Outcome, out: str, *, levels: tuple[float, ...], complete: bool) -> None:
    from scidiff.timeseries.arrays import imputed_dataset
    from scidiff.timeseries.imputed import imputed_table
    from scidiff.timeseries.writers import write_dataset, write_table

    panel, grid, median = outcome.panel, outcome.grid, outcome.filled.median
    quantiles = {level: outcome.filled.quantiles[level] for level in levels}
    if out.lower().endswith(".nc"):
        write_dataset(imputed_dataset(panel, grid, median, quantiles), out)
        return
    text = not out.lower().endswith(".parquet")
    table = imputed_table(panel, grid, median, quantiles, complete=complete, text=text)
    dialect = panel.source.text if panel.source is not None and text else None
    if out != "-":
        write_table(table, out, dialect)
        return
    with tempfile.TemporaryDirectory(prefix="scidiff-") as folder:
        path = Path(folder) / "out.csv"
        write_table(table, path, dialect)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _say(text: str) -> None:
    typer.echo(text, err=True)
