"""HTML pages that hold all they show and open offline."""

from __future__ import annotations

import datetime
import platform
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

import scidiff
from scidiff import atomic
from scidiff.errors import UserError, one_line
from scidiff.timeseries.charts import HEIGHT, WIDTH


def page(template: str, **values: Any) -> str:
    """A template of this folder, filled in; what it is told is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template, globals={"width": WIDTH, "height": HEIGHT}).render(values)


def write_page(text: str, path: str | Path) -> None:
    """Write a page, whole or not at all; UserError if that cannot be done."""
    try:
        atomic.write_text(Path(path), text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def made() -> dict[str, str]:
    """When and by what a page is written."""
    return {
        "Written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "scidiff": scidiff.__version__,
        "Python": platform.python_version(),
    }


def _source(name: str) -> str:
    return resources.files("scidiff.timeseries").joinpath(name).read_text(encoding="utf-8")
