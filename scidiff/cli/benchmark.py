"""`scidiff benchmark`: the measurements behind the tables of benchmarks/RESULTS.md, run from a checkout."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from scidiff.errors import UserError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List and run the benchmarks of a checkout.")

_RUN = """Run one benchmark: benchmarks/NAME.py, peers side by side.

The folder FOLDER (results/NAME, or results/NAME-quick) gets result.json, what was measured, and run.json: settings,
versions, SHA-256 of the benchmark, hardware, time.

\b
Examples:
  scidiff benchmark run solvers --quick
  scidiff benchmark run molecules_moses --json moses.json

Exit codes: 0 done; 1 a bar that the benchmark checks was missed; 2 it could not run; 130 Ctrl-C.
"""

_TABLES = """Make the tables of benchmarks/RESULTS.md from raw data: every benchmark that is out of date, by Snakemake.

Needs the extra [workflows] (pip install '.[workflows]'). Settings: workflows/config.yaml.

\b
Examples:
  scidiff benchmark tables --dry-run
  scidiff benchmark tables --quick --cores 2
"""


def checkout() -> Path:
    """The checkout to work in: the one around the current folder, else the one that the package is imported from.

    Raises:
        UserError: there is neither; benchmarks are not in the installed package.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "benchmarks").is_dir() and (folder / "scidiff" / "cli").is_dir():
            return folder
    raise UserError(
        f"expected a checkout of scidiff around {here}, got none: the installed package has no benchmarks; "
        "clone the repository and run this in it"
    )


def benchmarks(root: Path) -> dict[str, str]:
    """Name and first line of every benchmark of a checkout."""
    found = {}
    for path in sorted((root / "benchmarks").glob("*.py")):
        if not path.stem.startswith("_"):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = text.split("\n", 1)[0]
    return found


@app.command("list", help="List the benchmarks, one a line: name and what it measures.")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object of names and descriptions.")] = False,
) -> None:
    """Print the names and first lines of the benchmarks."""
    found = benchmarks(checkout())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    width = max(map(len, found), default=0)
    for name, line in found.items():
        typer.echo(f"{name:<{width}}  {line}")


@app.command(help=_RUN)
def run(
    name: Annotated[str, typer.Argument(help="Name of the benchmark.", metavar="NAME")],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: fewer samples, fewer seeds.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", dir_okay=False, help="Also write result.json to FILE.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", file_okay=False, help="Folder of the run.")] = None,
) -> None:
    """Run benchmarks/NAME.py in a folder that describes itself."""
    from scidiff import atomic, runs

    root = checkout()
    known = benchmarks(root)
    if name not in known:
        raise UserError(f"expected a benchmark among {', '.join(known) or '(none)'}, got {name!r}")
    script = root / "benchmarks" / f"{name}.py"
    out = Path("results") / (name + "-quick" * quick) if out is None else out
    result = out / "result.json"
    try:
        record = runs.begin(out, config={"benchmark": name, "quick": quick}, seed=seed, inputs=[script])
        result.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"expected a folder that can be written, got {out}: {error.strerror}") from None
    began = time.monotonic()
    command = [sys.executable, str(script), "--json", str(result), "--seed", str(seed), *(["--quick"] if quick else [])]
    code = subprocess.run(command, env=_environment(root), check=False).returncode
    runs.finish(out, record, seconds=time.monotonic() - began, results={"exit": code})
    if json_file is not None and result.is_file():
        atomic.write(json_file, lambda temporary: shutil.copyfile(result, temporary))
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)
    typer.echo(str(result))


@app.command(help=_TABLES)
def tables(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Quick benchmarks; benchmarks/RESULTS.md is left alone.")
    ] = False,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
) -> None:
    """Run the workflow that makes the tables of benchmarks/RESULTS.md."""
    root = checkout()
    if find_spec("snakemake") is None:
        raise UserError("expected the package snakemake, got none: pip install '.[workflows]' in the checkout")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "workflows" / "Snakefile")]
    command += ["--directory", str(root), "--cores", str(cores), *(["--dry-run"] if dry_run else [])]
    command += ["--config", "quick=true"] if quick else []
    code = subprocess.run(command, env=_environment(root), check=False).returncode
    raise typer.Exit(code)


def _environment(root: Path) -> dict[str, str]:
    """The environment, with the checkout importable, so that the benchmarks measure the code beside them."""
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
