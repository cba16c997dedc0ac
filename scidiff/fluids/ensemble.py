"""Ensembles of flow fields, each a function of (seed, number) alone.

Matrix products may round differently with the shape of a batch, so fields are drawn in tiles of `TILE`, whatever is
asked for. Sensors are met at every call; what is not linear (energy, bounds) once, by the finished field, together with
the sensors: early estimates are averages, which have less energy than any field that they are averages of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.fluids.blended import FieldCovariance
from scidiff.fluids.conditioned import Conditioned
from scidiff.fluids.constraints import Curl, FieldConstraint, Measured
from scidiff.fluids.joined import joined
from scidiff.fluids.model import FlowModel
from scidiff.grids import karras, to_data
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.sampling import sample
from scidiff.solvers import Plan, dpmpp_sde_2m
from scidiff.state import Layout

TILE = 16
CALLS = 20
LEVELS = (0.015, 12.0)  # sigma / alpha between which the calls lie


class FieldModel(Protocol):
    """What an ensemble is drawn with: a denoiser of one leaf, and the covariance of its data."""

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def processes(self) -> Mapping[str, Process]: ...

    @property
    def covariance(self) -> FieldCovariance: ...

    @property
    def noise(self) -> float: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Fields that were drawn.

    Attributes:
        vorticity: float64 [S, H, W], in its own unit.
        velocity: float64 [S, 2, H, W], without mean flow.
        calls: of the network for each.
        seed: of the run.
    """

    vorticity: Tensor
    velocity: Tensor
    calls: int
    seed: int

    def __len__(self) -> int:
        return len(self.vorticity)


def draw(
    model: FlowModel,
    constraint: FieldConstraint,
    *,
    samples: int,
    seed: int = 0,
    calls: int = CALLS,
    progress: Callable[[int, int], None] | None = None,
) -> Ensemble:
    """Draw fields that meet a constraint on the model's leaf, in units of the model's scale.

    Args:
        model: the weights.
        constraint: sensors, integrals, bounds, or any of them together.
        samples: how many.
        seed: of the run.
        calls: of the network for each field.
        progress: called with how many are done, of how many.
    """
    found = drawn(model, constraint, samples=samples, seed=seed, calls=calls, progress=progress)
    vorticity = model.config.scale * found[:, 0]
    velocity = model.config.box.velocity(vorticity)
    return Ensemble(vorticity=vorticity, velocity=velocity, calls=calls, seed=seed)


def drawn(
    model: FieldModel,
    constraint: FieldConstraint,
    *,
    samples: int,
    seed: int,
    calls: int,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Fields that meet a constraint, in tiles, in units of the model's scale: float64 [samples, C, H, W]."""
    device = next(model.denoiser.parameters()).device
    parts, rule = [], plan(model, calls)
    for first in range(0, samples, TILE):
        layout = Layout.dense(TILE, {constraint.leaf: constraint.shape}, device=device)
        noise = Noise(seed=seed, index=first + torch.arange(TILE, device=device))
        parts.append(tile(model, constraint, layout, noise, rule))
        if progress is not None:
            progress(min(first + TILE, samples), samples)
    return torch.cat(parts)[:samples]


def plan(model: FieldModel, calls: int, *, noise: float | None = None, levels: tuple[float, float] = LEVELS) -> Plan:
    """The SDE that puts noise back faster than it needs to, which forgets a network's errors.

    With the few calls that it is used with, it leaves an exact denoiser's fields up to 14 % too wide, and a network's
    about right: what it does not see of small waves is missing by as much.

    Args:
        model: the weights.
        calls: of the network.
        noise: of the SDE, 1 is the plain one; None: the model's.
        levels: sigma / alpha between which the calls lie.
    """
    (process,) = model.processes.values()
    if not isinstance(process, GaussianProcess):
        raise TypeError(f"expected a Gaussian process, got {type(process).__name__}")
    low, high = levels
    grid = karras(process.schedule, max(calls - 1, 1), rho=5.0, sigma_min=low, sigma_max=high)
    return dpmpp_sde_2m(process.schedule, to_data(grid), eta=model.noise if noise is None else noise)


def tile(model: FieldModel, constraint: FieldConstraint, layout: Layout, noise: Noise, rule: Plan) -> Tensor:
    """Fields of one batch, in units of the scale: float64 [B, C, H, W]."""
    leaf, device = constraint.leaf, noise.index.device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        done = sample(told(model, constraint), model.processes, {leaf: rule}, layout, noise)
    return joined(constraint).project({leaf: done.state[leaf].double()}, layout, model.covariance)[leaf]


def told(model: FieldModel, constraint: FieldConstraint) -> Denoiser:
    """The model's denoiser, told the sensors of a constraint."""
    process, parts = model.processes[constraint.leaf], joined(constraint)
    facts = parts.of(Measured)
    if not facts or not isinstance(process, GaussianProcess):
        return model.denoiser
    linear = [*parts.of(Curl), *facts]
    told_of = parts if len(linear) == len(parts.parts) else joined(*linear)
    return Conditioned(model.denoiser, process, told_of, model.covariance)
