"""Balls, spheres, and quadratic forms that must not exceed a level or must be at it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidiff.constraints.base import Infeasible, RowConstraint
from scidiff.constraints.rounding import kept, worst
from scidiff.constraints.secular import onto_quadric


@dataclass(frozen=True, kw_only=True)
class _Round(RowConstraint):
    """|x - centre| against a radius, for the row x, flattened to D numbers.

    Attributes:
        leaf: the leaf.
        centre: one number for all entries, or one for each, [D].
        radius: > 0, in the leaf's units.

    Raises:
        Infeasible: the radius is not positive.
    """

    leaf: str
    centre: Tensor | float = 0.0
    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", _centre(self.leaf, self.centre, self.radius))

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        centre = torch.as_tensor(self.centre).to(x)
        return kept(self, x, _onto_sphere(x - centre, self.radius, metric) + centre)

    def polyhedron(self, size: int) -> None:
        return None


class Ball(_Round):
    """|x - centre| <= radius for the row x, flattened to D numbers.

    Attributes:
        leaf: the leaf.
        centre: one number for all entries, or one for each, [D].
        radius: > 0, in the leaf's units.

    Raises:
        Infeasible: the radius is not positive.
    """

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off, scale = _off_sphere(x, torch.as_tensor(self.centre).to(x), self.radius)
        return worst(off.clamp_min(0)[:, None], scale[:, None])

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """No equality, [N, 0], and (|x - centre|^2 - radius^2) / (2 radius) <= 0, [N, 1], in the leaf's units."""
        return x[:, :0], _smooth_off_sphere(x, torch.as_tensor(self.centre).to(x), self.radius)

    def sizes(self, x: Tensor) -> Tensor:
        """The size of the terms of the inequality, [N, 1]."""
        centre = torch.as_tensor(self.centre).to(x)
        return _smooth_off_sphere(x.abs(), -centre.abs(), self.radius) + self.radius


class Sphere(_Round):
    """|x - centre| = radius for the row x, flattened to D numbers.

    Not convex: from the centre all points are equally near (in the Euclidean metric), and the one along the first axis
    is taken; see `onto_quadric` for other metrics.

    Attributes:
        leaf: the leaf.
        centre: one number for all entries, or one for each, [D].
        radius: > 0, in the leaf's units.

    Raises:
        Infeasible: the radius is not positive.
    """

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off, scale = _off_sphere(x, torch.as_tensor(self.centre).to(x), self.radius)
        return worst(off.abs()[:, None], scale[:, None])

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(|x - centre|^2 - radius^2) / (2 radius) = 0, [N, 1], in the leaf's units; no inequality, [N, 0]."""
        return _smooth_off_sphere(x, torch.as_tensor(self.centre).to(x), self.radius), x[:, :0]

    def sizes(self, x: Tensor) -> Tensor:
        """Of no inequality, [N, 0]."""
        return x[:, :0]


def _centre(leaf: str, centre: Tensor | float, radius: float) -> Tensor:
    if not 0 < radius < torch.inf:
        raise Infeasible(f"expected a positive, finite radius about the centre of {leaf!r}, got {radius}")
    centre = torch.as_tensor(centre, dtype=torch.float64).flatten()
    if not centre.isfinite().all():
        raise ValueError(f"expected a finite centre of {leaf!r}, got NaN or infinity")
    return centre


def _off_sphere(x: Tensor, centre: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distance from the centre less the radius, and the size of the terms, [N] each."""
    scale = torch.linalg.vector_norm(x.abs() + centre.abs(), dim=-1) + radius
    return torch.linalg.vector_norm(x - centre, dim=-1) - radius, scale


def _smooth_off_sphere(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    return ((x - centre).square().sum(-1, keepdim=True) - radius**2) / (2 * radius)


def _onto_sphere(d: Tensor, radius: float, metric: Tensor | None) -> Tensor:
    """The point of the sphere about 0 that is nearest to each d [N, D]."""
    if metric is not None:
        f, g = d.square().sum(-1, keepdim=True) - radius**2, d.new_full((), radius**2)
        variance, turn = (metric, None) if metric.ndim == 1 else torch.linalg.eigh(metric)
        variance = variance.clamp_min(0)
        h = (d if turn is None else d @ turn) * variance.sqrt()
        way = onto_quadric(h, variance, f, g) * variance.sqrt()
        d = d + (way if turn is None else way @ turn.T)
    norm = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    first = (torch.arange(d.shape[-1], device=d.device) == 0).to(d.dtype)
    return torch.where(norm == 0, first, d / norm) * radius


@dataclass(frozen=True, kw_only=True)
class _Form:
    """f(x) = x^T matrix x + slope . x against a level, on rows of one leaf.

    Attributes:
        leaf: the leaf.
        matrix: [D, D], symmetric, positive semidefinite, not 0.
        slope: [D].
        level: a number.
        slopes: whether f falls without end along directions in which the matrix is flat.
        depth: how far f goes below 0 along the others.
    """

    leaf: str
    matrix: Tensor
    slope: Tensor
    level: float
    slopes: bool
    depth: float

    @classmethod
    def of(cls, leaf: str, matrix: Tensor, slope: Tensor | None, level: float) -> _Form:
        matrix = torch.as_tensor(matrix, dtype=torch.float64)
        slope = matrix.new_zeros(matrix.shape[:1]) if slope is None else slope.to(matrix).flatten()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or slope.shape != matrix.shape[:1]:
            raise ValueError(
                f"expected a matrix [D, D] and a slope [D], got {list(matrix.shape)} and {list(slope.shape)}"
            )
        if not (matrix.isfinite().all() and slope.isfinite().all() and abs(level) < torch.inf):
            raise ValueError(f"expected finite numbers in the quadratic form on {leaf!r}, got NaN or infinity")
        matrix = (matrix + matrix.T) / 2
        q, turn = torch.linalg.eigh(matrix)
        if not q[-1] > 0 or q[0] < -_flat(q):
            raise ValueError(
                f"expected a positive semidefinite matrix other than 0 in the quadratic form on {leaf!r}, "
                f"got eigenvalues from {float(q[0]):.3g} to {float(q[-1]):.3g}"
            )
        p = slope @ turn
        flat = q <= _flat(q)
        slopes = bool((flat & (p.abs() > 16 * len(q) * torch.finfo(p.dtype).eps * p.abs().amax())).any())
        depth = float((p[~flat] ** 2 / (4 * q[~flat])).sum())
        if not slopes and level + depth < -64 * torch.finfo(p.dtype).eps * (abs(level) + depth):
            raise Infeasible(f"the quadratic form on {leaf!r} is at least {-depth} and cannot come down to {level}")
        return cls(leaf=leaf, matrix=matrix, slope=slope, level=float(level), slopes=slopes, depth=depth)

    def on(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix and slope on the device of rows x [N, D]."""
        if x.shape[-1] != len(self.slope):
            raise ValueError(f"expected rows of {len(self.slope)} numbers in {self.leaf!r}, got {x.shape[-1]}")
        return self.matrix.to(x), self.slope.to(x)

    def off(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) - level and the size of its terms, [N] each."""
        matrix, slope = self.on(x)
        value = ((x @ matrix) * x).sum(-1) + (x * slope).sum(-1) - self.level
        size = ((x.abs() @ matrix.abs()) * x.abs()).sum(-1) + (x * slope).abs().sum(-1) + abs(self.level)
        return value, size

    def onto(self, x: Tensor, metric: Tensor | None) -> Tensor:
        """The point of f = level nearest to each x [N, D], by the secular equation in the metric's principal axes.

        With covariance S = R R^T and R^T matrix R = W diag(q) W^T, distances in y = (R W)^-1 x are Euclidean.
        """
        matrix, slope = self.on(x)
        root = _root(metric, slope)
        q, turn = torch.linalg.eigh(root.T @ matrix @ root)
        flat, to_x = q <= _flat(q), root @ turn
        q = torch.where(flat, 0, q)
        h = (x @ matrix + slope / 2) @ to_x
        if self.slopes:
            p = torch.where(flat, 0, slope @ to_x / torch.where(flat, 1, q))
            g = self.level - (x * slope).sum(-1, keepdim=True) + (p * (h - q * p / 4)).sum(-1, keepdim=True)
        else:
            h, g = torch.where(flat, 0, h), x.new_full((), max(self.level + self.depth, 0.0))
        return x + onto_quadric(h, q, self.off(x)[0][:, None], g) @ to_x.T


def _root(metric: Tensor | None, like: Tensor) -> Tensor:
    """R with R R^T the covariance, [D, D]."""
    if metric is None or metric.ndim == 1:
        return torch.diag(torch.ones_like(like) if metric is None else metric.sqrt())
    variance, turn = torch.linalg.eigh(metric)
    return turn * variance.clamp_min(0).sqrt()


def _flat(q: Tensor) -> Tensor:
    """The size below which an eigenvalue is 0 but for rounding."""
    return 16 * len(q) * torch.finfo(q.dtype).eps * q.amax()


@dataclass(frozen=True, kw_only=True)
class _Quadric(RowConstraint):
    """x^T matrix x + slope . x against a level, for the row x, flattened to D numbers.

    Attributes:
        leaf: the leaf.
        matrix: [D, D], positive semidefinite, not 0; its symmetric part counts.
        slope: [D]; None: 0.
        level: a number.

    Raises:
        Infeasible: the form is nowhere as low as the level.
    """

    leaf: str
    matrix: Tensor
    slope: Tensor | None = None
    level: float
    _form: _Form = field(init=False, repr=False)

    def __post_init__(self) -> None:
        form = _Form.of(self.leaf, self.matrix, self.slope, self.level)
        for name, value in {"matrix": form.matrix, "slope": form.slope, "_form": form}.items():
            object.__setattr__(self, name, value)

    def nearest(self, x: Tensor, metric: Tensor | None) -> Tensor:
        found = kept(self, x, self._form.onto(x, metric))
        return kept(self, found, self._form.onto(found, None))

    def polyhedron(self, size: int) -> None:
        return None


class QuadraticInequality(_Quadric):
    """x^T matrix x + slope . x <= level for the row x, flattened to D numbers: an ellipsoid, cylinder or paraboloid.

    Attributes:
        leaf: the leaf.
        matrix: [D, D], positive semidefinite, not 0; its symmetric part counts.
        slope: [D]; None: 0.
        level: a number.

    Raises:
        Infeasible: the form is nowhere as low as the level.
    """

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off, size = self._form.off(x)
        return worst(off.clamp_min(0)[:, None], size[:, None])

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """No equality, [N, 0], and x^T matrix x + slope . x - level <= 0, [N, 1]."""
        return x[:, :0], self._form.off(x)[0][:, None]

    def sizes(self, x: Tensor) -> Tensor:
        """The size of the terms of the inequality, [N, 1]."""
        return self._form.off(x)[1][:, None]


class QuadraticEquality(_Quadric):
    """x^T matrix x + slope . x = level for the row x, flattened to D numbers.

    Not convex: from inside, several points may be equally near, and one is chosen as `onto_quadric` says.

    Attributes:
        leaf: the leaf.
        matrix: [D, D], positive semidefinite, not 0; its symmetric part counts.
        slope: [D]; None: 0.
        level: a number.

    Raises:
        Infeasible: the form is nowhere as low as the level.
    """

    def excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        off, size = self._form.off(x)
        return worst(off.abs()[:, None], size[:, None])

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x^T matrix x + slope . x - level = 0, [N, 1], and no inequality, [N, 0]."""
        return self._form.off(x)[0][:, None], x[:, :0]

    def sizes(self, x: Tensor) -> Tensor:
        """Of no inequality, [N, 0]."""
        return x[:, :0]
