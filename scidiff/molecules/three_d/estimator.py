"""Estimates of quantum properties from elements and positions alone, by a network; nothing here is certified.

    value = reference . (atoms of each element) + scale * network(elements, positions)

The reference is fitted by least squares to the molecules that the network learns from; the dipole moment, a length, has
none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor, nn

from scidiff import weights as files
from scidiff.errors import UserError
from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.batches import LEAF, Cuts
from scidiff.molecules.three_d.graphs import ELEMENTS
from scidiff.networks.reader import MoleculeReader
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.state import Layout, State
from scidiff.training.batches import Batch

SHIPPED, CHOOSER = "qm9_properties", "qm9_chooser"
"""The packaged networks: one that judges, and one of other molecules that chooses (`among`)."""
SUMS, POOLED, NORM = ("alpha", "cv"), ("gap", "homo", "lumo"), "mu"
ORDER = (*SUMS, *POOLED, NORM)
"""The properties in the order of the network's numbers."""
TOGETHER = 64  # molecules read side by side


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """What builds the network again: see `MoleculeReader`."""

    width: int = 128
    depth: int = 4
    heads: int = 8
    channels: int = 8
    pair_width: int = 24


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Molecules of one number of atoms n.

    Attributes:
        atom: int64 [M, n], classes: 1 + the place in `ELEMENTS`.
        position: float32 [M, n, 3], angstrom.
        value: float64 [M, 6], in the order of `ORDER`.
    """

    atom: np.ndarray
    position: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.atom)


class EstimatorNetwork(nn.Module):
    """The reader, its reference and its scale.

    Args:
        config: sizes of the reader.
    """

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        self.reader = MoleculeReader(classes=len(ELEMENTS) + 1, sums=len(SUMS), pooled=len(POOLED), **asdict(config))
        self.reference: Tensor
        self.scale: Tensor
        self.register_buffer("reference", torch.zeros(len(ELEMENTS) + 1, len(ORDER)))
        self.register_buffer("scale", torch.ones(len(ORDER)))

    def fit_reference(self, sizes: Mapping[int, Measured]) -> None:
        """Set the reference and the scale to those of some molecules."""
        counts = np.concatenate([counted(part.atom) for part in sizes.values()])
        values = np.concatenate([part.value for part in sizes.values()])
        reference = np.linalg.lstsq(counts, values, rcond=None)[0]
        reference[:, ORDER.index(NORM)] = 0
        self.reference.copy_(torch.as_tensor(reference))
        self.scale.copy_(torch.as_tensor((values - counts @ reference).std(0)))

    def forward(
        self, inputs: State, t: Tensor | None = None, layout: Layout | None = None, condition: Any = None
    ) -> Tensor:
        """Values [B, 6] from positions `inputs[LEAF]` [B, n, 3] and `condition["atom"]` [B, n]."""
        atom = condition["atom"]
        counts = nn.functional.one_hot(atom, len(self.reference)).sum(1).to(self.reference)
        counts[:, 0] = 1
        return counts @ self.reference + self.scale * self.reader(inputs[LEAF], atom)


def counted(atom: np.ndarray) -> np.ndarray:
    """Atoms of each element after a one: [M, n] -> float64 [M, 1 + elements]."""
    counts = (atom[:, :, None] == np.arange(len(ELEMENTS) + 1)).sum(1).astype(np.float64)
    counts[:, 0] = 1
    return counts


def absolute_loss(
    denoiser: nn.Module,
    processes: Mapping[str, Process],
    x_0: State,
    layout: Layout,
    noise: Noise,
    *,
    condition: Mapping[str, Tensor],
) -> Tensor:
    """Mean absolute error over the properties in units of their scale, of clean positions: [B]."""
    found = denoiser(x_0, None, layout, condition)
    return ((found - condition["value"]) / condition["scale"]).abs().mean(1)


class MeasuredBatches:
    """Molecules with their values, position-addressed; see `Cuts`.

    Args:
        sizes: the molecules by their number of atoms.
        scale: [6], the unit of the loss.
        atoms: atoms in a batch.
        seed: of the order.
    """

    def __init__(self, sizes: Mapping[int, Measured], scale: Tensor, *, atoms: int, seed: int = 0) -> None:
        self._sizes, self._scale = sizes, scale
        self._cuts = Cuts({n: len(part) for n, part in sizes.items()}, atoms=atoms, seed=seed)
        self.batches_per_epoch = self._cuts.per_epoch
        self.samples_per_batch = sum(map(len, sizes.values())) / self.batches_per_epoch
        digest = hashlib.sha256(f"{atoms} {seed}".encode())
        for part in sizes.values():
            for value in vars(part).values():
                digest.update(np.ascontiguousarray(value).tobytes())
        self.fingerprint = digest.hexdigest()

    def at(self, position: int) -> Batch:
        """The batch at a position; a pure function of it."""
        n, chosen, index = self._cuts.at(position)
        part = self._sizes[n]
        condition = {
            "atom": torch.as_tensor(part.atom[chosen]),
            "value": torch.as_tensor(part.value[chosen]).float(),
            "scale": self._scale.expand(len(chosen), -1),
        }
        layout = Layout.dense(len(chosen), {LEAF: (n, 3)})
        return Batch(
            x_0={LEAF: torch.as_tensor(part.position[chosen])}, layout=layout, index=index, condition=condition
        )


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A network that reads the properties `QUANTUM` of a geometry.

    Attributes:
        config: sizes.
        network: with its weights.
        card: the model card, with "held out": the mean absolute error of each property on molecules it has not seen.
    """

    config: EstimatorConfig
    network: EstimatorNetwork
    card: Mapping[str, Any] = field(default_factory=dict)

    def values(self, mols: Sequence[Chem.Mol]) -> np.ndarray:
        """Estimates [M, 6] of molecules of H, C, N, O, F with hydrogens and one conformer each, as `QUANTUM` has them.

        They do not depend on what stands beside, up to rounding.

        Raises:
            KeyError: an element that is not known.
        """
        code = {number: k + 1 for k, number in enumerate(ELEMENTS)}
        atoms = [np.array([code[atom.GetAtomicNum()] for atom in mol.GetAtoms()]) for mol in mols]
        alike: dict[int, list[int]] = {}
        for place, one in enumerate(atoms):
            alike.setdefault(len(one), []).append(place)
        found = np.empty((len(mols), len(ORDER)))
        for places in alike.values():
            for first in range(0, len(places), TOGETHER):
                some = places[first : first + TOGETHER]
                position = np.stack([mols[k].GetConformer().GetPositions() for k in some])
                found[some] = self.read(position, np.stack([atoms[k] for k in some]))
        return found[:, [ORDER.index(name) for name in QUANTUM]]

    def read(self, position: np.ndarray, atom: np.ndarray) -> np.ndarray:
        """Values [B, 6], as `ORDER` has them, of positions [B, n, 3] and classes [B, n] of one number of atoms."""
        with torch.no_grad():
            inputs = {LEAF: torch.as_tensor(position).float()}
            found: np.ndarray = self.network(inputs, condition={"atom": torch.as_tensor(atom)}).double().numpy()
        return found

    @classmethod
    def load(cls, folder: Path | None = None) -> Estimator:
        """Read an estimator from a folder, or the packaged one that judges.

        Raises:
            WeightsError: what is wrong with the folder, in one line.
        """
        if folder is None:
            with resources.as_file(packaged()) as shipped:
                return cls.load(Path(shipped))
        held = files.load(folder)
        with files.expected("weights of an estimator", folder):
            config = EstimatorConfig(**held.fields("estimator"))
            network = EstimatorNetwork(config)
            network.load_state_dict(held.part())
        return cls(config=config, network=network.eval(), card=held.card)

    def description(self) -> dict[str, Any]:
        """What `load` needs to build the network (JSON)."""
        return {"estimator": asdict(self.config)}

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write it to a folder of safetensors and JSON; the reference keeps its precision."""
        exact = {"reference", "scale"}
        tensors = {k: x if k in exact else x.to(dtype) for k, x in self.network.state_dict().items()}
        files.save(folder, files.Weights(tensors=tensors, config=self.description(), card=self.card))


def packaged(name: str = SHIPPED) -> Traversable:
    """The folder of a packaged estimator."""
    return resources.files("scidiff.molecules.three_d") / "weights" / name


def available(name: str = SHIPPED) -> bool:
    """Whether a packaged estimator is there."""
    return (packaged(name) / files.RECORD).is_file()


def chooser() -> Path:
    """The folder of the packaged network that chooses; UserError if there is none."""
    if not available(CHOOSER):
        raise UserError("--among: expected a packaged network that chooses, found none")
    return Path(str(packaged(CHOOSER)))


def read_measured(split: Path, values: np.ndarray, chosen: np.ndarray | None = None) -> dict[int, Measured]:
    """Molecules of a split of QM9 written by `datasets/qm9.py`, by their number of atoms.

    Args:
        split: the .npz file.
        values: of `QUANTUM`, [M, 6].
        chosen: places of some of them; None for all.
    """
    with np.load(split) as held:
        atoms, number, position = held["atoms"].astype(np.int64), held["number"], held["position"]
    first = np.cumsum(atoms) - atoms
    code = np.zeros(max(ELEMENTS) + 1, dtype=np.int64)
    code[list(ELEMENTS)] = np.arange(1, len(ELEMENTS) + 1)
    order = [list(QUANTUM).index(name) for name in ORDER]
    rows = np.arange(len(atoms)) if chosen is None else chosen
    found = {}
    for n in np.unique(atoms[rows]).tolist():
        these = rows[atoms[rows] == n]
        places = first[these][:, None] + np.arange(n)
        found[n] = Measured(atom=code[number[places]], position=position[places], value=values[these][:, order])
    return found
