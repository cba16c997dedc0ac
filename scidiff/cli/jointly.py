"""`scidiff molecules generate --jointly`: atoms, bonds and coordinates from one reverse pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.generations import said
from scidiff.errors import SHORT, UserError

if TYPE_CHECKING:
    from scidiff.molecules.certified import Generation
    from scidiff.molecules.three_d.joint.generator import JointGenerator


@dataclass(frozen=True, kw_only=True)
class Together:
    """What `scidiff molecules generate --jointly` needs, made before any work starts.

    Attributes:
        generator: told of size and formula.
        steps: network calls of a molecule.
        out, report: files.
    """

    generator: JointGenerator
    steps: int
    out: Path
    report: str | None

    @property
    def request(self) -> dict[str, object]:
        """What `certified.generate` is asked for besides."""
        return {"source": self.generator}

    def give(self, generation: Generation, *, as_json: bool) -> int:
        """Write the molecules of a generation, and say what came of it; the exit code."""
        from scidiff.molecules.three_d.generated import blocks
        from scidiff.molecules.three_d.joint.generated import with_own_geometries
        from scidiff.molecules.three_d.writing import growing
        from scidiff.molecules.writers import columns

        run, names = with_own_geometries(generation, self.generator.geometries, self.steps), tuple(columns(generation))
        if run.ensembles:
            with growing(self.out) as file:
                file.writelines(blocks(run, {one.index: one for one in generation.molecules}, names))
        if self.report is not None and run.ensembles:
            from scidiff.molecules.three_d.report import write_report

            write_report(run, self.report, command=command_line(), notes=said(generation))
        if as_json:
            files = {"out": str(self.out), "report": self.report} if run.ensembles else {"out": None, "report": None}
            typer.echo(json.dumps({**generation.as_dict(), **files}, indent=1))
        typer.echo("\n".join(said(generation)), err=True)
        if not run.ensembles:
            typer.echo("nothing was certified, so no file was written", err=True)
        return 0 if generation.complete else SHORT


def prepared(
    out: str | None,
    report: str | None,
    model: Path | None,
    device: str,
    *,
    where: list[str],
    steps: int | None,
    others: Mapping[str, object],
) -> Together:
    """What a command line asks for; UserError if it cannot be.

    Args:
        out, report, model, device, steps: as the command has them.
        where: expressions.
        others: options that this way does not know, and what was given of each, if anything.
    """
    from scidiff.devices import check_device
    from scidiff.molecules.parsing import parse_all
    from scidiff.molecules.three_d.joint.draws import STEPS
    from scidiff.molecules.three_d.joint.generator import JointGenerator

    if out is None or not out.lower().endswith(".sdf"):
        raise UserError(f"--jointly: expected --out FILE.sdf, got {out!r}")
    for name, given in others.items():
        if given:
            raise UserError(f"--jointly: expected no {name}, which is for molecules drawn before their geometry")
    check_device(device)
    generator = JointGenerator.load(model, device=device).given(parse_all(where))
    return Together(generator=generator, steps=steps or STEPS, out=Path(out), report=report)
