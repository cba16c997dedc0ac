#!/usr/bin/env python3
"""Monthly surface winds of the whole Earth, January 1982 to December 1992: u and v on 73 x 144 points, 2.5 degrees.

Source: analyses of the U.S. Navy's Fleet Numerical Oceanography Center, a work of the U.S. government in the public
domain, as `monthly_navy_winds.cdf` of the Ferret data sets (NOAA PMEL; Debian's package `ferret-datasets`, opened as an
archive and never installed). 1982 to 1989 are to train on, 1990 to watch, 1991 and 1992 to test.

    python datasets/winds.py                         fetch into the cache and print the file
    python datasets/winds.py --from monthly_navy_winds.cdf | ferret-datasets_7.6.0-5_all.deb
    python datasets/winds.py sample OUT.nc           the vendored sample: 1991, every other month, int16 of 0.01 m/s

A second call finds the cache and touches no network. The cache is `$SCIDIFF_CACHE`, else `$XDG_CACHE_HOME/scidiff`,
else `~/.cache/scidiff`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _fetching import DatasetError, cache_folder, finished, sha256
from torch import Tensor

from scidiff import atomic

PACKAGE, NAME = "ferret-datasets", "monthly_navy_winds.cdf"
SHA256 = "225a9e4fed7bb1a7b558afb662abbe2dc5e3d3db4100fa019cb994f10b115faa"
YEARS = {"train": (1982, 1990), "validation": (1990, 1991), "test": (1991, 1993)}
SAMPLE_YEAR = 1991
_STEP = 0.01  # m/s, of the sample


def fetch(cache: Path | None = None, *, source: Path | None = None) -> Path:
    """The published file; from the cache, from a file or an archive that is given, or by apt."""
    kept = (cache_folder() if cache is None else cache) / "winds" / NAME
    if kept.exists() and source is None:
        return _checked(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".winds-") as temporary:
        archive = _download(Path(temporary)) if source is None else source
        found = _unpacked(archive, Path(temporary)) if archive.suffix == ".deb" else archive
        new = Path(temporary) / NAME
        shutil.copyfile(_checked(found), new)
        new.replace(kept)
    return kept


def _download(folder: Path) -> Path:
    print(f"downloading {PACKAGE} (28 MB) by apt-get; only this once", file=sys.stderr, flush=True)
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, stdout=sys.stderr.fileno(), check=False)
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not found:
        raise DatasetError(f"apt-get could not download {PACKAGE}; with {NAME} at hand, pass it: --from {NAME}")
    return found[0]


def _unpacked(archive: Path, folder: Path) -> Path:
    if not archive.is_file():
        raise DatasetError(f"expected {NAME} or an archive with it, got {archive}: no such file")
    command = ["dpkg-deb", "-x", str(archive), str(folder / "x")]
    done = subprocess.run(command, capture_output=True, check=False)
    found = sorted((folder / "x").rglob(NAME))
    if done.returncode or not found:
        raise DatasetError(f"expected {NAME} in {archive}, found none")
    return found[0]


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"expected {NAME} or an archive with it, got {path}: no such file")
    found = sha256(path)
    if found != SHA256:
        raise DatasetError(f"expected SHA-256 {SHA256} of {path}, got {found}")
    return path


def read(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Winds of "train", "validation" or "test" in m/s: float32 [S, 2, 73, 144], u first, from south and from 20 E on.

    And the month of each, int64 [S], 0 to 11.
    """
    import xarray as xr

    first, last = (12 * (year - 1982) for year in YEARS[split])
    with xr.open_dataset(path, decode_times=False) as held:
        winds = np.stack([held[name].values[first:last] for name in ("UWND", "VWND")], 1)
    return torch.from_numpy(winds.astype(np.float32)), torch.arange(last - first) % 12


def sample(path: Path, out: Path) -> None:
    """Every other month of a year that nothing was trained on, as netCDF in int16."""
    import xarray as xr

    winds, months = read(path, "test")
    chosen = 12 * (SAMPLE_YEAR - YEARS["test"][0]) + torch.arange(0, 12, 2)
    dims = ("time", "lat", "lon")
    packed: dict[str, Any] = {"dtype": "int16", "scale_factor": _STEP, "_FillValue": -32768}
    told = {"u": "eastward_wind", "v": "northward_wind"}
    variables = {
        name: (dims, winds[chosen, c].numpy(), {"standard_name": standard, "units": "m s-1"})
        for c, (name, standard) in enumerate(told.items())
    }
    coordinates = {
        "time": ("time", months[chosen].numpy() + 1, {"long_name": f"month of {SAMPLE_YEAR}", "units": "1"}),
        "lat": ("lat", np.linspace(-90, 90, 73), {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", 20 + 2.5 * np.arange(144), {"standard_name": "longitude", "units": "degrees_east"}),
    }
    source = "Fleet Numerical Oceanography Center (U.S. Navy), by NOAA PMEL's Ferret data sets; public domain"
    found = xr.Dataset(variables, coordinates, {"Conventions": "CF-1.11", "source": source})
    atomic.write(out, lambda file: found.to_netcdf(file, encoding=dict.fromkeys(told, packed)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("fetch", "sample"), default="fetch")
    parser.add_argument("out", nargs="?", type=Path, help="of sample")
    parser.add_argument("--from", dest="source", type=Path, help=f"{NAME}, or the package with it")
    parser.add_argument("--cache", type=Path, help="cache folder")
    chosen = parser.parse_args(arguments)
    if (chosen.command == "sample") != (chosen.out is not None):
        parser.error("expected OUT.nc after sample, and only there")

    def work() -> Path:
        path = fetch(chosen.cache, source=chosen.source)
        if chosen.command == "sample":
            sample(path, chosen.out)
        return chosen.out or path

    return finished(work)


if __name__ == "__main__":
    sys.exit(main())
