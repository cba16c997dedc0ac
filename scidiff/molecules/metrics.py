"""Metrics of a set of generated molecules.

Definitions of MOSES (Polykovskiy et al., "Molecular Sets (MOSES): a benchmarking platform for molecular generation
models", Frontiers in Pharmacology 2020, section 4). G is the set of valid generated molecules, R a reference set, T the
Tanimoto similarity of Morgan fingerprints of radius 2 and 1,024 bits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
from rdkit.Chem.Scaffolds import MurckoScaffold

BITS = 1024
_MORGAN = GetMorganGenerator(radius=2, fpSize=BITS)
_BLOCK = 4096  # fingerprints compared at a time: 4096 x 4096 float32 is 64 MB

Bits = NDArray[np.uint8]


def validity(molecules: Sequence[Chem.Mol | None]) -> float:
    """Share of the samples that are molecules (None: not one). NaN for no samples."""
    return _share(sum(mol is not None for mol in molecules), len(molecules))


def uniqueness(canonical: Sequence[str], k: int | None = None) -> float:
    """unique@k: share of distinct canonical SMILES among the first k valid samples; among all if there are fewer."""
    first = canonical[:k]
    return _share(len(set(first)), len(first))


def novelty(canonical: Iterable[str], training: Collection[str]) -> float:
    """Share of the distinct generated molecules that are not in the training set: |G - train| / |G|."""
    distinct = set(canonical)
    return _share(sum(smiles not in training for smiles in distinct), len(distinct))


def fingerprints(
    molecules: Sequence[Chem.Mol], progress: Callable[[int], None] = lambda done: None
) -> NDArray[np.uint8]:
    """Morgan fingerprints, radius 2, 1,024 bits, packed: [len(molecules), 128] uint8."""
    packed = np.zeros((len(molecules), BITS // 8), dtype=np.uint8)
    for i, mol in enumerate(molecules):
        packed[i] = np.packbits(_MORGAN.GetFingerprintAsNumPy(mol).astype(bool))
        progress(i + 1)
    return packed


def tanimoto(a: Bits, b: Bits) -> NDArray[np.float32]:
    """Similarities |a and b| / |a or b| of packed fingerprints [A, 128] and [B, 128]: [A, B]; 1 for two empty ones."""
    x, y = (np.unpackbits(bits, axis=1).astype(np.float32) for bits in (a, b))
    both = x @ y.T
    either = x.sum(1)[:, None] + y.sum(1)[None, :] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)


def internal_diversity(bits: Bits, p: int = 1) -> float:
    """IntDiv_p(G) = 1 - ( 1 / |G|^2  sum_{x, y in G} T(x, y)^p )^(1/p), pairs of a molecule with itself included.

    The paper's formula. (The code published with it takes the root of each molecule's mean before averaging, which is
    the same for p = 1.)
    """
    total = 0.0
    for i in range(0, len(bits), _BLOCK):
        for j in range(0, len(bits), _BLOCK):
            total += float((tanimoto(bits[i : i + _BLOCK], bits[j : j + _BLOCK]).astype(np.float64) ** p).sum())
    return 1.0 - (total / len(bits) ** 2) ** (1.0 / p) if len(bits) else math.nan


def nearest_similarity(bits: Bits, reference: Bits, progress: Callable[[int], None] = lambda done: None) -> float:
    """SNN(G, R) = 1 / |G|  sum_{x in G} max_{y in R} T(x, y)."""
    best = np.zeros(len(bits), dtype=np.float32)
    for i in range(0, len(bits), _BLOCK):
        rows = slice(i, i + _BLOCK)
        for j in range(0, len(reference), _BLOCK):
            best[rows] = np.maximum(best[rows], tanimoto(bits[rows], reference[j : j + _BLOCK]).max(1))
        progress(min(i + _BLOCK, len(bits)))
    return float(best.astype(np.float64).mean()) if len(bits) and len(reference) else math.nan


def fragments(mol: Chem.Mol) -> list[str]:
    """The BRICS fragments of a molecule, with their attachment points, as SMILES."""
    return Chem.MolToSmiles(FragmentOnBRICSBonds(mol)).split(".")


def scaffold(mol: Chem.Mol) -> str:
    """The Bemis-Murcko scaffold as SMILES; empty if it has fewer than two rings."""
    core = MurckoScaffold.GetScaffoldForMol(mol)
    if core.GetNumAtoms() == 0:  # no rings at all, and RDKit has not looked for any
        return ""
    return Chem.MolToSmiles(core) if core.GetRingInfo().NumRings() >= 2 else ""


def count_fragments(molecules: Iterable[Chem.Mol]) -> Counter[str]:
    """How often each BRICS fragment occurs."""
    return Counter(fragment for mol in molecules for fragment in fragments(mol))


def count_scaffolds(molecules: Iterable[Chem.Mol]) -> Counter[str]:
    """How many molecules have each scaffold of at least two rings."""
    return Counter(text for text in map(scaffold, molecules) if text)


def cosine(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Frag, Scaf: <a, b> / (|a| |b|) of two vectors of counts; NaN if one of them is empty."""
    if not a or not b:
        return math.nan
    dot = sum(count * b.get(key, 0) for key, count in a.items())
    norms = [math.sqrt(sum(count * count for count in counts.values())) for counts in (a, b)]
    return dot / (norms[0] * norms[1])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
