"""`scidiff fluids rollout`: flows forward in time. `app` has this and the commands of `fluids`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.fluids import AsJson, Calls, Device, Out, Progress, Seed, app, check_outputs
from scidiff.cli.progress import StatusLine
from scidiff.devices import check_device
from scidiff.errors import SHORT, UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scidiff.fluids.spectral import Box

__all__ = ["app"]

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
  scidiff fluids rollout field.nc --steps 30 --samples 16 --out future.nc --animation future.gif
  scidiff fluids rollout past.nc --model kolmogorov-windows --known 3 --out future.nc
  scidiff fluids reconstruct sensors.csv --samples 16 --out now.nc && scidiff fluids rollout now.nc --out future.nc

\b
Exit codes: 0 done; 2 the request cannot be carried out; 3 some trajectories are not free of divergence (they are
named); 130 Ctrl-C (nothing is written).
"""

Start = Annotated[Path, typer.Argument(metavar="START", help="NetCDF (.nc) of the field or ensemble to start from.")]
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
    animation: Animation = None,
    calls: Calls = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    progress: Progress = None,
) -> None:
    """See `ROLLOUT`."""
    wanted = Wanted(out=out, animation=animation, as_json=as_json)
    wanted.check()
    check_device(device)
    from scidiff.fluids import rollout as flows
    from scidiff.fluids import windowed
    from scidiff.fluids.starts import read_fields
    from scidiff.fluids.tasks import load
    from scidiff.fluids.transition import TransitionModel
    from scidiff.fluids.windows import WindowModel

    weights = load(model, device=device)
    if not isinstance(weights, TransitionModel | WindowModel):
        raise UserError(f"--model: expected weights of a flow in time, got {model!r}, of something else")
    most = weights.config.frames - 1 if isinstance(weights, WindowModel) else 1
    if known > most:
        raise UserError(f"--known: expected at most {most}, with weights {model!r}, got {known}")
    first = read_fields(start, weights.config, frames=known).to(device)
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
    finish(
        Flows(vorticity=found.vorticity, times=found.times, box=weights.config.box),
        {},
        account,
        wanted,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True, kw_only=True)
class Flows:
    """Trajectories of vorticity [S, T, H, W] at times [T] in a box."""

    vorticity: Tensor
    times: Tensor
    box: Box


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to come of a command."""

    out: Path | None
    animation: Path | None
    as_json: bool

    def check(self) -> None:
        """UserError for what cannot be written, before any work starts."""
        files = {"--out": (self.out, (".nc",)), "--animation": (self.animation, (".gif", ".webp"))}
        check_outputs(self.as_json, files)


def finish(
    flows: Flows,
    certificate: Mapping[str, tuple[np.ndarray, float]],
    account: Mapping[str, object],
    wanted: Wanted,
    *,
    seconds: float,
) -> None:
    """Certify, write, and say what came; exit 3 if a trajectory does not hold.

    Args:
        flows: what was drawn.
        certificate: how far each trajectory is from each thing that it should hold, [S], and the most that it may be;
            that it is free of divergence comes besides.
        account: of the run.
        wanted: files and account.
        seconds: that it took.
    """
    from scidiff.fluids import fields
    from scidiff.fluids.animation import write_animation
    from scidiff.fluids.asked import TOLERANCE

    velocity = flows.box.velocity(flows.vorticity)
    divergence = _divergence(velocity.cpu().numpy(), flows.box.lengths)
    certificate = {"divergence-free": (divergence, TOLERANCE), **certificate}
    if wanted.out is not None:
        told = {"title": "Ensemble of trajectories of a two-dimensional incompressible flow"}
        told |= {name: str(value) for name, value in account.items()} | {"history": command_line()}
        fields.write(fields.in_time(flows.vorticity, velocity, flows.times, flows.box, told), wanted.out)
    if wanted.animation is not None:
        write_animation(flows.vorticity.cpu().numpy(), wanted.animation)
    conclude(certificate, account, wanted, seconds=seconds)


def conclude(
    certificate: Mapping[str, tuple[np.ndarray, float]],
    account: Mapping[str, object],
    wanted: Wanted,
    *,
    seconds: float,
    what: str = "trajectories",
) -> None:
    """Say what came, with arguments as of `finish`; exit 3 if something does not hold.

    Args:
        certificate: how far each is from each thing that it should hold, [S], and the most that it may be.
        account: of the run.
        wanted: files and account.
        seconds: that it took.
        what: was drawn.
    """
    import numpy as np

    held = np.asarray(np.stack([off <= most for off, most in certificate.values()]).all(0))
    refused = np.flatnonzero(~held).tolist()
    if wanted.as_json:
        record = {
            "samples": len(held),
            "certified": int(held.sum()),
            "refused": refused,
            "worst": {name: float(off.max()) for name, (off, _) in certificate.items()},
            "limit": {name: most for name, (_, most) in certificate.items()},
            **account,
            "out": None if wanted.out is None else str(wanted.out),
            "animation": None if wanted.animation is None else str(wanted.animation),
            "seconds": round(seconds, 2),
        }
        typer.echo(json.dumps(record, indent=1))
    worst = "; ".join(f"{name}: {off.max():.2g} of {most:.2g}" for name, (off, most) in certificate.items())
    typer.echo(f"{len(held)} {what}, {held.sum()} certified, in {seconds:.1f} s ({worst})", err=True)
    if refused:
        typer.echo(f"not certified: {what} {', '.join(map(str, refused[:20]))}", err=True)
        raise typer.Exit(SHORT)


def _divergence(velocity: np.ndarray, lengths: tuple[float, float]) -> np.ndarray:
    """The worst of each trajectory [S, T, 2, H, W], by the oracle, relative: [S]."""
    from scidiff.fluids import oracle

    count, times = velocity.shape[:2]
    u, v = velocity.reshape(-1, *velocity.shape[2:]).swapaxes(0, 1)
    return oracle.divergence(u, v, lengths).reshape(count, times).max(1)
