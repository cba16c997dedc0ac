"""What generated molecules are compared with: the splits of MOSES or any file, prepared once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rdkit
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.molecules import fcd, metrics
from scidiff.molecules.oracle import read_molecule
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.writers import replace_file

SPLITS = ("train", "test", "test_scaffolds")
Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


def no_progress(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A set of real molecules, prepared for comparison.

    Attributes:
        name: `test`, `test_scaffolds`, or the file it came from.
        size: number of molecules.
        bits: packed fingerprints [size, 128].
        fragments, scaffolds: counts of BRICS fragments and of scaffolds.
    """

    name: str
    size: int
    bits: metrics.Bits
    fragments: Counter[str]
    scaffolds: Counter[str]


def cache_folder() -> Path:
    """`$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`, else `~/.cache/scidiff`."""
    if os.environ.get("SCIDIFF_CACHE"):
        return Path(os.environ["SCIDIFF_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scidiff"


def locate(name: str) -> Path:
    """The file of a split of MOSES by its name, or the file itself.

    Raises:
        UserError: MOSES has not been fetched; the message says how.
    """
    if name not in SPLITS:
        return Path(name)
    path = cache_folder() / "moses" / f"{name}.csv.gz"
    if not path.exists():
        raise UserError(
            f"MOSES is not in {path.parent}: fetch it once with `python datasets/moses.py`, "
            "or give files with --reference and --train"
        )
    return path


def prepare(name: str, progress: Progress = no_progress) -> Reference:
    """A reference set by the name of a split or a file; the work is done once and kept in the cache.

    Raises:
        UserError: it cannot be read, or holds something that is no molecule.
    """
    path = locate(name)
    smiles = read_smiles(path)
    kept = cache_folder() / "reference" / f"{_digest(path)}-rdkit{rdkit.__version__}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            counts = json.loads(arrays["counts"].tobytes())
            return Reference(
                name=name,
                size=len(smiles),
                bits=arrays["bits"],
                fragments=Counter(counts["fragments"]),
                scaffolds=Counter(counts["scaffolds"]),
            )
    reference = _prepare(name, smiles, progress)
    counts = {"fragments": reference.fragments, "scaffolds": reference.scaffolds}
    text = np.frombuffer(json.dumps(counts).encode(), dtype=np.uint8)
    _keep(kept, bits=reference.bits, counts=text)
    return reference


def _prepare(name: str, smiles: list[str], progress: Progress) -> Reference:
    bits = np.zeros((len(smiles), metrics.BITS // 8), dtype=np.uint8)
    fragments: Counter[str] = Counter()
    scaffolds: Counter[str] = Counter()
    for i, text in enumerate(smiles):
        mol, problem = read_molecule(text)
        if mol is None:
            raise UserError(f"reference {name}: molecule {i + 1}, {text!r}, is {problem}")
        bits[i] = metrics.fingerprints([mol])[0]
        fragments.update(metrics.fragments(mol))
        scaffolds.update(metrics.count_scaffolds([mol]))
        progress(f"preparing reference {name}, once", i + 1, len(smiles))
    return Reference(name=name, size=len(smiles), bits=bits, fragments=fragments, scaffolds=scaffolds)


def reference_moments(name: str, progress: Progress = no_progress) -> fcd.Moments:
    """ChemNet's moments of a reference set: those that MOSES publishes for its test splits, else computed and kept."""
    path = locate(name)
    published = cache_folder() / "moses" / f"{name}_fcd.npz"
    if name in SPLITS and published.exists():
        with np.load(published) as arrays:
            return fcd.Moments(mean=arrays["mu"], covariance=arrays["sigma"])
    return _moments(f"{_digest(path)}-all", read_smiles(path), f"ChemNet on reference {name}, once", progress)


def floor_moments(training: str, count: int, seed: int, progress: Progress = no_progress) -> fcd.Moments:
    """ChemNet's moments of `count` random molecules of the training set: what no generator's FCD at this size beats."""
    path = locate(training)
    smiles = read_smiles(path)
    chosen = random.Random(seed).sample(smiles, min(count, len(smiles)))
    return _moments(f"{_digest(path)}-{count}-{seed}", chosen, f"ChemNet on {len(chosen)} training molecules", progress)


def _moments(key: str, smiles: list[str], what: str, progress: Progress) -> fcd.Moments:
    kept = cache_folder() / "reference" / f"chemnet-{key}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return fcd.Moments(mean=arrays["mean"], covariance=arrays["covariance"])
    progress(what, 0, len(smiles))
    found = fcd.moments([Chem.CanonSmiles(text) for text in smiles])
    progress(what, len(smiles), len(smiles))
    _keep(kept, mean=found.mean, covariance=found.covariance)
    return found


def _keep(path: Path, **arrays: np.ndarray) -> None:
    """Keep arrays in the cache. A cache that cannot be written is no error: the work is done again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda stream: np.savez(stream, **arrays))  # type: ignore[arg-type]
    except (UserError, OSError):
        return


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
