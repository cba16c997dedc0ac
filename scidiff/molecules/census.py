"""A sample of the training molecules with their properties, kept beside a model's weights.

It tells before anything is drawn how many molecules meet a request, and how many fragments those have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scidiff import atomic
from scidiff.molecules.language import RULES, And, Expression, Holds, Not, rule
from scidiff.molecules.scores import SCORED
from scidiff.molecules.where import Condition, Interval
from scidiff.weights import WeightsError

FILE = "census.safetensors"
MOST = 16_384
NEAR = 128  # molecules that tell the numbers of fragments near values
_PRIOR = 20.0  # molecules that the distribution of all lengths counts for


@dataclass(frozen=True, kw_only=True, eq=False)
class Census:
    """S training molecules.

    Attributes:
        lengths: number of fragments, int64 [S].
        values: float64 [S, P].
        names: of the P properties.
    """

    lengths: Tensor
    values: Tensor
    names: tuple[str, ...] = SCORED

    @classmethod
    def of(cls, lengths: np.ndarray, values: np.ndarray, names: tuple[str, ...] = SCORED) -> Census:
        """Of molecules in random order: the first `MOST`."""
        return cls(
            lengths=torch.from_numpy(lengths[:MOST].astype(np.int64)),
            values=torch.from_numpy(values[:MOST]).float().double(),
            names=names,
        )

    def meets(self, terms: Sequence[Expression]) -> Tensor:
        """Which of them meet terms together: bool [S]; what properties do not decide is taken for met."""
        known = [found for term in terms if (found := self._truth(term)) is not None]
        return torch.stack(known).all(0) if known else torch.ones(len(self.lengths), dtype=torch.bool)

    def says(self, terms: Sequence[Expression]) -> bool:
        """Whether properties decide anything of the terms."""
        return any(self._truth(term) is not None for term in terms)

    def lengths_of(self, terms: Sequence[Expression], lengths: Tensor) -> Tensor:
        """Probability of each number of fragments among those that meet the terms: float64, as `lengths` is.

        Args:
            terms: what must hold together.
            lengths: of all molecules, which count for a few of those that meet them, so that no length is excluded.
        """
        met = torch.bincount(self.lengths[self.meets(terms)], minlength=len(lengths))[: len(lengths)]
        counts = torch.where(lengths > 0, met + _PRIOR * lengths, 0.0)
        return counts / counts.sum()

    def near(self, asked: Mapping[str, float]) -> Tensor:
        """How many of the `NEAR` molecules nearest to values have 0, 1, 2 ... fragments: int64.

        Properties count in units of their spread.

        Args:
            asked: values by name, at least one.
        """
        columns = self.values[:, [self.names.index(name) for name in asked]]
        wanted = torch.tensor(list(asked.values()), dtype=columns.dtype)
        away = ((columns - wanted) / columns.std(0).clamp_min(1e-9)).square().sum(1)
        return torch.bincount(self.lengths[away.topk(min(NEAR, len(away)), largest=False).indices])

    def _truth(self, term: Expression) -> Tensor | None:
        """Whether a term holds: bool [S]; None where properties do not decide it."""
        if isinstance(term, Condition):
            return self._condition(term)
        if isinstance(term, Holds):
            return self._truth(And(of=rule(term.name))) if term.name in RULES else None
        if isinstance(term, Not):
            inner = self._truth(term.of)
            return None if inner is None else ~inner
        parts = [found for part in term.of if (found := self._truth(part)) is not None]
        if isinstance(term, And):
            return torch.stack(parts).all(0) if parts else None
        return torch.stack(parts).any(0) if len(parts) == len(term.of) else None

    def _condition(self, condition: Condition) -> Tensor | None:
        if condition.property not in self.names:
            return None
        values, allowed = self.values[:, self.names.index(condition.property)], condition.allowed
        if isinstance(allowed, Interval):
            return (values >= allowed.low) & (values <= allowed.high)
        members = [float(value) for value in allowed.values if not isinstance(value, str)]
        return torch.isin(values, torch.tensor(members, dtype=values.dtype))

    def save(self, folder: Path) -> None:
        """Write it beside the weights."""
        stored = save({"lengths": self.lengths.to(torch.uint8), "values": self.values.float()})
        atomic.write(folder / FILE, lambda temporary: temporary.write_bytes(stored))

    @classmethod
    def load(cls, folder: Path, names: tuple[str, ...] = SCORED) -> Census | None:
        """That of a folder, of the named properties; None if it has none. WeightsError if it is damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            held = load(path.read_bytes())
            lengths, values = held["lengths"].long(), held["values"].double()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"{path}: expected a census of molecules, got another file: {reason}") from None
        if lengths.ndim != 1 or values.shape != (len(lengths), len(names)) or not len(lengths):
            raise WeightsError(f"{path}: expected {len(names)} properties a molecule, got {tuple(values.shape)}")
        return cls(lengths=lengths, values=values, names=names)
