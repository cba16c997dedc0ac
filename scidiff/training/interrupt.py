"""Ctrl-C and a request to end are kept until the step is done, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stop:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def error(self) -> BaseException:
        """What to raise once all is saved: KeyboardInterrupt after Ctrl-C (exit 130), else SystemExit(143)."""
        return SystemExit(128 + signal.SIGTERM) if self.signal == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def kept() -> Iterator[Stop]:
    """Keep SIGINT and SIGTERM in a `Stop`; a second one acts at once.

    A signal that was ignored stays ignored, as for a run in a shell's background. Does nothing outside the main thread.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    former = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

    def keep(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, former[number])

    for number in former:
        signal.signal(number, keep)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
