"""`scidiff fluids`: flow fields from sensors, and new ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.flow_results import Wanted, conclude, save_report
from scidiff.cli.progress import StatusLine
from scidiff.cli.sharing import sharing
from scidiff.cli.standard_input import input_file
from scidiff.devices import check_device
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.fluids.model import FlowModel
    from scidiff.fluids.tasks import FlowTask
    from scidiff.fluids.wind_fields import WindTask
    from scidiff.fluids.winds import WindModel

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Flow fields that obey the physics: from sensors, and new ones."
)

_COMMON = """The weights, unless --model says others, know vorticity of Kolmogorov flow at Reynolds number 200 on 64
by 64 points of a periodic box of 2 pi by 2 pi, without dimension. Those of --model kolmogorov-told know several such
flows on 32 by 32 points: --reynolds, 50 to 400, and --forcing-waves, 2 or 4, say of which one fields are. Every field
is checked by an oracle that the sampler does not use; --out holds vorticity and velocity over (realization, time, y,
x), float64, by the CF conventions. The same seed gives the same fields, however many are asked for.

Constraints (repeat the option): divergence-free, energy=VALUE, enstrophy=VALUE (means over the box of half the square
of velocity and vorticity), vorticity=LOW:HIGH. A set that is empty is refused, with the two that contradict each other;
so is an energy or enstrophy beyond a tenth and ten times the mean of the flow that the weights know.
"""

RECONSTRUCT = f"""Reconstruct flow fields from sensors, as an ensemble that meets every measured value.

SENSORS is a CSV table with columns x, y and any of vorticity, u, v (empty cells were not measured); with x_end, y_end
and kind (line or area) a row is a mean. Or netCDF with the same variables over one dimension, or with fields over
(y, x) on the grid of the weights, NaN where nothing was measured.

{_COMMON}
With --model winds it is the monthly mean wind at the surface of the Earth, m/s, on 2.5 degrees: columns lat, lon and
u, v or one of them, a month (--month 1 to 12) and no constraints; --out is over (realization, time, lat, lon).

\b
Examples:
  scidiff fluids reconstruct stations.csv --model winds --month 7 --samples 32 --out wind.nc --report report.html
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
  scidiff fluids generate --model kolmogorov-told --reynolds 140 --forcing-waves 2 --out flows.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some fields do not hold what was asked for (they are named);
130 Ctrl-C (nothing is written).
"""

Sensors = Annotated[
    Path,
    typer.Argument(metavar="SENSORS", help="Table (.csv) or netCDF (.nc) of what was measured; - for standard input."),
]
Coarse = Annotated[
    Path, typer.Argument(metavar="COARSE", help="NetCDF (.nc) of means over coarse cells; - for standard input.")
]
Month = Annotated[int | None, typer.Option(min=1, max=12, help="Month of the year, of winds.")]
Constraint = Annotated[
    list[str] | None, typer.Option("--constraint", metavar="WHAT", help="What must hold besides; repeat it for more.")
]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, max=100_000, help="Fields to draw.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE.nc", help="Where the fields go.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="A report: fields, spread, spectrum, certificate.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model", metavar="NAME|FOLDER", help="Weights: kolmogorov, kolmogorov-told, winds, darcy, or a folder."
    ),
]
Calls = Annotated[int | None, typer.Option(min=2, max=1000, help="Network calls a field.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed; the same gives the same fields.")]
Reynolds = Annotated[
    float | None, typer.Option(min=0, help="Reynolds number of the flow, which weights of several flows are told.")
]
ForcingWaves = Annotated[
    int | None, typer.Option(min=1, help="Waves of the force along y, which weights of several flows are told.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the account as JSON on standard output.")]
Progress = Annotated[bool | None, typer.Option("--progress/--no-progress", help="Default: if a terminal looks on.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all three commands take."""

    constraint: Constraint = None
    samples: Samples = 16
    out: Out = None
    report: Report = None
    model: Model = "kolmogorov"
    reynolds: Reynolds = None
    forcing_waves: ForcingWaves = None
    calls: Calls = None
    seed: Seed = 0
    device: Device = "cpu"
    as_json: AsJson = False
    progress: Progress = None

    @property
    def wanted(self) -> Wanted:
        """Files and account."""
        return Wanted(files={"out": self.out, "report": self.report}, as_json=self.as_json)

    def weights(self) -> FlowModel | WindModel:
        """Of the model; UserError for what cannot be written or computed, before any work starts."""
        from scidiff.fluids.model import FlowModel
        from scidiff.fluids.tasks import load
        from scidiff.fluids.winds import WindModel

        self.wanted.check()
        check_device(self.device)
        weights = load(self.model, reynolds=self.reynolds, waves=self.forcing_waves, device=self.device)
        if not isinstance(weights, FlowModel | WindModel):
            raise UserError(f"--model: expected weights of a flow or of winds, got {self.model!r}, of something else")
        return weights

    def flow(self, what: str) -> FlowModel:
        """The weights; UserError if they are of winds, which `what` is not for."""
        from scidiff.fluids.model import FlowModel

        weights = self.weights()
        if not isinstance(weights, FlowModel):
            raise UserError(f"--model: expected weights of a periodic flow to {what}, got {self.model!r}, of winds")
        return weights


@app.command(help=RECONSTRUCT)
@sharing(Options)
def reconstruct(sensors: Sensors, *, month: Month = None, options: Options) -> None:
    """See `RECONSTRUCT`."""
    weights = options.weights()
    from scidiff.fluids.model import FlowModel
    from scidiff.fluids.tasks import FlowTask

    if isinstance(weights, FlowModel):
        from scidiff.fluids.asked import Asked
        from scidiff.fluids.sensors import read_sensors

        if month is not None:
            raise UserError("--month: expected with weights of winds only, got a periodic flow")
        with input_file(sensors) as path:
            asked = Asked.of(read_sensors(path, weights.config), options.constraint or [])
            _run(FlowTask(model=weights, asked=asked), options)
    else:
        from scidiff.fluids.stations import read_stations
        from scidiff.fluids.wind_fields import WindTask, month_of

        if options.constraint:
            raise UserError("--constraint: expected none with weights of winds, which have divergence, got one")
        with input_file(sensors) as path:
            stations = read_stations(path, weights.config)
            _run(WindTask(model=weights, stations=stations, month=month_of(month)), options)


@app.command(help=SUPERRESOLVE)
@sharing(Options)
def superresolve(coarse: Coarse, *, options: Options) -> None:
    """See `SUPERRESOLVE`."""
    weights = options.flow("refine")
    from scidiff.fluids.asked import Asked
    from scidiff.fluids.sensors import read_coarse
    from scidiff.fluids.tasks import FlowTask

    with input_file(coarse) as path:
        asked = Asked.of(read_coarse(path, weights.config), options.constraint or [])
        _run(FlowTask(model=weights, asked=asked), options)


@app.command(help=GENERATE)
@sharing(Options)
def generate(*, options: Options) -> None:
    """See `GENERATE`."""
    weights = options.flow("generate")
    from scidiff.fluids.asked import Asked
    from scidiff.fluids.tasks import FlowTask

    _run(FlowTask(model=weights, asked=Asked.of((), options.constraint or [])), options)


def _run(task: FlowTask | WindTask, options: Options) -> None:
    """Draw, certify, write, and say what came; exit 3 if a field does not hold."""
    from scidiff.fluids import fields
    from scidiff.fluids.asked import TOLERANCE

    began, line = time.monotonic(), StatusLine(options.progress)

    def show(done: int, total: int) -> None:
        if line.due():
            line.show(f"field {done} of {total}")

    try:
        found: Any = task.draw(samples=options.samples, seed=options.seed, calls=options.calls, progress=show)
    finally:
        line.clear()
    certificate = {name: (off, TOLERANCE) for name, off in task.certificate(found).items()}
    seconds = time.monotonic() - began
    if options.out is not None:
        attributes = {"seed": found.seed, "network_calls": found.calls, "history": command_line()}
        fields.write(task.dataset(found, attributes), options.out)
    account = {"tolerance": TOLERANCE, "sensors": task.sensors, "calls": found.calls, "seed": found.seed}
    if options.report is not None:
        told = f"Each meets {task.sensors:,} measured values" if task.sensors else "Drawn without sensors"
        save_report(
            task.pictures(found),
            certificate,
            account,
            options.report,
            what="fields",
            lead=f"{told}; what could not be seen differs between them.",
            seconds=seconds,
            card=task.card,
        )
    conclude(certificate, account, options.wanted, seconds=seconds, what="fields")
