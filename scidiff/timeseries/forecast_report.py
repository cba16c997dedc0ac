"""Reports of forecasts and of backtests: one HTML file each, that holds all it shows and opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scidiff.timeseries.backtest import MODEL, Backtest
from scidiff.timeseries.charts import Chart, bars, chart, even, on_diagonal
from scidiff.timeseries.forecast import Forecast
from scidiff.timeseries.metrics import Floats
from scidiff.timeseries.pages import made, page, write_page

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_BANDS = ((0.05, 0.95), (0.25, 0.75))
_SERIES, _VARIABLES = 4, 4  # of the drawings
_BARS = 10
_BEFORE = 3  # horizons of history that are drawn


def write_forecast_report(
    found: Forecast, path: str | Path, *, facts: Mapping[str, str], notes: tuple[str, ...] = (), command: str = ""
) -> None:
    """Write fan charts, what the draws were calibrated to, and what became of the rules.

    Args:
        found: a forecast.
        path: the HTML file.
        facts: on the model and the run, by name.
        notes: what was decided, one line each.
        command: how the run was started.

    Raises:
        UserError: the file cannot be written.
    """
    title = f"Forecast of {len(found.panel):,} series over {found.time.shape[1]} steps"
    _write(path, title=title, facts=facts, notes=notes, command=command, forecast=found, truth=None, backtest=None)


def write_backtest_report(
    found: Backtest, path: str | Path, *, facts: Mapping[str, str], notes: tuple[str, ...] = (), command: str = ""
) -> None:
    """Write scores, tests, coverage, PIT and the last forecast beside what came; arguments as above."""
    title = f"Backtest of {len(found.last.panel):,} series from {found.origins} origins"
    settings: dict[str, Any] = {"facts": facts, "notes": notes, "command": command}
    _write(path, title=title, forecast=found.last, truth=found.truth, backtest=found, **settings)


def _write(
    path: str | Path, *, forecast: Forecast, truth: Floats | None, backtest: Backtest | None, **shown: Any
) -> None:
    facts = {**shown.pop("facts"), **made()}
    scores = {} if backtest is None else _scores(backtest)
    text = page(
        "forecast_report.html.jinja",
        **shown,
        facts=facts,
        verdicts=forecast.verdicts,
        charts=_charts(forecast, truth),
        scores=scores,
    )
    write_page(text, path)


def _charts(found: Forecast, truth: Floats | None) -> list[tuple[str, Chart]]:
    """Fans of some series, evenly picked."""
    panel = found.panel
    some = np.unique(np.linspace(0, len(panel) - 1, min(len(panel), _SERIES)).round().astype(int))
    return [
        (" ".join([*([str(panel.ids[s])] if len(panel) > 1 else []), panel.label(v)]), _fan(found, s, v, truth))
        for s in some
        for v in range(min(len(panel.variables), _VARIABLES))
    ]


def _fan(found: Forecast, s: int, v: int, truth: Floats | None) -> Chart:
    """The last rows of a series, then the median and bands of its draws."""
    panel, horizon = found.panel, found.time.shape[1]
    first = found.time[s, 0]
    rows = np.flatnonzero(panel.times[s] < first)[-_BEFORE * horizon :]
    past = panel.values[s][rows, v]
    draws = found.draws[s, :, :, v]

    def after(ahead: Floats) -> Floats:
        return np.concatenate([past, ahead])

    time = np.concatenate([panel.times[s][rows], found.time[s]])
    came = np.full(horizon, np.nan) if truth is None else truth[s, :, v]
    stamps = [str(text) for text in panel.clock.back(time[[0, -1]])]
    ends = [(after(np.quantile(draws, low, axis=0)), after(np.quantile(draws, high, axis=0))) for low, high in _BANDS]
    marked = np.concatenate([np.full(len(past), np.nan), came])
    return chart(time, after(np.median(draws, axis=0)), ends, marked, labels=(stamps[0], stamps[1]))


def _scores(found: Backtest) -> dict[str, Any]:
    """What a backtest has to say beyond its charts."""
    share = np.histogram(found.pit, bins=_BARS, range=(0, 1))[0] / max(len(found.pit), 1)
    levels = np.array(_LEVELS)
    inside = (np.abs(found.pit[:, None] - 0.5) <= levels / 2).mean(0)
    ends = on_diagonal(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    origins = [(n + 1, [values[n] for values in found.crps.values()]) for n in range(found.origins)]
    return {
        "columns": list(found.table.columns),
        "rows": [(name, row.tolist()) for name, row in zip(found.table.index, found.table.to_numpy(), strict=True)],
        "best": found.table["CRPS"].idxmin(),
        "model": MODEL,
        "against": found.against,
        "bars": bars(share),
        "even": even(share),
        "share": share,
        "inside": list(zip(levels, inside, on_diagonal(levels, inside), strict=True)),
        "diagonal": [place for end in ends for place in end],
        "methods": list(found.crps),
        "origins": origins,
    }
