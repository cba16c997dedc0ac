"""Whatever the network says, what the grammar lets through is a molecule."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from scidiff.molecules.fragments import RING_LABELS, encode
from scidiff.molecules.grammar import grammar
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.noise import Noise
from scidiff.state import Layout

TOKENS = (
    *RING_LABELS,
    *("C*", "[1*]C", "*C[1*]", "*C(*)[1*]", "*C(*)(*)[1*]", "*N[1*]", "*N(*)[1*]", "*O[1*]", "[1*]F", "*C=C[1*]"),
    *("*N=C(*)[1*]", "*C([1*])=O", "*S([1*])(=O)=O", "[1*]c1ccccc1", "*c1ccc([1*])cc1", "*c1cc[nH]c1", "*C=C*"),
    *("*[N+](*)(*)[1*]", "[1*][O-]", "O=[N+]([O-])[1*]", "[1*]C#N", "*c1cc(*)nc([1*])c1", "c1ccccc1"),
    "*n1ccc([1*])c1",
)
VOCABULARY = Vocabulary(tokens=TOKENS)
GRAMMAR = grammar(VOCABULARY)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(2, 24), sharpness=st.sampled_from([0.0, 1.0, 5.0, 30.0]))
def test_random_networks_give_molecules(seed: int, length: int, sharpness: float) -> None:
    layout = Layout.dense(8, {"fragment": (length,)})
    rows = layout.rows("fragment")
    noise = Noise(seed=seed, index=torch.arange(8))
    logits = sharpness * noise.at("logits", 0, rows).uniform(shape=(length, len(TOKENS)))
    sequences = GRAMMAR(torch.log_softmax(logits, -1), noise.at("fragment", 1, rows), rows)
    assert GRAMMAR.accepts(sequences).all()
    for classes in sequences.tolist():
        mol = VOCABULARY.decode(classes)
        smiles = Chem.MolToSmiles(mol)
        again = Chem.MolFromSmiles(smiles)
        assert again is not None, smiles
        assert len(Chem.GetMolFrags(again)) == 1
        assert sum(atom.GetNumRadicalElectrons() for atom in again.GetAtoms()) == 0
        if "@" not in smiles:
            assert Chem.MolToSmiles(again) == smiles
            assert encode(again)
