"""`scidiff fluids`: flow fields from sensors, and new ones."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.progress import StatusLine
from scidiff.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from scidiff.fluids.asked import Asked
    from scidiff.fluids.ensemble import Ensemble
    from scidiff.fluids.model import FlowModel

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Flow fields that obey the physics: from sensors, and new ones."
)

_COMMON = """The packaged weights know vorticity of Kolmogorov flow at Reynolds number 200 on 64 x 64 points of a
periodic box of 2 pi by 2 pi, without dimension. Every field is checked by an oracle that the sampler does not use;
--out holds vorticity and velocity over (realization, time, y, x), float64, by the CF conventions. The same seed gives
the same fields, however many are asked for.

Constraints (repeat the option): divergence-free, energy=VALUE, enstrophy=VALUE (means over the box of half the square
of velocity and vorticity), vorticity=LOW:HIGH. A set that is empty is refused, with the two that contradict each other.
"""

RECONSTRUCT = f"""Reconstruct flow fields from sensors, as an ensemble that meets every measured value.

SENSORS is a CSV table with columns x, y and any of vorticity, u, v (empty cells were not measured); with x_end, y_end
and kind (line or area) a row is a mean. Or netCDF with the same variables over one dimension, or with fields over
(y, x) on the grid of the weights, NaN where nothing was measured.

{_COMMON}
\b
Examples:
  scidiff fluids reconstruct sensors.csv --constraint divergence-free --samples 32 --out field.nc --report report.html
  scidiff fluids reconstruct sensors.csv --constraint energy=0.72 --samples 64 --seed 7 --out field.nc
  scidiff fluids reconstruct masked.nc --samples 16 --json

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some fields do not hold what was asked for (they are named);
130 Ctrl-C (nothing is written).
"""

SUPERRESOLVE = f"""Refine a coarse flow field, as an ensemble whose means over the coarse cells are those given.

COARSE is netCDF with any of vorticity, u, v over (y, x): each value the mean over its cell, the box divided evenly; NaN
where nothing is known. A mean over the whole box that is mere rounding (1e-5 of the greatest value) is taken off.

{_COMMON}
\b
Examples:
  scidiff fluids superresolve coarse.nc --samples 16 --out fine.nc --report report.html

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some fields do not hold what was asked for (they are named);
130 Ctrl-C (nothing is written).
"""

GENERATE = f"""Generate flow fields that nobody has measured.

{_COMMON}
\b
Examples:
  scidiff fluids generate --samples 16 --constraint divergence-free --out flows.nc --report report.html
  scidiff fluids generate --samples 4 --constraint enstrophy=9.5 --seed 3 --out flows.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some fields do not hold what was asked for (they are named);
130 Ctrl-C (nothing is written).
"""

Sensors = Annotated[Path, typer.Argument(metavar="SENSORS", help="Table (.csv) or netCDF (.nc) of what was measured.")]
Coarse = Annotated[Path, typer.Argument(metavar="COARSE", help="NetCDF (.nc) of means over coarse cells.")]
Constraint = Annotated[
    list[str] | None, typer.Option("--constraint", metavar="WHAT", help="What must hold besides; repeat it for more.")
]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, max=100_000, help="Fields to draw.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Where the fields go.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="A report: fields, spread, spectrum, certificate.")
]
Model = Annotated[Path | None, typer.Option("--model", metavar="FOLDER", help="Other weights than the packaged ones.")]
Calls = Annotated[int | None, typer.Option(min=2, max=1000, help="Network calls a field.")]
Seed = Annotated[int, typer.Option(help="Seed; the same gives the same fields.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the account as JSON on standard output.")]
Progress = Annotated[bool | None, typer.Option("--progress/--no-progress", help="Default: if a terminal looks on.")]


def reconstruct(
    sensors: Sensors,
    *,
    constraint: Constraint = None,
    samples: Samples = 32,
    out: Out = None,
    report: Report = None,
    model: Model = None,
    calls: Calls = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `RECONSTRUCT`."""
    places = _Places(out=out, report=report, as_json=as_json).check()
    weights = _model(model, device)
    from scidiff.fluids.asked import Asked
    from scidiff.fluids.sensors import read_sensors

    asked = Asked.of(read_sensors(sensors, weights.config), constraint or [])
    _run(weights, asked, _Request(samples=samples, seed=seed, calls=calls), places, StatusLine(progress))


def superresolve(
    coarse: Coarse,
    *,
    constraint: Constraint = None,
    samples: Samples = 16,
    out: Out = None,
    report: Report = None,
    model: Model = None,
    calls: Calls = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `SUPERRESOLVE`."""
    places = _Places(out=out, report=report, as_json=as_json).check()
    weights = _model(model, device)
    from scidiff.fluids.asked import Asked
    from scidiff.fluids.sensors import read_coarse

    asked = Asked.of(read_coarse(coarse, weights.config), constraint or [])
    _run(weights, asked, _Request(samples=samples, seed=seed, calls=calls), places, StatusLine(progress))


def generate(
    *,
    constraint: Constraint = None,
    samples: Samples = 16,
    out: Out = None,
    report: Report = None,
    model: Model = None,
    calls: Calls = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `GENERATE`."""
    places = _Places(out=out, report=report, as_json=as_json).check()
    weights = _model(model, device)
    from scidiff.fluids.asked import Asked

    asked = Asked.of((), constraint or [])
    _run(weights, asked, _Request(samples=samples, seed=seed, calls=calls), places, StatusLine(progress))


app.command(help=RECONSTRUCT)(reconstruct)
app.command(help=SUPERRESOLVE)(superresolve)
app.command(help=GENERATE)(generate)


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where results go."""

    out: Path | None
    report: Path | None
    as_json: bool

    def check(self) -> _Places:
        """Itself; UserError for what cannot be written, before any work starts."""
        from scidiff.atomic import check_writable

        if self.out is None and self.report is None and not self.as_json:
            raise UserError("expected at least one of --out, --report and --json, got none: nothing would come of it")
        for option, path, endings in (("--out", self.out, (".nc",)), ("--report", self.report, (".html", ".htm"))):
            if path is not None:
                if path.suffix.lower() not in endings:
                    raise UserError(f"{option}: expected a file name ending in {endings[0]}, got {str(path)!r}")
                check_writable(path)
        return self


def _model(folder: Path | None, device: str) -> FlowModel:
    import torch

    from scidiff.fluids.model import FlowModel, packaged

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"expected the device cpu or one that torch finds here, got {device!r}") from None
    return FlowModel.load(packaged() if folder is None else folder, device=device)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """How many fields, of which seed, by how many calls."""

    samples: int
    seed: int
    calls: int | None


def _run(weights: FlowModel, asked: Asked, request: _Request, places: _Places, line: StatusLine) -> None:
    """Draw, certify, write, and say what came; exit 3 if a field does not hold."""
    import numpy as np

    from scidiff.errors import SHORT
    from scidiff.fluids import ensemble, fields
    from scidiff.fluids.report import write_report

    def show(done: int, total: int) -> None:
        if line.due():
            line.show(f"field {done} of {total}")

    began = time.monotonic()
    try:
        found = ensemble.draw(
            weights,
            asked.constraint(weights.config),
            samples=request.samples,
            seed=request.seed,
            calls=request.calls or ensemble.CALLS,
            progress=show,
        )
    finally:
        line.clear()
    certificate = asked.certificate(found, weights.config)
    refused = np.flatnonzero(~_held(certificate)).tolist()
    seconds = time.monotonic() - began
    command = shlex.join(["scidiff", *sys.argv[1:]])
    if places.out is not None:
        attributes = {"seed": found.seed, "network_calls": found.calls, "history": command}
        fields.write(fields.dataset(found, weights.config, attributes), places.out)
    if places.report is not None:
        write_report(found, asked, weights, certificate, places.report, command=command, seconds=seconds)
    if places.as_json:
        typer.echo(json.dumps(_record(found, asked, certificate, places) | {"seconds": round(seconds, 2)}, indent=1))
    told = "; ".join(f"{name}: {off.max():.1e}" for name, off in certificate.items())
    typer.echo(f"{len(found)} fields, {len(found) - len(refused)} certified, in {seconds:.1f} s ({told})", err=True)
    if refused:
        typer.echo(f"not certified: fields {', '.join(map(str, refused[:20]))}", err=True)
        raise typer.Exit(SHORT)


def _held(certificate: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which fields hold all: bool [S]."""
    import numpy as np

    from scidiff.fluids.asked import TOLERANCE

    return np.asarray(np.stack([off <= TOLERANCE for off in certificate.values()]).all(0))


def _record(found: Ensemble, asked: Asked, certificate: Mapping[str, np.ndarray], places: _Places) -> dict[str, object]:
    """What `--json` says."""
    from scidiff.fluids.asked import TOLERANCE

    held = _held(certificate)
    return {
        "samples": len(found),
        "certified": int(held.sum()),
        "refused": [int(k) for k in (~held).nonzero()[0]],
        "worst": {name: float(off.max()) for name, off in certificate.items()},
        "tolerance": TOLERANCE,
        "sensors": len(asked.sensors),
        "calls": found.calls,
        "seed": found.seed,
        "out": None if places.out is None else str(places.out),
        "report": None if places.report is None else str(places.report),
    }
