"""What a model is told of properties while it learns: their values over the data, and the loss given some facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
from torch import Tensor

from scidiff import atomic
from scidiff.denoiser import Denoiser
from scidiff.molecules.scores import SCORED, scored
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.processes.base import Process
from scidiff.state import Layout, State

_CHUNK = 2000  # molecules that a process measures at a time
Facts = Callable[[Tensor, Noise], Tensor]
"""What is told of values [B, P] in training: [B, 2 E]; `Edges.some` or `Edges.pinned`."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """The loss of a denoiser that is told some of what is true of each sample, whose condition is its values [B, P]."""

    facts: Facts

    def __call__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        x_0: State,
        layout: Layout,
        noise: Noise,
        *,
        condition: Any = None,
    ) -> Tensor:
        """The loss of each sample: [B]."""
        facts = self.facts(condition, noise)
        return loss(denoiser, processes, x_0, layout, noise, condition=facts)


def measured(
    vocabulary: Vocabulary, classes: np.ndarray, folder: Path | None = None, *, workers: int = 1
) -> np.ndarray:
    """The properties `SCORED` of encoded molecules [M, L]: float64 [M, P]; in `folder` they are kept for another time.

    A thousand molecules take about two seconds.
    """
    words = "\n".join([rdkit.__version__, *SCORED, *vocabulary.tokens])
    digest = hashlib.sha256(words.encode() + np.ascontiguousarray(classes).tobytes()).hexdigest()
    path = None if folder is None else folder / f"properties-{digest[:16]}.npy"
    if path is not None and path.exists():
        return np.asarray(np.load(path))
    chunks = [classes[k : k + _CHUNK] for k in range(0, len(classes), _CHUNK)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(_measure, repeat(vocabulary), chunks))
    else:
        found = [_measure(vocabulary, chunk) for chunk in chunks]
    values = np.concatenate(found)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, lambda temporary: _save(temporary, values))
    return values


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _measure(vocabulary: Vocabulary, rows: np.ndarray) -> np.ndarray:
    return np.array([scored(vocabulary.decode([k for k in row if k >= 0])) for row in rows])
