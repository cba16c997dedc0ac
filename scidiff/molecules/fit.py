"""Training a molecule model on a list of SMILES."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scidiff import atomic
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.vocabulary import MAX_LENGTH, Vocabulary, encode_many
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.training.batches import SequenceBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Molecules as sequences of classes.

    Attributes:
        classes: [M, MAX_LENGTH] int16, -1 beyond the end.
        refused: how many molecules were refused for each reason.
    """

    classes: np.ndarray
    refused: Mapping[str, int]

    @property
    def lengths(self) -> np.ndarray:
        """Number of fragments of each molecule: [M]."""
        return (self.classes >= 0).sum(axis=1)

    def sequences(self) -> list[torch.Tensor]:
        """Each molecule's classes without the end."""
        return [torch.from_numpy(row[:n].copy()) for row, n in zip(self.classes, self.lengths, strict=True)]


def encode_cached(vocabulary: Vocabulary, smiles: Sequence[str], folder: Path, *, workers: int = 1) -> Encoded:
    """Encode molecules, or read them from `folder` if the same were encoded there before."""
    digest = hashlib.sha256("\n".join([*vocabulary.tokens, "", *smiles]).encode()).hexdigest()
    path = folder / f"encoded-{digest[:16]}.npz"
    if path.exists():
        with np.load(path) as held:
            reasons, counts = held["reasons"], held["counts"]
            return Encoded(classes=held["classes"], refused=dict(zip(reasons.tolist(), counts.tolist(), strict=True)))
    rows = np.full((len(smiles), MAX_LENGTH), -1, dtype=np.int16)
    refused: Counter[str] = Counter()
    kept = 0
    for classes, reason in encode_many(vocabulary, smiles, workers=workers):
        if classes is None:
            refused[reason.split(":")[0]] += 1
            continue
        rows[kept, : len(classes)] = classes
        kept += 1
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "classes": rows[:kept],
        "reasons": np.array(list(refused), dtype=str),
        "counts": np.array(list(refused.values()), dtype=np.int64),
    }

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    atomic.write(path, save)
    return Encoded(classes=rows[:kept], refused=dict(refused))


def bound(model: FragmentModel, held_out: Encoded, denoiser: nn.Module) -> float:
    """Mean negative evidence lower bound of held-out molecules given their length, in nats a molecule."""
    batches = SequenceBatches(held_out.sequences(), leaf=LEAF, tokens=8192)
    total = count = 0.0
    for position in range(batches.batches_per_epoch):
        batch = batches.at(position)
        noise = Noise(seed=1, index=batch.index)
        with torch.no_grad(), torch.autocast(batch.index.device.type, dtype=torch.bfloat16):
            values = loss(denoiser, model.processes, batch.x_0, batch.layout, noise)  # type: ignore[arg-type]
        total, count = total + float(values.double().sum()), count + len(values)
    return total / count


def fit(
    model: FragmentModel,
    data: Encoded,
    held_out: Encoded,
    config: TrainingConfig,
    *,
    out: Path,
    tokens: int = 4096,
    resume: bool = False,
) -> FragmentModel:
    """Train a model in the folder `out`; returns it with the averaged weights.

    Args:
        model: what to start from.
        data: the molecules to learn.
        held_out: molecules whose bound is reported.
        config: of the training loop.
        out: the run's folder.
        tokens: fragments in a batch.
        resume: go on from the newest checkpoint in `out`.
    """
    batches = SequenceBatches(data.sequences(), leaf=LEAF, tokens=tokens, seed=config.seed)
    result = train(
        model.denoiser,
        model.processes,
        batches,
        config,
        out=out,
        resume=resume,
        validate=lambda denoiser: {"held_out_bound_nats": bound(model, held_out, denoiser)},
        description=model.description(),
    )
    model.denoiser.load_state_dict(result.denoiser.state_dict())
    return replace(model, card={**model.card, **result.validation, "samples": result.samples, "steps": result.steps})
