"""Constraints on flows: what they cost, whether 10,000 fields hold them, and whether samples stay like the data.

    python benchmarks/fluids_constraints.py [--quick] [--seed N] [--json FILE] [--part cost feasibility likeness]

* `cost` and `feasibility`: velocities, a random flow of unit root mean square (vorticity of spectrum exp(-k / 2)) plus
  white noise of a fifth of it. Sensors see u and v of the flow at 123 grid points, 3 % of 64 x 64; energy and enstrophy
  are the flow's, bounds 0.95 of its extremes or what sensors saw, so that some points sit on them. Times are the
  processor's, one core, in batches of 32 (fewer above 64 x 64), and do not count what is factorised once.
* `likeness`: one vorticity field each from the sensors (1 % of the points), the energy and the enstrophy of test
  fields, beside fields drawn without constraints. Averaged over what is measured, both follow the data if nothing
  collapses. Distance: Wasserstein's of order 2 to as many fields of other trajectories, by assignment. Tendency: the
  mean over fields of the root mean square of d omega / dt that the Navier-Stokes equations give each, which small waves
  out of place raise. Both beside that of the test fields themselves.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import guarded, interval, options, publish, say
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from kolmogorov import FLOW, fetch, flow, read

from scidiff.constraints.base import ROUNDING
from scidiff.fluids import ensemble, functionals, oracle
from scidiff.fluids.constraints import Bounded, Conserved, Curl, Measured, Solenoidal, energy, enstrophy
from scidiff.fluids.joined import Joined, joined
from scidiff.fluids.model import LEAF as VORTICITY
from scidiff.fluids.model import FlowModel, packaged
from scidiff.fluids.navier_stokes import resampled
from scidiff.fluids.spectral import Box
from scidiff.noise import Noise
from scidiff.state import Layout

LEAF, BATCH, SENSORS, ROUGH = "velocity", 32, 123, 0.2
RESOLUTIONS = (32, 64, 128, 256)
TRAJECTORIES = 8  # of the test fields


def noise(batch: int, shape: tuple[int, ...], *, seed: int, step: int, first: int = 0) -> Tensor:
    """White noise, float64 [batch, *shape]."""
    rows = Layout.dense(batch, {LEAF: shape}).rows(LEAF)
    return Noise(seed=seed, index=first + torch.arange(batch)).at(LEAF, step, rows).normal(dtype=torch.float64)


def random_flow(box: Box, seed: int) -> Tensor:
    """A velocity without divergence, of unit root mean square: [2, H, W]."""
    vorticity = box.multiply(noise(1, box.shape, seed=seed, step=1)[0], torch.exp(-box.shells() / 4.0))
    velocity = box.velocity(vorticity - vorticity.mean())
    return velocity / velocity.square().sum(0).mean().sqrt()


def measured(box: Box, truth: Tensor, seed: int) -> Measured:
    """u and v at random grid points."""
    points = box.shape[0] * box.shape[1]
    rows = Layout.dense(1, {"at": (points,)}).rows("at")
    order = Noise(seed=seed, index=torch.zeros(1, dtype=torch.int64)).at("at", 0, rows).uniform()[0].argsort()
    at = order[:SENSORS]
    place = torch.stack([at // box.shape[1], at % box.shape[1]], 1).double() * torch.tensor(
        box.spacings, dtype=torch.float64
    )
    seen = functionals.points(box, place)
    none = torch.zeros_like(seen)
    both = torch.cat([torch.stack([seen, none], 1), torch.stack([none, seen], 1)])
    return Measured(leaf=LEAF, rows=both, values=(both * truth).sum((1, 2, 3)))


def sets(box: Box, truth: Tensor, seed: int) -> dict[str, Joined]:
    """The sets that are timed."""
    free, seen = Solenoidal(leaf=LEAF, box=box), measured(box, truth, seed)
    integrals = (
        energy(LEAF, box, float(truth.square().sum(0).mean()) / 2),
        enstrophy(LEAF, box, float(box.vorticity(truth).square().mean()) / 2),
    )
    most = max(0.95 * float(truth.abs().max()), 1.0001 * float(seen.values.abs().max()))
    bounds = Bounded(leaf=LEAF, shape=(2, *box.shape), low=-most, high=most)
    return {
        "divergence": joined(free),
        "divergence, sensors": joined(free, seen),
        "divergence, sensors, energy, enstrophy": joined(free, seen, *integrals),
        "divergence, sensors, energy, enstrophy, bounds": joined(free, seen, *integrals, bounds),
    }


def milliseconds(constraint: Joined, x: Tensor, seconds: float) -> float:
    """The processor time of a projection, a field, over so many seconds; what is factorised once is not counted."""
    layout = Layout.dense(len(x), {LEAF: tuple(x.shape[1:])})
    constraint.project({LEAF: x[:1]}, Layout.dense(1, {LEAF: tuple(x.shape[1:])}))
    taken, repeats, began = 0.0, 0, time.process_time()
    while repeats == 0 or taken < seconds:
        constraint.project({LEAF: x}, layout)
        taken, repeats = time.process_time() - began, repeats + 1
    return 1000 * taken / repeats / len(x)


def costs(seed: int, quick: bool) -> list[dict[str, Any]]:
    """Times by resolution, and their exponent: time a field ~ points^p."""
    resolutions, found = RESOLUTIONS[:2] if quick else RESOLUTIONS, {}
    for side in resolutions:
        box = Box(shape=(side, side))
        truth = random_flow(box, seed)
        batch = BATCH if side <= 64 else max(BATCH * 64 * 64 // side**2, 2)
        x = truth + ROUGH * noise(batch, (2, *box.shape), seed=seed, step=2)
        for name, constraint in sets(box, truth, seed).items():
            found.setdefault(name, []).append(milliseconds(constraint, x, 0.1 if quick else 0.5))
            say(f"{side}: {name} {found[name][-1]:.3g} ms")
    log = np.log(np.array(resolutions, dtype=float) ** 2)
    rows = [[name, *times, float(np.polyfit(log, np.log(times), 1)[0])] for name, times in found.items()]
    columns = ["constraints", *(f"{side} x {side}" for side in resolutions), "exponent of points"]
    title = "Milliseconds of processor time a field to meet constraints, one core; what is factorised once not counted"
    return [{"title": title, "columns": columns, "rows": rows}]


def worst(constraint: Joined, found: Tensor, box: Box) -> dict[str, float]:
    """Of float64 fields by the oracle, relative: NumPy, no Fourier transform of it."""
    u, v = found.numpy().swapaxes(0, 1)
    values = [integral.value for integral in constraint.of(Conserved)]
    (bounds,), (facts,) = constraint.of(Bounded), constraint.of(Measured)
    seen = found.flatten(1)[:, facts.rows.flatten(1).argmax(1)].numpy()
    return {
        "linear": max(
            float(oracle.divergence(u, v, box.lengths).max()),
            float(np.abs(seen - facts.values.numpy()).max() / np.abs(seen).max()),
        ),
        "nonlinear": max(
            float(np.abs(oracle.energy(u, v) / values[0] - 1).max()),
            float(np.abs(oracle.enstrophy(oracle.curl(u, v, box.lengths)) / values[1] - 1).max()),
        ),
        "bounds": float(np.maximum(np.abs(found.numpy()) / float(bounds.high) - 1, 0).max()),
    }


def feasibility(seed: int, count: int) -> list[dict[str, Any]]:
    """Fields under all constraints at once at 64 x 64, in both precisions."""
    box = Box(shape=(64, 64))
    truth = random_flow(box, seed)
    constraint = list(sets(box, truth, seed).values())[-1]
    body = []
    for dtype in (torch.float64, torch.float32):
        held, most, diverged, seconds = 0, {"linear": 0.0, "nonlinear": 0.0, "bounds": 0.0}, 0, 0.0
        done = count if dtype == torch.float64 else max(count // 10, 1)
        for first in range(0, done, BATCH):
            size = min(BATCH, done - first)
            layout = Layout.dense(size, {LEAF: constraint.shape})
            x = truth + ROUGH * noise(size, constraint.shape, seed=seed, step=3, first=first)
            began = time.process_time()
            state = constraint.project({LEAF: x.to(dtype)}, layout)
            seconds += time.process_time() - began
            held += int((constraint.violation(state, layout) == 0).sum())
            diverged += int((~state[LEAF].isfinite()).flatten(1).any(1).sum())
            for name, off in worst(constraint, state[LEAF].double(), box).items():
                most[name] = max(most[name], off)
        row = [str(dtype).removeprefix("torch."), done, held, diverged, *(f"{off:.1e}" for off in most.values())]
        body.append([*row, 1000 * seconds / done])
    columns = ["precision", "fields", "hold", "diverged", "linear", "nonlinear", "bounds", "ms a field"]
    title = (
        "Divergence, sensors, energy, enstrophy and bounds at once, 64 x 64: worst relative violation by the oracle "
        f"(holds: within {ROUNDING} units of rounding of its terms)"
    )
    return [{"title": title, "columns": columns, "rows": body}]


def likeness(seed: int, count: int, calls: int, quick: bool) -> list[dict[str, Any]]:
    """Samples under constraints and without, beside test fields."""
    from scipy.optimize import linear_sum_assignment

    model = FlowModel.load(packaged())
    folder = fetch(trajectories=16, fields=2) if quick else fetch()
    scale, box = model.config.scale, model.config.box
    tests, others = (read(folder, split).flatten(0, 1).double() / scale for split in ("test", "validation"))
    tests, others = (fields[:: max(len(fields) // count, 1)][:count] for fields in (tests, others))
    curl = Curl(leaf=VORTICITY, box=box)

    def one(constraint: Joined, number: int) -> Tensor:
        layout = Layout.dense(1, {VORTICITY: constraint.shape})
        rule = ensemble.plan(model, calls)
        return ensemble.tile(model, constraint, layout, Noise(seed=seed, index=torch.tensor([number])), rule)[0, 0]

    free = torch.stack([one(joined(curl), number) for number in range(len(tests))])
    bound = torch.stack([one(told(truth, box, curl, seed, k), len(tests) + k) for k, truth in enumerate(tests)])
    distances, tendencies, body = [], [], []
    for name, found in (("test fields", tests), ("without constraints", free), ("under constraints", bound)):
        far = torch.cdist(found.flatten(1), others.flatten(1)).square() / box.shape[0] / box.shape[1]
        distances.append(float(far[linear_sum_assignment(far.numpy())].mean().sqrt()))
        tendencies.append(tendency(scale * found).reshape(min(TRAJECTORIES, len(found)), -1).mean(1))
        body.append([name, distances[-1], float(tendencies[-1].mean())])
    for name, k in (("without", 1), ("test fields", 0)):
        mean, half = interval((tendencies[2] / tendencies[k]).tolist())
        body.append([f"under constraints / {name}", distances[2] / distances[k], f"{mean:.3f} ± {half:.3f}"])
    title = (
        f"Vorticity under sensors at 1 %, energy and enstrophy: one field each of {len(tests)} test fields, {calls} "
        "calls, beside as many without constraints (ratios with intervals over trajectories)"
    )
    return [{"title": title, "columns": ["fields", "distance (standard deviations)", "tendency"], "rows": body}]


def told(truth: Tensor, box: Box, curl: Curl, seed: int, number: int) -> Joined:
    """What is known of a vorticity [H, W]: its values at 1 % of the points, its energy and enstrophy."""
    rows = Layout.dense(1, {"at": (truth.numel(),)}).rows("at")
    at = Noise(seed=seed, index=torch.tensor([number])).at("at", 0, rows).uniform()[0].argsort()[: truth.numel() // 100]
    seen = torch.nn.functional.one_hot(at, truth.numel()).double().reshape(-1, 1, *truth.shape)
    velocity = box.velocity(truth)
    integrals = (
        energy(VORTICITY, box, float(velocity.square().sum(0).mean()) / 2, of="vorticity"),
        enstrophy(VORTICITY, box, float(truth.square().mean()) / 2, of="vorticity"),
    )
    return joined(curl, Measured(leaf=VORTICITY, rows=seen, values=truth.flatten()[at]), *integrals)


def tendency(vorticity: Tensor) -> Tensor:
    """Root mean square of d omega / dt by the equation, of vorticities [N, H, W]: [N]."""
    step, equation = 1e-3, flow()
    fine = resampled(vorticity, (FLOW["points"], FLOW["points"]))
    after = equation.integrate(fine, step=step, steps=1)
    return ((after - fine) / step).square().mean((1, 2)).sqrt()


PARTS = ("cost", "feasibility", "likeness")


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "two resolutions, 32 fields, 8 samples by 4 calls")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fields", type=int, help="of feasibility; default 10,000")
    return guarded(run, parser.parse_args(arguments))


def run(chosen: argparse.Namespace) -> int:
    quick, seed = chosen.quick, chosen.seed
    fields = chosen.fields or (32 if quick else 10_000)
    work = {
        "cost": lambda: costs(seed, quick),
        "feasibility": lambda: feasibility(seed, fields),
        "likeness": lambda: likeness(seed, 8 if quick else 256, 4 if quick else ensemble.CALLS, quick),
    }
    return publish("fluids_constraints", chosen, [table for part in chosen.part for table in work[part]()])


if __name__ == "__main__":
    sys.exit(main())
