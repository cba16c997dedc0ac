"""`scidiff timeseries detect`: values that cannot be believed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.cli.sharing import sharing
from scidiff.cli.tables import Common, File, names, read, step_of
from scidiff.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from scidiff.timeseries.filling import Request
    from scidiff.timeseries.panel import Panel

DETECT = """Find values that cannot be believed: unit mistakes, exchanged columns, stuck sensors.

Each observed value is hidden and judged by what the model expects in its place given the others. FILE is read as by
`impute`, and the model is chosen or trained in the same way. Nothing is changed: the output has one row a suspicious
value, with what was expected (median and 5-95 %), adjusted tail probabilities and the reason in words.

--rate is the share of accused values that may be innocent, in each of the checks: single values, runs of one value,
whole columns under another's name or in another unit (Benjamini-Hochberg).

\b
Examples:
  scidiff timeseries detect sample --step 60 --out suspects.csv
  scidiff timeseries detect vitals.csv --id stay_id --time charttime --checks value,stuck --rate 0.01
  scidiff timeseries detect vitals.parquet --all --out judged.parquet --json

\b
Exit codes: 0 done, whatever was found; 2 the request cannot be carried out; 130 Ctrl-C.
"""


@sharing(Common)
def detect(
    *,
    file: File,
    options: Common,
    checks: Annotated[str, typer.Option(metavar="NAMES", help="Of value, stuck, column.")] = "value,stuck,column",
    rate: Annotated[float, typer.Option(help="Share of innocent values among those accused, in (0, 1).")] = 0.05,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples that a value is judged by.")] = 20,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="File to write (.csv .parquet), or - for CSV on standard output.")
    ] = "-",
    every: Annotated[bool, typer.Option("--all", help="Write every observed value, not only suspicious ones.")] = False,
) -> None:
    """See `DETECT`."""
    from scidiff.atomic import check_writable
    from scidiff.timeseries.filling import Request
    from scidiff.timeseries.writers import ARRAYS, format_of

    if options.as_json and out == "-":
        out = ""
    if out not in ("", "-"):
        if format_of(out) in ARRAYS:
            raise UserError(f"--out: expected a file name ending in .csv or .parquet, got {out!r}")
        check_writable(out)
    same = ("model", "train", "max_steps", "seed", "device")
    request = Request(draws=samples, **{name: getattr(options, name) for name in same})
    request.check()
    panel, judged = _judged(file, options, request, checks=names(checks) or (), rate=rate)
    written = judged if every else judged[judged["flagged"]]
    _write(written, out)
    _report(panel, judged, rate, out=out, as_json=options.as_json)


def _judged(
    file: str, options: Common, request: Request, *, checks: tuple[str, ...], rate: float
) -> tuple[Panel, pd.DataFrame]:
    """Read, choose or train a model, and judge every value; times are as they came."""
    from scidiff.cli.progress import StatusLine
    from scidiff.timeseries import filling
    from scidiff.timeseries.detect import detect as judge

    line = StatusLine(options.progress)

    def show(text: str) -> None:
        if line.due():
            line.show(text)

    try:
        if line.due(now=True):
            line.show("reading")
        panel = read(file, options.reading(), options.static)
        request = replace(request, step=None if options.step is None else step_of(options.step, panel))
        learned, notes = filling.learned(panel, request, show=show)
        table = judge(
            learned.model,
            panel,
            step=request.step,
            checks=checks,  # type: ignore[arg-type]  # checked there
            rate=rate,
            draws=request.draws,
            seed=request.seed,
            progress=lambda what, k, n: show(f"{what}: {k} of {n} windows"),
        )
    finally:
        line.clear()
    for note in (*(Path(note).name for note in (panel.source.notes if panel.source else ())), *notes):
        typer.echo(note, err=True)
    table["time"] = panel.clock.back(table["time"].to_numpy())
    return panel, table


def _write(table: pd.DataFrame, out: str) -> None:
    from scidiff.timeseries.writers import write_table

    if out == "-":
        table.to_csv(sys.stdout, index=False)
    elif out:
        write_table(table, out)


def _report(panel: Panel, judged: pd.DataFrame, rate: float, *, out: str, as_json: bool) -> None:
    """Say what was found, by reason."""
    flagged = judged[judged["flagged"]]
    each = flagged["reason"].str.split("; ").explode().str.partition(",")[0].str.partition(" with ")[0]
    found: dict[str, Any] = {str(name): int(count) for name, count in each.value_counts().items()}
    unknown = int(judged["p"].isna().sum())
    if as_json:
        account = {"series": len(panel), "values": len(judged), "flagged": len(flagged), "reasons": found,
                   "not_judged": unknown, "rate": rate, "out": out or None}  # fmt: skip
        typer.echo(json.dumps(account, indent=1))
    why = ", ".join(f"{name}: {count:,}" for name, count in found.items())
    text = f"{len(panel):,} series: {len(flagged):,} of {len(judged):,} values are suspicious" + (
        f" ({why})" if why else ""
    )
    typer.echo(text + (f"; {unknown:,} not judged, since the model does not know them" if unknown else ""), err=True)
