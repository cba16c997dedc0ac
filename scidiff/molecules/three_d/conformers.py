"""Certified conformers of given molecules: draw, certify, count, until as many as asked for hold.

A conformer is a function of (seed, number of the record, draw). What fails is refused and counted, never repaired.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.interrupts import held_back
from scidiff.molecules.three_d.batches import condition_of, harmonic_of
from scidiff.molecules.three_d.draws import STEPS, positions
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.oracle import refusals, with_positions
from scidiff.molecules.three_d.records import Record, Refused

TILE = 10  # conformers of one molecule drawn together
MOST = 1000  # conformers asked of a molecule
STRIDE = 4096  # draws of a molecule, at most; draw k of record number r is sample r * STRIDE + k of the run
PATIENCE = 4  # draws for each conformer asked for, at most


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
class ConformerRun:
    """The ensembles of a file and their account.

    Attributes:
        requested: conformers of each molecule.
        seed, steps: of the draws.
        ensembles: of the molecules that were read, in their order.
        refused: the records that were not.
        seconds: of drawing and certifying.
        interrupted: ended by Ctrl-C; the ensembles are whole.
    """

    requested: int
    seed: int
    steps: int
    ensembles: list[Ensemble] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def short(self) -> list[Ensemble]:
        """Those with fewer conformers than requested."""
        return [one for one in self.ensembles if len(one.conformers) < self.requested]

    def summary(self) -> str:
        """One line: molecules, conformers, draws, refusals and why."""
        why = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        return (
            f"molecules {len(self.ensembles)}, refused records {len(self.refused)}; conformers certified "
            f"{self.certified} of {self.requested * len(self.ensembles)}, drawn {self.drawn}, "
            f"refused {self.drawn - self.certified}" + (f" ({why})" if why else "")
        )

    @property
    def certified(self) -> int:
        """Number of conformers."""
        return sum(len(one.conformers) for one in self.ensembles)

    @property
    def drawn(self) -> int:
        """Number of draws."""
        return sum(one.drawn for one in self.ensembles)

    @property
    def reasons(self) -> Counter[str]:
        """How many draws each reason refused."""
        return sum((one.reasons for one in self.ensembles), Counter())

    def as_dict(self) -> dict[str, object]:
        """The account as plain values, for JSON."""
        return {
            "molecules": len(self.ensembles),
            "refused_records": len(self.refused),
            "requested": self.requested * len(self.ensembles),
            "certified": self.certified,
            "drawn": self.drawn,
            "refused": self.drawn - self.certified,
            "reasons": dict(self.reasons.most_common()),
            "short": [{"record": one.record.number, "certified": len(one.conformers)} for one in self.short],
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
        UserError: an argument out of range. Ctrl-C ends the run between two tiles and keeps what is whole.
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
    began = time.perf_counter()
    try:
        for done, record in enumerate(readable):
            progress(done, len(readable))
            run.ensembles.append(_ensemble(record, num, model=model, seed=seed, steps=steps))
    except KeyboardInterrupt:
        run.interrupted = True
    run.seconds = time.perf_counter() - began
    return run


def _ensemble(record: Record, num: int, *, model: ConformerModel, seed: int, steps: int) -> Ensemble:
    found = Ensemble(record=record)
    for draw, position in _draws(record, model=model, seed=seed, steps=steps):
        with held_back():
            reasons = refusals(record.mol, position, record.fixed)
        found.drawn += 1
        found.reasons.update(reasons)
        if not reasons:
            found.conformers.append(Conformer(draw=draw, position=position))
        if len(found.conformers) == num or found.drawn >= max(PATIENCE * num, TILE):
            return found
    return found


def _draws(record: Record, *, model: ConformerModel, seed: int, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """The draws of a molecule, one after another; always TILE of them together, so that each is the same to the bit."""
    device = next(model.denoiser.parameters()).device
    condition = {name: value.to(device) for name, value in condition_of([record.graph] * TILE).items()}
    part = None
    if record.fixed:
        root = torch.as_tensor(harmonic_of(record.graph)[0], device=device)
        part = RigidPart.of(record.fixed, record.mol.GetConformer().GetPositions(), root)
    for first in range(0, STRIDE - TILE, TILE):
        index = record.number * STRIDE + first + torch.arange(TILE, device=device)
        x = positions(model.denoiser, model.processes, condition, seed=seed, index=index, steps=steps, part=part)
        yield from zip(range(first, first + TILE), x.double().cpu().numpy(), strict=True)
