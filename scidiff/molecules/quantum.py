"""The quantum properties that QM9 has of a molecule's geometry, in the units of EDM (Hoogeboom et al. 2022, Table 4).

They follow from coordinates by a calculation that no code here makes (B3LYP/6-31G(2df,p)), so they are told to models
and estimated by networks, and never certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_HARTREE = 27.211386  # eV


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One property.

    Attributes:
        unit: of its values.
        column: its name in `datasets/qm9.py`.
        factor: from the unit there to this one.
        meaning: in words.
    """

    unit: str
    column: str
    factor: float
    meaning: str


QUANTUM = {
    "alpha": Quantity(unit="bohr^3", column="Polarizability_bohr3", factor=1.0, meaning="isotropic polarisability"),
    "gap": Quantity(unit="eV", column="HOMO_LUMO_gap_au", factor=_HARTREE, meaning="LUMO minus HOMO"),
    "homo": Quantity(unit="eV", column="HOMO_au", factor=_HARTREE, meaning="energy of the highest occupied orbital"),
    "lumo": Quantity(unit="eV", column="LUMO_au", factor=_HARTREE, meaning="energy of the lowest unoccupied orbital"),
    "mu": Quantity(unit="D", column="Dipole_debye", factor=1.0, meaning="dipole moment"),
    "cv": Quantity(unit="cal/mol/K", column="Heatcapacity_Cv_cal_mol_K", factor=1.0, meaning="heat capacity at 298 K"),
}
ATOMS = "atoms"
"""The number of atoms, hydrogens counted, of which models are told besides."""


def quantum_values(path: Path) -> np.ndarray:
    """The properties `QUANTUM` of the molecules of a split of QM9 written by `datasets/qm9.py`: float64 [M, 6]."""
    with np.load(path) as held:
        names, values = held["properties"].tolist(), held["property"]
    return np.stack([values[:, names.index(one.column)] * one.factor for one in QUANTUM.values()], axis=1)


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of so many molecules, always the same: places, ascending.

    Networks that read properties learn from the first, generators that are told of them from the second.
    """
    order = np.random.default_rng(9).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def implied(asked: Mapping[str, float]) -> list[str]:
    """What must hold of molecules of these values, as conditions: those that tokens decide and an oracle reads."""
    return [f"{name} == {value:g}" for name, value in asked.items() if name == ATOMS]
