"""How a run shows itself: a line on standard error, a JSON line a report in `log.jsonl`, TensorBoard if installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scidiff import atomic


def duration(seconds: float) -> str:
    """A time in words of at most two units: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """The log of a run.

    Args:
        out: the run's folder.
        step: the step the run goes on from; later lines of an earlier session are dropped.
        show: takes the lines. Default: standard error.
    """

    def __init__(self, out: Path, *, step: int, show: Callable[[str], None] | None = None) -> None:
        self._path = out / "log.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines() if step and self._path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        atomic.write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._board = _tensorboard(out, step)
        self._show, self._drawn = show, False

    def line(self, text: str) -> None:
        """Show where the run stands; on a terminal the line replaces the one before."""
        if self._show is not None:
            self._show(text)
            return
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            self._drawn = True
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step to the log."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """End the line and the log."""
        if self._drawn:
            sys.stderr.write("\n")
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


def _tensorboard(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)
