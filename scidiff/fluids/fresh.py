"""Networks of fields, before they have learned anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from scidiff.networks.fno import FNO
from scidiff.networks.unet import Convolution, UNet, WalledConvolution

Network = Literal["unet", "fno"]


def network(
    kind: Network,
    *,
    leaf: str,
    inputs: int,
    outputs: int,
    maps: Tensor | None,
    widths: tuple[int, ...],
    blocks: int,
    convolution: type[Convolution] = Convolution,
    facts: int = 0,
) -> Callable[[], nn.Module]:
    """What builds a network of fields.

    Args:
        kind: "unet", or "fno", which only knows periodic fields, and has one width for all blocks.
        leaf: that is denoised.
        inputs, outputs: channels.
        maps: static, [M, H, W], or None.
        widths: of the levels of a U-Net; the one of an FNO.
        blocks: of each level of a U-Net; all of an FNO.
        convolution: of a U-Net, which says how the grid ends.
        facts: numbers that a U-Net is told of each field.

    Raises:
        ValueError: an FNO with walls, with several widths, or that is told.
    """
    if kind == "unet":
        sizes = partial(UNet, widths=widths, blocks=blocks, convolution=convolution, facts=facts)
        return partial(sizes, leaf=leaf, inputs=inputs, outputs=outputs, maps=maps)
    if facts:
        raise ValueError(f"expected a U-Net to be told {facts} numbers, got an FNO")
    if convolution is WalledConvolution or len(widths) != 1:
        raise ValueError(f"expected a periodic field and one width of an FNO, got {convolution.__name__}, {widths}")
    return partial(FNO, leaf=leaf, inputs=inputs, outputs=outputs, maps=maps, width=widths[0], depth=blocks)


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
