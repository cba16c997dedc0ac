"""The density of geometries, where it is known: a model that has learned nothing is the Gaussian of its springs."""

import math

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.three_d.batches import harmonic_of
from scidiff.molecules.three_d.density import log_density
from scidiff.molecules.three_d.model import ConformerConfig, ConformerModel
from scidiff.molecules.three_d.records import Record, record
from scidiff.solvers.adaptive import Control
from scidiff.testing import random_rotation

CONFIG = ConformerConfig(width=16, depth=1, heads=2, channels=2, pair_width=4)


def posed() -> tuple[Record, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles("O"))
    AllChem.EmbedMultipleConfs(mol, 2, randomSeed=7)
    found = record(mol, CONFIG, 1, "")
    assert isinstance(found, Record)
    return found, np.stack([one.GetPositions() for one in mol.GetConformers()])


def test_springs_alone_have_their_gaussian():
    one, x = posed()
    x = x + np.random.default_rng(0).normal(size=x.shape) * 0.3
    found = log_density(ConformerModel.create(CONFIG), one, x, blur=1e-3).numpy()
    root = harmonic_of(one.graph)[0]
    values, vectors = np.linalg.eigh(root @ root)
    modes = np.einsum("ij,kic->kjc", vectors[:, 1:], x)
    variance = values[1:][:, None]
    known = -0.5 * (modes**2 / variance + np.log(2 * math.pi * variance)).sum((1, 2))
    assert found == pytest.approx(known, abs=0.05)


@pytest.mark.slow
def test_shifts_and_rotations_change_nothing():
    one, x = posed()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConformerModel.create(CONFIG)
        torch.nn.init.normal_(model.denoiser.network.head.weight)
    turned = x @ random_rotation(seed=3).numpy().T + 5
    rough = {"blur": 0.1, "control": Control(relative=1e-3, absolute=1e-3, attempts=100, look_every=2)}
    found = log_density(model, one, x, **rough)
    assert log_density(model, one, turned, **rough).numpy() == pytest.approx(found.numpy(), abs=0.02)
    assert abs(float(found[0] - log_density(ConformerModel.create(CONFIG), one, x, **rough)[0])) > 0.1


def test_other_shapes_are_refused():
    one, x = posed()
    with pytest.raises(ValueError, match=r"expected positions \[K, 3, 3\]"):
        log_density(ConformerModel.create(CONFIG), one, x[0])
