"""What the training scripts of this folder share: options, how a run ends, and what its card tells of it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scidiff.errors import UserError
from scidiff.training import checkpoint
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import TrainingResult


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every run has."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, required=True, help="folder of the run")
    found.add_argument("--minutes", type=float, required=True, help="training time; its last third or so anneals")
    found.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    return found


def of_fields(*, minutes: float, seed: int, **settings: Any) -> TrainingConfig:
    """Settings of a network of fields; `settings` are its own, in place of these."""
    shared = {
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "schedule": "stable",
        "decay_fraction": 0.3,
        "warmup_steps": 100,
        "ema_decay": 0.998,
        "precision": "bfloat16",
        "checkpoint_minutes": 4,
        "log_seconds": 30,
        "validate_every": 400,
    }
    return TrainingConfig(max_minutes=minutes, seed=seed, **(shared | settings))


def of_geometries(*, minutes: float, seed: int, **settings: Any) -> TrainingConfig:
    """Settings of an equivariant network that learns from geometries; `settings` are its own, in place of these."""
    shared = {
        "optimiser": "muon",
        "learning_rate": 2e-3,
        "muon_learning_rate": 4e-3,
        "not_hidden": ("*embed*", "*modulat*", "*condition*", "*head*", "*pair_out*", "*vector_mix*"),
        "schedule": "stable",
        "decay_fraction": 0.3,
        "warmup_steps": 50,
        "ema_decay": 0.998,
        "precision": "bfloat16",
        "checkpoint_minutes": 4,
        "log_seconds": 30,
        "validate_every": 800,
    }
    return TrainingConfig(max_minutes=minutes, seed=seed, **(shared | settings))


def account(result: TrainingResult, config: TrainingConfig) -> dict[str, Any]:
    """What a model's card tells of its training."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "seed": config.seed,
        "training": config.model_dump(mode="json"),
        "torch": torch.__version__,
        "held out": dict(result.validation),
        "steps": result.steps,
        "samples": result.samples,
        "minutes": round(result.seconds / 60, 1),
    }


def run(main: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Train; after Ctrl-C say how to go on (130), after an error of the user's what to mend (2)."""
    torch.set_num_threads(options.threads)
    try:
        main(options)
    except KeyboardInterrupt:
        print(checkpoint.where_to_resume(options.out / "checkpoints"), file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
