"""Structures and histograms as small inline SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from scidiff.molecules.histograms import BINS, Histogram
from scidiff.molecules.where import Condition, Interval

WIDTH, HEIGHT = 240, 170  # pixels of one structure
PLOT_WIDTH, PLOT_HEIGHT = 232, 96  # pixels of one histogram, without its axis

_STYLE = re.compile(r"style='fill:none;(?:fill-rule:evenodd;)?stroke:(#[0-9A-F]{6});[^']*'")


def draw_molecule(smiles: str) -> str:
    """The structure of a molecule as an SVG element, with what every element repeats said once."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"expected a molecule, got {smiles!r}")
    canvas = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    # RDKit's type stubs give every option the type of the whole.
    options: Any = canvas.drawOptions()
    options.clearBackground = False
    options.bondLineWidth = 1.4
    options.padding = 0.06
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, mol)
    canvas.FinishDrawing()
    body = canvas.GetDrawingText().split("<!-- END OF HEADER -->", 1)[1].rsplit("</svg>", 1)[0]
    body = re.sub(r" ?class='[^']*'", "", body)
    body = _STYLE.sub(r"stroke='\1'", body)
    body = re.sub(r"\s*\n\s*", "", body)
    group = '<g fill="none" stroke-width="1.4" stroke-linejoin="round">'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{group}{body}</g></svg>'


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar in pixels from the top left."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A histogram ready to be drawn: bars of the molecules, the outline of the training set, the allowed range.

    Attributes:
        bars: of the generated molecules.
        outline: SVG path of the training set's histogram, empty if there is none.
        allowed: x and width of the stretches that the conditions allow; empty if there is no condition.
        ticks: position and text along the axis.
        overlap: shared mass of the two histograms, in [0, 1]; NaN without training set.
    """

    bars: tuple[Bar, ...]
    outline: str
    allowed: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    overlap: float


def plot(ours: Histogram, training: Histogram | None, conditions: tuple[Condition, ...]) -> Plot:
    """Lay out a histogram of the generated molecules over that of the training set, both as shares."""
    first, width, bins = BINS[ours.name]
    share = [count / max(ours.total, 1) for count in ours.counts]
    other = [count / training.total for count in training.counts] if training else [0.0] * bins
    low, high = _shown(share, other)
    top = max(*share[low:high], *other[low:high], 1e-9)
    scale = PLOT_WIDTH / (high - low)

    def x_of(value: float) -> float:
        return min(max(((value - first) / width - low) * scale, 0.0), PLOT_WIDTH)

    def y_of(part: float) -> float:
        return PLOT_HEIGHT * (1.0 - part / top)

    bars = tuple(
        Bar(
            x=(k - low) * scale + 0.5,
            y=y_of(share[k]),
            width=max(scale - 1.0, 0.5),
            height=PLOT_HEIGHT - y_of(share[k]),
            title=f"{_bin_text(ours.name, k)}: {ours.counts[k]} molecules, {share[k]:.1%}",
        )
        for k in range(low, high)
        if share[k]
    )
    points = [f"L{(k - low + side) * scale:.1f},{y_of(other[k]):.1f}" for k in range(low, high) for side in (0, 1)]
    return Plot(
        bars=bars,
        outline=f"M0,{PLOT_HEIGHT}{''.join(points)}L{PLOT_WIDTH},{PLOT_HEIGHT}" if training else "",
        allowed=tuple(_allowed(conditions, x_of, width if width == 1.0 else 0.0)),
        ticks=_ticks(first + low * width, first + high * width, x_of),
        overlap=sum(map(min, share, other)) if training else math.nan,
    )


def _shown(share: list[float], other: list[float]) -> tuple[int, int]:
    """The bins that hold anything of ours or at least 1 in 2,000 of the training set, with one empty bin around."""
    filled = [k for k, (a, b) in enumerate(zip(share, other, strict=True)) if a > 0 or b >= 0.0005]
    if not filled:
        return 0, len(share)
    return max(filled[0] - 1, 0), min(filled[-1] + 2, len(share))


def _allowed(
    conditions: tuple[Condition, ...], x_of: Callable[[float], float], bar: float
) -> Iterator[tuple[float, float]]:
    """Stretches of the axis that a condition allows; a count covers its whole bar."""
    for condition in conditions:
        region = condition.allowed
        if isinstance(region, Interval):
            spans = [(region.low, region.high)]
        else:
            spans = [(float(v), float(v)) for v in region.values]
        for low, high in spans:
            left, right = x_of(low - bar / 2), x_of(high + bar / 2)
            yield left, right - left


def _bin_text(name: str, k: int) -> str:
    first, width, _ = BINS[name]
    low = first + k * width
    return f"{low + 0.5:g}" if width == 1.0 else f"{low:g} to {low + width:g}"


def _ticks(low: float, high: float, x_of: Callable[[float], float]) -> tuple[tuple[float, str], ...]:
    """Three to six round numbers along the axis."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    numbers = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return tuple((x_of(number), f"{number:.10g}") for number in numbers)
