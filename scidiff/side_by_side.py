"""Small products side by side, each on one core, rather than each one cut to pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from scidiff.interrupts import hold_back

# Products in bfloat16 are compiled for each shape and kept, by oneDNN and once more by the layer between it and torch.
# Tiles have ever new shapes, and a thousand of them, which is what both keep by themselves, take hundreds of megabytes.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Executor]:
    """As many threads as torch has, with one core each; one thread for an accelerator.

    A product is then also the same to the last bit whatever the number of cores. Leaving cancels what has not begun.
    """
    cores = torch.get_num_threads()
    workers = cores if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(workers, "draw", initializer=_alone)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(cores)  # of threads that are yet to come; those of the pool have had theirs


def _alone() -> None:
    """Make a thread of the pool use one core and leave Ctrl-C to the main one."""
    torch.set_num_threads(1)
    hold_back()
