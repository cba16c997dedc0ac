"""The log-probability of chains of unmasking under an automaton, and its gradient, against enumeration."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scidiff.constraints.automaton import Automaton
from scidiff.denoiser import NetworkDenoiser
from scidiff.molecules import chain
from scidiff.molecules.model import LEAF
from scidiff.molecules.scaffold_memory import advantages
from scidiff.processes.counted import CountedMaskedProcess
from scidiff.state import Layout, State

K, LENGTH = 3, 3
MASK = K
PROCESS = CountedMaskedProcess(classes=K)
# Tokens 0 and 1 are of one kind. State 0: an even number of tokens 2 so far. Accepted: an odd number of them.
AUTOMATON = Automaton(
    kind=torch.tensor([0, 0, 1]),
    transition=torch.tensor([[0, 1], [1, 0]]),
    start=0,
    accepting=torch.tensor([False, True]),
)
ACCEPTED = [x for x in itertools.product(range(K), repeat=LENGTH) if x.count(2) % 2]
REWARD = {x: float(3 * x[0] - x[1] * x[2] + (x[2] == 2)) for x in ACCEPTED}

Sequence = tuple[int, ...]


class Table(nn.Module):
    """Logits of its own for every state: any policy."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        shape = ((K + 1) ** LENGTH, LENGTH, K)
        self.logits = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        weights = torch.tensor([(K + 1) ** place for place in range(LENGTH)])
        return {LEAF: self.logits[(inputs[LEAF] * weights).sum(-1)]}


@pytest.fixture
def denoiser() -> NetworkDenoiser:
    return NetworkDenoiser(Table(), {LEAF: PROCESS})


def steps() -> Iterator[tuple[Sequence, Sequence]]:
    """Every state with a mask, and every state that lifts one of its masks and can still be accepted."""
    for x_t in itertools.product(range(K + 1), repeat=LENGTH):
        for place in range(LENGTH):
            if x_t[place] != MASK:
                continue
            for token in range(K):
                x_s = (*x_t[:place], token, *x_t[place + 1 :])
                if any(agrees(x_s, x) for x in ACCEPTED):
                    yield x_t, x_s


def agrees(state: Sequence, x: Sequence) -> bool:
    return all(a in (MASK, b) for a, b in zip(state, x, strict=True))


def by_enumeration(denoiser: NetworkDenoiser, x_t: Sequence, x_s: Sequence) -> Tensor:
    """P(x_s | x_t, S): completions that agree with x_s, of all that are accepted and agree with x_t."""
    p = denoiser.network.logits[sum(c * (K + 1) ** i for i, c in enumerate(x_t))].softmax(-1)  # type: ignore[union-attr, index]

    def mass(state: Sequence) -> Tensor:
        places = [i for i, c in enumerate(x_t) if c == MASK]
        weights = [torch.stack([p[i, x[i]] for i in places]).prod() for x in ACCEPTED if agrees(state, x)]
        return torch.stack(weights).sum()

    return mass(x_s) / mass(x_t)


def log_prob(denoiser: NetworkDenoiser, x_t: list[Sequence], x_s: list[Sequence]) -> Tensor:
    t = torch.tensor([x.count(MASK) / LENGTH for x in x_t], dtype=torch.float64)
    return chain.log_prob(denoiser, PROCESS, AUTOMATON, x_t=torch.tensor(x_t), x_s=torch.tensor(x_s), t=t)


def path(order: Sequence, x: Sequence) -> list[Sequence]:
    """The states that lift the masks of x in an order."""
    return [tuple(x[i] if i in order[:k] else MASK for i in range(LENGTH)) for k in range(LENGTH + 1)]


def test_each_step_has_the_probability_of_all_completions_that_agree(denoiser: NetworkDenoiser) -> None:
    pairs = list(steps())
    found = log_prob(denoiser, [a for a, _ in pairs], [b for _, b in pairs]).exp()
    expected = torch.stack([by_enumeration(denoiser, a, b) for a, b in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_several_masks_may_be_lifted_at_once(denoiser: NetworkDenoiser) -> None:
    x_t, x_s = (MASK, MASK, MASK), (2, MASK, 1)
    found = log_prob(denoiser, [x_t], [x_s]).exp()
    torch.testing.assert_close(found[0], by_enumeration(denoiser, x_t, x_s), rtol=1e-9, atol=1e-12)


def test_the_gradient_of_the_expected_reward_is_that_of_its_closed_form(denoiser: NetworkDenoiser) -> None:
    """grad E[R] = E[R sum_k grad log pi_k], both summed over every chain; and a step along it raises E[R] so."""

    def expected_reward() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for order in itertools.permutations(range(LENGTH)):
            for x in ACCEPTED:
                states = path(order, x)
                chances = [by_enumeration(denoiser, a, b) for a, b in itertools.pairwise(states)]
                total = total + REWARD[x] * torch.stack(chances).prod() / 6
        return total

    (closed,) = torch.autograd.grad(expected_reward(), list(denoiser.parameters()))
    surrogate = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(range(LENGTH)):
        for x in ACCEPTED:
            states = path(order, x)
            log_pi = log_prob(denoiser, states[:-1], states[1:]).sum()
            surrogate = surrogate + REWARD[x] * log_pi.exp().detach() * log_pi / 6
    (policy,) = torch.autograd.grad(surrogate, list(denoiser.parameters()))
    torch.testing.assert_close(policy, closed, rtol=1e-8, atol=1e-12)
    before, size = float(expected_reward().detach()), 1e-4
    with torch.no_grad():
        next(denoiser.parameters()).add_(policy, alpha=size)
    rise = size * float((closed**2).sum())
    assert float(expected_reward().detach()) - before == pytest.approx(rise, rel=1e-2)


def test_drawn_chains_have_the_probability_that_is_claimed(denoiser: NetworkDenoiser, drawn_from: Any) -> None:
    count = 20_000
    start = torch.full((count, LENGTH), MASK)
    drawn = chain.draw(denoiser, PROCESS, AUTOMATON, start=start, index=torch.arange(count), seed=5)
    assert drawn.states.shape == (count, LENGTH + 1, LENGTH)
    assert drawn.times.tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    seen = Counter(tuple(map(tuple, states)) for states in drawn.states.tolist())
    paths = [path(order, x) for order in itertools.permutations(range(LENGTH)) for x in ACCEPTED]
    claimed = torch.stack([log_prob(denoiser, p[:-1], p[1:]).sum() for p in paths]).exp().detach() / 6
    assert sum(seen[tuple(p)] for p in paths) == count
    drawn_from(torch.tensor([seen[tuple(p)] for p in paths]), claimed / claimed.sum())
    assert float(claimed.sum()) == pytest.approx(1)


def test_chains_from_some_masks_keep_the_rest_and_have_the_probability_that_is_claimed(
    denoiser: NetworkDenoiser, drawn_from: Any
) -> None:
    count, first = 20_000, (MASK, 1, MASK)
    start = torch.tensor([first]).expand(count, -1)
    drawn = chain.draw(denoiser, PROCESS, AUTOMATON, start=start, index=torch.arange(count), seed=6)
    assert drawn.times.tolist() == pytest.approx([2 / 3, 1 / 3])
    seen = Counter(tuple(map(tuple, states)) for states in drawn.states.tolist())
    ends = [x for x in ACCEPTED if agrees(first, x)]
    paths = [
        [first, tuple(x[i] if i in (1, lifted) else MASK for i in range(LENGTH)), x] for x in ends for lifted in (0, 2)
    ]
    claimed = torch.stack([log_prob(denoiser, p[:-1], p[1:]).sum() for p in paths]).exp().detach() / 2
    assert sum(seen[tuple(p)] for p in paths) == count
    drawn_from(torch.tensor([seen[tuple(p)] for p in paths]), claimed / claimed.sum())
    assert float(claimed.sum()) == pytest.approx(1)


def test_advantages_are_ranks_whatever_the_scale() -> None:
    found = advantages([3.0, 10.0, 2.0, -5.0])
    utility = torch.tensor([3.0, 1.5, 1.0, 1.0], dtype=torch.float64).log()  # log(B/2 + 1) - log(rank)
    expected = 4 * utility / utility.sum() - 1
    torch.testing.assert_close(found, expected[[1, 0, 2, 3]])
    torch.testing.assert_close(advantages([0.003, 9.0, 0.002, float("-inf")]), found)
    assert float(found.mean()) == pytest.approx(0)


def test_equal_rewards_have_equal_advantages() -> None:
    none = float("-inf")
    found = advantages([none, 1.0, none, 1.0, none, none])
    assert found[1] == found[3] > 0
    assert len({float(found[i]) for i in (0, 2, 4, 5)}) == 1
    assert float(found.sum()) == pytest.approx(0)
    assert not advantages([2.0, 2.0, 2.0]).any()
