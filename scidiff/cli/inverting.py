"""`scidiff fluids invert` and `assimilate`: how a flow began, and what it flows through. `app` has all commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.flow_results import Wanted, conclude, save_report
from scidiff.cli.flow_time import Animation, Members, app, finish
from scidiff.cli.fluids import AsJson, Calls, Device, ForcingWaves, Model, Out, Progress, Report, Reynolds, Seed
from scidiff.cli.progress import StatusLine
from scidiff.cli.sharing import sharing
from scidiff.cli.standard_input import input_file
from scidiff.devices import check_device
from scidiff.errors import UserError

if TYPE_CHECKING:
    from scidiff.fluids.model import FlowConfig, FlowModel
    from scidiff.fluids.oracle import Fields, Instrument
    from scidiff.fluids.pairs import PairModel
    from scidiff.fluids.tasks import Model as AnyModel
    from scidiff.fluids.windows import WindowModel

__all__ = ["app"]

_LONGEST = 10.0
_PROPORTION = 1e-6  # of the standard deviation of what is measured, least noise; one over it, the most

_COMMON = """The weights know how such a flow may look, the equation (Kolmogorov flow at Reynolds number 200, unless
--model says others) how it goes on: starts are drawn that lead, through the solver, to what was measured, within its
noise. What the measured values do not tell differs among the members. Each is carried by the solver to all times and
checked: its misfit, the mean square of what is off in units of the noise, must be one that a draw from the posterior
has with a probability of 99.9 %.

--out holds vorticity and velocity over (realization, time, y, x), float64, by the CF conventions. The same seed gives
the same flows, however many are asked for.
"""

INVERT = f"""Find how a flow began from what it came to: sparse, noisy values of its state at one later time.

SENSORS is a table or netCDF as for `fluids reconstruct`, measured --time after the start.

{_COMMON}
With --model darcy it is the permeability of a porous square from pressures in it, SENSORS a CSV table with columns x, y
(in the unit square) and pressure, without --time: -div(a grad p) = 1 with p = 0 around it, and permeabilities of two
phases, 3 and 12, as the weights know them. --out holds permeability and the pressure that the solver gives for it over
(realization, y, x). Certified are the misfit, the mass balance of every cell and the bounds 3 and 12.

\b
Examples:
  scidiff fluids invert later.csv --time 0.6 --noise 0.2 --samples 8 --out start.nc --report start.html
  scidiff fluids invert wells.csv --model darcy --noise 1e-5 --samples 8 --out permeability.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some flows do not hold what was measured (they are named);
130 Ctrl-C (nothing is written).
"""

ASSIMILATE = f"""Find the flow behind a sequence of sparse, noisy values: an ensemble of trajectories.

OBSERVATIONS is a table as for `fluids reconstruct` with a column time besides, >= 0 since the start, or netCDF with the
same variables over one dimension. One window of time, as long as the flow remembers; trajectories may go on beyond it
(--until), as forecasts.

{_COMMON}
With --model kolmogorov-windows no equation is asked: windows of five fields, 0.3 apart, are drawn that overlap, told
the measured values (score-based data assimilation). Times are multiples of 0.3, so is --until, and --out holds all of
them. --noise 0 has the values hold exactly, which is then what is certified.

\b
Examples:
  scidiff fluids assimilate buoys.csv --noise 0.2 --every 0.1 --samples 8 --out flow.nc --report flow.html
  scidiff fluids assimilate buoys.csv --noise 0.2 --until 2 --every 0.2 --out flow.nc --animation flow.gif
  scidiff fluids assimilate buoys.csv --noise 0 --model kolmogorov-windows --samples 8 --out flow.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some flows do not hold what was measured (they are named);
130 Ctrl-C (nothing is written).
"""

Sensors = Annotated[
    Path,
    typer.Argument(metavar="SENSORS", help="Table (.csv) or netCDF (.nc) of the later state; - for standard input."),
]
Observed = Annotated[
    Path, typer.Argument(metavar="OBSERVATIONS", help="Table (.csv) or netCDF (.nc), with time; - for standard input.")
]
Noise = Annotated[float, typer.Option(help="Standard deviation of the noise of every value, in its unit.")]
After = Annotated[float | None, typer.Option("--time", help="Of the measured state, since the start.")]
Every = Annotated[float | None, typer.Option(help="Time from one field of --out to the next; default: a tenth of all.")]
Until = Annotated[float | None, typer.Option(help="Last time of --out; default: the last one measured.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What both commands take."""

    noise: Noise
    samples: Members = 4
    out: Out = None
    report: Report = None
    animation: Animation = None
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
        files = {"out": self.out, "report": self.report, "animation": self.animation}
        return Wanted(files=files, as_json=self.as_json)

    def weights(self) -> AnyModel:
        """Of the model; UserError for what cannot be written or computed, before any work starts."""
        from scidiff.fluids.tasks import load
        from scidiff.fluids.windows import WindowModel

        self.wanted.check()
        check_device(self.device)
        weights = load(self.model, reynolds=self.reynolds, waves=self.forcing_waves, device=self.device)
        if not 0 <= self.noise < float("inf") or (self.noise == 0 and not isinstance(weights, WindowModel)):
            raise UserError(f"--noise: expected a number > 0, got {self.noise:g}")
        return weights

    def check_noise(self, deviation: float) -> None:
        """UserError for a noise that is out of all proportion to values of this standard deviation."""
        least, most = _PROPORTION * deviation, deviation / _PROPORTION
        if not least <= self.noise <= most:
            raise UserError(f"--noise: expected {least:.1g} to {most:.1g} for what is measured, got {self.noise:g}")


@app.command(help=INVERT)
@sharing(Options)
def invert(sensors: Sensors, *, after: After = None, options: Options) -> None:
    """See `INVERT`."""
    weights = options.weights()
    from scidiff.fluids.model import FlowModel
    from scidiff.fluids.pairs import PairModel
    from scidiff.fluids.sensors import read_sensors

    if isinstance(weights, PairModel):
        if after is not None:
            raise UserError("--time: expected none of a steady flow, got one")
        with input_file(sensors) as path:
            _permeability(weights, path, options)
        return
    if not isinstance(weights, FlowModel):
        raise UserError(f"--model: expected weights of a periodic flow or of darcy, got {options.model!r}, of others")
    if after is None or not 0 < after <= _LONGEST:
        raise UserError(f"--time: expected a time in (0, {_LONGEST:g}], got {'none' if after is None else after}")
    with input_file(sensors) as path:
        tools = [replace(tool, time=after) for tool in read_sensors(path, weights.config)]
        _run(weights, tools, [0.0, after], options)


@app.command(help=ASSIMILATE)
@sharing(Options)
def assimilate(observations: Observed, *, every: Every = None, until: Until = None, options: Options) -> None:
    """See `ASSIMILATE`."""
    weights = options.weights()
    from scidiff.fluids.model import FlowModel
    from scidiff.fluids.sensors import read_sensors
    from scidiff.fluids.windows import WindowModel

    if not isinstance(weights, FlowModel | WindowModel):
        raise UserError(f"--model: expected weights of a periodic flow, got {options.model!r}, of something else")
    with input_file(observations) as path:
        tools = read_sensors(path, weights.config, timed=True)
        last = max(tool.time for tool in tools)
        until = last if until is None else until
        if not 0 < last <= until <= _LONGEST:
            raise UserError(
                f"{path}: expected a last time in (0, {_LONGEST:g}] and --until from there to {_LONGEST:g}, got "
                f"{last:g} and {until:g}"
            )
        if isinstance(weights, FlowModel):
            _run(weights, tools, _times(until, every), options)
            return
        if every is not None:
            raise UserError(f"--every: expected none with weights {options.model!r}, whose step is their own, got one")
        _windows(weights, tools, until, options)


def _times(until: float, every: float | None) -> list[float]:
    """From 0 to the end; UserError for steps that do not lead there."""
    every = until / 10 if every is None else every
    if not until / 1000 <= every <= until:
        raise UserError(f"--every: expected a thousandth of {until:g} to the whole of it, got {every:g}")
    count = round(until / every)
    if abs(count * every - until) > 1e-6 * until:
        raise UserError(f"--every: expected a whole part of {until:g}, got {every:g}")
    return [until * k / count for k in range(count + 1)]


def _run(weights: FlowModel, tools: Sequence[Instrument], times: Sequence[float], options: Options) -> None:
    """Draw starts, carry them to all times, certify, write."""
    import numpy as np
    import torch

    from scidiff.fluids import inversion
    from scidiff.fluids.flow_pictures import Flows
    from scidiff.fluids.pictures import usual_spectrum

    began, config = time.monotonic(), weights.config
    options.check_noise(config.scale)
    observed = inversion.Observations.of(tools, config, options.noise)
    calls = options.calls or inversion.CALLS
    start = inversion.starts(
        weights, observed, samples=options.samples, seed=options.seed, calls=calls, progress=_shown(options.progress)
    )
    try:
        flow = inversion.trajectories(config.equation, start, times)
        off = _missed(config, tools, start.numpy(force=True), noise=options.noise)
    except FloatingPointError as error:
        raise UserError(f"the flows that were drawn are too fast for the solver: {error}") from None
    account = {"measured": len(tools), "noise": options.noise, "calls": calls, "seed": options.seed}
    finish(
        Flows(
            vorticity=flow,
            times=torch.tensor(times, dtype=torch.float64),
            box=config.box,
            sensors=tools,
            misses={time: np.square(part).mean(1) for time, part in off.items()},
            usual=usual_spectrum(weights.prior, config),
        ),
        {"misfit": (np.square(np.concatenate(list(off.values()), 1)).mean(1), observed.bound() / len(tools))},
        account,
        options.wanted,
        seconds=time.monotonic() - began,
        card=weights.card,
    )


def _missed(config: FlowConfig, tools: Sequence[Instrument], start: Fields, *, noise: float) -> dict[float, Fields]:
    """What is off at each time, in units of the noise, by a solver that the sampler does not use."""
    from scidiff.fluids import oracle

    times = sorted({tool.time for tool in tools})
    fields = oracle.carried(
        start,
        times,
        viscosity=config.viscosity,
        lengths=config.lengths,
        drag=config.drag,
        waves=config.waves,
        force=config.force,
    )
    return oracle.missed(dict(zip(times, fields, strict=True)), tools, config.lengths, noise=noise)


def _windows(weights: WindowModel, tools: Sequence[Instrument], until: float, options: Options) -> None:
    """Draw windows that overlap, told what was measured, certify, write."""
    import torch

    from scidiff.fluids import measured_frames, windowed
    from scidiff.fluids.flow_pictures import Flows
    from scidiff.fluids.pictures import usual_spectrum

    began, config = time.monotonic(), weights.config
    if options.noise:
        options.check_noise(config.scale)
    measured = measured_frames.Measured.of(tools, config, until=until, noise=options.noise)
    calls = options.calls or windowed.CALLS_MEASURED
    task = windowed.Told(model=weights, facts=measured.facts(weights))
    flow = task.draw(samples=options.samples, seed=options.seed, calls=calls, progress=_shown(options.progress))
    flow = flow[:, : measured.wanted]
    account = {"measured": len(tools), "noise": options.noise, "calls": calls, "seed": options.seed}
    finish(
        Flows(
            vorticity=flow,
            times=config.interval * torch.arange(flow.shape[1]).double(),
            box=config.box,
            sensors=tools,
            misses=measured.misses(flow) if options.noise else {},
            usual=usual_spectrum(weights.prior, config),
        ),
        measured.certificate(flow),
        account,
        options.wanted,
        seconds=time.monotonic() - began,
        card=weights.card,
    )


def _permeability(weights: PairModel, wells: Path, options: Options) -> None:
    """Draw permeabilities that lead to the measured pressures, certify, write."""
    from scidiff.fluids import pair_inversion
    from scidiff.fluids import wells as of_wells
    from scidiff.fluids.fields import write
    from scidiff.fluids.well_pictures import of_pairs

    if weights.config.equation != "darcy":
        raise UserError(f"--model: expected weights of darcy, got those of {weights.config.equation}")
    if options.animation is not None:
        raise UserError("--animation: expected none of a steady flow, got one")
    options.check_noise(weights.config.scale[1])
    began, measured = time.monotonic(), of_wells.read_wells(wells, weights.config)
    told = of_wells.given(measured, weights.config, options.noise)
    calls = options.calls or pair_inversion.CALLS
    pairs = pair_inversion.through(
        weights, told, samples=options.samples, seed=options.seed, calls=calls, progress=_shown(options.progress)
    )
    account = {"measured": len(measured), "noise": options.noise, "calls": calls, "seed": options.seed}
    if options.out is not None:
        said = {name: str(value) for name, value in account.items()}
        said["history"] = command_line()
        write(of_wells.dataset(pairs, said), options.out)
    certificate = of_wells.certificate(pairs, measured, told, weights.config.ties.bounds)
    what, seconds = "permeabilities", time.monotonic() - began
    if options.report is not None:
        save_report(
            [of_pairs(pairs, measured)],
            certificate,
            account,
            options.report,
            what=what,
            lead=f"Each leads to {len(measured):,} measured pressures; what they do not tell differs between them.",
            seconds=seconds,
            card=weights.card,
        )
    conclude(certificate, account, options.wanted, seconds=seconds, what=what)


def _shown(wanted: bool | None) -> Callable[[int, int], None]:
    """Says how many flows are drawn."""
    line = StatusLine(wanted)

    def show(done: int, total: int) -> None:
        if done == total:
            line.clear()
        elif line.due():
            line.show(f"flow {done} of {total}")

    return show
