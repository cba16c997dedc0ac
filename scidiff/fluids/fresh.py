"""Networks of fields, before they have learned anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def fresh(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with weights of a seed, in the memory format that convolutions are fastest in.

    Args:
        make: builds it; the random numbers that it draws are those of the seed, and no others are used up.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = make()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
