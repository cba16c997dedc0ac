"""Parts that must be there, as an automaton over fragment sequences.

A part is a union of whole units, so in the tree of a molecule that has it, it is a connected subtree, and its
attachment points are *holes*, slots filled by anything. Pre-order enters it once, at a unit of the part from outside
through a hole, or at the root. From there on the automaton keeps a stack: units of the part that are still to come, and
holes; within a hole it counts the slots that are open in it. When only holes are left nothing remains to be watched.

Where the part begins is guessed, so a sequence has a run for each way to find it; `scidiff.constraints.runs`
draws by runs and weighs by their number. Every root and every order of equivalent slots is accepted, not only those
that the encoder writes. A unit that the vocabulary lacks is spelled by its smallest pieces and pairs of ring labels, in
one way for each place to enter it. Other ring labels are refused, for they could close a ring between a hole and the
rest.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from rdkit import Chem

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.base import Infeasible
from scidiff.constraints.runs import Edge, Runs
from scidiff.molecules.fragments import RING_LABELS, EncodeError, Piece, acyclic_single, cut_into, spell
from scidiff.molecules.grammar import MAX_OPEN
from scidiff.molecules.parts import Part, bare
from scidiff.molecules.vocabulary import Vocabulary

Item = tuple[int, int]
"""What a slot is to be filled with: a unit of the part by its number, entered by a bond of the part; a hole; or a token
that a unit is spelled with, `_SPELLED` and its number."""
_HOLE: Item = (-1, -1)
_SPELLED = -2
_MOST_HOLES = 2  # in a unit that is spelled, if any of its atoms may bear substituents
_MOST_SPELLINGS = 300  # of such a unit; a larger one has fewer holes, for each spelling is a run of its own
_OUTSIDE, _DONE = ("outside",), ("done",)
_State = tuple[Any, ...]  # _OUTSIDE, _DONE, or (items still to come, slots open in the hole that stands first)


class Unwritable(Infeasible):
    """A part that the vocabulary has no tokens for; the message names the unit."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A token as a unit whose slots hold hydrogens: its molecule, its canonical SMILES, and the atoms of its slots."""

    mol: Chem.Mol
    smiles: str
    parent: int | None
    slots: tuple[int, ...]


@lru_cache(maxsize=100_000)
def unit(token: str) -> Unit:
    """The unit of a token, which is no ring label."""
    mol = Chem.MolFromSmiles(token)
    kept = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum()]
    place = {i: k for k, i in enumerate(kept)}
    dummies = [atom for atom in mol.GetAtoms() if not atom.GetAtomicNum()]
    held = {atom.GetIdx(): place[atom.GetNeighbors()[0].GetIdx()] for atom in dummies}
    parent = next((held[atom.GetIdx()] for atom in dummies if atom.GetIsotope()), None)
    found, _ = bare(mol)
    slots = tuple(held[atom.GetIdx()] for atom in dummies if not atom.GetIsotope())
    return Unit(mol=found, smiles=Chem.MolToSmiles(found), parent=parent, slots=slots)


@lru_cache(maxsize=8)
def _by_unit(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """The tokens of each unit."""
    found = defaultdict(list)
    for token in vocabulary.tokens:
        if token not in RING_LABELS:
            found[unit(token).smiles].append(token)
    return found


class Motif:
    """A part as a subtree of tokens of a vocabulary.

    Args:
        part: the part.
        vocabulary: the tokens.
        labels: how many ring labels others use.

    Attributes:
        labels: the same with those that it uses.

    Raises:
        Unwritable: one of its units is neither a token nor can be spelled by smaller ones.
    """

    def __init__(self, part: Part, vocabulary: Vocabulary, *, labels: int = 0):
        self.part, self.labels = part, labels
        self.pieces = cut_into(part.core, acyclic_single(part.core))
        self._tokens = _by_unit(vocabulary)
        self._known = frozenset(vocabulary.tokens)
        self._spelled: dict[tuple[int, int | None, int | None], dict[str, set[tuple[Item, ...]]]] = {}
        self._letters: dict[str, int] = {}
        self._home = {atom: k for k, piece in enumerate(self.pieces) for atom in piece.atoms}
        for k in range(len(self.pieces)):
            if not any(self._expansions(*way) for way in self._ways(k)):
                self._spell(k)
        self.roots = self._merged((k, None, None) for k in range(len(self.pieces)))
        self.entries = self._merged(
            (k, None, atom) for k, piece in enumerate(self.pieces) for atom in piece.atoms if self._enters(atom)
        )
        self.inner = {
            (k, bond): self._expansions(k, bond, atom)
            for k, piece in enumerate(self.pieces)
            for atom, bond in piece.slots
        }

    def _ways(self, k: int) -> list[tuple[int, int | None, int | None]]:
        """The ways to enter a unit: by a hole at an atom or as the root, or by a bond of the part."""
        piece = self.pieces[k]
        begun = [(k, None, atom) for atom in (None, *piece.atoms) if self._enters(atom)]
        return [*begun, *((k, bond, atom) for atom, bond in piece.slots)]

    def _enters(self, atom: int | None) -> bool:
        """Whether the part can be entered from outside at an atom; None stands for the root."""
        return atom is None or self.part.open is None or self.part.open[atom] > 0

    def _name(self, piece: Piece) -> str:
        """A unit with what is attached to it, as SMILES."""
        opened = [] if self.part.open is None else [a for a in piece.atoms for _ in range(self.part.open[a])]
        return str(Chem.MolToSmiles(self._bonded(piece, [*(atom for atom, _ in piece.slots), *opened])))

    def _bonded(self, piece: Piece, atoms: Sequence[int]) -> Chem.Mol:
        """A unit with a dummy for each of some atoms, in their order behind its own."""
        mol = Chem.RWMol(self._piece(piece))
        for atom in atoms:
            here = mol.GetAtomWithIdx(piece.atoms.index(atom))
            here.SetNumExplicitHs(here.GetNumExplicitHs() - 1)
            mol.AddBond(here.GetIdx(), mol.AddAtom(Chem.Atom(0)), Chem.BondType.SINGLE)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        return mol.GetMol()

    def _spell(self, k: int) -> None:
        """Find the ways to spell a unit that is no token, with ring labels of its own."""
        used = 0
        for _, bond, entry in (ways := self._ways(k)):
            found: dict[str, set[tuple[Item, ...]]] = defaultdict(set)
            for holes in self._holes(k, entry if bond is None else None):
                asked = [(atom, b) for atom, b in self.pieces[k].slots if b != bond]
                letters = self._letters_of(k, asked, holes, entry)
                if letters is None:
                    continue
                used = max(used, *(RING_LABELS.index(x) + 1 if x in RING_LABELS else 0 for x in letters))
                found[str(letters[0])].add(tuple(self._item(letter) for letter in letters[1:]))
            self._spelled[k, bond, entry] = dict(found)
        if not any(self._spelled[way] for way in ways):
            raise Unwritable(self._name(self.pieces[k]))
        self.labels = max(self.labels, used)

    def _letters_of(
        self, k: int, asked: Sequence[tuple[int, int]], holes: Sequence[int], entry: int | None
    ) -> list[str | Item] | None:
        """One spelling of a unit: tokens, and what fills its slots; None if tokens or labels do not suffice."""
        piece = self.pieces[k]
        bonded = [*(atom for atom, _ in asked), *holes, *([] if entry is None else [entry])]
        unit = self._bonded(piece, bonded)
        others = [self.part.core.GetBondWithIdx(b).GetOtherAtomIdx(atom) for atom, b in asked]
        within: list[Item] = [(self._home[other], b) for other, (_, b) in zip(others, asked, strict=True)]
        fills = [*within, *(_HOLE for _ in holes)]
        try:
            spelled = spell(unit, entry=None if entry is None else unit.GetNumAtoms() - 1)
        except EncodeError:
            return None
        texts = [text for text, dummy in spelled if dummy is None]
        shifted = {text: RING_LABELS.index(text) + self.labels for text in texts if text in RING_LABELS}
        if any(number >= len(RING_LABELS) for number in shifted.values()) or not self._known.issuperset(texts):
            return None
        names = {text: RING_LABELS[number] for text, number in shifted.items()}
        return [names.get(text, text) if dummy is None else fills[dummy - len(piece.atoms)] for text, dummy in spelled]

    def _item(self, letter: str | Item) -> Item:
        if isinstance(letter, str):
            return _SPELLED, self._letters.setdefault(letter, len(self._letters))
        return letter

    def _holes(self, k: int, entry: int | None) -> list[tuple[int, ...]]:
        """The atoms of a unit that bear holes beside the one that it is entered by, each as often as it does."""
        atoms = self.pieces[k].atoms
        if self.part.open is not None:
            return [tuple(a for a in atoms for _ in range(self.part.open[a] - (a == entry)))]
        free = {a: self.part.core.GetAtomWithIdx(a).GetNumExplicitHs() for a in atoms}
        entries = sum(map(bool, free.values())) + 1
        found: list[tuple[int, ...]] = []
        for n in range(_MOST_HOLES + 1):
            several = itertools.combinations_with_replacement(atoms, n)
            more = [c for c in several if all(c.count(a) <= free[a] for a in atoms)]
            if n and entries * (len(found) + len(more)) > _MOST_SPELLINGS:
                break
            found += more
        return [c for c in found if entry is None or c.count(entry) < free[entry]]

    @cached_property
    def tokens(self) -> frozenset[str]:
        """The tokens that can stand for units of the part."""
        return frozenset(itertools.chain(self.roots, self.entries, self._letters, *self.inner.values()))

    def _merged(self, ways: Iterable[tuple[int, int | None, int | None]]) -> dict[str, set[tuple[Item, ...]]]:
        found: dict[str, set[tuple[Item, ...]]] = defaultdict(set)
        for k, bond, atom in ways:
            for token, items in self._expansions(k, bond, atom).items():
                found[token] |= items
        return dict(found)

    def _piece(self, piece: Piece) -> Chem.Mol:
        """A unit of the part, with hydrogens for what was cut."""
        mol = Chem.RWMol(self.part.core)
        cuts = [atom for atom, _ in piece.slots]
        hydrogens = [mol.GetAtomWithIdx(i).GetNumExplicitHs() + cuts.count(i) for i in piece.atoms]
        for i in sorted(set(range(mol.GetNumAtoms())) - set(piece.atoms), reverse=True):
            mol.RemoveAtom(i)
        for atom, count in zip(mol.GetAtoms(), hydrogens, strict=True):
            atom.SetNumExplicitHs(count)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        return mol.GetMol()

    def _expansions(self, k: int, bond: int | None, entry: int | None) -> dict[str, set[tuple[Item, ...]]]:
        """The tokens for unit k, entered by a bond of the part or by a hole at an atom, with what fills their slots."""
        if (k, bond, entry) in self._spelled:
            return self._spelled[k, bond, entry]
        piece = self.pieces[k]
        mol = self._piece(piece)
        asked = [(atom, b) for atom, b in piece.slots if b != bond]
        free = {atom: MAX_OPEN if self.part.open is None else self.part.open[atom] for atom in piece.atoms}
        if entry is not None and bond is None:
            free[entry] -= 1
        found: dict[str, set[tuple[Item, ...]]] = {}
        for token in self._tokens.get(Chem.MolToSmiles(mol), []):
            one = unit(token)
            if (one.parent is None) != (entry is None) or len(one.slots) < len(asked):
                continue
            ways: set[tuple[Item, ...]] = set()
            for match in one.mol.GetSubstructMatches(mol, uniquify=False, maxMatches=10_000):
                atoms = {j: piece.atoms[i] for i, j in enumerate(match)}
                if _same(mol, one.mol, match) and (one.parent is None or atoms[one.parent] == entry):
                    ways |= self._filled([atoms[slot] for slot in one.slots], asked, free)
            if ways:
                found[token] = ways
        return found

    def _filled(self, slots: list[int], asked: list[tuple[int, int]], free: dict[int, int]) -> set[tuple[Item, ...]]:
        """The ways to fill slots, given by their atoms, with all units that are asked for, and with holes."""
        if not slots:
            exact = self.part.open is not None
            return set() if asked or (exact and any(free.values())) else {()}
        atom, rest = slots[0], slots[1:]
        ways = set()
        for here, bond in [x for x in asked if x[0] == atom]:
            other = self.part.core.GetBondWithIdx(bond).GetOtherAtomIdx(here)
            later = self._filled(rest, [x for x in asked if x != (here, bond)], free)
            ways |= {((self._home[other], bond), *items) for items in later}
        if free[atom]:
            ways |= {(_HOLE, *items) for items in self._filled(rest, asked, {**free, atom: free[atom] - 1})}
        return ways

    def step(self, state: _State, role: str, opened: int, token: str) -> list[tuple[_State, bool]]:
        """Where a token can lead, and whether it then is a token of the part."""
        if state == _DONE:
            return [(_DONE, False)]
        if state == _OUTSIDE:
            begun = (self.roots if role == "root" else self.entries).get(token, ())
            return [(_OUTSIDE, False), *((_settled(items), True) for items in begun)]
        items, depth = state
        if items[0][0] == _SPELLED:
            return [(_settled(items[1:]), True)] if items[0][1] == self._letters.get(token) else []
        if items[0] == _HOLE:
            depth += opened - 1
            return [((items, depth) if depth else _settled(items[1:]), False)]
        return [(_settled((*more, *items[1:])), True) for more in self.inner[items[0]].get(token, ())]


def _same(a: Chem.Mol, b: Chem.Mol, match: tuple[int, ...]) -> bool:
    """Whether a match of all atoms keeps hydrogens and charges."""
    pairs = [(a.GetAtomWithIdx(i), b.GetAtomWithIdx(j)) for i, j in enumerate(match)]
    return all(
        (x.GetNumExplicitHs(), x.GetFormalCharge()) == (y.GetNumExplicitHs(), y.GetFormalCharge()) for x, y in pairs
    )


def _settled(items: tuple[Item, ...]) -> _State:
    if all(item == _HOLE for item in items):
        return _DONE
    return items, int(items[0] == _HOLE)


def motifs_of(groups: Sequence[Sequence[Part]], vocabulary: Vocabulary) -> list[list[Motif]]:
    """The motifs of parts, with ring labels of their own. Unwritable if there is one that cannot be written."""
    labels, found = 0, list[list[Motif]]()
    for group in groups:
        found.append([])
        for one in group:
            found[-1].append(Motif(one, vocabulary, labels=labels))
            labels = found[-1][-1].labels
    return found


def with_parts(
    motifs: Sequence[Sequence[Motif]],
    vocabulary: Vocabulary,
    grammar: Automaton,
    counter: Automaton | None = None,
    *,
    max_open: int = MAX_OPEN,
) -> Runs:
    """The sequences of the grammar that hold all motifs, with no other ring labels, and that a counter accepts.

    Args:
        motifs: groups; those of one group stand apart from each other.
        vocabulary: the tokens.
        grammar: of the vocabulary; shares are of it.
        counter: None for none.
        max_open: slots open at once, as in the grammar.

    Raises:
        Infeasible: there are none.
    """
    flat = [motif for group in motifs for motif in group]
    group = [number for number, members in enumerate(motifs) for _ in members]
    count = [0] * len(vocabulary.tokens) if counter is None else counter.kind.tolist()
    special = frozenset(itertools.chain.from_iterable(motif.tokens for motif in flat))
    looks = [
        (*kind, token if token in special else "", counted)
        for kind, token, counted in zip(vocabulary.kinds, vocabulary.tokens, count, strict=True)
    ]
    step = [[0]] if counter is None else counter.transition.tolist()
    ends = [True] if counter is None else counter.accepting.tolist()

    def after(state: _State, look: _State) -> Iterator[_State]:
        slots, at, counted = state
        role, value, token, kind = look
        opened = 0 if role == "ring" else value
        left = opened if slots is None else slots - 1 + opened
        if (role == "root") != (slots is None) or slots == 0 or left > max_open or step[counted][kind] < 0:
            return
        ways = [motif.step(one, role, opened, token) for motif, one in zip(flat, at, strict=True)]
        for chosen in itertools.product(*ways):
            used = [g for g, (_, uses) in zip(group, chosen, strict=True) if uses]
            if len(used) == len(set(used)) and (used or role != "ring"):
                yield left, tuple(one for one, _ in chosen), step[counted][kind]

    start: _State = (None, (_OUTSIDE,) * len(flat), 0 if counter is None else counter.start)
    kinds = sorted({look for look in looks if look[0] != "ring" or look[2]})
    place, todo = {start: 0}, [start]
    edges: list[Edge] = []
    for state in todo:
        for number, look in enumerate(kinds):
            for following in after(state, look):
                if following not in place:
                    place[following] = len(place)
                    todo.append(following)
                edges.append((place[state], number, place[following]))
    accepting = [slots == 0 and all(one == _DONE for one in at) and ends[c] for slots, at, c in todo]
    numbers = {look: number for number, look in enumerate(kinds)}
    given = [numbers.get(look, -1) for look in looks]
    return _joined(grammar, given, edges, accepting)


def _joined(whole: Automaton, kind: list[int], edges: list[Edge], accepting: list[bool]) -> Runs:
    """With one kind for tokens that lead alike; kind -1 leads nowhere."""
    leads: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for source, number, target in edges:
        leads[number].append((source, target))
    alike = {number: tuple(pairs) for number, pairs in leads.items()}
    looks = [(base, alike.get(number, ())) for base, number in zip(whole.kind.tolist(), kind, strict=True)]
    numbers = {look: k for k, look in enumerate(dict.fromkeys(looks))}
    joined = [(source, k, target) for (_, pairs), k in numbers.items() for source, target in pairs]
    return Runs.of(whole, [numbers[look] for look in looks], joined, accepting, name="the parts asked for")
