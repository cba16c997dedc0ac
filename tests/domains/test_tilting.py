"""Tilted draws: weights against an enumerated space, the pilot's step against a closed form, and when it gives up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rdkit import Chem
from test_enforcement import SMALL, Exact, model

from scidiff.molecules import tilting
from scidiff.molecules.effort import Effort
from scidiff.molecules.generator import Drawn, Generator
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.tilting import MOST, Round, newton, pays_from, scores
from scidiff.molecules.vocabulary import Vocabulary

TILT = torch.linspace(1.0, -1.2, len(SMALL)).double()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "n_atoms[N] == 1", "extends(CN)"])
def test_weighted_tilted_samples_are_the_model(text: str) -> None:
    """Total variation, and the mean weight, against enumeration."""
    plain = Generator(model=model(SMALL, (0, 0, 3, 4)))
    exact, mass = Exact(plain), {}
    for length, share in enumerate(plain.model.length_probabilities.tolist()):
        for sequence in itertools.product(range(len(SMALL)), repeat=length) if share else ():
            if bool(plain.automaton.accepts(torch.tensor([sequence]))):
                mol = plain.model.vocabulary.decode(sequence)
                smiles = Chem.MolToSmiles(mol)
                if not text or Oracle(parse_all([text])).certify(smiles).holds:
                    mass[smiles] = mass.get(smiles, 0.0) + share * exact.chance(sequence)
    known = sum(mass.values())
    tilted = replace(plain.given(parse_all([text])) if text else plain, tilt=TILT)
    samples = [one for number in range(80) for one in tilted.tile(number, seed=3)]
    weight = tilted.feasible * torch.tensor([one.log_weight for one in samples], dtype=torch.float64).exp()
    assert abs(float(weight.mean()) - known) < 5 * float(weight.std()) / len(samples) ** 0.5 + 0.01 * known
    found: dict[str, float] = {}
    for one, w in zip(samples, weight.tolist(), strict=True):
        found[one.smiles] = found.get(one.smiles, 0.0) + w / float(weight.sum())
    assert found.keys() <= mass.keys()
    assert sum(abs(found.get(smiles, 0.0) - p / known) for smiles, p in mass.items()) / 2 < 0.02


def test_the_step_of_the_pilot_is_that_of_a_gaussian() -> None:
    """Scores N(m, C) that hold above a plane: the nearest tilt has C lambda = the shift of the truncated mean."""
    source = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
    found = torch.randn(200_000, 2, generator=source, dtype=torch.float64) @ root.T + 3.0
    miss = (4.28155 - found[:, 0]).clamp_min(0)  # the upper tenth of the first score
    step = newton(Round(scores=found, log_weight=torch.zeros(len(found), dtype=torch.float64), miss=miss))
    assert step[0] == pytest.approx(1.755, rel=0.03)  # phi(z) / 0.1, z = 1.28155
    assert abs(float(step[1])) < 0.05


def test_a_step_corrects_for_the_weights() -> None:
    """Draws of N(1, 1) with the weights of N(0, 1), the heaviest 5 % clipped, against quadrature."""
    source = torch.Generator().manual_seed(0)
    found = torch.randn(200_000, 1, generator=source, dtype=torch.float64) + 1
    last = Round(scores=found, log_weight=0.5 - found[:, 0], miss=torch.zeros(len(found), dtype=torch.float64))
    x = torch.linspace(-6, 8, 20_001, dtype=torch.float64)
    density = (-((x - 1) ** 2) / 2 - x.clamp_min(1 - 1.644854)).exp()
    mean = float((x * density).sum() / density.sum())
    assert float(newton(last)) == pytest.approx((mean - 1) / 1.01, abs=0.015)


def test_noise_asks_for_no_step() -> None:
    source = torch.Generator().manual_seed(1)
    found = torch.randn(256, 10, generator=source, dtype=torch.float64)
    miss = torch.rand(256, generator=source, dtype=torch.float64)
    shipped = newton(Round(scores=found, log_weight=torch.zeros(256, dtype=torch.float64), miss=miss))
    assert float(shipped.norm()) < 0.4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Generator:
    """A generator whose scores are the nitrogens, the carbons and the fluorines of its tokens."""
    table = torch.tensor([[text.count(x) for x in "NCF"] for text in SMALL], dtype=torch.float64)
    monkeypatch.setattr(tilting, "scores", lambda generator: table)
    return Generator(model=model(SMALL, (0, 0, 1, 1, 2, 3, 3)))


def test_the_pilot_finds_a_tilt_and_reports_the_base_rate(small: Generator) -> None:
    terms = parse_all(["count([NX3]) >= 4"])
    plain = [one for number in range(8) for one in small.tile(number, seed=5)]
    rate = sum(_nitrogens(one) >= 4 for one in plain) / len(plain)
    found = small.steered(terms, seed=0, steps=None, most=MOST)
    assert found.record["used"]
    assert found.record["rate"] > 1.6 * found.record["base_rate"]
    assert found.record["base_rate"] == pytest.approx(rate, rel=0.5)
    ours = [one for number in range(2) for one in found.source.tile(number, seed=0)]
    assert sum(_nitrogens(one) >= 4 for one in ours) / len(ours) > 2 * rate
    assert found.oracle_calls >= 2 * 256
    assert found.calls > found.oracle_calls


def _nitrogens(one: Drawn) -> int:
    return sum(atom.GetSymbol() == "N" for atom in one.mol.GetAtoms())


def test_what_is_hopeless_is_not_steered(small: Generator) -> None:
    hopeless = small.steered(parse_all(["mw >= 5000"]), seed=0, steps=None, most=MOST)
    assert not hopeless.record["used"]
    assert "none that holds" in hopeless.record["why"]
    assert hopeless.source is small


@pytest.mark.parametrize("most", [0, 255, 400])
def test_the_pilot_stops_where_its_draws_end(small: Generator, most: int) -> None:
    told: list[int] = []
    terms = parse_all(["count([NX3]) >= 4"])
    found = small.steered(terms, seed=0, steps=None, most=most, progress=lambda calls, draws: told.append(draws))
    assert found.oracle_calls == 256 * (most // 256)
    assert told == [256 * (k + 1) for k in range(most // 256)]
    assert found.source is small
    assert f"may spend {most} draws" in found.record["why"]


def test_a_vocabulary_without_scores_is_not_steered() -> None:
    plain = Generator(model=model(SMALL, (0, 0, 1)))
    found = plain.steered(parse_all(["qed >= 0.9"]), seed=0, steps=None, most=MOST)
    assert found.source is plain
    assert "no scores" in found.record["why"]


def test_scores_belong_to_tokens_not_to_their_number() -> None:
    shipped = Generator.load()
    assert scores(shipped) is not None
    tokens = shipped.model.vocabulary.tokens
    for others in (tokens[:-1], (*tokens[:-2], tokens[-1], tokens[-2])):
        other = SimpleNamespace(model=SimpleNamespace(vocabulary=Vocabulary(tokens=others)))
        assert scores(other) is None  # type: ignore[arg-type]


def test_from_how_many_molecules_a_pilot_pays() -> None:
    """At shares of 0.01 and 0.05, 1,000 draws are repaid after n: 100 n = 1000 + 20 n."""
    assert pays_from(1000, 0.01, 0.05) == 13


def test_the_share_of_feasible_molecules_is_the_mean_weight() -> None:
    effort = Effort(scale=0.5)
    for log_weight, holds in ((0.0, True), (math.log(3), True), (5.0, False), (0.0, False)):
        drawn = Drawn(index=0, smiles="C", mol=Chem.MolFromSmiles("C"), calls=3, log_weight=log_weight)
        effort.add(drawn, holds=holds)
    assert effort.share == pytest.approx((0.5 + 1.5) / 4)
    assert effort.effective == pytest.approx(2.0**2 / (0.25 + 2.25))
    values = torch.tensor([0.5, 1.5, 0.0, 0.0], dtype=torch.float64)
    assert effort.half_width == pytest.approx(1.96 * float(values.std()) / 2)
    assert effort.as_dict(2)["network_calls_per_certified"] == 6
