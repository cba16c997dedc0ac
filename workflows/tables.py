#!/usr/bin/env python3
"""Tables of benchmarks as Markdown, and into benchmarks/RESULTS.md.

    python workflows/tables.py render results/solvers/result.json results/tables/solvers.md
    python workflows/tables.py insert benchmarks/RESULTS.md results/tables/solvers.md ...

A table goes between `<!-- table: NAME -->` and `<!-- end -->`, NAME being its file's; a text without those markers is
an error, so that no table is lost silently.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from scidiff import atomic


def cell(value: Any) -> str:
    """A number with three significant digits, a missing one as a dash, anything else as it is."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", r"\|").replace("\n", " ")


def render(document: dict[str, Any]) -> str:
    """The tables of a benchmark's document as Markdown."""
    blocks = []
    for table in document["tables"]:
        columns, rows = table["columns"], table["rows"]
        wrong = [row for row in rows if len(row) != len(columns)]
        if wrong:
            raise ValueError(f"expected {len(columns)} cells in every row of {table['title']!r}, got {len(wrong[0])}")
        lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *([cell(value) for value in row] for row in rows)]
        text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
        blocks.append(f"**{table['title']}**\n\n{text}")
    return "\n\n".join(blocks) + "\n"


def insert(text: str, name: str, table: str) -> str:
    """The text with a table in its place."""
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected the markers of table {name!r} once, got {len(pattern.findall(text))}")
    return pattern.sub(lambda match: f"{match[1]}\n{table}\n{match[2]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("render", help="Markdown of a benchmark's document")
    one.add_argument("result", type=Path)
    one.add_argument("out", type=Path)
    other = commands.add_parser("insert", help="put tables between their markers")
    other.add_argument("text", type=Path)
    other.add_argument("tables", type=Path, nargs="+")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "render":
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(chosen.out, render(json.loads(chosen.result.read_text(encoding="utf-8"))))
        else:
            text = chosen.text.read_text(encoding="utf-8")
            for path in chosen.tables:
                text = insert(text, path.stem, path.read_text(encoding="utf-8"))
            atomic.write_text(chosen.text, text)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
