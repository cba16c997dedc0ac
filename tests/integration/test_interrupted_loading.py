"""Ctrl-C while modules load, which NumPy does not survive: one line and 130, whatever is raised."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

from scidiff.cli.main import app
sys.meta_path.insert(0, Interrupting())
app(args=["fluids", "generate", "--json"])
"""


@pytest.mark.parametrize("module", ["numpy.exceptions", "numpy.linalg", "torch.types"])
def test_a_command_that_is_stopped_while_it_loads_says_so(module) -> None:
    found = subprocess.run([sys.executable, "-c", LOADING, module], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "interrupted\n")
