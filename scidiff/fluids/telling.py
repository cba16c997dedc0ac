r"""Several flows in one network, which is told of each: the Reynolds number, and the number n of waves of its force.

Each flow has a mean and a covariance of its own, and the network answers for what Wiener's filter of that flow leaves.
They were measured at the Reynolds numbers Re_j that were learned from; between two of them they are interpolated,

    m = (1 - w) m_j + w m_{j+1},   C = (1 - w) C_j + w C_{j+1},   w = log(Re / Re_j) / log(Re_{j+1} / Re_j),

and never between forces. The network reads cos(n y) and sin(n y) beside the field, and as facts log Re, -1 at the least
and 1 at the greatest that was learned from, and 1 for the flow's own n, 0 for each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scidiff.denoiser import Denoiser, NetworkDenoiser
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.model import LEAF, prior_of
from scidiff.fluids.symmetries import FlowBatches, images
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.stationary import Stationary
from scidiff.schedules import Cosine
from scidiff.state import Layout, State

Facts = Mapping[str, Tensor]
"""Of each field "reynolds", float [B], and "waves", int64 [B]; one of each, [1], for all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """The flows that were learned from, K forces at each of J Reynolds numbers.

    Attributes:
        reynolds: J >= 2 numbers, increasing.
        waves: K numbers of waves of the force.
        mean: of each flow, in units of the scale, [K, J, 1, H, W].
        variance: of each mode of the unitary `rfft2`, [K, J, 1, H, W // 2 + 1].
        matrices: the covariance over y of each wave along x, complex [K, J, W // 2 + 1, H, H].
    """

    reynolds: tuple[float, ...]
    waves: tuple[int, ...]
    mean: Tensor
    variance: Tensor
    matrices: Tensor

    def __post_init__(self) -> None:
        if len(self.reynolds) < 2 or list(self.reynolds) != sorted(set(self.reynolds)):
            raise ValueError(f"expected two or more Reynolds numbers, increasing, got {self.reynolds}")
        if self.mean.shape[:2] != (len(self.waves), len(self.reynolds)):
            raise ValueError(
                f"expected {len(self.waves)} forces at {len(self.reynolds)} numbers, got {self.mean.shape}"
            )

    @classmethod
    def of(cls, fields: Tensor, *, reynolds: tuple[float, ...], waves: tuple[int, ...]) -> Learned:
        """Of fields [K, J, S, H, W] in units of the scale, each mean and covariance over the symmetries of its flow."""
        rows: dict[str, list[Tensor]] = {"mean": [], "variance": [], "matrices": []}
        for n, flows in zip(waves, fields, strict=True):
            for flow in flows:
                every = images(flow, waves=n)
                prior = prior_of(every[:, None])
                covariance = Covariance.of(every, prior.mean[0])
                found = (prior.mean, prior.variance, covariance.matrices())
                for row, part in zip(rows.values(), found, strict=True):
                    row.append(part)
        parts = {name: torch.stack(row).unflatten(0, (len(waves), len(reynolds))) for name, row in rows.items()}
        return cls(reynolds=reynolds, waves=waves, **parts)

    def shares(self, told: Facts) -> Tensor:
        """What each learned flow counts for in flows that are told, float32 [B, K, J]; the sum over both is 1."""
        own = self._own(told["waves"])
        log = torch.tensor(self.reynolds, dtype=torch.float64, device=own.device).log()
        at = told["reynolds"].double().log()[:, None]
        rise = ((at - log[:-1]) / log.diff()).clamp(0, 1)  # 1 beyond the upper end of a piece, 0 below its lower
        edge = torch.ones_like(at)
        hats = torch.cat([edge, rise], 1) - torch.cat([rise, 0 * edge], 1)
        return own[:, :, None] * hats.float()[:, None, :]

    def facts(self, told: Facts) -> Tensor:
        """What the network hears: float32 [B, 1 + K]."""
        low, high = self.reynolds[0], self.reynolds[-1]
        place = 2 * (told["reynolds"].double() / low).log() / math.log(high / low) - 1
        return torch.cat([place.float()[:, None], self._own(told["waves"])], 1)

    def prior(self, told: Facts) -> Stationary:
        """Mean and spectrum of each flow: of one flow [1, H, W] and [1, H, W // 2 + 1], of B with B in front."""
        shares = self.shares(told)
        mean, variance = (_mixed(shares, part) for part in (self.mean, self.variance))
        if len(mean) == 1:
            mean, variance = mean[0], variance[0]
        return Stationary(mean=mean, variance=variance)

    def covariance(self, told: Facts) -> Covariance:
        """Of one flow."""
        (matrices,) = _mixed(self.shares(told), self.matrices)
        return Covariance.from_matrices(matrices, self.mean.shape[-1])

    def _own(self, waves: Tensor) -> Tensor:
        """1 for a flow's own force, 0 for the others: float32 [B, K]."""
        return (waves[:, None] == torch.tensor(self.waves, device=waves.device)).float()


def _mixed(shares: Tensor, parts: Tensor) -> Tensor:
    """[B, K, J], [K, J, ...] -> [B, ...], as a sum of products, which autocast leaves in full precision."""
    weight = shares.reshape(*shares.shape, *([1] * (parts.ndim - 2)))
    return (weight * parts.to(shares.device)).sum((1, 2))


class Told(nn.Module):
    """A network that is told of the flow of each field.

    Args:
        network: reads the field and two maps, and facts as its condition.
        facts: [B, F], or [1, F] for all fields.
        maps: cos(n y) and sin(n y), [B, 2, H, W], or [1, 2, H, W].
    """

    facts: Tensor
    maps: Tensor

    def __init__(self, network: nn.Module, facts: Tensor, maps: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("facts", facts)
        self.register_buffer("maps", maps)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: object = None) -> State:
        """The raw output of the network."""
        x = inputs[LEAF]
        shown = torch.cat([x, self.maps.to(x.dtype).expand(len(x), -1, -1, -1)], 1)
        found: State = self.network({LEAF: shown}, t, layout, {"facts": self.facts.expand(len(x), -1)})
        return found


class ToldDenoiser(Denoiser):
    """The denoiser of several flows, whose condition are the `Facts` of each field.

    Args:
        network: reads [B, 4, H, W] of the leaf, two of them maps, and 1 + K facts.
        learned: the flows that were learned from.
        maps: cos(n y) and sin(n y) of each n, [K, 2, H, W].
    """

    maps: Tensor

    def __init__(self, network: nn.Module, learned: Learned, maps: Tensor) -> None:
        super().__init__()
        self.network, self.learned = network, learned
        self.register_buffer("maps", maps.float(), persistent=False)

    def processes(self, told: Facts) -> Mapping[str, Process]:
        """Of the flows of B fields, or of one flow for all fields."""
        return {LEAF: GaussianProcess(schedule=Cosine(), parametrisation=self.learned.prior(told))}

    def of(self, told: Facts) -> NetworkDenoiser:
        """The denoiser of B fields of these flows, or of any number of fields of one flow."""
        facts = self.learned.facts(told)
        maps = self.maps[facts[:, 1:].argmax(1)]
        return NetworkDenoiser(Told(self.network, facts, maps), self.processes(told))

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Facts | None = None) -> State:
        """The clean estimates of fields, of which each is told."""
        if condition is None:
            raise ValueError("expected to be told of each flow, got no condition")
        return self.of(condition)(x_t, t, layout)


class ToldBatches(FlowBatches):
    """Vorticities of several flows, each moved by a symmetry of its own flow, and what is told of it.

    Args:
        fields: [S, H, W].
        told: of each, [S].
        leaf, size, seed: as of `FlowBatches`.
    """

    def __init__(self, fields: Tensor, *, told: Facts, leaf: str, size: int, seed: int = 0) -> None:
        super().__init__(fields, leaf=leaf, waves=told["waves"], size=size, seed=seed)
        self._told = told
        numbers = f"{self.fingerprint} {told['reynolds'].tolist()}"
        self.fingerprint = hashlib.sha256(numbers.encode()).hexdigest()

    def condition(self, chosen: Tensor, visit: Tensor) -> dict[str, Tensor]:
        """The facts of the chosen fields."""
        return {name: of[chosen] for name, of in self._told.items()}
