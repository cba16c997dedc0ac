"""`scidiff molecules train`: a model of your own molecules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidiff.cli.command_line import command_line
from scidiff.cli.molecules import app
from scidiff.errors import UserError
from scidiff.interrupts import held_back

if TYPE_CHECKING:
    from scidiff.molecules.model import FragmentModel

_TRAIN = """Learn your own molecules; the folder is then a model for `generate --model FOLDER`.

A tenth of the molecules is held out. Training stops when they are no longer predicted better, and the best weights are
kept: hundreds of molecules are not learned by heart. Rows that cannot be learned are refused with their line and the
reason (refused.csv), card and histograms are written beside the weights.

\b
Examples:
  scidiff molecules train mine.smi --out mine                        (go on from the shipped weights)
  scidiff molecules train mine.csv --init none --minutes 120 --out mine
  scidiff molecules train mine.csv --init none --minutes 240 --out mine --resume
  scidiff molecules generate --model mine --num 1000 --out new.smi

\b
Exit codes: 0 trained; 2 the request cannot be carried out; 130 Ctrl-C (--resume goes on).
"""


@app.command(help=_TRAIN)
def train(
    *,
    data: Annotated[Path, typer.Argument(help="The molecules: .smi .txt .csv .sdf, .gz too; .parquet")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model goes.")],
    init: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="moses: the shipped weights and their vocabulary. none: fresh weights, and a vocabulary of the "
            "data's own. Or a folder with weights.",
        ),
    ] = "moses",
    minutes: Annotated[float, typer.Option(help="Training time at most; the last 30 % anneal.")] = 20.0,
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Learn molecules without their stereochemistry, rather than refuse them.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the split, the noise and the order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that read molecules.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON on standard output.")] = False,
) -> None:
    """See `_TRAIN`."""
    if not 0 <= seed < 2**64:
        raise UserError(f"--seed: expected 0 <= seed < 2^64, got {seed}")
    with held_back():
        from scidiff.molecules.own_data import learn
        from scidiff.training import checkpoint

        start = _start(init, device)
    try:
        card = learn(
            data,
            out,
            start=start,
            minutes=minutes,
            seed=seed,
            device=device,
            resume=resume,
            flatten=flatten,
            workers=workers,
            command=command_line(),
            init=init,
            say=_say,
        )
    except KeyboardInterrupt:
        _say(checkpoint.where_to_resume(out / "run" / "checkpoints"))
        raise
    if as_json:
        typer.echo(json.dumps(card, indent=1))
    before, after = card["held_out_bound_before_nats"], card["held_out_bound_nats"]
    early = ", stopped early: it no longer fell" if card["stopped_early"] else ""
    _say(f"held-out bound {before:.2f} -> {after:.2f} nats a molecule{early}")
    _say(f"written to {out}: model, README.md, report.html, refused.csv; use: generate --model {out}")


def _start(init: str, device: str) -> FragmentModel | None:
    """The model to go on from."""
    from scidiff.molecules.certified import load

    found = load(None if init in ("moses", "none") else init, device)  # also says what is wrong with the device
    return None if init == "none" else found.model  # type: ignore[attr-defined]


def _say(text: str) -> None:
    typer.echo(text, err=True)
