"""`scidiff molecules conformers`: certified geometries of given molecules."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.molecule_options import Keep, Model, Shown
from scidiff.cli.optimising import app
from scidiff.errors import INTERRUPTED, SHORT, UserError
from scidiff.interrupts import held_back

if TYPE_CHECKING:
    from scidiff.molecules.certified import Generation
    from scidiff.molecules.three_d.conformers import ConformerRun
    from scidiff.molecules.three_d.generated import Wanted

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
    file: Annotated[Path, typer.Argument(help="The molecules: .smi .txt .sdf")],
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
    model: Model = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
    progress: Shown = None,
) -> None:
    """See `_CONFORMERS`."""
    from scidiff.cli.progress import StatusLine

    with held_back():  # threads that torch starts now never see Ctrl-C
        from scidiff.molecules.three_d.conformers import conformers as run
        from scidiff.molecules.three_d.model import load
        from scidiff.molecules.three_d.records import check_matched, read
        from scidiff.molecules.three_d.records import fix as fixing
        from scidiff.molecules.three_d.records import keep as keeping
        from scidiff.molecules.three_d.rules import parse

        rules = parse(keep or ())
        known = load(model, device)
    refused = out.with_suffix(".refused.csv") if refused is None else refused
    _check(out, refused, report)
    records = read(file, known.config)
    if fix is not None:
        records = fixing(records, fix)
    if rules:
        records = keeping(records, rules)
        check_matched(records, rules)
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


def _check(out: Path, refused: Path, report: Path | None) -> None:
    from scidiff.atomic import check_writable

    if out.suffix.lower() != ".sdf":
        raise UserError(f"--out: expected a file name ending in .sdf, got {str(out)!r}")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report: expected a file name ending in .html, got {str(report)!r}")
    for path in (out, refused, *([] if report is None else [report])):
        check_writable(path)


def _finish(found: ConformerRun, out: Path, refused: Path, report: Path | None, *, as_json: bool) -> None:
    """Write the files, then say what came of the run; UserError if no record could be read."""
    from scidiff.molecules.three_d.writing import write, write_refused

    if found.refused:
        write_refused(found.refused, refused)
    if found.refused and not found.ensembles and not found.interrupted:
        first = found.refused[0]
        raise UserError(f"no molecule of {len(found.refused)} could be read; record {first.number}: {first.reason}")
    if found.ensembles:
        write(found, out)
    if report is not None and found.certified:
        from scidiff.molecules.three_d.report import write_report

        write_report(found, report, command=_command())
    if as_json:
        files = {
            "out": str(out) if found.ensembles else None,
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


def _command() -> str:
    return shlex.join(["scidiff", *sys.argv[1:]])


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


def geometries(
    out: str | None,
    report: str | None,
    model: Path | None,
    device: str,
    *,
    keep: list[str] | None,
    towards: Mapping[str, float],
    among: int,
    progress: bool | None,
) -> tuple[Path, Callable[[Generation, bool], bool]]:
    """What `scidiff molecules generate --three-d` needs: its model of fragments, and what finishes a generation.

    The latter draws, chooses and writes the geometries and says what came of them; it returns whether the run fell
    short.
    """
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
    return fragments, partial(_give, wanted=wanted, out=Path(out), report=report, progress=progress)


def _give(
    generation: Generation, as_json: bool, *, wanted: Wanted, out: Path, report: str | None, progress: bool | None
) -> bool:
    """Draw and write the geometries of a generation, and say what came of them; whether the run fell short."""
    from scidiff.cli.progress import StatusLine
    from scidiff.molecules.three_d import among as choosing
    from scidiff.molecules.three_d.generated import with_geometries
    from scidiff.molecules.three_d.writing import growing

    line = StatusLine(progress)

    def watch(done: int, total: int) -> None:
        if line.due():
            line.show(f"{done:,} of {total:,} geometries")

    try:
        with growing(out) as file:
            found = with_geometries(generation, wanted, file, progress=watch)
    finally:
        line.clear()
    drawn, kept, among = found.drawn, found.kept, wanted.among
    if report is not None and kept.certified:
        from scidiff.molecules.three_d.report import write_report

        write_report(kept, report, command=_command(), values=found.numbers)
    if as_json:
        account = {**generation.as_dict(), "geometries": drawn.as_dict(), "out": str(out) if kept.certified else None}
        account |= {"among": choosing.account(drawn, kept, among)} if wanted.chooser else {}
        account |= {"towards": wanted.asked.as_dict()} if wanted.asked else {}
        typer.echo(json.dumps(account, indent=1))
    stopped = [f"stopped: {generation.stopped}"] if generation.stopped else []
    lines = [generation.summary(), *stopped, f"geometries: {drawn.summary()}"]
    lines += [choosing.line(drawn, kept, among)] if wanted.chooser else []
    lines += wanted.asked.lines() if wanted.asked else []
    lines += [f"{one.text} (index {one.number}) has no geometry: {one.reason}" for one in drawn.refused[:SHOWN]]
    lines += [] if kept.certified else ["nothing was certified, so no file was written"]
    typer.echo("\n".join(lines), err=True)
    return kept.certified < generation.requested // among
