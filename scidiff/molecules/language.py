"""The language of constraints: conditions and predicates joined by `and`, `or`, `not` and parentheses.

    qed >= 0.8 and (n_atoms[N] <= 4 or contains c1ccncc1) and not scaffold == c1ccccc1

    quantities   of the table of properties, and alerts, atoms, n_atoms[X], count(SMARTS), similarity(SMILES); with <,
                 <=, ==, >=, >, in [low, high], in {a, b}; a unit may follow a number (mw <= 350 Da, tpsa <= 90 A^2)
    predicates   contains SMARTS, lacks SMARTS, scaffold == SMILES, novel, lipinski, veber
    parts        decorates(SMILES), extends(SMILES), links(SMILES, SMILES): see `scidiff.molecules.parts`

`not` binds closest, then `and`, then `or`. An expression prints in a normal spelling that reads back as itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rdkit import Chem

from scidiff.molecules import parts
from scidiff.molecules.properties import Value
from scidiff.molecules.quantities import known, scaffold, smarts
from scidiff.molecules.where import Condition, parse

Predicate = Literal["contains", "scaffold", "novel", "lipinski", "veber", "decorates", "extends", "links"]
RULES = {
    "lipinski": ("mw <= 500", "logp <= 5", "hbd <= 5", "hba <= 10"),
    "veber": ("rotatable_bonds <= 10", "tpsa <= 140"),
}
"""Rules of thumb by their conditions (Lipinski et al. 1997; Veber et al. 2002)."""

_WORDS = (("<=", "le"), (">=", "ge"), ("==", "eq"), ("<", "lt"), (">", "gt"))


class _Spelled:
    """What all joined expressions share: a spelling, and a column made of it."""

    @property
    def text(self) -> str:
        """The normal spelling."""
        raise NotImplementedError

    @property
    def column(self) -> str:
        """A name for files: no blanks, commas or angle brackets."""
        return column_of(self.text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Holds(_Spelled):
    """A predicate.

    Attributes:
        name: which.
        argument: the SMARTS of `contains`, the canonical SMILES of `scaffold` and of parts, joined by a
            comma; empty for the others.
    """

    name: Predicate
    argument: str = ""

    @property
    def text(self) -> str:
        if self.name in parts.PARTS:
            return f"{self.name}({self.argument})"
        if self.name == "contains":
            return f"contains {self.argument}"
        return f"scaffold == {self.argument}" if self.name == "scaffold" else self.name


@dataclass(frozen=True, kw_only=True)
class Not(_Spelled):
    """The negation; of `contains X` it is spelled `lacks X`."""

    of: Expression

    @property
    def text(self) -> str:
        if isinstance(self.of, Holds) and self.of.name == "contains":
            return f"lacks {self.of.argument}"
        return f"not {_within(self.of, And, Or)}"


@dataclass(frozen=True, kw_only=True)
class And(_Spelled):
    """All hold: two or more."""

    of: tuple[Expression, ...]

    @property
    def text(self) -> str:
        return " and ".join(_within(part, And, Or) for part in self.of)


@dataclass(frozen=True, kw_only=True)
class Or(_Spelled):
    """At least one holds, of two or more."""

    of: tuple[Expression, ...]

    @property
    def text(self) -> str:
        return " or ".join(_within(part, Or) for part in self.of)


Expression = Condition | Holds | Not | And | Or


def _within(part: Expression, *looser: type) -> str:
    return f"({part.text})" if isinstance(part, looser) else part.text


def column_of(text: str) -> str:
    """A name for files made of a spelling."""
    for operator, word in _WORDS:
        text = text.replace(f" {operator} ", f"_{word}_")
    return re.sub(r"[\s,<>]+", "_", text)


def leaves(expression: Expression) -> Iterator[Condition | Holds]:
    """Its conditions and predicates, from left to right."""
    if isinstance(expression, And | Or):
        for part in expression.of:
            yield from leaves(part)
    elif isinstance(expression, Not):
        yield from leaves(expression.of)
    else:
        yield expression


def rule(name: str) -> tuple[Condition, ...]:
    """The conditions of `lipinski` or `veber`."""
    return tuple(parse(text) for text in RULES[name])


class Facts:
    """What is known of one molecule: its quantities, each computed when first asked for.

    Args:
        mol: a sanitised molecule without explicit hydrogens.
    """

    def __init__(self, mol: Chem.Mol):
        self.mol = mol
        self.values: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        if name not in self.values:
            self.values[name] = known(name).compute(self.mol)
        return self.values[name]


def violation(expression: Expression, facts: Facts) -> float:
    """How far a molecule is from meeting an expression; exactly 0 when it does.

    Of a condition, the distance in its unit; of a predicate or a negation, 1 when it does not hold; of a rule, how many
    of its conditions do not hold; of `and` the greatest violation, of `or` the smallest.
    """
    if isinstance(expression, Condition):
        return expression.violation(facts[expression.property])
    if isinstance(expression, Holds):
        return _predicate(expression, facts)
    if isinstance(expression, Not):
        return float(violation(expression.of, facts) == 0.0)
    found = [violation(part, facts) for part in expression.of]
    return max(found) if isinstance(expression, And) else min(found)


def _predicate(predicate: Holds, facts: Facts) -> float:
    if predicate.name in RULES:
        return float(sum(violation(condition, facts) != 0.0 for condition in rule(predicate.name)))
    if predicate.name in parts.PARTS:
        return float(not parts.holds(facts.mol, predicate.name, predicate.argument))
    if predicate.name == "contains":
        return float(not facts.mol.HasSubstructMatch(smarts(predicate.argument)))
    if predicate.name == "scaffold":
        return float(scaffold(facts.mol) != predicate.argument)
    from scidiff.molecules.training import is_novel

    return float(not is_novel(facts.mol))
