"""Time and memory of drawing whole tables, each contestant in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _imputation_data import Stays, Units
from _imputation_methods import Ours
from _imputation_peers import PyPOTS

from scidiff.timeseries.model import ImputerModel

QUANTILES = (0.05, 0.5, 0.95)
AT_LEAST = 100  # times faster than PyPOTS' CSDI
MINUTES, DRAWS = 10.0, 50_000  # and so many draws of a stay within so many minutes
MEMORY = 1e9


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured: scidiff's model of a folder, or PyPOTS' CSDI at its defaults if there is no folder."""

    name: str
    folder: Path | None
    stays: Stays
    units: Units
    draws: int
    steps: int
    threads: int


def measure(job: Job) -> dict[str, Any]:
    """Time and memory of one contestant."""
    # spawned, so that its peak memory is its own
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, processor, memory = pool.apply(_child, (job,))
    each = seconds / (len(job.stays) * job.draws)
    return {
        "method": job.name,
        "stays": len(job.stays),
        "draws": job.draws,
        "threads": job.threads,
        "seconds": seconds,
        "processor_seconds": processor,
        "seconds_a_draw": each,
        "peak_bytes": memory,
    }


def _child(job: Job) -> tuple[float, float, float]:
    torch.set_num_threads(job.threads)
    asked = ~job.stays.observed
    if job.folder is None:
        peer = PyPOTS("CSDI", hours=asked.shape[1], variables=asked.shape[2], part=1)
    else:
        ours = Ours(job.name, ImputerModel.load(job.folder), job.units, steps=job.steps)
        ours.impute(job.stays[:1], asked[:1], 1)  # first calls allocate
    began, processor = time.perf_counter(), time.process_time()
    if job.folder is None:
        np.quantile(peer.impute(job.stays, asked, job.draws), QUANTILES, axis=0)
    else:
        for k in range(len(job.stays)):  # a table at a time, as the command does: draws become quantiles at once
            one = slice(k, k + 1)
            np.quantile(ours.impute(job.stays[one], asked[one], job.draws), QUANTILES, axis=0)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, processor, float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def table(found: list[dict[str, Any]]) -> dict[str, Any]:
    """One line a contestant and size."""
    lines = [
        [one["method"], one["stays"], one["draws"], f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}",
         f"{1000 * one['seconds_a_draw']:.1f}", f"{one['peak_bytes'] / 1e6:.0f}"]
        for one in found
    ]  # fmt: skip
    return {
        "title": f"Drawing whole tables of 48 hours x 35 variables, all missing cells, {found[0]['threads']} threads",
        "columns": ["method", "stays", "draws", "seconds", "processor seconds", "ms a stay and draw", "peak MB"],
        "rows": lines,
    }


def missed(found: list[dict[str, Any]], own: str) -> list[str]:
    """Bars of speed and memory that are missed by the rows of the method `own`."""
    misses = []
    peers = [one["seconds_a_draw"] for one in found if one["method"] != own]
    for one in (one for one in found if one["method"] == own):
        what = f"{one['stays']} stays x {one['draws']} draws"
        if peers and min(peers) < AT_LEAST * one["seconds_a_draw"]:
            ratio = min(peers) / one["seconds_a_draw"]
            misses.append(f"{what}: expected {AT_LEAST} times the speed of PyPOTS' CSDI, got {ratio:.0f}")
        if one["stays"] * one["draws"] >= DRAWS and one["seconds"] > 60 * MINUTES:
            misses.append(f"{what}: expected at most {MINUTES:.0f} minutes, got {one['seconds'] / 60:.1f}")
        if one["peak_bytes"] > MEMORY:
            misses.append(f"{what}: expected a peak below 1 GB, got {one['peak_bytes'] / 1e9:.2f}")
    return misses
