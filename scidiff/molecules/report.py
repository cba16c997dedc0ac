"""The report of a run: one HTML file that holds everything it shows and opens offline.

Structures that can be sorted and filtered, histograms of their properties over those of the training set, the
certificate of every molecule, and the account of what was refused and why.
"""

from __future__ import annotations

import datetime
import json
import platform
from importlib import resources
from pathlib import Path

import jinja2

import scidiff
from scidiff.molecules.certified import Generation, asked
from scidiff.molecules.drawing import PLOT_HEIGHT, PLOT_WIDTH, Plot, draw_molecule, plot
from scidiff.molecules.histograms import histogram, training_histograms
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.where import Condition
from scidiff.molecules.writers import ORACLE, replace_file

MOST_DRAWN = 500  # structures drawn in one report; the table always holds all molecules
_FIRST = ("qed", "logp", "mw", "sa")  # shown beneath a structure besides what the conditions are about


def write_report(generation: Generation, path: str | Path, *, command: str = "") -> None:
    """Write the report, whole or not at all.

    Args:
        generation: a run with at least one certified molecule.
        path: the HTML file.
        command: how the run was started, shown for those who want to repeat it.

    Raises:
        UserError: the file cannot be written.
    """
    page = render(generation, command=command).encode("utf-8")
    replace_file(path, lambda stream: stream.write(page))


def render(generation: Generation, *, command: str = "") -> str:
    """The report as text."""
    source = resources.files("scidiff.molecules").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source).render(
        generation=generation,
        command=command,
        plots=_plots(generation),
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
        data=_data(generation),
        drawn=min(MOST_DRAWN, len(generation.molecules)),
        facts=_facts(generation),
    )


def _plots(generation: Generation) -> list[tuple[str, Plot]]:
    """One histogram for every numeric property that the molecules carry; those with conditions come first."""
    training = training_histograms()
    plots = []
    for name in generation.properties:
        if PROPERTIES[name].kind == "formula":
            continue
        ours = histogram(name, [molecule.values[name] for molecule in generation.molecules])
        about = tuple(c for c in generation.conditions if isinstance(c, Condition) and c.property == name)
        plots.append((PROPERTIES[name].label, plot(ours, training.get(name), about)))
    return plots


def _data(generation: Generation) -> str:
    """What the page's script shows, as JSON that is safe inside a script element."""
    names = list(generation.properties)
    first = [name for name in asked(generation.conditions) if name in names]
    record = {
        "properties": [{"name": n, "label": PROPERTIES[n].label, "kind": PROPERTIES[n].kind} for n in names],
        "card": [*first, *(name for name in _FIRST if name in names and name not in first)],
        "conditions": [c.text for c in generation.conditions],
        "molecules": [
            {
                "index": m.index,
                "smiles": m.smiles,
                "values": [m.values[name] for name in names],
                "violations": list(m.violations.values()),
            }
            for m in generation.molecules
        ],
        "drawings": [draw_molecule(m.smiles) for m in generation.molecules[:MOST_DRAWN]],
    }
    return json.dumps(record, separators=(",", ":")).replace("<", "\\u003c")


def _facts(generation: Generation) -> dict[str, str]:
    """Where the molecules come from."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "Seed": str(generation.seed),
        "Samples": f"{generation.start} to {generation.next_index - 1}",
        "Time": f"{generation.seconds:.1f} s",
        "Written": now.strftime("%Y-%m-%d %H:%M UTC"),
        "Oracle": ORACLE,
        "scidiff": scidiff.__version__,
        "Python": platform.python_version(),
    }
