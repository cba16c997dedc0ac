r"""What must hold of a flow: no divergence, what instruments measured, conserved integrals, bounds.

All are constraints on one leaf of fields, [N, C, H, W], and `a & b` of two of them is solved as one problem (`Joined`).
A sample's certificate is `scidiff.fluids.oracle`'s, which shares nothing with this module.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scidiff.constraints.base import Constraint, Infeasible, Metric, RowConstraint, metric_of
from scidiff.constraints.polyhedron import Polyhedron
from scidiff.constraints.rounding import worst
from scidiff.fluids.blended import FieldCovariance
from scidiff.fluids.dependence import dependent
from scidiff.fluids.spectral import Box
from scidiff.state import Layout, State

GRADIENTS = 1 << 24
"""Numbers in the gradients of curved constraints that are held at once."""

FieldMetric = Metric | FieldCovariance
"""As `Metric`, or the covariance of a field, too large to write down."""


class FieldConstraint(RowConstraint):
    """A constraint on fields, seen as rows of D = C H W numbers.

    Attributes:
        leaf: the leaf.
        shape: (C, H, W).
    """

    leaf: str
    shape: tuple[int, int, int]

    def __and__(self, other: Constraint) -> Constraint:
        from scidiff.fluids.joined import joined

        if isinstance(other, FieldConstraint) and other.leaf == self.leaf:
            return joined(self, other)
        return super().__and__(other)

    def project(self, clean: State, layout: Layout, metric: FieldMetric = None) -> State:
        x = clean[self.leaf]
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected fields {list(self.shape)} in {self.leaf!r}, got {list(x.shape[1:])}")
        flat = x.double().flatten(1)
        known = metric.to(flat) if isinstance(metric, FieldCovariance) else metric_of(self.leaf, metric, flat)
        return clean | {self.leaf: self.nearest(flat, known).to(x.dtype).reshape(x.shape)}

    def nearest(self, x: Tensor, metric: Tensor | FieldCovariance | None) -> Tensor:
        from scidiff.fluids.joined import joined

        return joined(self).nearest(x, metric)

    @abstractmethod
    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As for every row constraint."""

    def polyhedron(self, size: int) -> Polyhedron | None:
        return None

    def fields(self, x: Tensor) -> Tensor:
        """Rows [N, D] as fields [N, C, H, W]."""
        return x.reshape(-1, *self.shape)


@dataclass(frozen=True, kw_only=True)
class Solenoidal(FieldConstraint):
    """A velocity without divergence, in the derivatives of the box.

    Attributes:
        leaf: velocities [N, 2, H, W].
        box: the box; "spectral" and "centred" divergence are two different constraints.
    """

    leaf: str
    box: Box
    shape: tuple[int, int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (2, *self.box.shape))

    def free(self, x: Tensor) -> Tensor:
        """The nearest such velocities, Leray's projection: [..., 2, H, W]."""
        return self.box.solenoidal(x)

    def free_waves(self, coefficients: Tensor) -> Tensor:
        """The same of Fourier coefficients [..., 2, H, W // 2 + 1]."""
        return self.box.leray(coefficients)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s_y, s_x = self.box.symbols(like=x)
        u, v = self.box.forward(self.fields(x)).unbind(1)
        along_x, along_y = s_x * u, s_y * v
        amount = self.box.back(1j * (along_x + along_y)).flatten(1).abs().amax(-1)
        return amount, 2 * (along_x.abs() + along_y.abs()).flatten(1).sum(-1) / prod(self.box.shape)

    def describe(self) -> str:
        return f"no divergence ({self.box.difference}) of {self.leaf!r}"


@dataclass(frozen=True, kw_only=True)
class Curl(FieldConstraint):
    """A vorticity that a velocity has: without mean, and without waves whose derivative the box takes for 0.

    Attributes:
        leaf: vorticities [N, 1, H, W].
        box: the box.
    """

    leaf: str
    box: Box
    shape: tuple[int, int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (1, *self.box.shape))

    def free(self, x: Tensor) -> Tensor:
        """The nearest such vorticities: [..., 1, H, W]."""
        return self.box.back(self.free_waves(self.box.forward(x)))

    def free_waves(self, coefficients: Tensor) -> Tensor:
        """The same of Fourier coefficients [..., 1, H, W // 2 + 1]."""
        s_y, s_x = self.box.symbols(like=coefficients)
        return coefficients * ((s_y.square() + s_x.square()) > 0)

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        vorticity = self.fields(x)
        off = (vorticity - self.free(vorticity)).flatten(1).abs().amax(-1)
        return off, self.box.forward(vorticity).flatten(1).abs().sum(-1) / prod(self.box.shape)

    def describe(self) -> str:
        return f"a velocity that has {self.leaf!r}"


@dataclass(frozen=True, kw_only=True)
class Measured(FieldConstraint):
    """rows @ x = values: what instruments saw (`scidiff.fluids.functionals`), or other linear facts, such as a mean.

    Attributes:
        leaf: the leaf.
        rows: [M, C, H, W].
        values: [M].
        names: of each, for messages.

    Raises:
        Infeasible: two of them contradict each other.
    """

    leaf: str
    rows: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    shape: tuple[int, int, int] = field(init=False, repr=False)
    _places: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows, values = self.rows.double(), self.values.double()
        if rows.ndim != 4 or values.shape != rows.shape[:1] or not len(rows):
            raise ValueError(f"expected rows [M, C, H, W] and values [M], got {list(rows.shape)}, {list(values.shape)}")
        if not bool(rows.isfinite().all() & values.isfinite().all()):
            raise ValueError(f"expected finite rows and values of {self.leaf!r}, got NaN or infinity")
        names = self.names or tuple(f"measurement {m}" for m in range(len(rows)))
        found = {"rows": rows, "values": values, "names": names, "shape": tuple(rows.shape[1:])}
        for name, value in found.items():
            object.__setattr__(self, name, value)
        flat = rows.flatten(1)
        object.__setattr__(self, "_places", (flat != 0).any(0).nonzero()[:, 0])
        spare = dependent(flat @ flat.T, values)
        if spare.contradiction is not None:
            a, b = (names[m] for m in spare.contradiction)
            raise Infeasible(f"{a} contradicts {b} on {self.leaf!r}")

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at, values = self._places.to(x.device), self.values.to(x)
        weights, read = self.rows.flatten(1)[:, self._places].to(x), x[:, at]
        return worst((read @ weights.T - values).abs(), read.abs() @ weights.abs().T + values.abs())

    def polyhedron(self, size: int) -> Polyhedron:
        return Polyhedron.of(size, equal=self.rows.flatten(1), target=self.values)

    def describe(self) -> str:
        return f"{len(self.rows)} measurements of {self.leaf!r}"


class Curved(FieldConstraint):
    """J smooth functions of a field that must be 0, or must not be positive.

    Attributes:
        inequality: whether <= 0 is all that is asked for.
    """

    inequality: ClassVar[bool] = False

    @property
    @abstractmethod
    def count(self) -> int:
        """J."""

    @property
    def together(self) -> int:
        """How many fields' gradients are held at once."""
        return max(1, GRADIENTS // (self.count * prod(self.shape)))

    @abstractmethod
    def values(self, x: Tensor) -> Tensor:
        """The functions: [N, D] -> [N, J]."""

    @abstractmethod
    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [N, J, D] and values [N, J]."""

    @abstractmethod
    def sizes(self, x: Tensor) -> Tensor:
        """The size of the terms that each function is the difference of: [N, D] -> [N, J]."""

    def ahead(self, x: Tensor, step: Tensor, shares: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        """The functions after each share [S] of a step, from their values and slopes [N, J] there: [N, S, J]."""
        there = x[:, None] + shares[:, None] * step[:, None]
        return self.values(there.flatten(0, 1)).unflatten(0, there.shape[:2])

    def off(self, value: Tensor) -> Tensor:
        """How far each function is from holding, >= 0."""
        return value.clamp_min(0) + 0 * value if self.inequality else value.abs()

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.values(x)
        return (value[:, :0], value) if self.inequality else (value, value[:, :0])

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return worst(self.off(self.values(x)), self.sizes(x))


@dataclass(frozen=True, kw_only=True)
class Conserved(Curved):
    """The mean over the box of a density quadratic in the field: 1/2 mean_p sum_c x M x = value, M a multiplier >= 0.

    Attributes:
        leaf: the leaf.
        multiplier: M, [C, H, W // 2 + 1], real.
        value: > 0.
        name: for messages.
    """

    leaf: str
    multiplier: Tensor = field(repr=False)
    value: float
    name: str = "quadratic integral"
    shape: tuple[int, int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        channels, height, half = self.multiplier.shape
        object.__setattr__(self, "multiplier", self.multiplier.double())
        object.__setattr__(self, "shape", (channels, height, 2 * (half - 1)))
        if not bool((self.multiplier >= 0).all()):
            raise ValueError(f"expected a multiplier >= 0 of the {self.name}")
        if not 0 < self.value < float("inf"):
            raise Infeasible(f"expected a positive {self.name} of {self.leaf!r}, got {self.value}")

    def gradient(self, x: Tensor) -> Tensor:
        """M x / HW: [N, D] -> [N, D]."""
        found = torch.fft.irfft2(torch.fft.rfft2(self.fields(x)) * self.multiplier.to(x), s=self.shape[1:])
        return found.flatten(1) / prod(self.shape[1:])

    @property
    def count(self) -> int:
        return 1

    def values(self, x: Tensor) -> Tensor:
        return (x * self.gradient(x)).sum(-1, keepdim=True) / 2 - self.value

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = self.gradient(x)
        return gradient[:, None], (x * gradient).sum(-1, keepdim=True) / 2 - self.value

    def sizes(self, x: Tensor) -> Tensor:
        return (x * self.gradient(x)).abs().sum(-1, keepdim=True) + self.value

    def ahead(self, x: Tensor, step: Tensor, shares: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        bend = (step * self.gradient(step)).sum(-1, keepdim=True)
        a = shares[:, None]
        return value[:, None] + a * slope[:, None] + a * a * bend[:, None] / 2

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        terms = x * self.gradient(x)
        return (terms.sum(-1) / 2 - self.value).abs(), terms.abs().sum(-1) + self.value

    def describe(self) -> str:
        return f"{self.name} {self.value:g} of {self.leaf!r}"


@dataclass(frozen=True, kw_only=True)
class Bounded(FieldConstraint):
    """low <= x <= high at every grid point.

    Attributes:
        leaf: the leaf.
        shape: (C, H, W).
        low, high: numbers, or [C, H, W]; -inf and inf where there is no bound.
    """

    leaf: str
    shape: tuple[int, int, int]
    low: Tensor | float = -torch.inf
    high: Tensor | float = torch.inf

    def __post_init__(self) -> None:
        low, high = self.ends(torch.zeros(1, dtype=torch.float64))
        if bool(low.isnan().any() | high.isnan().any()):
            raise ValueError(f"expected numbers as bounds of {self.leaf!r}, got NaN")
        if not bool((low <= high).all()):
            raise Infeasible(f"no number lies within the bounds of {self.leaf!r}: a low one is above its high one")

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low and high of every entry, [D] each."""
        low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (self.low, self.high))
        return low.expand(self.shape).flatten(), high.expand(self.shape).flatten()

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.ends(x)
        inside = torch.minimum(torch.maximum(x, low), high)
        return worst((x - inside).abs(), x.abs() + inside.abs())

    def describe(self) -> str:
        return f"bounds on {self.leaf!r}"


def energy(leaf: str, box: Box, value: float, *, of: Literal["velocity", "vorticity"] = "velocity") -> Conserved:
    """mean |u|^2 / 2 of velocities [N, 2, H, W], or of the velocity that vorticities [N, 1, H, W] have."""
    s_y, s_x = box.symbols()
    square = s_y**2 + s_x**2
    ones = torch.ones(2, *square.shape, dtype=torch.float64)
    inverse = torch.where(square > 0, 1 / torch.where(square > 0, square, 1), 0)
    return Conserved(leaf=leaf, multiplier=ones if of == "velocity" else inverse[None], value=value, name="energy")


def enstrophy(leaf: str, box: Box, value: float, *, of: Literal["velocity", "vorticity"] = "velocity") -> Conserved:
    """mean omega^2 / 2 of vorticities [N, 1, H, W], or mean |grad u|^2 / 2 of velocities (without divergence equal)."""
    s_y, s_x = box.symbols()
    square = s_y**2 + s_x**2
    multiplier = square.expand(2, *square.shape) if of == "velocity" else torch.ones_like(square)[None]
    return Conserved(leaf=leaf, multiplier=multiplier, value=value, name="enstrophy")


def mean(leaf: str, shape: tuple[int, int, int], values: Tensor) -> Measured:
    """The mean of each channel over the box (momentum, of velocities): values [C]."""
    channels, height, width = shape
    one = torch.eye(channels, dtype=torch.float64)[:, :, None, None] / (height * width)
    names = tuple(f"mean of channel {c}" for c in range(channels))
    return Measured(leaf=leaf, rows=one.expand(channels, *shape), values=values, names=names)
