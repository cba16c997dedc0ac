"""Ensembles that are as wide as they should be, learned on past windows that the denoiser was not trained on.

At each level the interval [low, high] of a step becomes m + c (low - m), m + c (high - m), m its median: c comes from
the split-conformal quantile of (x - m) / (high - m), or (m - x) / (m - low) below (Romano, Patterson & Candes 2019,
with a score that scales as the forecast does). The past is not quite what comes, so the quantile is drawn to one, the
more the fewer periods of a horizon it is of. One c a level and variable serves all steps, whose spread the forecast has
told already. Draws move as the ends of the intervals do, and linearly between them, so that their order at every step,
and with it what belongs together, stays. Windows overlap, so coverage holds about, not for sure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scidiff.errors import UserError
from scidiff.timeseries.calibration import conformal_quantile, needed
from scidiff.timeseries.forecast_fit import Trial
from scidiff.timeseries.forecast_judge import periods
from scidiff.timeseries.forecast_model import draw
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats

LEVELS = (0.5, 0.8, 0.95)
PILOT = 200  # first draws, whatever is asked for, that tell medians and intervals
_PRIOR = 20  # periods, that a factor of one counts as
_WINDOWS = 240  # at most, that are asked: of 60, one that nothing holds would count 1.6 % of a level of 95


@dataclass(frozen=True, kw_only=True)
class Widening:
    """What was learned.

    Attributes:
        factors: of each variable, one for each of `LEVELS`; 1 leaves the draws alone.
        windows: that it was learned from.
        before, after: coverage of these windows at each level, all variables together.
    """

    factors: tuple[tuple[float, ...], ...]
    windows: int
    before: tuple[float, ...]
    after: tuple[float, ...]

    def __call__(self, draws: Floats, pilot: Floats) -> Floats:
        """Draws [K, H, V] moved as the intervals of a pilot [P, H, V] are."""
        knots = np.quantile(pilot, _ends(), axis=0)  # [2 L + 1, H, V]
        middle = len(LEVELS)
        scale = np.array([[*reversed(own), 1.0, *own] for own in self.factors]).T[:, None]
        goal = knots[middle] + scale * (knots - knots[middle])
        goal[middle:] = np.maximum.accumulate(goal[middle:])
        goal[: middle + 1] = np.minimum.accumulate(goal[: middle + 1][::-1])[::-1]
        out = np.empty_like(draws)
        for h, v in np.ndindex(*draws.shape[1:]):
            x, a, b = draws[:, h, v], knots[:, h, v], goal[:, h, v]
            beyond = scale[-1, 0, v] * (x - np.clip(x, a[0], a[-1]))
            out[:, h, v] = np.interp(x, a, b) + beyond
        return out

    def describe(self) -> Mapping[str, tuple[float, float]]:
        """Coverage before and after by level, on the windows that it was learned from."""
        rows = zip(LEVELS, self.before, self.after, strict=True)
        return {f"{100 * level:g} %": (before, after) for level, before, after in rows}


def _ends() -> list[float]:
    return [*((1 - level) / 2 for level in reversed(LEVELS)), 0.5, *((1 + level) / 2 for level in LEVELS)]


def fit(draws: Floats, x: Floats, period: Floats) -> Widening:
    """Learn from N past windows: draws [N, K, H, V], what came [N, H, V], NaN where nothing was measured.

    Windows of one period [N] overlap, or share the shocks of their time. A factor c becomes c^(P / (P + 20)) with P
    periods: so far the coverage of past windows speaks of that of later ones.

    Raises:
        UserError: too few windows for the highest level.
    """
    if len(x) < needed(max(LEVELS)):
        raise UserError(
            f"calibration: expected at least {needed(max(LEVELS))} past windows that training left out, got {len(x)}: "
            "a longer history, or none"
        )
    knots = np.quantile(draws, _ends(), axis=1)
    middle, seen = knots[len(LEVELS)], ~np.isnan(x)
    window = np.broadcast_to(np.arange(len(x))[:, None], x.shape[:2])
    factors: list[tuple[float, ...]] = []
    before, after = [], []
    scores = []
    for k in range(1, len(LEVELS) + 1):
        low, high = middle - knots[len(LEVELS) - k], knots[len(LEVELS) + k] - middle
        side = np.where(x > middle, high, low)
        off = np.abs(x - middle)
        scores.append(np.where(off == 0, 0.0, off / np.maximum(side, 1e-12 * (np.abs(middle) + off))))
    count = len(np.unique(period))
    for v in range(x.shape[2]):
        here = seen[:, :, v]
        factors.append(tuple(
            conformal_quantile(score[:, :, v][here], level, series=window[here]) ** (count / (count + _PRIOR))
            for score, level in zip(scores, LEVELS, strict=True)
        ))  # fmt: skip
    for k, score in enumerate(scores):
        own = np.array([factor[k] for factor in factors])
        before.append(float((score <= 1)[seen].mean()))
        after.append(float((score <= own)[seen].mean()))
    return Widening(factors=tuple(factors), windows=len(x), before=tuple(before), after=tuple(after))


def calibrate(
    trials: Sequence[Trial], *, seed: int, steps: int, show: Callable[[str], None] = lambda text: None
) -> Widening:
    """Learn from windows of the histories of a fit, each forecast by a member that it was new to."""
    windows: list[Horizons] = []
    found: list[Floats] = []
    for trial in trials:
        seen = np.flatnonzero(~np.isnan(trial.held.target).all((1, 2)))
        few = np.linspace(0, len(seen) - 1, min(len(seen), -(-_WINDOWS // len(trials))))
        chosen = trial.held[seen[np.unique(few.round().astype(np.int64))]]
        for n in range(len(chosen)):
            found.append(draw(trial.model, chosen[n : n + 1], draws=PILOT, seed=seed + len(found), steps=steps))
            show(f"calibration: window {len(found)}")
        windows.append(chosen)
    truth, period = (np.concatenate(part) for part in zip(*((w.target, periods(w)) for w in windows), strict=True))
    draws = np.stack(found) if found else np.empty((0, PILOT, *truth.shape[1:]))
    return fit(draws, truth, period)
