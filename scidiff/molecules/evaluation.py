"""Generated molecules judged by the metrics of MOSES, against held-out real molecules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules import fcd, metrics
from scidiff.molecules.filters import passes
from scidiff.molecules.oracle import read_molecule
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import (
    Progress,
    floor_moments,
    locate,
    no_progress,
    prepare,
    reference_moments,
)

UNIQUE_AT = (1000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The samples against one reference set.

    Attributes:
        reference: its name, size its number of molecules.
        snn: mean similarity to the nearest reference molecule.
        fragments, scaffolds: cosine similarity of the counts.
        fcd: Frechet ChemNet distance; NaN without `fcd_torch`.
        fcd_floor: that of as many random training molecules, against the same reference: the least that is honest.
    """

    reference: str
    size: int
    snn: float
    fragments: float
    scaffolds: float
    fcd: float = math.nan
    fcd_floor: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a set of samples; all but `valid` are of the valid ones.

    Attributes:
        samples: number of samples.
        valid: share that are molecules, as they came.
        unique: share of distinct ones among all.
        unique_at: unique@k, the same among the first k, for k = 1,000 and 10,000 where there are as many.
        novelty: share of the distinct ones that are not in the training set.
        internal_diversity, internal_diversity_2: IntDiv_1 and IntDiv_2.
        filters: share that passes the medicinal-chemistry filters.
        comparisons: one a reference set.
    """

    samples: int
    valid: float
    unique: float
    unique_at: dict[int, float]
    novelty: float
    internal_diversity: float
    internal_diversity_2: float
    filters: float
    comparisons: tuple[Comparison, ...] = field(default=())

    def as_dict(self) -> dict[str, float | int]:
        """Metrics by the names that MOSES gives them; those that compare carry the reference's: `FCD/test`."""
        flat: dict[str, float | int] = {"samples": self.samples, "valid": self.valid, "unique": self.unique}
        flat |= {f"unique@{k}": value for k, value in self.unique_at.items()}
        flat |= {
            "novelty": self.novelty,
            "IntDiv": self.internal_diversity,
            "IntDiv2": self.internal_diversity_2,
            "filters": self.filters,
        }
        for c in self.comparisons:
            flat |= {f"SNN/{c.reference}": c.snn, f"Frag/{c.reference}": c.fragments}
            flat |= {f"Scaf/{c.reference}": c.scaffolds}
            far = {f"FCD/{c.reference}": c.fcd, f"FCD floor/{c.reference}": c.fcd_floor}
            flat |= {name: value for name, value in far.items() if not math.isnan(value)}
        return flat


def evaluate(
    smiles: Sequence[str],
    *,
    references: Sequence[str] = ("test", "test_scaffolds"),
    training: str = "train",
    with_fcd: bool | None = None,
    with_floor: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Evaluation:
    """Judge samples, given as SMILES and valid or not.

    Args:
        smiles: the samples as they came; text that is no molecule counts against validity and nowhere else.
        references: splits of MOSES (`test`, `test_scaffolds`) or files of SMILES.
        training: the split or file that novelty and the floor of FCD refer to.
        with_fcd: compute FCD (needs `fcd_torch`); None: if it is installed.
        with_floor: compute the floor of FCD, which takes as long as FCD itself.
        seed: chooses the training molecules of the floor.
        progress: told what is being done, and how far it is.

    Raises:
        UserError: no samples, none of them valid, or a reference that cannot be read.
    """
    if not smiles:
        raise UserError("expected samples to evaluate, got none")
    if with_fcd and not fcd.available():
        raise UserError("FCD needs ChemNet: expected the package fcd_torch, found none; pip install 'scidiff[bench]'")
    for name in (*references, training):
        if not locate(name).exists():
            raise UserError(f"cannot read {name}: no such file")
    read = [read_molecule(text)[0] for text in smiles]
    molecules = [mol for mol in read if mol is not None]
    if not molecules:
        raise UserError(f"expected molecules, got {len(smiles)} samples of which none is valid")
    canonical = [Chem.MolToSmiles(mol) for mol in molecules]
    bits = metrics.fingerprints(molecules, lambda done: progress("fingerprints", done, len(molecules)))
    passed = 0
    for done, mol in enumerate(molecules):
        passed += passes(mol)
        progress("filters", done + 1, len(molecules))
    compared = [_compare(name, molecules, bits, progress) for name in references]
    if len(molecules) > 1 and (fcd.available() if with_fcd is None else with_fcd):
        training_set = training if with_floor else None
        compared = _with_fcd(compared, canonical, references, training=training_set, seed=seed, progress=progress)
    return Evaluation(
        samples=len(smiles),
        valid=metrics.validity(read),
        unique=metrics.uniqueness(canonical),
        unique_at={k: metrics.uniqueness(canonical, k) for k in UNIQUE_AT if k <= len(canonical)},
        novelty=metrics.novelty(canonical, frozenset(read_smiles(locate(training)))),
        internal_diversity=metrics.internal_diversity(bits),
        internal_diversity_2=metrics.internal_diversity(bits, p=2),
        filters=passed / len(molecules),
        comparisons=tuple(compared),
    )


def _compare(name: str, molecules: Sequence[Chem.Mol], bits: metrics.Bits, progress: Progress) -> Comparison:
    reference = prepare(name, progress)
    snn = metrics.nearest_similarity(
        bits, reference.bits, lambda done: progress(f"nearest in {name}", done, len(molecules))
    )
    return Comparison(
        reference=Path(name).name,
        size=reference.size,
        snn=snn,
        fragments=metrics.cosine(metrics.count_fragments(molecules), reference.fragments),
        scaffolds=metrics.cosine(metrics.count_scaffolds(molecules), reference.scaffolds),
    )


def _with_fcd(
    compared: Sequence[Comparison],
    canonical: Sequence[str],
    references: Sequence[str],
    *,
    training: str | None,
    seed: int,
    progress: Progress,
) -> list[Comparison]:
    """The comparisons with FCD, and with its floor where there is a training set to draw from."""
    theirs = [reference_moments(name, progress) for name in references]
    progress("ChemNet on the samples", 0, len(canonical))
    ours = fcd.moments(canonical)
    found = [replace(c, fcd=fcd.frechet_distance(ours, m)) for c, m in zip(compared, theirs, strict=True)]
    if training is None:
        return found
    floor = floor_moments(training, len(canonical), seed, progress)
    return [replace(c, fcd_floor=fcd.frechet_distance(floor, m)) for c, m in zip(found, theirs, strict=True)]
