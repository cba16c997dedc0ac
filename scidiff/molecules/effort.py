"""What a run spent, and the share of the model's molecules that meet its conditions, from weighted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LARGEST = 700.0  # exponents beyond it are no doubles


@dataclass(kw_only=True)
class Effort:
    """Sums over draws with weights W = p / q, model over sampler.

        Z = mean(W [holds]),    effective sample size = sum(W [holds])^2 / sum(W^2 [holds])

    Z is without bias; its interval is that of the mean, 95 %, by the normal approximation.

    Attributes:
        scale: what a draw's weight is multiplied by to give W.
        calls, oracle_calls: network calls and molecules certified.
        draws: number of draws.
        total, squares: sums of W and of W^2 over the draws that hold.
    """

    scale: float = 1.0
    calls: int = 0
    oracle_calls: int = 0
    draws: int = 0
    total: float = 0.0
    squares: float = 0.0

    def log_weight(self, drawn: object) -> float:
        """log W of a draw."""
        return math.log(self.scale) + float(getattr(drawn, "log_weight", 0.0))

    def add(self, drawn: object, *, holds: bool) -> None:
        """Count one draw; sources that know no weights or calls have 1 and 0."""
        self.draws += 1
        self.oracle_calls += 1
        self.calls += getattr(drawn, "calls", 0)
        if holds:
            weight = math.exp(min(self.log_weight(drawn), _LARGEST / 2))
            self.total += weight
            self.squares += weight * weight

    @property
    def share(self) -> float:
        """Z; NaN before the first draw."""
        return self.total / self.draws if self.draws else math.nan

    @property
    def half_width(self) -> float:
        """Of the interval of Z; NaN with fewer than two draws."""
        if self.draws < 2:
            return math.nan
        variance = (self.squares - self.draws * self.share**2) / (self.draws - 1)
        return 1.96 * math.sqrt(max(variance, 0.0) / self.draws)

    @property
    def effective(self) -> float:
        """Effective sample size of the draws that hold; 0 without any."""
        return self.total**2 / self.squares if self.squares else 0.0

    def text(self) -> str:
        """`feasible share 0.0012 [0.0008, 0.0016], log Z -6.7 [-7.1, -6.4], of 4096 draws`; says it if none held."""
        if not self.total:
            return f"feasible share: none of {self.draws} draws held"
        ends = (self.share, max(self.share - self.half_width, 0.0), self.share + self.half_width)
        share, low, high = (f"{end:.3g}" for end in ends)
        log_z, log_low, log_high = (f"{math.log(end):.3g}" if end > 0 else "-inf" for end in ends)
        return f"feasible share {share} [{low}, {high}], log Z {log_z} [{log_low}, {log_high}], of {self.draws} draws"

    def as_dict(self, certified: int) -> dict[str, object]:
        """Plain values, for JSON; None where there is no number."""
        low, high = self.share - self.half_width, self.share + self.half_width
        known = self.draws > 1
        return {
            "feasible_share": self.share if known else None,
            "feasible_share_interval": [max(low, 0.0), high] if known else None,
            "log_z": math.log(self.share) if known and self.share > 0 else None,
            "effective_sample_size": self.effective,
            "network_calls": self.calls,
            "oracle_calls": self.oracle_calls,
            "network_calls_per_certified": self.calls / certified if certified else None,
            "oracle_calls_per_certified": self.oracle_calls / certified if certified else None,
        }
