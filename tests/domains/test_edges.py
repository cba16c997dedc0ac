"""What a model is told of properties: always true, nothing by default, and nothing changes before it has learned."""

import math

import numpy as np
import torch

from scidiff.molecules.edges import LEVELS, Edges
from scidiff.networks.transformer import SequenceTransformer
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.training.batches import SequenceBatches

VALUES = np.random.default_rng(0).normal(size=(4000, 2)) * [1.0, 30.0]
EDGES = Edges.between(("logp", "tpsa"), VALUES)


def told(low: list[float], high: list[float]) -> torch.Tensor:
    ends = (torch.tensor([end], dtype=torch.float64) for end in (low, high))
    return EDGES.facts(*ends)[0]


def test_edges_are_quantiles() -> None:
    below = [(VALUES[:, k, None] < np.array(edges)).mean(0) for k, edges in enumerate(EDGES.of.values())]
    for shares in below:
        assert np.abs(shares - LEVELS).max() < 1e-3


def test_no_interval_is_no_fact_and_a_tighter_one_adds() -> None:
    assert not told([-math.inf] * 2, [math.inf] * 2).any()
    wide, tight = told([-0.5, -math.inf], [math.inf, 40.0]), told([0.5, -math.inf], [math.inf, 10.0])
    assert wide.any()
    assert (tight >= wide).all()
    assert (tight > wide).any()


def test_facts_of_a_point_are_those_that_hold() -> None:
    value = [0.3, -12.0]
    edges, owner = EDGES._all, EDGES._owner
    at = torch.tensor(value, dtype=torch.float64)[owner]
    assert told(value, value).equal(torch.cat([at >= edges, at < edges]).float())


def test_what_training_tells_is_true_and_keyed() -> None:
    values = torch.from_numpy(VALUES)
    facts = EDGES.some(values, Noise(seed=3, index=torch.arange(len(values))))
    assert (facts <= EDGES.facts(values, values)).all()
    none = float((facts.sum(1) == 0).double().mean())
    assert 0.6 < none < 0.8  # E[(1 - 0.6 u^2)^2] = 0.672, and ends that reach no edge tell nothing
    some = torch.tensor([7, 3999, 12])
    assert EDGES.some(values[some], Noise(seed=3, index=some)).equal(facts[some])


def test_being_told_changes_nothing_before_learning() -> None:
    torch.manual_seed(0)
    network = SequenceTransformer(leaf="x", classes=5, width=16, depth=1, heads=2, longest=4, told=EDGES.size)
    for name, parameter in network.named_parameters():
        if not name.startswith("told"):  # zeros that training has long filled would hide the condition
            torch.nn.init.normal_(parameter, std=0.3)
    x, t, layout = torch.randint(6, (3, 4)), torch.full((3,), 0.5), Layout.dense(3, {"x": (4,)})
    facts = told([0.0, 0.0], [1.0, 30.0]).expand(3, -1)
    plain = network({"x": x}, t, layout)["x"]
    assert network({"x": x}, t, layout, facts)["x"].equal(plain)
    torch.nn.init.normal_(network.told[-1].weight)
    assert not network({"x": x}, t, layout, facts)["x"].equal(plain)
    assert network({"x": x}, t, layout, torch.zeros_like(facts))["x"].equal(plain)


def test_batches_keep_conditions_with_their_sequences() -> None:
    sequences = [[k] * (1 + k % 3) for k in range(40)]
    batches = SequenceBatches(sequences, leaf="x", tokens=12, condition=torch.arange(40))
    for position in range(batches.batches_per_epoch):
        batch = batches.at(position)
        assert batch.condition.equal(batch.x_0["x"][:, 0])
