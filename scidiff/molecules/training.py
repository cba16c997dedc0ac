"""The molecules a model was trained on, for `novel`."""

from __future__ import annotations

from functools import lru_cache

from rdkit import Chem

from scidiff.errors import UserError


@lru_cache(maxsize=1)
def training_molecules() -> frozenset[str]:
    """Canonical SMILES of the training set of MOSES, as it publishes them.

    Raises:
        UserError: MOSES has not been fetched.
    """
    from scidiff.molecules.readers import read_smiles
    from scidiff.molecules.reference import locate

    try:
        return frozenset(read_smiles(locate("train")))
    except UserError:
        raise UserError(
            "novel: expected the training molecules of MOSES; fetch once: python datasets/moses.py"
        ) from None


def is_novel(mol: Chem.Mol) -> bool:
    """Whether a molecule is none of the training set, by its canonical SMILES without stereochemistry."""
    return Chem.MolToSmiles(mol, isomericSmiles=False) not in training_molecules()
