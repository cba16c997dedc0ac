"""The nearest of several: of every K draws the one whose geometry a network reads nearest to what was asked for.

This is a selection by a network, and no draw of the model any more: what it gains over a draw it pays K times for, and
its draws follow no stated distribution. Near is likely: where the network errs by e_p on molecules that it has not
seen, as a Gaussian would, the logarithm of the likelihood of the values asked for is, but for a constant,

    -1/2 sum_p ((read_p - asked_p) / e_p)^2

The network that chooses learned from other molecules than the one that judges (`estimator.CHOOSER`, `SHIPPED`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scidiff.errors import UserError
from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.conformers import ConformerRun
from scidiff.molecules.three_d.estimator import Estimator
from scidiff.molecules.three_d.oracle import with_positions

MOST = 256


def misses(read: np.ndarray, asked: Mapping[str, float], errors: Mapping[str, float]) -> np.ndarray:
    """How unlikely the values asked for are, -2 log-likelihood but for a constant.

    Args:
        read: what the network reads of each geometry, as `QUANTUM` has them, [..., 6].
        asked: values by name of `QUANTUM`, at least one.
        errors: of the network, by name, in the units of `QUANTUM`.
    """
    places = [list(QUANTUM).index(name) for name in asked]
    wanted, unit = np.array(list(asked.values())), np.array([errors[name] for name in asked])
    found: np.ndarray = (((read[..., places] - wanted) / unit) ** 2).sum(-1)
    return found


def checked(among: int, asked: Mapping[str, float]) -> int:
    """K. UserError if it is out of range, or nothing is asked for that a network reads."""
    if not 1 <= among <= MOST:
        raise UserError(f"--among: expected 1 to {MOST}, got {among}")
    if among > 1 and not set(asked) & set(QUANTUM):
        raise UserError(f"--among: expected --towards a value of {', '.join(QUANTUM)} to be near to, got none")
    return among


def nearest(
    run: ConformerRun, numbers: Sequence[int], asked: Mapping[str, float], reader: Estimator, *, among: int
) -> ConformerRun:
    """Of every K molecules, in their order, the nearest of those that have a geometry; none where none has.

    Args:
        run: of one conformer each.
        numbers: of the records of all molecules, in their order.
        asked: values; of those that are not in `QUANTUM` nothing is read.
        reader: the network that chooses.
        among: K.
    """
    group = {number: place // among for place, number in enumerate(numbers)}
    whole = [one for one in run.ensembles if one.conformers]
    read = reader.values([with_positions(one.record.mol, one.conformers[0].position) for one in whole])
    quantities = {name: value for name, value in asked.items() if name in QUANTUM}
    away = misses(read, quantities, reader.card["held out"])
    best: dict[int, int] = {}
    for place, one in enumerate(whole):
        mine = group[one.record.number]
        if mine not in best or away[place] < away[best[mine]]:
            best[mine] = place
    kept = [whole[place] for place in sorted(best.values())]
    return replace(run, ensembles=kept)


def account(drawn: ConformerRun, kept: ConformerRun, among: int) -> dict[str, object]:
    """What was chosen of what, as plain values, for JSON."""
    return {"of_each": among, "certified": drawn.certified, "kept": kept.certified, "by": "a network"}


def line(drawn: ConformerRun, kept: ConformerRun, among: int) -> str:
    """The same for people."""
    return (
        f"kept {kept.certified} of {drawn.certified} certified: of each {among} molecules the one that a network reads "
        "nearest to what was asked for, a selection by that network"
    )
