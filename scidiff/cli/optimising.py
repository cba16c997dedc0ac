"""`scidiff molecules optimise`: molecules that score high, with a budget of oracle calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.cli.learning import app
from scidiff.cli.molecule_options import Constraints, Model, Shown, Where
from scidiff.errors import INTERRUPTED, SHORT, UserError
from scidiff.interrupts import held_back

if TYPE_CHECKING:
    from scidiff.molecules.optimising import Optimisation

_OPTIMISE = """Search for molecules of a high objective, with a budget of oracle calls.

A policy gradient on the denoising chain moves the model towards what scores high, kept near the model by a divergence
and diverse by a memory of scaffolds. Half of its draws write a part of the best molecule of a scaffold anew. The budget
counts distinct molecules that are scored, and is spent exactly. The best are certified and written, the highest score
first.

\b
Objectives: + - * / min(a, b) max(a, b) ( ) over numbers and the numeric names of --where: qed logp mw sa tpsa hbd hba
rotatable_bonds rings heavy_atoms charge alerts atoms n_atoms[X] count(SMARTS) similarity(SMILES)

\b
Examples:
  scidiff molecules optimise --maximise "qed - 0.1*sa" --budget 10000 --out best.smi --report best.html
  scidiff molecules optimise --maximise "qed - 0.1*sa" --budget 20000 --out best.smi --resume      (go on)
  scidiff molecules optimise --maximise "similarity(CC(=O)Oc1ccccc1C(=O)O)" --where "alerts == 0" --out near.csv

\b
Exit codes: 0 the budget is spent; 3 no new molecules come any more (the best are written); 2 the request cannot be
carried out; 130 Ctrl-C (the best are written, --resume goes on).
"""


@app.command(help=_OPTIMISE)
def optimise(
    *,
    maximise: Annotated[str, typer.Option(metavar="EXPR", help="The objective.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write (.smi .csv).")],
    budget: Annotated[int, typer.Option(help="Oracle calls: distinct molecules to score.")] = 10_000,
    num: Annotated[int, typer.Option("--num", "-n", help="How many of the best to write.")] = 100,
    where: Where = None,
    constraints: Constraints = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one HTML file.")] = None,
    run: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the run. Default: OUT.run")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in its folder.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Molecules of a round.")] = 64,
    kl: Annotated[float, typer.Option(help="Least weight of the divergence from the model.")] = 0.02,
    room: Annotated[int, typer.Option(help="Molecules of one scaffold that are rewarded.")] = 10,
    model: Model = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON on standard output.")] = False,
    progress: Shown = None,
) -> None:
    """See `_OPTIMISE`."""
    from scidiff.cli.progress import StatusLine

    with held_back():
        from scidiff.molecules.optimising import Interrupted
        from scidiff.molecules.optimising import optimise as search
        from scidiff.molecules.parsing import read_file
        from scidiff.molecules.policy import Learning

    _check(out, report, num=num, kl=kl, room=room)
    line, interrupted = StatusLine(progress), False
    folder = run or out.with_name(f"{out.name}.run")
    try:
        line.begin("loading the model")
        found = search(
            objective=maximise,
            budget=budget,
            where=[*(where or ()), *(read_file(constraints) if constraints is not None else ())],
            seed=seed,
            batch=batch_size,
            room=room,
            learning=Learning(kl=kl),
            model=model,
            device=device,
            folder=folder,
            resume=resume,
            progress=lambda run: line.show(_status(run)) if line.due(now=run.rounds == 1) else None,
        )
    except Interrupted as stop:
        found, interrupted = stop.optimisation, True
    finally:
        line.clear()
    _finish(found, num, out, report, folder=folder, as_json=as_json)
    if interrupted or not found.complete:
        raise typer.Exit(INTERRUPTED if interrupted else SHORT)


def _check(out: Path, report: Path | None, *, num: int, kl: float, room: int) -> None:
    """Find out what cannot be carried out before any work starts."""
    from scidiff.atomic import check_writable
    from scidiff.molecules.ranking import format_of

    if num < 1:
        raise UserError(f"--num: expected at least 1, got {num}")
    if room < 1:
        raise UserError(f"--room: expected at least 1, got {room}")
    if not 0 <= kl < float("inf"):
        raise UserError(f"--kl: expected a number of at least 0, got {kl:g}")
    format_of(out)
    check_writable(out)
    check_file("--report", report, PAGES)


def _status(found: Optimisation) -> str:
    best = found.best(1)
    text = f"scored {found.calls}/{found.budget}"
    if best:
        text += f"  best {best[0].score:.4g} {best[0].smiles[:40]}"
    if found.calls and found.seconds:
        text += f"  {(found.budget - found.calls) * found.seconds / found.calls / 60:.1f} min left"
    return text


def _finish(found: Optimisation, num: int, out: Path, report: Path | None, *, folder: Path, as_json: bool) -> None:
    """Write the files, then say what came of the run."""
    from scidiff.molecules.ranking import certified, write
    from scidiff.molecules.report import write_report

    best = certified(found, num)
    if best.molecules:
        write(found, best, out)
        if report is not None:
            write_report(best, report, command=command_line())
    if as_json:
        typer.echo(json.dumps({**found.as_dict(), "out": str(out) if best.molecules else None}, indent=1))
    tops = ", ".join(f"top-{k} {found.top(k):.4f}" for k in (1, 10, 100) if found.calls >= k)
    _say(f"{found.calls} of {found.budget} oracle calls, {found.rounds} rounds, {found.refused} draws refused; {tops}")
    if found.stopped:
        _say(f"stopped: {found.stopped}")
    if not found.complete:
        _say(f"kept in {folder}: the same command with --resume goes on")
    if not best.molecules:
        _say("nothing was scored, so no file was written")


def _say(text: str) -> None:
    typer.echo(text, err=True)
