"""Which constraints contradict each other, found in their disjunctive normal form where it can be.

Each alternative of the normal form is a conjunction of conditions, predicates and negations of them. It contradicts
itself when no value of one quantity meets all conditions on it, when a predicate is asked for and denied, or when the
atoms that it asks for cannot make a molecule. What is not found here is not shown to be satisfiable.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules.language import RULES, And, Expression, Holds, Not, Or, rule
from scidiff.molecules.properties import Value, parse_formula
from scidiff.molecules.quantities import element, known
from scidiff.molecules.where import Condition, Interval, Members, Region, empty, meet, range_text, whole

MAX_ALTERNATIVES = 512


@dataclass(frozen=True, kw_only=True)
class Literal:
    """A condition or predicate that is to hold, or not to hold.

    Attributes:
        leaf: the condition or predicate.
        holds: False if it is not to hold.
        text: how the user wrote it.
    """

    leaf: Condition | Holds
    holds: bool
    text: str


Alternative = tuple[Literal, ...]


@dataclass(frozen=True, kw_only=True)
class Clash:
    """Literals that contradict each other, and why."""

    literals: tuple[Literal, ...]
    why: str

    @property
    def text(self) -> str:
        """`'qed >= 0.9' and 'qed <= 0.1' contradict each other: no value of qed meets both`."""
        texts = dict.fromkeys(literal.text for literal in self.literals)
        named = " and ".join(map(repr, texts))
        if len(texts) == 1:
            return f"{named}: no molecule can meet it; {self.why}"
        return f"{named} contradict each other: {self.why}"


def alternatives(terms: Iterable[Expression]) -> list[Alternative] | None:
    """The disjunctive normal form of a conjunction; None if it has more than 512 alternatives."""
    try:
        return _normal(And(of=tuple(terms)), True)
    except _TooManyError:
        return None


class _TooManyError(Exception):
    pass


def _normal(expression: Expression, wanted: bool) -> list[Alternative]:
    if isinstance(expression, Not):
        return _normal(expression.of, not wanted)
    if isinstance(expression, And | Or):
        parts = [_normal(part, wanted) for part in expression.of]
        return _all(parts) if isinstance(expression, And) == wanted else _limited(itertools.chain(*parts))
    if isinstance(expression, Holds) and expression.name in RULES:
        text = expression.text if wanted else f"not {expression.text}"
        each = [(Literal(leaf=c, holds=wanted, text=text),) for c in rule(expression.name)]
        return [tuple(itertools.chain(*each))] if wanted else list(each)
    return [(Literal(leaf=expression, holds=wanted, text=(expression if wanted else Not(of=expression)).text),)]


def _all(parts: Sequence[list[Alternative]]) -> list[Alternative]:
    done: list[Alternative] = [()]
    for part in parts:
        done = _limited(tuple(dict.fromkeys(a + b)) for a in done for b in part)
    return done


def _limited(items: Iterable[Alternative]) -> list[Alternative]:
    found = list(itertools.islice(items, MAX_ALTERNATIVES + 1))
    if len(found) > MAX_ALTERNATIVES:
        raise _TooManyError
    return found


def check(terms: Sequence[Expression], *, source: str = "--where") -> None:
    """UserError that names the terms which contradict each other, if every alternative holds such."""
    found = alternatives(terms)
    if not found:
        return
    clashes = [clash(alternative) for alternative in found]
    if not all(clashes):
        return
    texts = list(dict.fromkeys(one.text for one in clashes if one is not None))
    if len(texts) == 1:
        raise UserError(f"{source} {texts[0]}")
    more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
    raise UserError(f"{source}: no alternative can hold: {'; '.join(texts[:3])}{more}")


def clash(alternative: Alternative) -> Clash | None:
    """A contradiction within one alternative, of as few literals as are needed; None if none is found."""
    return _denied(alternative) or _of_quantities(alternative) or _of_formula(alternative) or _of_atoms(alternative)


def _denied(alternative: Alternative) -> Clash | None:
    """A predicate that is asked for and denied, and two scaffolds of one molecule."""
    predicates = [literal for literal in alternative if isinstance(literal.leaf, Holds)]
    for a, b in itertools.combinations(predicates, 2):
        if a.leaf == b.leaf and a.holds != b.holds:
            return Clash(literals=(a, b), why="one denies the other")
        both = a.holds and b.holds and a.leaf != b.leaf
        if both and a.leaf.name == b.leaf.name == "scaffold":  # type: ignore[union-attr]
            return Clash(literals=(a, b), why="a molecule has one scaffold")
    return None


def _on(alternative: Alternative, name: str) -> list[Literal]:
    return [x for x in alternative if isinstance(x.leaf, Condition) and x.leaf.property == name]


def _names(alternative: Alternative) -> list[str]:
    return list(dict.fromkeys(x.leaf.property for x in alternative if isinstance(x.leaf, Condition)))


def _of_quantities(alternative: Alternative) -> Clash | None:
    """Conditions on one quantity that no value of it meets: the fewest such.

    Intervals on a line that meet in pairs meet all together (Helly), so more than a few are named only with sets.
    """
    for name in _names(alternative):
        same = _on(alternative, name)
        if allowed(same):
            continue
        sizes = range(1, min(len(same), 4))
        subsets = itertools.chain.from_iterable(itertools.combinations(same, size) for size in sizes)
        some = next((s for s in subsets if not allowed(s)), tuple(same))
        if len(some) == 1:
            return Clash(literals=some, why=range_text(known(name)))
        every = "both" if len(some) == 2 else "all of them"
        return Clash(literals=some, why=f"no value of {name} meets {every}")
    return None


def allowed(literals: Sequence[Literal]) -> list[Region]:
    """The values of one quantity that conditions and their negations leave, as regions that are not empty.

    Values that negations of sets take out of a region are left in it, unless they leave nothing.
    """
    first = literals[0].leaf
    if not isinstance(first, Condition):
        raise TypeError(f"expected conditions, got {first!r}")
    item = known(first.property)
    regions: list[Region] = [whole(item)]
    without: frozenset[Value] = frozenset()
    for literal in literals:
        region = literal.leaf.allowed if isinstance(literal.leaf, Condition) else whole(item)
        if literal.holds:
            regions = [meet(r, region) for r in regions]
        elif isinstance(region, Members):
            without |= region.values
        else:
            below = Interval(high=math.nextafter(region.low, -math.inf))
            above = Interval(low=math.nextafter(region.high, math.inf))
            sides = [side for side in (below, above) if not empty(side) and math.isfinite(max(side.low, -side.high))]
            regions = [meet(r, side) for r in regions for side in sides]
    return [r for r in regions if not empty(r, kind=item.kind, without=without)]


def _of_formula(alternative: Alternative) -> Clash | None:
    """A formula fixes atoms, charge and weight: conditions on those must allow one of the formulas."""
    asked = [x for x in _on(alternative, "formula") if x.holds]
    if not asked:
        return None
    regions = allowed(_on(alternative, "formula"))
    formulas = [str(v) for r in regions if isinstance(r, Members) for v in r.values]
    possible = [formula for formula in formulas if not _no_valence(formula)]
    if not possible:
        return Clash(literals=(asked[0],), why=_no_valence(formulas[0]))
    for literal in alternative:
        if not isinstance(literal.leaf, Condition):
            continue
        found = [_derived(literal.leaf.property, formula) for formula in possible]
        met = [v is None or (literal.leaf.violation(v) < 1e-3) == literal.holds for v in found]
        if not any(met):
            return Clash(literals=(asked[0], literal), why="no molecule meets both")
    return None


def _derived(name: str, formula: str) -> float | None:
    """What a formula says of a quantity: atoms, charge, weight [g/mol]; None of any other."""
    counts, charge = parse_formula(formula)
    if name == "charge":
        return charge
    if name == "heavy_atoms":
        return sum(n for symbol, n in counts.items() if symbol != "H")
    if name == "atoms":
        return sum(counts.values())
    if name.startswith("n_atoms["):
        return counts.get(name[8:-1], 0)
    if name != "mw":
        return None
    table = Chem.GetPeriodicTable()
    return sum(n * table.GetAtomicWeight(symbol) for symbol, n in counts.items())


def _no_valence(formula: str) -> str:
    """Why no connected molecule without radicals has the formula; empty if none of these reasons applies.

    Its electrons are paired, so their number is even; and a tree of heavy atoms, the fewest bonds that connect them,
    leaves sum_v (valence_v - 2) + 2 places for hydrogen.
    """
    counts, charge = parse_formula(formula)
    electrons = sum(n * element(symbol) for symbol, n in counts.items()) - charge
    if electrons % 2:
        return f"{formula} has {electrons} electrons, an odd number, so it is a radical"
    heavy = {symbol: n for symbol, n in counts.items() if symbol != "H"}
    table = Chem.GetPeriodicTable()
    most = {symbol: max(table.GetValenceList(symbol)) for symbol in heavy}
    if not heavy or any(valence < 1 for valence in most.values()):
        return ""
    # A charge gives an atom at most one more bond.
    places = sum(n * (most[symbol] - 2) for symbol, n in heavy.items()) + 2 + _charged(heavy, charge)
    if counts.get("H", 0) > places:
        return f"{formula} asks for {counts['H']} hydrogens, and its valences bind at most {places}"
    return ""


def _charged(heavy: dict[str, int], charge: int) -> int:
    """Bonds that charged atoms may add: none without an atom that can carry a charge beside carbon and halogens."""
    carriers = sum(n for symbol, n in heavy.items() if symbol not in ("C", "F", "Cl", "Br", "I"))
    return max(carriers, abs(charge))


def _of_atoms(alternative: Alternative) -> Clash | None:
    """More atoms of single elements than heavy atoms."""
    total = _on(alternative, "heavy_atoms")
    if not total:
        return None
    most = max(_bound(r, 1) for r in allowed(total))
    least, asked = 0.0, []
    for name in _names(alternative):
        if name.startswith("n_atoms[") and name != "n_atoms[H]":
            low = min(_bound(r, 0) for r in allowed(_on(alternative, name)))
            if low > 0:
                least += low
                asked += _on(alternative, name)
    if least <= most:
        return None
    return Clash(
        literals=(*asked, *total), why=f"at least {least:g} heavy atoms are asked for, at most {most:g} allowed"
    )


def _bound(region: Region, end: int) -> float:
    if isinstance(region, Interval):
        return (region.low, region.high)[end]
    numbers = [float(v) for v in region.values if not isinstance(v, str)]
    return (min(numbers), max(numbers))[end]
