"""Quality against the number of network calls a draw, from the same noise, paired with the most calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scidiff.timeseries.scores import ALL, Judged, paired, scores

CALLS = (2, 3, 4, 5, 6, 8, 10, 20, 50)
METRICS = ("MAE", "CRPS (19 quantiles, normalised)", "CRPS (fair)")
WITHIN = 0.01  # of the most calls, that the default must be
FAIR = METRICS[2]


def curve(method: str, hidden: float, runs: Mapping[int, Judged], *, seed: int) -> dict[str, Any]:
    """Metrics at each number of calls, and their relative change against the most calls with its interval.

    Args:
        method: name.
        hidden: share of hidden values.
        runs: by the number of calls, ascending, all judged on the same values.
        seed: of the resamples.
    """
    most = runs[max(runs)]
    best = scores(most, resamples=1, seed=seed).loc[ALL, "value"]
    rows = []
    for calls, judged in runs.items():
        value = scores(judged, resamples=1, seed=seed).loc[ALL, "value"]
        change = paired(judged, most, seed=seed).loc[ALL, ["value", "low", "high"]].div(best, axis=0)
        rows.append({"calls": calls, "metrics": value.to_dict(), "change": change.to_dict("index")})
    return {"method": method, "hidden": hidden, "rows": rows}


def table(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line a method, share of hidden values and number of calls."""
    lines = []
    for one in curves:
        for row in one["rows"]:
            change = {name: 100 * value for name, value in row["change"][FAIR].items()}
            shown = "{value:+.2f} % [{low:+.2f}, {high:+.2f}]".format(**change)
            metrics = [f"{row['metrics'][name]:.4f}" for name in METRICS]
            lines.append([one["method"], f"{one['hidden']:.0%}", row["calls"], *metrics, shown])
    most = curves[0]["rows"][-1]["calls"]
    return {
        "title": f"Quality against network calls a draw; paired difference to {most} calls [95 % interval over stays]",
        "columns": ["method", "hidden", "calls", "MAE", "CRPS-19", "fair CRPS", "fair CRPS, difference"],
        "rows": lines,
    }


def beyond(curves: Sequence[Mapping[str, Any]], default: int) -> list[str]:
    """Where the default number of calls is not within 1 % of the most."""
    return [
        f"{one['method']}, {one['hidden']:.0%} hidden: expected {default} calls within {WITHIN:.0%} of the most, "
        f"got {row['change'][FAIR]['value']:+.2%}"
        for one in curves
        for row in one["rows"]
        if row["calls"] == default and row["change"][FAIR]["value"] > WITHIN
    ]


def plot(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The relative change of the fair CRPS against the number of calls, as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for one in curves:
        calls = [row["calls"] for row in one["rows"]]
        middle, low, high = (
            [100 * row["change"][FAIR][k] for row in one["rows"]] for k in ("value", "low", "high")
        )  # fmt: skip
        (line,) = axes.plot(calls, middle, marker="o", label=f"{one['method']}, {one['hidden']:.0%} hidden")
        axes.fill_between(calls, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.axhspan(-100 * WITHIN, 100 * WITHIN, color="0.9", zorder=0)
    axes.set_xscale("log")
    axes.set_xticks(calls, [str(count) for count in calls])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="network calls a draw", ylabel=f"fair CRPS against {calls[-1]} calls, %")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
