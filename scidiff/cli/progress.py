"""One line on standard error that says how far a command is."""

from __future__ import annotations

import sys
import time

_INTERVAL = 0.2  # seconds between two updates of a terminal's line
_INTERVAL_LOG = 5.0  # seconds between two lines of a log


class StatusLine:
    """Rewrites one line of a terminal; in a log, when asked for, adds a line now and then.

    Args:
        wanted: True or False to force it; None: if standard error is a terminal.
    """

    def __init__(self, wanted: bool | None = None):
        self._terminal = sys.stderr.isatty()
        self._on = self._terminal if wanted is None else wanted
        self._last = -_INTERVAL_LOG
        self._width = 0

    def due(self, *, now: bool = False) -> bool:
        """Whether it is time for an update, or there is one `now` that should be seen: ask before composing it."""
        if not self._on:
            return False
        if now:
            return True
        clock = time.monotonic()
        if clock - self._last < (_INTERVAL if self._terminal else _INTERVAL_LOG):
            return False
        self._last = clock
        return True

    def begin(self, text: str) -> None:
        """Show at once what is beginning."""
        if self.due(now=True):
            self.show(text)

    def show(self, text: str) -> None:
        """Show the text in place of the last."""
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave a clean line behind."""
        if self._terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
