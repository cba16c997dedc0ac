"""What must hold of a finished sample: sets that are projected onto, and certificates that say whether it holds."""

from __future__ import annotations

from scidiff.constraints.automaton import Automaton
from scidiff.constraints.base import Constraint, Infeasible, RowConstraint
from scidiff.constraints.box import Box
from scidiff.constraints.combine import Complement, Intersection, Union
from scidiff.constraints.linear import LinearEquality, LinearInequality
from scidiff.constraints.monotone import Monotone
from scidiff.constraints.nonlinear import NonlinearEquality, NonlinearInequality
from scidiff.constraints.quadratic import Ball, QuadraticEquality, QuadraticInequality, Sphere
from scidiff.constraints.simplex import Simplex
from scidiff.constraints.sums import Total

__all__ = [
    "Automaton",
    "Ball",
    "Box",
    "Complement",
    "Constraint",
    "Infeasible",
    "Intersection",
    "LinearEquality",
    "LinearInequality",
    "Monotone",
    "NonlinearEquality",
    "NonlinearInequality",
    "QuadraticEquality",
    "QuadraticInequality",
    "RowConstraint",
    "Simplex",
    "Sphere",
    "Total",
    "Union",
]
