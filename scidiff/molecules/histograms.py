"""Histograms of molecular properties on fixed bins, and those of the training set that reports compare with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from rdkit import Chem

from scidiff.molecules.properties import NUMERIC, PROPERTIES, Value, compute

# First edge, bin width, number of bins. Counts have one bin a whole number, centred on it.
BINS: dict[str, tuple[float, float, int]] = {
    "qed": (0.0, 0.025, 40),
    "logp": (-4.0, 0.25, 48),
    "mw": (0.0, 10.0, 80),
    "sa": (1.0, 0.2, 45),
    "tpsa": (0.0, 5.0, 50),
    "hbd": (-0.5, 1.0, 12),
    "hba": (-0.5, 1.0, 20),
    "rotatable_bonds": (-0.5, 1.0, 20),
    "rings": (-0.5, 1.0, 12),
    "heavy_atoms": (-0.5, 1.0, 60),
    "charge": (-4.5, 1.0, 9),
}


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of one property on the bins of `BINS`; values beyond the ends count in the end bins."""

    name: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.counts)


def histogram(name: str, values: Iterable[Value]) -> Histogram:
    """The histogram of numeric values of one property."""
    first, width, bins = BINS[name]
    counts = [0] * bins
    for value in values:
        place = int((float(value) - first) // width)
        counts[min(max(place, 0), bins - 1)] += 1
    return Histogram(name=name, counts=tuple(counts))


def histograms_of(
    smiles: Sequence[str], progress: Callable[[int], None] = lambda done: None
) -> dict[str, tuple[int, ...]]:
    """Counts of every numeric property over molecules; `progress` is told how many are done, now and then."""
    values: dict[str, list[Value]] = {name: [] for name in NUMERIC}
    for done, text in enumerate(smiles):
        if done % 5000 == 0:
            progress(done)
        for name, value in compute(Chem.MolFromSmiles(text), NUMERIC).items():
            values[name].append(value)
    return {name: histogram(name, values[name]).counts for name in NUMERIC}


def training_histograms() -> dict[str, Histogram]:
    """Histograms of 50,000 random molecules of the MOSES training set, stored with the package."""
    text = resources.files("scidiff.molecules").joinpath("data/moses_train_histograms.json").read_text()
    counts = json.loads(text)["histograms"]
    return {name: Histogram(name=name, counts=tuple(counts[name])) for name in PROPERTIES if name in counts}
