"""Exact sampling under an automaton, against enumeration."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from scidiff.constraints.automaton import Automaton
from scidiff.noise import Noise
from scidiff.state import Layout

# Words over {a, b, c, d} whose number of a's and b's together (one kind) is even and that hold no c after a d.
KIND = torch.tensor([0, 0, 1, 2])
TRANSITION = torch.tensor([[1, 0, 2], [0, 1, 3], [3, -1, 2], [2, -1, 3]])
AUTOMATON = Automaton(kind=KIND, transition=TRANSITION, start=0, accepting=torch.tensor([True, False, True, False]))


def right(word: tuple[int, ...]) -> bool:
    """The language in plain words."""
    even = sum(token in (0, 1) for token in word) % 2 == 0
    return even and not any(a == 3 and b == 2 for i, a in enumerate(word) for b in word[i:])


def table(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each accepted word, before normalising."""
    length, classes = log_probs.shape
    words = product(range(classes), repeat=length)
    return {w: float(sum(log_probs[i, k] for i, k in enumerate(w)).exp()) for w in words if right(w)}


def logits(batch: int, length: int) -> torch.Tensor:
    layout = Layout.dense(batch, {"x": (length,)})
    uniform = Noise(seed=3, index=torch.arange(batch)).at("x", 0, layout.rows("x")).uniform(shape=(length, 4))
    return torch.log_softmax(4 * uniform, -1)


def test_acceptance_is_that_of_enumeration() -> None:
    log_probs = logits(5, 6)
    exact = torch.tensor([sum(table(row).values()) for row in log_probs], dtype=torch.float64).log()
    torch.testing.assert_close(AUTOMATON.log_acceptance(log_probs), exact, rtol=0, atol=1e-12)


def test_words_follow_the_exact_conditional_distribution() -> None:
    count, length = 200_000, 4
    log_probs = logits(1, length).expand(count, -1, -1)
    rows = Layout.dense(count, {"x": (length,)}).rows("x")
    words = AUTOMATON(log_probs, Noise(seed=0, index=torch.arange(count)).at("x", 1, rows), rows)
    exact = table(log_probs[0])
    total = sum(exact.values())
    found = torch.zeros(4**length).index_add(0, (words * 4 ** torch.arange(length)).sum(1), torch.ones(count)) / count
    code = {word: sum(k * 4**i for i, k in enumerate(word)) for word in exact}
    outside = 1 - sum(float(found[c]) for c in code.values())
    distance = 0.5 * (outside + sum(abs(float(found[code[w]]) - p / total) for w, p in exact.items()))
    # perfect draws are expected at 0.4 sqrt(words / count) = 0.01
    assert outside < 1e-12
    assert distance < 0.02


def test_all_words_drawn_are_accepted_and_known_tokens_are_kept() -> None:
    count, length = 500, 9
    log_probs = logits(count, length)
    log_probs[:, 4] = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])
    rows = Layout.dense(count, {"x": (length,)}).rows("x")
    words = AUTOMATON(log_probs, Noise(seed=0, index=torch.arange(count)).at("x", 1, rows), rows)
    assert AUTOMATON.accepts(words).all()
    assert (words[:, 4] == 1).all()
    assert all(right(tuple(word)) for word in words.tolist())


def test_acceptance_of_words_is_that_of_the_language() -> None:
    words = list(product(range(4), repeat=5))
    assert AUTOMATON.accepts(torch.tensor(words)).tolist() == [right(word) for word in words]


def test_what_cannot_be_accepted_is_reported() -> None:
    log_probs = torch.full((2, 3, 4), -torch.inf)
    log_probs[0, :, 0] = 0.0  # three a's: never even
    log_probs[1, :, 2] = 0.0
    assert AUTOMATON.log_acceptance(log_probs).tolist() == [-torch.inf, 0.0]


def test_draws_do_not_depend_on_the_batch() -> None:
    length = 7
    log_probs = logits(6, length)
    rows = Layout.dense(6, {"x": (length,)}).rows("x")
    together = AUTOMATON(log_probs, Noise(seed=0, index=torch.arange(6)).at("x", 1, rows), rows)
    one = Layout.dense(1, {"x": (length,)}).rows("x")
    alone = AUTOMATON(log_probs[4:5], Noise(seed=0, index=torch.tensor([4])).at("x", 1, one), one)
    assert torch.equal(together[4:5], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": torch.tensor([[4, 0, 0]] * 4)}, "transitions to states"),
        ({"kind": torch.tensor([0, 3])}, "kinds in 0"),
        ({"accepting": torch.tensor([True])}, "expected 4 states"),
    ],
)
def test_a_malformed_automaton_is_refused(change: dict, message: str) -> None:
    good = {"kind": KIND, "transition": TRANSITION, "start": 0, "accepting": AUTOMATON.accepting}
    with pytest.raises(ValueError, match=message):
        Automaton(**{**good, **change})
