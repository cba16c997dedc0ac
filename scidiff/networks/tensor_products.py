r"""Tensor-product message passing on molecules: features of every degree l that turn by Wigner's matrices.

    h_i <- gate( W h_i + U sum_j  h_j (x)_{w(e_ij)} Y(x_j - x_i) / sqrt(n) )

as in NequIP (Batzner et al. 2022), on e3nn (Geiger & Smidt 2022): Y are spherical harmonics, and a small network makes
the weights w of every path from the distance and the place of a pair in the graph. It reads and gives what the
attention of `scidiff.networks.geometric` does, hands of stereocentres included, and takes four to five times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from e3nn import o3
from e3nn.nn import Gate
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.geometric import Molecules, handedness
from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_TIME = 32
_REACH, _BINS = 8.0, 16  # angstrom; radial features
_SMALL = 1e-4


class TensorProductNetwork(nn.Module):
    """Vectors of every atom, from positions, a graph and a time; see `EquivariantTransformer` for the condition.

    Args:
        leaf: the leaf of positions, [N, 3], with the rows of each sample in the order of its atoms.
        atom_classes: number of classes of each column of `condition["atom"]`; class 0 of the first is no atom.
        pair_classes: what a code of `condition["pair"]` is made of, the last varying fastest.
        irreps: features of an atom, in e3nn's notation; scalars first.
        harmonics: degree of the spherical harmonics.
        depth: layers.
        pair_width: features of a pair.
    """

    def __init__(
        self,
        *,
        leaf: str,
        atom_classes: Sequence[int],
        pair_classes: Sequence[int],
        irreps: str = "48x0e + 8x0o + 16x1o + 8x1e + 8x2e",
        harmonics: int = 2,
        depth: int = 4,
        pair_width: int = 32,
    ) -> None:
        super().__init__()
        self.leaf = leaf
        hidden = o3.Irreps(irreps)
        self.scalars = hidden.count("0e")
        self.harmonics = o3.SphericalHarmonics(list(range(harmonics + 1)), normalize=True, normalization="component")
        self.embed_atom = nn.ModuleList(nn.Embedding(count, self.scalars) for count in atom_classes)
        self.embed_pair = nn.ModuleList(nn.Embedding(count, pair_width) for count in pair_classes)
        self.condition_time = nn.Sequential(
            nn.Linear(_TIME, self.scalars), nn.SiLU(), nn.Linear(self.scalars, self.scalars)
        )
        self.radial = nn.Linear(_BINS, pair_width)
        first = o3.Irreps(f"{self.scalars + 2}x0e + 1x1o")  # classes and time, volume and whether there is one, push
        inputs = [first, *[hidden] * (depth - 1)]
        self.layers = nn.ModuleList(_Layer(a, hidden, self.harmonics.irreps_out, pair_width) for a in inputs)
        self.head = o3.Linear(hidden, "1x1o")

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Mapping[str, Tensor]) -> State:
        """Vectors [N, 3] of the leaf."""
        rows, atom = layout.rows(self.leaf), condition["atom"]
        x = inputs[self.leaf].new_zeros(*atom.shape[:2], 3).index_put((rows.owner, rows.local), inputs[self.leaf])
        x = condition["root"].to(x.dtype) @ x
        mask = atom[..., 0] > 0
        others = ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        pairs = mask[:, :, None] & mask[:, None, :] & others
        apart = x[:, None] - x[:, :, None]  # [B, n, n, 3], from i to j
        e = self._pairs(apart, condition["pair"])
        y = self.harmonics(apart) * pairs[..., None]
        volume, push = handedness(
            x, Molecules(mask, pairs, condition["pair"], e, condition["centre"], condition["parity"])
        )
        h = torch.stack([table(atom[..., k]) for k, table in enumerate(self.embed_atom)]).sum(0)
        h = h + self.condition_time(time_features(t, _TIME).to(h.dtype))[:, None]
        h = torch.cat([h, volume.to(h.dtype), push.to(h.dtype)], dim=-1)
        for layer in self.layers:
            h = layer(h, y, e)
        out = condition["inverse"].to(x.dtype) @ self.head(h)
        return {self.leaf: out[rows.owner, rows.local]}

    def _pairs(self, apart: Tensor, code: Tensor) -> Tensor:
        """Features of pairs [B, n, n, pair_width]."""
        length = (apart.square().sum(-1) + _SMALL).sqrt()
        centres = torch.linspace(0, _REACH, _BINS, device=apart.device, dtype=apart.dtype)
        first, *others = (cast(nn.Embedding, part).weight for part in self.embed_pair)
        table: Tensor = first
        for more in others:
            table = (table[:, None] + more).flatten(0, 1)
        bins = torch.exp(-((length[..., None] - centres) * (_BINS / _REACH)).square())
        return F.embedding(code, table) + self.radial(bins)


class _Layer(nn.Module):
    """One round of messages."""

    def __init__(self, inputs: o3.Irreps, outputs: o3.Irreps, harmonics: o3.Irreps, pair_width: int) -> None:
        super().__init__()
        gated = o3.Irreps([(mul, ir) for mul, ir in outputs if ir.l > 0])
        scalars = o3.Irreps([(mul, ir) for mul, ir in outputs if ir.l == 0])
        activations = [F.silu if ir.p == 1 else torch.tanh for _, ir in scalars]
        gates = o3.Irreps([(gated.num_irreps, (0, 1))])
        self.gate = Gate(scalars, activations, gates, [torch.sigmoid], gated)
        self.product = _product(inputs, harmonics, self.gate.irreps_in)
        self.weights = nn.Sequential(
            nn.Linear(pair_width, pair_width), nn.SiLU(), nn.Linear(pair_width, self.product.weight_numel)
        )
        self.gather = o3.Linear(self.product.irreps_out, self.gate.irreps_in)
        self.keep = o3.Linear(inputs, self.gate.irreps_in)

    def forward(self, h: Tensor, y: Tensor, e: Tensor) -> Tensor:
        """Features [B, n, irreps] after this layer, of harmonics y [B, n, n, .] and pairs e [B, n, n, .]."""
        n = h.shape[1]
        sent = self.product(h[:, None].expand(-1, n, -1, -1), y, self.weights(e)).sum(2) / n**0.5
        out: Tensor = self.gate(self.keep(h) + self.gather(sent))
        return out


def _product(inputs: o3.Irreps, harmonics: o3.Irreps, wanted: o3.Irreps) -> o3.TensorProduct:
    """Every path from features and harmonics to a wanted irrep, channel by channel."""
    middle: list[tuple[int, o3.Irrep]] = []
    paths = []
    for i, (mul, ir) in enumerate(inputs):
        for j, (_, angular) in enumerate(harmonics):
            for out in ir * angular:
                if out in wanted:
                    paths.append((i, j, len(middle)))
                    middle.append((mul, out))
    irreps, place, _ = o3.Irreps(middle).sort()
    instructions = [(i, j, place[k], "uvu", True) for i, j, k in paths]
    return o3.TensorProduct(inputs, harmonics, irreps, instructions, shared_weights=False, internal_weights=False)
