"""`scidiff molecules conformers`: certified geometries of given molecules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.atomic import check_writable
from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.cli.molecule_options import Keep, Shown
from scidiff.cli.optimising import app
from scidiff.errors import INTERRUPTED, SHORT, UserError
from scidiff.interrupts import held_back

if TYPE_CHECKING:
    from scidiff.molecules.three_d.conformers import ConformerRun

SHOWN = 5  # refused records that are printed

_CONFORMERS = """Draw conformers of given molecules, each certified: bonds, clashes and stereochemistry.

Every conformer is judged by distances and by what RDKit reads from its coordinates: the bonds of the molecule and no
others, no clash, and the stereochemistry that the input gives (where it gives none, any will do). What fails is refused
and counted, never repaired or relaxed. Hydrogens are written out. The packaged model knows H, C, N, O, F and up to 29
atoms, the molecules of QM9; others are refused by their record number, into a file, and the rest is done.

\b
Examples:
  scidiff molecules conformers in.smi --num 20 --out conf.sdf
  scidiff molecules conformers ligands.sdf --num 5 --seed 7 --out conf.sdf --json --report conf.html
  scidiff molecules conformers posed.sdf --fix "c1ccoc1" --out grown.sdf     (the ring stays where it is)
  scidiff molecules conformers posed.sdf --fix "c1ccoc1" --keep "outside(pocket.pdb) >= 0.8" --out grown.sdf
  scidiff molecules conformers in.smi --keep "distance([N:1]~*~*~[O:2]) <= 3" --keep "planar(aromatic) <= 0.05" ...

\b
Exit codes: 0 all certified; 3 records were refused, or a molecule has fewer conformers than asked for (the rest is
written); 2 the request cannot be carried out; 130 Ctrl-C (finished molecules are written).
"""


@app.command(help=_CONFORMERS)
def conformers(
    *,
    file: Annotated[Path, typer.Argument(help="The molecules: .smi .txt .sdf, .gz too")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the conformers go (.sdf).")],
    num: Annotated[int, typer.Option("--num", "-n", help="Conformers of each molecule.")] = 20,
    fix: Annotated[
        str | None,
        typer.Option("--fix", metavar="SMARTS", help="Atoms that keep the coordinates they have in the .sdf."),
    ] = None,
    keep: Keep = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    steps: Annotated[int, typer.Option(help="Network calls of a draw.")] = 10,
    refused: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where refused records go. Default: OUT with the ending .refused.csv."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An HTML page of the conformers, to turn, sort and search; opens offline."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder with weights. Default: those packaged."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
    progress: Shown = None,
) -> None:
    """See `_CONFORMERS`."""
    from scidiff.cli.progress import StatusLine

    with held_back():  # threads that torch starts now never see Ctrl-C
        from scidiff.molecules.three_d.conformers import conformers as run
        from scidiff.molecules.three_d.model import load
        from scidiff.molecules.three_d.records import held, read
        from scidiff.molecules.three_d.rules import parse

        rules = parse(keep or ())
        known = load(model, device)
    refused = out.with_suffix(".refused.csv") if refused is None else refused
    check_file("--out", out, (".sdf",))
    check_file("--report", report, PAGES)
    check_writable(refused)
    records = held(read(file, known.config), fix, rules)
    line = StatusLine(progress)

    def watch(done: int, total: int) -> None:
        if line.due():
            line.show(f"{done:,} of {total:,} molecules")

    try:
        found = run(records, num=num, model=known, seed=seed, steps=steps, progress=watch)
    finally:
        line.clear()
    _finish(found, out, refused, report, as_json=as_json)
    if found.interrupted or found.short or found.refused:
        raise typer.Exit(INTERRUPTED if found.interrupted else SHORT)


def _finish(found: ConformerRun, out: Path, refused: Path, report: Path | None, *, as_json: bool) -> None:
    """Write the files, then say what came of the run; UserError if all records were refused."""
    from scidiff.molecules.three_d.writing import write, write_refused

    if found.refused or refused.exists():  # one of an earlier run would speak of other records
        write_refused(found.refused, refused)
    if found.refused and not found.ensembles and not found.interrupted:
        first = found.refused[0]
        raise UserError(f"no molecule of {len(found.refused)} can be drawn; record {first.number}: {first.reason}")
    if found.ensembles:
        write(found, out)
    if report is not None and found.certified:
        from scidiff.molecules.three_d.report import write_report

        write_report(found, report, command=command_line())
    if as_json:
        files = {
            "out": str(out) if found.ensembles else None,
            "report": str(report) if report is not None and found.certified else None,
            "refused_file": str(refused) if found.refused else None,
        }
        typer.echo(json.dumps({**found.as_dict(), **files}, indent=1))
    typer.echo(found.summary(), err=True)
    for one in found.refused[:SHOWN]:
        typer.echo(f"record {one.number} refused: {one.reason}", err=True)
    if found.refused:
        typer.echo(f"refused records are in {refused}", err=True)
    for short in found.short[:SHOWN]:
        have = f"{len(short.conformers)} of {found.requested} certified in {short.drawn} draws"
        typer.echo(f"record {short.record.number}: {have}", err=True)
