"""What a training run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from scidiff.errors import UserError

# What may be changed when a run is resumed; everything else decides its weights and must stay. The length of a run and
# of its decay may change as long as the decay has not begun.
LENGTH = ("max_steps", "max_minutes", "decay_fraction", "final_factor")
CHANGEABLE = frozenset({*LENGTH, "checkpoint_minutes", "log_seconds", "validate_every", "compile", "strategy"})


class TrainingConfig(BaseModel):
    """The settings of the training loop, checked when made.

    Attributes:
        max_steps: the number of optimiser steps. With it, a run resumed after a kill gives bit-identical weights.
        max_minutes: or the time to train for; warm-up and decay then follow the clock.
        optimiser: "adamw", or "muon" for hidden matrices with AdamW for all else.
        learning_rate: peak learning rate of AdamW.
        muon_learning_rate: peak learning rate of Muon, on AdamW's scale (updates have the same root mean square).
        not_hidden: patterns (fnmatch) of the names of matrices that Muon leaves to AdamW.
        betas: AdamW's.
        momentum: Muon's.
        weight_decay: decoupled, on matrices only.
        schedule: "cosine"; or "stable": constant until the last `decay_fraction` of the run, then 1 - sqrt (Hägele et
            al., arXiv 2405.18392), so that a finished run can be extended from where the decay began.
        warmup_steps: steps of linear warm-up.
        decay_fraction: the last part of the run that decays under "stable".
        final_factor: what is left of the learning rate at the end.
        clip: bound on the norm of the whole gradient.
        ema_decay: decay of the moving average of the weights; approached as (1 + n) / (10 + n).
        accumulation: batches per optimiser step.
        precision: "float32", or "bfloat16" under autocast.
        compile: torch.compile the denoiser, with dynamic shapes.
        strategy: how several processes share the weights: "ddp" or "fsdp" (`scidiff.training.strategies`).
        seed: of the noise and the times of the loss.
        checkpoint_minutes: time between checkpoints; 0 writes one after every step.
        log_seconds: time between lines of progress.
        validate_every: steps between validations; 0 validates at the end only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_steps: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    muon_learning_rate: PositiveFloat = 2e-3
    not_hidden: tuple[str, ...] = ("*embed*", "*head*", "*modulat*", "*condition*")
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = Field(0.95, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "stable"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    decay_fraction: float = Field(0.2, ge=0, le=1)
    final_factor: float = Field(0.0, ge=0, le=1)
    clip: PositiveFloat = 1.0
    ema_decay: float = Field(0.999, ge=0, lt=1)
    accumulation: PositiveInt = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    seed: int = Field(0, ge=0, lt=2**64)
    checkpoint_minutes: float = Field(5.0, ge=0)
    log_seconds: float = Field(10.0, ge=0)
    validate_every: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.max_steps is None) == (self.max_minutes is None):
            raise ValueError(
                f"expected one of max_steps and max_minutes, got max_steps={self.max_steps}, "
                f"max_minutes={self.max_minutes}"
            )
        return self

    def progress(self, step: int, seconds: float) -> float:
        """The part of the run that is done after `step` steps and `seconds` of training, in [0, 1]."""
        if self.max_steps is not None:
            return min(1.0, step / self.max_steps)
        return min(1.0, seconds / (60 * (self.max_minutes or 1.0)))

    def check_resumes(self, record: Mapping[str, Any]) -> None:
        """UserError if this configuration would not go on with the run whose configuration `record` is."""
        for name, value in self.model_dump(mode="json").items():
            if name not in CHANGEABLE and name in record and record[name] != value:
                raise UserError(
                    f"expected {name} = {record[name]!r} as in the run that is resumed, got {value!r}: "
                    f"only {', '.join(sorted(CHANGEABLE))} may change"
                )
