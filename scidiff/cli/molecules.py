"""`scidiff molecules`: generate certified molecules, and evaluate generated ones."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scidiff.cli.checks import PAGES, check_file
from scidiff.cli.command_line import command_line
from scidiff.cli.generations import said, status
from scidiff.cli.molecule_options import (
    Among,
    Constraints,
    Format,
    Jointly,
    Keep,
    MaxDraws,
    Method,
    Model,
    Out,
    Properties,
    Report,
    Shown,
    ThreeD,
    Towards,
    Where,
)
from scidiff.errors import INTERRUPTED, SHORT, UserError
from scidiff.interrupts import held_back

if TYPE_CHECKING:
    from scidiff.cli.jointly import Together
    from scidiff.cli.three_d import Geometries
    from scidiff.molecules.certified import Generation
    from scidiff.molecules.evaluation import Evaluation

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Drug-like molecules with certified properties.")

_GENERATE = """Generate molecules that are certified to meet every condition.

Each molecule is drawn from the model, written as SMILES, and then certified by an independent reading of that text
with RDKit. Draws that fail are refused and counted. The same seed gives the same molecules, whatever the batch size.

\b
Conditions, which hold together:
  NAME OP VALUE        qed >= 0.8    logp < 3    rings == 2
  NAME in [LOW, HIGH]  mw in [250, 350]
  NAME in {A, B, C}    charge in {-1, 0}    formula in {C9H8O4, C8H9NO2}
Names: qed logp mw [g/mol] sa tpsa [angstrom^2] hbd hba rotatable_bonds rings heavy_atoms charge formula
       alerts atoms n_atoms[X] count(SMARTS) similarity(SMILES); a unit may follow (mw <= 350 Da, tpsa <= 90 A^2)
Predicates: contains SMARTS, lacks SMARTS, scaffold == SMILES, novel, lipinski, veber
They join by and, or, not and parentheses. `scidiff molecules explain` says how each is enforced.

\b
Examples:
  scidiff molecules generate --num 1000 --out molecules.smi
  scidiff molecules generate --num 200 --where "qed >= 0.8" --where "logp <= 3" --out leads.sdf --report leads.html
  scidiff molecules generate --num 50 --seed 7 --start 1432 --out more.csv      (go on where a run ended)
  scidiff molecules generate --num 50 --jointly --where "formula == C7H10O2" --out isomers.sdf
  scidiff molecules generate --num 10 --out - --format csv | column -s, -t

\b
Exit codes: 0 all certified; 3 fewer than asked for (they are written); 2 the request cannot be carried out;
130 Ctrl-C (what was certified is written).
"""

_EXPLAIN = """Say how each term of an expression is enforced, what it costs, and whether terms contradict.

\b
Examples:
  scidiff molecules explain "n_atoms[N] == 3 and (rings <= 3 or contains c1ccncc1)"
  scidiff molecules explain "formula == C17H19N3O3" --json

\b
Exit codes: 0 explained; 2 it cannot be read, contradicts itself, or no molecule of the model meets it.
"""

_EVALUATE = """Judge generated molecules by the metrics of MOSES.

The file holds one SMILES a line, or a column `smiles` (.csv .parquet), or structures (.sdf). FCD needs the
package fcd_torch; the floor beside it is the FCD of as many random training molecules.

\b
Examples:
  python datasets/moses.py                                       (once: fetch MOSES)
  scidiff molecules evaluate molecules.smi
  scidiff molecules evaluate molecules.csv --reference held_out.smi --train train.smi --json
  scidiff molecules evaluate conf.sdf --three-d                  (stability, bonds, clashes, strain; as they are)
  scidiff molecules evaluate conf.sdf --three-d --reference datasets/qm9/sample.sdf.gz    (lengths, angles as well)
"""


@app.command(help=_GENERATE)
def generate(
    *,
    num: Annotated[int, typer.Option("--num", "-n", help="How many certified molecules.")],
    where: Where = None,
    constraints: Constraints = None,
    method: Method = "auto",
    out: Out = None,
    format_: Format = None,
    report: Report = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    start: Annotated[int, typer.Option(help="Index of the first draw.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(help="Molecules drawn at a time; changes speed only.")] = 256,
    unique: Annotated[bool, typer.Option("--unique/--no-unique", help="Refuse duplicates.")] = True,
    max_draws: MaxDraws = None,
    properties: Properties = "all",
    three_d: ThreeD = False,
    jointly: Jointly = False,
    keep: Keep = None,
    towards: Towards = None,
    among: Among = 1,
    model: Model = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
    progress: Shown = None,
) -> None:
    """See `_GENERATE`."""
    asked, wanted = _asked(towards), _wanted(where, constraints)
    geometries: Geometries | Together | None = None
    with held_back():  # threads that torch starts now never see Ctrl-C
        if jointly:
            from scidiff.cli import jointly as both

            others = {"--keep": keep, "--towards": asked, "--among": among != 1, "--method": method != "auto"}
            geometries = both.prepared(out, report, model, device, where=wanted, steps=steps, others=others)
        elif three_d or among != 1 or keep or asked:
            from scidiff.cli.three_d import prepared

            geometries = prepared(out, report, model, device, keep=keep, towards=asked, among=among, progress=progress)
    kind = _check_outputs(out := _destination(out, report, as_json), format_, report)
    generation, interrupted = _generated(
        progress,
        num=num * among,
        where=wanted,
        method=method,
        seed=seed,
        start=start,
        steps=steps,
        batch_size=batch_size,
        unique=unique,
        max_draws=max_draws,
        properties=_names(properties),
        device=device,
        towards=asked,
        **({"model": model} if geometries is None else geometries.request),
    )
    give = partial(_give, out=out, kind=kind, report=report) if geometries is None else geometries.give
    code = give(generation, as_json=as_json)
    if interrupted or code:
        raise typer.Exit(INTERRUPTED if interrupted else code)


def _generated(progress: bool | None, **request: Any) -> tuple[Generation, bool]:
    """What `certified.generate` gives for a request, and whether Ctrl-C ended it."""
    with held_back():  # threads that torch starts now never see Ctrl-C
        from scidiff.cli.progress import StatusLine
        from scidiff.molecules import certified
    line = StatusLine(progress)
    try:
        line.begin("loading the model")
        return certified.generate(
            **request, progress=lambda account: line.show(status(account)) if line.due() else None
        ), False
    except certified.Interrupted as stop:
        return stop.generation, True
    finally:
        line.clear()


def _asked(towards: list[str] | None) -> dict[str, float]:
    """What the model is told of."""
    if not towards:
        return {}
    from scidiff.molecules.towards import parse

    return parse(towards)


def _wanted(where: list[str] | None, constraints: Path | None) -> list[str]:
    """The expressions of the command line and of a file."""
    from scidiff.molecules.parsing import read_file

    return [*(where or ()), *(read_file(constraints) if constraints is not None else ())]


@app.command(help=_EXPLAIN)
def explain(
    *,
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="The expression, as after --where.")],
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """See `_EXPLAIN`."""
    from scidiff.molecules.explain import explain as run

    found = run([expression], model=model)
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else found.text())


def _destination(out: str | None, report: str | None, as_json: bool) -> str | None:
    if as_json and out == "-":
        raise UserError("--json and --out -: expected one of them on standard output, got both")
    return "-" if out is None and report is None and not as_json else out


def _check_outputs(out: str | None, kind: str | None, report: str | None) -> str:
    """Find out what cannot be written before any work starts; returns the format on standard output."""
    from scidiff.atomic import check_writable
    from scidiff.molecules.writers import format_of

    if kind is not None and out != "-":
        raise UserError(f"--format {kind} is for --out -; the name of a file gives its format")
    if out is not None and out != "-":
        format_of(out)
        check_writable(out)
    if report is not None:
        check_file("--report", Path(report), PAGES)
    return kind or "smi"


def _names(properties: str) -> tuple[str, ...]:
    from scidiff.molecules.properties import PROPERTIES

    return tuple(PROPERTIES) if properties == "all" else tuple(properties.replace(",", " ").split())


def _give(generation: Generation, *, out: str | None, kind: str, report: str | None, as_json: bool) -> int:
    """Write the files, then say what came of the run; the exit code."""
    from scidiff.molecules.writers import write, write_stdout

    if out == "-":
        write_stdout(generation, kind)
    elif out is not None and (generation.molecules or generation.complete):
        write(generation, out)
    if report is not None and generation.molecules:
        from scidiff.molecules.report import write_report

        write_report(generation, report, command=command_line())
    if as_json:
        files = {"out": out, "report": report} if generation.molecules else {"out": None, "report": None}
        typer.echo(json.dumps({**generation.as_dict(), **files}, indent=1))
    for text in said(generation):
        _say(text)
    if not generation.molecules and (out not in (None, "-") or report is not None):
        _say("nothing was certified, so no file was written")
    return 0 if generation.complete else SHORT


@app.command(help=_EVALUATE)
def evaluate(
    *,
    file: Annotated[Path, typer.Argument(help="The molecules: .smi .txt .csv .sdf, .gz too; .parquet")],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="test, test_scaffolds or a file; may be given again. Default: both test splits."
        ),
    ] = None,
    train: Annotated[
        str, typer.Option(metavar="NAME", help="train or a file, for novelty and the floor of FCD.")
    ] = "train",
    fcd: Annotated[
        bool | None, typer.Option("--fcd/--no-fcd", help="Frechet ChemNet distance. Default: if fcd_torch is there.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Judge only the first so many.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the training molecules of the floor.")] = 0,
    three_d: Annotated[
        bool, typer.Option("--three-d", help="Judge geometries: an .sdf with coordinates and all hydrogens.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    progress: Shown = None,
) -> None:
    """See `_EVALUATE`."""
    from scidiff.cli.progress import StatusLine

    if three_d:
        from scidiff.cli.three_d import judge

        if reference is not None and len(reference) != 1:
            raise UserError(f"--three-d: expected one --reference FILE.sdf, got {len(reference)}")
        shape = Path(reference[0]) if reference else None
        learned = None if train == "train" else Path(train)
        judge(file, learned, shape, limit=limit, as_json=as_json, progress=progress)
        return
    from scidiff.molecules.evaluation import evaluate as run
    from scidiff.molecules.readers import read_smiles

    if limit is not None and limit < 1:
        raise UserError(f"--limit: expected at least 1, got {limit}")
    line = StatusLine(progress)

    def watch(what: str, done: int, total: int) -> None:
        # A step that reports no middle (ChemNet) must still be seen to begin.
        if line.due(now=done == 0):
            line.show(f"{what}: {done} of {total}")

    try:
        found = run(
            read_smiles(file)[:limit],
            references=tuple(reference) if reference else ("test", "test_scaffolds"),
            training=train,
            with_fcd=fcd,
            seed=seed,
            progress=watch,
        )
    finally:
        line.clear()
    typer.echo(json.dumps(found.as_dict(), indent=1) if as_json else _table(found))


def _table(found: Evaluation) -> str:
    """The metrics as lines, those against references with the size of the reference."""
    from scidiff.molecules.fcd import available

    lines = [f"{name:<28}{value:>10.4f}" for name, value in found.as_dict().items() if name != "samples"]
    sizes = ", ".join(f"{c.reference} of {c.size:,}" for c in found.comparisons)
    without = [] if available() else ["FCD needs the package fcd_torch"]
    return "\n".join([f"{found.samples:,} samples; references: {sizes}", *lines, *without])


def _say(text: str) -> None:
    typer.echo(text, err=True)
