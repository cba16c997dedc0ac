"""What the network of a flow is told of it: the Reynolds number, or nothing.

Two numbers: the logarithm of the Reynolds number, -1 at the least and 1 at the greatest of training, and 1; two zeros
where nothing is told, which a share of the fields in training are, so that one network draws with and without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scidiff.fluids.symmetries import FlowBatches
from scidiff.noise import Noise
from scidiff.state import Layout, State

FACTS = 2
UNTOLD = 0.1
"""The share of fields in training of which nothing is told."""


def facts(reynolds: Tensor, span: tuple[float, float]) -> Tensor:
    """What is told of Reynolds numbers [B] within the span of training: float32 [B, 2]."""
    low, high = span
    place = 2 * (reynolds.double() / low).log() / math.log(high / low) - 1
    return torch.stack([place, torch.ones_like(place)], -1).float()


class Told(nn.Module):
    """A network that is told the same of every field.

    Args:
        network: takes facts as its condition.
        facts: float [2].
    """

    facts: Tensor

    def __init__(self, network: nn.Module, facts: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("facts", facts)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: object = None) -> Mapping[str, Tensor]:
        """The raw output of the network."""
        found: Mapping[str, Tensor] = self.network(inputs, t, layout, {"facts": self.facts.expand(len(t), -1)})
        return found


class ToldBatches(FlowBatches):
    """Vorticities as `FlowBatches` shows them, with facts on each, which a share of the visits leaves out.

    Args:
        fields: [S, H, W].
        facts: of each, [S, 2].
        leaf, waves, size, seed: as of `FlowBatches`.
    """

    def __init__(self, fields: Tensor, *, facts: Tensor, leaf: str, waves: int, size: int, seed: int = 0) -> None:
        super().__init__(fields, leaf=leaf, waves=waves, size=size, seed=seed)
        self._facts = facts

    def condition(self, chosen: Tensor, visit: Tensor) -> dict[str, Tensor]:
        """The facts, or zeros: {"facts": [B, 2]}."""
        rows = Layout.dense(len(visit), {"told": ()}).rows("told")
        told = Noise(seed=self._seed, index=visit).at("told", 0, rows).uniform() >= UNTOLD
        return {"facts": self._facts[chosen] * told[:, None]}
