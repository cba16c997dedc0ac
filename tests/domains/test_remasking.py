"""Edits of good molecules: whom they are made of, what they keep, and that each can become a molecule."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch

from scidiff.constraints.automaton import Automaton
from scidiff.molecules.remasking import LONGEST_RUN, Elite, Elites, fits, remasked

MASK = 4
SEED_OF_ONE = 25  # with which one fragment is cut and one written
# Tokens open 0, 0, 1 or 2 slots; a sequence is a tree in pre-order, as molecules are. State: open slots, at most 4.
OPENED = (0, 0, 1, 2)
AUTOMATON = Automaton(
    kind=torch.tensor([0, 0, 1, 2]),
    transition=torch.tensor(
        [[-1, -1, -1], *([n - 1 + k if n - 1 + k <= 4 else -1 for k in range(3)] for n in range(1, 5))]
    ),
    start=1,
    accepting=torch.tensor([True, False, False, False, False]),
)
TREES = [(2, 2, 0), (3, 0, 1), (2, 3, 1, 2, 0), (3, 2, 3, 0, 0, 1), (0,)]
ELITES = [Elite(score=float(k), index=k, classes=tree) for k, tree in enumerate(TREES)]


def completions(sequence: tuple[int, ...]) -> bool:
    """Whether any way to lift the masks is accepted, by trying all."""
    choices = [range(4) if c == MASK else (c,) for c in sequence]
    return bool(AUTOMATON.accepts(torch.tensor(list(itertools.product(*choices)))).any())


def edits(count: int = 400, *, lengths: range = range(1, 9), seed: int = 0) -> list[tuple[int, tuple[int, ...]]]:
    """Edits, in rounds of 16: their numbers and sequences."""
    found = []
    for first in range(0, count, 16):
        made = remasked(ELITES, AUTOMATON, lengths, MASK, index=torch.arange(first, first + 16), seed=seed)
        found += [(i, tuple(row)) for index, rows in made for i, row in zip(index.tolist(), rows.tolist(), strict=True)]
    return sorted(found)


def origin(sequence: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The elites that agree with an edit outside one run of masks."""
    first = sequence.index(MASK)
    masks = sequence.count(MASK)
    assert set(sequence[first : first + masks]) == {MASK}
    head, tail = sequence[:first], sequence[first + masks :]
    return {
        tree
        for tree in TREES
        if tree[: len(head)] == head
        and tree[len(tree) - len(tail) :] == tail
        and 1 <= len(tree) - len(head) - len(tail) <= LONGEST_RUN
    }


def test_an_elite_is_the_best_of_its_scaffold_and_the_earlier_among_equals() -> None:
    elites = Elites()
    for index, (scaffold, score) in enumerate([("A", 0.5), ("B", 0.7), ("A", 0.6), ("B", 0.7), ("A", 0.1)]):
        if elites.beaten(scaffold, score):
            elites.put(scaffold, Elite(score=score, index=index, classes=(index,)))
    assert [one.index for one in elites.best(5)] == [1, 2]
    assert [one.index for one in elites.best(1)] == [1]
    assert len(elites) == 2


def test_what_fits_is_what_can_be_completed() -> None:
    sequences = list(itertools.product(range(MASK + 1), repeat=4))
    found = [fits(AUTOMATON, torch.tensor(sequence), MASK) for sequence in sequences]
    assert found == [completions(sequence) for sequence in sequences]
    assert 0 < sum(found) < len(found)


def test_edits_are_elites_with_one_run_written_anew_which_can_become_a_molecule() -> None:
    found = edits()
    assert [i for i, _ in found] == list(range(400))
    for _, sequence in found:
        assert 1 <= sequence.count(MASK) <= LONGEST_RUN
        assert origin(sequence)
        assert completions(sequence)
    sizes = {len(sequence) for _, sequence in found} - {len(tree) for tree in TREES}
    assert sizes  # some are longer or shorter than every elite


def test_lengths_that_are_not_wanted_are_not_made() -> None:
    wanted = range(1, 4)
    assert any(len(sequence) > 3 for _, sequence in edits())
    for _, sequence in edits(lengths=wanted):
        if len(sequence) not in wanted:
            assert any(len(sequence) == len(tree) for tree in origin(sequence))


def test_ranks_are_log_uniform_and_every_place_is_as_likely(drawn_from: Any) -> None:
    lengths = (3, 5)  # of the two elites, the better first
    two = [Elite(score=float(-length), index=length, classes=tree) for length, tree in ((3, TREES[0]), (5, TREES[2]))]
    counted: Counter[tuple[int, ...]] = Counter()
    for _, rows in remasked(two, AUTOMATON, lengths, MASK, index=torch.arange(2000), seed=SEED_OF_ONE):
        assert (rows == MASK).sum(1).eq(1).all()
        counted.update((len(row), row.index(MASK)) for row in rows.tolist())
    places = [(length, place) for length in lengths for place in range(length)]
    chance = {3: math.log(2) / math.log(3), 5: math.log(3 / 2) / math.log(3)}
    expected = torch.tensor([chance[length] / length for length, _ in places], dtype=torch.float64)
    drawn_from(torch.tensor([counted[place] for place in places]), expected)


def test_an_edit_is_a_function_of_seed_and_number() -> None:
    assert edits() == edits()
    assert edits() != edits(seed=1)
    with pytest.raises(IndexError):
        remasked([], AUTOMATON, range(9), MASK, index=torch.arange(2), seed=0)
