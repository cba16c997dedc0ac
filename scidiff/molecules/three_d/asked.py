"""What a model was asked for and nothing certifies, beside what a network reads from the geometries that came."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.conformers import ConformerRun
from scidiff.molecules.three_d.estimator import Estimator
from scidiff.molecules.three_d.oracle import with_positions

Estimates = Mapping[int, Mapping[str, float]]
"""All of `QUANTUM` by the number of a molecule's record."""


@dataclass(kw_only=True)
class Asked:
    """Values that were asked for, and what is read of them from molecules with a geometry each.

    Attributes:
        values: by name of `QUANTUM`.
        reader: reads geometries; None: nothing does.
        found: by name, what was read so far.
    """

    values: Mapping[str, float]
    reader: Estimator | None
    found: dict[str, list[float]] = field(default_factory=dict)

    def read(self, run: ConformerRun) -> Estimates:
        """Estimates from the first conformer of every molecule; those of what was asked for are remembered."""
        shown = [one for one in run.ensembles if one.conformers]
        if self.reader is None or not shown:
            return {}
        read = self.reader.values([with_positions(one.record.mol, one.conformers[0].position) for one in shown])
        rows = [dict(zip(QUANTUM, row, strict=True)) for row in read.tolist()]
        for name in self.values:
            self.found.setdefault(name, []).extend(row[name] for row in rows)
        return {one.record.number: row for one, row in zip(shown, rows, strict=True)}

    def items(self, estimates: Mapping[str, float]) -> dict[str, str]:
        """Of one molecule, data items: what was asked for, and what is estimated."""
        asked = {f"asked_{name}": f"{value:g} {QUANTUM[name].unit}" for name, value in self.values.items()}
        return asked | {f"estimated_{name}": f"{value:.4g} {QUANTUM[name].unit}" for name, value in estimates.items()}

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The account of each property as plain values, for JSON."""
        account: dict[str, dict[str, object]] = {}
        for name, value in self.values.items():
            found = self.found.get(name, [])
            account[name] = {"asked": value, "unit": QUANTUM[name].unit, "certified": False}
            if found and self.reader is not None:
                away = statistics.fmean(abs(one - value) for one in found)
                account[name] |= {"estimated_median": statistics.median(found), "estimated_mean_distance": away}
                account[name] |= {"estimator_error": self.reader.card["held out"][name]}
        return account

    def lines(self) -> list[str]:
        """For people, one line a property."""
        found = []
        for name, one in self.as_dict().items():
            text = f"{name} = {one['asked']:g} {one['unit']} was asked of the model and is not certified"
            if "estimated_median" in one:
                text += (
                    f"; as a network reads the geometries: median {one['estimated_median']:.3g}, mean distance "
                    f"{one['estimated_mean_distance']:.2g} (its own error is {one['estimator_error']:.2g})"
                )
            found.append(text)
        return found
