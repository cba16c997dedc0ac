"""What is kept from training so that it can tell when to stop: whole series, or where there are few, less.

    5 series or more         some series
    fewer, but 8 windows     some windows
    fewer                    some cells of every window

The cells to be told are chosen once, so that one measurement can be compared with the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.masks import hide
from scidiff.training.batches import permutation

LEAST_SERIES, LEAST_WINDOWS = 5, 8
MOST_HELD = 64  # windows: enough to see a change of one per cent, and quick
_PART = 0.15
_LEAST_JUDGED = 16
_JUDGED = {"random": 0.7, "block": 0.1, "variable": 0.1, "forecast": 0.1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Which of W windows are learned from, and which are held out.

    Attributes:
        train, held: numbers of windows, ascending; the same ones where single values are held out.
        unit: `series`, `windows` or `values`.
    """

    train: Tensor
    held: Tensor
    unit: str


def split(count: Tensor, series: Tensor, *, seed: int = 0) -> Split:
    """Choose what is held out.

    Args:
        count: [W] observed values of each window; those with fewer than two are of no use.
        series: [W] the series of each: no series is on both sides if there are at least `LEAST_SERIES`.
        seed: of the choice.

    Raises:
        ValueError: no window has two observed values.
    """
    number = torch.nonzero(count >= 2)[:, 0]
    if not len(number):
        raise ValueError("expected a series with at least two observed values, got none")
    names = torch.unique(series[number])
    if len(names) >= LEAST_SERIES:
        order = names[permutation(len(names), seed=seed, epoch=0, kind="holdout")]
        held = torch.isin(series[number], order[: _count(len(order))])
        return Split(train=number[~held], held=number[held][:MOST_HELD], unit="series")
    if len(number) >= LEAST_WINDOWS:
        order = permutation(len(number), seed=seed, epoch=0, kind="holdout")
        first = _count(len(number))
        return Split(
            train=number[order[first:].sort().values], held=number[order[:first].sort().values], unit="windows"
        )
    return Split(train=number, held=number, unit="values")


def _count(available: int) -> int:
    return min(max(round(_PART * available), 1), MOST_HELD)


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """Windows to learn from and windows to judge by.

    Attributes:
        train: nothing that is asked of `held` is in it.
        held: [H, L, V]; a window may be there several times.
        asked: [H, L, V] bool, the observed cells of `held` that are hidden from the model that is judged; some of each.
        number: [H] which windows these are.
        unit: `series`, `windows` or `values`.
    """

    train: Standardised
    held: Standardised
    asked: Tensor
    number: Tensor
    unit: str

    @classmethod
    def of(cls, data: Standardised, chosen: Split, *, seed: int = 0) -> Holdout:
        """Carry out a split of W windows; the seed is that of the hidden cells."""
        train = data[chosen.train]
        if chosen.unit == "values":
            noise, again = (Noise(seed=seed + k, index=chosen.held) for k in range(2))
            asked = hide(train.observed, train.observed, noise, mixture={"random": 0.7, "block": 0.3})
            asked &= hide(train.observed, asked, again, mixture={"random": 1.0})
            if not asked.any():  # of very few values one is still asked
                asked = _last(train.observed)
            learned = replace(train, observed=train.observed & ~asked, values=torch.where(asked, 0, train.values))
            return cls(train=learned, held=train, asked=asked, number=chosen.held, unit=chosen.unit)
        times = -(-_LEAST_JUDGED // len(chosen.held))  # few windows are asked in several ways
        number = chosen.held.repeat(times)
        observed = data.observed[number]
        asked = hide(observed, observed, Noise(seed=seed, index=torch.arange(len(number))), mixture=_JUDGED)
        asked = torch.where(asked.flatten(1).any(1)[:, None, None], asked, _last(observed))
        return cls(train=train, held=data[number], asked=asked, number=number, unit=chosen.unit)


def _last(observed: Tensor) -> Tensor:
    """The last observed cell of each window alone: bool [H, L, V]."""
    flat = observed.flatten(1).long()
    return ((flat.cumsum(1) == flat.sum(1, keepdim=True)) & (flat > 0)).view_as(observed)
