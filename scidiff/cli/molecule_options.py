"""Options that commands on molecules share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Where = Annotated[
    list[str] | None, typer.Option("--where", metavar="CONDITION", help="What must hold; may be given again.")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="RULE",
        help='On shapes: "distance(SMARTS) in [a, b]" (angstrom), "angle(SMARTS) <= a" (degrees), '
        '"planar(SMARTS) <= a", "planar(aromatic) <= a" (angstrom), "clash >= a" (van der Waals radii); with --fix '
        '"outside(FILE.pdb) >= a" (van der Waals radii), "inside([x, x], [y, y], [z, z])". May be given again.',
    ),
]
Towards = Annotated[
    list[str] | None,
    typer.Option(
        "--towards",
        metavar="NAME=VALUE",
        help="A quantum property that the model is told of and nothing certifies: alpha (bohr^3), gap, homo, lumo "
        "(eV), mu (D) or cv (cal/mol/K), as in gap=6.8eV; or atoms=18, which is certified. With --three-d. May be "
        "given again.",
    ),
]
Among = Annotated[
    int,
    typer.Option(
        metavar="K",
        help="With --towards: of each K certified molecules keep the one that a network reads nearest to what is asked "
        "for. A selection, at K times the cost.",
    ),
]
Constraints = Annotated[
    Path | None, typer.Option("--constraints", metavar="FILE", help="YAML with more conditions, a list under `where`.")
]
Method = Annotated[
    Literal["auto", "exact", "guide", "project", "steer", "enforce", "reject"],
    typer.Option(
        help="auto: exact, steer, guide or project, by how rare the molecules are (`explain` says which). "
        "exact: what fragments decide is enforced, and draws follow the model given the conditions. "
        "Three lean towards properties besides, and molecules have weights: guide tells a model of them that was "
        "trained to be told, project moves its estimates, steer tilts draws after a pilot. "
        "enforce: faster than exact, not quite so distributed. reject: draw freely and certify."
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File to write (.smi .csv .parquet .sdf), or - for standard output. "
        "Default: -, unless --report or --json is given.",
    ),
]
Format = Annotated[
    Literal["smi", "csv"] | None, typer.Option("--format", help="Format on standard output. Default: smi.")
]
Report = Annotated[str | None, typer.Option(metavar="FILE", help="Write a report, one HTML file that opens offline.")]
MaxDraws = Annotated[
    int | None,
    typer.Option(
        help="Give up after so many draws. Default: 1,000 a molecule, at least 20,000; 20 and 4,096 where none of some "
        "thousand training molecules meets the request."
    ),
]
Properties = Annotated[
    str, typer.Option(metavar="NAMES", help="Properties to write, with commas; those of --where are always written.")
]
Model = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder with weights, or the name of packaged ones. Default: moses; with --three-d qm9."
    ),
]
ThreeD = Annotated[bool, typer.Option("--three-d", help="Give each molecule a certified geometry; --out ends in .sdf.")]
Jointly = Annotated[
    bool,
    typer.Option(
        "--jointly",
        help="Atoms, bonds and coordinates from one reverse pass, as --three-d. Of --where a formula and a number of "
        "atoms are enforced, all else is certified.",
    ),
]
Shown = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Default: if standard error is a terminal.")
]
