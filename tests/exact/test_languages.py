"""Products of automata against the enumeration of all short sequences."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from scidiff.constraints import Automaton, Infeasible
from scidiff.noise import Noise
from scidiff.state import Layout

# even number of a's (tokens 0, 1); no c (2) after a d (3); ends on a token d
EVEN = Automaton(
    kind=torch.tensor([0, 0, 1, 1]),
    transition=torch.tensor([[1, 0], [0, 1]]),
    start=0,
    accepting=torch.tensor([True, False]),
)
ORDERED = Automaton(
    kind=torch.tensor([0, 0, 1, 2]),
    transition=torch.tensor([[0, 0, 1], [1, -1, 1]]),
    start=0,
    accepting=torch.tensor([True, True]),
)
ENDS = Automaton(
    kind=torch.tensor([0, 0, 0, 1]),
    transition=torch.tensor([[0, 1], [0, 1]]),
    start=0,
    accepting=torch.tensor([False, True]),
)
WORDS = [torch.tensor(list(product(range(4), repeat=length))) for length in range(1, 6)]


def even(word: list[int]) -> bool:
    return sum(token < 2 for token in word) % 2 == 0


def ordered(word: list[int]) -> bool:
    return 3 not in word or 2 not in word[word.index(3) :]


def ends(word: list[int]) -> bool:
    return word[-1] == 3


@pytest.mark.parametrize(
    ("automaton", "right"),
    [
        (EVEN & ORDERED, lambda w: even(w) and ordered(w)),
        (EVEN | ORDERED, lambda w: even(w) or ordered(w)),
        (~ORDERED, lambda w: not ordered(w)),
        (~(EVEN & ~ENDS) | ORDERED, lambda w: not (even(w) and not ends(w)) or ordered(w)),
        (EVEN & ORDERED & ENDS, lambda w: even(w) and ordered(w) and ends(w)),
        (~(EVEN | ORDERED) & ENDS, lambda w: not (even(w) or ordered(w)) and ends(w)),
    ],
)
def test_the_language_is_that_of_the_formula(automaton: Automaton, right) -> None:
    for words in WORDS:
        assert automaton.accepts(words).tolist() == [right(word) for word in words.tolist()]


def test_states_that_lead_nowhere_are_left_out_and_kinds_that_are_alike_joined() -> None:
    both = EVEN & ORDERED
    assert both.states == 4
    assert (EVEN & EVEN).states == EVEN.states
    assert (EVEN & EVEN).transition.shape[1] == 2
    assert (ORDERED & ORDERED).states == 2  # without the state that refuses everything
    assert (~~ORDERED).states == 2
    # from every state of a product the end can be reached: nothing drawn from it can run into a refusal
    for start in range(both.states):
        there = Automaton(kind=both.kind, transition=both.transition, start=start, accepting=both.accepting)
        assert any(bool(there.accepts(words).any()) for words in WORDS)


def test_what_no_sequence_meets_is_refused() -> None:
    with pytest.raises(Infeasible, match="both of two automata of 2 and 2 states"):
        EVEN & ~EVEN
    with pytest.raises(Infeasible, match="complement"):
        ~(EVEN | ~EVEN)
    with pytest.raises(ValueError, match="the same classes, got 4 and 1"):
        EVEN & Automaton(
            kind=torch.tensor([0]), transition=torch.tensor([[0]]), start=0, accepting=torch.tensor([True])
        )


def test_draws_from_a_product_meet_both_and_its_acceptance_is_that_of_enumeration() -> None:
    layout, length = Layout.dense(200, {"x": (5,)}), 5
    rows = layout.rows("x")
    noise = Noise(seed=5, index=torch.arange(200))
    log_probs = torch.log_softmax(3 * noise.at("x", 0, rows).uniform(shape=(length, 4)), -1)
    both = EVEN & ORDERED
    words = both(log_probs, noise.at("x", 1, rows), rows)
    assert (EVEN.accepts(words) & ORDERED.accepts(words)).all()
    all_words = WORDS[length - 1]
    log_p = (
        log_probs[:3, None]
        .expand(-1, len(all_words), -1, -1)
        .gather(3, all_words[None, :, :, None].expand(3, -1, -1, 1))
    )
    exact = (log_p.squeeze(3).sum(2).double().exp() * both.accepts(all_words)).sum(1)
    torch.testing.assert_close(both.log_acceptance(log_probs[:3]).exp(), exact, rtol=1e-6, atol=0)
