#!/usr/bin/env python3
"""Conformers in a pocket: a part is held where it is, and every atom must keep clear of the pocket's.

    python benchmarks/molecules3d_pockets.py [--quick] [--seed N] [--json FILE] [--molecules M] [--num N]

No protein is at hand, so pockets are cast from held-out molecules of QM9 (`datasets/qm9/sample.sdf.gz`): carbon atoms
at random around the geometry that B3LYP gives, none nearer to an atom of it than T van der Waals radii of both, none
farther from the nearest than 1.35, and no two nearer to each other than 2.5 angstrom, as dense as the surface of a
protein. So the molecule fits, and few of its conformers do. The atoms of one ring are fixed, at least four other heavy
atoms are not. N conformers of each molecule are asked for with `outside(pocket) >= 0.8`, of up to 4 N draws:

    rule       estimates are moved on to the rule (`--keep`)
    luck       draws with the ring fixed alone, judged by the same oracle

The intervals are over molecules.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import guarded, options, publish, say, spread
from rdkit import Chem
from scipy.spatial.distance import cdist

from scidiff.molecules.three_d.conformers import Ensemble, conformers
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.records import Record, keep, record
from scidiff.molecules.three_d.rule_oracle import broken
from scidiff.molecules.three_d.rules import parse

SAMPLE = Path(__file__).parents[1] / "datasets" / "qm9" / "sample.sdf.gz"
CARBON = Chem.GetPeriodicTable().GetRvdw(6)
FARTHEST, APART, CLEAR = 1.35, 2.5, 0.8
TIGHT = (0.95, 0.85)
TRIED = 40_000  # random places for the atoms of a pocket


def chosen_molecules(model: ConformerModel, count: int, seed: int) -> list[Record]:
    """Random molecules with a ring and at least four heavy atoms beside it, the ring fixed."""
    with gzip.open(SAMPLE) as stream:
        mols = list(Chem.ForwardSDMolSupplier(stream, removeHs=False))
    found: list[Record] = []
    for k in np.random.default_rng(seed).permutation(len(mols)).tolist():
        rings = mols[k].GetRingInfo().AtomRings()
        one = record(mols[k], model.config, k, str(k))
        if len(rings) == 1 and mols[k].GetNumHeavyAtoms() - len(rings[0]) >= 4 and isinstance(one, Record):
            found.append(replace(one, fixed=tuple(rings[0])))
        if len(found) == count:
            break
    return found


def cast(mol: Chem.Mol, tight: float, generator: np.random.Generator) -> np.ndarray:
    """Positions of the carbon atoms of a pocket around a molecule."""
    x, table = mol.GetConformer().GetPositions(), Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()]) + CARBON
    low, high = x.min(0) - 6, x.max(0) + 6
    places = generator.uniform(low, high, (TRIED, 3))
    near = (cdist(places, x) / radii).min(1)
    kept: list[np.ndarray] = []
    for place in places[(near >= tight) & (near <= FARTHEST)]:
        if not kept or np.linalg.norm(np.array(kept) - place, axis=1).min() >= APART:
            kept.append(place)
    return np.array(kept)


def write_pocket(path: Path, position: np.ndarray) -> None:
    """A PDB file of carbon atoms."""
    lines = [
        f"HETATM{k:5d}  C   UNK A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for k, (x, y, z) in enumerate(position, 1)
    ]
    path.write_text("\n".join([*lines, "END", ""]), encoding="ascii")


def shares(
    records: Sequence[Record], model: ConformerModel, folder: Path, *, tight: float, num: int, seed: int
) -> Iterator[tuple[Ensemble, float, float]]:
    """Of each molecule the ensemble under the rule, its seconds, and the share of lucky draws."""
    generator = np.random.default_rng(seed)
    for one in records:
        path = folder / f"{one.number}-{tight}.pdb"
        write_pocket(path, cast(one.mol, tight, generator))
        rules = parse([f"outside({path}) >= {CLEAR}"])
        ruled = conformers(keep([one], rules), num=num, model=model, seed=seed)
        free = conformers([one], num=4 * num, model=model, seed=seed)
        lucky = [not broken(rules, one.mol, drawn.position) for whole in free.ensembles for drawn in whole.conformers]
        yield ruled.ensembles[0], ruled.seconds, sum(lucky) / max(1, free.drawn)


def spread_out(ensembles: Sequence[Ensemble]) -> float:
    """Median root mean square distance between two conformers of a molecule that were kept, in angstrom."""
    found = [
        float(np.sqrt(((a.position - b.position) ** 2).sum(1).mean()))
        for one in ensembles
        for k, a in enumerate(one.conformers)
        for b in one.conformers[:k]
    ]
    return float(np.median(found)) if found else float("nan")


def row(tight: float, found: Sequence[tuple[Ensemble, float, float]], num: int) -> list[Any]:
    """A line of the table."""
    ensembles, seconds, lucky = zip(*found, strict=True)
    kept = [len(one.conformers) / max(1, one.drawn) for one in ensembles]
    some = float(np.mean([bool(one.conformers) for one in ensembles]))
    full = float(np.mean([len(one.conformers) == num for one in ensembles]))
    certified = sum(len(one.conformers) for one in ensembles)
    luck_some = float(np.mean([share > 0 for share in lucky]))
    cost = sum(seconds) / max(1, certified)
    return [tight, some, full, spread(kept), luck_some, spread(lucky), spread_out(ensembles), cost]


def run(chosen: argparse.Namespace) -> int:
    count, num = (3, 1) if chosen.quick else (chosen.molecules, chosen.num)
    torch.set_num_threads(1)
    model, rows = ConformerModel.load(), []
    records = chosen_molecules(model, count, chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        for tight in TIGHT:
            found = list(shares(records, model, Path(folder), tight=tight, num=num, seed=chosen.seed))
            rows.append(row(tight, found, num))
            say(f"T = {tight}: {rows[-1]}")
    columns = ["T", "rule: any", f"rule: all {num}", "rule: of draws", "luck: any", "luck: of draws",
               "between two [angstrom]", "seconds a conformer"]  # fmt: skip
    table = {"title": f"Conformers clear of a pocket, {len(records)} molecules", "columns": columns, "rows": rows}
    misses = [f"T = {line[0]}: expected most molecules certified, got {line[1]:.2f}" for line in rows if line[1] < 0.5]
    return publish("molecules3d_pockets", chosen, [table], misses=misses)


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "3 molecules, one conformer each")
    parser.add_argument("--molecules", type=int, default=30)
    parser.add_argument("--num", type=int, default=4, help="conformers of each")
    return guarded(run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
