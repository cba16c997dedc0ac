"""What the commands on tables of time series share: options of reading, and the reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scidiff.cli.standard_input import input_file
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.timeseries.columns import Options
    from scidiff.timeseries.panel import Panel

File = Annotated[str, typer.Argument(metavar="FILE", help="The table; - for standard input; sample for a sample.")]
Id = Annotated[str | None, typer.Option("--id", help="Column of identities of the series.")]
Time = Annotated[str | None, typer.Option("--time", help="Column of times.")]
Variable = Annotated[str | None, typer.Option(help="Column of variables of a long table.")]
Value = Annotated[str | None, typer.Option(help="Column of values of a long table.")]
Variables = Annotated[str | None, typer.Option(metavar="NAMES", help="Variables to use, with commas.")]
Static = Annotated[Path | None, typer.Option(metavar="FILE", help="Covariates that do not change: one row a series.")]
Step = Annotated[
    str | None,
    typer.Option(help="Step of a regular grid: 60 in the unit of the times, or 1h. Default: the times as they are."),
]
Model = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder with weights. Default: the packaged ones.")]
Train = Annotated[
    bool | None, typer.Option("--train/--no-train", help="Default: if the weights do not know a variable.")
]
MaxSteps = Annotated[int | None, typer.Option(help="Steps of training in place of a time: repeats to the bit.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Duplicates = Annotated[Literal["refuse", "mean", "last"], typer.Option(help="What several values at one time become.")]
Unsorted = Annotated[Literal["refuse", "sort"], typer.Option(help="What times that go back become.")]
Delimiter = Annotated[str | None, typer.Option(help="Of a text file. Default: found out.")]
Encoding = Annotated[str | None, typer.Option(help="Of a text file. Default: found out.")]
Decimal = Annotated[Literal[".", ","], typer.Option(help="Decimal sign of a text file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")]
Progress = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Default: if standard error is a terminal.")
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What every command on a table takes."""

    id_: Id = None
    time_: Time = None
    static: Static = None
    max_steps: MaxSteps = None
    seed: Seed = 0
    device: Device = "cpu"
    duplicates: Duplicates = "refuse"
    unsorted: Unsorted = "refuse"
    delimiter: Delimiter = None
    encoding: Encoding = None
    decimal: Decimal = "."
    as_json: AsJson = False
    progress: Progress = None

    def told(self, variables: Iterable[str] | None, variable: str | None = None, value: str | None = None) -> Options:
        """What they say of a table with these variables; of a long one, with the columns of variables and values."""
        from scidiff.timeseries.columns import Options

        same = ("duplicates", "unsorted", "delimiter", "encoding", "decimal")
        more = {name: getattr(self, name) for name in same}
        return Options(
            id=self.id_,
            time=self.time_,
            variable=variable,
            value=value,
            variables=None if variables is None else tuple(variables),
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Common(Reading):
    """What commands that fill or judge a table take."""

    variable: Variable = None
    value: Value = None
    variables: Variables = None
    step: Step = None
    model: Model = None
    train: Train = None

    def reading(self) -> Options:
        """What they say of the table."""
        return self.told(names(self.variables), variable=self.variable, value=self.value)


def names(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def read(file: str, options: Options, static: Path | None) -> Panel:
    """The series of a file, of standard input (`-`) or of the packaged `sample`; UserError names what is wrong."""
    from scidiff.timeseries.readers import read_panel
    from scidiff.timeseries.sample import sample_path
    from scidiff.timeseries.static import with_static

    known = sample_path() if file == "sample" and not Path(file).exists() else file
    with input_file(known) as path:
        panel = read_panel(path, options)
    return panel if static is None else with_static(panel, static)


def step_of(text: str, panel: Panel) -> float:
    """The step of a grid, as users write it, in the panel's unit of time."""
    from scidiff.timeseries.filling import seconds
    from scidiff.timeseries.standardise import seconds_per_unit

    try:
        return float(text)
    except ValueError:
        unit = seconds_per_unit(panel)
        if unit is None:
            raise UserError(f"--step: expected a number in the unit of the times, got {text!r}") from None
        return seconds(text, what="--step") / unit
