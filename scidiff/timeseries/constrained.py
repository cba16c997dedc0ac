"""Draws that keep the rules of a table: projected on the way, and once more, in float64, at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.constraints.base import Constraint, Metric
from scidiff.guidance import Project
from scidiff.networks.panel import Context
from scidiff.state import Layout, State
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.draws import STEPS, draw
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.restriction import Restriction

START = 0.5  # earlier clean estimates are means of many futures: a projection would drag all draws to one point


@dataclass(frozen=True, kw_only=True)
class InTable(Constraint):
    """A restriction of the cells of one series, for states in the coordinates of the model.

    "Nearest" is meant in units of each cell's conditional spread.

    Attributes:
        restriction: in the units of the table.
        context: of one series, with its location and scale of each cell.
        means, stds: [V], the standard units of the variables.
    """

    restriction: Restriction
    context: Context
    means: Tensor
    stds: Tensor

    @classmethod
    def of(cls, model: ImputerModel, context: Context, restriction: Restriction) -> InTable:
        """For the cells that a context asks for."""
        means, stds = (torch.tensor(v, dtype=torch.float64) for v in (model.config.means, model.config.stds))
        return cls(restriction=restriction, context=context.repeat(1), means=means, stds=stds)

    def table(self, x: Tensor) -> Tensor:
        """Standardised values [K, L, V] as the table has them, the nearest that keep the rules: float64."""
        flat = (self.means + self.stds * x.double()).flatten(1)
        variance = (self.stds * self.context.scale[0].double()).square().flatten()
        return self.restriction.project(flat, variance).reshape(x.shape)

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        if metric is not None:
            raise ValueError("expected no metric: the conditional spread of each cell is it")
        many = self.context.repeat(len(clean[LEAF]))
        x = (self.table(many.restore(clean[LEAF])) - self.means) / self.stds
        return clean | {LEAF: many.standardise(x.to(clean[LEAF].dtype))}

    def violation(self, sample: State, layout: Layout) -> Tensor:
        many = self.context.repeat(len(sample[LEAF]))
        x = self.means + self.stds * many.restore(sample[LEAF]).double()
        return self.restriction.violation(x.flatten(1))


def constrained_draws(
    model: ImputerModel,
    context: Context,
    restriction: Restriction,
    *,
    draws: int,
    seed: int,
    number: int,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Draws of one series in the units of the table, float64 [K, L, V], and what each violates, float64 [K].

    The certificate is that of the very numbers returned: 0 where every rule holds, else the greatest violation in
    standard deviations. It is above 0 where observed values contradict the rules.

    Args:
        model: the weights.
        context: of the series; its unknown cells are those the restriction was made for.
        restriction: of the series.
        draws, seed, number, steps: as of `draw`.
    """
    constraint = InTable.of(model, context, restriction)
    denoiser = Project(model.denoiser, constraint, start=START)
    drawn = draw(model, context, draws=draws, seed=seed, number=number, steps=steps, denoiser=denoiser)
    values = constraint.table(drawn)
    return values, restriction.violation(values.flatten(1))
