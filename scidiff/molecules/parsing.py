"""The one parser of the constraint language, for the command line, YAML files and Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from rdkit import Chem

from scidiff.errors import UserError, one_line
from scidiff.molecules.contradictions import check
from scidiff.molecules.language import RULES, And, Expression, Holds, Not, Or
from scidiff.molecules.parts import PARTS, points, spelled
from scidiff.molecules.quantities import scaffold
from scidiff.molecules.reading import Reader
from scidiff.molecules.where import NAME, read_condition, read_pattern

MAX_DEPTH = 50  # parentheses and negations within each other

_JOINT = re.compile(r"(and|or|not)\b", re.IGNORECASE)


def parse(text: str, *, source: str = "--where") -> Expression:
    """Read one expression.

    Args:
        text: the expression.
        source: what errors begin with.

    Raises:
        UserError: it cannot be read, or a term of it can never hold. The message gives the text, the position (from 1),
            what was expected and what came.
    """
    reader = Reader(text, source)
    expression = _or(reader, 0)
    reader.skip()
    if reader.place < len(text):
        raise reader.fail("the end, and, or")
    return expression


def parse_all(texts: Iterable[str], *, source: str = "--where") -> tuple[Expression, ...]:
    """Read expressions that are to hold together, as the terms of one conjunction, each once.

    Raises:
        UserError: one cannot be read, can never hold, or some contradict each other; the message names those.
    """
    read = [parse(text, source=source) for text in texts]
    terms = tuple(dict.fromkeys(term for expression in read for term in _terms(expression)))
    check(terms, source=source)
    return terms


def read_file(path: str | Path) -> list[str]:
    """The expressions of a YAML file: one text, or a list of texts, or a list under the key `where`.

    Raises:
        UserError: it cannot be read or holds something else.
    """
    try:
        held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--constraints: cannot read {path}: {one_line(error)}") from None
    if isinstance(held, dict) and set(held) == {"where"}:
        held = held["where"]
    found = [held] if isinstance(held, str) else held
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        got = type(held).__name__ if not isinstance(held, list | dict) else repr(held)[:60]
        raise UserError(f"--constraints: {path}: expected an expression or a list of them under `where`, got {got}")
    return found


def _terms(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, And):
        for part in expression.of:
            yield from _terms(part)
    else:
        yield expression


def _joint(reader: Reader, *words: str) -> bool:
    """Whether one of the words stands here; it is read if so."""
    reader.skip()
    place = reader.place
    word = reader.take(_JOINT)
    if word is not None and word.lower() in words:
        return True
    reader.place = place
    return False


def _or(reader: Reader, depth: int) -> Expression:
    parts = [_and(reader, depth)]
    while _joint(reader, "or"):
        parts.append(_and(reader, depth))
    return parts[0] if len(parts) == 1 else Or(of=tuple(parts))


def _and(reader: Reader, depth: int) -> Expression:
    parts = [_unary(reader, depth)]
    while _joint(reader, "and"):
        parts.append(_unary(reader, depth))
    return parts[0] if len(parts) == 1 else And(of=tuple(parts))


def _unary(reader: Reader, depth: int) -> Expression:
    reader.skip()
    if depth > MAX_DEPTH:
        raise reader.fail(f"at most {MAX_DEPTH} parentheses and negations within each other")
    if _joint(reader, "not"):
        return Not(of=_unary(reader, depth + 1))
    if reader.literal("("):
        inside = _or(reader, depth + 1)
        if reader.literal(")") is None:
            raise reader.fail("), and, or")
        return inside
    return _term(reader)


def _term(reader: Reader) -> Expression:
    reader.skip()
    start = reader.place
    name = reader.take(NAME)
    if name in RULES or name == "novel":
        return Holds(name=name)  # type: ignore[arg-type]
    if name in ("contains", "lacks"):
        holds = Holds(name="contains", argument=_pattern(reader))
        return holds if name == "contains" else Not(of=holds)
    if name == "scaffold":
        return _scaffold(reader)
    if name in PARTS:
        return _parts(reader, name)
    reader.place = start
    return read_condition(reader)


def _pattern(reader: Reader) -> str:
    """`SMARTS` or `(SMARTS)`, which alone is none that RDKit reads."""
    opened = reader.literal("(")
    found = read_pattern(reader, "SMARTS")
    if opened and reader.literal(")") is None:
        raise reader.fail(")")
    return found


def _scaffold(reader: Reader) -> Expression:
    if reader.literal("==") is None:
        raise reader.fail("== and a SMILES, for scaffold is a structure,")
    reader.skip()
    place = reader.place
    smiles = read_pattern(reader, "SMILES")
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)  # which no molecule of a model has
    own = scaffold(mol)
    if own != smiles:
        what = f"its own is {own}" if own else "it has no ring"
        raise reader.fail(f"a Bemis-Murcko scaffold ({what})", at=place, got=smiles)
    return Holds(name="scaffold", argument=smiles)


def _parts(reader: Reader, name: str) -> Expression:
    """`decorates(SMILES)`, `extends(SMILES)`, `links(SMILES, SMILES)`."""
    if reader.literal("(") is None:
        raise reader.fail("( and a SMILES")
    found = [_part(reader, name)]
    if name == "links":
        if reader.literal(",") is None:
            raise reader.fail("a comma and a second SMILES")
        found = sorted([*found, _part(reader, name)])
    if reader.literal(")") is None:
        raise reader.fail(")")
    return Holds(name=name, argument=", ".join(found))  # type: ignore[arg-type]


def _part(reader: Reader, name: str) -> str:
    reader.skip()
    place = reader.place
    text = read_pattern(reader, "SMILES", ends=",")
    try:
        smiles = spelled(text)
    except ValueError as error:
        raise reader.fail(str(error), at=place, got=text) from None
    count = points(smiles)
    if name == "extends" and count:
        raise reader.fail("no attachment point, for any atom of extends may bear substituents,", at=place, got=text)
    if name == "decorates" and not count:
        raise reader.fail("an attachment point such as [*:1]", at=place, got=text)
    if name == "links" and count != 1:
        raise reader.fail("one attachment point such as [*:1]", at=place, got=text)
    return smiles
