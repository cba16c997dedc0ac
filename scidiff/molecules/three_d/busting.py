"""PoseBusters (Buttenschoen, Morris & Deane, Chem. Sci. 2024): checks of single molecules. An optional package.

Without its check of the energy, which compares with conformers of ETKDG: in strained cages these are searched for ever.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from rdkit import Chem, rdBase

MISSING = "PoseBusters: not installed; pip install posebusters"


def available() -> bool:
    """Whether `posebusters` is installed."""
    return importlib.util.find_spec("posebusters") is not None


def passed(mols: Sequence[Chem.Mol]) -> list[bool]:
    """Of each molecule with a conformer, whether it passes all checks of the set "mol_fast"."""
    from posebusters import PoseBusters

    with rdBase.BlockLogs():
        table = PoseBusters(config="mol_fast").bust(list(mols), None, None)
    return [bool(one) for one in table.fillna(value=False).all(axis=1)]
