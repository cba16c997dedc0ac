r"""Checks of what a function of points in space promises, for users and for our own tests.

With R a rotation, s a shift, P a permutation of the points and M a reflection,

    f(R x) = R f(x),    f(x + s) = f(x) + s  (of vectors: f(x)),    f(P x, P a) = P f(x, a),    f(M x, M a) = M f(x, a)

where `a` is what the function is told besides. A molecule and its mirror image are told apart by what is in `a`: a
function that honours chirality promises the last only together with the reflection of `a`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.state import Layout

T = TypeVar("T")


def random_rotation(*, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A rotation drawn uniformly from SO(3), keyed by the seed: [3, 3], of determinant 1."""
    rows = Layout.dense(1, {"frame": (3, 3)}).rows("frame")
    drawn = Noise(seed=seed, index=torch.zeros(1, dtype=torch.int64)).at("frame", 0, rows).normal(dtype=torch.float64)
    q, r = torch.linalg.qr(drawn[0])
    q = q * r.diagonal().sign()  # of the whole of O(3), uniform (Mezzadri 2007)
    return (q * torch.linalg.det(q)).to(dtype)  # -1 turns the three axes: uniform in SO(3)


def equivariance_errors(
    function: Callable[[Tensor, T], Tensor],
    x: Tensor,
    told: T,
    *,
    vectors: bool = False,
    permuted: Callable[[T, Tensor], T] | None = None,
    mirrored: Callable[[T], T] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """How far a function is from each symmetry that it is asked about, relative to its largest value (or to 1).

    Args:
        function: from positions [n, 3] and what it is told to positions [n, 3].
        x: positions.
        told: passed to the function.
        vectors: the function gives vectors, which a shift leaves as they are, and not positions.
        permuted: what is told of the points once `order` [n] has permuted them; None: permutations are not asked about.
        mirrored: what is told of the mirror image (the same, for a function that knows no hands); None: reflections are
            not asked about.
        seed: of the rotation, the shift and the permutation.
    """
    expected = function(x, told)
    turn = random_rotation(seed=seed, dtype=x.dtype).to(x.device)
    shift = 3 * turn[0]
    found = {
        "rotation": function(x @ turn.T, told) - expected @ turn.T,
        "translation": function(x + shift, told) - (expected if vectors else expected + shift),
    }
    if permuted is not None:
        rows = Layout.dense(len(x), {"order": ()}).rows("order")
        order = Noise(seed=seed, index=torch.arange(len(x))).at("order", 0, rows).uniform().argsort().to(x.device)
        found["permutation"] = function(x[order], permuted(told, order)) - expected[order]
    if mirrored is not None:
        mirror = torch.tensor([1.0, 1.0, -1.0], dtype=x.dtype, device=x.device)
        found["reflection"] = function((x * mirror) @ turn.T, mirrored(told)) - (expected * mirror) @ turn.T
    scale = expected.abs().max().clamp_min(1)
    return {name: float((error.abs().max() / scale).detach()) for name, error in found.items()}


def assert_equivariant(
    function: Callable[[Tensor, T], Tensor],
    x: Tensor,
    told: T,
    *,
    vectors: bool = False,
    permuted: Callable[[T, Tensor], T] | None = None,
    mirrored: Callable[[T], T] | None = None,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Raise AssertionError if any of `equivariance_errors` exceeds the tolerance (or is not a number)."""
    errors = equivariance_errors(function, x, told, vectors=vectors, permuted=permuted, mirrored=mirrored, seed=seed)
    for name, error in errors.items():
        if not error <= tolerance:
            raise AssertionError(f"{name}: expected an error of at most {tolerance:g}, got {error:.3g} ({x.dtype})")
