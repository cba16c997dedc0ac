"""Tilted draws: weights against an enumerated space, the pilot's step against a closed form, and when it gives up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from test_enforcement import SMALL, Exact, model

from scidiff.molecules import tilting
from scidiff.molecules.effort import Effort
from scidiff.molecules.generator import Drawn, Generator
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.scores import SCORED, Scores, fingerprint
from scidiff.molecules.tilting import MOST, Round, newton, pays_from, scores
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.weights import WeightsError

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


def test_scores_of_other_tokens_are_refused(tmp_path: Path) -> None:
    """Of as many tokens, in another order, too."""
    vocabulary = Vocabulary(tokens=SMALL)
    assert Scores.load(tmp_path, vocabulary) is None
    Scores(
        table=torch.zeros(len(SMALL), len(SCORED)),
        intercept=torch.zeros(len(SCORED)),
        card={"vocabulary_sha256": fingerprint(vocabulary)},
    ).save(tmp_path)
    assert Scores.load(tmp_path, vocabulary) is not None
    for others in (SMALL[:-1], (*SMALL[:-2], SMALL[-1], SMALL[-2])):
        with pytest.raises(WeightsError, match="of the tokens of this model"):
            Scores.load(tmp_path, Vocabulary(tokens=others))
    (tmp_path / "scores.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="expected scores of fragments"):
        Scores.load(tmp_path, vocabulary)
    assert scores(Generator.load()) is not None


def _classes(vocabulary: Vocabulary, smiles: str) -> list[int] | None:
    try:
        return vocabulary.encode(Chem.MolFromSmiles(smiles))
    except ValueError:
        return None


def test_what_fragments_add_is_found_where_properties_are_sums(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"
    smiles = pd.read_csv(sample).smiles[:600].tolist()
    vocabulary = Vocabulary.build(smiles, 300, workers=1)
    encoded = [(row, text) for text in smiles if (row := _classes(vocabulary, text)) is not None]
    values = [[float(PROPERTIES[name].compute(Chem.MolFromSmiles(text))) for name in SCORED] for _, text in encoded]
    classes = np.full((len(encoded), 32), -1)
    for k, (row, _) in enumerate(encoded):
        classes[k, : len(row)] = row
    found = Scores.fit(vocabulary, classes, np.array(values), source="a sample")
    near = torch.from_numpy(np.array(values))[:, SCORED.index("mw")]
    sums = torch.stack([found.table[row].sum(0) for row, _ in encoded])[:, SCORED.index("mw")]
    assert float((sums + found.intercept[SCORED.index("mw")] - near).abs().median()) < 0.2
    carbon = vocabulary.tokens.index("*C[1*]")
    assert float(found.table[carbon, SCORED.index("heavy_atoms")]) == pytest.approx(1, abs=0.02)
    assert float(found.table[carbon, SCORED.index("mw")]) == pytest.approx(14.027, abs=0.3)
    (good,) = (value for name, value in found.card.items() if name.startswith("r_squared"))
    assert good["heavy_atoms"] > 0.99
    assert good["logp"] > 0.5
    others = np.array(values)[-round(len(values) / 10) :]
    assert found.left is not None
    unexplained = found.left.numpy()[1] ** 2 / others.var(0)[1]
    assert unexplained == pytest.approx(1 - good["logp"], abs=0.05)
    found.save(tmp_path)
    again = Scores.load(tmp_path, vocabulary)
    assert again is not None
    assert again.left is not None
    assert torch.allclose(again.left, found.left, rtol=1e-6)


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
    half = 1.96 * float(values.std()) / 2
    assert effort.interval == (0.0, pytest.approx(0.5 + half))
    assert effort.as_dict(2)["network_calls_per_certified"] == 6


def test_no_draw_of_many_that_holds_bounds_their_share() -> None:
    """With n draws of which none holds, a share p has (1 - p)^n = 0.025 at the bound."""
    effort = Effort(scale=0.5)
    drawn = Drawn(index=0, smiles="C", mol=Chem.MolFromSmiles("C"), calls=3)
    for _ in range(100):
        effort.add(drawn, holds=False)
    assert effort.interval is not None
    low, high = effort.interval
    assert low == 0
    assert (1 - high / 0.5) ** 100 == pytest.approx(0.025)
    assert effort.text() == "feasible share: none of 100 draws held, so at most 0.018, log Z at most -4.01"
    effort.add(replace(drawn, log_weight=1.0), holds=False)
    assert effort.interval is None
    assert effort.as_dict(0)["feasible_share_interval"] is None
