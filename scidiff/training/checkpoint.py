"""Checkpoints: everything a run needs to go on as if it had never stopped.

    checkpoints/step-000001200/model.safetensors ema.safetensors optimiser.safetensors state.json

There is no random generator to save: noise, times and the order of the data are functions of the position. A checkpoint
is written under another name, flushed and renamed, so it is whole or not there. The last two are kept, and the one from
which a finished run can be extended.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scidiff import atomic
from scidiff.weights import WeightsError, read_tensors, write_tensors

MEND = "delete this checkpoint to resume from the one before it"
KEPT = 2


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        position: batches used.
        samples: samples seen.
        seconds: time spent in training, all sessions together.
        stable: the learning rate had not begun to decay, so the run may be extended from here.
        config: the configuration.
        fingerprint: of the data.
    """

    step: int = 0
    position: int = 0
    samples: int = 0
    seconds: float = 0.0
    stable: bool = True
    config: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run with its tensors: the model's, its moving average's, the optimisers'."""

    state: RunState
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimiser: Mapping[str, Tensor]


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then remove those no longer needed; returns its folder."""
    target = root / f"step-{checkpoint.state.step:09d}"
    if target.is_dir():
        return target
    with atomic.folder(target) as folder:
        files = {
            name: write_tensors(folder / f"{name}.safetensors", getattr(checkpoint, name))
            for name in ("model", "ema", "optimiser")
        }
        record = {"state": asdict(checkpoint.state), "files": files}
        (folder / "state.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _prune(root)
    return target


def folders(root: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in root.glob("step-*") if (path / "state.json").is_file())


def read_state(folder: Path) -> RunState:
    """The state of a checkpoint, without its tensors; WeightsError if it cannot be read."""
    return RunState(**_record(folder)["state"])


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint; WeightsError if any of its files is damaged."""
    record = _record(folder)
    tensors = {
        name: read_tensors(folder / f"{name}.safetensors", record["files"][name], mend=MEND)
        for name in ("model", "ema", "optimiser")
    }
    return Checkpoint(state=RunState(**record["state"]), **tensors)


def latest(root: Path, *, stable: bool = False) -> Checkpoint | None:
    """The newest sound checkpoint (before the decay, if `stable`), or None. Says when it skips a damaged one."""
    for folder in reversed(folders(root)):
        try:
            if not stable or _is_stable(folder):
                return load(folder)
        except WeightsError as error:
            print(f"skipped a damaged checkpoint: {error}", file=sys.stderr)
    return None


def where_to_resume(root: Path) -> str:
    """One line on a run that was stopped: the checkpoint it goes on from, and how."""
    found = folders(root)
    if not found:
        return "interrupted before the first checkpoint: nothing is kept"
    return f"interrupted; kept in {found[-1]}: the same command with --resume goes on"


def forget_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run that goes on from `step` will write others in their place."""
    for folder in folders(root):
        if int(folder.name.removeprefix("step-")) > step:
            _remove(folder)


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        RunState(**record["state"])
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / 'state.json'}: expected the state of a run, got {error!r}: {MEND}") from None


def _is_stable(folder: Path) -> bool:
    try:
        return read_state(folder).stable
    except WeightsError:
        return False


def _prune(root: Path) -> None:
    """Keep the last two checkpoints, and the last one from before the decay."""
    found = folders(root)
    stable = [folder for folder in found if _is_stable(folder)]
    for folder in set(found) - set(found[-KEPT:]) - set(stable[-1:]):
        _remove(folder)
    for left in root.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(left)


def _remove(folder: Path) -> None:
    # renamed first: a half-removed checkpoint must not look like one
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(folder.rename(gone))
