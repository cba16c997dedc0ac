"""One of several sequences: by ring labels that bond, and by the sums of what fragments add."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice, product

import numpy as np
import torch
from rdkit import Chem
from scipy.stats import norm

from scidiff.constraints.automaton import anything
from scidiff.constraints.pair import Pair
from scidiff.denoiser import Denoiser
from scidiff.molecules.candidates import Candidates
from scidiff.molecules.census import Census
from scidiff.molecules.enforcement import token
from scidiff.molecules.fragments import RING_LABELS, closes
from scidiff.molecules.generator import Generator
from scidiff.molecules.grammar import grammar
from scidiff.molecules.model import LEAF, FragmentModel, ModelConfig
from scidiff.molecules.scores import Scores
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Noise
from scidiff.state import Layout

TOKENS = (*RING_LABELS[:2], "C*", "[1*]C", "*C[1*]", "*C(*)[1*]", "*C=C[1*]", "*C(*)*")
VOCABULARY = Vocabulary(tokens=TOKENS)
GRAMMAR = grammar(VOCABULARY)


def sequences(length: int) -> list[tuple[int, ...]]:
    """All of the grammar."""
    every = list(product(range(len(TOKENS)), repeat=length))
    return [one for one, good in zip(every, GRAMMAR.accepts(torch.tensor(every)).tolist(), strict=True) if good]


def test_labels_close_exactly_where_tokens_count_the_atoms() -> None:
    verdicts = []
    for classes in (one for length in range(2, 6) for one in sequences(length)):
        tokens = [TOKENS[k] for k in classes]
        counted = sum(sum(token(text).atoms.values()) for text in tokens)
        verdicts.append(closes(tokens))
        assert verdicts[-1] == (Chem.AddHs(VOCABULARY.decode(classes)).GetNumAtoms() == counted), tokens
    assert 20 < sum(verdicts) < len(verdicts) - 20, sum(verdicts)


def test_a_pair_draws_several_the_first_of_which_is_its_draw() -> None:
    pair, length, batch = Pair(a=GRAMMAR, b=anything(len(TOKENS))), 4, 2000
    rows = Layout.dense(batch, {LEAF: (length,)}).rows(LEAF)
    draw = Noise(seed=1, index=torch.arange(batch)).at(LEAF, 1, rows)
    p = torch.randn(1, length, len(TOKENS), generator=torch.manual_seed(0)).softmax(-1).double().expand(batch, -1, -1)
    one, share = pair.draw(p, pair.by_pair(p), draw)
    several, again = pair.several(p, pair.by_pair(p), draw, count=3)
    assert several[:, 0].equal(one)
    assert again.equal(share)
    assert GRAMMAR.accepts(several.flatten(0, 1)).all()
    for k in (1, 2):  # each is drawn anew, from the same distribution
        assert not several[:, k].equal(one)
        for place in range(length):
            found, drawn = (torch.bincount(x[:, place], minlength=len(TOKENS)) / batch for x in (one, several[:, k]))
            assert float((found - drawn).abs().max()) < 5 * math.sqrt(0.5 / batch)


def choice(count: int, asked: float) -> Candidates:
    table = torch.arange(len(TOKENS), dtype=torch.float64)[:, None]
    scores = Scores(
        table=table, intercept=torch.ones(1).double(), card={}, left=torch.full((1,), 2.0).double(), names=("mu",)
    )
    return Candidates(
        vocabulary=VOCABULARY,
        count=count,
        log_likelihood=lambda x: scores.log_likelihood(x, ["mu"], torch.tensor([asked]).double()),
    )


def test_what_is_chosen_follows_the_likelihood_of_its_sums() -> None:
    """Of all sequences of four, each once: frequencies of the choice against their exact probabilities."""
    every = [one for one in sequences(5) if any(k < 2 for k in one)][:64]
    batch, asked = 20_000, 15.0
    rows = Layout.dense(batch, {LEAF: (5,)}).rows(LEAF)
    draw = Noise(seed=4, index=torch.arange(batch)).at(LEAF, 1, rows)
    x = torch.tensor(every)
    weight = norm.pdf(asked, 1 + x.sum(1).numpy(), 2.0)
    weight *= np.array([closes([TOKENS[k] for k in one]) for one in every])
    candidates = choice(len(every), asked)
    vars(candidates)["_closing"] = lambda some: torch.tensor([closes([TOKENS[k] for k in one]) for one in every])[None]
    chosen = candidates.choose(x.expand(batch, -1, -1), draw)
    found = np.array([float((chosen == one).all(1).double().mean()) for one in x])
    exact = weight / weight.sum()
    assert (np.abs(found - exact) < 5 * np.sqrt(exact * (1 - exact) / batch) + 1e-9).all()


def test_sequences_whose_labels_bond_come_first() -> None:
    """With whatever sums; where none does, one is chosen all the same."""
    good = next(one for one in sequences(5) if closes([TOKENS[k] for k in one]) and any(k < 2 for k in one))
    bad = next(one for one in sequences(5) if not closes([TOKENS[k] for k in one]))
    draw = Noise(seed=0, index=torch.arange(50)).at(LEAF, 1, Layout.dense(50, {LEAF: (5,)}).rows(LEAF))
    for asked in (1.0 + sum(bad), 500.0):
        pair = torch.tensor([[bad, good]]).expand(50, -1, -1)
        assert (choice(2, asked).choose(pair, draw) == torch.tensor(good)).all()
    assert (choice(1, 3.0).choose(torch.tensor([[bad]]).expand(50, -1, -1), draw) == torch.tensor(bad)).all()


class Level(Denoiser):
    """Every fragment is as likely as any other, whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t, t, layout, condition=None):
        shape = (*x_t[LEAF].shape, len(TOKENS))
        seen = torch.nn.functional.one_hot(x_t[LEAF].clamp_max(len(TOKENS) - 1), len(TOKENS)).bool()
        known = (x_t[LEAF] < len(TOKENS))[..., None]
        return {LEAF: torch.where(known, torch.where(seen, 0.0, -1e30), self.level - math.log(shape[-1])).expand(shape)}


def test_draws_come_near_to_what_was_asked_for() -> None:
    """A network that knows nothing of a property, and sums that are the property: steps choose towards it.

    The same draws come alone or among others.
    """
    census = Census.of(np.array([5, 5]), np.array([[0.0], [60.0]]), ("mu",))
    sums = Scores(
        table=torch.arange(len(TOKENS), dtype=torch.float64)[:, None],
        intercept=torch.zeros(1).double(),
        card={},
        left=torch.ones(1).double(),
        names=("mu",),
    )
    config = ModelConfig(lengths=(0, 0, 0, 0, 0, 1), edges={"mu": (9.0,)})
    model = FragmentModel(vocabulary=VOCABULARY, config=config, denoiser=Level(), census=census, sums=sums)
    away = {}
    for name, one in {"with sums": model, "without": replace(model, sums=None)}.items():
        generator = Generator(model=one).towards({"mu": 20.0})
        drawn = list(islice(generator.stream(seed=2), 250))
        away[name] = np.mean([abs(sum(one.classes) - 20.0) for one in drawn])
        assert np.mean([closes([TOKENS[k] for k in one.classes]) for one in drawn]) > 0.97  # of plain draws 0.5
        assert [one.classes for one in islice(generator.stream(seed=2, start=240), 10)] == [
            one.classes for one in drawn[240:]
        ]
    assert away["with sums"] < min(1.2, away["without"] / 2), away
