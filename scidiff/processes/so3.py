"""The rotation group SO(3): orientations of rigid bodies, such as the backbone frames of a protein.

Points are rotation matrices [..., 3, 3]; a tangent vector at R is a rotation vector v in the body frame, in radians:
exp_R(v) = R exp([v]_x). The maps keep full precision near the identity and near half turns, in float32 as in float64,
and return matrices that are orthogonal to rounding after any number of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes import so3_kernel
from scidiff.processes.manifold import Manifold
from scidiff.state import Rows


def rotation_matrix(q: Tensor) -> Tensor:
    """The rotation of a quaternion q = (w, x, y, z) of any positive length: [..., 4] -> [..., 3, 3]."""
    w, x, y, z = (q / _length(q)).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def quaternion(r: Tensor) -> Tensor:
    """A unit quaternion (w, x, y, z) of a rotation matrix: [..., 3, 3] -> [..., 4]; q and -q are the same rotation.

    The four rows of 4 q q^T are all in the matrix; the longest, normalised, is q without cancellation (Shepperd,
    "Quaternion from rotation matrix", 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in r.unbind(-2))
    outer = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], dim=-1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], dim=-1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], dim=-1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], dim=-1),
        ],
        dim=-2,
    )
    longest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = outer.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4)).squeeze(-2)
    return row / _length(row)


def rotation_exp(v: Tensor) -> Tensor:
    """exp([v]_x), the turn by |v| radians about v: [..., 3] -> [..., 3, 3]."""
    half = 0.5 * _length(v)
    return rotation_matrix(torch.cat([half.cos(), 0.5 * torch.sinc(half / math.pi) * v], dim=-1))


def rotation_log(r: Tensor) -> Tensor:
    """The rotation vector of r, of length at most pi: [..., 3, 3] -> [..., 3]."""
    q = quaternion(r)
    w, axis = q[..., :1], q[..., 1:]
    axis, w = torch.where(w < 0, -axis, axis), w.abs()
    sine = _length(axis)
    return axis * (2 * torch.atan2(sine, w) / sine)


def _length(v: Tensor) -> Tensor:
    """|v| [..., 1], with a gradient of 0 where v = 0; never 0 itself.

    Added up term by term, in one order whatever the batch.
    """
    total = torch.zeros_like(v[..., 0])
    for component in v.unbind(-1):
        total = total + component * component
    return total.clamp_min(torch.finfo(v.dtype).tiny).sqrt()[..., None]


def turn(r: Tensor, v: Tensor) -> Tensor:
    """r exp([v]_x): [..., 3, 3], [..., 3] -> [..., 3, 3].

    The change r (exp([v]_x) - 1) is added to r, so that many small steps in float32 do not all round the same way. What
    the sum lacks to orthogonality is made up by a Newton-Schulz step towards the nearest rotation, y - y (y^T y - 1)/2.
    """
    y = r + _product(r, _exp_minus_one(v))
    excess = _product(y.mT, y) - torch.eye(3, dtype=r.dtype, device=r.device)
    return y - 0.5 * _product(y, excess)


def _exp_minus_one(v: Tensor) -> Tensor:
    """exp([v]_x) - 1 = sin(w)/w [v]_x + (1 - cos w)/w^2 (v v^T - w^2), w = |v| (Rodrigues)."""
    w = _length(v)
    first = torch.sinc(w / math.pi)[..., None]
    second = 0.5 * torch.sinc(w / (2 * math.pi)).square()[..., None]
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], dim=-1).unflatten(-1, (3, 3))
    return first * skew + second * _product(skew, skew)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of [..., 3, 3], elementwise: the same bits whatever the batch, never in reduced precision."""
    return sum((a[..., :, j, None] * b[..., None, j, :] for j in (1, 2)), a[..., :, 0, None] * b[..., None, 0, :])


@dataclass(frozen=True, kw_only=True)
class SO3(Manifold):
    """Rotations: rows of shape [*lead, 3, 3], each matrix an independent rotation."""

    point = (3, 3)
    vector = (3,)
    log_uniform = 0.0

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x exp([v]_x)."""
        return turn(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """log(x^T y)."""
        return rotation_log(_product(x.mT, y))

    def chart_velocity(self, theta: Tensor, v: Tensor) -> Tensor:
        """v + theta x v / 2 + c theta x (theta x v), c = `curvature(|theta|)` (Iserles et al. 2000, eq. 2.46)."""
        bent = torch.linalg.cross(theta, v)
        return v + 0.5 * bent + so3_kernel.curvature(_length(theta)) * torch.linalg.cross(theta, bent)

    def uniform(self, rows: Rows, draw: Draw, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rotations distributed by the Haar measure: the direction of four normal numbers is a uniform quaternion."""
        normal = torch.special.ndtri(draw.uniform(shape=(*self.lead(rows), 4), kind="rotation"))
        return rotation_matrix(normal).to(dtype)

    def diffuse(self, x: Tensor, variance: Tensor, rows: Rows, draw: Draw) -> Tensor:
        """x exp([omega n]_x), the angle omega by inversion of its distribution, the axis n uniform."""
        lead = self.lead(rows)
        omega = so3_kernel.angle_from_uniform(draw.uniform(shape=lead, kind="angle"), variance, rows)
        axis = torch.special.ndtri(draw.uniform(shape=(*lead, 3), kind="axis"))
        axis = axis / _length(axis)
        return self.exp(x, (omega[..., None] * axis).to(x.dtype))

    def score(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Score of the heat kernel in the body frame of x_t, [N, *lead, 3] in x_t's precision, radians^-1."""
        turn = self.log(x_0, x_t)
        slope = so3_kernel.slope(_length(turn).squeeze(-1), self.per_point(variance, rows))
        return slope[..., None].to(turn.dtype) * turn

    def log_kernel(self, x_t: Tensor, x_0: Tensor, variance: Tensor, rows: Rows) -> Tensor:
        """Log-density of the heat kernel relative to the Haar measure, float64 [N, *lead]."""
        return so3_kernel.log_density(_length(self.log(x_0, x_t)).squeeze(-1), self.per_point(variance, rows))

    def information(self, variance: Tensor) -> Tensor:
        """The entropy that the heat kernel lacks of the Haar measure's, by quadrature."""
        return so3_kernel.information(variance)
