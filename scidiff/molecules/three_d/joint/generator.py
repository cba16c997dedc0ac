"""Molecules with their geometry from one reverse pass, one after another, each a function of (seed, index) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.language import Expression
from scidiff.molecules.properties import parse_formula
from scidiff.molecules.three_d.joint.draws import STEPS, states
from scidiff.molecules.three_d.joint.model import JointModel
from scidiff.molecules.three_d.joint.program import Composition
from scidiff.molecules.three_d.joint.tokens import molecule_of
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.where import Condition, Members
from scidiff.noise import Noise
from scidiff.side_by_side import side_by_side
from scidiff.state import Layout

TILE = 8  # draws in a tile of one number of atoms; see `three_d.tiles`
FIRST = 16  # molecules drawn before the first is given out
NONE = "no molecule fits the estimates"


@dataclass(frozen=True, kw_only=True)
class JointDrawn:
    """One sample.

    Attributes:
        index: its number in the run.
        smiles: canonical SMILES without stereochemistry; empty where classes make no molecule.
        mol: with all hydrogens and the geometry; None where classes make no molecule.
        calls: network calls.
        refused: why it is no molecule, or its geometry no conformer of it; empty if it is.
    """

    index: int
    smiles: str
    mol: Chem.Mol | None
    calls: int
    refused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JointGenerator:
    """Draws {pos, atom, bond}; every estimate of classes is a molecule (`valid.ValidMolecules`).

    Attributes:
        model: the weights.
        sizes: how likely each number of atoms is, by its share.
        composition: of every molecule; None for any.
        projected: whether estimates are; if not, most draws are refused.
        geometries: of the molecules drawn so far that are not refused, by index.
    """

    model: JointModel
    sizes: Mapping[int, float]
    composition: Composition | None = None
    projected: bool = True
    geometries: dict[int, Chem.Mol] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | None = None, *, device: torch.device | str = "cpu") -> JointGenerator:
        """A generator from a folder of weights, or from those shipped with the package."""
        model = JointModel.load(folder, device=device)
        return cls(model=model, sizes=dict(model.config.sizes))

    def given(self, terms: Sequence[Expression]) -> JointGenerator:
        """The generator of molecules of a size and a formula, where terms ask for them; other terms are not looked at.

        Raises:
            UserError: no size or element that the model knows.
        """
        sizes, composition = dict(self.sizes), self.composition
        for one in terms:
            if isinstance(one, Condition) and one.property == "formula" and isinstance(one.allowed, Members):
                formulas = [str(value) for value in one.allowed.values]
                composition = _composition(formulas[0]) if len(formulas) == 1 else composition
        if composition is not None:
            sizes = {n: share for n, share in sizes.items() if n == sum(composition.values())}
        for one in terms:
            if isinstance(one, Condition) and one.property == "atoms":
                sizes = {n: share for n, share in sizes.items() if one.allowed.distance(n) == 0}
        if not sizes:
            known = f"{min(self.sizes)} to {max(self.sizes)} atoms with hydrogens"
            raise UserError(f"--where: expected molecules of {known}, got {' and '.join(str(one) for one in terms)}")
        return replace(self, sizes=sizes, composition=composition, geometries={})

    def stream(self, *, seed: int, start: int, steps: int | None, batch_size: int) -> Iterator[JointDrawn]:
        """Molecules start, start + 1, ... without end: few at first, then ever more at a time, up to `batch_size`."""
        device = next(self.model.denoiser.parameters()).device
        drawn = partial(self._tile, seed=seed, steps=steps or STEPS, device=device)
        count = min(FIRST, batch_size)
        while True:
            index = torch.arange(start, start + count)
            sizes = self._sizes(index, seed)
            tiles = [part for n in np.unique(sizes) for part in index[torch.as_tensor(sizes == n)].split(TILE)]
            with side_by_side(device) as pool:
                asked = [int(sizes[int(tile[0]) - start]) for tile in tiles]
                found = {one.index: one for tile in pool.map(drawn, tiles, asked) for one in tile}
            for _, one in sorted(found.items()):
                if one.mol is not None and not one.refused:
                    self.geometries[one.index] = one.mol
                yield one
            start, count = start + count, min(2 * count, batch_size)

    def _sizes(self, index: torch.Tensor, seed: int) -> np.ndarray:
        """The number of atoms of each sample, drawn from `sizes`: [B]."""
        rows = Layout.dense(len(index), {"size": ()}).rows("size")
        shares = torch.tensor(list(self.sizes.values()), dtype=torch.float64).expand(len(index), -1)
        place = Noise(seed=seed, index=index).at("size", 0, rows).categorical(shares)
        return np.array(list(self.sizes))[place.numpy()]

    def _tile(self, index: torch.Tensor, n: int, *, seed: int, steps: int, device: torch.device) -> list[JointDrawn]:
        """The samples of a tile, filled up with copies of the last, so that the others are the same to the bit."""
        filled = torch.cat([index, index[-1:].expand(TILE - len(index))]).to(device)
        found = states(
            self.model,
            n,
            seed=seed,
            index=filled,
            steps=steps,
            composition=self.composition,
            projected=self.projected,
        )
        drawn = []
        for k, number in enumerate(index.tolist()):
            mol = None if found.faults[k] else molecule_of(found.atom[k], found.bond[k])
            mol = None if mol is None else with_positions(mol, found.position[k])
            drawn.append(
                JointDrawn(
                    index=number,
                    smiles="" if mol is None else Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False),
                    mol=mol,
                    calls=steps,
                    refused=(NONE,) if mol is None else refusals(mol, found.position[k]),
                )
            )
        return drawn


def _composition(formula: str) -> Composition:
    """Atoms of each atomic number in a formula; UserError if it has a charge."""
    counts, charge = parse_formula(formula)
    if charge:
        raise UserError(f"--where: expected a formula without a charge, as in training, got {formula}")
    table = Chem.GetPeriodicTable()
    return {table.GetAtomicNumber(symbol): count for symbol, count in counts.items()}
