"""The geometries of `scidiff molecules generate --three-d` and `evaluate --three-d`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.generations import said
from scidiff.errors import INTERRUPTED, SHORT, UserError

if TYPE_CHECKING:
    from scidiff.molecules.certified import Generation
    from scidiff.molecules.three_d.generated import Finished, Wanted

SHOWN = 5  # refused records that are printed


def judge(
    file: Path,
    train: Path | None,
    reference: Path | None,
    *,
    limit: int | None,
    as_json: bool,
    progress: bool | None,
) -> None:
    """`scidiff molecules evaluate --three-d`."""
    from scidiff.cli.progress import StatusLine
    from scidiff.molecules.readers import read_smiles
    from scidiff.molecules.three_d import busting
    from scidiff.molecules.three_d.evaluation import evaluate

    if limit is not None and limit < 1:
        raise UserError(f"--limit: expected at least 1, got {limit}")
    for path in (file, file if reference is None else reference):
        if not path.name.lower().endswith((".sdf", ".sdf.gz")):
            raise UserError(f"--three-d: expected a file ending in .sdf or .sdf.gz, got {str(path)!r}")
    line = StatusLine(progress)
    training = None if train is None else read_smiles(train)
    try:
        found = evaluate(
            file,
            training=training,
            reference=reference,
            limit=limit,
            progress=lambda done: line.show(f"structure {done}") if line.due() else None,
        )
    finally:
        line.clear()
    account = found.as_dict()
    if as_json:
        typer.echo(json.dumps(account, indent=1))
        return
    typer.echo(f"{found.records:,} structures, {len(found.refused):,} without a geometry to judge")
    for name, value in account.items():
        if isinstance(value, float):
            typer.echo(f"{name.replace('_', ' '):<28}{value:>10.4f}")
    if not busting.available():
        typer.echo(busting.MISSING, err=True)
    for number, reason in found.refused[:SHOWN]:
        typer.echo(f"record {number}: {reason}", err=True)


@dataclass(frozen=True, kw_only=True)
class Geometries:
    """What `scidiff molecules generate --three-d` needs, made before any work starts.

    Attributes:
        fragments: the model of fragments that is drawn from.
        wanted: of the geometries.
        out, report: files.
        progress: whether it is shown.
    """

    fragments: Path
    wanted: Wanted
    out: Path
    report: str | None
    progress: bool | None

    @property
    def request(self) -> dict[str, object]:
        """What `certified.generate` is asked for besides, with conditions without which there is no geometry."""
        return {"model": self.fragments, "certify": [f"atoms <= {self.wanted.model.config.largest}"]}

    def give(self, generation: Generation, *, as_json: bool) -> int:
        """Draw and write the geometries of a generation, and say what came of them; the exit code."""
        from scidiff.cli.progress import StatusLine
        from scidiff.molecules.three_d.generated import with_geometries
        from scidiff.molecules.three_d.writing import growing

        line = StatusLine(self.progress)

        def watch(done: int, total: int) -> None:
            if line.due():
                line.show(f"{done:,} of {total:,} geometries")

        try:
            with growing(self.out) as file:
                found = with_geometries(generation, self.wanted, file, progress=watch)
        finally:
            line.clear()
        if self.report is not None and found.kept.certified:
            from scidiff.molecules.three_d.report import write_report

            notes = [*said(generation), *self._lines(found)]
            write_report(found.kept, self.report, command=command_line(), values=found.numbers, notes=notes)
        if as_json:
            typer.echo(json.dumps(self._account(generation, found), indent=1))
        summary = [*said(generation), f"geometries: {found.drawn.summary()}", *self._lines(found)]
        typer.echo("\n".join(summary), err=True)
        if found.drawn.interrupted:
            return INTERRUPTED
        return SHORT if found.kept.certified < generation.requested // self.wanted.among else 0

    def _account(self, generation: Generation, found: Finished) -> dict[str, object]:
        """What came of the run as plain values, for JSON."""
        from scidiff.molecules.three_d import among as choosing

        drawn, kept, wanted = found.drawn, found.kept, self.wanted
        files = {"out": str(self.out), "report": self.report} if kept.certified else {"out": None, "report": None}
        account = {**generation.as_dict(), "geometries": drawn.as_dict(), **files}
        account |= {"matched": dict(found.matched)} if wanted.rules else {}
        account |= {"among": choosing.account(drawn, kept, wanted.among)} if wanted.chooser else {}
        return account | ({"towards": wanted.asked.as_dict()} if wanted.asked else {})

    def _lines(self, found: Finished) -> list[str]:
        """What came of the geometries besides their number, for people."""
        from scidiff.molecules.three_d import among as choosing

        drawn, kept, wanted = found.drawn, found.kept, self.wanted
        lines = [
            f"{text}: {count} of {drawn.molecules} molecules have a match"
            for text, count in found.matched.items()
            if count < drawn.molecules
        ]
        lines += [choosing.line(drawn, kept, wanted.among)] if wanted.chooser else []
        lines += wanted.asked.lines() if wanted.asked else []
        lines += [f"{one.text} (index {one.number}) has no geometry: {one.reason}" for one in drawn.refused[:SHOWN]]
        return lines if kept.certified else [*lines, "nothing was certified, so no file was written"]


def prepared(
    out: str | None,
    report: str | None,
    model: Path | None,
    device: str,
    *,
    keep: list[str] | None,
    towards: Mapping[str, float],
    among: int,
    progress: bool | None,
) -> Geometries:
    """What a command line asks for; UserError if it cannot be."""
    from scidiff.molecules.quantum import QUANTUM
    from scidiff.molecules.three_d import among as choosing
    from scidiff.molecules.three_d import estimator
    from scidiff.molecules.three_d.asked import Asked
    from scidiff.molecules.three_d.generated import Wanted, fragments_of_small_molecules
    from scidiff.molecules.three_d.model import load
    from scidiff.molecules.three_d.rules import PLACED, parse

    if out is None or not out.lower().endswith(".sdf"):
        raise UserError(f"--three-d: expected --out FILE.sdf, got {out!r}")
    fragments = fragments_of_small_molecules(told=bool(towards)) if model is None else model
    rules = parse(keep or ())
    for rule in rules:
        if rule.kind in PLACED:
            raise UserError(f"--keep: expected no place in space of new molecules, got {rule.text!r}")
    chooser = estimator.Estimator.load(estimator.chooser()) if choosing.checked(among, towards) > 1 else None
    values = {name: value for name, value in towards.items() if name in QUANTUM}
    reader = estimator.Estimator.load() if values and estimator.available() else None
    wanted = Wanted(
        model=load(None, device),
        rules=rules,
        asked=Asked(values=values, reader=reader) if values else None,
        among=among,
        chooser=chooser,
    )
    return Geometries(fragments=fragments, wanted=wanted, out=Path(out), report=report, progress=progress)
