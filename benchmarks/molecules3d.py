#!/usr/bin/env python3
"""Conformers of held-out QM9 molecules beside RDKit's ETKDG, with equal numbers.

    python datasets/qm9.py
    python benchmarks/molecules3d.py [--quick] [--seed N] [--json FILE] [--model FOLDER] [--molecules M]

Each method gives 10 conformers of each of M random molecules of the test split (those with stereocentres whose
neighbours all lie on one side left out, as in training). The reference is the one B3LYP geometry of QM9.

    scidiff          as certified by the command `conformers`: draws that fail are refused, nothing is relaxed
    scidiff + MMFF   the same, each relaxed by MMFF94
    ETKDG            RDKit's ETKDGv3, from random coordinates where its first guess fails
    ETKDG + MMFF     the same, each relaxed by MMFF94
    reference        the B3LYP geometry itself

matching     distance of the nearest conformer to the reference: heavy atoms, superposed, symmetry reckoned with;
             of molecules that the method gives a conformer of
coverage     share of references that a conformer comes within 0.25 (0.5) angstrom of
bonds        mean absolute difference of bond lengths from the reference, all conformers
strain       median of the MMFF94 energy that relaxing a conformer frees, kcal/mol
stable       share of conformers all of whose atoms are stable by EDM's rule (Hoogeboom et al. 2022), of known graphs
stereo kept  share of the conformers delivered that have the molecule's stereochemistry, by RDKit from coordinates
delivered    conformers delivered of those asked for
seconds      of processor time a molecule

Intervals are 95 % by bootstrap over molecules. The share of raw draws that each certificate refuses is printed too.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import guarded, options, publish
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from scidiff.errors import UserError
from scidiff.molecules.reference import cache_folder
from scidiff.molecules.three_d.batches import read_rows
from scidiff.molecules.three_d.conformers import conformers
from scidiff.molecules.three_d.matching import match
from scidiff.molecules.three_d.measures import bond_error, relaxed, rmsd
from scidiff.molecules.three_d.model import load
from scidiff.molecules.three_d.oracle import keeps_stereo
from scidiff.molecules.three_d.records import Record, record
from scidiff.molecules.three_d.stability import stable_atoms

NUM = 10
NEAR = (0.25, 0.5)  # angstrom
METHODS = ("scidiff", "scidiff + MMFF", "ETKDG", "ETKDG + MMFF", "reference")
RESAMPLED = 1000


@dataclass(frozen=True, kw_only=True)
class Target:
    """A molecule and its reference geometry [n, 3]."""

    record: Record
    reference: np.ndarray


def targets(path: Path, count: int, seed: int, config: Any) -> list[Target]:
    """Random molecules of the test split that the model can be told of."""
    rows = list(read_rows(path))
    random.Random(seed).shuffle(rows)
    found = []
    for number, (smiles, z, position) in enumerate(rows, 1):
        mol, _ = match(smiles, z, position)
        held = None if mol is None else record(mol, config, number, smiles)
        if isinstance(held, Record):
            found.append(Target(record=held, reference=held.mol.GetConformer().GetPositions()))
        if len(found) == count:
            return found
    return found


def embedded(target: Target, seed: int) -> list[np.ndarray]:
    """ETKDGv3 of the molecule with its stereochemistry, told nothing of the reference."""
    mol = Chem.Mol(target.record.mol)
    mol.RemoveAllConformers()
    settings = AllChem.ETKDGv3()
    settings.randomSeed = seed + 1
    with rdBase.BlockLogs():
        AllChem.EmbedMultipleConfs(mol, NUM, settings)
        if mol.GetNumConformers() < NUM:  # what RDKit advises where its first guess fails
            settings.useRandomCoords = True
            AllChem.EmbedMultipleConfs(mol, NUM, settings)
    return [conformer.GetPositions() for conformer in mol.GetConformers()]


Given = list[tuple[list[np.ndarray], float]]
"""Of each molecule, its conformers and the processor seconds they took."""


def timed(draw: Callable[[Target], list[np.ndarray]], found: Sequence[Target]) -> Given:
    """What a method gives."""
    results = []
    for target in found:
        began = time.process_time()
        results.append((draw(target), time.process_time() - began))
    return results


def given(found: Sequence[Target], model: Any, seed: int, reasons: Counter[str]) -> dict[str, Given]:
    """The conformers of every method."""

    def ours(target: Target) -> list[np.ndarray]:
        run = conformers([target.record], num=NUM, model=model, seed=seed + target.record.number)
        reasons.update(run.reasons)
        reasons["drawn"] += run.drawn
        return [one.position for one in run.ensembles[0].conformers]

    methods = {"scidiff": timed(ours, found), "ETKDG": timed(lambda target: embedded(target, seed), found)}
    for name in list(methods):
        drawn = iter(methods[name])
        more = timed(lambda target: [relaxed(target.record.mol, x)[0] for x in next(drawn)[0]], found)  # noqa: B023
        methods[f"{name} + MMFF"] = [
            (x, seconds + before) for (x, seconds), (_, before) in zip(more, methods[name], strict=True)
        ]
    methods["reference"] = [([target.reference], 0.0) for target in found]
    return {name: methods[name] for name in METHODS}


def measured(target: Target, positions: Sequence[np.ndarray], seconds: float) -> dict[str, Any]:
    """All measures of one molecule."""
    mol, reference = target.record.mol, target.reference
    number = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    distances = [rmsd(mol, x, reference) for x in positions]
    nearest = min(distances, default=float("inf"))
    return {
        "matching": nearest,
        **{f"coverage {near:g}": float(nearest <= near) for near in NEAR},
        "bonds": [bond_error(mol, x, reference) for x in positions],
        "strain": [relaxed(mol, x)[1] for x in positions],
        "stable": [float(stable_atoms(number, x).all()) for x in positions],
        "stereo kept": [float(keeps_stereo(mol, x)) for x in positions],
        "delivered": len(positions),
        "seconds": seconds,
    }


WITHOUT = ("coverage 0.25", "coverage 0.5", "delivered", "seconds")  # count molecules without a conformer as well
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {"strain": np.nanmedian}


def summary(results: Sequence[dict[str, Any]], name: str, seed: int) -> tuple[float, float, float]:
    """A measure over molecules with the ends of its interval."""
    values = [
        np.atleast_1d(np.asarray(one[name], dtype=float)) for one in results if one["delivered"] or name in WITHOUT
    ]
    statistic = STATISTICS.get(name, np.mean)
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([values[k] for k in generator.integers(0, len(values), len(values))]))
        for _ in range(RESAMPLED)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(statistic(np.concatenate(values))), float(low), float(high)


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "8 molecules")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights; default: the packaged ones")
    parser.add_argument("--molecules", type=int, help="default 300")
    chosen = parser.parse_args(arguments)
    return guarded(run, chosen)


def run(chosen: argparse.Namespace) -> int:
    count = chosen.molecules or (8 if chosen.quick else 300)
    torch.set_num_threads(1)
    path = cache_folder() / "qm9" / "test.npz"
    if not path.exists():
        raise UserError("expected the geometries of QM9 in the cache, got none: python datasets/qm9.py")
    model = load(chosen.model, "cpu")
    found = targets(path, count, chosen.seed, model.config)
    reasons: Counter[str] = Counter()
    results = {
        name: [measured(target, *one) for target, one in zip(found, conformations, strict=True)]
        for name, conformations in given(found, model, chosen.seed, reasons).items()
    }
    names = (
        "matching",
        *(f"coverage {near:g}" for near in NEAR),
        "bonds",
        "strain",
        "stable",
        "stereo kept",
        "delivered",
    )
    numbers = {m: {n: summary(results[m], n, chosen.seed) for n in (*names, "seconds")} for m in METHODS}
    rows = []
    for method in METHODS:
        asked = len(found) * (1 if method == "reference" else NUM)
        cells = [f"{a:.3f} [{b:.3f}, {c:.3f}]" for a, b, c in (numbers[method][name] for name in names[:-1])]
        delivered = sum(one["delivered"] for one in results[method])
        rows.append([method, *cells, f"{delivered} of {asked}", round(numbers[method]["seconds"][0], 3)])
    columns = ["method", *names, "seconds"]
    drawn = reasons.pop("drawn")
    refused = [[reason, share(count, drawn)] for reason, count in reasons.most_common()] or [["nothing", 0.0]]
    title = f"Conformers of {len(found)} held-out QM9 molecules, {NUM} each"
    tables = [
        {"title": title, "columns": columns, "rows": rows},
        {"title": f"Raw draws refused, of {drawn:,}", "columns": ["reason", "share"], "rows": refused},
    ]
    return publish("molecules3d", chosen, tables, numbers=numbers, card=dict(model.card))


def share(count: int, drawn: int) -> float:
    """A part of the draws."""
    return round(count / max(drawn, 1), 4)


if __name__ == "__main__":
    sys.exit(main())
