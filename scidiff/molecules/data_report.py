"""What is written about a model of your own data: its card, and the histograms of the data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from scidiff import atomic
from scidiff.molecules.drawing import PLOT_HEIGHT, PLOT_WIDTH, plot
from scidiff.molecules.histograms import Histogram, histograms_of, training_histograms
from scidiff.molecules.own_data import card_lines
from scidiff.molecules.properties import PROPERTIES

MOST_MEASURED = 2000  # molecules whose properties are computed


def write_data_report(path: Path, smiles: Sequence[str], card: Mapping[str, Any]) -> None:
    """One HTML file that opens offline: the card, histograms of the data over those of MOSES, why rows were refused."""
    chosen = random.Random(0).sample(list(smiles), min(MOST_MEASURED, len(smiles)))
    training = training_histograms()
    counts = histograms_of(chosen)
    source = resources.files("scidiff.molecules").joinpath("data_report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(source).render(
        card=card,
        lines=card_lines(card),
        measured=len(chosen),
        plots=[
            (PROPERTIES[name].label, plot(Histogram(name=name, counts=found), training.get(name), ()))
            for name, found in counts.items()
        ],
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
    )
    atomic.write_text(path, page)


def write_card(path: Path, card: Mapping[str, Any]) -> None:
    """The card as Markdown."""
    lines = [f"| {name} | {value} |" for name, value in card_lines(card)]
    why = [f"- {reason}: {count:,}" for reason, count in card["refused"].items()] or ["- none"]
    text = ["# A molecule model of your own data", "", "| | |", "|---|---|", *lines, "", "Refused rows:", "", *why]
    use = "scidiff molecules generate --model FOLDER --num 1000 --out molecules.smi"
    atomic.write_text(path, "\n".join([*text, "", f"Use: `{use}`", ""]))
