"""Flow solvers against closed forms, and beside exponax: the same equation, grid, step and order.

    python benchmarks/flow_equations.py [--quick] [--seed N] [--json FILE]

Errors are relative, in L2. "apart" is how far the two solvers end from each other, "error" how far each is from a
closed form where there is one (Taylor and Green's vortices; Hopf and Cole's solution of Burgers' equation; a wave that
is carried and diffused). Time is of one step of a batch of 8 fields, the median of three runs on one thread, exponax
compiled by XLA and ours by nothing, in float64. The two drop different waves of a product beyond two thirds of the
grid's, so that they only agree where the flow is resolved: the grid is as fine as it takes for that.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _running import guarded, options, publish
from torch import Tensor

from scidiff.fluids.burgers import Burgers, advect_diffuse
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.state import Layout

BARS = {"apart": 1e-8}
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One flow.

    Attributes:
        name: of the row.
        start: [W] or [H, W].
        step, steps: of time.
        ours: from fields, a step and a number of steps to fields.
        theirs: the name of exponax' stepper and what it is made with, besides grid and step.
        closed: what must come out, if that is known.
    """

    name: str
    start: Tensor
    step: float
    steps: int
    ours: Callable[[Tensor, float, int], Tensor]
    theirs: tuple[str, dict[str, Any]]
    closed: Tensor | None = None


def hopf_cole(points: int, viscosity: float, at: float) -> Tensor:
    """u = -2 nu phi_x / phi, phi = 2 + exp(-nu t) cos x + exp(-9 nu t) cos(3 x) / 4."""
    x = torch.arange(points, dtype=torch.float64) * (2 * math.pi / points)
    one, three = math.exp(-viscosity * at), math.exp(-9 * viscosity * at) / 4
    phi = 2 + one * torch.cos(x) + three * torch.cos(3 * x)
    return 2 * viscosity * (one * torch.sin(x) + 3 * three * torch.sin(3 * x)) / phi


def smooth(box: Box, seed: int) -> Tensor:
    """A random vorticity of up to 6 waves, root mean square 3."""
    layout = Layout.dense(1, {"start": box.shape})
    noise = Noise(seed=seed, index=torch.zeros(1, dtype=torch.long)).at("start", 0, layout.rows("start"))
    white = noise.normal(dtype=torch.float64)[0]
    low = (box.shells() > 0) & (box.shells() <= 6)
    found = box.multiply(white, low)
    return found * 3 / found.square().mean().sqrt()


def cases(*, quick: bool, seed: int) -> list[Case]:
    """Flows, small ones first."""
    points, viscosity = (64, 0.2) if quick else (128, 0.05)
    box = Box(shape=(points, points))
    y, x = (axis.view(shape) for axis, shape in zip(box.coordinates(), ((-1, 1), (1, -1)), strict=True))
    vortices = 2 * torch.cos(x) * torch.cos(y)
    wave, line = torch.cos(3 * x[0]), 128
    decaying = NavierStokes(box=box, viscosity=viscosity)
    forced = NavierStokes(box=box, viscosity=viscosity, drag=0.1, forcing=kolmogorov(box))
    return [
        Case(name="advection and diffusion of a wave", start=wave, step=0.05, steps=40,
             ours=lambda u, h, n: advect_diffuse(u, speed=1.3, viscosity=0.02, time=h * n),
             theirs=("AdvectionDiffusion", {"velocity": 1.3, "diffusivity": 0.02}),
             closed=torch.cos(3 * (x[0] - 1.3 * 2)) * math.exp(-9 * 0.02 * 2)),
        Case(name="Burgers, Hopf and Cole", start=hopf_cole(line, 0.3, 0), step=0.01, steps=200,
             ours=lambda u, h, n: Burgers(points=line, viscosity=0.3).integrate(u, step=h, steps=n),
             theirs=("Burgers", {"diffusivity": 0.3, "conservative": True, "order": 4}),
             closed=hopf_cole(line, 0.3, 2.0)),
        Case(name="Taylor and Green's vortices", start=vortices, step=0.05, steps=40,
             ours=lambda w, h, n: NavierStokes(box=box, viscosity=0.1).integrate(w, step=h, steps=n),
             theirs=("NavierStokesVorticity", {"diffusivity": 0.1, "order": 4}),
             closed=vortices * math.exp(-2 * 0.1 * 2.0)),
        Case(name="decaying turbulence", start=smooth(box, seed), step=0.005, steps=100,
             ours=lambda w, h, n: decaying.integrate(w, step=h, steps=n),
             theirs=("NavierStokesVorticity", {"diffusivity": viscosity, "order": 4})),
        Case(name="Kolmogorov flow", start=smooth(box, seed + 1), step=0.005, steps=100,
             ours=lambda w, h, n: forced.integrate(w, step=h, steps=n),
             theirs=("KolmogorovFlowVorticity", {"diffusivity": viscosity, "drag": -0.1, "injection_scale": -1.0,
                                                "order": 4})),
    ]  # fmt: skip


def exponax_run(case: Case) -> Callable[[Tensor, int], Tensor] | None:
    """The same flow in exponax, whose first axis is x and whose vorticity has the other sign; None without it."""
    try:
        import exponax
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    name, given = case.theirs
    dims = case.start.ndim
    stepper = getattr(exponax.stepper, name)(dims, 2 * math.pi, case.start.shape[-1], case.step, **given)
    several = jax.jit(jax.vmap(lambda u, n: jax.lax.fori_loop(0, n, lambda _, v: stepper(v), u), in_axes=(0, None)))

    def run(fields: Tensor, steps: int) -> Tensor:
        there = -fields.transpose(-1, -2) if dims == 2 else fields
        found = torch.from_numpy(np.array(several(there[:, None].numpy(), steps))[:, 0])
        return -found.transpose(-1, -2) if dims == 2 else found

    return run


def relative(x: Tensor, y: Tensor) -> float:
    """|x - y| / |y|."""
    return float((x - y).norm() / y.norm())


def seconds(run: Callable[[], Any], steps: int) -> float:
    """Of a step, the median of three runs after one that warms up."""
    run()
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        spent.append((time.perf_counter() - began) / steps)
    return statistics.median(spent)


def measure(case: Case) -> dict[str, Any]:
    """Errors and times of one flow."""
    many = case.start.expand(BATCH, *case.start.shape)
    own = case.ours(many, case.step, case.steps)
    found: dict[str, Any] = {"case": case.name, "points": list(case.start.shape), "steps": case.steps}
    found["ours_ms"] = 1e3 * seconds(lambda: case.ours(many, case.step, case.steps), case.steps)
    if case.closed is not None:
        found["ours_error"] = relative(own[0], case.closed)
    theirs = exponax_run(case)
    if theirs is not None:
        other = theirs(many, case.steps)
        found["exponax_ms"] = 1e3 * seconds(lambda: theirs(many, case.steps), case.steps)
        found["apart"] = relative(own[0], other[0])
        if case.closed is not None:
            found["exponax_error"] = relative(other[0], case.closed)
    coarse = case.ours(many[:1], 2 * case.step, case.steps // 2)
    found["half_the_steps"] = relative(coarse, own[:1])
    return found


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    rows = [measure(case) for case in cases(quick=arguments.quick, seed=arguments.seed)]
    missing = [] if "apart" in rows[0] else ["exponax: not installed (pip install exponax)"]
    keys = ("case", "ours_error", "exponax_error", "apart", "half_the_steps", "ours_ms", "exponax_ms")
    columns = ["flow", "our error", "exponax' error", "apart", "with half the steps", "ours ms", "exponax ms"]
    table = {"title": f"Flow solvers, {BATCH} fields of {'x'.join(map(str, rows[-1]['points']))} points, float64",
             "columns": columns, "rows": [[row.get(key) for key in keys] for row in rows]}  # fmt: skip
    misses = [f"{row['case']}: expected to end within {BARS['apart']:g} of exponax, got {row['apart']:.2g}"
              for row in rows if row.get("apart", 0.0) > BARS["apart"]]  # fmt: skip
    return publish("flow_equations", arguments, [table], misses=misses, missing=missing, packages=["exponax"],
                   flows=rows)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "a coarser grid and a thicker fluid")
    return guarded(run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
