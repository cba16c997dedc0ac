"""The report of what was drawn: one HTML file that holds all it shows and opens offline."""

from __future__ import annotations

import base64
import datetime
import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import scidiff
from scidiff import atomic
from scidiff.errors import UserError, one_line

Certificate = Mapping[str, tuple[np.ndarray, float]]
"""How far each draw is from each thing that it should hold, [S], and the most that it may be."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, moving or not.

    Attributes:
        title: what it shows.
        alt: the same for those who cannot see it.
        data: in base 64.
        kind: of the file: png, or webp where it moves.
        note: stands below it.
        broad: a small screen shows it in part, to be scrolled, and not too small to be read.
    """

    title: str
    alt: str
    data: str
    kind: str = "png"
    note: str = ""
    broad: bool = False


def write_report(
    pictures: Sequence[Picture],
    certificate: Certificate,
    path: Path,
    *,
    what: str,
    lead: str,
    note: str,
    facts: Mapping[str, object],
    card: Mapping[str, Any],
    command: str,
) -> None:
    """Write the report, whole or not at all.

    Args:
        pictures: in order.
        certificate: of what was drawn.
        path: the HTML file.
        what: was drawn, in the plural.
        lead: what the draws have in common, in a sentence.
        note: how the certificate is to be read.
        facts: of the run, beside when and by what it was done.
        card: of the model.
        command: how the run was started.

    Raises:
        UserError: the file cannot be written.
    """
    source = resources.files("scidiff.fluids").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(source).render(
        count=len(next(iter(certificate.values()))[0]),
        what=what,
        lead=lead,
        note=note,
        facts={
            **facts,
            "Written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "scidiff": scidiff.__version__,
            "Python": platform.python_version(),
        },
        command=command,
        certificate={
            name: (float(np.max(off)), most, int((off <= most).sum())) for name, (off, most) in certificate.items()
        },
        pictures=pictures,
        card=card,
    )
    try:
        atomic.write_text(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def png(figure: object) -> str:
    """A figure of matplotlib's as PNG in base 64."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})  # type: ignore[attr-defined]
    return base64.b64encode(stream.getvalue()).decode("ascii")
