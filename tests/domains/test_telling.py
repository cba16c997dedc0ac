"""Learning to be told of properties: what is measured and told, what is the same before, and that it is learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_model
import torch
from rdkit import Chem

from scidiff.molecules.edges import Edges
from scidiff.molecules.fit import Encoded, beginning, bound, fit, recipe
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.own_data import _padded
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.scores import SCORED
from scidiff.molecules.telling import Told, measured
from scidiff.noise import Noise
from scidiff.objective import loss


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> FragmentModel:
    model = FragmentModel.load(small_model.make(tmp_path_factory.mktemp("told")))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # zeros that training has long filled would hide what is told
        for parameter in model.denoiser.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def data(start: FragmentModel) -> Encoded:
    """Molecules that the small vocabulary writes, with their properties."""
    rows = []
    for smiles in small_model.sample_smiles(400):
        try:
            rows.append(start.vocabulary.encode(Chem.MolFromSmiles(smiles)))
        except ValueError:
            continue
    encoded = _padded(rows)
    return replace(encoded, values=measured(start.vocabulary, encoded.classes))


def test_what_is_measured_are_the_properties_of_the_molecule(
    start: FragmentModel, data: Encoded, tmp_path: Path
) -> None:
    few = data.classes[:30]
    kept = measured(start.vocabulary, few, tmp_path)
    for row, found in zip(few, kept, strict=True):
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(start.vocabulary.decode(row[row >= 0].tolist())))
        assert found == pytest.approx([float(PROPERTIES[name].compute(mol)) for name in SCORED])
    (file,) = tmp_path.iterdir()
    np.save(file.open("wb"), kept + 1)  # what lies there is read, and only for the same molecules
    assert (measured(start.vocabulary, few, tmp_path) == kept + 1).all()
    assert (measured(start.vocabulary, few[:29], tmp_path) == kept[:29]).all()


def test_before_it_learns_a_model_is_the_one_it_starts_from(start: FragmentModel, data: Encoded) -> None:
    model = beginning(start.vocabulary, data, start)
    assert list(model.config.edges) == list(SCORED)
    assert bound(model, data, model.denoiser, told=model.edges.some) == bound(start, data, start.denoiser)
    again = beginning(start.vocabulary, replace(data, values=data.values + 1), model)
    assert again.config.edges == model.config.edges


def test_the_loss_is_that_given_facts_of_the_visit(start: FragmentModel, data: Encoded) -> None:
    model = beginning(start.vocabulary, data, start)
    torch.nn.init.normal_(model.denoiser.network.told[-1].weight)
    batch = data.batches(tokens=200).at(1)
    noise = Noise(seed=5, index=batch.index)
    parts = (model.denoiser, model.processes, batch.x_0, batch.layout, noise)
    facts = Edges(of=model.config.edges).some(batch.condition, noise)
    got = Told(facts=model.edges.some)(*parts, condition=batch.condition)
    assert got.equal(loss(*parts, condition=facts))
    assert not got.equal(loss(*parts))
    sums = torch.from_numpy(data.values)[:, SCORED.index("heavy_atoms")]
    atoms = [start.vocabulary.decode(row.tolist()).GetNumHeavyAtoms() for row in batch.x_0[LEAF]]
    assert atoms == batch.condition[:, SCORED.index("heavy_atoms")].tolist()
    assert set(atoms) <= set(sums.tolist())


def test_being_told_is_learned(start: FragmentModel, data: Encoded, tmp_path: Path) -> None:
    """Of four molecules, log 4 nats: their properties tell them apart."""
    few = np.tile(np.flatnonzero(data.lengths == 7)[:4], 80)
    data = Encoded(classes=data.classes[few], refused={}, values=data.values[few])
    model = beginning(start.vocabulary, data, start)
    config = recipe(minutes=None, seed=0, compile=False, max_steps=250, ema_decay=0.9)
    fitted = fit(model, data, data, config, out=tmp_path / "run", tokens=448)
    untold, told = (fitted.card[f"held_out_bound_{name}nats"] for name in ("", "told_"))
    assert told < untold - 0.1
    fitted.save(tmp_path / "model", dtype=torch.float32)
    again = FragmentModel.load(tmp_path / "model")
    assert bound(again, data, again.denoiser, told=again.edges.some) == pytest.approx(told, abs=1e-3)
