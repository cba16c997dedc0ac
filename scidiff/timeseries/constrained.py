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
from scidiff.timeseries.standardise import Translation

START = 0.5  # earlier clean estimates are means of many futures: a projection would drag all draws to one point

Columns = tuple[Translation, int]
"""How the V columns of a table are put before a model, and V."""


@dataclass(frozen=True, kw_only=True)
class InTable(Constraint):
    """A restriction of the cells of one series in a table of V columns, for states of the U variables of a model.

    "Nearest" is meant in units of each cell's conditional spread.

    Attributes:
        restriction: in the units of the table.
        context: of one series, with its location and scale of each cell.
        means, stds: [U], the model's variables in the units of the table.
        here, there: [M] which columns and which of the model's variables are the same.
        columns: V.
    """

    restriction: Restriction
    context: Context
    means: Tensor
    stds: Tensor
    here: Tensor
    there: Tensor
    columns: int

    @classmethod
    def of(
        cls,
        model: ImputerModel,
        context: Context,
        restriction: Restriction,
        panel: Columns | None = None,
    ) -> InTable:
        """For the cells that a context asks for; the columns are the model's variables, unless `panel` tells others."""
        device = context.location.device
        if panel is None:
            every = torch.arange(len(model.config.variables))
            means, stds, here, there, columns = model.config.means, model.config.stds, every, every, len(every)
        else:
            translation, columns = panel
            means, stds, here, there = (getattr(translation, name) for name in ("mean", "std", "here", "there"))
        return cls(
            restriction=restriction,
            context=context.repeat(1),
            means=torch.as_tensor(means, dtype=torch.float64, device=device),
            stds=torch.as_tensor(stds, dtype=torch.float64, device=device),
            here=torch.as_tensor(here, device=device),
            there=torch.as_tensor(there, device=device),
            columns=columns,
        )

    def table(self, x: Tensor) -> Tensor:
        """Standardised values [K, L, U] as the table has them, the nearest that keep the rules: float64 [K, L, V]."""
        values = self._across(self.means + self.stds * x.double(), 0.0)
        variance = self._across((self.stds * self.context.scale[0].double()).square(), 1.0)
        return self.restriction.project(values.flatten(1), variance.flatten()).reshape(values.shape)

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        if metric is not None:
            raise ValueError("expected no metric: the conditional spread of each cell is it")
        many = self.context.repeat(len(clean[LEAF]))
        x = many.restore(clean[LEAF])
        kept = self.table(x)[..., self.here]
        moved = x.double().index_copy(-1, self.there, (kept - self.means[self.there]) / self.stds[self.there])
        return clean | {LEAF: many.standardise(moved.to(clean[LEAF].dtype))}

    def violation(self, sample: State, layout: Layout) -> Tensor:
        x = self.context.repeat(len(sample[LEAF])).restore(sample[LEAF])
        return self.restriction.violation(self._across(self.means + self.stds * x.double(), 0.0).flatten(1))

    def _across(self, x: Tensor, empty: float) -> Tensor:
        """From the model's variables to the table's columns: [..., U] -> [..., V]."""
        return x.new_full((*x.shape[:-1], self.columns), empty).index_copy(-1, self.here, x[..., self.there])


def constrained_draws(
    model: ImputerModel,
    context: Context,
    restriction: Restriction,
    *,
    draws: int,
    seed: int,
    number: int,
    steps: int = STEPS,
    panel: Columns | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws of one series in the units of the table, float64 [K, L, V], and what each violates, float64 [K].

    The certificate is that of the very numbers returned: 0 where every rule holds, else the greatest violation in
    standard deviations. It is above 0 where observed values contradict the rules.

    Args:
        model: the weights.
        context: of the series; its unknown cells are those the restriction was made for.
        restriction: of the series.
        draws, seed, number, steps: as of `draw`.
        panel: columns of the table, where they are not the variables of the model.
    """
    constraint = InTable.of(model, context, restriction, panel)
    denoiser = Project(model.denoiser, constraint, start=START)
    drawn = draw(model, context, draws=draws, seed=seed, number=number, steps=steps, denoiser=denoiser)
    values = constraint.table(drawn)
    return values, restriction.violation(values.flatten(1))
