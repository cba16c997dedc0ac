"""What the imputation model must reach on PhysioNet 2012, at each share of hidden values."""

from __future__ import annotations

from collections.abc import Mapping

MAE_BARS = {0.1: 0.217, 0.5: 0.301, 0.9: 0.481}
CRPS_BARS = {0.1: 0.238, 0.5: 0.330, 0.9: 0.522}
COVERAGE_BAR = 0.02
METRICS = ("MAE", "RMSE", "CRPS (19 quantiles, normalised)", "CRPS (fair)")
COVERAGES = {f"coverage {100 * level:g} %": level for level in (0.5, 0.8, 0.9)}


def missed(found: Mapping[str, float], ratio: float, draws: int) -> list[str]:
    """The bars that the model misses at one share of hidden values."""
    misses = []
    if found["MAE"] > MAE_BARS[ratio]:
        misses.append(f"MAE, {ratio:.0%} hidden: expected at most {MAE_BARS[ratio]}, got {found['MAE']:.4f}")
    crps = found[METRICS[2]]
    if draws == 100 and crps > CRPS_BARS[ratio]:
        misses.append(f"CRPS-19, {ratio:.0%} hidden: expected at most {CRPS_BARS[ratio]}, got {crps:.4f}")
    for name, level in COVERAGES.items():
        if abs(found[name] - level) > COVERAGE_BAR:
            misses.append(f"{name}, {ratio:.0%} hidden: expected within 2 points, got {100 * found[name]:.1f}")
    return misses
