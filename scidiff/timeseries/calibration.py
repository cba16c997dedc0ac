"""Honest intervals from draws that are too narrow or too wide, learned on series that were held out.

Two steps for each variable, on two halves of the held-out series, neither of them ever training or test series:

    spread      draws become m + f (X - m), m their median: the factor f that makes the mean fair CRPS smallest
    widening    split-conformal quantile regression (Romano, Patterson & Candes 2019): an interval [low, high] becomes
                [low - q, high + q], q the right quantile of the scores  max(low - x, x - high)  of the second half

Values of one series are not exchangeable with those of another. Scores are therefore weighted as by Lee, Barber &
Willett (2023, "Distribution-free inference with hierarchical data"): each series counts as one, its values share it:

    1 - a <= P(a value, taken at random, of a new series is within) ;   <= 1 - a + 1 / (S + 1) for one value a series

S is the number of held-out series that have the variable. The guarantee is of intervals on average over series, not of
each kind of patient, and it holds while the series to come are like those held out, with cells hidden alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scidiff.errors import UserError
from scidiff.timeseries.metrics import Floats, checked, half_gap, interval, keyed_uniform

LEVELS = (0.5, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was learned of V variables, in the units of the draws it was fitted to.

    Attributes:
        variables: V names.
        levels: of central intervals, in (0, 1).
        spread: V factors >= 0; 1 leaves the draws alone.
        widening: V numbers for each level: how far both ends move outward, negative for inward.
    """

    variables: tuple[str, ...]
    levels: tuple[float, ...]
    spread: tuple[float, ...]
    widening: tuple[tuple[float, ...], ...]

    def draws(self, draws: npt.ArrayLike, variable: npt.ArrayLike) -> Floats:
        """Draws [K, N] of values of the variables [N] (numbers 0 to V - 1), spread by their factors: [K, N]."""
        return spread_out(draws, np.asarray(self.spread)[np.asarray(variable)])

    def interval(self, draws: npt.ArrayLike, variable: npt.ArrayLike, level: float) -> tuple[Floats, Floats]:
        """The calibrated central interval: low [N], high [N]; both at their middle where they would cross.

        Args:
            draws: [K, N], as the model gives them.
            variable: [N], numbers 0 to V - 1.
            level: one of `levels`.
        """
        if level not in self.levels:
            raise ValueError(f"expected one of the levels {self.levels}, got {level}")
        low, high = interval(self.draws(draws, variable), level)
        wider = np.asarray(self.widening[self.levels.index(level)])[np.asarray(variable)]
        low, high = low - wider, high + wider
        crossed, middle = low > high, (low + high) / 2
        return np.where(crossed, middle, low), np.where(crossed, middle, high)


def fit(
    draws: npt.ArrayLike,
    x: npt.ArrayLike,
    *,
    series: npt.ArrayLike,
    variable: npt.ArrayLike,
    variables: Sequence[str],
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> Calibration:
    """Learn spread and widening from hidden values of series that were neither trained nor will be tested on.

    Args:
        draws: [K, N], K >= 2.
        x: [N], what was hidden.
        series: [N] identity of the series of each value.
        variable: [N] numbers of the variables, 0 to V - 1.
        variables: V names.
        levels: of the intervals.
        seed: which half of the series is for which step.

    Raises:
        UserError: a variable has values in too few series for the highest level: how many it takes.
    """
    many, one = checked(draws, x, least=2)
    names, place = np.unique(np.asarray(series), return_inverse=True)
    code = np.asarray(variable, dtype=np.int64)
    second = _second_half(place, code, len(names), seed)
    factors = [spread_factor(many[:, here], one[here]) for here in _each(code, ~second, variables)]
    stretched = spread_out(many, np.asarray(factors)[code])
    widening = []
    for level in levels:
        low, high = interval(stretched, level)
        score = np.maximum(low - one, one - high)
        found = [
            conformal_quantile(score[here], level, series=place[here], what=f"{variables[v]}: ", halved=True)
            for v, here in enumerate(_each(code, second, variables))
        ]
        widening.append(tuple(found))
    return Calibration(
        variables=tuple(variables), levels=tuple(levels), spread=tuple(factors), widening=tuple(widening)
    )


def _each(code: npt.NDArray[np.int64], here: npt.NDArray[np.bool_], variables: Sequence[str]) -> list[Any]:
    return [here & (code == v) for v in range(len(variables))]


def _second_half(place: npt.NDArray[np.int64], code: npt.NDArray[np.int64], count: int, seed: int) -> Any:
    """[N] whether a value's series is for the widening: the second half of the series, in a random order."""
    rank = np.argsort(np.argsort(keyed_uniform(count, seed=seed, name="calibration")))
    return rank[place] >= count // 2


def spread_out(draws: npt.ArrayLike, factor: npt.ArrayLike) -> Floats:
    """m + f (X - m), m the median of the draws [K, N] and f a factor >= 0 for each value [N]: [K, N]."""
    many = np.asarray(draws, dtype=np.float64)
    middle = np.median(many, axis=0)
    return np.asarray(middle + np.asarray(factor, dtype=np.float64) * (many - middle))


def spread_factor(draws: npt.ArrayLike, x: npt.ArrayLike) -> float:
    r"""The factor f >= 0 that makes the mean fair CRPS of m + f (X - m) smallest, exactly; 1 if it makes no difference.

    With deviations d_k = X_k - m of a value, its residual r = x - m and g = E|X - X'| / 2 of its draws,

        sum_i [ mean_k |f d_ik - r_i| - f g_i ]  =  sum_ik (|d_ik| / K) |f - r_ik / d_ik|  -  f sum_i g_i  + const.

    is convex and piecewise linear: its minimum is the quantile of r / d with weights |d| / K at the level
    (1 + sum g / sum (|d| / K)) / 2.

    Args:
        draws: [K, N], K >= 2.
        x: [N].
    """
    many, one = checked(draws, x, least=2)
    deviation = many - np.median(many, axis=0)
    weight = np.abs(deviation).ravel() / len(many)
    kept = weight > 0
    if not kept.any():
        return 1.0
    residual = np.broadcast_to(one - np.median(many, axis=0), many.shape).ravel()[kept]
    ratio, weight = residual / deviation.ravel()[kept], weight[kept]
    order = np.argsort(ratio)
    cumulative = np.cumsum(weight[order])
    wanted = (cumulative[-1] + half_gap(many).sum()) / 2
    return max(float(ratio[order][min(np.searchsorted(cumulative, wanted), len(order) - 1)]), 0.0)


def needed(level: float) -> int:
    """The fewest series that allow a conformal interval of a level: the least S with (S + 1)(1 - level) >= 1."""
    return math.ceil(1 / (1 - level) - 1 - 1e-9)


def conformal_quantile(
    score: npt.ArrayLike,
    level: float,
    *,
    series: npt.ArrayLike | None = None,
    what: str = "",
    halved: bool = False,
) -> float:
    """The smallest q that holds a new score with a probability of at least `level`.

    A series of n scores gives each of them the weight 1 / ((S + 1) n), and infinity has the weight 1 / (S + 1): q is
    the smallest score whose weight, with all those below, reaches `level`. With one score a series it is the
    ceil((S + 1) level)-th smallest.

    Args:
        score: [N], no NaN.
        level: in (0, 1).
        series: [N] which scores belong together; default: each is its own.
        what: begins the error.
        halved: the error names twice as many series, of which a half gets here.

    Raises:
        UserError: too few series.
    """
    one = np.asarray(score, dtype=np.float64)
    names, place = np.unique(np.arange(len(one)) if series is None else np.asarray(series), return_inverse=True)
    if len(names) < needed(level):
        factor, half = (2, " (a half of them)") if halved else (1, "")
        raise UserError(
            f"{what}expected held-out values in at least {factor * needed(level)} series for intervals of "
            f"{100 * level:g} %, got {len(names)}{half}: hold out more, or ask for a lower level"
        )
    count = np.bincount(place)
    order = np.argsort(one, kind="stable")
    reached = np.cumsum(1 / count[place[order]]) / (len(names) + 1)
    return float(one[order][np.searchsorted(reached, level - 1e-12)])


def describe(calibration: Calibration) -> Mapping[str, Mapping[str, float]]:
    """By variable: its spread factor, and its widening at each level."""
    return {
        name: {"spread": calibration.spread[v]}
        | {f"{100 * a:g} %": row[v] for a, row in zip(calibration.levels, calibration.widening, strict=True)}
        for v, name in enumerate(calibration.variables)
    }
