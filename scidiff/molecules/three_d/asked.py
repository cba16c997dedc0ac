"""What a model was asked for and nothing certifies, beside what a network reads from the geometries that came."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scidiff.molecules.quantum import QUANTUM
from scidiff.molecules.three_d.conformers import ConformerRun
from scidiff.molecules.three_d.estimator import Estimator
from scidiff.molecules.three_d.oracle import with_positions


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Values that were asked for, of molecules with a geometry each.

    Attributes:
        values: by name of `QUANTUM`.
        estimates: of each molecule by the number of its record, all of `QUANTUM`; empty without an estimator.
        errors: the mean absolute error of the estimator itself, on molecules that it has not seen.
    """

    values: Mapping[str, float]
    estimates: Mapping[int, Mapping[str, float]]
    errors: Mapping[str, float]

    @classmethod
    def of(cls, values: Mapping[str, float], run: ConformerRun, estimator: Estimator | None) -> Asked:
        """Read the first conformer of every molecule; of values that are not in `QUANTUM` there is nothing to say."""
        values = {name: value for name, value in values.items() if name in QUANTUM}
        shown = [one for one in run.ensembles if one.conformers]
        if estimator is None or not shown:
            return cls(values=values, estimates={}, errors={})
        found = estimator.values([with_positions(one.record.mol, one.conformers[0].position) for one in shown])
        rows = (dict(zip(QUANTUM, row, strict=True)) for row in found.tolist())
        estimates = {one.record.number: row for one, row in zip(shown, rows, strict=True)}
        return cls(values=values, estimates=estimates, errors=estimator.card["held out"])

    def items(self, number: int) -> dict[str, str]:
        """Of one molecule, data items: what was asked for, and what is estimated."""
        asked = {f"asked_{name}": f"{value:g} {QUANTUM[name].unit}" for name, value in self.values.items()}
        found = self.estimates.get(number, {})
        return asked | {f"estimated_{name}": f"{found[name]:.4g} {QUANTUM[name].unit}" for name in found}

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The account of each property as plain values, for JSON."""
        account: dict[str, dict[str, object]] = {}
        for name, value in self.values.items():
            found = [one[name] for one in self.estimates.values()]
            account[name] = {"asked": value, "unit": QUANTUM[name].unit, "certified": False}
            if found:
                away = statistics.fmean(abs(one - value) for one in found)
                account[name] |= {"estimated_median": statistics.median(found), "estimated_mean_distance": away}
                account[name] |= {"estimator_error": self.errors[name]}
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
