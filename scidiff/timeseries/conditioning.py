r"""Futures that keep rules: an ensemble conditioned on what must hold, as a Gaussian one would be, exactly.

Equalities A x = b move each draw by what is called Matheron's rule in geostatistics (Wilson et al. 2020, eq. 8),

    x' = x - S A^T (A S A^T)^+ (A x - b)

with S the covariance of the draws themselves: draws of N(m, S) become draws of N(m, S) given A x = b. The nearest point
in the Euclidean metric, S = I, would have neither the right mean nor the right spread. S is estimated from the same
first draws whatever is asked for, so that a draw stays a function of (seed, series, draw); its correlations are shrunk
(Schaefer & Strimmer 2005, table 1, target D). Draws of series that a hierarchy links go together as their errors have
(`coupling`). What then lies beyond an
inequality goes to the nearest point that keeps all rules, in units of each cell's spread, and stays elsewhere to the
bit. Whole numbers come last.
"""

from __future__ import annotations

import numpy as np
import torch

from scidiff.errors import UserError
from scidiff.timeseries.forecast_rules import ForecastRules, Future, about, all_terms, amount, nodes, whole
from scidiff.timeseries.panel import Floats
from scidiff.timeseries.restriction import Restriction, restrict
from scidiff.timeseries.rules import Term
from scidiff.timeseries.widening import PILOT

_MOST = 4096  # cells of a future that are told of together


def shrunk_covariance(draws: Floats) -> Floats:
    """The covariance [D, D] of draws [K, D], K >= 4, with shrunk correlations."""
    count = len(draws)
    centred = draws - draws.mean(0)
    std = np.sqrt((centred**2).sum(0) / (count - 1))
    unit = centred / np.where(std > 0, std, 1.0)
    correlation = unit.T @ unit / (count - 1)
    square = (unit**2).T @ (unit**2) / count - (unit.T @ unit / count) ** 2
    off = ~np.eye(len(std), dtype=bool)
    size = float((correlation[off] ** 2).sum())
    shrink = min(float(square[off].sum()) / (count - 1) / size, 1.0) if size > 0 else 1.0
    correlation = np.where(off, (1 - shrink) * correlation, 1.0)
    return np.asarray(std[:, None] * correlation * std)


def condition(draws: Floats, covariance: Floats, equal: Floats, target: Floats) -> Floats:
    """Draws [K, D] of N(m, covariance) given equal [M, D] @ x = target [M]."""
    gain = covariance @ equal.T @ np.linalg.pinv(equal @ covariance @ equal.T, rcond=1e-12, hermitian=True)
    for _ in range(2):  # once more, for what rounding leaves
        draws = draws - (draws @ equal.T - target) @ gain.T
    return draws


def conditioned(draws: Floats, pilot: Floats, rules: ForecastRules, future: Future) -> Floats:
    """Futures of series that are told of together: [S, K, H, V] in the units of the table.

    Args:
        draws: [S, K, H, V] without rules.
        pilot: [S, P, H, V], what the covariance is estimated from.
        rules: checked against the future.
        future: what is known of it.

    Raises:
        UserError: rules that contradict each other, which are named.
    """
    series, count, horizon, width = draws.shape
    rules = whole(rules)
    std = pilot.std(axis=1)
    unit = np.sqrt((std**2).mean(1)).ravel()
    unit = np.where(unit > 0, unit, 1.0)
    restriction = _restriction(rules, future, unit)
    size = horizon * series * width
    found, first = (np.moveaxis(one, 0, 2).reshape(-1, size) for one in (draws, pilot))
    least = 1e-12 * np.tile(unit**2, horizon)  # a cell that the draws know for sure can still be told otherwise
    joint = shrunk_covariance(first) + np.diag(least)
    equal, target = _equalities(restriction, size)
    if len(equal):
        found = condition(found, joint, equal, target)
    found = _inside(found, restriction, np.diag(joint))
    if rules.integers:
        found = _rounded(found.reshape(count, horizon, -1), rules, future).reshape(count, size)
    return np.moveaxis(found.reshape(count, horizon, series, width), 2, 0)


def keep_rules(draws: Floats, rules: ForecastRules, future: Future) -> Floats:
    """Futures [S, K, H, V] that keep rules, K >= `PILOT`; series that no hierarchy links each by themselves."""
    pilot = draws[:, :PILOT]
    if rules.over_series(future.series):
        return conditioned(draws, pilot, rules, future)
    alone = [np.array([s]) for s in range(len(draws))]
    return np.concatenate([conditioned(draws[s], pilot[s], rules, future[s]) for s in alone])


def _restriction(rules: ForecastRules, future: Future, unit: Floats) -> Restriction:
    """The rules with the last known row put in; UserError if no future keeps them."""
    size = future.last.size
    if size * future.horizon > _MOST:
        raise UserError(
            f"expected at most {_MOST} values of the future that rules link, got {size * future.horizon} "
            f"({len(future.series)} series, {future.horizon} steps): fewer series, or a shorter horizon"
        )
    asked = np.ones((1 + future.horizon, size), dtype=bool)
    asked[0] = False
    values = np.zeros(asked.shape)
    values[0] = np.nan_to_num(future.last.ravel())
    stated = list(all_terms(rules, future))

    def restricted(kept: list[Term]) -> Restriction:
        return restrict(kept, values=values, asked=asked, stds=unit)

    found = restricted(stated)
    if found.contradictory:
        for rule in dict.fromkeys(term.rule for term in stated):  # what can be left out is not to blame
            fewer = [term for term in stated if term.rule != rule]
            if restricted(fewer).contradictory:
                stated = fewer
        raise UserError(f"rules contradict each other: {' and '.join(dict.fromkeys(term.rule for term in stated))}")
    return found


def _equalities(restriction: Restriction, size: int) -> tuple[Floats, Floats]:
    """A and b of the future's cells."""
    chosen = restriction.equality.numpy()
    matrix = restriction.matrix.to_dense().numpy()[chosen][:, -size:]
    scale = np.maximum(np.abs(matrix).sum(1, keepdims=True), 1.0)
    return matrix / scale, restriction.limit.numpy()[chosen] / scale[:, 0]


def _inside(found: Floats, restriction: Restriction, variance: Floats) -> Floats:
    """Draws that break a rule go to the nearest point that keeps all; the others stay to the bit."""
    before = restriction.low.shape[0] - found.shape[1]
    padded = torch.from_numpy(np.pad(found, ((0, 0), (before, 0))))
    spread = torch.from_numpy(np.pad(variance, (before, 0), constant_values=1.0))
    broken = restriction.violation(padded) > 0
    if bool(broken.any()):
        padded[broken] = restriction.project(padded[broken], spread)
    return padded[:, before:].numpy()


def _leaves(column: int, rules: ForecastRules, future: Future) -> list[int]:
    """The columns in [S V] that the hierarchy adds up to one; itself if it has no parts."""
    for _, _, (top, *parts) in nodes(rules, future):
        if top == column:
            return [leaf for part in parts for leaf in _leaves(part, rules, future)]
    return [column]


def _rounded(x: Floats, rules: ForecastRules, future: Future) -> Floats:
    """Whole numbers, [K, H, S V]: of the leaves of the hierarchy, from which its totals are added up.

    floor(x + 1/2) keeps whole bounds, orders, monotony and rates. Cells of a total, those of one leaf after those of
    another, are rounded along their running sum, which keeps the total; each is then the whole number below or above.
    """
    x, width = x.copy(), len(future.variables)
    columns = [s * width + future.variables.index(name) for s in range(len(future.series)) for name in rules.integers]
    down = np.floor(x[:, :, columns] + 0.5)
    exact = x.copy()
    x[:, :, columns] = down
    asked = [(total, s) for total in rules.totals if total.variable in rules.integers for s in about(total, future)]
    leaves = [_leaves(s * width + future.variables.index(total.variable), rules, future) for total, s in asked]
    for own, (total, s) in sorted(zip(leaves, asked, strict=True), key=lambda pair: len(pair[0])):
        value, steps = amount(total, rules, future, s)
        if abs(value - round(value)) > 1e-9 * max(abs(value), 1.0):
            raise UserError(f"rules contradict each other: {total.variable} whole, and its total {value:g}")
        cells = exact[:, steps, own].swapaxes(1, 2)
        up_to = np.floor(np.cumsum(cells.reshape(len(x), -1), axis=1) + 0.5)
        x[:, steps, own] = np.diff(up_to, axis=1, prepend=0.0).reshape(cells.shape).swapaxes(1, 2)
    for given in rules.known:
        broken = [value for value in given.values if value is not None and value != round(value)]
        if given.variable in rules.integers and broken:
            raise UserError(f"rules contradict each other: {given.variable} whole, and known to be {broken[0]:g}")
    depth = {top: len(rules.below(top)) for top in rules.hierarchy}
    for _, _, (top, *parts) in sorted(nodes(rules, future), key=lambda node: depth[node[0]]):
        if top in columns:
            x[:, :, top] = x[:, :, parts].sum(2)
    return x
