r"""Numbers of a whole molecule that stay as they are when it turns, read from its elements and positions.

The body is the equivariant transformer, told nothing but elements. From the scalars h_i and the vectors of its atoms

    sums      sum_i f(h_i)                              what grows with the molecule
    pooled    sum_i softmax_i(a(h_i)) f(h_i)            what a part of it decides, as an orbital does
    norms     | sum_i q(h_i) (x_i - mean x) + u_i |     the length of a dipole of charges q and local dipoles u
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.geometric import EquivariantTransformer


class MoleculeReader(nn.Module):
    """Numbers of molecules from elements and positions, invariant to turns, reflections, shifts and permutations.

    Args:
        classes: of atoms; class 0, which is no atom, is not used.
        sums, pooled: how many numbers of these two kinds; one norm comes last.
        width, depth, heads, channels, pair_width: of the body.
    """

    def __init__(
        self,
        *,
        classes: int,
        sums: int,
        pooled: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        channels: int = 8,
        pair_width: int = 24,
    ) -> None:
        super().__init__()
        self.sums, self.pooled = sums, pooled
        self.body = EquivariantTransformer(
            leaf="pos",
            atom_classes=(classes,),
            pair_classes=(1,),
            width=width,
            depth=depth,
            heads=heads,
            channels=channels,
            pair_width=pair_width,
        )
        self.read_hidden = nn.Linear(width, width)
        self.read_head = nn.Linear(width, sums + 2 * pooled + 1)
        nn.init.zeros_(self.read_head.bias)

    def forward(self, position: Tensor, atom: Tensor) -> Tensor:
        """Numbers [B, sums + pooled + 1] of molecules of n atoms: positions [B, n, 3] in angstrom, classes [B, n]."""
        x = position - position.mean(1, keepdim=True)
        h, v, _ = self.body.features(x, x.new_zeros(len(x)), _untold(atom))
        parts = self.read_head(F.silu(self.read_hidden(F.rms_norm(h, h.shape[-1:])))).to(x.dtype)
        sums, share, pooled, charge = parts.split([self.sums, self.pooled, self.pooled, 1], dim=-1)
        dipole = (charge * x + self.body.vectors(h, v)).sum(1)
        length = (dipole.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        return torch.cat([sums.sum(1), (share.softmax(1) * pooled).sum(1), length], dim=-1)


def _untold(atom: Tensor) -> dict[str, Tensor]:
    """The condition of a body that knows elements alone."""
    nothing = torch.zeros_like(atom)
    return {
        "atom": atom[..., None],
        "pair": nothing[:, :, None].expand(-1, -1, atom.shape[1]),
        "centre": nothing[..., None].expand(-1, -1, 3),
        "parity": nothing.float(),
    }
