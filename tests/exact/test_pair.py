"""Two automata at once: against their product, and against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.pair import Pair
from scidiff.noise import Noise
from scidiff.state import Layout

CLASSES = 5


def automaton(states: int, kinds: int, seed: int) -> Automaton:
    random = torch.Generator().manual_seed(seed)
    return Automaton(
        kind=torch.cat([torch.arange(kinds), torch.randint(kinds, (CLASSES - kinds,), generator=random)]),
        transition=torch.randint(-1, states, (states, kinds), generator=random),
        start=0,
        accepting=torch.rand(states, generator=random) < 0.6,
    )


def log_probs(batch: int, length: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, CLASSES, generator=random).mul(2).log_softmax(-1)


@pytest.mark.parametrize("seed", range(8))
def test_acceptance_is_the_sum_over_all_accepted_sequences(seed: int) -> None:
    pair = Pair(a=automaton(4, 3, seed), b=automaton(3, 4, 100 + seed))
    for length in (1, 2, 4):
        p = log_probs(3, length, seed)
        sequences = torch.tensor(list(itertools.product(range(CLASSES), repeat=length)))
        chance = torch.stack([p[:, k, sequences[:, k]] for k in range(length)]).sum(0).double().exp()  # [B, S]
        both = pair.accepts(sequences)
        assert (both == (pair.a.accepts(sequences) & pair.b.accepts(sequences))).all()
        total, first = chance[:, both].sum(1), chance[:, pair.a.accepts(sequences)].sum(1)
        torch.testing.assert_close(pair.log_acceptance(p).exp(), total, rtol=1e-6, atol=1e-12)
        if bool((first > 0).all()):
            share = pair.log_share(pair.by_pair(p.double().exp()))
            torch.testing.assert_close(share.exp(), total / first, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_draws_from_the_product_of_automata(seed: int) -> None:
    """The frequencies of all sequences, against exact probabilities: each within five standard errors."""
    pair, length, batch = Pair(a=automaton(4, 3, seed), b=automaton(3, 4, 100 + seed)), 3, 40_000
    p = log_probs(1, length, seed)
    sequences = torch.tensor(list(itertools.product(range(CLASSES), repeat=length)))
    exact = torch.stack([p[0, k, sequences[:, k]] for k in range(length)]).sum(0).double().exp() * pair.accepts(
        sequences
    )
    assert float(exact.sum()) > 0
    exact = exact / exact.sum()
    rows = Layout.dense(batch, {"x": (length,)}).rows("x")
    drawn = pair(p.expand(batch, -1, -1), Noise(seed=7, index=torch.arange(batch)).at("x", 1, rows), rows)
    assert pair.accepts(drawn).all()
    number = (drawn * torch.tensor([CLASSES**2, CLASSES, 1])).sum(1)
    found = torch.bincount(number, minlength=CLASSES**length) / batch
    assert bool(((found - exact).abs() <= 5 * (exact * (1 - exact) / batch).sqrt() + 1e-12).all())


def test_a_sample_does_not_depend_on_those_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, p = Pair(a=automaton(4, 3, 0), b=automaton(3, 4, 100)), log_probs(50, 4, 2)
    rows = Layout.dense(50, {"x": (4,)}).rows("x")
    draw = Noise(seed=1, index=torch.arange(50)).at("x", 1, rows)
    whole = pair(p, draw, rows)
    monkeypatch.setattr("scidiff.constraints.pair._ROOM", 200)
    assert len(list(pair._chunks(50))) > 5
    assert (pair(p, draw, rows) == whole).all()


def test_nothing_to_accept_is_minus_infinity() -> None:
    a, b = automaton(4, 3, 0), automaton(3, 4, 100)
    never = Automaton(kind=b.kind, transition=b.transition, start=0, accepting=torch.zeros(3, dtype=torch.bool))
    assert (Pair(a=a, b=never).log_acceptance(log_probs(2, 3, 0)) == -torch.inf).all()
    assert (Pair(a=never, b=a).log_acceptance(log_probs(2, 3, 0)) == -torch.inf).all()
    with pytest.raises(ValueError, match="same classes"):
        Pair(a=a, b=Automaton(kind=b.kind[:4], transition=b.transition, start=0, accepting=b.accepting))
