r"""What a property head learns from: molecules of which some fragments are hidden behind beliefs about them.

The number of hidden fragments is uniform in 1 .. L, as in the model's own training, and the beliefs are those of a
trained model, p_l(.) given what is seen. By themselves they are a function of what is seen, and how a property
changes with them alone could not be learned. So every other molecule's hidden places bring evidence of their own, a
noisy look at features f of the truth, z = f(x^l) + n / sqrt(r), and beliefs are updated by Bayes' rule,

    q_l(k) proportional to p_l(k) exp(r z . f(k) - r |f(k)|^2 / 2),

at precisions r from none to certainty. The mean of a property given all that is m(q), and the square of what is left
the square of its spread: the head minimises

    sum_j (y_j - m_j)^2 / unit_j^2  +  sum_j (log s_j + (y_j - [m_j])^2 / (2 s_j^2))

with [.] held fixed, so that the spread never buys itself a worse mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.molecules.fit import Encoded
from scidiff.molecules.head import main_components
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.scores import SCORED
from scidiff.noise import Noise
from scidiff.objective import Times, stratified
from scidiff.processes.base import Process
from scidiff.state import Layout, State

_LOOKED_AT = 0.5  # share of the molecules whose hidden places bring evidence
_CLEAREST = 60.0  # the largest precision; features have length 1
_FEATURES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadLoss:
    """The loss of a property head, in the place of a denoiser's: the condition is the properties, [B, P].

    Attributes:
        model: has the beliefs; not trained.
        times: of how much is hidden.
        looks: whether places bring evidence.
    """

    model: FragmentModel
    times: Times = stratified
    looks: bool = True

    def __call__(
        self,
        denoiser: nn.Module,
        processes: Mapping[str, Process],
        x_0: State,
        layout: Layout,
        noise: Noise,
        *,
        condition: Any = None,
    ) -> Tensor:
        """The loss of each molecule: [B]."""
        mean, spread = denoiser(self.beliefs(x_0, layout, noise))
        miss, scale = (condition - mean) / denoiser.unit, spread / denoiser.unit
        return (miss.square() + scale.log() + (miss.detach() / scale).square() / 2).sum(1)

    def beliefs(self, x_0: State, layout: Layout, noise: Noise) -> Tensor:
        """q of each place: [B, L, K]."""
        t, rows = self.times(noise), layout.rows(LEAF)
        x_t = self.model.processes[LEAF].corrupt(x_0[LEAF], t, rows, noise.at(LEAF, 0, rows))
        with torch.no_grad(), torch.autocast(x_t.device.type, dtype=torch.bfloat16):
            log_p = self.model.denoiser({LEAF: x_t}, t, layout)[LEAF].float()
        return (log_p + self._evidence(x_0[LEAF], noise)).softmax(-1) if self.looks else log_p.exp()

    @cached_property
    def features(self) -> Tensor:
        """f: the main components of the model's embedding, of length 1: [K, F]."""
        embedding = self.model.denoiser.get_parameter("network.embed.weight").detach()[:-1].float()
        return F.normalize(main_components(embedding, _FEATURES))

    def _evidence(self, x_0: Tensor, noise: Noise) -> Tensor:
        """log-likelihood of the look at each place by token, but for a constant: [B, L, K]."""
        shapes = {"look": (*x_0.shape[1:], self.features.shape[1]), "precision": ()}
        layout = Layout.dense(len(x_0), shapes, device=x_0.device)
        u = noise.at("precision", 0, layout.rows("precision")).uniform(shape=(2,)).float()
        precision = torch.where(u[:, 0] < _LOOKED_AT, _CLEAREST * u[:, 1] ** 3, 0)[:, None, None]
        error = noise.at("look", 0, layout.rows("look")).normal()
        return (precision * self.features[x_0] + precision.sqrt() * error) @ self.features.T


def explained(
    model: FragmentModel, head: nn.Module, data: Encoded, shares: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
) -> dict[str, dict[str, float]]:
    """R^2 of a head's means by the share of fragments hidden behind the model's beliefs, by property.

    Args:
        model: has the beliefs.
        head: gives means.
        data: molecules with their values.
        shares: of the fragments that are hidden.
    """
    if data.values is None:
        raise ValueError("expected molecules with their values, got none")
    found, spread = {}, torch.from_numpy(data.values).var(0)
    batches = data.batches(tokens=4096)
    for share in shares:
        hidden, left = HeadLoss(model=model, times=partial(_always, share), looks=False), []
        for position in range(batches.batches_per_epoch):
            batch = batches.at(position)
            with torch.no_grad():
                mean, _ = head(hidden.beliefs(batch.x_0, batch.layout, Noise(seed=2, index=batch.index)))
            left.append(cast(Tensor, batch.condition) - mean.double())
        explained_share = 1 - torch.cat(left).square().mean(0) / spread
        found[f"{share:g}"] = {name: round(r, 3) for name, r in zip(SCORED, explained_share.tolist(), strict=True)}
    return found


def _always(share: float, noise: Noise) -> Tensor:
    return torch.full((len(noise.index),), share, dtype=torch.float64, device=noise.index.device)
