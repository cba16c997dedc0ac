"""Conformers from Python, as the command line draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdkit import Chem, rdBase

from scidiff.molecules.three_d.conformers import ConformerRun
from scidiff.molecules.three_d.conformers import conformers as drawn
from scidiff.molecules.three_d.draws import STEPS
from scidiff.molecules.three_d.model import load
from scidiff.molecules.three_d.records import held, record
from scidiff.molecules.three_d.rules import parse


def conformers(
    molecules: Sequence[str | Chem.Mol],
    *,
    num: int = 20,
    seed: int = 0,
    steps: int = STEPS,
    fix: str | None = None,
    keep: Sequence[str] = (),
    model: str | Path | None = None,
    device: str = "cpu",
) -> ConformerRun:
    """Certified conformers of molecules; `run.ensembles[k].mol` holds them, `run.refused` says what had none and why.

    Args:
        molecules: SMILES, or RDKit molecules, whose atoms keep their order; numbered from 1.
        num: conformers of each, 1 to 1,000.
        seed: in [0, 2^64).
        steps: network calls of a draw.
        fix: SMARTS of atoms that keep the coordinates that the molecules have.
        keep: rules on shapes, as `angle(COC) in [105, 115]`, and with `fix` on places in space (`rules`).
        model: a folder with weights; the packaged ones if None.
        device: `cpu`, `cuda`, ...

    Raises:
        UserError: an argument that cannot be met, or weights that cannot be read.
    """
    known, rules = load(model, device), parse(keep)
    records = []
    for number, one in enumerate(molecules, 1):
        text = one if isinstance(one, str) else ""
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(one) if isinstance(one, str) else one
        told = mol if mol is not None and mol.GetNumAtoms() else "not a valid SMILES"
        records.append(record(told, known.config, number, str(number), text))
    return drawn(held(records, fix, rules), num=num, model=known, seed=seed, steps=steps)
