"""Ctrl-C beside libraries that catch it themselves.

RDKit puts its own handler of SIGINT in place while it searches for a substructure. A Ctrl-C at that moment ends the
search early and goes no further: the program runs on, with a property computed from a part of the matches. What must
not be cut short therefore runs while the signal is held back; it comes through right afterwards.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def hold_back() -> None:
    """Leave Ctrl-C to the other threads, for good. For threads beside the main one, which cannot answer it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C back from this thread, and from threads that it starts here, until the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def noted() -> Iterator[list[int]]:
    """Ctrl-C works as ever in the block, and the list that it is given is no longer empty.

    NumPy and others that a Ctrl-C cuts short while they load raise all sorts of errors: those are then its consequence.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
