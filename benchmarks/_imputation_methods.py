"""Contestants: simple baselines, scikit-learn's, and scidiff's own networks. All see z-units."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from _imputation_data import Floats, Mask, Stays, Units, around
from torch import Tensor

from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.timeseries.batches import Standardised
from scidiff.timeseries.draws import draw, encode
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.recorded import nearest

TREE_CELLS = 20_000  # of each variable that trees learn from
NEIGHBOUR_ROWS = 3000


class Method(Protocol):
    """Something that imputes."""

    name: str

    def fit(self, train: Stays, seconds: float) -> None:
        """Learn from stays in z-units, in about so many seconds."""

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        """Draws [K, N] of the N cells asked for [S, L, V], in their order; K = 1 if the method has no draws."""


@dataclass
class Simple:
    """A rule that needs no training: values [S, L, V] with NaN -> values without."""

    name: str
    rule: Callable[[Floats], Floats]

    def fit(self, train: Stays, seconds: float) -> None:
        """Nothing to learn."""

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        return np.nan_to_num(self.rule(stays.values))[asked][None]


def forward_fill(values: Floats) -> Floats:
    """The last value before; where there is none the first after."""
    found = around(values)
    return np.where(np.isnan(found.left), found.right, found.left)


SIMPLE = (
    Simple("mean", np.zeros_like),
    Simple("forward fill", forward_fill),
    Simple("linear interpolation", lambda values: around(values).line),
)


def hours(values: Floats) -> Floats:
    """Rows [S * L, 2 V]: what is measured in an hour (NaN else), and the lines through the hours around."""
    line = np.nan_to_num(around(values).line)
    return np.concatenate([values, line], axis=2).reshape(-1, 2 * values.shape[2])


@dataclass
class ByHours:
    """An imputer of scikit-learn on hours with their neighbourhood (`hours`), fitted to a random part of them."""

    name: str
    make: Callable[[], object]
    rows: int
    fitted: object = None

    def fit(self, train: Stays, seconds: float) -> None:
        """The number of rows grows until the next size would not fit in the time."""
        table = hours(train.values)
        table = table[np.isfinite(table[:, : table.shape[1] // 2]).any(1)]
        table = np.random.default_rng(0).permutation(table)
        size, began = 1000, time.monotonic()
        while True:
            took = time.monotonic()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # three rounds are its budget, not its convergence
                self.fitted = self.make().fit(table[:size])  # type: ignore[attr-defined]
            took = time.monotonic() - took
            if size >= min(self.rows, len(table)) or time.monotonic() - began + 5 * took > seconds:
                return
            size *= 4

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        table = hours(stays.values)
        wanted = np.flatnonzero(asked.any(2).reshape(-1))
        table[wanted] = self.fitted.transform(table[wanted])  # type: ignore[attr-defined]
        return table[:, : asked.shape[2]].reshape(asked.shape)[asked][None]


def sklearn_methods() -> list[Method]:
    """k-NN, iterative and gradient boosting; ImportError without scikit-learn."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer
    from sklearn.linear_model import BayesianRidge

    return [
        ByHours(
            "k-NN", lambda: KNNImputer(n_neighbors=10, weights="distance", keep_empty_features=True), NEIGHBOUR_ROWS
        ),
        ByHours(
            "iterative (BayesianRidge)",
            lambda: IterativeImputer(BayesianRidge(), max_iter=3, random_state=0, keep_empty_features=True),
            64_000,
        ),
        Trees(),
    ]


@dataclass
class Trees:
    """One gradient boosting a variable, on what stands around the cell and the lines of all variables."""

    name: str = "gradient boosting"
    models: dict[int, object] = field(default_factory=dict)

    def fit(self, train: Stays, seconds: float) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        source = np.random.default_rng(0)
        stays = train[source.permutation(len(train))[:2000]]
        ratio = source.random(len(stays))[:, None, None]
        hidden = stays.observed & (source.random(stays.values.shape) < ratio)
        features = Features(np.where(hidden, np.nan, stays.values))
        began, iterations = time.monotonic(), 40
        for variable in range(hidden.shape[2]):
            place = np.argwhere(hidden[:, :, variable])
            if len(place) < 20:
                continue
            place = source.permutation(place)[:TREE_CELLS]
            model = HistGradientBoostingRegressor(
                loss="absolute_error", max_iter=iterations, learning_rate=0.1, random_state=0
            )
            took = time.monotonic()
            target = stays.values[place[:, 0], place[:, 1], variable]
            self.models[variable] = model.fit(features.at(place, variable), target)
            took, left = time.monotonic() - took, seconds - (time.monotonic() - began)
            share = max(left, 0.0) / (hidden.shape[2] - variable)
            iterations = int(np.clip(iterations * share / max(took, 1e-3), 10, 200))

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        features = Features(stays.values)
        filled = np.zeros_like(stays.values)
        for variable, model in self.models.items():
            place = np.argwhere(asked[:, :, variable])
            if len(place):
                found = model.predict(features.at(place, variable))  # type: ignore[attr-defined]
                filled[place[:, 0], place[:, 1], variable] = found
        return filled[asked][None]


class Features:
    """What trees read about a cell."""

    def __init__(self, values: Floats) -> None:
        found = around(values)
        self.own = np.stack(
            [found.left, found.right, found.left_gap, found.right_gap, found.line, found.mean], axis=-1
        ).astype(np.float32)
        here = np.where(np.isfinite(values), values, found.line)
        near = np.minimum(np.nan_to_num(found.left_gap, nan=99.0), np.nan_to_num(found.right_gap, nan=99.0))
        self.line, self.near = here.astype(np.float32), np.where(np.isfinite(values), 0, near).astype(np.float32)

    def at(self, place: np.ndarray, variable: int) -> np.ndarray:
        """[N, 7 + 2 V] of the cells (series, hour) [N, 2] of a variable."""
        series, hour = place.T
        line, near = self.line[series, hour].copy(), self.near[series, hour].copy()
        line[:, variable], near[:, variable] = 0, 0  # the cell itself is what is asked for
        table = np.concatenate([self.own[series, hour, variable], hour[:, None], line, near], axis=1)
        table[:, np.isnan(table).all(0)] = 0  # scikit-learn takes no column without a number
        return table


class Ours:
    """A model of scidiff, as `scidiff timeseries impute` uses it.

    Args:
        name: of the row.
        model: the weights.
        units: that the stays are in.
        steps: network calls a draw; 0 for the first guess alone, a normal distribution.
        whole: ask for every missing cell of the table, not only for those that are judged.
        seed: of the draws.
    """

    def __init__(
        self, name: str, model: ImputerModel, units: Units, *, steps: int, whole: bool = True, seed: int = 0
    ) -> None:
        self.name, self.model, self.units, self.steps, self.whole, self.seed = name, model, units, steps, whole, seed

    def fit(self, train: Stays, seconds: float) -> None:
        """The weights are there already."""

    def with_steps(self, steps: int) -> Ours:
        """The same with another number of calls."""
        return Ours(self.name, self.model, self.units, steps=steps, whole=self.whole, seed=self.seed)

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        data, own = standardise(self.model, stays.replace(self.units.own(stays.values))), places(self.model, stays)
        scale = np.array(self.model.config.stds)[own] / self.units.std
        shift = (np.array(self.model.config.means)[own] - self.units.mean) / self.units.std
        config = self.model.config
        known = [(np.array(config.levels[u] if config.levels else ()) - self.units.mean[v]) / self.units.std[v]
                 for v, u in enumerate(own)]  # fmt: skip
        parts = []
        for k in range(len(stays)):
            wanted = torch.zeros(1, *data.values.shape[1:], dtype=torch.bool)
            wanted[0][:, own] = torch.from_numpy(~stays.observed[k] if self.whole else asked[k])
            drawn = self._draw(data[slice(k, k + 1)], wanted, draws, number=int(stays.ids[k]))[:, :, own]
            found = (drawn.double().numpy() * scale + shift)[:, asked[k]]
            parts.append(nearest(found, np.nonzero(asked[k])[1], known))
        return np.concatenate(parts, axis=1)

    def _draw(self, data: Standardised, asked: Tensor, draws: int, *, number: int) -> Tensor:
        """[K, L, V] standardised as the model does."""
        context = encode(self.model, data, visible=data.observed, asked=asked)
        if self.steps:
            return draw(self.model, context, draws=draws, seed=self.seed, number=number, steps=self.steps)
        index = torch.tensor([number])
        rows = Layout.dense(1, {"guess": (draws, *asked.shape[1:])}).rows("guess")
        z = Noise(seed=self.seed, index=index).at("guess", 0, rows).normal(dtype=torch.float32)[0]
        return context.location.float() + context.scale.float() * z


def standardise(model: ImputerModel, stays: Stays) -> Standardised:
    """Stays in their own units as a model reads them; hours are its steps, other variables lack."""
    own = places(model, stays)
    shape = (*stays.values.shape[:2], len(model.config.variables))
    values, observed = np.zeros(shape), np.zeros(shape, dtype=bool)
    means, stds = np.array(model.config.means)[own], np.array(model.config.stds)[own]
    values[:, :, own] = np.nan_to_num((stays.values - means) / stds)
    observed[:, :, own] = stays.observed
    known = np.isfinite(stays.static)[:, : len(model.config.static)]
    static = (stays.static[:, : len(model.config.static)] - np.array(model.config.static_means)) / np.array(
        model.config.static_stds
    )
    return Standardised(
        values=torch.tensor(values, dtype=torch.float32),
        observed=torch.from_numpy(observed),
        times=torch.arange(shape[1], dtype=torch.float32).expand(shape[0], -1).contiguous(),
        rows=torch.ones(shape[:2], dtype=torch.bool),
        static=torch.tensor(np.stack([np.where(known, static, 0), known], -1), dtype=torch.float32),
    )


def places(model: ImputerModel, stays: Stays) -> list[int]:
    """Where the model has each variable of the stays."""
    unknown = [name for name in stays.variables if name not in model.config.variables]
    if unknown:
        raise ValueError(f"expected variables among {model.config.variables}, got {unknown}")
    return [model.config.variables.index(name) for name in stays.variables]
