"""The account of an imputation: what was observed, filled and left, and what became of the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from scidiff.timeseries.verdicts import Certifier

CELLS = ("cells", "observed", "filled", "left")


@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """What came of an imputation, or of a part of one; parts are added by `+`, in order.

    Attributes:
        series: that were read.
        variables: of the table.
        counts: cells in all, observed, filled and left, by `CELLS`.
        samples, seed: as asked for.
        left_because: why gaps of a variable were left.
        windows: that are finished, and that there are.
        interrupted: whether it was cut off.
        verdicts: on the rules; None if there were none.
        training: of the model, for JSON.
        held_out: rows of the check, for JSON.
        notes: what was decided, one line each.
        seconds: that it took.
    """

    series: int
    variables: tuple[str, ...]
    counts: Mapping[str, int]
    samples: int
    seed: int
    left_because: Mapping[str, str]
    windows: tuple[int, int]
    interrupted: bool
    verdicts: Certifier | None
    training: Mapping[str, Any]
    held_out: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    seconds: float

    def __add__(self, other: Account) -> Account:
        """Of two parts of one table."""
        if self.verdicts is not None and other.verdicts is not None:
            other.verdicts.add_earlier(self.verdicts)
        return Account(
            series=self.series + other.series,
            variables=self.variables,
            counts={name: self.counts[name] + other.counts[name] for name in CELLS},
            samples=self.samples,
            seed=self.seed,
            left_because={**self.left_because, **other.left_because},
            windows=(self.windows[0] + other.windows[0], self.windows[1] + other.windows[1]),
            interrupted=self.interrupted or other.interrupted,
            verdicts=other.verdicts,
            training=self.training,
            held_out=self.held_out,
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
            seconds=self.seconds + other.seconds,
        )

    def summary(self) -> str:
        """The account on one line."""
        text = (
            f"{self.series:,} series, {len(self.variables)} variables: observed {self.counts['observed']:,}, "
            f"filled {self.counts['filled']:,} with {self.samples} samples each, left {self.counts['left']:,}"
        )
        if self.interrupted:
            text += f"; interrupted after {self.windows[0]:,} of {self.windows[1]:,} windows"
        return text

    def lines(self) -> list[str]:
        """The account for a terminal: notes, what was left, and what came of it."""
        lines = list(self.notes)
        if not self.interrupted:
            lines += [f"{name}: gaps left, since {why}" for name, why in self.left_because.items()]
        return [*lines, self.summary(), *([] if self.verdicts is None else [self.verdicts.summary()])]

    def as_dict(self) -> dict[str, Any]:
        """The account as plain values, for JSON."""
        return {
            "series": self.series,
            "variables": list(self.variables),
            **self.counts,
            "samples": self.samples,
            "constraints": {} if self.verdicts is None else self.verdicts.as_dict(),
            "seed": self.seed,
            "left_because": dict(self.left_because),
            "interrupted": self.interrupted,
            "training": dict(self.training),
            "held_out": [dict(row) for row in self.held_out],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def together(parts: list[Account]) -> Account:
    """The account of a table that was imputed in parts, at least one."""
    return reduce(Account.__add__, parts)
