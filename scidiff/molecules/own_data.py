"""Your own molecules: read, refused with a reason or taken, split, learned, and what is written about it.

FOLDER/weights.json weights.safetensors    the model, for `generate --model FOLDER`
FOLDER/README.md report.html refused.csv   its card, the histograms of the data, the rows that were refused
FOLDER/run/                                record, log and checkpoints, from which `resume` goes on
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.molecules.census import Census
from scidiff.molecules.fit import TOKENS, Encoded, beginning, bound, fit, recipe
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.oracle import read_molecule
from scidiff.molecules.readers import read_rows
from scidiff.molecules.scores import Scores
from scidiff.molecules.telling import measured
from scidiff.molecules.vocabulary import MAX_LENGTH, Vocabulary, encode_many
from scidiff.training import checkpoint
from scidiff.training.config import TrainingConfig

LEAST = 50  # molecules without which nothing is learned
HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 2000
PATIENCE = 8  # validations without a lower bound
_COMPILED = 5.0  # minutes of training from which compiling the network pays
_SCORED = 10_000  # molecules that the scores of fragments are fitted to, at most
_FROM_WEIGHTS = {"learning_rate": 5e-4, "muon_learning_rate": 1e-3}


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that is not learned.

    Attributes:
        file: where it stands.
        line: the line of a text file; the number of the row or structure of others, from 1.
        smiles: as it stands there.
        reason: why.
    """

    file: str
    line: int
    smiles: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The molecules of a file.

    Attributes:
        file: its path, and sha256 its digest.
        rows: how many it has.
        taken: those that are molecules, each once: line and canonical SMILES.
        refused: the others.
    """

    file: str
    sha256: str
    rows: int
    taken: tuple[tuple[int, str], ...]
    refused: tuple[Refused, ...]


def read(path: Path, *, flatten: bool = False) -> Dataset:
    """Read a file of molecules.

    Args:
        path: .smi, .txt, .csv or .sdf, .gz too, or .parquet.
        flatten: take molecules without their stereochemistry, which models cannot write, rather than refuse them.

    Raises:
        UserError: the file cannot be read or has too few molecules.
    """
    rows = read_rows(path)
    taken: dict[str, int] = {}
    refused = []
    for line, text in rows:
        mol, reason = read_molecule(text)
        canonical = "" if mol is None else Chem.MolToSmiles(mol, isomericSmiles=not flatten)
        if not reason and canonical in taken:
            reason = f"duplicate of {taken[canonical]}"
        if reason:
            refused.append(Refused(file=path.name, line=line, smiles=text, reason=reason))
        else:
            taken[canonical] = line
    found = tuple((line, smiles) for smiles, line in taken.items())
    digest = atomic.sha256(path)
    return Dataset(file=str(path), sha256=digest, rows=len(rows), taken=found, refused=tuple(refused))


@dataclass(frozen=True, kw_only=True)
class Split:
    """What is learned and what is held out, as classes of a vocabulary, and what it cannot write."""

    vocabulary: Vocabulary
    data: Encoded
    held_out: Encoded
    smiles: tuple[str, ...]
    refused: tuple[Refused, ...]


def split(data: Dataset, vocabulary: Vocabulary | None, *, seed: int, workers: int = 1) -> Split:
    """Hold out a random tenth (at most 2,000) and write all in the vocabulary; None: one of what is not held out.

    Raises:
        UserError: too few molecules can be written.
    """
    order = list(data.taken)
    random.Random(seed).shuffle(order)
    held = min(HELD_OUT_MOST, round(HELD_OUT_SHARE * len(order)))
    parts = order[held:], order[:held]
    if vocabulary is None and order:
        vocabulary = Vocabulary.build([smiles for _, smiles in parts[0]], TOKENS, workers=workers)
    refused = list(data.refused)
    encoded, kept = [], []
    for part in parts:
        classes = []
        found = encode_many(vocabulary, (smiles for _, smiles in part), workers=workers) if vocabulary else ()
        for (line, smiles), (row, reason) in zip(part, found, strict=True):
            if row is None:
                refused.append(Refused(file=Path(data.file).name, line=line, smiles=smiles, reason=reason))
            else:
                classes.append(row)
                kept.append(smiles)
        encoded.append(_padded(classes))
    if vocabulary is None or len(kept) < LEAST or not len(encoded[1].classes):
        raise UserError(_too_few(data.file, data.rows, len(kept), refused))
    refused.sort(key=lambda row: row.line)
    return Split(
        vocabulary=vocabulary, data=encoded[0], held_out=encoded[1], smiles=tuple(kept), refused=tuple(refused)
    )


def _too_few(file: str, rows: int, kept: int, refused: Sequence[Refused]) -> str:
    first = f"; line {refused[0].line}: {refused[0].reason}" if refused else ""
    return (
        f"{file}: expected at least {LEAST} different molecules that can be learned, got {kept} in {rows} rows{first}"
    )


def _padded(rows: Sequence[Sequence[int]]) -> Encoded:
    classes = np.full((len(rows), MAX_LENGTH), -1, dtype=np.int16)
    for k, row in enumerate(rows):
        classes[k, : len(row)] = row
    return Encoded(classes=classes, refused={})


def learn(
    path: Path,
    out: Path,
    *,
    start: FragmentModel | None,
    minutes: float = 20.0,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    flatten: bool = False,
    workers: int = 1,
    command: str = "",
    init: str = "none",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Learn the molecules of a file; afterwards `out` holds a model with its card and its reports.

    A random tenth is held out. Training stops when its bound no longer falls, and the weights of the lowest bound are
    kept, so that few molecules are not learned by heart.

    Args:
        path: the molecules.
        out: the folder.
        start: the model to go on from; None: fresh weights, and a vocabulary of the data's own.
        minutes: of training at most; the last 30 % anneal.
        seed: of the split, the noise and the order.
        device: `cpu`, `cuda`, ...
        resume: go on with the run in `out`.
        flatten: take molecules without their stereochemistry.
        workers: processes that encode molecules.
        command, init: how it was started, for the card.
        say: takes lines on what is being done.

    Returns:
        The card: plain values.

    Raises:
        UserError: the file or the folder is not what it should be.
    """
    _check(out, minutes=minutes, resume=resume)
    data = read(path, flatten=flatten)
    parts = split(data, None if start is None else start.vocabulary, seed=seed, workers=workers)
    out.mkdir(parents=True, exist_ok=True)
    write_refused(out / "refused.csv", parts.refused)
    learned, held = len(parts.data.classes), len(parts.held_out.classes)
    say(f"{learned:,} molecules to learn, {held:,} held out, {len(parts.refused):,} of {data.rows:,} rows refused")
    parts = _measured(parts, workers=workers)
    model = _beginning(parts, start, seed=seed, device=device)
    before = bound(model, parts.held_out, model.denoiser)
    say(f"held-out bound before: {before:.2f} nats a molecule")
    config = _recipe(minutes, seed, learned, warm=start is not None)
    fitted = fit(model, parts.data, parts.held_out, config, out=out / "run", resume=resume, patience=PATIENCE)
    made = {"init": init, "seed": seed, "command": command, "torch": torch.__version__}
    read_from = {"file": path.name, "sha256": data.sha256, "rows": data.rows}
    card = {**fitted.card, "held_out_bound_before_nats": before, "data": read_from, **_account(parts), **made}
    _finish(replace(fitted, card=card), parts, out)
    return card


def _finish(model: FragmentModel, parts: Split, out: Path) -> None:
    """Write the reports, then the weights."""
    from scidiff.molecules.data_report import write_card, write_data_report

    write_data_report(out / "report.html", parts.smiles, model.card)
    write_card(out / "README.md", model.card)
    data, source = parts.data, model.card["data"]["file"]
    if data.values is not None:
        Scores.fit(model.vocabulary, data.classes[:_SCORED], data.values[:_SCORED], source=source).save(out)
        Census.of(data.lengths, data.values).save(out)
    _place(model, out)


def _measured(parts: Split, *, workers: int) -> Split:
    """With the properties of the molecules, of which the model is to be told."""
    data, held_out = (
        replace(part, values=measured(parts.vocabulary, part.classes, workers=workers))
        for part in (parts.data, parts.held_out)
    )
    return replace(parts, data=data, held_out=held_out)


def _beginning(parts: Split, start: FragmentModel | None, *, seed: int, device: str) -> FragmentModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of fresh weights
        model = beginning(parts.vocabulary, parts.data, start)
    model.denoiser.to(device)
    return model


def _recipe(minutes: float, seed: int, learned: int, *, warm: bool) -> TrainingConfig:
    return recipe(
        minutes=minutes,
        seed=seed,
        compile=minutes >= _COMPILED,
        validate_every=max(20, min(500, learned // 100)),
        checkpoint_minutes=min(5.0, minutes / 5),
        log_seconds=10,
        **(_FROM_WEIGHTS if warm else {}),
    )


def _account(parts: Split) -> dict[str, Any]:
    """What became of the rows, for the card."""
    reasons = Counter(general(row.reason) for row in parts.refused)
    return {
        "molecules": len(parts.data.classes),
        "held_out": len(parts.held_out.classes),
        "refused": dict(reasons.most_common()),
        "vocabulary": len(parts.vocabulary.tokens),
    }


def general(reason: str) -> str:
    """What reasons of many rows have in common."""
    return "duplicate" if reason.startswith("duplicate") else reason.partition(":")[0]


def _check(out: Path, *, minutes: float, resume: bool) -> None:
    """Find out what cannot be done before any work starts."""
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes: expected more than 0, got {minutes:g}")
    began = bool(checkpoint.folders(out / "run" / "checkpoints"))
    if began and not resume:
        raise UserError(f"{out}: expected a new folder, got one with a run: --resume goes on with it")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / "run").is_dir():
        raise UserError(f"{out}: expected a new or empty folder, got one with other files")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {one_line(error)}") from None
    atomic.check_writable(out / "weights.json")


def write_refused(path: Path, refused: Iterable[Refused]) -> None:
    """The refused rows as a table: file, line, smiles, reason."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "line", "smiles", "reason"])
    table.writerows([row.file, row.line, row.smiles, row.reason] for row in refused)
    atomic.write_text(path, text.getvalue())


def _place(model: FragmentModel, out: Path) -> None:
    """Put the weights into a folder that holds other files too; the record, which says what they are, comes last."""
    model.save(out / "run" / "model")
    made = sorted((out / "run" / "model").iterdir(), key=lambda file: file.suffix == ".json")
    for file in made:
        file.replace(out / file.name)
    (out / "run" / "model").rmdir()


def card_lines(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The card for people: what and how much."""
    data = card["data"]
    return [
        ("Data", f"{data['file']}, {data['rows']:,} rows"),
        ("SHA-256 of the data", data["sha256"]),
        ("Learned", f"{card['molecules']:,} molecules"),
        ("Held out", f"{card['held_out']:,} molecules"),
        ("Refused", f"{sum(card['refused'].values()):,} rows, in refused.csv"),
        ("Weights to begin with", card["init"]),
        ("Vocabulary", f"{card['vocabulary']:,} fragments"),
        (
            "Held-out bound before",
            f"{card['held_out_bound_before_nats']:.2f} nats a molecule, given its fragments' number",
        ),
        ("Held-out bound after", f"{card['held_out_bound_nats']:.2f} nats a molecule"),
        (
            "Training",
            f"{card['steps']:,} steps, {card['samples']:,} molecules seen, {card['seconds']:.0f} s"
            + (", stopped early: the bound no longer fell" if card["stopped_early"] else ""),
        ),
        ("Seed", str(card["seed"])),
        ("Command", card["command"] or "from Python"),
        ("torch", card["torch"]),
    ]
