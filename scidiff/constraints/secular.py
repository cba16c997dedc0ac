r"""The way from a point to the nearest one on a quadric, in principal axes.

    min_d |d|^2    subject to    f(c + d) = 0,    f(c + d) = f + sum_i (2 h_i d_i + q_i d_i^2),    q_i >= 0

(f the value and h half the gradient at c.) Lagrange's condition gives d_i = -m h_i / (1 + m q_i) for one multiplier m,
which solves the *secular equation*

    phi(m) = f - sum_i h_i^2 m (2 + m q_i) / (1 + m q_i)^2 = 0

on m > -1 / max q; m > 0 for points outside (f > 0), m < 0 for points inside. There phi falls and is convex, so Newton's
method from the left of the root rises to it; slowly, where the root is far. With sums over curved axes (q_i > 0), it is
also the equation

    E(m) = G(m),    E = sum_i h_i^2 / q_i / (1 + m q_i)^2,    G = g + 2 m sum_flat h_i^2,    g = E(0) - f

and as E^(-1/2) and -G^(-1/2) are concave, Newton's method on E^(-1/2) - G^(-1/2) rises to the same root. It solves the
equation of a single axis in one step, as in trust-region methods (More and Sorensen, "Computing a trust region step",
1983). The longer of the two steps is taken. phi is
E - G, too, which keeps its digits for points far away (f much greater than g), as its definition does for others.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 20  # of Newton's method; it takes 3 to 14 to reach rounding, whatever the magnitudes
FARTHEST = 1e100  # 1 + m max q of a quadric that has shrunk to a point


def onto_quadric(h: Tensor, q: Tensor, f: Tensor, g: Tensor) -> Tensor:
    r"""The displacements d to the nearest points of f = 0: float64 [N, D] -> [N, D].

    Inside the quadric the nearest point is not unique where h is 0 along the axes of the greatest q (for a sphere, at
    its centre), the "hard case": the sign of h there decides which way to go, and where it is 0, it is taken as a
    positive one along the first of these axes, too small to show elsewhere.

    Args:
        h: half the gradient, [N, D].
        q: curvature of each axis, [D] >= 0, not all 0.
        f: the value, [N, 1]. The quadric must not be empty, else the displacement leads nowhere.
        g: how deep the curved part alone goes below the value 0, [N, 1] or []; >= 0 if there are no slopes.
    """
    most = q.amax()
    tiny = torch.finfo(h.dtype).tiny
    curved, share = q > 0, q / most
    nudge = 1e-20 * (g.clamp_min(0) * most).sqrt()
    top = torch.arange(len(q), device=q.device) == q.argmax()
    h = torch.where(top & (h.abs() < nudge), torch.where(h < 0, -nudge, nudge), h)
    depth = torch.where(curved, h**2 / q.clamp_min(tiny), 0)
    rise = 2 * torch.where(curved, 0, h**2).sum(-1, keepdim=True)

    # lower bounds of tau = 1 + m max q: G > 0; for points outside, 1; E(m) = G(m) <= g of each axis, unless G rises
    bottom = torch.where(rise > 0, -g / rise.clamp_min(tiny) * most, -1)
    single = ((depth / g.clamp_min(tiny)).sqrt() - (1 - share)) / share.clamp_min(tiny)
    single = single.masked_fill(~curved, 0).amax(-1, keepdim=True)
    tau = torch.where(f > 0, torch.where(rise > 0, 1, single.clamp_min(1)), single)
    tau = torch.maximum(tau, 1 + bottom).clamp(tiny, FARTHEST)
    # kept beside tau, which has no digits left for it where slopes outweigh curvature
    past = torch.maximum(tau - 1, bottom).clamp_max(FARTHEST)
    lowest = tau / 2  # lower than rounding can lead, but not where the equation has no root
    for _ in range(STEPS):
        thick, m = 1 - share + tau * share, past / most
        e, level = (depth / thick**2).sum(-1, keepdim=True), g + m * rise
        near = f - (h**2 * m * (1 + thick) / thick**2).sum(-1, keepdim=True)
        phi = torch.where(f.abs() < e + level.abs(), near, e - level)
        falls = 2 * (h**2 / thick**3).sum(-1, keepdim=True)
        e, level = e.clamp_min(tiny), level.clamp_min(tiny)
        root_e, root_g = e.sqrt(), level.sqrt()
        bend = (falls - rise) / (e * root_e) + rise / (level * root_g)
        bent = 2 * phi / (root_e * root_g * (root_e + root_g)) / bend
        plain = phi / falls.clamp_min(tiny)
        step = most * torch.where((level > tiny) & bent.isfinite(), torch.maximum(plain, bent), plain)
        tau = torch.maximum(tau + step, lowest).clamp_max(FARTHEST)
        past = torch.maximum(past + step, lowest - 1).clamp_max(FARTHEST)
    return -past / most * h / (1 - share + tau * share)
