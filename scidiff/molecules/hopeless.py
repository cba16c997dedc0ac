"""When to give up: a statistical bound on how many more draws a request can need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import betaincinv

CONFIDENCE = 0.99
_FIRST_LOOK = 256


def upper_bound(accepted: int, drawn: int, alpha: float) -> float:
    """One-sided upper confidence bound of an acceptance rate (Clopper & Pearson 1934).

        p_u solves  P(X <= accepted | drawn, p_u) = alpha,  X binomial

    Args:
        accepted, drawn: 0 <= accepted <= drawn.
        alpha: chance that the true rate lies above the bound, in (0, 1).
    """
    if accepted >= drawn:
        return 1.0
    return float(betaincinv(accepted + 1, drawn - accepted, 1.0 - alpha))


@dataclass(kw_only=True)
class Watch:
    """Looks at the acceptance rate after 256, 512, 1024, ... draws and says when the request is hopeless.

    It is hopeless when even the upper bound of the rate makes the draws still needed exceed those still allowed. The
    j-th look spends 0.01 / (j (j + 1)) of the error, so that over all looks, however many, a request is given up while
    its true rate would still suffice on average with probability at most 1 % (union bound).

    Attributes:
        wanted: molecules asked for.
        max_draws: draws allowed in all.
    """

    wanted: int
    max_draws: int
    next_look: int = _FIRST_LOOK
    looks: int = 0

    def verdict(self, accepted: int, drawn: int) -> str:
        """Why the request is hopeless, or an empty text. Cheap: does nothing until the next look is due."""
        if drawn < self.next_look or accepted >= self.wanted:
            return ""
        self.next_look *= 2
        self.looks += 1
        alpha = (1.0 - CONFIDENCE) / (self.looks * (self.looks + 1))
        rate = upper_bound(accepted, drawn, alpha)
        needed = math.ceil((self.wanted - accepted) / rate)
        if needed <= self.max_draws - drawn:
            return ""
        return (
            f"hopeless: {accepted} of {drawn} draws accepted, so with {CONFIDENCE:.0%} confidence at most {rate:.2g} "
            f"are; {self.wanted - accepted} more need about {needed:,} draws, and --max-draws leaves "
            f"{self.max_draws - drawn:,}"
        )
