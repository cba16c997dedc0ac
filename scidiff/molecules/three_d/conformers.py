"""Certified conformers of given molecules: draw, certify, count, until as many as asked for hold.

A conformer is a function of (seed, number of the record, draw). What fails is refused and counted, never repaired.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.interrupts import held_back
from scidiff.molecules.three_d.draws import STEPS
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.three_d.records import Record, Refused
from scidiff.molecules.three_d.rule_oracle import broken
from scidiff.molecules.three_d.tiles import STRIDE, Asked, draw

TOGETHER = 4096  # draws of several molecules at a time, about
MOST = 1000  # conformers asked of a molecule
PATIENCE, LEAST = 4, 10  # draws for each conformer asked for at most, and for all of a molecule


@dataclass(frozen=True, kw_only=True)
class Conformer:
    """One certified conformer.

    Attributes:
        draw: its number among the draws of its molecule.
        position: float64 [n, 3], angstrom, in the order of the molecule's atoms.
    """

    draw: int
    position: np.ndarray


@dataclass(kw_only=True)
class Ensemble:
    """The conformers of one molecule, and the account of its draws: drawn = certified + refused.

    Attributes:
        record: the molecule.
        conformers: those certified, in the order of their draws.
        drawn: how many were looked at.
        reasons: how many draws each reason refused; a draw can have several.
    """

    record: Record
    conformers: list[Conformer] = field(default_factory=list)
    drawn: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def mol(self) -> Chem.Mol:
        """The molecule with all hydrogens and its certified conformers."""
        mol = Chem.Mol(self.record.mol)
        mol.RemoveAllConformers()
        for one in self.conformers:
            mol.AddConformer(with_positions(mol, one.position).GetConformer(), assignId=True)
        return mol


@dataclass(kw_only=True)
class Tally:
    """The account of ensembles that are not held any more.

    Attributes:
        molecules, certified, drawn: how many molecules, conformers, draws.
        reasons: how many draws each reason refused.
        short: of molecules with fewer conformers than requested, the record and how many they have.
    """

    molecules: int = 0
    certified: int = 0
    drawn: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    short: list[tuple[int, int]] = field(default_factory=list)

    def add(self, one: Ensemble, requested: int) -> None:
        """Count an ensemble."""
        self.molecules += 1
        self.certified += len(one.conformers)
        self.drawn += one.drawn
        self.reasons += one.reasons
        if len(one.conformers) < requested:
            self.short.append((one.record.number, len(one.conformers)))


@dataclass(kw_only=True)
class ConformerRun:
    """The ensembles of a file and their account.

    Attributes:
        requested: conformers of each molecule.
        seed, steps: of the draws.
        ensembles: of the molecules that were read, in their order.
        refused: the records that were not.
        seconds: of drawing and certifying.
        interrupted: ended by Ctrl-C; the ensembles are whole.
        past: of ensembles that are not held any more.
    """

    requested: int
    seed: int
    steps: int
    ensembles: list[Ensemble] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    past: Tally = field(default_factory=Tally)

    def take(self, part: ConformerRun, *, most: int) -> None:
        """Add another run of the same request; of its ensembles only so many are held that there are `most` in all."""
        room = max(0, most - len(self.ensembles))
        self.ensembles += part.ensembles[:room]
        for one in part.ensembles[room:]:
            self.past.add(one, self.requested)
        self.refused += part.refused
        self.seconds += part.seconds
        self.interrupted |= part.interrupted

    @property
    def molecules(self) -> int:
        """Number of ensembles, those not held any more among them."""
        return self.past.molecules + len(self.ensembles)

    @property
    def short(self) -> list[Ensemble]:
        """Those held with fewer conformers than requested."""
        return [one for one in self.ensembles if len(one.conformers) < self.requested]

    def summary(self) -> str:
        """One line: molecules, conformers, draws, refusals and why."""
        why = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        return (
            f"molecules {self.molecules}, refused records {len(self.refused)}; conformers certified "
            f"{self.certified} of {self.requested * self.molecules}, drawn {self.drawn}, "
            f"refused {self.drawn - self.certified}" + (f" ({why})" if why else "")
        )

    @property
    def certified(self) -> int:
        """Number of conformers."""
        return self.past.certified + sum(len(one.conformers) for one in self.ensembles)

    @property
    def drawn(self) -> int:
        """Number of draws."""
        return self.past.drawn + sum(one.drawn for one in self.ensembles)

    @property
    def reasons(self) -> Counter[str]:
        """How many draws each reason refused."""
        return sum((one.reasons for one in self.ensembles), self.past.reasons)

    def as_dict(self) -> dict[str, object]:
        """The account as plain values, for JSON."""
        short = sorted([*self.past.short, *((one.record.number, len(one.conformers)) for one in self.short)])
        return {
            "molecules": self.molecules,
            "refused_records": len(self.refused),
            "requested": self.requested * self.molecules,
            "certified": self.certified,
            "drawn": self.drawn,
            "refused": self.drawn - self.certified,
            "reasons": dict(self.reasons.most_common()),
            "short": [{"record": number, "certified": count} for number, count in short],
            "seed": self.seed,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
        }


def conformers(
    records: Sequence[Record | Refused],
    *,
    num: int,
    model: ConformerModel,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConformerRun:
    """Draw conformers of every record that can be, until `num` of each are certified.

    Args:
        records: from `records.read`.
        num: conformers of each molecule, 1 to 1,000. At most four times as many are drawn.
        model: on the device to draw on.
        seed: in [0, 2^64).
        steps: network calls a draw.
        progress: told of molecules done and all.

    Raises:
        UserError: an argument out of range. Ctrl-C ends the run between two tiles and keeps the molecules it has done.
    """
    if not 1 <= num <= MOST:
        raise UserError(f"--num: expected 1 to {MOST}, got {num}")
    if not 0 <= seed < 2**64:
        raise UserError(f"--seed: expected 0 <= seed < 2^64, got {seed}")
    if not 1 <= steps <= 1000:
        raise UserError(f"--steps: expected 1 to 1000, got {steps}")
    last = max((record.number for record in records), default=0)
    if last >= 2**32 // STRIDE:
        raise UserError(f"expected records numbered below {2**32 // STRIDE:,}, got {last:,}")
    run = ConformerRun(requested=num, seed=seed, steps=steps)
    run.refused = [record for record in records if isinstance(record, Refused)]
    readable = [record for record in records if isinstance(record, Record)]
    began, some = time.perf_counter(), max(1, TOGETHER // num)
    for first in range(0, len(readable), some):
        ensembles = [Ensemble(record=record) for record in readable[first : first + some]]
        try:
            for done in _filled(ensembles, num, model=model, seed=seed, steps=steps):
                progress(first + done, len(readable))
        except KeyboardInterrupt:
            run.interrupted = True
        run.ensembles += [one for one in ensembles if not _missing(one, num)]
        if run.interrupted:
            break
    run.seconds = time.perf_counter() - began
    return run


def _filled(ensembles: Sequence[Ensemble], num: int, *, model: ConformerModel, seed: int, steps: int) -> Iterator[int]:
    """Draw for all ensembles together until none misses any; tells after each draw how many are whole."""
    whole = 0
    while True:
        places = [(one, one.drawn + k) for one in ensembles for k in range(_missing(one, num))]
        if not places:
            return
        asked = [Asked(record=one.record, draw=number) for one, number in places]
        for place, position in draw(asked, model=model, seed=seed, steps=steps):
            one, number = places[place]
            with held_back():
                reasons = refusals(one.record.mol, position, one.record.fixed)
                reasons += broken(one.record.rules, one.record.mol, position)
            one.drawn += 1
            one.reasons.update(reasons)
            if not reasons:
                one.conformers.append(Conformer(draw=number, position=position))
            whole += not _missing(one, num)
            yield whole


def _missing(one: Ensemble, num: int) -> int:
    """How many more draws of a molecule to look at."""
    return min(num - len(one.conformers), max(PATIENCE * num, LEAST) - one.drawn)
