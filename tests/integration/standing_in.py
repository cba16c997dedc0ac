"""The command of molecules in a process of its own, with a model that needs no weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STAND_IN = Path(__file__).parent / "stand_in.py"


def start(*arguments: str, cwd: Path, stdout: object = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(STAND_IN), "molecules", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
    )
