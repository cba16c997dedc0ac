"""Molecules with geometries, cut into batches of one number of atoms."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from scidiff import atomic
from scidiff.molecules.three_d.graphs import ELEMENTS, Graph, bonded, graph_of
from scidiff.molecules.three_d.harmonic import harmonic
from scidiff.molecules.three_d.matching import match
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.training.batches import Batch, permutation

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LEAF = "pos"
_SHOWN = 0.75  # how often stereochemistry is told in training
Rows = Iterable[tuple[str, np.ndarray, np.ndarray]]
"""SMILES, atomic numbers [n] and positions [n, 3], in angstrom."""
Part = TypeVar("Part", bound="DataclassInstance")
"""Molecules of one number of atoms: a record of arrays with a first axis M, of that length."""


@dataclass(frozen=True, kw_only=True)
class Conformers:
    """Molecules of one number of atoms n, with a geometry each.

    Attributes:
        atom, pair, centre, parity, kind: as of `Graph`, with a first axis M.
        position: float32 [M, n, 3], centred, in angstrom.
    """

    atom: np.ndarray
    pair: np.ndarray
    centre: np.ndarray
    parity: np.ndarray
    kind: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.atom)


@dataclass(frozen=True, kw_only=True)
class Encoded(Generic[Part]):
    """Molecules by their number of atoms, and how many were refused for what reason."""

    sizes: Mapping[int, Part]
    refused: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[int, int]:
        """How many molecules there are of each number of atoms."""
        return {n: len(next(iter(vars(part).values()))) for n, part in self.sizes.items()}

    def taken(self, n: int, places: np.ndarray | slice) -> Part:
        """Some of the molecules of n atoms."""
        part = self.sizes[n]
        return replace(part, **{name: value[places] for name, value in vars(part).items()})

    def commonest(self, most: int) -> list[Part]:
        """The first molecules, at most so many, of each of the three commonest sizes."""
        counts = self.counts
        return [self.taken(n, slice(most)) for n in sorted(counts, key=counts.__getitem__)[-3:]]


def encode(rows: Rows) -> Encoded[Conformers]:
    """Encode rows of SMILES, atomic numbers [n] and positions [n, 3]; fewer than three atoms are refused."""
    found: dict[int, list[tuple[Graph, np.ndarray]]] = {}
    refused: Counter[str] = Counter()
    for smiles, number, position in rows:
        mol, reason = match(smiles, number, position) if len(number) > 2 else (None, "fewer than three atoms")
        if mol is None:
            refused[reason] += 1
            continue
        x = mol.GetConformer().GetPositions()
        found.setdefault(len(x), []).append((graph_of(mol), x - x.mean(0)))
    sizes = {}
    for n, held in sorted(found.items()):
        graphs = {f.name: np.stack([getattr(graph, f.name) for graph, _ in held]) for f in fields(Graph)}
        sizes[n] = Conformers(**graphs, position=np.stack([x for _, x in held]).astype(np.float32))
    return Encoded(sizes=sizes, refused=dict(refused))


def read_rows(path: Path) -> Rows:
    """The molecules of a split written by `datasets/qm9.py`."""
    with np.load(path) as held:
        smiles, number, position = held["smiles"], held["number"], held["position"]
        last = np.cumsum(held["atoms"].astype(np.int64))
    for k, end in enumerate(last.tolist()):
        begin = int(last[k - 1]) if k else 0
        yield str(smiles[k]), number[begin:end], position[begin:end]


def encode_cached(source: Path, folder: Path) -> Encoded[Conformers]:
    """`encode` of a split, kept in a folder under the digest of the split."""
    return kept(source, folder, encode, Conformers)


def kept(source: Path, folder: Path, encode: Callable[[Rows], Encoded[Part]], part: type[Part]) -> Encoded[Part]:
    """What `encode` makes of a split, in parts of this type, kept in a folder under the digest of the split."""
    path = folder / f"{source.stem}-{atomic.sha256(source)[:16]}.npz"
    if path.exists():
        with np.load(path) as held:
            names = list(part.__annotations__)
            sizes = {int(n): part(**{name: held[f"{name}{n}"] for name in names}) for n in held["sizes"]}
            refused = dict(zip(held["reasons"].tolist(), held["counts"].tolist(), strict=True))
            return Encoded(sizes=sizes, refused=refused)
    encoded = encode(read_rows(source))
    arrays = {f"{name}{n}": value for n, one in encoded.sizes.items() for name, value in vars(one).items()}
    arrays["sizes"] = np.array(list(encoded.sizes), dtype=np.int64)
    arrays["reasons"] = np.array(list(encoded.refused), dtype=str)
    arrays["counts"] = np.array(list(encoded.refused.values()), dtype=np.int64)
    folder.mkdir(parents=True, exist_ok=True)

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    atomic.write(path, save)
    return encoded


def fingerprint(data: Encoded[Part], *, atoms: int, seed: int) -> str:
    """A digest of molecules and of how they are cut into batches."""
    digest = hashlib.sha256(f"{atoms} {seed}".encode())
    for part in data.sizes.values():
        for value in vars(part).values():
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def condition_of(graphs: Graph | Conformers | Sequence[Graph]) -> dict[str, Tensor]:
    """What the network is told of molecules of one size, each tensor with a first axis B.

    atom [B, n, F], pair [B, n, n], centre [B, n, 3] int64; parity [B, n]; root and inverse [B, n, n] float32, of the
    harmonic coordinates; kind [B, n] int64.
    """
    if isinstance(graphs, Sequence):
        held = {f.name: np.stack([getattr(graph, f.name) for graph in graphs]) for f in fields(Graph)}
    else:
        held = {f.name: getattr(graphs, f.name) for f in fields(Graph)}
        held = {name: value if isinstance(graphs, Conformers) else value[None] for name, value in held.items()}
    root, inverse = _harmonic(held["pair"], held["atom"])
    found = {name: torch.as_tensor(held[name].astype(np.int64)) for name in ("atom", "pair", "centre", "kind")}
    found["parity"] = torch.as_tensor(held["parity"].astype(np.float32))
    return found | {"root": torch.as_tensor(root).float(), "inverse": torch.as_tensor(inverse).float()}


def harmonic_of(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """From harmonic coordinates to positions and back: float64 [n, n] each."""
    return _harmonic(graph.pair, graph.atom)


def _harmonic(pair: np.ndarray, atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return harmonic(bonded(pair), atom[..., 0] == ELEMENTS.index(1) + 1)


class Cuts:
    """Molecules of several sizes cut into batches of one size each, position-addressed.

    An epoch shuffles the molecules of each size, cuts them into near-equal batches of at most `atoms` atoms, and
    shuffles the batches.

    Args:
        counts: how many molecules have so many atoms.
        atoms: atoms in a batch.
        seed: of the order.
    """

    def __init__(self, counts: Mapping[int, int], *, atoms: int, seed: int) -> None:
        self._counts, self._seed = dict(counts), seed
        self._cuts: list[tuple[int, int, int]] = []
        for n, count in self._counts.items():
            parts = -(-count // max(1, atoms // n))
            self._cuts += [(n, begin, end) for begin, end in pairwise(count * k // parts for k in range(parts + 1))]
        self._first = dict(zip(self._counts, np.cumsum([0, *self._counts.values()]).tolist(), strict=False))
        self.per_epoch = len(self._cuts)
        self._order = lru_cache(maxsize=64)(self._permuted)
        self._places = lru_cache(maxsize=2)(self._shuffled)

    def at(self, position: int) -> tuple[int, np.ndarray, Tensor]:
        """Of the batch at a position: the size of its molecules, their places among those of it, and their visits."""
        epoch, place = divmod(position, self.per_epoch)
        n, begin, end = self._cuts[int(self._places(epoch)[place])]
        index = (epoch * sum(self._counts.values()) + self._first[n] + torch.arange(begin, end)) % 2**32
        return n, self._order(epoch, n)[begin:end].numpy(), index

    def _permuted(self, epoch: int, n: int) -> Tensor:
        return permutation(self._counts[n], seed=self._seed, epoch=epoch, kind=f"molecules{n}")

    def _shuffled(self, epoch: int) -> Tensor:
        return permutation(self.per_epoch, seed=self._seed, epoch=epoch, kind="batches")


class MoleculeBatches(ABC, Generic[Part]):
    """Molecules of one number of atoms at a time, position-addressed; see `Cuts` for their order.

    Args:
        data: what to learn from.
        atoms: atoms in a batch.
        seed: of the order.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, data: Encoded[Part], *, atoms: int, seed: int = 0) -> None:
        if not len(data):
            raise ValueError("expected molecules, got none")
        self._data, self._seed = data, seed
        self._cuts = Cuts(data.counts, atoms=atoms, seed=seed)
        self.batches_per_epoch = self._cuts.per_epoch
        self.samples_per_batch = len(data) / self.batches_per_epoch
        self.fingerprint = fingerprint(data, atoms=atoms, seed=seed)

    def at(self, position: int) -> Batch:
        """The batch at a position; a pure function of it."""
        n, chosen, index = self._cuts.at(position)
        return self.batch(self._data.taken(n, chosen), n, index)

    @abstractmethod
    def batch(self, part: Part, n: int, index: Tensor) -> Batch:
        """The batch of some molecules of n atoms, at the visits [B]."""


class ConformerBatches(MoleculeBatches[Conformers]):
    """Geometries in harmonic coordinates: the leaf `LEAF` is [B * n, 3].

    A quarter of the molecules come without their stereochemistry.
    """

    def batch(self, part: Conformers, n: int, index: Tensor) -> Batch:
        count = len(part)
        condition = condition_of(part)
        coin = Noise(seed=self._seed, index=index).at("stereo", 0, Layout.dense(count, {"stereo": ()}).rows("stereo"))
        shown = coin.uniform() < _SHOWN
        condition["parity"] = condition["parity"] * shown[:, None]
        condition["pair"] = torch.where(shown[:, None, None], condition["pair"], without_sides(condition["pair"]))
        y = condition["inverse"] @ torch.as_tensor(part.position)
        layout = Layout.ragged({LEAF: torch.full((count,), n)}, {LEAF: (3,)})
        return Batch(x_0={LEAF: y.flatten(0, 1)}, layout=layout, index=index, condition=condition)


def without_sides(pair: Tensor) -> Tensor:
    """Pair codes with the sides of double bonds untold."""
    return pair - pair % 3
