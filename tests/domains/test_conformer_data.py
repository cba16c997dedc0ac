"""What the network of coordinates is told of a molecule, against geometries and closed forms."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.three_d.batches import LEAF, ConformerBatches, condition_of, encode
from scidiff.molecules.three_d.graphs import PAIR_CLASSES, bonded, graph_of
from scidiff.molecules.three_d.harmonic import HEAVY, HYDROGEN, harmonic
from scidiff.molecules.three_d.matching import connected, match

MOLECULES = ("C[C@H](O)CN", "C[C@@H](O)CN", "C/C=C/C#N", "C/C=C\\C#N", "O[C@H]1CC[C@@H]1F", "c1ccoc1", "CC(=O)[O-]")


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def row(smiles: str) -> tuple[str, np.ndarray, np.ndarray]:
    """As in QM9: heavy atoms in the order of a SMILES without stereochemistry, hydrogens in any order."""
    mol = embedded(smiles)
    order = np.concatenate(
        [np.arange(mol.GetNumHeavyAtoms()), np.arange(mol.GetNumHeavyAtoms(), mol.GetNumAtoms())[::-1]]
    )
    number = np.array([mol.GetAtomWithIdx(int(i)).GetAtomicNum() for i in order], dtype=np.uint8)
    flat = Chem.RemoveHs(mol)
    Chem.RemoveStereochemistry(flat)
    return Chem.MolToSmiles(flat, canonical=False), number, mol.GetConformer().GetPositions()[order]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_a_geometry_gives_back_its_molecule(smiles):
    mol, reason = match(*row(smiles))
    assert reason == ""
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_the_parity_is_the_sign_of_the_volume(smiles):
    mol = embedded(smiles)
    found, x = graph_of(mol), mol.GetConformer().GetPositions()
    centres = np.flatnonzero(found.parity)
    assert len(centres) == sum("@" in part for part in smiles.replace("@@", "@").split("["))
    for i in centres:
        beams = x[found.centre[i]] - x[i]
        assert found.parity[i] * np.linalg.det(beams) > 0


@pytest.mark.parametrize(("smiles", "nearer"), [("C/C=C/C#N", 2), ("C/C=C\\C#N", 1)])
def test_sides_of_a_double_bond(smiles, nearer):
    mol = embedded(smiles)
    side, x = graph_of(mol).pair % PAIR_CLASSES[-1], mol.GetConformer().GetPositions()
    assert side[0, 3] == nearer
    apart = np.linalg.norm(x[0] - x[3])
    assert (apart > 3.4) == (nearer == 2)


def test_noise_of_the_springs_has_bonds_of_the_right_length():
    mol = embedded("CC(F)C#N")
    pair = graph_of(mol).pair
    light = np.array([atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()])
    root, inverse = harmonic(bonded(pair), light)
    n = len(light)
    assert root @ inverse == pytest.approx(np.eye(n) - 1 / n, abs=1e-9)
    covariance = root @ root
    for i, j in np.argwhere(bonded(pair)):  # E |x_i - x_j|^2 on a tree
        expected = HYDROGEN if light[i] or light[j] else HEAVY
        spread = 3 * (covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
        assert spread == pytest.approx(expected**2)


def test_a_broken_bond_and_a_clash_are_seen():
    bonds = Chem.GetAdjacencyMatrix(embedded("CCO")).astype(bool)
    mol, _ = match(*row("CCO"))
    x, number = mol.GetConformer().GetPositions(), np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    assert connected(number, x, bonds)
    far, near = x.copy(), x.copy()
    far[2] += 3 * (x[2] - x[1])
    near[3] = x[4] + 0.3
    assert not connected(number, far, bonds)
    assert not connected(number, near, bonds)


def test_batches_are_a_function_of_their_position():
    data = encode(map(row, MOLECULES * 3))
    assert len(data) == 3 * len(MOLECULES)
    one, two = (ConformerBatches(data, atoms=40, seed=3) for _ in range(2))
    visits = torch.cat([one.at(k).index for k in range(2 * one.batches_per_epoch)])
    assert len(visits.unique()) == 2 * len(data)
    late = one.batches_per_epoch + 1
    a, b = one.at(late), two.at(late)
    assert torch.equal(a.x_0[LEAF], b.x_0[LEAF])
    assert torch.equal(a.condition["parity"], b.condition["parity"])
    x = a.condition["root"] @ a.x_0[LEAF].unflatten(0, (a.layout.batch, -1))
    bonds = bonded(a.condition["pair"].numpy())
    sides = torch.cdist(x, x).numpy()[bonds]
    assert sides.min() > 0.9
    assert sides.max() < 1.7


def test_conditions_of_one_and_of_many_agree():
    graphs = [graph_of(embedded(smiles)) for smiles in MOLECULES[:2]]
    both, alone = condition_of(graphs), condition_of(graphs[1])
    for name, value in alone.items():
        assert torch.allclose(both[name][1:], value)
