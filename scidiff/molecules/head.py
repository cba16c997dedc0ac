r"""A property head: what to expect of a finished molecule while some of its fragments are beliefs.

It reads a product of beliefs q = prod_l q_l(.), certain where a fragment is known, and gives mean and spread of each
property of the molecule. Additive scores (`scidiff.molecules.scores`) are its skip connection,

    m(q) = b + sum_l E_q s + unit N(q),    spread(q) = unit exp(N'(q)),

so it learns what sums over fragments leave out: desirability functions of sums (QED), neighbours, groups that matter
together. N sees the expected embedding of each place, E_q e, through a transformer whose places are then added up, and
mean and variance of the scores' sums under q. All of it is differentiable by q, so that
`scidiff.guidance.ProjectTokens` can move q to where m(q) should be (Cardei et al., arXiv 2503.09790).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff import weights as files
from scidiff.guidance.project_tokens import Tangent
from scidiff.molecules.scores import SCORED, Scores, fingerprint
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.networks.transformer import Block, rotary

FOLDER = "head"
_LEAST = 0.01  # the least spread, in units
_PLACES = 8.0  # about as many a molecule has


class PropertyHead(nn.Module):
    """Mean and spread of the properties `SCORED` under beliefs about tokens.

    Args:
        classes: K, the number of tokens.
        width: features of a place, a multiple of 2 * heads.
        depth: transformer blocks.
        heads: attention heads.
    """

    table: Tensor  # s, [K, P]
    intercept: Tensor  # b, [P]
    centre: Tensor  # [P], about which values lie
    unit: Tensor  # [P], and how far from it

    def __init__(self, *, classes: int, width: int = 96, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        count = len(SCORED)
        self.sizes = {"width": width, "depth": depth, "heads": heads}
        self.embed = nn.Parameter(torch.zeros(classes, width))
        self.blocks = nn.ModuleList(Block(width, heads, ratio=2) for _ in range(depth))
        self.read = nn.Sequential(
            nn.Linear(width + 2 * count, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), nn.SiLU()
        )
        self.out = nn.Linear(width, 2 * count)
        nn.init.normal_(self.embed, std=width**-0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("table", torch.zeros(classes, count))
        self.register_buffer("intercept", torch.zeros(count))
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("unit", torch.ones(count))

    @classmethod
    def beginning(cls, scores: Scores, values: Tensor, features: Tensor, **sizes: int) -> PropertyHead:
        """A head that says what additive scores say.

        Args:
            scores: of the K tokens.
            values: properties [M, P] of some molecules; their standard deviation is the unit.
            features: [K, F] of the tokens, such as a model's embedding, whose main components embeddings begin with.
            sizes: of the network.
        """
        head = cls(classes=len(scores.table), **sizes)
        head.table.copy_(scores.table)
        head.intercept.copy_(scores.intercept)
        head.centre.copy_(values.mean(0))
        head.unit.copy_(values.std(0).clamp_min(1e-6))
        start = main_components(features, head.embed.shape[1])
        with torch.no_grad():
            head.embed[:, : start.shape[1]] = start / start.square().sum(1).mean().sqrt()
        return head

    def forward(self, beliefs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread, in the properties' units: probabilities [B, L, K] -> [B, P] and [B, P]."""
        return self.judge(beliefs @ self.tokens())

    def tokens(self) -> Tensor:
        """What is expected of each place: embedding, scores and their squares of each token, [K, F]."""
        return torch.cat([self.embed, self.table, self.table.square()], 1)

    def judge(self, expected: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread from what is expected of each place: [B, L, F] -> [B, P] and [B, P]."""
        width, count = self.embed.shape[1], len(self.unit)
        x, first, second = expected.split([width, count, count], -1)
        sums, variance = first.sum(1) + self.intercept, (second - first.square()).sum(1)
        cos, sin = rotary(expected.shape[1], width // self.sizes["heads"], device=expected.device)
        unmodulated = x.new_zeros(1, 6, width)
        for block in self.blocks:
            x = block(x, unmodulated, cos, sin)
        added = F.rms_norm(x, (width,)).sum(1) / _PLACES
        about = torch.cat([added, (sums - self.centre) / self.unit, variance / self.unit.square()], 1)
        shift, log_spread = self.out(self.read(about)).split(count, -1)
        return sums + self.unit * shift, self.unit * (log_spread.exp() + _LEAST)

    def save(self, folder: Path, vocabulary: Vocabulary, card: Mapping[str, Any]) -> None:
        """Write it into the folder `head` beside the weights; matrices in half precision."""
        tensors = {name: x.half() if x.ndim > 1 else x for name, x in self.state_dict().items()}
        config = {"sizes": self.sizes, "properties": list(SCORED), "vocabulary_sha256": fingerprint(vocabulary)}
        files.save(folder / FOLDER, files.Weights(tensors=tensors, config=config, card=card))

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> PropertyHead | None:
        """That of a folder; None if it has none. WeightsError if it is damaged or of other tokens."""
        if not (folder / FOLDER).exists():
            return None
        held = files.load(folder / FOLDER)
        asked = {"properties": list(SCORED), "vocabulary_sha256": fingerprint(vocabulary)}
        if any(held.config.get(name) != value for name, value in asked.items()):
            raise files.WeightsError(f"{folder / FOLDER}: expected a property head of the tokens of this model")
        with files.expected("a property head", folder / FOLDER):
            head = cls(classes=len(vocabulary.tokens), **held.config["sizes"])
            head.load_state_dict(held.part())
        return head.eval().requires_grad_(False)


def main_components(features: Tensor, count: int) -> Tensor:
    """The main components of features [K, F], at most so many, each with its size: [K, count]."""
    found = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    return (found.U * found.S)[:, :count]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """Some properties as a head expects them, for `scidiff.guidance.ProjectTokens`.

    Attributes:
        head: the head.
        asked: which of the properties `SCORED`, int64 [J].
    """

    head: PropertyHead
    asked: Tensor

    def __call__(self, q: Tensor) -> Tangent:
        """Slopes are less their mean under q at each place: only differences between tokens move beliefs."""
        tokens = self._tokens
        expected = q @ tokens[:, :-1]
        (mean, spread), pull = torch.func.vjp(self._judge, expected)  # type: ignore[misc]
        gradients, variances = [], []
        for one in torch.eye(len(self.asked), dtype=q.dtype, device=q.device):
            (slope,) = pull((one.expand_as(mean), torch.zeros_like(spread)))
            gradients.append(torch.cat([slope, -(slope * expected).sum(-1, keepdim=True)], -1))
            each = gradients[-1] @ tokens.T
            variances.append((q * each).mul_(each).sum((1, 2)))

        def tilt(multiplier: Tensor) -> Tensor:
            combined = torch.einsum("bj,jblf->blf", multiplier, torch.stack(gradients))
            return combined @ tokens.T

        return Tangent(value=mean, variance=torch.stack(variances, 1), spread=spread, tilt=tilt)

    @cached_property
    def _tokens(self) -> Tensor:
        """What is expected of a place with each token, and 1, which a slope's mean is taken off by: [K, F + 1]."""
        tokens = self.head.tokens()
        return torch.cat([tokens, torch.ones_like(tokens[:, :1])], 1)

    def _judge(self, expected: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.head.judge(expected)
        return mean[:, self.asked], spread[:, self.asked]
