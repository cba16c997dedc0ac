"""The vocabulary of fragment tokens, and the encoding of many molecules."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from rdkit import Chem, rdBase

from scidiff.molecules.fragments import RING_LABELS, EncodeError, arity, decode, encode, encode_smallest, is_root

MAX_LENGTH = 32  # tokens; longer molecules are refused with a reason


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens a model knows; a token's class is its place in the list.

    Attributes:
        tokens: K distinct tokens, the ring labels among them.
    """

    tokens: tuple[str, ...]

    @cached_property
    def index(self) -> dict[str, int]:
        """The class of each token."""
        return {token: k for k, token in enumerate(self.tokens)}

    @cached_property
    def known(self) -> frozenset[str]:
        """The tokens as a set."""
        return frozenset(self.tokens)

    @cached_property
    def kinds(self) -> tuple[tuple[str, int], ...]:
        """What the grammar sees of each token: ("ring", label), ("root", slots opened) or ("child", slots opened)."""

        def kind(token: str) -> tuple[str, int]:
            if token in RING_LABELS:
                return "ring", RING_LABELS.index(token)
            return "root" if is_root(token) else "child", arity(token)

        return tuple(kind(token) for token in self.tokens)

    def encode(self, mol: Chem.Mol) -> list[int]:
        """The classes of a molecule's tokens, in pre-order; EncodeError says why a molecule is refused."""
        tokens = encode(mol, self.known)
        if len(tokens) > MAX_LENGTH:
            raise EncodeError(f"expected at most {MAX_LENGTH} fragments, got {len(tokens)}")
        return [self.index[token] for token in tokens]

    def decode(self, classes: Sequence[int]) -> Chem.Mol:
        """The molecule of a sequence of classes; ValueError if the sequence is not one of the grammar."""
        return decode([self.tokens[k] for k in classes])

    @classmethod
    def build(cls, smiles: Iterable[str], size: int, *, workers: int = 1) -> Vocabulary:
        """The smallest pieces of some molecules, filled up to `size` tokens with the commonest of all others."""
        whole: Counter[str] = Counter()
        smallest: Counter[str] = Counter()
        for counts, small in _parallel(_count, smiles, None, workers):
            whole.update(counts)
            smallest.update(small)
        needed = [*RING_LABELS, *sorted(set(smallest) - set(RING_LABELS))]
        common = [token for token, _ in whole.most_common() if token not in set(needed)]
        return cls(tokens=tuple(needed + common)[:size])

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a vocabulary from a text file, one token a line."""
        return cls(tokens=tuple(path.read_text(encoding="utf-8").split()))

    def write(self, path: Path) -> None:
        """Write the vocabulary to a text file, one token a line."""
        path.write_text("\n".join(self.tokens) + "\n", encoding="utf-8")


def encode_many(
    vocabulary: Vocabulary, smiles: Iterable[str], *, workers: int = 1
) -> Iterator[tuple[list[int] | None, str]]:
    """For each SMILES, in order, its classes and an empty string, or None and the reason why it is refused."""
    for chunk in _parallel(_encode, smiles, vocabulary, workers):
        yield from chunk


def _parallel(function, smiles, argument, workers):  # type: ignore[no-untyped-def]
    stream = iter(smiles)
    chunks = iter(lambda: list(islice(stream, 2000)), [])
    if workers <= 1:
        yield from (function(argument, chunk) for chunk in chunks)
        return
    with ProcessPoolExecutor(min(workers, os.cpu_count() or 1)) as pool:
        yield from pool.map(function, *zip(*((argument, chunk) for chunk in chunks), strict=True))


def _count(_: None, smiles: list[str]) -> tuple[Counter[str], Counter[str]]:
    whole: Counter[str] = Counter()
    smallest: Counter[str] = Counter()
    with rdBase.BlockLogs():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                continue
            try:
                whole.update(encode(mol))
                smallest.update(encode_smallest(mol))
            except EncodeError:
                continue
    return whole, smallest


def _encode(vocabulary: Vocabulary, smiles: list[str]) -> list[tuple[list[int] | None, str]]:
    rows: list[tuple[list[int] | None, str]] = []
    with rdBase.BlockLogs():
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                rows.append((None, f"expected a SMILES that RDKit reads, got {text!r}"))
                continue
            try:
                rows.append((vocabulary.encode(mol), ""))
            except EncodeError as error:
                rows.append((None, str(error)))
    return rows
