"""The command as it was typed, for reports and the history of files."""

from __future__ import annotations

import shlex
import sys


def command_line() -> str:
    """`scidiff` and its arguments, quoted for a shell; bytes of names that are not UTF-8 stand as they are escaped."""
    return shlex.join(["scidiff", *sys.argv[1:]]).encode(errors="backslashreplace").decode()
