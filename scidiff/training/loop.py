"""The training loop, one for all domains.

    for each step:   gradient of  sum_i loss_i / (accumulation * samples_per_batch);   clip;   move;   average

A run is a pure function of its configuration, its data and the initial weights: the noise of sample i is keyed by the
number of its visit and the data by its position, so a checkpoint needs no generator, several processes see what one
would, and a run that was killed goes on to bit-identical weights (on CPU with the same number of threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from scidiff import runs
from scidiff.denoiser import Denoiser
from scidiff.errors import UserError
from scidiff.noise import Noise
from scidiff.objective import loss as objective_loss
from scidiff.processes.base import Process
from scidiff.state import Layout, State
from scidiff.training import checkpoint, interrupt
from scidiff.training.batches import Batch, BatchSource
from scidiff.training.checkpoint import Checkpoint, RunState
from scidiff.training.config import LENGTH, TrainingConfig
from scidiff.training.distributed import World, world
from scidiff.training.optimisers import Optimisers, extendable, learning_rate_factor
from scidiff.training.progress import Progress, duration
from scidiff.training.strategies import Replicated, Sharded
from scidiff.weights import Weights
from scidiff.weights import save as save_weights


class Objective(Protocol):
    """The loss of each sample, [B]: `scidiff.objective.loss`, or a `functools.partial` of it."""

    def __call__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        x_0: State,
        layout: Layout,
        noise: Noise,
        *,
        condition: Any = None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        denoiser: with the averaged weights, in evaluation mode.
        weights: the folder they were written to (`scidiff.weights.load`).
        steps: optimiser steps.
        samples: samples seen.
        seconds: time in training, all sessions together.
        loss: mean loss of a sample since the last report.
        validation: the last values of `validate`.
    """

    denoiser: nn.Module
    weights: Path
    steps: int
    samples: int
    seconds: float
    loss: float
    validation: Mapping[str, float]


def train(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    batches: BatchSource,
    config: TrainingConfig,
    *,
    out: Path,
    resume: bool = False,
    objective: Objective = objective_loss,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    description: Mapping[str, Any] | None = None,
    show: Callable[[str], None] | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> TrainingResult:
    """Train a denoiser; start it under `torchrun` to use several processes.

    Args:
        denoiser: on the device to train on. No dropout: its random numbers would not be keyed.
        processes: of every leaf.
        batches: position-addressed source of data.
        config: the settings.
        out: the run's folder: `run.json`, `log.jsonl`, `checkpoints/`, `weights/`.
        resume: go on from the newest checkpoint in `out`, if there is one.
        objective: loss of each sample.
        validate: measures the averaged denoiser.
        description: what builds the denoiser again (JSON); goes into the weights' record.
        show: takes lines on where the run stands. Default: standard error.
        enough: asked after each validation on the way; True ends the run early.

    Raises:
        UserError: `out` holds a run and `resume` is not asked for, or is asked for with other data or settings.
        FloatingPointError: the loss is no longer finite; the checkpoints before are kept.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint written.
    """
    dropout = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if dropout:
        raise ValueError(f"expected a denoiser without dropout, whose noise is not keyed; got {dropout[0]}")
    with ExitStack() as stack:
        device = next(denoiser.parameters()).device
        run = _Run(
            loss=_Loss(denoiser, processes, objective, config),
            batches=batches,
            config=config,
            out=out,
            world=stack.enter_context(world(device)),
            stop=stack.enter_context(interrupt.kept()),
            show=show,
        )
        run.start(resume=resume)
        stack.callback(run.close)
        return run.run(validate or (lambda _: {}), description or {}, enough)


class _Loss(nn.Module):
    """The objective as a module, so that several processes can share its gradient."""

    def __init__(
        self, denoiser: Denoiser, processes: Mapping[str, Process], objective: Objective, config: TrainingConfig
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._processes, self._objective, self._config = processes, objective, config

    def forward(self, batch: Batch) -> Tensor:
        """The loss of each sample: [B]."""
        noise = Noise(seed=self._config.seed, index=batch.index)
        bfloat16 = self._config.precision == "bfloat16"
        with torch.autocast(batch.index.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            return self._objective(
                self.denoiser, self._processes, batch.x_0, batch.layout, noise, condition=batch.condition
            )


class _Run:
    """A run in progress: its weights, optimisers and place in the data."""

    def __init__(
        self,
        *,
        loss: _Loss,
        batches: BatchSource,
        config: TrainingConfig,
        out: Path,
        world: World,
        stop: interrupt.Stop,
        show: Callable[[str], None] | None,
    ) -> None:
        self.batches, self.config, self.out, self.world, self.stop = batches, config, out, world, stop
        self.show = show
        self.denoiser = loss.denoiser
        self.device = next(self.denoiser.parameters()).device
        self.state = RunState(config=config.model_dump(mode="json"), fingerprint=batches.fingerprint)
        self.ema = AveragedModel(self.denoiser, multi_avg_fn=self._average)
        if config.compile:
            self.denoiser.compile(dynamic=True)
        strategy = Sharded if config.strategy == "fsdp" and world.size > 1 else Replicated
        self.strategy = strategy(loss, self.ema, world)
        self.optimisers = Optimisers(self.denoiser, config)
        self.total = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss and samples since the last report
        self.mean_loss = float("nan")
        self.validation: Mapping[str, float] = {}

    # --- beginning and end

    def start(self, *, resume: bool) -> None:
        """Take up the newest checkpoint, and open the folder."""
        root = self.out / "checkpoints"
        if checkpoint.folders(root) and not resume:
            raise UserError(f"{self.out}: expected an empty folder for a new run, got one with checkpoints: resume it")
        if resume:
            self._resume(root)
        self._began = time.monotonic() - self.state.seconds
        self._logged, self._saved, self._logged_samples = time.monotonic(), time.monotonic(), self.state.samples
        if self.world.first:
            self._record = runs.begin(
                self.out,
                config={"training": self.config.model_dump(mode="json"), "data": self.batches.fingerprint},
                seed=self.config.seed,
            )
            self._progress = Progress(self.out, step=self.state.step, show=self.show)

    def close(self) -> None:
        """Close the log."""
        if self.world.first:
            self._progress.close()

    def run(
        self,
        validate: Callable[[nn.Module], Mapping[str, float]],
        description: Mapping[str, Any],
        enough: Callable[[], bool],
    ) -> TrainingResult:
        """Train to the end of the budget, or until a validation finds it enough."""
        while not self._advance():
            every = self.config.validate_every
            if every and self.state.step % every == 0:
                self._validate(validate)
                if self.world.any(self.world.first and enough(), self.device):
                    break
        self._save()
        self._validate(validate)
        self._report()
        return self._finish(description)

    def _finish(self, description: Mapping[str, Any]) -> TrainingResult:
        folder, average = self.out / "weights", self.strategy.averaged()
        result = TrainingResult(
            denoiser=average,
            weights=folder,
            steps=self.state.step,
            samples=self.state.samples,
            seconds=self.state.seconds,
            loss=self.mean_loss,
            validation=self.validation,
        )
        if self.world.first:
            values = {name: getattr(result, name) for name in ("steps", "samples", "seconds", "loss")}
            values |= dict(self.validation)
            runs.finish(self.out, self._record, seconds=self.state.seconds, results=values)
            card = {"training": self.state.config, "data": self.batches.fingerprint, "results": values}
            save_weights(folder, Weights(tensors=average.state_dict(), config=dict(description), card=card))
        self.world.wait()
        return result

    # --- one step

    def _advance(self) -> bool:
        """One step, with what is due after it; True if the budget is spent."""
        (seconds,) = self.world.share([time.monotonic() - self._began], self.device)
        progress = self.config.progress(self.state.step, seconds)
        if progress >= 1:
            return True
        stable = extendable(self.config, progress)
        if self.state.stable and not stable and self.state.step:
            self._save()  # from here the run can be extended
        self._step(learning_rate_factor(self.config, self.state.step, progress))
        self.state = replace(self.state, seconds=time.monotonic() - self._began, stable=stable)
        now, config = time.monotonic(), self.config
        due = [now - self._logged >= config.log_seconds, now - self._saved >= 60 * config.checkpoint_minutes]
        log, save = self.world.share([float(flag) for flag in due], self.device)
        if log:
            self._report()
        stop = self.world.any(self.stop.requested, self.device)
        if save or stop:
            self._save()
        if stop:
            raise self.stop.error()
        return False

    def _step(self, factor: float) -> None:
        """Move the weights once."""
        count, position = self.config.accumulation, self.state.position
        samples = 0
        for k in range(count):
            whole = self.batches.at(position + k)
            batch = whole.shard(self.world.rank, self.world.size).to(self.device)
            last = k == count - 1
            with self.strategy.gradient(last=last):
                loss = self.strategy.loss(batch).sum()
                # the gradient is averaged over the processes: their number makes a sum of it
                (loss * (self.world.size / (count * self.batches.samples_per_batch))).backward()
            self.total += torch.stack([loss.detach().double(), torch.full_like(loss, len(batch.index)).double()])
            samples += len(whole.index)
        torch.nn.utils.clip_grad_norm_(self.optimisers.parameters, self.config.clip)
        self.optimisers.step(factor)
        self.ema.update_parameters(self.denoiser)
        self.state = replace(
            self.state, step=self.state.step + 1, position=position + count, samples=self.state.samples + samples
        )

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        """w_ema <- d w_ema + (1 - d) w,   d = min(ema_decay, (1 + n) / (10 + n)) after n steps."""
        n = self.state.step
        decay = min(self.config.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    # --- reports and checkpoints

    def _report(self) -> None:
        """Log the mean loss since the last report; FloatingPointError if it is not finite."""
        total, count = self.world.sum(self.total).tolist()
        self.total.zero_()
        if not count:
            return
        self.mean_loss = total / count
        if not torch.isfinite(torch.tensor(self.mean_loss)):
            raise FloatingPointError(
                f"expected a finite loss, got {self.mean_loss} before step {self.state.step}: lower the learning rate"
            )
        now = time.monotonic()
        rate = (self.state.samples - self._logged_samples) / max(now - self._logged, 1e-9)
        self._logged, self._logged_samples = now, self.state.samples
        if not self.world.first:
            return
        progress = self.config.progress(self.state.step, self.state.seconds)
        factor = learning_rate_factor(self.config, self.state.step, progress)
        left = duration(self.state.seconds * (1 - progress) / max(progress, 1e-9))
        self._progress.line(
            f"step {self.state.step:,}  {100 * progress:.1f} %  loss {self.mean_loss:.4g}  {rate:,.0f} samples/s  "
            f"epoch {self.state.position / self.batches.batches_per_epoch:.2f}  {left} left"
        )
        self._progress.record(
            self.state.step,
            {"loss": self.mean_loss, "rate": rate, "learning_rate_factor": factor, "seconds": self.state.seconds},
        )

    def _validate(self, validate: Callable[[nn.Module], Mapping[str, float]]) -> None:
        """Measure the averaged weights, on the first process."""
        average = self.strategy.averaged()
        if self.world.first:
            with torch.no_grad():
                self.validation = dict(validate(average))
            if self.validation:
                self._progress.record(self.state.step, self.validation)
                self._progress.line("  ".join(f"{name} {value:.4g}" for name, value in self.validation.items()))
        self.world.wait()

    def _save(self) -> None:
        self._report()  # before the file: weights that are not finite must not replace those that are
        if self.state.step:
            whole = self.strategy.whole
            saved = Checkpoint(
                state=self.state,
                model=whole(self.denoiser.state_dict()),
                ema=whole(self.ema.state_dict()),
                optimiser=whole(self.optimisers.state()),
            )
            if self.world.first:
                checkpoint.save(self.out / "checkpoints", saved)
        self._saved = time.monotonic()

    def _resume(self, root: Path) -> None:
        found = checkpoint.latest(root)
        if found is None:
            return
        self.config.check_resumes(found.state.config)
        if found.state.fingerprint != self.batches.fingerprint:
            raise UserError(
                f"expected the data of the run that is resumed ({found.state.fingerprint[:12]}...), "
                f"got other ({self.batches.fingerprint[:12]}...)"
            )
        if not found.state.stable and any(found.state.config[name] != self.state.config[name] for name in LENGTH):
            found = checkpoint.latest(root, stable=True)
            if found is None:
                raise UserError(
                    f"expected the same {', '.join(LENGTH)}: the learning rate has begun to decay, "
                    'and only schedule "stable" keeps the weights from before that'
                )
        self.state = replace(found.state, config=self.state.config)
        share = self.strategy.share
        self.denoiser.load_state_dict(share(found.model, self.denoiser.state_dict()))
        self.ema.load_state_dict(share(found.ema, self.ema.state_dict()))
        self.optimisers.restore(share(found.optimiser, self.optimisers.parameters_of(found.optimiser)))
        self.world.wait()  # every process has read before any file goes
        if self.world.first:
            checkpoint.forget_after(root, found.state.step)
