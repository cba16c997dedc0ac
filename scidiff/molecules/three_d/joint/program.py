r"""The likeliest molecule under independent beliefs about its atoms and pairs, by a mixed-integer program.

    maximise    sum_i score[i, c_i] + sum_p score[p, o_p]
    subject to  sum_{p of i} o_p = valence(c_i)                 at every atom i
                sum_i charge(c_i) = 0
                the atoms of each element as many as asked for
                all atoms hang together

in binary unknowns x[i, c] and y[p, o > 0]. That a part S hangs together with the rest, sum_{p leaving S} y[p] >= 1, is
asked only of parts that a solution fell into, until one does not fall apart: there are too many to ask of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from scidiff.molecules.three_d.joint.tokens import CLASSES, upper

Graph = tuple[np.ndarray, np.ndarray]
"""Classes of atoms [n] and of the pairs i < j [n (n - 1) / 2], int64."""
Composition = Mapping[int, int]
"""How many atoms of each atomic number."""

VALENCE, CHARGE, NUMBER = (
    np.array([getattr(one, name) for one in CLASSES]) for name in ("valence", "charge", "number")
)
ROUNDS = 200  # solutions that may fall apart before the program is given up


def likeliest(atom: np.ndarray, bond: np.ndarray, composition: Composition | None = None) -> Graph | None:
    """The classes with the largest sum of scores that make a molecule; None if there are none.

    Args:
        atom: scores of the classes of the atoms, [n, K], -inf of what they cannot be.
        bond: scores of the orders of the pairs i < j, [n (n - 1) / 2, 4], likewise.
        composition: if given, of all n atoms.
    """
    best = atom.argmax(1), bond.argmax(1)
    possible = np.isfinite(atom).any(1).all() and np.isfinite(bond).any(1).all()
    if not possible or (composition is not None and sum(composition.values()) != len(atom)):
        return None
    if not faults(*best, composition):
        return best
    program = _Program(atom, bond, composition)
    for _ in range(ROUNDS):
        found = program.solved()
        if found is None:
            return None
        parts, part = _parts(len(atom), found[1])
        if parts == 1:
            return found
        for one in range(parts):
            program.join(part == one)
    return None


def in_turn(atom: np.ndarray, bond: np.ndarray, composition: Composition | None = None) -> Graph | None:
    """The likeliest atoms whose valences bonds may meet, then the likeliest bonds between them; as `likeliest` else.

    While beliefs are vague, in which case the program of both at once is slow, it takes a tenth of the time.
    """
    chosen = _likeliest_atoms(atom, bond, composition)
    if chosen is None:
        return None
    fixed = np.full_like(atom, -np.inf)
    np.put_along_axis(fixed, chosen[:, None], 0.0, axis=1)
    found = likeliest(fixed, bond, composition)
    return likeliest(atom, bond, composition) if found is None else found


def _likeliest_atoms(atom: np.ndarray, bond: np.ndarray, composition: Composition | None) -> np.ndarray | None:
    """Classes of atoms with room for the bonds that there must be, and of valences that a connected graph can have."""
    n, (i, j), possible = len(atom), upper(len(atom)), np.isfinite(bond)
    least, most = np.where(possible.any(1), possible.argmax(1), 0), np.where(possible, np.arange(4), 0).max(1)
    low, high = (np.bincount(i, one, n) + np.bincount(j, one, n) for one in (least, most))
    fits = np.isfinite(atom) & (low[:, None] <= VALENCE) & (high[:, None] >= VALENCE)
    who, kind = np.nonzero(fits)
    one_each = [(np.append(who == k, 0), 1, 1) for k in range(n)]
    half = [(np.append(VALENCE[kind], -2), 0, 0), (np.append(0 * kind, 1), n - 1, np.inf)]  # of the sum, an integer
    held = [*one_each, *half, (np.append(CHARGE[kind], 0), 0, 0)]
    if composition is not None:
        wanted = [(number, composition.get(int(number), 0)) for number in set(NUMBER)]
        held += [(np.append(NUMBER[kind] == number, 0), count, count) for number, count in wanted]
    matrix, below, above = (np.stack(one) for one in zip(*held, strict=True))
    found = milp(
        np.append(-atom[who, kind], 0),
        constraints=LinearConstraint(csr_matrix(matrix.astype(float)), below, above),
        integrality=np.ones(len(who) + 1),
        bounds=Bounds(0, np.append(np.ones(len(who)), np.inf)),
    )
    return None if found.x is None else kind[found.x[:-1] > 0.5]


def faults(atom: np.ndarray, bond: np.ndarray, composition: Composition | None = None) -> int:
    """By how much classes fail to be a molecule: wrong valences, charge, parts too many and atoms of other elements."""
    i, j = upper(len(atom))
    orders = np.bincount(i, bond, len(atom)) + np.bincount(j, bond, len(atom))
    found = int((orders != VALENCE[atom]).sum()) + abs(int(CHARGE[atom].sum())) + _parts(len(atom), bond)[0] - 1
    if composition is not None:
        counts = np.bincount(NUMBER[atom], minlength=1 + max(*NUMBER, *composition))
        wanted = np.zeros_like(counts)
        wanted[list(composition)] = list(composition.values())
        found += int(np.abs(counts - wanted).sum()) // 2
    return found


def _parts(n: int, bond: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of connected parts, and the part of each atom."""
    i, j = (one[bond > 0] for one in upper(n))
    count, part = connected_components(csr_matrix((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
    return int(count), part


class _Program:
    """The program in the unknowns that are possible at all; those of atoms come first."""

    def __init__(self, atom: np.ndarray, bond: np.ndarray, composition: Composition | None) -> None:
        self.atoms, self.pairs = len(atom), len(bond)
        self.ends = upper(self.atoms)
        self.who, self.kind = np.nonzero(np.isfinite(atom))
        held = np.isfinite(bond[:, 1:])
        if self.atoms > 2:  # two atoms of one bond each would be a molecule of their own
            most = np.where(np.isfinite(atom), VALENCE, 0).max(1)
            held &= (most[self.ends[0]] > 1)[:, None] | (most[self.ends[1]] > 1)[:, None]
        self.pair, order = np.nonzero(held)
        self.order = order + 1
        none = bond[:, 0]
        base = np.where(np.isfinite(none), none, 0.0)
        self.gain = np.concatenate([atom[self.who, self.kind], bond[self.pair, self.order] - base[self.pair]])
        self.rows: list[tuple[np.ndarray, float, float]] = []  # coefficients, least and most
        self._classes(composition)
        self._bonds(np.isfinite(none))

    def _add(self, of_atoms: np.ndarray, of_bonds: np.ndarray, least: float, most: float) -> None:
        self.rows.append((np.concatenate([of_atoms, of_bonds]).astype(float), least, most))

    def _classes(self, composition: Composition | None) -> None:
        nothing = np.zeros(len(self.pair))
        for one in range(self.atoms):
            self._add(self.who == one, nothing, 1, 1)
            meets = (self.ends[0][self.pair] == one) | (self.ends[1][self.pair] == one)
            self._add(np.where(self.who == one, -VALENCE[self.kind], 0), np.where(meets, self.order, 0), 0, 0)
        self._add(CHARGE[self.kind], nothing, 0, 0)
        for number in set(NUMBER) if composition is not None else ():
            count = composition.get(int(number), 0) if composition is not None else 0
            self._add(NUMBER[self.kind] == number, nothing, count, count)

    def _bonds(self, free: np.ndarray) -> None:
        """At most one order a pair, one where there must be; and bonds enough for a tree."""
        nothing = np.zeros(len(self.who))
        for one in np.unique(np.concatenate([self.pair, np.flatnonzero(~free)])):
            self._add(nothing, self.pair == one, 0 if free[one] else 1, 1)
        self._add(nothing, np.ones(len(self.pair)), self.atoms - 1, np.inf)

    def join(self, part: np.ndarray) -> None:
        """Ask that a part, bool [n], hang together with the rest."""
        i, j = (part[one[self.pair]] for one in self.ends)
        self._add(np.zeros(len(self.who)), i != j, 1, np.inf)

    def solved(self) -> Graph | None:
        """The best classes, hanging together or not; None if there are none."""
        matrix, least, most = (np.stack(one) for one in zip(*self.rows, strict=True))
        found = milp(
            -self.gain,
            constraints=LinearConstraint(csr_matrix(matrix), least, most),
            integrality=np.ones(len(self.gain)),
            bounds=Bounds(0, 1),
        )
        if found.x is None:
            return None
        chosen = found.x > 0.5
        of_atoms, of_bonds = chosen[: len(self.who)], chosen[len(self.who) :]
        bond = np.zeros(self.pairs, dtype=np.int64)
        bond[self.pair[of_bonds]] = self.order[of_bonds]
        return self.kind[of_atoms], bond
