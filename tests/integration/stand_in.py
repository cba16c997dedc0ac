"""The command line with real molecules in place of a model's: `python stand_in.py ARGUMENTS`, as `scidiff ARGUMENTS`.

Sample i of a seed is a fixed row of the vendored sample, so that tests of the command line need no weights and no
luck. `STAND_IN_DELAY` makes each draw take that many seconds; `STAND_IN_SMILES` puts a text in place of every third.
"""

from __future__ import annotations

import csv
import gzip
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scidiff.cli.main import main
from scidiff.interrupts import held_back

with held_back():  # as the command does: a thread that numpy starts now would take the Ctrl-C that RDKit then swallows
    from scidiff.molecules import certified

SAMPLE = Path(__file__).parents[2] / "datasets" / "moses" / "sample.csv.gz"


@dataclass(frozen=True, kw_only=True)
class Row:
    index: int
    smiles: str


class Sample:
    """A generator's stand-in: the rows of the vendored sample, in an order that the seed gives."""

    def __init__(self) -> None:
        with gzip.open(SAMPLE, "rt") as stream:
            self.rows = [row["smiles"] for row in csv.DictReader(stream)]

    def stream(self, *, seed: int, start: int, steps: int | None, batch_size: int) -> Iterator[Row]:
        odd = os.environ.get("STAND_IN_SMILES")
        index = start
        while True:
            time.sleep(float(os.environ.get("STAND_IN_DELAY", "0")))
            text = odd if odd is not None and index % 3 == 2 else self.rows[(index * 37 + seed) % len(self.rows)]
            yield Row(index=index, smiles=text)
            index += 1


if __name__ == "__main__":
    certified.load = lambda model, device: Sample()
    main()
