r"""Solvers as data: a table of float64 coefficients made on the host.

Every fixed-step Gaussian method moves the state by sums of what is already known:

    X_{k+1} = sum_j a_kj X_j + sum_j b_kj D_j + sum_i c_ki noise_i,        j <= k,

X_j the state at call j of the denoiser, D_j its clean estimate, noise_i unit normal. A solver is written as the
textbook has it and run once on a `Tape` of symbols, which yields the `Plan`: the sparse rows of that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.solvers.base import Rule, Trace, held
from scidiff.state import Rows


class Atom(NamedTuple):
    """One symbol of a plan: the state or clean estimate of call `number`, or the `number`-th noise."""

    kind: Literal["x", "clean", "noise"]
    number: int


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A sum of atoms with float coefficients: supports + - and * / by a number."""

    terms: Mapping[Atom, float] = field(default_factory=dict)

    def __add__(self, other: Linear) -> Linear:
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            terms[atom] = terms.get(atom, 0.0) + coefficient
        return Linear(terms=terms)

    def __mul__(self, factor: float) -> Linear:
        return Linear(terms={atom: coefficient * factor for atom, coefficient in self.terms.items()})

    def __truediv__(self, divisor: float) -> Linear:
        return Linear(terms={atom: coefficient / divisor for atom, coefficient in self.terms.items()})

    def __neg__(self) -> Linear:
        return self * -1.0

    def __sub__(self, other: Linear) -> Linear:
        return self + -other

    __rmul__ = __mul__


class UnitNoise(Protocol):
    """What a plan asks of a process: unit normal noise in the leaf's space (of zero mean where the leaf is)."""

    def unit_noise(self, rows: Rows, draw: Draw, *, dtype: torch.dtype, kind: str) -> Tensor: ...


class NoiseKey(NamedTuple):
    """Where a noise's random numbers come from: the step and kind of the draw."""

    step: int
    kind: str


class Term(NamedTuple):
    """One term of a row."""

    atom: Atom
    coefficient: float


@dataclass(frozen=True, kw_only=True)
class Plan(Rule):
    """A fixed-step Gaussian solver: one sparse row of coefficients per call of the denoiser.

    Attributes:
        times, reach, memory: see `Rule`.
        rows: rows[k] makes the state for call k + 1.
        noises: the key of each noise.
    """

    times: tuple[float, ...]
    reach: tuple[float, ...]
    memory: int
    rows: tuple[tuple[Term, ...], ...]
    noises: tuple[NoiseKey, ...]

    @property
    def calls(self) -> int:
        """Number of calls of the denoiser."""
        return len(self.rows)

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        dtype = held(trace.x[k]).dtype

        def value(atom: Atom) -> Tensor:
            if atom.kind == "noise":
                step, kind = self.noises[atom.number]
                return cast(UnitNoise, process).unit_noise(rows, draw(step), dtype=dtype, kind=kind)
            series = trace.x if atom.kind == "x" else trace.clean
            return held(series[atom.number])

        (first, coefficient), *rest = self.rows[k]
        x = value(first) * coefficient
        for atom, coefficient in rest:
            x = torch.add(x, value(atom), alpha=coefficient)
        return x

    def table(self) -> Tensor:
        """The dense table C: float64 [calls, 1 + calls + noises].

        Row k gives the state after call k as C[k] . [z, D_0, ..., D_{calls-1}, noise_0, ...], z the state at call 0.
        """
        first_noise = 1 + self.calls
        states = torch.zeros(self.calls + 1, first_noise + len(self.noises), dtype=torch.float64)
        states[0, 0] = 1.0
        for k, row in enumerate(self.rows):
            for atom, coefficient in row:
                if atom.kind == "x":
                    states[k + 1] += coefficient * states[atom.number]
                else:
                    states[k + 1, atom.number + (1 if atom.kind == "clean" else first_noise)] += coefficient
        return states[1:]


class Tape:
    """Records an ordinary solver, run on symbols, as a `Plan`.

    Attributes:
        start: the state at the first call, alpha_t x_0 + sigma_t noise at the first time of the grid.
    """

    def __init__(self) -> None:
        self.start = Linear(terms={Atom("x", 0): 1.0})
        self._times: list[float] = []
        self._rows: list[Linear] = []
        self._noises: list[NoiseKey] = []
        self._reach: list[float] = []
        self._fresh = 0  # noises of the present row
        self._lowest: float | None = None

    @property
    def calls(self) -> int:
        """Number of calls recorded so far."""
        return len(self._times)

    def denoise(self, x: Linear, t: float) -> tuple[Linear, Linear]:
        """Record a call of the denoiser on x at time t: returns the state and the clean estimate, one symbol each."""
        if self._times:
            self._close(x, t)
        elif x is not self.start:
            raise ValueError("expected the first call of the denoiser on tape.start, got another expression")
        call = self.calls
        self._times.append(t)
        return Linear(terms={Atom("x", call): 1.0}), Linear(terms={Atom("clean", call): 1.0})

    def noise(self) -> Linear:
        """A fresh unit normal symbol; it may appear in several rows."""
        if not self._times:
            raise ValueError("expected a call of the denoiser before the first noise, got none")
        self._noises.append(NoiseKey(self.calls, f"noise{self._fresh}"))
        self._fresh += 1
        return Linear(terms={Atom("noise", len(self._noises) - 1): 1.0})

    def touch(self, t: float) -> None:
        """Note that the state is at time t on its way to the next call: other leaves of the state follow it there."""
        self._lowest = t if self._lowest is None else min(self._lowest, t)

    def plan(self, x: Linear, end: float) -> Plan:
        """The plan whose finished sample is x, at time `end`."""
        if not self._times:
            raise ValueError("expected at least one call of the denoiser, got none")
        self._close(x, end)
        rows = tuple(_sparse(row, k) for k, row in enumerate(self._rows))
        return Plan(
            times=(*self._times, end),
            reach=tuple(self._reach),
            memory=max(k - atom.number for k, row in enumerate(rows) for atom, _ in row if atom.kind != "noise"),
            rows=rows,
            noises=tuple(self._noises),
        )

    def _close(self, x: Linear, t: float) -> None:
        """End the present row with x, the state at time t."""
        self._rows.append(x)
        now = self._times[-1]
        self._reach.append(min(now, t) if self._lowest is None else min(self._lowest, t))
        self._lowest = None
        self._fresh = 0


def _sparse(row: Linear, k: int) -> tuple[Term, ...]:
    """The non-zero terms of a row, the newest state first, the noise last."""
    order = {"x": 0, "clean": 1, "noise": 2}
    terms = sorted(row.terms.items(), key=lambda term: (order[term[0].kind], -term[0].number))
    kept = tuple(Term(atom, coefficient) for atom, coefficient in terms if coefficient != 0.0)
    if not kept:
        raise ValueError(f"expected a state after call {k}, got an empty sum")
    for atom, coefficient in kept:
        if not abs(coefficient) < float("inf"):
            raise ValueError(
                f"expected finite coefficients, got {coefficient} for {atom.kind} {atom.number} in row {k}"
            )
    return kept
