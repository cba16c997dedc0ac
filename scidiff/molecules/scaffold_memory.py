"""Scores turned into what a policy is rewarded for: full scaffolds are discounted, and what is left is ranked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

ROOM = 10  # molecules of one scaffold


class ScaffoldMemory:
    """Buckets of good molecules by scaffold; a scaffold whose bucket is full is rewarded no more.

    Blaschke et al., "Memory-assisted reinforcement learning for diverse molecular de novo design" (2020), identical
    Murcko scaffold: a molecule that scores at least `threshold` goes to the bucket of its scaffold; once the bucket
    holds `room`, further ones are scored as nothing.

    Args:
        threshold: the score from which a molecule is good.
        room: molecules of one bucket.
    """

    def __init__(self, *, threshold: float, room: int = ROOM) -> None:
        self.threshold, self.room = threshold, room
        self.buckets: Counter[str] = Counter()

    def discounted(self, score: float, scaffold: str) -> float:
        """The score, or minus infinity if it is good and its bucket is full; otherwise it is put there."""
        if not score >= self.threshold:
            return score
        if self.buckets[scaffold] >= self.room:
            return -math.inf
        self.buckets[scaffold] += 1
        return score


def advantages(rewards: Sequence[float]) -> Tensor:
    r"""What each of B molecules is worth, from the ranks of their rewards: float64 [B], of mean 0.

        u_i = max(0, log(B/2 + 1) - log(rank_i)),   A_i = B u_i / sum_j u_j - 1

    (fitness shaping of natural evolution strategies, Wierstra et al. 2014, sec. 3.1): no unit of the objective matters,
    nor how far the worst lie below. Equal rewards share their ranks; where all are equal, A = 0.
    """
    reward = torch.tensor(rewards, dtype=torch.float64)
    count = len(reward)
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    utility = (math.log(count / 2 + 1) - rank.log()).clamp_min(0)
    levels, level = torch.unique(-reward, return_inverse=True)  # the best first
    size = torch.bincount(level, minlength=len(levels))
    place = torch.empty_like(level)
    place[level.argsort(stable=True)] = torch.arange(count)
    total = torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, utility[place])
    return count * (total / size)[level] / utility.sum() - 1
