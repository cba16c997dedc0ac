"""The command `scidiff`. Nothing heavy is imported before a command runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from scidiff import __version__
from scidiff.cli import conformers, inverting, timeseries
from scidiff.errors import INTERRUPTED, USAGE, UserError
from scidiff.interrupts import noted


class _Group(TyperGroup):
    """Turns what a user can cause into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with noted() as interrupts:
            try:
                return super().invoke(ctx)
            except UserError as error:
                _say(f"error: {error}")
                raise typer.Exit(USAGE) from None
            except typer.Exit:
                raise
            except KeyboardInterrupt:
                raise _interrupted() from None
            except Exception:
                if interrupts:
                    raise _interrupted() from None
                raise


def _interrupted() -> typer.Exit:
    _say("interrupted")
    return typer.Exit(INTERRUPTED)


def _say(text: str) -> None:
    typer.echo(text, err=True)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Scientific diffusion models with certified samples.",
)
app.add_typer(conformers.app, name="molecules")  # with the commands of `molecules`, `learning` and `optimising`
app.add_typer(timeseries.app, name="timeseries")
app.add_typer(inverting.app, name="fluids")  # with the commands of `fluids` and `flow_time`


@app.command(
    "benchmark",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def benchmark(context: typer.Context) -> None:
    """List and run the benchmarks: `scidiff benchmark list`, `scidiff benchmark run NAME`."""
    from scidiff.cli.benchmark import app as benchmarks

    benchmarks(args=context.args or ["--help"], prog_name="scidiff benchmark")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scidiff {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    app(args=sys.argv[1:], prog_name="scidiff")


if __name__ == "__main__":
    main()
