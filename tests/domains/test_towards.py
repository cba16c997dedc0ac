"""Values that a model is told of and nothing certifies: how they are written, told, drawn towards, and reported."""

import contextlib
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import small_model
import torch
from rdkit import Chem

from scidiff.denoiser import Denoiser
from scidiff.errors import UserError
from scidiff.molecules.census import Census
from scidiff.molecules.edges import Edges
from scidiff.molecules.generator import Generator
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.quantum import QUANTUM, halves
from scidiff.molecules.towards import parse, towards
from scidiff.noise import Noise

VALUES = np.random.default_rng(0).normal(size=(4000, 2)) * [1.0, 30.0]
EDGES = Edges.between(("gap", "mu"), VALUES)


def test_what_a_user_writes():
    assert parse(["gap=6.8eV", " mu = -3 ", "Cv=1e1cal/mol/K", "atoms=18"]) == {
        "gap": 6.8,
        "mu": -3.0,
        "cv": 10.0,
        "atoms": 18.0,
    }


@pytest.mark.parametrize("text", ["gap", "gap>=3", "qed=0.3", "gap=6.8D", "gap=1.2.3", "=3", "gap=", "atoms=18eV"])
def test_what_is_no_value_is_refused(text):
    with pytest.raises(UserError, match="expected NAME=VALUE of alpha"):
        parse([text])


def test_a_property_is_asked_for_once():
    with pytest.raises(UserError, match="gap once"):
        parse(["gap=3", "gap=4"])


def test_values_told_are_true_whole_and_keyed():
    """Of a property that is told all facts are, of others none; nine samples in ten are told, by each one's chance."""
    values, chances = torch.from_numpy(VALUES), {"mu": 0.3, "gap": 0.8}
    facts = EDGES.pinned(values, Noise(seed=3, index=torch.arange(len(values))), chances=chances)
    whole = EDGES.of_values(values)
    told = []
    for name in EDGES.of:
        mine = Edges(of={name: EDGES.of[name]})
        rows = torch.tensor([owner == name for owner in EDGES.of for _ in EDGES.of[owner]]).repeat(2)
        known = facts[:, rows].any(1)
        assert facts[known][:, rows].equal(whole[known][:, rows])
        assert mine.size == int(rows.sum())
        told.append(known)
    for name, known in zip(EDGES.of, told, strict=True):
        assert float(known.double().mean()) == pytest.approx(0.9 * chances[name], abs=0.02)
    assert float((told[0] & told[1]).double().mean()) == pytest.approx(0.9 * 0.8 * 0.3, abs=0.02)
    some = torch.tensor([7, 3999, 12])
    assert EDGES.pinned(values[some], Noise(seed=3, index=some), chances=chances).equal(facts[some])
    assert not EDGES.of_values(torch.full((1, 2), math.nan, dtype=torch.float64)).any()


def test_the_nearest_molecules_tell_the_number_of_fragments(monkeypatch):
    monkeypatch.setattr("scidiff.molecules.census.NEAR", 5)
    lengths = np.arange(40) % 7
    values = np.column_stack([np.arange(40.0), 1000 * np.cos(np.arange(40.0))])
    census = Census.of(lengths, values, ("gap", "mu"))
    nearest = np.bincount([lengths[k] for k in (18, 19, 20, 21, 22)], minlength=7)
    assert census.near({"gap": 20.2}).tolist() == nearest[: census.near({"gap": 20.2}).numel()].tolist()
    both = np.argsort(
        ((20.2 - values[:, 0]) / values[:, 0].std(ddof=1)) ** 2 + (values[:, 1] / values[:, 1].std(ddof=1)) ** 2
    )[:5]
    assert census.near({"gap": 20.2, "mu": 0.0}).tolist() == np.bincount(lengths[both]).tolist()


def test_halves_are_apart_and_whole():
    first, second = halves(101)
    assert sorted([*first, *second]) == list(range(101))
    assert (len(first), len(second)) == (50, 51)


class Taught(Denoiser):
    """Knows two molecules: the first where the gap is at least 1.5, the second below; both where it is told nothing."""

    def __init__(self, rows, classes):
        super().__init__()
        one = torch.nn.functional.one_hot(torch.tensor(rows), classes).double()
        self.chances = torch.nn.Parameter(0.999 * one + 0.001 / classes, requires_grad=False)

    def forward(self, x_t, t, layout, condition=None):
        facts = torch.zeros(layout.batch, 2) if condition is None else condition
        weight = torch.where(facts.any(1, keepdim=True), facts, 0.5).double()
        return {LEAF: torch.einsum("bk,klc->blc", weight, self.chances).log().float()}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    start = FragmentModel.load(small_model.make(tmp_path_factory.mktemp("taught")))
    rows = []
    for smiles in small_model.sample_smiles(100):
        with contextlib.suppress(ValueError):
            rows.append(start.vocabulary.encode(Chem.MolFromSmiles(smiles)))
    pair = [row for row in rows if len(row) == 6][:2]
    census = Census.of(np.array([6, 6]), np.array([[2.0], [1.0]]), ("gap",))
    config = replace(start.config, lengths=(0, 0, 0, 0, 0, 1, 1), edges={"gap": (1.5,)})
    denoiser = Taught(pair, len(start.vocabulary.tokens))
    return replace(start, config=config, denoiser=denoiser, census=census), pair


def test_a_model_told_of_a_value_draws_what_has_it(taught):
    model, pair = taught
    for value, row in ((2.0, pair[0]), (1.0, pair[1])):
        drawn = list(islice(Generator(model=model).towards({"gap": value}).stream(seed=1), 100))
        share = np.mean([list(one.classes) == row for one in drawn])
        assert share > 0.9, (value, share)
        assert {one.calls for one in drawn} == {6}  # one for each fragment
    with pytest.raises(UserError, match="expected properties"):  # it is told once
        towards(towards(model, {"gap": 1.0}), {"gap": 2.0})


@pytest.mark.parametrize(
    ("asked", "said"), [({"gap": 9.0}, r"expected gap in \[1, 2\]"), ({"mu": 1.0}, r"is told of \(gap\), got mu=1")]
)
def test_what_it_has_not_seen_is_refused(taught, asked, said):
    with pytest.raises(UserError, match=said):
        towards(taught[0], asked)
    with pytest.raises(UserError, match=r"is told of \(none\)"):
        towards(replace(taught[0], census=None), asked)


def test_values_that_do_not_go_together_are_refused(taught):
    """A large molecule of a small polarisability, say; the nearest is named."""
    model, _ = taught
    values = np.array([[30.0, 9.0], [60.0, 17.0], [90.0, 27.0]])
    config = replace(model.config, edges={"alpha": (50.0,), "atoms": (15.0,)})
    model = replace(model, config=config, census=Census.of(np.array([5, 6, 6]), values, ("alpha", "atoms")))
    assert towards(model, {"alpha": 33.0, "atoms": 11.0}).census is None
    with pytest.raises(UserError, match="the nearest in training is alpha=60, atoms=17"):
        towards(model, {"alpha": 30.0, "atoms": 27.0})


def test_quantities_are_those_of_the_protocol():
    assert list(QUANTUM) == ["alpha", "gap", "homo", "lumo", "mu", "cv"]
    assert 27.2113 < QUANTUM["gap"].factor < 27.2115
