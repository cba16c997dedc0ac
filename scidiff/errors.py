"""The one error that is the user's to mend, and the exit codes of the command line.

Everything that a user can cause (a wrong option, a missing file, a full disk, tampered weights) is a `UserError` with a
one-line message that says what was expected and what came. The command line prints that line and exits with `USAGE`.
"""

from __future__ import annotations

USAGE = 2  # the request cannot be carried out as it stands
SHORT = 3  # carried out, but with fewer results than asked for
INTERRUPTED = 130  # stopped by Ctrl-C (128 + SIGINT)


class UserError(Exception):
    """Something the user can mend. The message is one line: what was expected, what came."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line, for errors of other packages; the type's name if it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
