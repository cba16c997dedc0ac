"""Training an imputation model on a table: as long as there is time and something to learn, and no longer.

The learning rate decays towards an end that is planned, by the clock. The weights that did best on what was held out
are kept, those before training among them: the first guess of a fresh network is linear interpolation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scidiff import atomic
from scidiff.errors import UserError
from scidiff.noise import Noise
from scidiff.state import Layout
from scidiff.timeseries.batches import LEAF, PanelBatches, Standardised, series
from scidiff.timeseries.holdout import Holdout
from scidiff.timeseries.model import ImputerModel, imputation_loss
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

# Matrices that are inputs, outputs or gains of something small, which Muon would blow up.
NOT_HIDDEN = ("*value*", "*static*", "*row.weight", "*guess*", "*project*", "*level*", "*mix*", "*modulat*",
              "*condition*", "*variable*")  # fmt: skip
EPOCHS, STEPS = 60, 300  # after so many, and as many more steps, there is nothing more in a small table
PATIENCE = 8  # checks that have all been worse than the best by `_WORSE`, of trained weights at all: enough
_WORSE = 0.1
_CHECKING = 0.1  # part of the time that may go into checks


class _Enough(Exception):
    """The model gets worse on what it has not seen."""


def sizes(values: int) -> dict[str, int]:
    """Sizes of a network for so many observed values: about as many weights as values, within bounds."""
    for most, width, depth in ((5_000, 32, 2), (60_000, 64, 3), (600_000, 96, 4)):
        if values < most:
            return {"width": width, "depth": depth, "heads": 4, "row_width": width, "row_depth": 1}
    return {"width": 128, "depth": 5, "heads": 4, "row_width": 128, "row_depth": 2}


def fit(
    model: ImputerModel,
    data: Holdout,
    *,
    out: Path,
    deadline: float | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    resume: bool = False,
    warm: bool = False,
    show: Callable[[str], None] | None = None,
) -> ImputerModel:
    """Train a model; returns the best that was seen, the one given among them.

    Args:
        model: what to start from; its weights are changed.
        data: what to learn from and what to judge by.
        out: the run's folder. With `resume`, a run there that was cut off goes on, and one that was finished is read.
        deadline, max_steps: when to stop at the latest, on the clock of `time.monotonic`, or after how many steps; just
            one of them. With `max_steps` the result is a function of the seed.
        batch_size: windows a step. Default: 4 to 16, a sixteenth of all: few data are for many small steps.
        seed: of all that is random.
        resume: go on in `out`.
        warm: the model is a trained one: smaller steps, and fewer that do not help.
        show: takes lines on how far it is. Default: standard error.

    Raises:
        UserError: `out` holds another run.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    batches = PanelBatches(data.train, size=batch_size or min(max(len(data.train) // 16, 4), 16), seed=seed)
    done = out / "model"
    if resume and done.exists():
        return _finished(done, batches.fingerprint)
    judge = _Judge(model, data, out, warm)
    every = judge.begin(batches, resume=resume, deadline=deadline)
    every = min(every, max(max_steps // 4, 1)) if max_steps else every
    length: dict[str, Any] = {"max_steps": max_steps} if max_steps else {"max_minutes": judge.minutes}
    config = TrainingConfig(**length, **_settings(rate=0.1 if warm else 1.0, every=every, seed=seed))
    with suppress(_Enough):
        train(
            model.denoiser,
            model.processes,
            batches,
            config,
            out=out,
            resume=resume,
            objective=imputation_loss,  # type: ignore[arg-type]  # its condition is a Series and no other
            validate=judge,
            description=model.description(),
            show=show,
        )
    model.denoiser.load_state_dict(judge.best)
    model.denoiser.eval()
    learned = {"held_out": data.unit, "windows": len(data.train), "data": batches.fingerprint}
    found = replace(model, card={**model.card, "training": {**judge.record, **learned}})
    found.save(done, dtype=torch.float32)
    return found


def _finished(folder: Path, fingerprint: str) -> ImputerModel:
    """The model of a run that is done; UserError if it learned from something else."""
    found = ImputerModel.load(folder)
    if found.card.get("training", {}).get("data") != fingerprint:
        raise UserError(
            f"{folder}: expected a model trained on this table with this seed, got another: use a new folder"
        )
    return found


def _settings(*, rate: float, every: int, seed: int) -> dict[str, Any]:
    """Of the loop, as found on PhysioNet 2012."""
    return {
        "optimiser": "muon",
        "learning_rate": 2e-3 * rate,
        "muon_learning_rate": 5e-3 * rate,
        "not_hidden": NOT_HIDDEN,
        "weight_decay": 0.05,
        "schedule": "stable",
        "decay_fraction": 0.4,
        "warmup_steps": 20,
        "ema_decay": 0.99,
        "precision": "bfloat16",
        "log_seconds": 2.0,
        "checkpoint_minutes": 2.0,
        "validate_every": every,
        "seed": seed,
    }


@dataclass
class _Judge:
    """Measures the held-out loss, keeps the best weights, in memory and on disk, and says when it is enough."""

    model: ImputerModel
    data: Holdout
    out: Path
    warm: bool

    def begin(self, batches: PanelBatches, *, resume: bool, deadline: float | None) -> int:
        """Take up what an earlier session saw, or measure the model as it stands; returns steps between checks."""
        self.history: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.minutes = 0.0
        began = time.monotonic()
        self.measure(self.model.denoiser)
        checking = time.monotonic() - began
        began = time.monotonic()
        _loss_of(self.model, self.model.denoiser, batches.at(0), seed=0).mean().backward()
        self.model.denoiser.zero_grad()
        step = time.monotonic() - began
        left = (math.inf if deadline is None else deadline) - time.monotonic() - 2 * checking - step
        path = self.out / "history.json"
        if resume and path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            self.history, self.minutes = held["losses"], held["minutes"]
            self.best = dict(ImputerModel.load(self.out / "best").denoiser.state_dict())
        else:
            planned = 1.2 * step * (EPOCHS * batches.batches_per_epoch + STEPS)
            self.minutes = min(max(left, 0.1), planned) / 60
            self(self.model.denoiser)
        return max(10, math.ceil(checking / max(step, 1e-6) / _CHECKING))

    def __call__(self, denoiser: nn.Module) -> Mapping[str, float]:
        value = self.measure(denoiser)
        self.history.append(value)
        if value == min(self.history):
            self.best = {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}
            kept = ImputerModel.create(self.model.config)
            kept.denoiser.load_state_dict(self.best)
            kept.save(self.out / "best", dtype=torch.float32)
        atomic.write_json(self.out / "history.json", {"minutes": self.minutes, "losses": self.history})
        late = self.history[-PATIENCE:]
        if len(late) == PATIENCE and min(late) > (1 + (0.0 if self.warm else _WORSE)) * min(self.history):
            raise _Enough
        return {"held_out_loss": value}

    @property
    def record(self) -> dict[str, Any]:
        """What came of the training, for the model's card."""
        return {
            "held_out_loss": min(self.history),
            "held_out_loss_before": self.history[0],
            "checks": len(self.history),
        }

    @torch.no_grad()
    def measure(self, denoiser: nn.Module) -> float:
        """Mean loss of a held-out window, always with the same cells hidden and the same noise."""
        total = 0.0
        for first in range(0, len(self.data.held), 8):
            part = slice(first, first + 8)
            held, asked = self.data.held[part], self.data.asked[part]
            batch = _batch(held, asked, first)
            total += float(_loss_of(self.model, denoiser, batch, seed=1).double().sum())
        return total / len(self.data.held)


def _batch(held: Standardised, asked: Tensor, first: int) -> Any:
    from scidiff.training.batches import Batch

    size = len(held)
    return Batch(
        x_0={LEAF: held.values},
        layout=Layout.dense(size, {LEAF: tuple(held.values.shape[1:])}, masks={LEAF: asked}),
        index=first + torch.arange(size),
        condition=dict(series(held, visible=held.observed & ~asked, asked=asked)),
    )


def _loss_of(model: ImputerModel, denoiser: nn.Module, batch: Any, *, seed: int) -> Tensor:
    device = next(denoiser.parameters()).device
    batch = batch.to(device)
    noise = Noise(seed=seed, index=batch.index)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return imputation_loss(
            denoiser,  # type: ignore[arg-type]
            model.processes,
            batch.x_0,
            batch.layout,
            noise,
            condition=batch.condition,
        )
