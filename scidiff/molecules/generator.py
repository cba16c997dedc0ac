"""Molecules from a model, one after another, each a function of (seed, index) alone.

A network's matrix products may round differently with the shape of the batch, and a rounding can tip a draw. Samples
are therefore always computed in the same *tiles* of consecutive indices, whatever is asked for: molecule 7 of a seed
comes from the tile of molecules 0 to 255, whether one molecule is wanted or a million, on one worker or on ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import torch
from rdkit import Chem
from torch import Tensor

from scidiff.constraints.automaton import Automaton
from scidiff.grids import uniform
from scidiff.molecules.grammar import grammar
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.solvers.categorical import CountedUnmasking
from scidiff.state import Layout

TILE = 256
SHIPPED = "moses"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One sample.

    Attributes:
        index: its number in the run.
        smiles: canonical SMILES.
        mol: the molecule, sanitised.
        calls: network calls spent on it.
    """

    index: int
    smiles: str
    mol: Chem.Mol
    calls: int


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Draws molecules that are valid by construction.

    Attributes:
        model: the weights and the vocabulary.
    """

    model: FragmentModel

    @classmethod
    def load(cls, folder: Path | None = None, *, device: torch.device | str = "cpu") -> Generator:
        """A generator from a folder of weights, or from those shipped with the package."""
        if folder is not None:
            return cls(model=FragmentModel.load(folder, device=device))
        with resources.as_file(resources.files("scidiff.molecules") / "weights" / SHIPPED) as shipped:
            return cls(model=FragmentModel.load(shipped, device=device))

    @cached_property
    def automaton(self) -> Automaton:
        """The grammar of the vocabulary, on the model's device."""
        return grammar(self.model.vocabulary).to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.model.denoiser.parameters()).device

    def lengths(self, seed: int, index: Tensor) -> Tensor:
        """Number of fragments of each sample, drawn from that of the training molecules: int64 [B]."""
        rows = Layout.dense(len(index), {"length": ()}).rows("length")
        draw = Noise(seed=seed, index=index).at("length", 0, rows)
        return draw.categorical(self.model.length_probabilities.expand(len(index), -1))

    def stream(self, *, seed: int, start: int = 0, steps: int | None = None, batch_size: int = TILE) -> Iterator[Drawn]:
        """Molecules start, start + 1, ... without end, in the order of the index.

        Args:
            seed: of the run.
            start: index of the first molecule.
            steps: network calls a molecule at most; by default one for each fragment, which is exact unmasking.
            batch_size: how many are drawn ahead, rounded up to whole tiles; changes no molecule.
        """
        first = start // TILE
        while True:
            tiles = range(first, first + -(-batch_size // TILE))
            drawn = [molecule for tile in tiles for molecule in self.tile(tile, seed=seed, steps=steps)]
            yield from (molecule for molecule in drawn if molecule.index >= start)
            first = tiles.stop

    def tile(self, number: int, *, seed: int, steps: int | None = None) -> list[Drawn]:
        """The TILE molecules of one tile."""
        index = torch.arange(number * TILE, (number + 1) * TILE)
        lengths = self.lengths(seed, index)
        molecules: list[Drawn] = []
        for length in lengths.unique().tolist():
            members = index[lengths == length]
            calls = length if steps is None else min(length, steps)
            for i, classes in zip(members.tolist(), self._sequences(members, length, calls, seed), strict=True):
                mol = self.model.vocabulary.decode(classes)
                molecules.append(Drawn(index=i, smiles=Chem.MolToSmiles(mol), mol=mol, calls=calls))
        return sorted(molecules, key=lambda molecule: molecule.index)

    def _sequences(self, index: Tensor, length: int, calls: int, seed: int) -> list[list[int]]:
        """Sequences of one length: classes [B][L]."""
        device = self._device
        layout = Layout.dense(len(index), {LEAF: (length,)}, device=device)
        rule = CountedUnmasking.on(uniform(calls), joint=self.automaton)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            done = sample(
                self.model.denoiser,
                self.model.processes,
                {LEAF: rule},
                layout,
                Noise(seed=seed, index=index.to(device)),
            )
        return done.state[LEAF].tolist()
