"""Several processes as one: each works on its share of every batch, and all take the same step.

Start them with `torchrun --nproc-per-node N ...`; without it there is one process and nothing here does anything. How
they share the weights is `TrainingConfig.strategy`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run: how many, and which one this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, values: list[float], device: torch.device) -> list[float]:
        """The values of the first process, in all of them."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        dist.broadcast(shared, src=0)
        return [float(value) for value in shared.cpu()]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        said = torch.tensor(int(flag), device=device)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the processes."""
        if self.size > 1:
            x = x.clone()
            dist.all_reduce(x)
        return x

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes that `torchrun` started (or that the caller has joined already)."""
    if dist.is_available() and dist.is_initialized():
        yield World(rank=dist.get_rank(), size=dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
    else:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield World(rank=dist.get_rank(), size=dist.get_world_size())
        finally:
            dist.destroy_process_group()
