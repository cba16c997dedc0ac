"""Metrics of molecules against slow twins written from their definitions, and against closed forms."""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Chem.Scaffolds import MurckoScaffold

from scidiff.molecules import metrics
from scidiff.molecules.fcd import Moments, frechet_distance
from scidiff.molecules.filters import passes
from scidiff.molecules.histograms import BINS, histogram, training_histograms
from scidiff.molecules.hopeless import Watch, upper_bound
from scidiff.molecules.properties import NUMERIC, PROPERTIES, compute

SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"


@pytest.fixture(scope="module")
def smiles() -> list[str]:
    with gzip.open(SAMPLE, "rt") as stream:
        return [row["smiles"] for row in csv.DictReader(stream)][:120]


@pytest.fixture(scope="module")
def molecules(smiles: list[str]) -> list[Chem.Mol]:
    return [Chem.MolFromSmiles(text) for text in smiles]


def bits_of(mol: Chem.Mol) -> frozenset[int]:
    return frozenset(AllChem.GetMorganFingerprintAsBitVect(mol, 2, nBits=1024).GetOnBits())


def similarity(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def test_tanimoto_is_the_ratio_of_shared_bits(molecules: list[Chem.Mol]) -> None:
    sets = [bits_of(mol) for mol in molecules[:40]]
    slow = [[similarity(a, b) for b in sets[:15]] for a in sets]
    packed = metrics.fingerprints(molecules[:40])
    np.testing.assert_allclose(metrics.tanimoto(packed, packed[:15]), slow, atol=1e-6)


def test_two_empty_fingerprints_are_alike() -> None:
    empty = np.zeros((1, 128), dtype=np.uint8)
    assert metrics.tanimoto(empty, empty) == 1.0


@pytest.mark.parametrize("p", [1, 2])
def test_internal_diversity_by_its_double_sum(molecules: list[Chem.Mol], p: int, monkeypatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK", 17)
    sets = [bits_of(mol) for mol in molecules[:60]]
    slow = 1 - (sum(similarity(a, b) ** p for a in sets for b in sets) / len(sets) ** 2) ** (1 / p)
    assert metrics.internal_diversity(metrics.fingerprints(molecules[:60]), p) == pytest.approx(slow, abs=1e-6)


def test_nearest_similarity_by_its_loop(molecules: list[Chem.Mol], monkeypatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    ours, theirs = molecules[:30], molecules[30:]
    slow = sum(max(similarity(bits_of(a), bits_of(b)) for b in theirs) for a in ours) / len(ours)
    fast = metrics.nearest_similarity(metrics.fingerprints(ours), metrics.fingerprints(theirs))
    assert fast == pytest.approx(slow, abs=1e-6)
    # It is not symmetric: the mean runs over the generated ones.
    assert fast != metrics.nearest_similarity(metrics.fingerprints(theirs), metrics.fingerprints(ours))


def test_validity_uniqueness_and_novelty_on_counted_sets() -> None:
    assert metrics.validity([None, Chem.MolFromSmiles("C"), Chem.MolFromSmiles("CC"), None]) == 0.5
    canonical = ["C", "C", "CC", "CCC", "CCC", "CCCC"]
    assert metrics.uniqueness(canonical, 2) == 0.5
    assert metrics.uniqueness(canonical, 3) == pytest.approx(2 / 3)
    assert metrics.uniqueness(canonical) == pytest.approx(4 / 6)
    # Of the four distinct ones, three are new, however often each was drawn.
    assert metrics.novelty(canonical, {"C", "O"}) == 0.75
    assert math.isnan(metrics.validity([]))
    assert math.isnan(metrics.novelty([], {"C"}))


def test_cosine_by_its_vectors(molecules: list[Chem.Mol]) -> None:
    a, b = metrics.count_fragments(molecules[:60]), metrics.count_fragments(molecules[60:])
    keys = sorted(set(a) | set(b))
    x, y = np.array([a[k] for k in keys], float), np.array([b[k] for k in keys], float)
    assert metrics.cosine(a, b) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12)
    assert metrics.cosine({"x": 3}, {"x": 7}) == pytest.approx(1.0)
    assert metrics.cosine({"x": 3}, {"y": 7}) == 0.0
    assert metrics.cosine({"x": 1, "y": 1}, {"x": 1}) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(metrics.cosine({}, {"x": 1}))


def test_fragments_are_the_brics_pieces_of_a_known_molecule() -> None:
    ester = Chem.MolFromSmiles("CC(=O)Oc1ccccc1")
    assert sorted(metrics.fragments(ester)) == sorted(["[1*]C(C)=O", "[3*]O[3*]", "[16*]c1ccccc1"])
    assert metrics.count_fragments([ester, ester])["[3*]O[3*]"] == 2
    assert metrics.fragments(Chem.MolFromSmiles("CC")) == ["CC"]


def test_scaffolds_have_at_least_two_rings(molecules: list[Chem.Mol]) -> None:
    assert metrics.scaffold(Chem.MolFromSmiles("CCc1ccccc1")) == ""
    assert metrics.scaffold(Chem.MolFromSmiles("CCCC")) == ""
    assert metrics.scaffold(Chem.MolFromSmiles("CCc1ccc(Cc2ccccn2)cc1")) == "c1ccc(Cc2ccccn2)cc1"
    slow: Counter[str] = Counter()
    for mol in molecules:
        text = Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol))
        core = Chem.MolFromSmiles(text)  # named: RDKit's ring information does not keep its molecule alive
        if text and core.GetRingInfo().NumRings() >= 2:
            slow[text] += 1
    assert metrics.count_scaffolds(molecules) == slow


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CC(=O)[O-]", "charge"),
        ("C[Si](C)(C)C", "element"),
        ("CCI", "element"),
        ("C1CCCCCCC1", "ring of eight"),
        ("CC=O", "MCF: aldehyde"),
        ("CCCl", "MCF: alkyl halide"),
        ("C1CO1", "MCF: epoxide"),
        ("CSSC", "MCF: disulfide"),
        ("O=C1C=CC(=O)C=C1", "PAINS: quinone"),
        ("O=C1NC(=S)SC1=Cc1ccccc1", "PAINS: rhodanine"),
    ],
)
def test_filters_refuse(smiles: str, reason: str) -> None:
    assert not passes(Chem.MolFromSmiles(smiles)), reason


def test_filters_pass_what_moses_holds(molecules: list[Chem.Mol]) -> None:
    # MOSES was made by these filters: all of it passes.
    assert all(passes(mol) for mol in molecules)
    assert passes(Chem.MolFromSmiles("C1CCCCCC1"))  # a ring of seven


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = rng.uniform(0.1, 2, 6), rng.uniform(0.1, 2, 6)
    m, n = rng.normal(size=6), rng.normal(size=6)
    # Covariances that commute: d^2 = |m - n|^2 + sum (sqrt a - sqrt b)^2.
    first = Moments(mean=m, covariance=rotation @ np.diag(a) @ rotation.T)
    second = Moments(mean=n, covariance=rotation @ np.diag(b) @ rotation.T)
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute_and_lack_rank() -> None:
    # Two rank-one covariances u u^T, v v^T: Tr root(...) = |u.v|, so d^2 = |u|^2 + |v|^2 - 2 |u.v|.
    u, v = np.array([1.0, 2.0, 0.0]), np.array([0.5, -1.0, 3.0])
    zero = np.zeros(3)
    first, second = Moments(mean=zero, covariance=np.outer(u, u)), Moments(mean=zero, covariance=np.outer(v, v))
    expected = u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("accepted", "drawn", "alpha"), [(0, 100, 0.01), (3, 50, 0.005), (40, 50, 0.1)])
def test_the_upper_bound_solves_the_binomial_equation(accepted: int, drawn: int, alpha: float) -> None:
    p = upper_bound(accepted, drawn, alpha)
    tail = sum(math.comb(drawn, k) * p**k * (1 - p) ** (drawn - k) for k in range(accepted + 1))
    assert tail == pytest.approx(alpha, rel=1e-9)


def test_the_bound_of_none_accepted_in_closed_form() -> None:
    assert upper_bound(0, 200, 0.01) == pytest.approx(1 - 0.01 ** (1 / 200), rel=1e-12)
    assert upper_bound(7, 7, 0.01) == 1.0


def test_a_request_whose_rate_still_suffices_is_hardly_ever_given_up() -> None:
    # A budget that just suffices on average: often short of it late, but giving up while rate x budget left covers
    # what is still wanted is an error, and at most 1 % of the runs may make it.
    rng = np.random.default_rng(1)
    rate, wanted, budget = 0.05, 500, 10_000
    wrong = given_up = 0
    for _ in range(600):
        accepted = np.cumsum(rng.random(budget) < rate)
        watch = Watch(wanted=wanted, max_draws=budget)
        for drawn in range(256, budget + 1, 256):
            have = int(accepted[drawn - 1])
            if watch.verdict(have, drawn):
                given_up += 1
                wrong += wanted - have <= rate * (budget - drawn)
                break
    assert given_up > 0
    assert wrong <= 13  # 6 expected at most; more than 13 then has probability 0.4 %


def test_a_hopeless_request_is_given_up_at_the_first_look() -> None:
    watch = Watch(wanted=200, max_draws=5000)
    assert watch.verdict(0, 255) == ""
    text = watch.verdict(0, 256)
    rate = 1 - 0.005 ** (1 / 256)
    assert f"{math.ceil(200 / rate):,}" in text
    assert "4,744" in text


def test_known_values_of_the_properties_of_aspirin() -> None:
    values = compute(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"), PROPERTIES)
    assert values["formula"] == "C9H8O4"
    assert values["mw"] == pytest.approx(180.159, abs=0.002)
    assert values["tpsa"] == pytest.approx(63.60, abs=0.01)  # Ertl's published value
    assert values["logp"] == pytest.approx(1.3101, abs=1e-4)
    assert values["qed"] == pytest.approx(0.55, abs=0.01)  # Bickerton's published value
    assert (values["hbd"], values["hba"], values["rings"], values["heavy_atoms"], values["charge"]) == (1, 3, 1, 13, 0)
    assert 1.0 < values["sa"] < 2.0


def test_histograms_count_every_value_once_in_the_bin_that_holds_it() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-4, 8, 500).tolist()
    first, width, bins = BINS["logp"]
    slow, _ = np.histogram(values, bins=first + width * np.arange(bins + 1))
    assert histogram("logp", values).counts == tuple(slow)
    assert histogram("logp", [-99.0, 99.0]).counts[0] == histogram("logp", [-99.0, 99.0]).counts[-1] == 1
    assert histogram("rings", [0, 1, 1]).counts[:3] == (1, 2, 0)


def test_the_stored_histograms_are_those_of_the_training_set() -> None:
    with gzip.open(SAMPLE, "rt") as stream:
        train = [row["smiles"] for row in csv.DictReader(stream) if row["split"] == "train"][::4]
    stored = training_histograms()
    assert set(stored) == set(NUMERIC)
    molecules = [Chem.MolFromSmiles(text) for text in train]
    for name in NUMERIC:
        assert stored[name].total == 50_000
        ours = np.array(histogram(name, [PROPERTIES[name].compute(mol) for mol in molecules]).counts) / len(train)
        theirs = np.array(stored[name].counts) / stored[name].total
        # Kolmogorov-Smirnov distance of 625 draws: above 0.08 with probability 2 exp(-2 625 0.08^2) = 0.07 %.
        assert np.abs(np.cumsum(ours - theirs)).max() < 0.08, name
