"""What every benchmark needs around what it measures: its options, tables, document and exit code."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from scidiff import atomic, runs
from scidiff.errors import UserError

Table = dict[str, Any]


def options(text: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes.

    Args:
        text: the docstring of the benchmark.
        quick: what `--quick` does.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.set_defaults(began=time.perf_counter())
    return parser


def guarded(run: Callable[[argparse.Namespace], int], chosen: argparse.Namespace, *refusals: type[Exception]) -> int:
    """The exit code of a run: its own, 2 for what it refuses (in one line), 130 for Ctrl-C."""
    try:
        return run(chosen)
    except (UserError, *refusals) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    """A line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval by Student's t; the half-width of one value, or beside a NaN, is NaN."""
    mean = statistics.fmean(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def spread(values: Sequence[float]) -> str:
    """`interval` in words."""
    mean, half = interval(values)
    return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def show(table: Table) -> None:
    """Print a table."""
    lines = [[_cell(cell) for cell in line] for line in (table["columns"], *table["rows"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{table['title']}")
    for first, *cells in lines:
        print("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:], strict=True))]))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def publish(
    name: str,
    chosen: argparse.Namespace,
    tables: Sequence[Table],
    *,
    misses: Sequence[str] = (),
    missing: Sequence[str] = (),
    packages: Sequence[str] = (),
    **more: Any,
) -> int:
    """Print what was found, write it if it is asked for, and say how it ended.

    Args:
        name: of the benchmark.
        chosen: parsed by `options`.
        tables: for the screen, and for `workflows/tables.py`.
        misses: bars that were missed, in words; a quick run checks none.
        missing: peers that are not installed.
        packages: peers whose versions are recorded if they are installed.
        more: the document's own keys.

    Returns:
        The exit code: 1 if a bar was missed.
    """
    misses = [] if chosen.quick else list(misses)
    for table in tables:
        show(table)
    for text in [*(f"missing: {one}" for one in missing), *(f"bar missed: {one}" for one in misses)]:
        say(text)
    if chosen.json is not None:
        found = {"benchmark": name, "quick": chosen.quick, "seed": chosen.seed}
        found |= {"seconds": round(time.perf_counter() - chosen.began, 1), "tables": list(tables), **more}
        found |= {"bars_missed": misses, "missing": list(missing), "versions": runs.versions() | installed(packages)}
        atomic.write_json(chosen.json, found)
    return 1 if misses else 0


def installed(packages: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that are there."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
