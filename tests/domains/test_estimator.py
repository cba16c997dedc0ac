"""What reads quantum properties: invariant, the same in any company, exact where the reference is the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.batches import LEAF
from scidiff.molecules.three_d.estimator import (
    ORDER,
    Estimator,
    EstimatorConfig,
    EstimatorNetwork,
    Measured,
    MeasuredBatches,
    absolute_loss,
)
from scidiff.networks.reader import MoleculeReader
from scidiff.noise import Noise
from scidiff.testing import random_rotation
from scidiff.weights import WeightsError

SMALL = EstimatorConfig(width=16, depth=2, heads=2, channels=4, pair_width=8)


def shaken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every weight random: those that begin at zero would hide the most."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


def molecules(*smiles: str) -> list[Chem.Mol]:
    mols = [Chem.AddHs(Chem.MolFromSmiles(one)) for one in smiles]
    assert all(AllChem.EmbedMolecule(mol, randomSeed=7) == 0 for mol in mols)
    return mols


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@given(n=st.integers(2, 9), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_turns_mirrors_shifts_and_orders_change_no_number(dtype, tolerance, n, seed):
    reader = MoleculeReader(classes=6, sums=2, pooled=3, width=16, depth=2, heads=2, channels=4, pair_width=8)
    reader = shaken(reader, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, 3, generator=generator, dtype=torch.float64).to(dtype)
    atom = torch.randint(1, 6, (1, n), generator=generator)
    order = torch.randperm(n, generator=generator)
    turn, mirror = random_rotation(seed=seed, dtype=dtype), torch.tensor([1.0, 1.0, -1.0], dtype=dtype)
    expected = reader(x, atom).detach()
    assert expected.shape == (1, 6)
    for other in ((x @ turn.T + 3, atom), (x * mirror, atom), (x[:, order], atom[:, order])):
        assert float((reader(*other) - expected).detach().abs().max() / expected.abs().max().clamp_min(1)) < tolerance


def test_each_number_depends_on_the_positions_and_the_elements():
    reader = shaken(MoleculeReader(classes=6, sums=2, pooled=3, width=16, depth=1, heads=2, channels=4, pair_width=8))
    x, atom = torch.randn(1, 5, 3), torch.tensor([[1, 2, 2, 3, 4]])
    for other in (reader(1.1 * x, atom), reader(x, torch.tensor([[1, 2, 2, 3, 5]]))):
        assert ((other - reader(x, atom)).abs() > 1e-6).all()


def test_two_molecules_far_apart_add_up():
    """Sums are extensive: of two copies beyond each other's reach, twice those of one; a share is of one."""
    reader = shaken(MoleculeReader(classes=6, sums=2, pooled=3, width=16, depth=0, heads=2, channels=4, pair_width=8))
    x, atom = torch.randn(1, 4, 3), torch.tensor([[1, 2, 3, 1]])
    one, two = reader(x, atom)[0], reader(torch.cat([x, x + 100], 1), torch.cat([atom, atom], 1))[0]
    assert torch.allclose(two[:2], 2 * one[:2], rtol=1e-5)
    assert torch.allclose(two[2:5], one[2:5], rtol=1e-5)


def measured(count: int = 30) -> dict[int, Measured]:
    """Molecules whose values are sums over their elements, and no dipole."""
    found, generator = {}, np.random.default_rng(0)
    worth = generator.normal(size=(6, 6))
    for n in (3, 5, 6):
        atom = generator.integers(1, 6, (count, n))
        value = worth[atom].sum(1) + np.arange(6)
        value[:, -1] = 0
        found[n] = Measured(atom=atom, position=generator.normal(size=(count, n, 3)).astype(np.float32), value=value)
    return found


def test_the_reference_is_least_squares_and_the_network_starts_from_it():
    sizes, network = measured(), EstimatorNetwork(SMALL)
    network.fit_reference(sizes)
    assert float(network.scale.abs().max()) < 1e-6  # nothing is left
    estimator = Estimator(config=SMALL, network=network)
    for part in sizes.values():
        assert np.allclose(estimator.read(part.position, part.atom), part.value, atol=1e-4)


def test_an_estimate_does_not_depend_on_its_company():
    network = shaken(EstimatorNetwork(SMALL))
    network.scale.copy_(torch.arange(1.0, 7.0))
    estimator = Estimator(config=SMALL, network=network)
    mols = molecules("CCO", "CCN", "C1CC1O", "COC", "O")
    together = estimator.values(mols)
    assert together.shape == (5, len(QUANTUM))
    for k, mol in enumerate(mols):
        assert np.allclose(estimator.values([mol])[0], together[k], rtol=1e-5, atol=1e-5)
    code = np.array([[2, 2, 4, 1, 1, 1, 1, 1, 1]])
    direct = estimator.read(mols[0].GetConformer().GetPositions()[None], code)[0]
    assert together[0] == pytest.approx([direct[ORDER.index(name)] for name in QUANTUM], rel=1e-4)


def test_what_is_kept_is_read_again_and_other_weights_are_refused(tmp_path):
    network = shaken(EstimatorNetwork(SMALL))
    network.reference.copy_(torch.randn(6, 6) * 70.123456)
    estimator = Estimator(config=SMALL, network=network, card={"held out": {"gap": 0.2}})
    estimator.save(tmp_path / "model")
    again = Estimator.load(tmp_path / "model")
    assert again.network.reference.equal(network.reference)
    assert again.card == estimator.card
    mols = molecules("CCO", "c1ccoc1")
    assert np.allclose(again.values(mols), estimator.values(mols), rtol=2e-2, atol=0.1)
    replace(estimator, config=replace(SMALL, width=32)).save(tmp_path / "other")
    with pytest.raises(WeightsError, match="expected weights of an estimator"):
        Estimator.load(tmp_path / "other")


def test_batches_see_every_molecule_once_with_its_values():
    sizes = measured(7)
    batches = MeasuredBatches(sizes, torch.ones(6), atoms=12, seed=3)
    seen = []
    for position in range(batches.batches_per_epoch):
        batch = batches.at(position)
        for x, atom, value in zip(batch.x_0[LEAF], batch.condition["atom"], batch.condition["value"], strict=True):
            part = sizes[len(x)]
            (place,) = np.flatnonzero((part.position == x.numpy()).all((1, 2)))
            assert (part.atom[place] == atom.numpy()).all()
            assert np.allclose(part.value[place], value.numpy(), atol=1e-5)
            seen.append((len(x), int(place)))
    assert sorted(seen) == [(n, k) for n in sizes for k in range(7)]
    assert batches.samples_per_batch == pytest.approx(21 / batches.batches_per_epoch)


def test_the_loss_is_the_mean_absolute_error_in_units_of_the_scale():
    network = shaken(EstimatorNetwork(SMALL))
    batch = MeasuredBatches(measured(), torch.arange(1.0, 7.0), atoms=12).at(0)
    noise = Noise(seed=0, index=batch.index)
    found = absolute_loss(network, {}, batch.x_0, batch.layout, noise, condition=batch.condition)
    away = (network(batch.x_0, condition=batch.condition) - batch.condition["value"]) / torch.arange(1.0, 7.0)
    assert torch.allclose(found, away.abs().sum(1) / 6)
