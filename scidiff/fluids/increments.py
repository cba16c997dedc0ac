r"""Structure functions: how velocities differ between two points, by their distance.

    S_p(r) = < | (u(x + r e) - u(x)) . e |^p >

over all points x and the directions e of both axes: longitudinal increments (Frisch, Turbulence, 1995, section 5.1).
S_2 says what the spectrum says; a Gaussian field has S_4 = 3 S_2^2, a turbulent one more of it at small distances.
"""

from __future__ import annotations

import torch
from torch import Tensor


def structure_function(velocity: Tensor, order: float) -> Tensor:
    """S_p of velocities on a periodic box of square cells: [..., 2, H, W] -> [..., R].

    Args:
        velocity: u along x and v along y.
        order: p > 0.

    Returns:
        S_p at distances of 1 to R = min(H, W) // 2 points.
    """
    if order <= 0:
        raise ValueError(f"expected an order > 0, got {order}")
    u, v = velocity.unbind(-3)
    found = []
    for distance in range(1, min(u.shape[-2:]) // 2 + 1):
        along = [u.roll(-distance, -1) - u, v.roll(-distance, -2) - v]
        found.append(torch.stack([part.abs().pow(order).mean((-2, -1)) for part in along]).mean(0))
    return torch.stack(found, -1)
