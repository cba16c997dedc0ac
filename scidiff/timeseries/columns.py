"""Which column of a table is what: identity, time, and variables in columns (wide) or in rows (long)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scidiff.errors import UserError

# Names by which well-known tables call a column, tried in this order when none is given; MEDS's stand first.
IDS = (
    *("subject_id", "recordid", "patient_id", "patientid", "stay_id", "icustay_id", "hadm_id", "patientunitstayid"),
    *("encounter_id", "series_id", "unique_id", "series", "station", "id"),
)
TIMES = ("time", "timestamp", "datetime", "charttime", "date", "minute", "minutes", "hour", "hours", "ds", "t")
VARIABLES = ("code", "variable", "parameter", "feature", "measurement", "item", "itemid")
VALUES = ("numeric_value", "value", "valuenum")
MEDS = ("subject_id", "time", "code", "numeric_value")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about a table; whatever is None is found out.

    Attributes:
        id, time: columns of identity and time. A table without an identity is one series.
        variable, value: columns of a long table (one row a measurement).
        variables: the variables to use, in this order. Default: all.
        duplicates: several values of one variable at one time of one series are refused, or their mean or the last
            becomes the panel's value; written back is what came.
        unsorted: times that go back within a series are refused, or sorted; written back is the order that came.
        delimiter, encoding, decimal: how a text file is written.
    """

    id: str | None = None
    time: str | None = None
    variable: str | None = None
    value: str | None = None
    variables: tuple[str, ...] | None = None
    duplicates: Literal["refuse", "mean", "last"] = "refuse"
    unsorted: Literal["refuse", "sort"] = "refuse"
    delimiter: str | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] = "."


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a table by what they are; `variable` and `value` are None in a wide one."""

    id: str | None
    time: str
    variable: str | None = None
    value: str | None = None
    meds: bool = False
    notes: tuple[str, ...] = ()

    @property
    def long(self) -> bool:
        """Whether there is one row a measurement."""
        return self.variable is not None

    @property
    def all(self) -> tuple[str | None, ...]:
        """The columns that are no variables."""
        return (self.id, self.time, self.variable, self.value)


def roles(names: Sequence[str], options: Options, where: str) -> Roles:
    """Find out which column is what.

    Args:
        names: of the columns.
        options: those that the user named.
        where: the file, for messages.

    Raises:
        UserError: a column that was named is not there (with the names nearest to it), one column was named twice, or
            no column of times can be told.
    """
    given = {"id": options.id, "time": options.time, "variable": options.variable, "value": options.value}
    for role, name in given.items():
        if name is not None:
            known(name, names, what=f"--{role}", where=where)
    named = [name for name in given.values() if name is not None]
    for name in named:
        if named.count(name) > 1:
            raise UserError(f"{where}: expected columns that differ, got {name!r} for two of id, time, variable, value")
    free = [name for name in names if name not in named]
    variable = options.variable or _first(VARIABLES, free)
    value = options.value or _first(VALUES, free)
    if (options.variable is None) != (options.value is None) and (variable is None or value is None):
        missing = "--value" if value is None else "--variable"
        raise UserError(f"{where}: a long table needs a column of variables and one of values: give {missing}")
    if variable is None or value is None:
        variable = value = None
    id_ = options.id or _first(IDS, [name for name in free if name not in (variable, value)])
    time = options.time or _first(TIMES, [name for name in free if name not in (variable, value, id_)])
    if time is None:
        raise UserError(f"{where}: expected a column of times, got {listed(names)}: name it with --time")
    found = {"id": id_, "time": time, "variable": variable, "value": value}
    guessed = [f"{role} is {name!r}" for role, name in found.items() if name is not None and given[role] is None]
    return Roles(
        id=id_,
        time=time,
        variable=variable,
        value=value,
        meds=(id_, time, variable, value) == MEDS,
        notes=(f"{where}: column of " + ", of ".join(guessed),) if guessed else (),
    )


def known(name: str, names: Iterable[str], *, what: str, where: str) -> None:
    """UserError, with the nearest names, if a name is not among those there are."""
    names = [str(n) for n in names]
    if name not in names:
        near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=3, cutoff=0.6)
        meant = [n for n in names if n.lower() in near]
        hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
        raise UserError(f"{where}: {what}: expected one of {listed(names)}, got {name!r}{hint}")


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def listed(names: Sequence[str]) -> str:
    """The first dozen names, and how many there are."""
    shown = ", ".join(names[:12])
    return shown + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
