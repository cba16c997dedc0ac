"""Molecules as trees of fragments, written in pre-order.

Every acyclic single bond is cut, so that a molecule falls into rigid *units*: ring systems with their exocyclic double
bonds, carbonyls, nitriles, single atoms. A *token* is a unit seen from one of its cut bonds (the parent, written
`[1*]`) with its other cut bonds (the child slots, written `*`) in canonical order; the root has no parent. The token
sequence lists the tree in pre-order. Units that the vocabulary lacks are broken further, at every single bond of their
Kekule form, and the bonds that this leaves outside the tree are written as pairs of *ring labels*, leaves that fill a
slot.

A sequence is a molecule if and only if its slots are filled exactly and every ring label is opened and closed: a finite
automaton (`scidiff.molecules.grammar`) decides it. Each token has a fixed formula, charge and number of slots whatever
its context, which is what makes constraints on them exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rdkit import Chem, rdBase

RING_LABELS = ("<ring:1>", "<ring:2>", "<ring:3>", "<ring:4>")
_PARENT = 1  # isotope that marks the parent's dummy atom in a token


class EncodeError(ValueError):
    """A molecule that cannot be written as fragments; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A connected part of the molecule between cut bonds: its atoms, and the cut bonds as (atom here, bond)."""

    atoms: tuple[int, ...]
    slots: tuple[tuple[int, int], ...]


def _check(mol: Chem.Mol) -> None:
    if mol.GetNumAtoms() == 0:
        raise EncodeError("expected a molecule, got no atoms")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise EncodeError("expected one connected molecule, got several (a salt or a mixture)")
    for atom in mol.GetAtoms():
        if atom.GetNumRadicalElectrons():
            raise EncodeError(f"expected a closed shell, got a radical at atom {atom.GetIdx()} ({atom.GetSymbol()})")
        if atom.GetIsotope() or atom.GetAtomicNum() == 0:
            raise EncodeError(f"expected plain elements, got an isotope or dummy at atom {atom.GetIdx()}")
        if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED:
            raise EncodeError(f"stereochemistry is not represented: chiral atom {atom.GetIdx()} ({atom.GetSymbol()})")
    for bond in mol.GetBonds():
        if bond.GetStereo() not in (Chem.BondStereo.STEREONONE, Chem.BondStereo.STEREOANY):
            raise EncodeError(f"stereochemistry is not represented: double bond {bond.GetIdx()}")
        if bond.GetBondType() == Chem.BondType.DATIVE:
            raise EncodeError(f"dative bonds are not represented: bond {bond.GetIdx()}")


def acyclic_single(mol: Chem.Mol) -> frozenset[int]:
    """The bonds that are cut."""
    return frozenset(
        bond.GetIdx() for bond in mol.GetBonds() if bond.GetBondType() == Chem.BondType.SINGLE and not bond.IsInRing()
    )


def cut_into(mol: Chem.Mol, cut: frozenset[int]) -> list[Piece]:
    """The connected parts of the molecule without the bonds `cut`."""
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    parent = list(range(mol.GetNumAtoms()))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for number, (i, j) in enumerate(ends):
        if number not in cut:
            parent[find(i)] = find(j)
    atoms: dict[int, list[int]] = {}
    for i in range(len(parent)):
        atoms.setdefault(find(i), []).append(i)
    slots: dict[int, list[tuple[int, int]]] = {root: [] for root in atoms}
    for number in sorted(cut):
        for i in ends[number]:
            slots[find(i)].append((i, number))
    return [Piece(atoms=tuple(a), slots=tuple(sorted(slots[root]))) for root, a in atoms.items()]


@lru_cache(maxsize=500_000)
def _canonical(
    atoms: tuple[tuple[int, int, int, bool], ...],
    bonds: tuple[tuple[int, int, Chem.BondType], ...],
    slots: tuple[int, ...],
    parent: int | None,
) -> tuple[str, tuple[int, ...]]:
    """The token of a piece and the order in which it lists the child slots (numbers into `slots`)."""
    mol = Chem.RWMol()
    for number, charge, hydrogens, aromatic in atoms:
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNumExplicitHs(hydrogens)
        atom.SetNoImplicit(True)
        atom.SetIsAromatic(aromatic)
        mol.AddAtom(atom)
    for i, j, kind in bonds:
        mol.AddBond(i, j, kind)
    for number, i in enumerate(slots):
        dummy = Chem.Atom(0)
        dummy.SetIsotope(_PARENT if number == parent else 0)
        mol.AddBond(i, mol.AddAtom(dummy), Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    text = Chem.MolToSmiles(mol)
    order = mol.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"]
    children = tuple(i - len(atoms) for i in order if i >= len(atoms) and i - len(atoms) != parent)
    return text, children


class _Encoder:
    """One molecule on its way to tokens."""

    def __init__(self, mol: Chem.Mol, vocabulary: frozenset[str] | None):
        ranks = list(Chem.CanonicalRankAtoms(mol))
        self.order = sorted(range(len(ranks)), key=ranks.__getitem__)
        self.mol = Chem.RenumberAtoms(mol, self.order)
        self.vocabulary = vocabulary
        self.kekule: Chem.Mol | None = None
        self.broken: set[int] = set()  # atoms of units that are broken into their smallest pieces

    def tokens(self) -> list[str]:
        while True:
            pieces = self.pieces()
            walked, missing = self.walk(pieces, min(range(len(pieces)), key=lambda k: len(pieces[k].slots)))
            if not missing:
                return [token for token, _ in walked]
            if missing <= self.broken:
                raise EncodeError(f"a part of the molecule is not in the vocabulary: {self._smiles(missing)}")
            self.broken |= missing

    def pieces(self) -> list[Piece]:
        return cut_into(self.mol, acyclic_single(self.mol) | self._inner_cuts())

    def _smiles(self, atoms: set[int]) -> str:
        return Chem.MolFragmentToSmiles(self.mol, sorted(atoms))

    def _inner_cuts(self) -> frozenset[int]:
        """The single bonds of the Kekule form within broken units."""
        if not self.broken:
            return frozenset()
        if self.kekule is None:
            self.kekule = Chem.Mol(self.mol)
            Chem.Kekulize(self.kekule, clearAromaticFlags=True)
        return frozenset(
            bond.GetIdx()
            for bond in self.kekule.GetBonds()
            if bond.GetBondType() == Chem.BondType.SINGLE
            and bond.GetBeginAtomIdx() in self.broken
            and bond.GetEndAtomIdx() in self.broken
        )

    def _token(self, piece: Piece, parent: int | None) -> tuple[str, tuple[int, ...]]:
        broken = piece.atoms[0] in self.broken
        mol = self.kekule if broken and self.kekule is not None else self.mol
        place = {i: k for k, i in enumerate(piece.atoms)}
        cut = {bond for _, bond in piece.slots}
        atoms, bonds = [], []
        for i in piece.atoms:
            atom = mol.GetAtomWithIdx(i)
            atoms.append((atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetTotalNumHs(), atom.GetIsAromatic()))
            for bond in atom.GetBonds():
                j = bond.GetOtherAtomIdx(i)
                if i < j and bond.GetIdx() not in cut:
                    bonds.append((place[i], place[j], bond.GetBondType()))
        return _canonical(tuple(atoms), tuple(bonds), tuple(place[i] for i, _ in piece.slots), parent)

    def walk(self, pieces: list[Piece], first: int) -> tuple[list[tuple[str, Piece | None]], set[int]]:
        """Pre-order walk from a piece: tokens with their pieces, labels with None; and the atoms of unknown units."""
        home = {i: number for number, piece in enumerate(pieces) for i in piece.atoms}
        tokens: list[tuple[str, Piece | None]] = []
        missing: set[int] = set()
        visited: set[int] = set()
        labels: dict[int, int] = {}
        done: set[int] = set()
        stack: list[tuple[int, int | None]] = [(first, None)]
        while stack:
            number, bond = stack.pop()
            if bond is not None and (number in visited or bond in labels):
                tokens.append((self._ring_label(bond, labels, done), None))
                continue
            visited.add(number)
            piece = pieces[number]
            parent = next((k for k, (_, b) in enumerate(piece.slots) if b == bond), None)
            token, children = self._token(piece, parent)
            if self.vocabulary is not None and token not in self.vocabulary:
                missing |= set(piece.atoms)
            tokens.append((token, piece))
            for k in reversed(children):
                here, edge = piece.slots[k]
                other = self.mol.GetBondWithIdx(edge).GetOtherAtomIdx(here)
                stack.append((home[other], edge))
        return tokens, missing

    @staticmethod
    def _ring_label(bond: int, labels: dict[int, int], done: set[int]) -> str:
        if bond in labels:
            done.add(bond)
            return RING_LABELS[labels[bond]]
        free = set(range(len(RING_LABELS))) - {label for b, label in labels.items() if b not in done}
        if not free:
            raise EncodeError(f"more than {len(RING_LABELS)} rings are open at once")
        labels[bond] = min(free)
        return RING_LABELS[labels[bond]]


def encode(mol: Chem.Mol, vocabulary: frozenset[str] | None = None) -> list[str]:
    """The tokens of a molecule, in pre-order.

    Args:
        mol: a sanitised molecule without explicit hydrogens.
        vocabulary: the tokens that may be used; units outside it are broken into smaller ones. None: all are kept.

    Raises:
        EncodeError: the molecule is not connected, carries stereochemistry, isotopes, radicals or dative bonds, or
            cannot be written in the vocabulary.
    """
    _check(mol)
    return _Encoder(mol, vocabulary).tokens()


@lru_cache(maxsize=100_000)
def _part(token: str) -> tuple[Chem.Mol, int | None, tuple[int, ...]]:
    """The Kekule form of a token without its dummies, the atom that bonds to the parent, and those of the slots."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(token)
    if mol is None:
        raise ValueError(f"expected a token that RDKit reads, got {token!r}")
    Chem.Kekulize(mol, clearAromaticFlags=True)
    parent, slots, dummies = None, [], []
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum():
            atom.SetNumExplicitHs(atom.GetTotalNumHs())
            atom.SetNoImplicit(True)
            continue
        neighbour = atom.GetNeighbors()[0].GetIdx()
        dummies.append(atom.GetIdx())
        if atom.GetIsotope() == _PARENT:
            parent = neighbour
        else:
            slots.append(neighbour)
    kept = [i for i in range(mol.GetNumAtoms()) if i not in set(dummies)]
    place = {i: k for k, i in enumerate(kept)}
    bare = Chem.RWMol(mol)
    for i in sorted(dummies, reverse=True):
        bare.RemoveAtom(i)
    for atom, i in zip(bare.GetAtoms(), kept, strict=True):
        atom.SetNumExplicitHs(mol.GetAtomWithIdx(i).GetNumExplicitHs())
    return bare.GetMol(), None if parent is None else place[parent], tuple(place[i] for i in slots)


def skeleton(token: str) -> Chem.Mol:
    """The Kekule form of a token without its dummies. ValueError for a ring label or what RDKit does not read."""
    return Chem.Mol(_part(token)[0])


def arity(token: str) -> int:
    """How many child slots a token opens; 0 for a ring label."""
    return 0 if token in RING_LABELS else len(_part(token)[2])


def is_root(token: str) -> bool:
    """Whether a token has no parent, and so stands first."""
    return token not in RING_LABELS and _part(token)[1] is None


def decode(tokens: Sequence[str]) -> Chem.Mol:
    """The molecule that a sequence of tokens stands for, sanitised.

    A pair of ring labels on one atom, or on two that are bonded already, bonds nothing: hydrogens take the two slots.

    Raises:
        ValueError: the sequence leaves a slot open, has a token too many, or leaves a ring label open.
    """
    mol = Chem.RWMol()
    open_slots: list[int | None] = [None]
    ring: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if not open_slots:
            raise ValueError(f"expected the end after {place} tokens, got {token!r}")
        above = open_slots.pop()
        if token in RING_LABELS:
            if above is None:
                raise ValueError(f"expected a root first, got {token!r}")
            if token in ring:
                _close(mol, ring.pop(token), above)
            else:
                ring[token] = above
            continue
        part, parent, slots = _part(token)
        if (parent is None) != (above is None):
            raise ValueError(f"expected the root first and nowhere else, got {token!r} at place {place}")
        offset = mol.GetNumAtoms()
        mol.InsertMol(part)
        if above is not None and parent is not None:
            mol.AddBond(above, offset + parent, Chem.BondType.SINGLE)
        open_slots.extend(offset + i for i in reversed(slots))
    if open_slots or ring:
        raise ValueError(
            f"expected every slot filled and every ring closed, got {len(open_slots)} slots and {len(ring)} rings"
        )
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def closes(tokens: Sequence[str]) -> bool:
    """Whether every pair of ring labels bonds two atoms, so that tokens count the hydrogens of their molecule.

    Args:
        tokens: a sequence of the grammar. `encode` writes none that does not.
    """
    open_slots: list[tuple[int, int]] = [(0, 0)]  # atoms, as the place of their token and their number in it
    ring: dict[str, tuple[int, int]] = {}
    bonded: set[frozenset[tuple[int, int]]] = set()
    for place, token in enumerate(tokens):
        above = open_slots.pop()
        if token in ring:
            ends = frozenset((ring.pop(token), above))
            if len(ends) == 1 or ends in bonded or _within_token(tokens, ends):
                return False
            bonded.add(ends)
        elif token in RING_LABELS:
            ring[token] = above
        else:
            _, parent, slots = _part(token)
            if parent is not None:
                bonded.add(frozenset((above, (place, parent))))
            open_slots.extend((place, atom) for atom in reversed(slots))
    return True


def _within_token(tokens: Sequence[str], ends: frozenset[tuple[int, int]]) -> bool:
    """Whether two atoms are of one token, and bonded there."""
    (place, i), (other, j) = ends
    return place == other and _part(tokens[place])[0].GetBondBetweenAtoms(i, j) is not None


def _close(mol: Chem.RWMol, i: int, j: int) -> None:
    """Bond two atoms whose slots carry one ring label, or cap both slots where a bond would make no ring."""
    if i != j and mol.GetBondBetweenAtoms(i, j) is None:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
        return
    for k in (i, j):
        atom = mol.GetAtomWithIdx(k)
        atom.SetNumExplicitHs(atom.GetNumExplicitHs() + 1)


def encode_smallest(mol: Chem.Mol) -> list[str]:
    """The tokens of a molecule with every unit broken into its smallest pieces, which a small vocabulary covers."""
    _check(mol)
    encoder = _Encoder(mol, None)
    encoder.broken = set(range(mol.GetNumAtoms()))
    return encoder.tokens()


def spell(unit: Chem.Mol, *, entry: int | None = None) -> list[tuple[str, int | None]]:
    """The smallest pieces of a unit in pre-order, with ring labels.

    Args:
        unit: a unit with a dummy atom on each bond that leaves it.
        entry: the dummy that stands for the parent; None if the unit holds the root.

    Returns:
        Tokens, each with None, and between them the dummies of the other bonds: an empty text with the dummy's number.

    Raises:
        EncodeError: too many rings are open at once.
    """
    encoder = _Encoder(unit, None)
    encoder.broken = set(range(unit.GetNumAtoms()))
    pieces = encoder.pieces()
    outside = [encoder.mol.GetAtomWithIdx(piece.atoms[0]).GetAtomicNum() == 0 for piece in pieces]
    if entry is None:
        first = min((k for k, out in enumerate(outside) if not out), key=lambda k: len(pieces[k].slots))
    else:
        first = next(k for k, piece in enumerate(pieces) if encoder.order[piece.atoms[0]] == entry)
    walked, _ = encoder.walk(pieces, first)
    dummies = {piece.atoms: encoder.order[piece.atoms[0]] for piece, out in zip(pieces, outside, strict=True) if out}
    told = [(token, None if piece is None else dummies.get(piece.atoms)) for token, piece in walked]
    return [(token if dummy is None else "", dummy) for token, dummy in told][0 if entry is None else 1 :]
