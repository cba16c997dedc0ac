"""Which of the observed cells a training example hides: what an imputer learns from.

Every pattern hides a part u of a series, u uniform in (0, 1), so that the model meets every amount of missing values.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scidiff.noise import Draw, Noise
from scidiff.state import Layout

DEFAULT: Mapping[str, float] = {"random": 0.6, "block": 0.1, "variable": 0.1, "forecast": 0.1, "historical": 0.1}


def hide(observed: Tensor, other: Tensor, noise: Noise, *, mixture: Mapping[str, float] = DEFAULT) -> Tensor:
    """What is hidden of each series: bool [S, L, V], a part of `observed`.

        random       every cell by itself
        block        a stretch of rows, of a random part of the variables
        variable     whole variables
        forecast     all rows from one on
        historical   what another series has not observed

    Args:
        observed: [S, L, V] bool.
        other: [S, L, V] bool, what another series has observed.
        noise: its index is the number of the visit of each series.
        mixture: weight of each pattern.
    """
    unknown = set(mixture) - set(PATTERNS)
    if unknown or not sum(mixture.values()) > 0:
        raise ValueError(f"expected weights of some of {sorted(PATTERNS)}, got {dict(mixture)}")
    series, rows, variables = observed.shape
    layout = Layout.dense(series, {"cell": (rows, variables), "pattern": ()}, device=observed.device)
    cells, pattern = (noise.at(leaf, 0, layout.rows(leaf)) for leaf in ("cell", "pattern"))
    part = pattern.uniform(kind="part")
    weights = torch.tensor(list(mixture.values()), dtype=torch.float64, device=observed.device)
    chosen = pattern.categorical(weights.expand(series, -1))
    hidden = torch.zeros_like(observed)
    for k, name in enumerate(mixture):
        hidden |= (chosen == k)[:, None, None] & PATTERNS[name](cells, pattern, part, other)
    return hidden & observed


def _random(cells: Draw, pattern: Draw, part: Tensor, other: Tensor) -> Tensor:
    return cells.uniform() < part[:, None, None]


def _block(cells: Draw, pattern: Draw, part: Tensor, other: Tensor) -> Tensor:
    rows, variables = other.shape[1:]
    length = 1 + part * (rows - 1)
    first = pattern.uniform(kind="first") * (rows - length)
    row = torch.arange(rows, device=part.device)
    inside = (row >= first[:, None]) & (row < (first + length)[:, None])
    return inside[:, :, None] & (pattern.uniform(shape=(variables,), kind="variables") < 0.5)[:, None]


def _variable(cells: Draw, pattern: Draw, part: Tensor, other: Tensor) -> Tensor:
    gone = pattern.uniform(shape=(other.shape[2],), kind="variables") < part[:, None]
    return gone[:, None].expand_as(other)


def _forecast(cells: Draw, pattern: Draw, part: Tensor, other: Tensor) -> Tensor:
    row = torch.arange(other.shape[1], device=part.device)
    return (row >= (1 - part)[:, None] * other.shape[1])[:, :, None].expand_as(other)


def _historical(cells: Draw, pattern: Draw, part: Tensor, other: Tensor) -> Tensor:
    return ~other


PATTERNS = {
    "random": _random,
    "block": _block,
    "variable": _variable,
    "forecast": _forecast,
    "historical": _historical,
}
