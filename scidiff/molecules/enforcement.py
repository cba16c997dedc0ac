"""What tokens decide of an expression, as an automaton that counts.

Every token has fixed atoms and charge. Sums of them along a sequence are those of the molecule, so conditions on
`n_atoms[X]`, `heavy_atoms`, `atoms` and `charge`, and all of `formula` but its hydrogens, are decided by counters, each
counted up to the largest number that matters. Rings within tokens are counted too. Ring labels are not: a pair of them
closes a ring, or none where its two atoms are one or bonded already, and two hydrogens cap them. A sequence with
labels, or with a token whose symmetric rings exceed its cyclomatic number, has *at least* the rings counted, which is
all that is used of it. Hydrogens are counted as if every label closed a ring, as they do in all molecules that models
learn from: sequences with others are left out or let through by the wrong number, for certification to refuse.

An expression is read over the counters in three values (Kleene): true, false, or not known, where it speaks of what
tokens do not decide. The automaton refuses exactly what is false; certification judges the rest. So it accepts every
sequence that meets the expression (but for hydrogens that cap labels), and of others only those that counters cannot
tell.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from rdkit import Chem

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.base import Infeasible
from scidiff.constraints.languages import trimmed
from scidiff.molecules.fragments import RING_LABELS, skeleton
from scidiff.molecules.language import RULES, And, Expression, Holds, Not, Or, leaves, rule
from scidiff.molecules.parts import PARTS, spelled
from scidiff.molecules.properties import PROPERTIES, parse_formula
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.molecules.where import Condition, Interval, Members, empty, meet, parse

MAX_STATES = 200_000  # of the product with the grammar
ONLY = "certification only"  # what is said of terms that no automaton and no part decides
_PARTS_STATES = 20  # how much larger parts make the product of grammar and counters, about
_MOST_VECTORS = 5_000  # looked at while the automaton is made

OTHERS = "others"  # heavy atoms of elements that no formula names
RINGS, LABELS = "rings", "labels"
ATOMS, HYDROGEN = "atoms", "H"
Known = Mapping[str, Interval]
"""Quantities by the integers that they can still be; those that are missing can be anything."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a token adds to a molecule.

    Attributes:
        atoms: by element; hydrogens are those of a molecule in which its slots are filled.
        charge: formal charge.
        rings: cyclomatic number.
        unsure: whether the rings of the molecule may be more than those counted.
    """

    atoms: Mapping[str, int]
    charge: int
    rings: int
    unsure: bool


@lru_cache(maxsize=100_000)
def token(text: str) -> Token:
    """What a token adds."""
    if text in RING_LABELS:
        return Token(atoms={}, charge=0, rings=0, unsure=True)
    mol = skeleton(text)
    cycles = mol.GetNumBonds() - mol.GetNumAtoms() + 1
    atoms = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    atoms[HYDROGEN] += sum(atom.GetNumExplicitHs() for atom in mol.GetAtoms())
    return Token(
        atoms=atoms,
        charge=Chem.GetFormalCharge(mol),
        rings=cycles,
        unsure=len(Chem.GetSymmSSSR(mol)) != cycles,
    )


@dataclass(frozen=True, kw_only=True)
class Features:
    """The counters of an automaton.

    Attributes:
        caps: by name the number from which on counts are not told apart: elements, `heavy_atoms`, `atoms`, `rings`,
            `labels`, `others`.
        named: the elements that `others` does not count.
        neutral: whether every token is without charge, so that the molecule is.
        labelled: whether there are ring labels, which hydrogens may cap.
    """

    caps: Mapping[str, int]
    named: frozenset[str]
    neutral: bool
    labelled: bool

    def vector(self, text: str) -> tuple[int, ...]:
        """What a token adds to each counter."""
        adds = token(text)
        heavy = {symbol: n for symbol, n in adds.atoms.items() if symbol != HYDROGEN}
        counts = {
            "heavy_atoms": sum(heavy.values()),
            ATOMS: sum(adds.atoms.values()),
            RINGS: adds.rings,
            LABELS: int(adds.unsure),
            OTHERS: sum(n for symbol, n in heavy.items() if symbol not in self.named),
        }
        return tuple(counts[name] if name in counts else adds.atoms.get(name, 0) for name in self.caps)

    def known(self, counts: Sequence[int]) -> Known:
        """What counts say of the quantities of the language."""
        found: dict[str, Interval] = {}
        held = dict(zip(self.caps, counts, strict=True))
        for name, count in held.items():
            high = math.inf if count == self.caps[name] or (name == RINGS and held[LABELS]) else count
            found[name if name in (RINGS, ATOMS, "heavy_atoms", OTHERS) else f"n_atoms[{name}]"] = Interval(
                low=count, high=high
            )
        if self.neutral:
            found["charge"] = Interval(low=0, high=0)
        return found


def truth(expression: Expression, known: Known) -> bool | None:
    """The expression over what is known: true, false, or None where that does not decide it (Kleene's logic)."""
    if isinstance(expression, Condition):
        return _condition(expression, known)
    if isinstance(expression, Holds):
        if expression.name not in RULES:
            return None
        return truth(And(of=rule(expression.name)), known)
    if isinstance(expression, Not):
        inner = truth(expression.of, known)
        return None if inner is None else not inner
    parts = [truth(x, known) for x in expression.of]
    decisive = isinstance(expression, Or)
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


def _condition(condition: Condition, known: Known) -> bool | None:
    if condition.property == "formula" and isinstance(condition.allowed, Members):
        return _formula(condition.allowed, known)
    if condition.property not in known:
        return None
    at, allowed = known[condition.property], condition.allowed
    if empty(meet(allowed, at), kind="count"):
        return False
    if at.low == at.high:
        return True
    return True if isinstance(allowed, Interval) and allowed.low <= at.low and at.high <= allowed.high else None


def _formula(allowed: Members, known: Known) -> bool | None:
    """False unless heavy atoms and charge can be those of a formula; never true, for hydrogens are not counted."""
    for formula in allowed.values:
        counts, charge = parse_formula(str(formula))
        asked = {f"n_atoms[{x}]": n for x, n in counts.items() if x != "H"}
        heavy = {"charge": charge, "heavy_atoms": sum(asked.values()), **asked}
        others = known.get(OTHERS, Interval(low=0))
        if others.low == 0 and all(known[name].distance(n) == 0.0 for name, n in heavy.items() if name in known):
            return None
    return False


@dataclass(frozen=True, kw_only=True)
class Enforcement:
    """An expression and the automaton of what tokens decide of it.

    Attributes:
        terms: the expression, as terms that hold together.
        features: the counters.
        counter: accepts the sequences of tokens for which the terms are not known to be false; None if that is every
            sequence.
        dropped: counters left out, for with them the automaton would have been too large.
    """

    terms: tuple[Expression, ...]
    features: Features
    counter: Automaton | None
    dropped: tuple[str, ...] = ()

    @cached_property
    def states(self) -> int:
        """States of the counter."""
        return 0 if self.counter is None else self.counter.states

    @cached_property
    def parts(self) -> tuple[Holds, ...]:
        """The parts that the terms ask for."""
        return tuple(term for term in spelled_out(self.terms) if isinstance(term, Holds) and term.name in PARTS)

    def decides(self, term: Expression) -> str:
        """How a term is enforced.

        `exact`, `exact without ring labels`, `exact as whole fragments`, `in part` or `certification only`.
        """
        said = spelled_out([term])
        if not any(one in self.parts for one in said):
            return decided(term, self.features)
        whole = all(one in self.parts or decided(one, self.features).startswith("exact") for one in said)
        return "exact as whole fragments" if whole else "in part"


def spelled_out(terms: Sequence[Expression]) -> tuple[Expression, ...]:
    """Terms as fragments see them: a molecule has the scaffold X exactly if it extends X and has no more rings."""
    said: list[Expression] = []
    for term in terms:
        try:
            part = spelled(term.argument) if isinstance(term, Holds) and term.name == "scaffold" else ""
        except ValueError:  # stereochemistry, say: certification judges it
            part = ""
        rings = PROPERTIES["rings"].compute(Chem.MolFromSmiles(part)) if part else 0
        said += [Holds(name="extends", argument=part), parse(f"rings == {rings}")] if part else [term]
    return tuple(said)


def decided(term: Expression, features: Features) -> str:
    """How counters enforce a term: see `Enforcement.decides`."""
    ranges = [range(cap + 1) for cap in features.caps.values()]
    found: dict[bool, set[bool | None]] = {False: set(), True: set()}
    labels = list(features.caps).index(LABELS) if LABELS in features.caps else None
    for counts in itertools.product(*ranges):
        unsure = labels is not None and counts[labels] > 0
        found[unsure].add(truth(term, features.known(counts)))
    if None not in found[False]:
        capped = features.labelled and any(
            isinstance(leaf, Condition) and leaf.property in (ATOMS, f"n_atoms[{HYDROGEN}]") for leaf in leaves(term)
        )
        return "exact without ring labels" if capped or None in found[True] else "exact"
    return "in part" if False in found[False] else ONLY


def enforce(terms: Sequence[Expression], vocabulary: Vocabulary, *, grammar_states: int) -> Enforcement:
    """The counters that an expression needs, and their automaton.

    If it were larger than `MAX_STATES` together with the grammar and parts, counters are left out, those that count
    furthest first, and certification judges what they would have decided.

    Raises:
        Infeasible: no sequence of tokens meets the expression.
    """
    said = spelled_out(terms)
    beside = grammar_states * (_PARTS_STATES if any(isinstance(x, Holds) and x.name in PARTS for x in said) else 1)
    features = _features([term for term in said if _counts(term, vocabulary)], vocabulary)
    dropped: list[str] = []
    while True:
        if math.prod(cap + 1 for cap in features.caps.values()) <= _MOST_VECTORS:
            counter = _automaton(said, features, vocabulary)
            if counter is None or counter.states * beside <= MAX_STATES:
                return Enforcement(terms=tuple(terms), features=features, counter=counter, dropped=tuple(dropped))
        worst = max((name for name in features.caps if name != LABELS), key=features.caps.__getitem__)
        dropped.append(worst)
        gone = {worst, LABELS} if worst == RINGS else {worst}
        features = replace(features, caps={name: cap for name, cap in features.caps.items() if name not in gone})


def _counts(term: Expression, vocabulary: Vocabulary) -> bool:
    """Whether counters can refuse anything on account of a term; taken for granted where they would be very many."""
    features = _features([term], vocabulary)
    size = math.prod(cap + 1 for cap in features.caps.values())
    return size > _MOST_VECTORS or decided(term, features) != ONLY


def _features(terms: Sequence[Expression], vocabulary: Vocabulary) -> Features:
    caps: dict[str, int] = {}
    named: set[str] = set()

    def count(name: str, most: float) -> None:
        caps[name] = max(caps.get(name, 0), int(most) + 1)

    for leaf in itertools.chain.from_iterable(leaves(term) for term in terms):
        if not isinstance(leaf, Condition):
            continue
        name, allowed = leaf.property, leaf.allowed
        if name == "formula" and isinstance(allowed, Members):
            for formula in allowed.values:
                for symbol, n in parse_formula(str(formula))[0].items():
                    if symbol != "H":
                        count(symbol, n)
                        named.add(symbol)
            caps[OTHERS] = 1
        elif name in (RINGS, ATOMS, "heavy_atoms"):
            count(name, _largest(allowed))
        elif name.startswith("n_atoms["):
            count(name[8:-1], _largest(allowed))
    if RINGS in caps:
        caps[LABELS] = 1
    neutral = all(token(text).charge == 0 for text in vocabulary.tokens)
    labelled = any(text in RING_LABELS for text in vocabulary.tokens)
    return Features(caps=caps, named=frozenset(named), neutral=neutral, labelled=labelled)


def _largest(allowed: Interval | Members) -> float:
    """The largest finite number that the region depends on."""
    if isinstance(allowed, Members):
        return max(float(v) for v in allowed.values if not isinstance(v, str))
    return max((x for x in (allowed.low, allowed.high) if math.isfinite(x)), default=0)


def _automaton(terms: Sequence[Expression], features: Features, vocabulary: Vocabulary) -> Automaton | None:
    """The automaton of the counters: a state is what was counted so far."""
    sizes = [cap + 1 for cap in features.caps.values()]
    states = torch.tensor(list(itertools.product(*map(range, sizes))), dtype=torch.int64)
    verdicts = [truth(And(of=tuple(terms)), features.known(counts)) for counts in states.tolist()]
    ends = torch.tensor([verdict is not False for verdict in verdicts])
    if ends.all():
        return None
    if not sizes:
        raise Infeasible("no molecule of neutral fragments meets the conditions")
    vectors = torch.tensor([features.vector(text) for text in vocabulary.tokens]).reshape(-1, len(sizes))
    moves, kind = torch.unique(vectors, dim=0, return_inverse=True)
    strides = [math.prod(sizes[k + 1 :]) for k in range(len(sizes))]
    after = torch.zeros(len(states), len(moves), dtype=torch.int64)
    for k in range(len(sizes)):
        after += (states[:, k, None] + moves[None, :, k]).clamp_max(sizes[k] - 1) * strides[k]
    return trimmed(kind, after, 0, ends, "the fragments of this model under the conditions")
