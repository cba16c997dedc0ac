"""Batches of a training: every sample once, in an order that is a function of the seed and the position."""

from __future__ import annotations

import pytest
import torch

from scidiff.state import Layout
from scidiff.training import Batch, DenseBatches, SequenceBatches


def ragged_sequences(count: int = 300) -> list[list[int]]:
    return [[k] * (1 + k * k % 13) for k in range(count)]


def test_an_epoch_visits_every_sequence_once_in_batches_of_one_length():
    sequences = ragged_sequences()
    source = SequenceBatches(sequences, leaf="tokens", tokens=60, seed=3)
    visits = []
    for epoch in range(2):
        seen = []
        for place in range(source.batches_per_epoch):
            batch = source.at(epoch * source.batches_per_epoch + place)
            tokens = batch.x_0["tokens"]
            assert tokens.numel() <= 60
            assert batch.layout.rows("tokens").shape == tokens.shape[1:]
            assert all(row.tolist() == sequences[int(row[0])] for row in tokens)
            seen += tokens[:, 0].tolist()
            visits += batch.index.tolist()
        assert sorted(seen) == list(range(300))
    assert sorted(visits) == list(range(600))  # the noise of no two visits is the same


def test_a_position_is_all_the_state_of_the_data():
    one, two = (SequenceBatches(ragged_sequences(), leaf="tokens", tokens=60, seed=3) for _ in range(2))
    ahead = [one.at(p).x_0["tokens"] for p in range(90)]
    for p in (89, 3, 50, 0):
        assert torch.equal(two.at(p).x_0["tokens"], ahead[p])
    other = SequenceBatches(ragged_sequences(), leaf="tokens", tokens=60, seed=4)
    assert any(not torch.equal(other.at(p).x_0["tokens"], ahead[p]) for p in range(5))
    assert len({one.fingerprint, two.fingerprint, other.fingerprint}) == 2


def test_batches_of_a_length_are_nearly_equal_and_shuffled():
    source = SequenceBatches([[k] * 4 for k in range(101)], leaf="x", tokens=40, seed=0)
    sizes = [source.at(p).layout.batch for p in range(source.batches_per_epoch)]
    assert source.batches_per_epoch == 11
    assert max(sizes) - min(sizes) <= 1
    first = torch.cat([source.at(p).x_0["x"][:, 0] for p in range(11)])
    second = torch.cat([source.at(p).x_0["x"][:, 0] for p in range(11, 22)])
    assert (first == torch.arange(101)).sum() < 10  # 1 is expected by chance
    assert (first == second).sum() < 10
    one, two = ({frozenset(source.at(p).x_0["x"][:, 0].tolist()) for p in range(k, k + 11)} for k in (0, 11))
    assert not one & two  # no batch comes again as a whole


def test_lengths_come_in_no_order():
    source = SequenceBatches(ragged_sequences(), leaf="tokens", tokens=60)
    count = source.batches_per_epoch
    lengths = torch.tensor([float(source.at(p).x_0["tokens"].shape[1]) for p in range(10 * count)])
    places = torch.arange(10 * count) % count
    trend = torch.corrcoef(torch.stack([places.float(), lengths]))[0, 1]
    again = torch.corrcoef(torch.stack([lengths[:-count], lengths[count:]]))[0, 1]
    assert abs(trend) < 0.2  # the standard error is 0.05
    assert abs(again) < 0.2


def test_the_gradient_of_an_epoch_is_that_of_the_mean_over_the_data():
    """Batches differ in size by a factor of 13: dividing by each one's own size would favour the long sequences."""
    sequences = ragged_sequences()
    source = SequenceBatches(sequences, leaf="tokens", tokens=60)
    steps = source.batches_per_epoch
    total = sum(float(source.at(p).x_0["tokens"].double().sum()) / source.samples_per_batch for p in range(steps))
    assert total / steps == pytest.approx(sum(map(sum, sequences)) / len(sequences), rel=1e-12)


def test_dense_batches_visit_every_sample_once_with_its_condition():
    x = torch.arange(23.0)[:, None]
    source = DenseBatches({"x": x}, size=5, condition={"c": 2 * x}, masks={"x": x > 3})
    batches = [source.at(p) for p in range(10)]
    for epoch in (batches[:5], batches[5:]):
        assert sorted(torch.cat([b.x_0["x"][:, 0] for b in epoch]).tolist()) == list(range(23))
    for batch in batches:
        assert torch.equal(batch.condition["c"], 2 * batch.x_0["x"])
        assert torch.equal(batch.layout.rows("x").mask, batch.x_0["x"] > 3)
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(46))


def test_shards_are_the_batch():
    """Ragged rows too: every sample goes to exactly one process, with all its rows."""
    counts = torch.tensor([3, 0, 2, 5, 1])
    layout = Layout.ragged({"node": counts, "edge": counts * 2}, {"node": (2,), "edge": ()})
    x_0 = {"node": torch.arange(22.0).reshape(11, 2), "edge": torch.arange(22)}
    batch = Batch(x_0=x_0, layout=layout, index=torch.arange(5) + 70, condition=torch.arange(5.0))
    shards = [batch.shard(rank, 2) for rank in range(2)]
    assert [s.index.tolist() for s in shards] == [[70, 72, 74], [71, 73]]
    for leaf, x in x_0.items():
        sums = layout.rows(leaf).sum(x.double())
        for rank, shard in enumerate(shards):
            rows = shard.layout.rows(leaf)
            assert torch.equal(rows.sum(shard.x_0[leaf].double()), sums[rank::2])
            assert torch.equal(rows.local, layout.rows(leaf).local[(layout.rows(leaf).owner % 2) == rank])
    assert torch.equal(shards[1].condition, torch.tensor([1.0, 3.0]))
    with pytest.raises(ValueError, match="at least one sample for each of 6 processes, got 5"):
        batch.shard(0, 6)
