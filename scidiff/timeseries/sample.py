"""The sample that travels with the package: 163 stays in intensive care (PhysioNet 2012, ODC-By 1.0)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from scidiff.timeseries.panel import Panel
from scidiff.timeseries.readers import read_panel


def sample_path() -> Path:
    """The file: long, columns RecordID, minute, variable, value; hourly means over 48 hours."""
    return Path(str(resources.files("scidiff.timeseries").joinpath("data", "physionet2012-sample.csv.gz")))


def sample() -> Panel:
    """163 stays of 37 variables in their own units, on the minutes 0, 60, ..., 2820."""
    return read_panel(sample_path())
