r"""Positions, classes of atoms and classes of bonds read together: the equivariant transformer with three heads.

The body is told the classes as they are at time t, masks among them, and nothing else of the graph. From the scalars
h_i, vectors V_i and moved positions x_i of its atoms

    positions    the vectors of the body
    atoms        f(h_i)
    bonds        g(e_ij) + g(e_ji),   e_ij = silu(bond_ij + geometry of x_i, x_j, V_i, V_j + a(h_i) + b(h_i) * b(h_j))

so that vectors turn with the molecule, logits do not, and those of a pair are the same from either end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.geometric import ALL, EquivariantTransformer, even
from scidiff.networks.pairs import BINS, pair_geometry
from scidiff.state import Layout, State


class JointTransformer(nn.Module):
    """Outputs of the leaves pos [N, 3], atom [N] and bond [P], for samples of one number of atoms n.

    The rows of `bond` are the n (n - 1) / 2 pairs i < j of a sample, row by row of the upper triangle.

    Args:
        atom_classes: K of atoms, the mask not counted.
        bond_classes: K of bonds, the mask not counted; class 0 is no bond.
        scale: length of a unit of `pos`, in angstrom.
        width, depth, heads, channels, pair_width: of the body.
    """

    def __init__(
        self,
        *,
        atom_classes: int,
        bond_classes: int,
        scale: float,
        width: int = 160,
        depth: int = 6,
        heads: int = 8,
        channels: int = 16,
        pair_width: int = 32,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.body = EquivariantTransformer(
            leaf="pos",
            atom_classes=(atom_classes + 2,),  # no atom, the classes and the mask
            pair_classes=(bond_classes + 1,),
            width=width,
            depth=depth,
            heads=heads,
            channels=channels,
            pair_width=pair_width,
        )
        self.bond_embed = nn.Embedding(bond_classes + 1, pair_width)
        self.bond_geometry = nn.Linear(BINS + 2 * channels, pair_width, bias=False)
        self.bond_ends = nn.Linear(width, 2 * pair_width)
        self.bond_head = nn.Linear(pair_width, bond_classes)
        self.atom_hidden = nn.Linear(width, width)
        self.atom_head = nn.Linear(width, atom_classes)
        for layer in (self.bond_head, self.atom_head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """Vectors [N, 3], logits [N, K] and [P, K]."""
        x = self.scale * inputs["pos"].unflatten(0, (layout.batch, -1))
        atom = inputs["atom"].reshape(x.shape[:2])
        i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
        pair = square(inputs["bond"].reshape(layout.batch, -1))
        h, v, moved = self.body.features(x, t, _told(atom, pair))
        s = F.rms_norm(h, h.shape[-1:])
        bonds = self._bonds(s, v, moved, pair)
        return {
            "pos": self.body.vectors(h, v).flatten(0, 1),
            "atom": self.atom_head(F.silu(self.atom_hidden(s))).flatten(0, 1),
            "bond": (bonds + bonds.transpose(1, 2))[:, i, j].flatten(0, 1),
        }

    def _bonds(self, s: Tensor, v: Tensor, x: Tensor, pair: Tensor) -> Tensor:
        """Half of the logits of each pair, [B, n, n, K]."""
        with torch.autocast(x.device.type, enabled=False):
            geometry, _ = pair_geometry(x, even(v), ALL)
        here, both = self.bond_ends(s).chunk(2, dim=-1)
        e = self.bond_embed(pair) + self.bond_geometry(geometry) + here[:, :, None] + both[:, :, None] * both[:, None]
        return self.bond_head(F.silu(e))


def square(upper: Tensor) -> Tensor:
    """Values of the pairs i < j [B, n (n - 1) / 2] as symmetric matrices [B, n, n] with 0 on the diagonal."""
    n = round((1 + (1 + 8 * upper.shape[1]) ** 0.5) / 2)
    i, j = torch.triu_indices(n, n, 1, device=upper.device)
    found = upper.new_zeros(len(upper), n, n)
    found[:, i, j] = upper
    return found + found.transpose(1, 2)


def _told(atom: Tensor, pair: Tensor) -> dict[str, Tensor]:
    """The condition of the body: classes, and no stereochemistry."""
    nothing = torch.zeros_like(atom)
    return {
        "atom": atom[..., None] + 1,
        "pair": pair,
        "centre": nothing[..., None].expand(-1, -1, 3),
        "parity": nothing.float(),
    }
