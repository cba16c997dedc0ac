"""What imputed tables are good for: a prediction of the second day from the first, whatever filled its gaps.

The predictor is the same for all: logistic regression on mean, minimum, maximum and last value of every variable over
the first 24 hours, and age, sex, height and kind of unit. Five folds of stays; the area under the receiver operating
characteristic is of the stays that its fold's predictor has not seen. Several draws are pooled as multiple imputation
asks: a predictor each, the mean of their probabilities. Intervals are of 1,000 samples of stays with replacement, those
of differences paired.

What is predicted: death in hospital if the outcomes of the challenge are given (`--outcomes Outcomes-b.txt`), else
mechanical ventilation on the second day, from which no variable of the first is left out but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _imputation_data import Floats, Mask, Stays
from _imputation_methods import SIMPLE, Method

DAY = 24
FOLDS, SAMPLES = 5, 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is predicted: its name and a yes or no for every stay [S]."""

    name: str
    happened: Mask


def outcome(stays: Stays, measured: Path, outcomes: Path | None) -> Outcome:
    """The outcome of every stay.

    Args:
        stays: [S].
        measured: the long table that they come from.
        outcomes: table of the challenge with RecordID and In-hospital_death.
    """
    if outcomes is not None:
        died = pd.read_csv(outcomes).set_index("RecordID")["In-hospital_death"]
        return Outcome(name="death in hospital", happened=died.loc[stays.ids].to_numpy() > 0)
    long = pd.read_csv(measured)
    later = long[(long.variable == "MechVent") & (long.minute >= 60 * DAY) & (long.minute < 120 * DAY)]
    return Outcome(name="ventilation on day two", happened=np.isin(stays.ids, later.RecordID))


def first_day(stays: Stays) -> Stays:
    """The stays as they were known after a day."""
    values = stays.values.copy()
    values[:, DAY:] = np.nan
    return stays.replace(values)


def features(stays: Stays, filled: Floats) -> Floats:
    """Of filled first days [S, 24, V]: [S, 4 V + F + 3]."""
    known = np.isfinite(stays.static)
    means = np.where(known, stays.static, 0).sum(0) / np.maximum(known.sum(0), 1)
    covariates = np.where(known, stays.static, means)
    units = stays.static[:, -1:] == np.array([1, 2, 3])
    parts = [filled.mean(1), filled.min(1), filled.max(1), filled[:, -1], covariates, units]
    return np.concatenate(parts, axis=1)


def filled(method: Method, stays: Stays, draws: int) -> list[Floats]:
    """First days [S, 24, V], one a draw."""
    known = first_day(stays)
    asked = ~known.observed
    asked[:, DAY:] = False
    tables = []
    for values in method.impute(known, asked, draws):
        table = known.values.copy()
        table[asked] = values
        tables.append(table[:, :DAY])
    return tables


def predicted(tables: Sequence[Floats], stays: Stays, happened: Mask, seed: int) -> Floats:
    """The probability of each stay [S] by predictors that have not seen it, pooled over tables."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    predictor = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    found = [
        cross_val_predict(predictor, features(stays, one), happened, cv=folds, method="predict_proba") for one in tables
    ]
    pooled: Floats = np.mean(found, axis=0)[:, 1]
    return pooled


def downstream(own: Sequence[Method], stays: Stays, asked: Outcome, *, draws: int, seed: int) -> list[dict[str, Any]]:
    """One record a way to fill gaps; the first is what the others are compared with."""
    ways = [(method.name, filled(method, stays, 1)) for method in SIMPLE]
    for method in own:
        tables = filled(method, stays, draws)
        ways += [(f"{method.name}, one draw", tables[:1]), (f"{method.name}, {draws} draws pooled", tables)]
    source = np.random.default_rng(seed)
    resampled = [source.integers(len(stays), size=len(stays)) for _ in range(SAMPLES)]
    rows, first = [], None
    for name, tables in ways:
        probability = predicted(tables, stays, asked.happened, seed)
        area = _area(probability, asked.happened)
        areas = np.array([_area(probability[one], asked.happened[one]) for one in resampled])
        first = areas if first is None else first
        rows.append({
            "way": name, "outcome": asked.name, "stays": len(stays), "share": float(asked.happened.mean()),
            "area": area, "interval": np.quantile(areas, [0.025, 0.975]).tolist(),
            "difference": float((areas - first).mean()),
            "difference_interval": np.quantile(areas - first, [0.025, 0.975]).tolist(),
        })  # fmt: skip
    return rows


def _area(score: Floats, happened: Mask) -> float:
    """The probability that a stay where it happened has the larger score (Mann & Whitney 1947)."""
    rank = pd.Series(score).rank().to_numpy()
    yes = int(happened.sum())
    no = len(score) - yes
    return float((rank[happened].sum() - yes * (yes + 1) / 2) / (yes * no)) if yes and no else float("nan")


def table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line a way."""
    one = rows[0]
    title = (
        f"Downstream: {one['outcome']} predicted from the first day of {one['stays']:,} stays"
        f" ({one['share']:.0%} yes), logistic regression, five folds; [95 % interval]"
    )
    lines = [
        [
            row["way"],
            "{:.3f} [{:.3f}, {:.3f}]".format(row["area"], *row["interval"]),
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(row["difference"], *row["difference_interval"]),
        ]
        for row in rows
    ]
    return {"title": title, "columns": ["gaps filled by", "AUROC", f"less that of {one['way']}"], "rows": lines}
