"""Whether finished futures keep their rules: an oracle that reads the numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from scidiff.timeseries.forecast_rules import ForecastRules, Future, about, amount, named
from scidiff.timeseries.metrics import Floats
from scidiff.timeseries.verdicts import ROUNDING, Verdict, excesses

Found = tuple[str, str, Floats, Floats]
"""A rule, the series, how far it is exceeded [K, ...], the size of the numbers there."""


def judge(draws: Floats, rules: ForecastRules, future: Future) -> Mapping[str, Verdict]:
    """What became of each rule on draws [S, K, H, V]."""
    verdicts: dict[str, Verdict] = {}
    for rule, series, excess, size in _found(draws, rules, future):
        over = np.where(excess > ROUNDING * size, excess, 0.0)
        over = np.where(np.isnan(excess), np.inf, over).reshape(len(over), -1)
        broken = (over > 0).any(1)
        one = Verdict(places=over.shape[1], draws=int(broken.sum()), worst=float(over.max(initial=0.0)))
        if broken.any():
            one.series.append(series)
        verdicts[rule] = verdicts.get(rule, Verdict()) + one
    return verdicts


def summary(verdicts: Mapping[str, Verdict], draws: int, series: int) -> str:
    """What came of it, on one line."""
    text = f"{len(verdicts)} rules checked on {draws:,} futures of {series:,} series: "
    broken = [
        f"{rule} broken by {one.draws:,} futures, by at most {one.worst:.3g} (series {', '.join(one.series)})"
        for rule, one in verdicts.items()
        if one.draws
    ]
    return text + ("; ".join(broken) if broken else "all hold")


def _found(draws: Floats, rules: ForecastRules, future: Future) -> Iterator[Found]:
    place = {name: v for v, name in enumerate(future.variables)}
    for s, series in enumerate(future.series):
        last = np.broadcast_to(future.last[s], (draws.shape[1], 1, draws.shape[3]))
        yield "values are finite", series, 1.0 - np.isfinite(draws[s]), np.zeros_like(draws[s])
        whole = np.concatenate([last, draws[s]], axis=1)
        seen = np.zeros(whole.shape[1:], dtype=bool)
        seen[0] = True
        for rule, _, excess, made, size in excesses(rules, future.variables, future.times[s], whole, seen):
            yield rule, series, excess[:, made], size[:, made]
        for name in rules.integers:
            x = draws[s, :, :, place[name]]
            yield f"{name} whole", series, np.abs(x - np.rint(x)), np.zeros_like(x)
    for given in rules.known:
        for s in about(given, future):
            told = np.array([np.nan if value is None else value for value in given.values])
            x = draws[s, :, : len(told), place[given.variable]][:, ~np.isnan(told)]
            size = np.abs(x) + np.abs(told[~np.isnan(told)])
            yield f"{given.variable} as known", future.series[s], np.abs(x - told[~np.isnan(told)]), size
    for total in rules.totals:
        for s in about(total, future):
            value, steps = amount(total, rules, future, s)
            x = draws[s, :, steps, place[total.variable]]
            size = np.abs(x).sum(1, keepdims=True) + abs(value)
            yield named(total, value, steps), future.series[s], np.abs(x.sum(1, keepdims=True) - value), size
    for top, parts in rules.hierarchy.items():
        rule = f"{top} == {' + '.join(parts)}"
        across = rules.over_series(future.series)
        names = future.series if across else future.variables
        each = np.moveaxis(draws, 0, 3) if across else np.moveaxis(draws, 0, 2)  # [K, H, ..., nodes]
        if top not in names:
            continue
        whole = each[..., names.index(top)]
        added = [each[..., names.index(part)] for part in parts]
        size = np.abs(whole) + sum(np.abs(part) for part in added)
        off = np.abs(whole - sum(added))
        yield rule, top, off, size
