"""Molecules come back from torch-geometric as they went, hands and sides included."""

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from scidiff.molecules.three_d.conformers import Conformer, ConformerRun, Ensemble
from scidiff.molecules.three_d.exchange import batch_of, data_of, record_of
from scidiff.molecules.three_d.model import ConformerConfig
from scidiff.molecules.three_d.records import Record, Refused

MOLECULES = ("C[C@H](O)CN", "C/C=C\\C#N", "c1cc[nH]c1", "CC(=O)[O-]", "C[NH3+]")


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


@pytest.mark.parametrize("smiles", MOLECULES)
def test_round_trip(smiles):
    mol = embedded(smiles)
    found = record_of(data_of(mol, mol.GetConformer().GetPositions()), ConformerConfig(), number=3, name="x")
    assert isinstance(found, Record)
    assert Chem.MolToSmiles(Chem.RemoveHs(found.mol)) == Chem.CanonSmiles(smiles)
    flat = record_of(data_of(mol), ConformerConfig(), number=3)
    assert isinstance(flat, Record)
    assert Chem.MolToSmiles(Chem.RemoveHs(flat.mol)) == Chem.CanonSmiles(smiles, useChiral=0)
    assert not flat.graph.parity.any()


def test_what_is_no_molecule_is_refused():
    data = data_of(embedded("CC"))
    data.bond = torch.full_like(data.bond, 3)
    found = record_of(data, ConformerConfig(), number=9, name="odd")
    assert isinstance(found, Refused)
    assert found.number == 9
    assert "valence" in found.reason


def test_a_run_becomes_a_batch():
    mol = embedded("CCO")
    x = mol.GetConformer().GetPositions()
    first = record_of(data_of(mol, x), ConformerConfig(), number=1)
    assert isinstance(first, Record)
    kept = [Conformer(draw=k, position=x + k) for k in (0, 2)]
    batch = batch_of(ConformerRun(requested=2, seed=0, steps=20, ensembles=[Ensemble(record=first, conformers=kept)]))
    assert batch.num_graphs == 2
    assert batch.draw.tolist() == [0, 2]
    assert torch.allclose(batch[1].pos.double(), torch.as_tensor(x + 2), atol=1e-5)
