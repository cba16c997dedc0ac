"""`scidiff fluids rollout`: flows forward in time. `app` has this and the commands of `fluids`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.flow_results import Wanted, conclude, save_report
from scidiff.cli.fluids import AsJson, Calls, Device, Out, Progress, Report, Seed, app
from scidiff.cli.progress import StatusLine
from scidiff.cli.standard_input import input_file
from scidiff.devices import check_device
from scidiff.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from scidiff.fluids.flow_pictures import Flows
    from scidiff.fluids.report import Certificate
    from scidiff.fluids.transition import TransitionModel
    from scidiff.fluids.windows import WindowModel

__all__ = ["app"]

_WHAT = "trajectories"

ROLLOUT = """Draw what a flow does next, as an ensemble of trajectories.

START is netCDF with vorticity, or u and v, over (y, x) on the grid of the weights; with time before, the last is taken;
with realization before that, as `fluids reconstruct` writes it, trajectory s starts from member s, and again from the
first after the last. No gaps.

The weights, unless --model says others, know a step of 0.3 of Kolmogorov flow at Reynolds number 200 on 64 by 64
points of a periodic box of 2 pi by 2 pi, without dimension. Those of --model kolmogorov-windows draw windows of five
fields at once, the known ones among them held: START may have up to four (--known), 0.3 apart, with which --out begins.
A chaotic flow forgets its start: late members tell its statistics, not its fields.

--out holds vorticity and velocity over (realization, time, y, x), float64, by the CF conventions, the start at time 0;
every field is checked by an oracle to be free of divergence. The same seed gives the same trajectories, however many
are asked for.

\b
Examples:
  scidiff fluids rollout field.nc --steps 30 --samples 16 --out future.nc --report future.html
  scidiff fluids rollout past.nc --model kolmogorov-windows --known 3 --out future.nc --animation future.gif
  scidiff fluids reconstruct sensors.csv --samples 16 --out now.nc && scidiff fluids rollout now.nc --out future.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some trajectories are not free of divergence (they are
named); 130 Ctrl-C (nothing is written).
"""

Start = Annotated[
    Path,
    typer.Argument(metavar="START", help="NetCDF (.nc) of the field or ensemble to start from; - for standard input."),
]
Steps = Annotated[int, typer.Option(min=1, max=100_000, help="Intervals of time.")]
Members = Annotated[int, typer.Option("--samples", "-n", min=1, max=10_000, help="Trajectories to draw.")]
Animation = Annotated[Path | None, typer.Option(metavar="FILE.gif", help="A moving picture, .gif or .webp.")]
Weights = Annotated[
    str,
    typer.Option("--model", metavar="NAME|FOLDER", help="Weights: kolmogorov-step, kolmogorov-windows, or a folder."),
]
Known = Annotated[int, typer.Option(min=1, help="Last fields of START that are known; more than one for windows.")]


@app.command(help=ROLLOUT)
def rollout(
    start: Start,
    *,
    model: Weights = "kolmogorov-step",
    known: Known = 1,
    steps: Steps = 30,
    samples: Members = 8,
    out: Out = None,
    report: Report = None,
    animation: Animation = None,
    calls: Calls = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `ROLLOUT`."""
    wanted = Wanted(files={"out": out, "report": report, "animation": animation}, as_json=as_json)
    wanted.check()
    check_device(device)
    from scidiff.fluids import rollout as flows
    from scidiff.fluids import windowed
    from scidiff.fluids.flow_pictures import Flows
    from scidiff.fluids.pictures import usual_spectrum
    from scidiff.fluids.starts import read_fields
    from scidiff.fluids.windows import WindowModel

    weights = _in_time(model, known, device)
    with input_file(start) as path:
        first = read_fields(path, weights.config, frames=known).to(device)
    began, line = time.monotonic(), StatusLine(progress)

    def show(done: int, total: int) -> None:
        if line.due():
            line.show(f"step {done} of {total}")

    if isinstance(weights, WindowModel):
        draw = partial(windowed.rollout, weights, first, calls=calls or windowed.CALLS)
    else:
        draw = partial(flows.rollout, weights, first[:, 0], calls=calls or flows.CALLS)
    try:
        found = draw(steps=steps, samples=samples, seed=seed, progress=show)
    except FloatingPointError as error:
        raise UserError(f"{start}: {error}; is it a field of the flow that the weights know?") from None
    finally:
        line.clear()
    account = {"steps": steps, "interval": weights.config.interval, "calls": found.calls, "seed": seed}
    usual = usual_spectrum(weights.prior, weights.config) if isinstance(weights, WindowModel) else None
    finish(
        Flows(vorticity=found.vorticity, times=found.times, box=weights.config.box, usual=usual),
        {},
        account,
        wanted,
        seconds=time.monotonic() - began,
        card=weights.card,
    )


def _in_time(name: str, known: int, device: str) -> TransitionModel | WindowModel:
    """Weights that go on from so many known fields."""
    from scidiff.fluids.tasks import read
    from scidiff.fluids.transition import TransitionModel
    from scidiff.fluids.windows import WindowModel

    weights = read(name, device=device)
    if not isinstance(weights, TransitionModel | WindowModel):
        raise UserError(f"--model: expected weights of a flow in time, got {name!r}, of something else")
    most = weights.config.frames - 1 if isinstance(weights, WindowModel) else 1
    if known > most:
        raise UserError(f"--known: expected at most {most}, with weights {name!r}, got {known}")
    return weights


def finish(
    flows: Flows,
    certificate: Certificate,
    account: Mapping[str, object],
    wanted: Wanted,
    *,
    seconds: float,
    card: Mapping[str, Any],
) -> None:
    """Certify, write, and say what came; exit 3 if a trajectory does not hold.

    Args:
        flows: what was drawn.
        certificate: of them; that they are free of divergence comes besides.
        account: of the run.
        wanted: files and account.
        seconds: that it took.
        card: of the model.
    """
    from scidiff.fluids import fields
    from scidiff.fluids.animation import write_animation
    from scidiff.fluids.asked import TOLERANCE
    from scidiff.fluids.flow_pictures import of_flows

    velocity = flows.box.velocity(flows.vorticity)
    divergence = _divergence(velocity.cpu().numpy(), flows.box.lengths)
    certificate = {"divergence-free": (divergence, TOLERANCE), **certificate}
    if (out := wanted.files["out"]) is not None:
        told = {"title": "Ensemble of trajectories of a two-dimensional incompressible flow"}
        told |= {name: str(value) for name, value in account.items()} | {"history": command_line()}
        fields.write(fields.in_time(flows.vorticity, velocity, flows.times, flows.box, told), out)
    if (animation := wanted.files["animation"]) is not None:
        write_animation(flows.vorticity.cpu().numpy(), animation)
    if (path := wanted.files["report"]) is not None:
        lead = "Each is one way in which the flow may go on from its start."
        if flows.sensors:
            lead = f"Each follows {len(flows.sensors):,} measured values; what they do not tell differs between them."
        save_report(
            of_flows(flows),
            certificate,
            account,
            path,
            what=_WHAT,
            lead=lead,
            seconds=seconds,
            card=card,
        )
    conclude(certificate, account, wanted, seconds=seconds, what=_WHAT)


def _divergence(velocity: np.ndarray, lengths: tuple[float, float]) -> np.ndarray:
    """The worst of each trajectory [S, T, 2, H, W], by the oracle, relative: [S]."""
    from scidiff.fluids import oracle

    count, times = velocity.shape[:2]
    u, v = velocity.reshape(-1, *velocity.shape[2:]).swapaxes(0, 1)
    return oracle.divergence(u, v, lengths).reshape(count, times).max(1)
