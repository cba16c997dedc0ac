"""Where what `scidiff fluids` draws goes, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.errors import SHORT, UserError

if TYPE_CHECKING:
    import numpy as np

    from scidiff.fluids.report import Certificate, Picture

_ENDINGS = {"out": (".nc",), "report": PAGES, "animation": (".gif", ".webp")}
_MISFIT = "misfit"
_FACTS = {"calls": "Network calls a draw"}
_CHECKED = "in float64, by code that the sampler does not use."
_NOISY = (
    "The misfit is the mean square of what is off at the measured values, in units of their noise; that of a draw from "
    "the posterior is below the bound with a probability of 99.9 %. All else is relative, " + _CHECKED
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to come of a command.

    Attributes:
        files: by the option that asks for them; None where it does not.
        as_json: an account on standard output.
    """

    files: Mapping[str, Path | None]
    as_json: bool

    def check(self) -> None:
        """UserError, before any work starts, if nothing would come of it or a file cannot be written."""
        if not self.as_json and all(path is None for path in self.files.values()):
            listed = ", ".join(f"--{option}" for option in self.files)
            raise UserError(f"expected at least one of {listed} and --json, got none: nothing would come of it")
        for option, path in self.files.items():
            check_file(f"--{option}", path, _ENDINGS[option])


def save_report(
    pictures: Sequence[Picture],
    certificate: Certificate,
    account: Mapping[str, object],
    path: Path,
    *,
    what: str,
    lead: str,
    seconds: float,
    card: Mapping[str, Any],
) -> None:
    """Write the report, with a picture of the misfits if there are any; arguments as of `write_report`."""
    from scidiff.fluids.pictures import of_misfit
    from scidiff.fluids.report import write_report

    noisy = _MISFIT in certificate
    write_report(
        [*pictures, of_misfit(*certificate[_MISFIT])] if noisy else pictures,
        certificate,
        path,
        what=what,
        lead=lead,
        note=_NOISY if noisy else f"Relative, {_CHECKED}",
        facts={_FACTS.get(name, name.capitalize()): value for name, value in account.items()}
        | {"Time": f"{seconds:.1f} s"},
        card=card,
        command=command_line(),
    )


def conclude(
    certificate: Certificate, account: Mapping[str, object], wanted: Wanted, *, seconds: float, what: str
) -> None:
    """Say what came; exit 3 if something does not hold.

    Args:
        certificate: of what was drawn.
        account: of the run.
        wanted: files and account.
        seconds: that it took.
        what: was drawn, in the plural.
    """
    import numpy as np

    held = _held(certificate)
    refused = np.flatnonzero(~held).tolist()
    if wanted.as_json:
        record = {
            "samples": len(held),
            "certified": int(held.sum()),
            "refused": refused,
            "worst": {name: float(off.max()) for name, (off, _) in certificate.items()},
            "limit": {name: most for name, (_, most) in certificate.items()},
            **account,
            **{option: None if path is None else str(path) for option, path in wanted.files.items()},
            "seconds": round(seconds, 2),
        }
        typer.echo(json.dumps(record, indent=1))
    worst = "; ".join(f"{name}: {off.max():.2g} of {most:.2g}" for name, (off, most) in certificate.items())
    typer.echo(f"{len(held)} {what}, {held.sum()} certified, in {seconds:.1f} s ({worst})", err=True)
    if refused:
        typer.echo(f"not certified: {what} {', '.join(map(str, refused[:20]))}", err=True)
        raise typer.Exit(SHORT)


def _held(certificate: Certificate) -> np.ndarray:
    """Which hold all: bool [S]."""
    import numpy as np

    return np.asarray(np.stack([off <= most for off, most in certificate.values()]).all(0))
