"""Training a molecule model on a list of SMILES: what `scidiff molecules train` and the shipped weights share."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from scidiff import atomic
from scidiff import weights as files
from scidiff.molecules.edges import Edges
from scidiff.molecules.model import LEAF, FragmentModel, ModelConfig
from scidiff.molecules.scores import SCORED
from scidiff.molecules.telling import Facts, Told
from scidiff.molecules.vocabulary import MAX_LENGTH, Vocabulary, encode_many
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.training.batches import SequenceBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import Objective, train

TOKENS = 4096  # size of a vocabulary, and fragments in a batch
_LEAST_SEEN = 1000  # molecules, with repetitions, that a bound is the mean of


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Molecules as sequences of classes.

    Attributes:
        classes: [M, MAX_LENGTH] int16, -1 beyond the end.
        refused: how many molecules were refused for each reason.
        values: their properties `SCORED`, float64 [M, P], of which a model may be told; None if it is told of none.
    """

    classes: np.ndarray
    refused: Mapping[str, int]
    values: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of fragments of each molecule: [M]."""
        return (self.classes >= 0).sum(axis=1)

    def sequences(self) -> list[torch.Tensor]:
        """Each molecule's classes without the end."""
        return [torch.from_numpy(row[:n].copy()) for row, n in zip(self.classes, self.lengths, strict=True)]

    def batches(self, *, tokens: int, seed: int = 0) -> SequenceBatches:
        """Batches of them, with their values as condition."""
        condition = None if self.values is None else torch.from_numpy(self.values)
        return SequenceBatches(self.sequences(), leaf=LEAF, tokens=tokens, seed=seed, condition=condition)


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


def recipe(*, minutes: float | None, seed: int, **others: Any) -> TrainingConfig:
    """The settings that the shipped weights were trained with; `others` replace some of them."""
    settings: dict[str, Any] = {
        "optimiser": "muon",
        "learning_rate": 2e-3,
        "muon_learning_rate": 5e-3,
        "not_hidden": ("*embed*", "*modulat*", "*condition*", "*length*", "*told*"),
        "schedule": "stable",
        "decay_fraction": 0.3,
        "warmup_steps": 40,
        "ema_decay": 0.998,
        "precision": "bfloat16",
        "compile": True,
        "log_seconds": 30,
        "validate_every": 1000,
    }
    return TrainingConfig(max_minutes=minutes, seed=seed, **{**settings, **others})


def beginning(vocabulary: Vocabulary, data: Encoded, start: FragmentModel | None) -> FragmentModel:
    """A model with the lengths of the data, and the weights of `start` if there are any (of the same vocabulary).

    If the data have values it can be told of them: at the edges of `start`, else at those of the data.
    """
    lengths = tuple(np.bincount(data.lengths, minlength=MAX_LENGTH + 1).tolist())
    config = replace(ModelConfig() if start is None else start.config, lengths=lengths)
    if data.values is not None and not config.edges:
        config = replace(config, edges=Edges.between(SCORED, data.values).of)
    model = FragmentModel.create(vocabulary, config)
    if start is not None:
        fresh = model.denoiser.state_dict()  # of what is told, if `start` cannot be told
        model.denoiser.load_state_dict({**fresh, **start.denoiser.state_dict()})
    return model


def bound(model: FragmentModel, held_out: Encoded, denoiser: nn.Module, *, told: Facts | None = None) -> float:
    """Mean negative evidence lower bound of held-out molecules given their length, in nats a molecule.

    With the same noise at every call. Few molecules are looked at several times, each time with other noise.

    Args:
        model: what the denoiser belongs to.
        held_out: the molecules.
        denoiser: with the weights to be judged.
        told: what it is told of the molecules' properties; None for nothing.
    """
    batches = held_out.batches(tokens=8192)
    device = next(denoiser.parameters()).device
    objective: Objective = loss if told is None else Told(facts=told)
    total = count = 0.0
    for position in range(batches.batches_per_epoch * math.ceil(_LEAST_SEEN / len(held_out.classes))):
        batch = batches.at(position).to(device)
        noise = Noise(seed=1, index=batch.index)
        condition = None if told is None else batch.condition
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            values = objective(denoiser, model.processes, batch.x_0, batch.layout, noise, condition=condition)  # type: ignore[arg-type]
        total, count = total + float(values.double().sum()), count + len(values)
    return total / count


def bounds(model: FragmentModel, held_out: Encoded, denoiser: nn.Module) -> dict[str, float]:
    """The held-out bound, and that of a denoiser which is told of the molecules' values, if they are known."""
    found = {"held_out_bound_nats": bound(model, held_out, denoiser)}
    if held_out.values is not None:
        found["held_out_bound_told_nats"] = bound(model, held_out, denoiser, told=model.edges.some)
    return found


class Best:
    """The averaged weights with the lowest held-out bound so far, kept on disk, and whether to stop (early stopping).

    Args:
        folder: where they are kept; what is there already is taken up.
        model: what the weights belong to, and the first of them.
        measure: the bound of a denoiser.
        patience: validations without a lower bound after which it is enough.
    """

    def __init__(
        self, folder: Path, model: FragmentModel, measure: Callable[[nn.Module], float], patience: int
    ) -> None:
        self._folder, self._model, self._measure, self._patience = folder, model, measure, patience
        self._since = 0
        if not (folder / files.RECORD).is_file():
            self._keep(model.denoiser, measure(model.denoiser))
        self.bound = float(files.load(folder).card["held_out_bound_nats"])

    def __call__(self, denoiser: nn.Module) -> dict[str, float]:
        """Measure a denoiser, and keep it if it is the best."""
        found = self._measure(denoiser)
        self._since += 1
        if found < self.bound:
            self._keep(denoiser, found)
            self.bound, self._since = found, 0
        return {"held_out_bound_nats": found, "best_bound_nats": self.bound}

    def _keep(self, denoiser: nn.Module, bound: float) -> None:
        card = {"held_out_bound_nats": bound}
        tensors = denoiser.state_dict()
        files.save(self._folder, files.Weights(tensors=tensors, config=self._model.description(), card=card))

    @property
    def enough(self) -> bool:
        """Whether the bound has not fallen for a while."""
        return self._since >= self._patience

    def weights(self) -> dict[str, torch.Tensor]:
        """The best weights."""
        return dict(files.load(self._folder).tensors)


def fit(
    model: FragmentModel,
    data: Encoded,
    held_out: Encoded,
    config: TrainingConfig,
    *,
    out: Path,
    tokens: int = TOKENS,
    resume: bool = False,
    patience: int | None = None,
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
        patience: stop after so many validations without a lower held-out bound, and return the weights of the lowest,
            which may be those it started from. None: the last.
    """
    batches = data.batches(tokens=tokens, seed=config.seed)
    best = None
    if patience is not None:
        best = Best(out / "best", model, lambda denoiser: bound(model, held_out, denoiser), patience)
    result = train(
        model.denoiser,
        model.processes,
        batches,
        config,
        out=out,
        resume=resume,
        objective=loss if data.values is None else Told(facts=model.edges.some),
        validate=best or (lambda denoiser: bounds(model, held_out, denoiser)),
        description=model.description(),
        enough=lambda: best is not None and best.enough,
    )
    found = dict(result.validation)
    if best is not None:
        found = {"held_out_bound_nats": best.bound, "stopped_early": best.enough}
    model.denoiser.load_state_dict(result.denoiser.state_dict() if best is None else best.weights())
    card = {**model.card, **found, "samples": result.samples, "steps": result.steps, "seconds": result.seconds}
    return replace(model, card=card)
