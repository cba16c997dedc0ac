"""What certified molecules are drawn from: what a source is, and what it may be able to do towards conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from scidiff.molecules.language import Expression

if TYPE_CHECKING:
    from scidiff.molecules.planning import Choice
    from scidiff.molecules.tilting import Steered


class Drawn(Protocol):
    """One sample of a generator."""

    @property
    def index(self) -> int:
        """Number of the sample."""

    @property
    def smiles(self) -> str:
        """The molecule as it will be written."""

    # Where a source knows of them: `calls` of networks, `log_weight`, `kept` (False if thinned out) and `refused`, its
    # own reasons against a sample.


class Source(Protocol):
    """What molecules are drawn from: the same molecule for the same seed and index, in the order of the index."""

    def stream(self, *, seed: int, start: int, steps: int | None, batch_size: int) -> Iterator[Drawn]:
        """Molecules start, start + 1, ... without end."""


@runtime_checkable
class Conditionable(Protocol):
    """A source that can enforce expressions while it draws."""

    def given(self, terms: Sequence[Expression], *, thin: bool) -> Source:
        """The source of molecules that meet what it can enforce; those it thins out are not `kept`."""


@runtime_checkable
class Steerable(Protocol):
    """A source that can be tilted towards expressions."""

    def steered(
        self,
        terms: Sequence[Expression],
        *,
        seed: int,
        steps: int | None,
        most: int,
        progress: Callable[[int, int], None],
    ) -> Steered:
        """The source tilted, and what a pilot of at most so many draws found and spent."""


@runtime_checkable
class Tellable(Protocol):
    """A source that can be told of values."""

    def towards(self, asked: Mapping[str, float]) -> Source:
        """The source of what the model makes of them."""


@runtime_checkable
class Guidable(Protocol):
    """A source whose draws can lean towards expressions."""

    def guided(self, terms: Sequence[Expression]) -> Source:
        """The source told of them; UserError if it cannot be told."""

    def projected(self, terms: Sequence[Expression]) -> Source:
        """The source with its estimates projected on them; UserError if they cannot be."""

    def planned(self, terms: Sequence[Expression], num: int) -> Choice:
        """The method that a request of so many molecules gets."""
