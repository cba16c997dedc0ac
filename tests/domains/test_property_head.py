"""The property head: sums where it has learned nothing, derivatives, beliefs that are calibrated, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_enforcement import SMALL, model
from torch import Tensor, nn

from scidiff.guidance import Sums
from scidiff.molecules.beliefs import HeadLoss
from scidiff.molecules.head import Expected, PropertyHead
from scidiff.molecules.scores import SCORED, Scores
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.weights import WeightsError

COUNT = len(SCORED)


def beliefs(batch: int = 4, length: int = 3) -> Tensor:
    """Random ones, certain at the first place."""
    source = torch.Generator().manual_seed(0)
    q = torch.randn(batch, length, len(SMALL), generator=source, dtype=torch.float64).mul(2).softmax(-1)
    q[:, 0] = nn.functional.one_hot(torch.arange(batch), len(SMALL)).double()
    return q


def scores() -> Scores:
    source = torch.Generator().manual_seed(1)
    table = torch.randn(len(SMALL), COUNT, generator=source, dtype=torch.float64)
    return Scores(table=table, intercept=torch.linspace(-1, 1, COUNT, dtype=torch.float64), card={})


def untrained() -> PropertyHead:
    torch.manual_seed(3)
    values = torch.randn(50, COUNT, dtype=torch.float64) * 2 + 1
    return PropertyHead.beginning(scores(), values, torch.randn(len(SMALL), 8), width=16, depth=2, heads=2).double()


def random() -> PropertyHead:
    head = untrained()
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    return head


def test_a_head_that_has_learned_nothing_says_what_sums_say() -> None:
    head, held, q = untrained(), scores(), beliefs()
    asked = torch.tensor([0, 4])
    ours, sums = Expected(head=head, asked=asked)(q), Sums(scores=head.table[:, asked])(q)
    assert torch.allclose(ours.value, sums.value + held.intercept[asked])
    assert torch.allclose(ours.variance, sums.variance)
    multiplier = torch.tensor([[0.5, -2.0]], dtype=torch.float64).expand(len(q), -1)
    differ = ours.tilt(multiplier) - sums.tilt(multiplier)
    assert torch.allclose(differ, differ[..., :1].expand_as(differ))  # by a constant at each place, which is no tilt
    assert ours.spread is not None
    assert torch.allclose(ours.spread, 1.01 * head.unit[asked].expand(len(q), -1))


def test_tilts_are_the_derivatives_of_means() -> None:
    head, q, other = random(), beliefs(), beliefs().flip(0)
    asked = torch.tensor([2, 7, 1])
    near = Expected(head=head, asked=asked)(q)
    assert torch.allclose(near.value, head(q)[0][:, asked])
    assert near.spread is not None
    assert torch.allclose(near.spread, head(q)[1][:, asked])
    step = 1e-6 * (other - q)
    for j, one in enumerate(torch.eye(3, dtype=torch.float64)):
        slope = near.tilt(one.expand(len(q), -1))
        change = (head(q + step)[0] - head(q - step)[0])[:, asked[j]] / 2e-6
        assert torch.allclose((slope * (other - q)).sum((1, 2)), change, rtol=1e-5, atol=1e-7)
        first, second = (q * slope).sum(-1), (q * slope.square()).sum(-1)
        assert torch.allclose(near.variance[:, j], (second - first.square()).sum(1))


def test_evidence_makes_beliefs_that_come_true() -> None:
    """Truth drawn from beliefs, looked at: of places where a token is believed with q, a share q holds it."""
    loss, length = HeadLoss(model=model(SMALL, (0, 0, 1))), 4000
    prior = torch.linspace(0.0, 2.0, len(SMALL)).softmax(0)
    source = torch.Generator().manual_seed(0)
    x_0 = torch.multinomial(prior, 10 * length, replacement=True, generator=source).reshape(length, 10)
    evidence = loss._evidence(x_0, Noise(seed=5, index=torch.arange(length)))
    looked = (evidence.abs().amax((1, 2)) > 1e-3)[:, None, None].expand_as(evidence)
    assert 0.4 < float(looked.double().mean()) < 0.6
    q = (prior.log() + evidence).softmax(-1)
    truth = nn.functional.one_hot(x_0, len(SMALL)).float()
    for low, high in ((0.02, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 0.99)):
        chosen = looked & (q > low) & (q < high)
        miss = (truth - q)[chosen]
        assert len(miss) > 500
        assert abs(float(miss.mean())) < 5 * float(miss.std()) / len(miss) ** 0.5


class Told(nn.Module):
    """Says the same of every molecule."""

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(mean), nn.Parameter(spread)
        self.unit = torch.full((COUNT,), 3.0, dtype=torch.float64)

    def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(q), -1), self.spread.expand(len(q), -1)


def test_the_loss_is_least_at_mean_and_standard_deviation() -> None:
    loss = HeadLoss(model=model(SMALL, (0, 0, 0, 1)))
    x_0, layout = {"fragment": torch.zeros(40, 3, dtype=torch.int64)}, Layout.dense(40, {"fragment": (3,)})
    values = torch.randn(40, COUNT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = Told(values.mean(0), values.std(0, correction=0))
    noise = Noise(seed=0, index=torch.arange(40))
    loss(told, loss.model.processes, x_0, layout, noise, condition=values).sum().backward()
    assert told.mean.grad is not None
    assert told.spread.grad is not None
    assert float(told.mean.grad.abs().max()) < 1e-9
    assert float(told.spread.grad.abs().max()) < 1e-9


def test_beliefs_are_the_models_where_nothing_is_looked_at_and_certain_where_all_is_seen() -> None:
    able = model(SMALL, (0, 0, 0, 1))
    x_0, layout = {"fragment": torch.arange(3).expand(20, 3)}, Layout.dense(20, {"fragment": (3,)})
    noise = Noise(seed=0, index=torch.arange(20))
    plain, looked = (HeadLoss(model=able, looks=looks).beliefs(x_0, layout, noise) for looks in (False, True))
    known = plain.amax(-1) == 1
    assert 0.1 < float(known.double().mean()) < 0.6
    assert bool((plain.argmax(-1) == x_0["fragment"])[known].all())
    assert looked[known].equal(plain[known])
    assert torch.allclose(plain.sum(-1), torch.ones(20, 3), atol=1e-5)
    same = torch.isclose(plain, looked, atol=1e-6).all(-1).all(-1)
    assert 0.2 < float(same.double().mean()) < 0.9


def test_a_head_is_kept(tmp_path: Path) -> None:
    vocabulary, head = Vocabulary(tokens=SMALL), random().float()
    assert PropertyHead.load(tmp_path, vocabulary) is None
    head.save(tmp_path, vocabulary, {"what": "a test"})
    again = PropertyHead.load(tmp_path, vocabulary)
    assert again is not None
    q = beliefs().float()
    for ours, theirs in zip(again(q), head(q), strict=True):
        assert torch.allclose(ours, theirs, rtol=0.02, atol=0.02)  # matrices are kept in half precision
    with pytest.raises(WeightsError, match="of the tokens of this model"):
        PropertyHead.load(tmp_path, replace(vocabulary, tokens=SMALL[:-1]))
    record = tmp_path / "head" / "weights.json"
    held = json.loads(record.read_text())
    del held["config_sha256"]
    held["config"]["sizes"]["width"] = 32
    record.write_text(json.dumps(held))
    with pytest.raises(WeightsError, match="expected a property head, got others"):
        PropertyHead.load(tmp_path, vocabulary)
