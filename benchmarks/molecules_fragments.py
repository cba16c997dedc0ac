#!/usr/bin/env python3
"""Molecules around given parts of ten known drugs: decoration, linker design, motif extension, superstructure.

    python benchmarks/molecules_fragments.py --json result.json
    python benchmarks/molecules_fragments.py --quick

After the fragment benchmark of SAFE (Noutahi et al. 2023) and GenMol (Lee et al. 2025), with drugs and a rule of ours:

    scaffold decoration  the Bemis-Murcko scaffold, with the drug's substituents as attachment points
    linker design        of the pieces that one acyclic single bond cuts off and that hold one ring system, the largest
                         two that do not overlap
    motif extension      the largest of those pieces, with its one attachment point
    superstructure       the largest ring system (with its exocyclic double bonds), substituents anywhere

Stereochemistry is left out of the drugs. Every draw is used as it comes, none is left out; the oracle says whether the
part is in it. Rejection looks for the same parts among draws of the same weights. Quality is the share of draws that
are valid, distinct, of QED >= 0.6 and SA <= 4 (as GenMol has it); diversity and distance are one minus Tanimoto
similarities of Morgan fingerprints (radius 2, 2,048 bits). A part that the vocabulary cannot write yields no molecules;
its 100 draws count as not valid and without the part.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from _running import guarded, options, publish, say
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from scidiff.errors import UserError
from scidiff.molecules.fragments import acyclic_single, cut_into
from scidiff.molecules.generator import TILE, Generator
from scidiff.molecules.oracle import Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.parts import spelled
from scidiff.molecules.properties import compute

DRUGS = {
    "erlotinib": "C#Cc1cccc(Nc2ncnc3cc(OCCOC)c(OCCOC)cc23)c1",
    "baricitinib": "CCS(=O)(=O)N1CC(CC#N)(n2cc(-c3ncnc4[nH]ccc34)cn2)C1",
    "lesinurad": "OC(=O)CSc1nnc(Br)n1-c1ccc(C2CC2)c2ccccc12",
    "celecoxib": "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1",
    "gefitinib": "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "haloperidol": "O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1",
    "apixaban": "COc1ccc(cc1)n1nc(C(N)=O)c2CCN(C(=O)c12)c1ccc(cc1)N1CCCCC1=O",
    "donepezil": "COc1cc2c(cc1OC)C(=O)C(CC1CCN(Cc3ccccc3)CC1)C2",
}
TASKS = ("scaffold decoration", "linker design", "motif extension", "superstructure")
SAMPLES = 100
_MORGAN = GetMorganGenerator(radius=2, fpSize=2048)


def pieces(mol: Chem.Mol) -> list[tuple[str, frozenset[int]]]:
    """The pieces that one acyclic single bond cuts off and that hold one ring system, the largest first."""
    systems = [p for p in cut_into(mol, acyclic_single(mol)) if any(mol.GetAtomWithIdx(i).IsInRing() for i in p.atoms)]
    found = []
    for bond in acyclic_single(mol):
        broken = Chem.FragmentOnBonds(mol, [bond], dummyLabels=[(0, 0)])
        for atoms in Chem.GetMolFrags(broken):
            own = frozenset(i for i in atoms if i < mol.GetNumAtoms())
            if sum(set(s.atoms) <= own for s in systems) == 1:
                found.append((spelled(Chem.MolFragmentToSmiles(broken, list(atoms))), own))
    return sorted(found, key=lambda piece: (-len(piece[1]), piece[0]))


def request(task: str, mol: Chem.Mol) -> str | None:
    """The `--where` of a task; None if the drug has no such parts."""
    if task == "scaffold decoration":
        side = AllChem.ReplaceSidechains(mol, MurckoScaffold.GetScaffoldForMol(mol))
        return f"decorates({spelled(Chem.MolToSmiles(side))})"
    if task == "superstructure":
        units = cut_into(mol, acyclic_single(mol))
        largest = max(
            units, key=lambda unit: (len(unit.atoms), sum(mol.GetAtomWithIdx(i).IsInRing() for i in unit.atoms))
        )
        bare = Chem.RWMol(mol)
        for atom, _ in largest.slots:
            held = bare.GetAtomWithIdx(atom)
            if held.GetIsAromatic() and held.GetSymbol() != "C":
                held.SetNumExplicitHs(held.GetNumExplicitHs() + 1)
        for i in sorted(set(range(mol.GetNumAtoms())) - set(largest.atoms), reverse=True):
            bare.RemoveAtom(i)
        return f"extends({spelled(Chem.MolToSmiles(bare))})"
    found = pieces(mol)
    if task == "motif extension":
        return f"decorates({found[0][0]})" if found else None
    pairs = [(a, b) for a, b in itertools.combinations(found, 2) if not a[1] & b[1]]
    return f"links({', '.join(p[0] for p in max(pairs, key=lambda p: len(p[0][1] | p[1][1])))})" if pairs else None


@dataclass(kw_only=True)
class Run:
    """What came of one drug, task and seed."""

    drug: str
    task: str
    where: str | None
    problem: str = ""
    seconds: float = 0.0
    drawn: int = SAMPLES
    measures: dict[str, float] = field(default_factory=dict)


def measure(smiles: list[str], where: str, drug: Chem.Mol) -> dict[str, float]:
    """The measures of some draws, of which as many as `SAMPLES` were asked for."""
    oracle = Oracle(parse_all([where]))
    found = [oracle.certify(text) for text in smiles]
    valid = [one for one in found if not one.problem]
    distinct = {one.canonical: one.mol for one in valid}
    values = [compute(mol, ["qed", "sa"]) for mol in distinct.values()]
    prints = [_MORGAN.GetFingerprint(mol) for mol in distinct.values()]
    own, pairs = _MORGAN.GetFingerprint(drug), list(itertools.combinations(prints, 2))
    return {
        "valid": len(valid) / SAMPLES,
        "kept": sum(one.holds for one in found) / SAMPLES,
        "unique": len(distinct) / max(len(valid), 1),
        "quality": sum(float(v["qed"]) >= 0.6 and float(v["sa"]) <= 4 for v in values) / SAMPLES,
        "diversity": 1 - sum(DataStructs.TanimotoSimilarity(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0,
        "distance": 1 - sum(DataStructs.TanimotoSimilarity(own, p) for p in prints) / len(prints) if prints else 1.0,
    }


NOTHING = {"valid": 0.0, "kept": 0.0, "unique": 0.0, "quality": 0.0, "diversity": math.nan, "distance": math.nan}


def enforced(generator: Generator, drug: str, task: str, seed: int) -> Run:
    """One run of the sampler that enforces the part."""
    mol = Chem.MolFromSmiles(DRUGS[drug])
    run = Run(drug=drug, task=task, where=request(task, mol), measures=dict(NOTHING))
    began = time.perf_counter()
    if run.where is None:
        run.problem = "the drug has no such parts"
        return run
    try:
        given = generator.given(parse_all([run.where]))
    except UserError as error:
        run.problem = str(error)
        return run
    drawn = [one.smiles for one in given.tile(0, seed=seed)[:SAMPLES]]
    run.seconds = time.perf_counter() - began
    run.measures = measure(drawn, run.where, mol)
    return run


def rejected(pool: list[str], run: Run) -> dict[str, float]:
    """How many of a pool of free draws have the part, as a share of those asked for."""
    if run.where is None:
        return dict(NOTHING)
    oracle = Oracle(parse_all([run.where]))
    found = list(itertools.islice((text for text in pool if oracle.certify(text).holds), SAMPLES))
    return measure(found, run.where, Chem.MolFromSmiles(DRUGS[run.drug]))


def table(runs: list[Run], baseline: list[dict[str, float]], pool: int) -> dict[str, Any]:
    """The table of a document for `workflows/tables.py`."""
    names = ("valid", "kept", "unique", "quality", "diversity", "distance")
    rows: list[list[Any]] = []

    def mean(found: list[dict[str, float]], name: str) -> float | None:
        values = [one[name] for one in found if not math.isnan(one[name])]
        return sum(values) / len(values) if values else None

    for task in TASKS:
        here = [k for k, run in enumerate(runs) if run.task == task]
        if not here:
            continue
        written = sum(not runs[k].problem for k in here)
        ours = [runs[k].measures for k in here]
        could = [runs[k].measures for k in here if not runs[k].problem]
        rows.append([f"{task}, enforced", f"{written} of {len(here)}", *(mean(ours, name) for name in names)])
        rows.append([f"{task}, enforced, of those written", written, *(mean(could, name) for name in names)])
        rows.append([f"{task}, rejection", "", *(mean([baseline[k] for k in here], name) for name in names)])
    title = f"Parts of known drugs: {SAMPLES} draws a drug, task and seed; rejection among {pool:,} draws"
    return {"title": title, "columns": ["task", "runs written", *names], "rows": rows}


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "three drugs, one seed, a small pool for rejection")
    parser.add_argument("--seeds", type=int, default=3, help="how many, one after another")
    return guarded(run, parser.parse_args(arguments))


def run(given: argparse.Namespace) -> int:
    drugs = list(DRUGS)[:3] if given.quick else list(DRUGS)
    seeds = range(given.seed, given.seed + (1 if given.quick else given.seeds))
    generator = Generator.load()
    runs: list[Run] = []
    baseline: list[dict[str, float]] = []
    tiles = 2 if given.quick else 40
    for seed in seeds:
        pool = [one.smiles for number in range(tiles) for one in generator.tile(number, seed=seed)]
        for drug, task in itertools.product(drugs, TASKS):
            one = enforced(generator, drug, task, seed)
            runs.append(one)
            baseline.append(rejected(pool, one))
            say(f"{seed} {drug:12} {task:20} {one.problem or one.where} {one.measures['kept']:.2f}")
    tables = [table(runs, baseline, tiles * TILE)]
    return publish("molecules_fragments", given, tables, runs=[vars(one) for one in runs])


if __name__ == "__main__":
    sys.exit(main())
