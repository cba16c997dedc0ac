"""What a run spent, and the share of the model's molecules that meet its conditions, from weighted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LARGEST = 700.0  # exponents beyond it are no doubles


@dataclass(kw_only=True)
class Effort:
    """Sums over draws with weights W = p / q, model over sampler.

        Z = mean(W [holds]),    effective sample size = sum(W [holds])^2 / sum(W^2 [holds])

    Z is without bias; its interval is that of the mean, 95 %, by the normal approximation. Where no draw of n holds and
    all weigh alike, Z is at most 1 - 0.025^(1/n) with the same confidence (Clopper & Pearson 1934).

    Attributes:
        scale: what a draw's weight is multiplied by to give W.
        calls, oracle_calls: network calls and molecules certified.
        draws: number of draws.
        total, squares: sums of W and of W^2 over the draws that hold.
        alike: whether all draws weigh the same.
    """

    scale: float = 1.0
    calls: int = 0
    oracle_calls: int = 0
    draws: int = 0
    total: float = 0.0
    squares: float = 0.0
    alike: bool = True

    def log_weight(self, drawn: object) -> float:
        """log W of a draw."""
        return math.log(self.scale) + float(getattr(drawn, "log_weight", 0.0))

    def add(self, drawn: object, *, holds: bool) -> None:
        """Count one draw; sources that know no weights or calls have 1 and 0."""
        self.draws += 1
        self.oracle_calls += 1
        self.calls += getattr(drawn, "calls", 0)
        self.alike = self.alike and not getattr(drawn, "log_weight", 0.0)
        if holds:
            weight = math.exp(min(self.log_weight(drawn), _LARGEST / 2))
            self.total += weight
            self.squares += weight * weight

    @property
    def share(self) -> float:
        """Z; NaN before the first draw."""
        return self.total / self.draws if self.draws else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of Z; None where nothing can be said of it."""
        if self.draws < 2 or not (self.total or self.alike):
            return None
        if not self.total:
            return 0.0, self.scale * -math.expm1(math.log(0.025) / self.draws)
        variance = (self.squares - self.draws * self.share**2) / (self.draws - 1)
        half = 1.96 * math.sqrt(max(variance, 0.0) / self.draws)
        return max(self.share - half, 0.0), self.share + half

    @property
    def effective(self) -> float:
        """Effective sample size of the draws that hold; 0 without any."""
        return self.total**2 / self.squares if self.squares else 0.0

    def text(self) -> str:
        """`feasible share 0.0012 [0.0008, 0.0016], log Z -6.7 [-7.1, -6.4], of 4096 draws`; says it if none held."""
        if not self.total:
            none, bound = f"feasible share: none of {self.draws} draws held", self.interval
            return none if bound is None else f"{none}, so at most {bound[1]:.2g}, log Z at most {_log(bound[1])}"
        low, high = self.interval or (math.nan, math.nan)
        share = f"feasible share {self.share:.3g} [{low:.3g}, {high:.3g}]"
        return f"{share}, log Z {_log(self.share)} [{_log(low)}, {_log(high)}], of {self.draws} draws"

    def as_dict(self, certified: int) -> dict[str, object]:
        """Plain values, for JSON; None where there is no number."""
        known = self.draws > 1
        return {
            "feasible_share": self.share if known else None,
            "feasible_share_interval": list(self.interval) if self.interval else None,
            "log_z": math.log(self.share) if known and self.share > 0 else None,
            "effective_sample_size": self.effective,
            "network_calls": self.calls,
            "oracle_calls": self.oracle_calls,
            "network_calls_per_certified": self.calls / certified if certified else None,
            "oracle_calls_per_certified": self.oracle_calls / certified if certified else None,
        }


def _log(share: float) -> str:
    return "-inf" if share <= 0 else f"{math.log(share):.3g}"
