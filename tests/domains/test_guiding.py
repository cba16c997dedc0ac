"""Guided draws: weights against an enumerated space, what is told of an expression, and what the census says."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_model
import torch
from rdkit import Chem
from test_enforcement import SMALL, Exact, model

from scidiff.errors import UserError
from scidiff.guidance import Sums
from scidiff.molecules.census import Census
from scidiff.molecules.edges import Edges
from scidiff.molecules.generator import Generator
from scidiff.molecules.guiding import ByFacts, ByProjection, Guide, by_projection
from scidiff.molecules.head import Expected, PropertyHead
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.planning import TILE, choose
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.scores import SCORED, Scores
from scidiff.weights import WeightsError

TILT = torch.linspace(0.5, -0.4, len(SMALL)).double()


def told(lengths: tuple[int, ...]) -> FragmentModel:
    """A random model with an edge of QED and one of the mass, which changes much when it is told of them."""
    plain = model(SMALL, lengths)
    torch.manual_seed(1)
    able = FragmentModel.create(plain.vocabulary, replace(plain.config, edges={"qed": (0.5,), "mw": (60.0,)}))
    able.denoiser.load_state_dict({**able.denoiser.state_dict(), **plain.denoiser.state_dict()})
    torch.nn.init.normal_(able.denoiser.network.told[-1].weight, std=0.5)
    able.denoiser.eval()
    return able


def random_head() -> PropertyHead:
    """A head of random weights and scores, whose means are far from sums."""
    torch.manual_seed(2)
    head = PropertyHead(classes=len(SMALL), width=16, depth=1, heads=2)
    for tensor in (*head.parameters(), head.table):
        torch.nn.init.normal_(tensor, std=0.3)
    return head.eval().requires_grad_(False)


@pytest.mark.parametrize("guided_by", ["facts", "sums", "head"])
@pytest.mark.parametrize(
    ("text", "tilt", "lengths", "tiles"),
    [
        ("", None, (0, 0, 1), 16),
        ("n_atoms[N] <= 1", None, (0, 0, 1), 16),
        *(
            pytest.param(text, tilt, (0, 0, 3, 4), 120, marks=pytest.mark.slow)
            for text in ("", "n_atoms[N] == 1")
            for tilt in (None, TILT)
        ),
        pytest.param("extends(CN)", None, (0, 0, 3, 4), 120, marks=pytest.mark.slow),
    ],
)
def test_weighted_guided_samples_are_the_model(
    text: str, tilt: torch.Tensor | None, lengths: tuple[int, ...], tiles: int, *, guided_by: str
) -> None:
    """Total variation, and the mean weight, against enumeration."""
    plain = Generator(model=told(lengths))
    exact, mass = Exact(plain), {}
    for length, share in enumerate(plain.model.length_probabilities.tolist()):
        for sequence in itertools.product(range(len(SMALL)), repeat=length) if share else ():
            if bool(plain.automaton.accepts(torch.tensor([sequence]))):
                smiles = Chem.MolToSmiles(plain.model.vocabulary.decode(sequence))
                if not text or Oracle(parse_all([text])).certify(smiles).holds:
                    mass[smiles] = mass.get(smiles, 0.0) + share * exact.chance(sequence)
    known = sum(mass.values())
    uneven = torch.tensor([2.0 if k == 2 else 1.0 for k in range(len(lengths))]) * (
        plain.model.length_probabilities > 0
    )
    some = (uneven / uneven.sum()).double()
    guide: Guide = ByFacts(facts=torch.tensor([1.0, 0.0, 0.0, 1.0]), lengths=some, weight=1.5)
    if guided_by == "sums":
        atoms, ends = torch.tensor([[float("N" in text)] for text in SMALL]), torch.tensor([[0.9], [1.2]])
        guide = ByProjection(properties=Sums(scores=atoms), low=ends[0], high=ends[1], lengths=some)
    if guided_by == "head":
        properties = Expected(head=random_head(), asked=torch.tensor([0, 1]))
        low, high = torch.tensor([0.2, -torch.inf]), torch.tensor([torch.inf, 0.4])
        guide = ByProjection(properties=properties, low=low, high=high, lengths=some)
    guided = replace(plain.given(parse_all([text])) if text else plain, guide=guide, tilt=tilt)
    samples = [one for number in range(tiles) for one in guided.tile(number, seed=3)]
    weight = guided.feasible * torch.tensor([one.log_weight for one in samples], dtype=torch.float64).exp()
    assert abs(float(weight.mean()) - known) < 5 * float(weight.std()) / len(samples) ** 0.5 + 0.01 * known
    assert float(weight.std()) > 0.05 * known
    found: dict[str, float] = {}
    for one, w in zip(samples, weight.tolist(), strict=True):
        found[one.smiles] = found.get(one.smiles, 0.0) + w / float(weight.sum())
    assert found.keys() <= mass.keys()
    assert sum(abs(found.get(smiles, 0.0) - p / known) for smiles, p in mass.items()) / 2 < 0.02
    assert all(one.calls == (2 if guided_by == "facts" else 1) * len(one.classes) for one in samples)


def test_what_an_expression_tells() -> None:
    edges = Edges(of={"qed": (0.5, 0.9), "logp": (1.0, 3.0), "rings": (2.0,)})

    def facts(*texts: str) -> list[float]:
        return edges.told(parse_all(texts)).tolist()

    assert facts("qed >= 0.9", "logp < 3") == [1, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    assert facts("qed >= 0.89 and rings in {0, 1}") == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert facts("logp in [1, 2.5]") == [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert facts("lipinski", "logp > 3") == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not any(facts("qed >= 0.9 or logp < 1", "not rings >= 2", "contains c1ccccc1"))


def test_who_cannot_be_told_says_so() -> None:
    with pytest.raises(UserError, match="cannot be told of properties"):
        Generator(model=model(SMALL, (0, 0, 1))).guided(parse_all(["qed >= 0.5"]))
    with pytest.raises(UserError, match=r"qed, mw; got contains c1ccccc1"):
        Generator(model=told((0, 0, 1))).guided(parse_all(["contains c1ccccc1"]))
    with pytest.raises(UserError, match="no scores of fragments"):
        Generator(model=told((0, 0, 1))).projected(parse_all(["qed >= 0.5"]))


def test_projected_draws_meet_what_fragments_decide() -> None:
    """At least two nitrogens by projection alone: of draws with a count that fragments add to nothing else."""
    plain = Generator(model=told((0, 0, 0, 3, 3)))
    table = torch.zeros(len(SMALL), len(SCORED), dtype=torch.float64)
    table[:, SCORED.index("hbd")] = torch.tensor([float("N" in text) for text in SMALL])
    scores = Scores(table=table, intercept=torch.full((len(SCORED),), 0.5, dtype=torch.float64), card={})
    able = Generator(model=replace(plain.model, scores=scores))
    ours = able.projected(parse_all(["hbd in [2.5, 3.5]", "contains N"]))  # 2 or 3 nitrogens, for a half is added
    found, free = (
        [sum(table[list(one.classes), SCORED.index("hbd")]) for one in source.tile(0, seed=1)]
        for source in (ours, able)
    )
    near = [sum(2 <= count <= 3 for count in counts) / 256 for counts in (found, free)]
    assert near[0] > 0.6 > near[1]


def test_the_head_is_asked_where_sums_say_little() -> None:
    left = torch.tensor([0.8 if name == "qed" else 0.6 for name in SCORED])
    scores = Scores(table=torch.zeros(len(SMALL), len(SCORED)), intercept=torch.zeros(len(SCORED)), card={}, left=left)
    able = replace(told((0, 0, 1)), scores=scores, head=random_head())  # of properties with a standard deviation of 1
    for text, headed in (("qed >= 0.5", True), ("logp <= 1", False), ("logp <= 1 and qed >= 0.5", True)):
        asked = by_projection(able, parse_all([text]))
        assert isinstance(asked.properties, Expected if headed else Sums)
        assert len(asked.low) == 1 + text.count("and")
    assert isinstance(by_projection(replace(able, head=None), parse_all(["qed >= 0.5"])).properties, Sums)


@pytest.fixture(scope="module")
def molecules() -> list[str]:
    return small_model.sample_smiles(300)


@pytest.fixture(scope="module")
def census(molecules: list[str]) -> Census:
    values = [[float(PROPERTIES[name].compute(Chem.MolFromSmiles(text))) for name in SCORED] for text in molecules]
    return Census.of(np.arange(300) % 5 + 2, np.array(values))


@pytest.mark.parametrize(
    "text",
    [
        "tpsa >= 80 and logp <= 2",
        "not (rings in {2, 3} or qed >= 0.8)",
        "lipinski and mw in [250, 300]",
        "rings == 3 or not veber",
    ],
)
def test_the_census_agrees_with_the_oracle(census: Census, molecules: list[str], text: str) -> None:
    oracle = Oracle(parse_all([text]))
    assert census.meets(parse_all([text])).tolist() == [oracle.certify(smiles).holds for smiles in molecules]
    assert census.says(parse_all([text]))


def test_what_properties_do_not_decide_is_taken_for_met(census: Census) -> None:
    assert bool(census.meets(parse_all(["contains c1ccccc1", "alerts == 0 or qed >= 0.94"])).all())
    assert not census.says(parse_all(["contains c1ccccc1"]))
    both = census.meets(parse_all(["qed >= 0.8 and contains c1ccccc1"]))
    assert both.equal(census.meets(parse_all(["qed >= 0.8"])))


def test_lengths_are_those_of_what_meets(census: Census) -> None:
    prior = torch.tensor([0, 0, 0.5, 0, 0.5, 0, 0], dtype=torch.float64)
    terms = parse_all(["tpsa >= 60"])
    met = torch.bincount(census.lengths[census.meets(terms)], minlength=7).double()
    found = census.lengths_of(terms, prior)
    assert found[[0, 1, 3, 5, 6]].tolist() == [0] * 5
    assert float(found[2] / found[4]) == pytest.approx(float((met[2] + 10) / (met[4] + 10)))
    assert math.isclose(float(found.sum()), 1.0)


def test_a_census_is_kept(census: Census, tmp_path: Path) -> None:
    assert Census.load(tmp_path) is None
    census.save(tmp_path)
    again = Census.load(tmp_path)
    assert again is not None
    assert again.values.equal(census.values)
    assert again.lengths.equal(census.lengths)
    (tmp_path / "census.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="expected a census"):
        Census.load(tmp_path)


@pytest.mark.parametrize(
    ("texts", "has", "method", "why"),
    [
        (["qed >= 0.3"], "edges, scores", "exact", "plain draws are cheaper"),
        (["tpsa >= 120"], "edges, scores", "project", "not worth a pilot"),
        (["tpsa >= 120"], "edges", "guide", "can be told"),
        (["tpsa >= 120"], "", "exact", "nothing to lean on"),
        (["logp >= 50"], "scores", "project", "none of 300 training molecules"),
        (["tpsa >= 120 or qed >= 0.9"], "edges, scores", "exact", "no property"),
        (["contains c1ccccc1", "n_atoms[N] == 2"], "edges, scores", "exact", "no property"),
    ],
)
def test_the_planner_goes_by_what_the_census_says(
    census: Census, texts: list[str], has: str, method: str, why: str
) -> None:
    plain = model(SMALL, (0, 0, 1))
    scores = Scores(table=torch.zeros(len(SMALL), len(SCORED)), intercept=torch.zeros(len(SCORED)), card={})
    config = replace(plain.config, edges={"tpsa": (60.0, 100.0)} if "edges" in has else {})
    able = replace(plain, config=config, census=census, scores=scores if "scores" in has else None)
    choice = choose(able, None, parse_all(texts), num=199)
    assert choice.method == method
    assert why in choice.why
    many = choose(able, None, parse_all(texts), num=200).method
    assert many == ("steer" if method == "project" else method)
    if choice.share:  # what a tile's worth of plain draws finds is not worth leaning for
        few = int(TILE * choice.share)
        assert few >= 1
        assert choose(able, None, parse_all(texts), num=few).method == "exact"
    unknown = choose(replace(able, census=None), None, parse_all(["tpsa >= 120"]))
    assert unknown.method == "exact"


@pytest.mark.parametrize(
    ("share_left", "told", "method"), [(0.9, True, "guide"), (0.5, True, "steer"), (0.9, False, "steer")]
)
def test_what_sums_say_little_of_the_model_is_told(census: Census, share_left: float, told: bool, method: str) -> None:
    plain, count = model(SMALL, (0, 0, 1)), len(SCORED)
    left = share_left * census.values.std(0)
    scores = Scores(table=torch.zeros(len(SMALL), count), intercept=torch.zeros(count), card={}, left=left)
    config = replace(plain.config, edges={"tpsa": (60.0, 100.0)} if told else {})
    able = replace(plain, config=config, census=census, scores=scores)
    assert choose(able, None, parse_all(["tpsa >= 120"]), num=1000).method == method
