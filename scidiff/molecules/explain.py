"""How each term of an expression will be enforced, what that costs, and how many molecules meet it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scidiff.molecules.census import Census
from scidiff.molecules.contradictions import alternatives, clash
from scidiff.molecules.edges import ends
from scidiff.molecules.enforcement import ONLY, Enforcement
from scidiff.molecules.language import Expression
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.planning import PILOT, Choice
from scidiff.molecules.scores import SCORED


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of a conjunction.

    Attributes:
        text: its spelling.
        enforced: `exact`, `exact without ring labels`, `exact as whole fragments`, `in part`, `certification, and draws
            lean towards it (METHOD)` or `certification only`.
        training: about the share of the model's training molecules that meet it, of those in its census; None if their
            properties do not say.
    """

    text: str
    enforced: str
    training: float | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a request comes to.

    Attributes:
        terms: what must hold, term by term.
        counters: what the automaton counts, by name, with the number from which on counts are one.
        dropped: counters left out for size.
        states, grammar: states of the automaton of counters and of the grammar, which are run side by side; where parts
            are asked for, one automaton holds all three.
        feasible: about the share of the model's draws that meets what is enforced; 1 if nothing is.
        lengths: the smallest and largest number of fragments that can meet it.
        impossible: alternatives of `or` that contradict themselves.
        method: what `--method auto` takes for `planning.PILOT` molecules or more.
        why: in words.
    """

    terms: tuple[Term, ...]
    counters: dict[str, int]
    dropped: tuple[str, ...]
    states: int
    grammar: int
    feasible: float
    lengths: tuple[int, int]
    impossible: tuple[str, ...]
    method: str
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Lines for people."""
        width = max(len(term.text) for term in self.terms)
        lines = []
        for term in self.terms:
            share = "" if term.training is None else f"   about {term.training:.2g} of the training molecules"
            lines.append(f"{term.text:<{width}}   {term.enforced}{share}")
        if self.states:
            counts = ", ".join(f"{name} to {cap}" for name, cap in self.counters.items())
            counted = f"; counts {counts}" if counts else ""
            lines.append(f"automaton: {self.states} states beside {self.grammar} of the grammar{counted}")
            lines.append(f"fragments: {self.lengths[0]} to {self.lengths[1]}")
            lines.append(
                f"about {self.feasible:.2g} of all draws meet what is enforced; under enforcement every draw does"
            )
        else:
            lines.append("no automaton: draws are certified and refused")
        lines.append(f"--method {self.method}: {self.why}")
        if self.dropped:
            lines.append(f"not counted, for the automaton would be too large: {', '.join(self.dropped)}")
        lines += [f"never met: {text}" for text in self.impossible]
        return "\n".join(lines)


def explain(where: Sequence[str], *, model: str | Path | None = None) -> Explanation:
    """Look at a request without drawing anything.

    Raises:
        UserError: it cannot be read, contradicts itself, or no sequence of fragments meets it.
    """
    terms = parse_all(where)
    found = alternatives(terms) or []
    clashes = [clash(alternative) for alternative in found]
    from scidiff.molecules.certified import load

    generator: Any = load(model, None)
    given = generator.given(terms)
    enforcement = given.enforcement
    choice = given.planned(terms, PILOT)
    possible = given.length_probabilities.nonzero().flatten().tolist()
    return Explanation(
        terms=tuple(
            Term(text=t.text, enforced=_enforced(t, enforcement, choice), training=_share(t, generator.model.census))
            for t in terms
        ),
        counters=dict(enforcement.features.caps) if enforcement.counter is not None else {},
        dropped=enforcement.dropped,
        states=given.pair.states if enforcement.parts else enforcement.states,
        grammar=generator.automaton.states,
        feasible=given.feasible if given.pair is not None else 1.0,
        lengths=(possible[0], possible[-1]),
        method=choice.method,
        why=choice.why,
        impossible=tuple(dict.fromkeys(one.text for one in clashes if one is not None)),
    )


def _enforced(term: Expression, enforcement: Enforcement, choice: Choice) -> str:
    decided = enforcement.decides(term)
    low, high = ends(SCORED, [term])
    leans = choice.method != "exact" and bool((low.isfinite() | high.isfinite()).any())
    return f"certification, and draws lean towards it ({choice.method})" if leans and decided == ONLY else decided


def _share(term: Expression, census: Census | None) -> float | None:
    """The share of training molecules that meet a term; None where their properties do not say."""
    if census is None or not census.says([term]):
        return None
    return float(census.meets([term]).double().mean())
