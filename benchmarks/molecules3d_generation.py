#!/usr/bin/env python3
"""Molecules of QM9 generated with their geometry: bonds by the model of fragments, then coordinates, judged raw.

    python datasets/qm9.py
    python benchmarks/molecules3d_generation.py [--quick] [--seed N] [--json FILE] [--molecules M] [--repeats R]

For each of R seeds M molecules are taken as they are drawn, nothing left out; the rows are

    scidiff, raw        the first geometry of each; a molecule that has none counts as a failure of every kind
    scidiff             what `scidiff molecules generate --three-d` writes: geometries that are refused are drawn again
    ETKDG, + MMFF       RDKit's geometries of the same molecules (the first 1,000 of a seed), raw and relaxed
    QM9, held out       B3LYP geometries of the test split, one half of it; the other half is the reference of shapes
    published           from Table 1 of Xu et al. 2023 (GeoLDM), with hydrogens, 10,000 samples three times

and the measures, all of molecules drawn:

    calls               of networks for a molecule: fragments and geometry
    atoms, molecules    stable by EDM's rule (Hoogeboom et al. 2022), which reads bonds from distances; atoms of all
                        molecules that have a geometry
    valid               what that rule reads is a molecule for RDKit (EDM's validity); x unique: distinct ones among all
    MiDi, revisited     molecules stable by the rules of MiDi and of "GEOM-Drugs revisited", for bonds as written
    bonds               distances agree with the bonds as written and no others: whole and connected as written
    written             the bonds as written are a molecule for RDKit, in one part: closed valences
    perceived           xyz2mol finds the molecule that is written
    PoseBusters         all its checks pass, of the first 200 of a seed; if the package is there
    strain              median of what relaxing by MMFF94 frees, kcal/mol
    lengths, angles, torsions     distances of the shapes to the reference, angstrom and degrees (MiDi)

A third table has the processor time of a molecule, beside a plain network of EDM's size called a thousand times.
The second judges the distribution over molecules: FCD (of the first 5,000 of a seed), novelty, total variation of
the numbers of heavy atoms and of rings, share with an aromatic ring. Mean and half-width of the 95 % interval over
seeds (normal for one seed: none).
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _molecules3d_cost import CALLS, edm_call, milliseconds, model_call
from _running import guarded, options, publish, say, spread
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from scidiff.errors import UserError
from scidiff.molecules import fcd
from scidiff.molecules.generator import Generator
from scidiff.molecules.reference import cache_folder
from scidiff.molecules.three_d import busting
from scidiff.molecules.three_d.batches import read_rows
from scidiff.molecules.three_d.conformers import conformers
from scidiff.molecules.three_d.draws import Halved
from scidiff.molecules.three_d.evaluation import shares
from scidiff.molecules.three_d.generated import fragments_of_small_molecules
from scidiff.molecules.three_d.graphs import graph_of
from scidiff.molecules.three_d.judging import judged
from scidiff.molecules.three_d.matching import match
from scidiff.molecules.three_d.measures import relaxed
from scidiff.molecules.three_d.model import ConformerModel, load
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.three_d.records import Record, record
from scidiff.molecules.three_d.shapes import NAMES, Shapes, distances, shapes
from scidiff.molecules.three_d.tiles import TILE, Asked, draw

STEPS = 10
BESIDE, BUSTED, FRECHET = 1000, 200, 5000
PATIENCE = 2  # seconds, for one geometry of ETKDG
COLUMNS = {
    "atoms": "stable_atoms",
    "molecules": "stable_molecules",
    "valid": "valid_by_distance",
    "x unique": "x unique",
    "MiDi": "midi_molecules",
    "revisited": "revisited_molecules",
    "bonds": "bonds",
    "written": "valid",
    "perceived": "perceived",
    "PoseBusters": "posebusters",
    "strain": "strain",
    "lengths": NAMES[0],
    "angles": NAMES[1],
    "torsions": NAMES[2],
}
PUBLISHED = {
    "EDM, as published": ("1,000", "0.987", "0.820", "0.919", "0.907"),
    "GeoLDM, as published": ("1,000", "0.989", "0.894", "0.938", "0.927"),
    "QM9, as published": ("", "0.990", "0.952", "0.977", "0.977"),
}
BARS = {"atoms": 0.987, "molecules": 0.82, "valid": 0.919}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """QM9's test split in two halves.

    Attributes:
        held: molecules of the first half with B3LYP geometries.
        shapes, smiles: of the second.
        moments: of ChemNet on the second; None without the package.
        training: SMILES without stereochemistry.
    """

    held: list[Chem.Mol]
    shapes: Shapes
    smiles: list[str]
    moments: fcd.Moments | None
    training: frozenset[str]


def reference(most: int | None) -> Reference:
    """Read both splits; the first so many molecules of the test split for a quick run."""
    folder = cache_folder() / "qm9"
    if not (folder / "test.npz").exists():
        raise UserError("expected the geometries of QM9 in the cache, got none: python datasets/qm9.py")
    found = [mol for row in islice(read_rows(folder / "test.npz"), most) if (mol := match(*row)[0]) is not None]
    held, other = found[::2], found[1::2]
    lines = (folder / "train.csv").read_text(encoding="ascii").splitlines()[1:]
    training = (canonical(line.split(",")[1]) for line in (lines if most is None else lines[:most]))
    smiles = [canonical(mol) for mol in other]
    return Reference(
        held=held,
        shapes=shapes(other),
        smiles=smiles,
        moments=fcd.moments(random.Random(0).sample(smiles, min(FRECHET, len(smiles)))) if fcd.available() else None,
        training=frozenset(training),
    )


def canonical(mol: Chem.Mol | str) -> str:
    """SMILES without hydrogens and stereochemistry; empty if it is none."""
    with rdBase.BlockLogs():
        read = Chem.MolFromSmiles(mol) if isinstance(mol, str) else Chem.RemoveHs(mol)
        return "" if read is None else Chem.MolToSmiles(read, isomericSmiles=False)


@dataclass(frozen=True, kw_only=True)
class Made:
    """Molecules with geometries of those asked for.

    Attributes:
        mols: with one conformer each.
        asked: how many were asked for.
        calls, seconds: of networks and of the processor, for a molecule asked for.
    """

    mols: list[Chem.Mol]
    asked: int
    calls: float = math.nan
    seconds: float = math.nan


def made(generator: Generator, model: ConformerModel, count: int, seed: int) -> tuple[dict[str, Made], list[str]]:
    """What each way gives for one seed, and the SMILES of all molecules drawn."""
    began = time.process_time()
    drawn = list(islice(generator.stream(seed=seed), count))
    records = [r for one in drawn if isinstance(r := record(one.mol, model.config, one.index, ""), Record)]
    asked = [Asked(record=one, draw=0) for one in records]
    first = dict(draw(asked, model=model, seed=seed, steps=STEPS))
    seconds = (time.process_time() - began) / count
    raw = [with_positions(one.mol, first[k]) for k, one in enumerate(records)]
    calls = statistics.fmean(one.calls for one in drawn) + STEPS
    refused = [k for k, one in enumerate(records) if refusals(one.mol, first[k])]
    again = conformers([records[k] for k in refused], num=1, model=model, seed=seed, steps=STEPS)
    seconds_kept = (time.process_time() - began) / count
    whole = [mol for k, mol in enumerate(raw) if k not in set(refused)]
    whole += [with_positions(one.record.mol, each.position) for one in again.ensembles for each in one.conformers]
    plain = [mol for one in records[:BESIDE] if (mol := embedded(one.mol, seed)) is not None]
    return {
        "scidiff, raw": Made(mols=raw, asked=count, calls=calls, seconds=seconds),
        "scidiff": Made(mols=whole, asked=len(whole), calls=calls + STEPS * again.drawn / count, seconds=seconds_kept),
        "ETKDG": Made(mols=plain, asked=len(records[:BESIDE])),
        "ETKDG + MMFF": Made(
            mols=[with_positions(mol, relaxed(mol, mol.GetConformer().GetPositions())[0]) for mol in plain],
            asked=len(records[:BESIDE]),
        ),
    }, [one.smiles for one in drawn]


def embedded(mol: Chem.Mol, seed: int) -> Chem.Mol | None:
    """One geometry of ETKDGv3, from random coordinates where its first guess fails; None where both do."""
    copy, settings = Chem.Mol(mol), AllChem.ETKDGv3()
    settings.randomSeed, settings.timeout = seed + 1, PATIENCE
    with rdBase.BlockLogs():
        if AllChem.EmbedMolecule(copy, settings) < 0:
            settings.useRandomCoords = True
            if AllChem.EmbedMolecule(copy, settings) < 0:
                return None
    return copy


def measured(given: Made, known: Reference) -> dict[str, float]:
    """All measures of geometries."""
    results = [judged(mol) for mol in given.mols]
    busted = busting.passed(given.mols[:BUSTED]) if busting.available() else []
    found = shares(results, given.asked) | distances(shapes(given.mols), known.shapes)
    return found | {
        "x unique": len({one.by_distance for one in results} - {""}) / given.asked,
        "posebusters": statistics.fmean(busted) if busted else math.nan,
        "calls": given.calls,
        "seconds": given.seconds,
    }


def distribution(smiles: Sequence[str], known: Reference) -> dict[str, float]:
    """How the molecules themselves are distributed."""
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    others = [Chem.MolFromSmiles(one) for one in known.smiles]
    plain = {canonical(mol) for mol in mols}
    found = {
        "unique": len(plain) / len(smiles),
        "novel": len(plain - known.training) / len(plain),
        "heavy atoms": variation(*([mol.GetNumHeavyAtoms() for mol in part] for part in (mols, others))),
        "rings": variation(*([mol.GetRingInfo().NumRings() for mol in part] for part in (mols, others))),
        "aromatic": statistics.fmean(any(atom.GetIsAromatic() for atom in mol.GetAtoms()) for mol in mols),
    }
    if known.moments is not None:
        found["FCD"] = fcd.frechet_distance(fcd.moments(list(smiles[:FRECHET])), known.moments)
    return found


def random_part(mols: Sequence[Chem.Mol], count: int) -> list[Chem.Mol]:
    """As many as are drawn, for FCD depends on the number."""
    return random.Random(0).sample(list(mols), min(count, len(mols)))


def variation(given: Iterable[int], other: Iterable[int]) -> float:
    """Total variation of two counted distributions."""
    a, b = Counter(given), Counter(other)
    return sum(abs(a[k] / a.total() - b[k] / b.total()) for k in a | b) / 2


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "40 molecules, one seed, a part of QM9")
    parser.add_argument("--molecules", type=int, help="of each seed; default 10,000")
    parser.add_argument("--repeats", type=int, help="seeds; default 3")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights of conformers")
    chosen = parser.parse_args(arguments)
    return guarded(run, chosen)


def run(chosen: argparse.Namespace) -> int:
    count = chosen.molecules or (40 if chosen.quick else 10_000)
    seeds = [chosen.seed + k for k in range(chosen.repeats or (1 if chosen.quick else 3))]
    torch.set_num_threads(1)
    known = reference(400 if chosen.quick else None)
    generator, model = Generator.load(fragments_of_small_molecules()), load(chosen.model, "cpu")
    results: dict[str, list[dict[str, float]]] = {}
    drawn: dict[str, list[dict[str, float]]] = {"scidiff": []}
    for seed in seeds:
        ways, smiles = made(generator, model, count, seed)
        for name, given in ways.items():
            results.setdefault(name, []).append(measured(given, known))
            say(f"{name} { ({k: round(v, 4) for k, v in results[name][-1].items()}) }")
        drawn["scidiff"].append(distribution(smiles, known))
    held = Made(mols=known.held, asked=len(known.held))
    results["QM9, held out"] = [measured(held, known)]
    drawn["QM9, held out"] = [distribution([canonical(mol) for mol in random_part(known.held, count)], known)]
    title = f"Geometries of QM9-like molecules, {len(seeds)} x {count:,} drawn"
    tables = [geometries(title, results), graphs(f"Molecules, {len(seeds)} x {count:,} drawn", drawn)]
    tables.append(costs(model, results["scidiff, raw"]))
    raw = {name: statistics.fmean(one[COLUMNS[name]] for one in results["scidiff, raw"]) for name in BARS}
    misses = [f"{n}: expected {bar}, got {raw[n]:.4f}" for n, bar in BARS.items() if raw[n] < bar]
    missing = [name for name, there in (("posebusters", busting.available()), ("FCD", fcd.available())) if not there]
    return publish("molecules3d_generation", chosen, tables, misses=misses, missing=missing,
                   results=results | {"molecules": drawn}, card=dict(model.card))  # fmt: skip


def geometries(title: str, results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The table of geometries, with what others have published."""
    rows: list[list[str]] = []
    for name, found in results.items():
        cells = [spread([one[COLUMNS[column]] for one in found]) for column in COLUMNS]
        calls, seconds = (statistics.fmean(one[key] for one in found) for key in ("calls", "seconds"))
        known = not math.isnan(calls)
        rows.append([name, f"{calls:.1f}" if known else "", *cells, f"{1000 * seconds:.0f}" if known else ""])
    for name, told in PUBLISHED.items():
        rows.append([name, *told, *[""] * (len(COLUMNS) + 2 - len(told))])
    return {"title": title, "columns": ["way", "calls", *COLUMNS, "ms"], "rows": rows}


def graphs(title: str, drawn: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The table of the molecules themselves."""
    names = list(drawn["scidiff"][0])
    rows = [[name, *(spread([one[n] for one in found]) for n in names)] for name, found in drawn.items()]
    return {"title": title, "columns": ["set", *names], "rows": rows}


def costs(model: ConformerModel, found: list[dict[str, float]]) -> dict[str, Any]:
    """What a molecule takes, beside a plain network of EDM's size that is called a thousand times."""
    graph = graph_of(Chem.AddHs(Chem.MolFromSmiles("CC1CC(O)C1N")))
    ours = milliseconds(model_call(model, Halved(model.denoiser), graph, TILE), batch=TILE)
    plain = milliseconds(edm_call(len(graph.kind), TILE), batch=TILE)
    seconds, calls = (statistics.fmean(one[key] for one in found) for key in ("seconds", "calls"))
    rows = [
        [
            "scidiff, with fragments",
            f"{calls:.1f}",
            "",
            f"{1000 * seconds:.0f}",
            f"{1 / seconds:.1f}",
        ],
        ["geometry alone, 18 atoms", STEPS, f"{ours:.2f}", f"{STEPS * ours:.0f}", f"{1000 / STEPS / ours:.1f}"],
        ["EDM's size, 18 atoms", CALLS, f"{plain:.2f}", f"{CALLS * plain:.0f}", f"{1000 / CALLS / plain:.3f}"],
    ]
    columns = ["network", "calls", "ms a call", "ms a molecule", "molecules/s"]
    return {"title": "Processor time of a molecule, one thread", "columns": columns, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
