"""Run folders that describe themselves: what ran, on what, with which settings, where, for how long."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from scidiff import atomic

PACKAGES = ("scidiff", "torch", "numpy", "scipy", "rdkit", "e3nn", "torch-geometric", "pandas", "xarray", "safetensors")
RECORD = "run.json"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores in use, memory (GiB), accelerators, and the system."""
    record: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        record["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    # torch is not imported for the sake of the record: what did not use it did not depend on it
    torch = sys.modules.get("torch")
    if torch is not None:
        record["threads"] = torch.get_num_threads()
        record["accelerators"] = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return record


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def begin(
    out: Path, *, config: Mapping[str, Any], seed: int | None = None, inputs: Iterable[Path] = ()
) -> dict[str, Any]:
    """Make a run folder and write its record `run.json`; returns the record, for `finish`.

    Args:
        out: the folder.
        config: the resolved configuration (JSON).
        seed: of all randomness.
        inputs: files that were read; their SHA-256 is recorded.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "config": dict(config),
        "seed": seed,
        "inputs": {path.name: {"bytes": path.stat().st_size, "sha256": atomic.sha256(path)} for path in inputs},
        "versions": versions(),
        "hardware": hardware(),
        "started": _now(),
        "finished": None,
        "seconds": None,
    }
    atomic.write_json(out / RECORD, record)
    return record


def finish(out: Path, record: Mapping[str, Any], *, seconds: float, results: Mapping[str, Any] | None = None) -> None:
    """Complete the record of a run with its end, the time it took and what came out."""
    atomic.write_json(
        out / RECORD, {**record, "finished": _now(), "seconds": round(seconds, 3), "results": dict(results or {})}
    )


def read(out: Path) -> dict[str, Any]:
    """The record of a run folder; FileNotFoundError if it is none."""
    return json.loads((out / RECORD).read_text(encoding="utf-8"))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
