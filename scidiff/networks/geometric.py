r"""Attention among the atoms of molecules whose output turns with them: an efficient E(n)-equivariant transformer.

Each atom has scalar features h and a few vectors V. Pairs are few numbers: their place in the graph, their distance,
and the components of x_j - x_i along the vectors of either end (which tell angles). From these a small network makes
the attention bias and a signed weight c of each head; then

    h_i <- h_i + sum_j a_ij v_j + sum_j g_ij e_ij,         V_i <- V_i + mix[sum_j c_ij (x_j - x_i), sum_j a_ij V_j, w_i]

and positions that later layers measure move along the vectors. All that is as wide as the pairs is of rank three or
made of few channels, as in Semla (Irwin et al. 2024) and Megalodon (Reidenbach et al. 2025).

A reflection turns the output with the molecule as well if the `parity` of its stereocentres is turned too:
parity * volume is a scalar, and its gradient with respect to the neighbours, w, is a vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scidiff.networks.pairs import BINS, SMALL, AllPairs, Pairs, SomePairs, pair_geometry
from scidiff.networks.transformer import time_features
from scidiff.state import Layout, State

_TIME = 64
ALL = AllPairs()


class Molecules(NamedTuple):
    """What a layer knows of a batch: of B molecules and at most n atoms, each of which looks at K.

    mask [B, n] and pairs [B, n, K] say which there are; pair [B, n, K] are rows of the table [codes, P]; centre
    [B, n, 3], parity [B, n]; others say which K.
    """

    mask: Tensor
    pairs: Tensor
    pair: Tensor
    table: Tensor
    centre: Tensor
    parity: Tensor
    others: Pairs = ALL


class EquivariantTransformer(nn.Module):
    """Vectors of every atom, from positions, a graph and a time.

    Args:
        leaf: the leaf of positions, [N, 3], with the rows of each sample in the order of its atoms.
        atom_classes: number of classes of each column of `condition["atom"]`; class 0 of the first is no atom.
        pair_classes: what a code of `condition["pair"]` is made of, the last varying fastest.
        width: scalar features of an atom, a multiple of `heads`.
        depth: layers.
        heads: of attention.
        channels: vectors of an atom, a multiple of `heads`.
        pair_width: features of a pair.
        facts: numbers told of a sample in `condition["facts"]` [B, facts], 0 for none.
        neighbours: how many atoms each one looks at: itself, those bonded to it and the nearest where the positions
            that come in have them. None: all. The cost of a call then grows as the number of atoms, its weights do not.

    The condition holds "atom" [B, n, columns], "pair" [B, n, n] and "centre" [B, n, 3] int64 and "parity" [B, n]; and
    "root" and "inverse" [B, n, n], which take the leaf to positions and vectors back to the leaf (`root = inverse = 1`
    for positions themselves).
    """

    def __init__(
        self,
        *,
        leaf: str,
        atom_classes: Sequence[int],
        pair_classes: Sequence[int],
        width: int = 192,
        depth: int = 8,
        heads: int = 8,
        channels: int = 16,
        pair_width: int = 64,
        facts: int = 0,
        neighbours: int | None = None,
    ) -> None:
        super().__init__()
        self.leaf, self.width, self.channels, self.neighbours = leaf, width, channels, neighbours
        self.unbonded = math.prod(pair_classes[1:])  # codes below are of no bond
        self.embed_atom = nn.ModuleList(nn.Embedding(count, width) for count in atom_classes)
        self.embed_pair = nn.ModuleList(nn.Embedding(count, pair_width) for count in pair_classes)
        self.condition_time = nn.Sequential(nn.Linear(_TIME + facts, width), nn.SiLU(), nn.Linear(width, width))
        self.modulate = nn.Linear(width, 6 * width)
        self.layers = nn.ModuleList(_Layer(width, heads, channels, pair_width) for _ in range(depth))
        self.head = nn.Linear(width, channels)
        for table in (*self.embed_atom, *self.embed_pair):
            nn.init.normal_(table.weight, std=(len(atom_classes)) ** -0.5)
        for layer in (self.modulate, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Mapping[str, Tensor]) -> State:
        """Vectors [N, 3] of the leaf; see the class for the condition."""
        rows, atom = layout.rows(self.leaf), condition["atom"]
        x = inputs[self.leaf].new_zeros(*atom.shape[:2], 3).index_put((rows.owner, rows.local), inputs[self.leaf])
        with torch.autocast(x.device.type, enabled=False):
            x = condition["root"].to(x.dtype) @ x
        h, v, x = self.features(x, t, condition)
        with torch.autocast(x.device.type, enabled=False):
            out = condition["inverse"].to(v.dtype) @ self.vectors(h, v)
        return {self.leaf: out[rows.owner, rows.local]}

    def features(self, x: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scalars [B, n, width], vectors [B, n, 3, channels] and moved positions of atoms at positions x [B, n, 3].

        Of the condition, "root" and "inverse" are not needed.
        """
        atom, molecules = condition["atom"], self._molecules(condition, x)
        h = torch.stack([table(atom[..., k]) for k, table in enumerate(self.embed_atom)]).sum(0)
        about = time_features(t, _TIME).to(self.head.weight.dtype)
        if "facts" in condition:
            about = torch.cat([about, condition["facts"]], dim=-1)
        modulation = self.modulate(F.silu(self.condition_time(about))).unflatten(-1, (6, self.width))
        v = x.new_zeros(*x.shape, self.channels)
        for layer in self.layers:
            h, v, x = layer(h, v, x, modulation, molecules)
        return h, v, x

    def vectors(self, h: Tensor, v: Tensor) -> Tensor:
        """One vector of each atom, [B, n, 3], from its features."""
        gates = self.head(F.rms_norm(h, (self.width,))).to(v.dtype)
        with torch.autocast(v.device.type, enabled=False):
            return (even(v) @ gates[..., None])[..., 0]

    def _molecules(self, condition: Mapping[str, Tensor], x: Tensor) -> Molecules:
        first, *others = (cast(nn.Embedding, part).weight for part in self.embed_pair)
        table: Tensor = first
        for more in others:
            table = (table[:, None] + more).flatten(0, 1)
        mask = condition["atom"][..., 0] > 0
        pairs, pair = mask[:, :, None] & mask[:, None, :], condition["pair"]
        told = condition["centre"], condition["parity"]
        if self.neighbours is None:
            return Molecules(mask, pairs, pair, table, *told)
        near = SomePairs.nearest(x, pairs, pair >= self.unbonded, self.neighbours)
        return Molecules(mask, near.chosen(pairs), near.chosen(pair), table, *told, near)


class _Layer(nn.Module):
    """One round of attention, of vectors and of feed-forward."""

    def __init__(self, width: int, heads: int, channels: int, pair_width: int, *, ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.pair_static = nn.Linear(pair_width, pair_width)
        self.pair_geometry = nn.Linear(BINS + 2 * channels, pair_width, bias=False)
        self.pair_ends = nn.Linear(width, 2 * pair_width, bias=False)
        self.pair_out = nn.Linear(pair_width, 2 * heads + 1)
        self.attend_in = nn.Linear(width, 3 * width, bias=False)
        self.attend_out = nn.Linear(width, width, bias=False)
        self.message = nn.Linear(pair_width, width, bias=False)
        self.vector_value = nn.Linear(channels, channels, bias=False)
        self.vector_mix = nn.Linear(heads + channels + 1, channels, bias=False)
        self.vector_ends = nn.Linear(channels, 2 * channels, bias=False)
        self.feed_in = nn.Linear(width + channels + 2, ratio * width, bias=False)
        self.feed_out = nn.Linear(ratio * width, width, bias=False)
        self.gate_head = nn.Linear(width, 2 * channels)
        self.offset = nn.Parameter(torch.zeros(6, width))
        for layer in (self.attend_out, self.feed_out, self.gate_head, self.message):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.gate_head.bias)

    def forward(
        self, h: Tensor, v: Tensor, x: Tensor, modulation: Tensor, molecules: Molecules
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, n, width], vectors [B, n, 3, channels] and positions [B, n, 3] after this layer."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (modulation + self.offset).unsqueeze(2).unbind(1)
        with torch.autocast(x.device.type, enabled=False):
            geometry, apart = pair_geometry(x, even(v), molecules.others)
            volume, push = handedness(x, molecules)
        s = F.rms_norm(h, h.shape[-1:]) * (1 + scale_a) + shift_a
        here, there = self.pair_ends(s).chunk(2, dim=-1)
        e = F.embedding(molecules.pair, self.pair_static(molecules.table)) + self.pair_geometry(geometry)
        e = F.silu(e + here[:, :, None] + molecules.others.there(there))
        bias, weight, gate = self.pair_out(e).split([self.heads, self.heads, 1], dim=-1)
        a, attended = self._attend(s, bias, molecules)
        gate = torch.sigmoid(gate) * molecules.pairs[..., None].to(e.dtype)
        message = (gate.transpose(-1, -2) @ e)[..., 0, :] / molecules.mask.shape[-1] ** 0.5
        h = h + (1 + gate_a) * (self.attend_out(attended) + self.message(message))
        with torch.autocast(x.device.type, enabled=False):
            c = weight.to(x.dtype) / (1 + apart[..., None]) * molecules.pairs[..., None]
            parts = self._gathered(c.permute(0, 3, 1, 2), a.to(x.dtype), x, v, molecules.others)
            v = v + torch.cat([parts, push[..., None]], dim=-1) @ self.vector_mix.weight.T.to(v.dtype)
            ends = (even(v) @ self.vector_ends.weight.T.to(v.dtype)).chunk(2, dim=-1)
            lengths = (ends[0] * ends[1]).sum(-2)
        s = F.rms_norm(h, h.shape[-1:]) * (1 + scale_f) + shift_f
        h = h + (1 + gate_f) * self.feed_out(F.silu(self.feed_in(torch.cat([s, lengths.to(s), volume.to(s)], -1))))
        gates = self.gate_head(F.rms_norm(h, h.shape[-1:])).to(x.dtype)
        grow, move = gates.chunk(2, dim=-1)
        v = v * (1 + grow)[..., None, :]
        with torch.autocast(x.device.type, enabled=False):
            x = x + (even(v) @ move[..., None])[..., 0]
        return h, v, x

    def _attend(self, s: Tensor, bias: Tensor, molecules: Molecules) -> tuple[Tensor, Tensor]:
        """Attention [B, heads, n, K] and what it gathers [B, n, width]."""
        q, k, value = self.attend_in(s).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        logits = molecules.others.products(q, k) * q.shape[-1] ** -0.5 + bias.permute(0, 3, 1, 2)
        exact = torch.promote_types(logits.dtype, torch.float32)
        a = torch.softmax(logits.masked_fill(~molecules.pairs[:, None], -1e4), dim=-1, dtype=exact)
        return a, molecules.others.sums(a.to(value.dtype), value).transpose(1, 2).flatten(2)

    def _gathered(self, c: Tensor, a: Tensor, x: Tensor, v: Tensor, others: Pairs) -> Tensor:
        """Vectors towards the others, by the weights c of each head, and theirs: [B, n, 3, heads + channels]."""
        towards = others.sums(c, x[:, None]) - c.sum(-1)[..., None] * x[:, None]  # [B, heads, n, 3]
        value = (even(v) @ self.vector_value.weight.T.to(v.dtype)).unflatten(-1, (self.heads, -1))
        value = value.permute(0, 3, 1, 2, 4).flatten(3)  # [B, heads, n, 3 * channels / heads]
        passed = others.sums(a, value).unflatten(-1, (3, -1)).permute(0, 2, 3, 1, 4).flatten(3)
        return torch.cat([towards.permute(0, 2, 3, 1), passed], dim=-1)


def handedness(x: Tensor, molecules: Molecules) -> tuple[Tensor, Tensor]:
    """parity * volume in [-1, 1] and |parity| of each atom, [B, n, 2]; where its gradient pushes atoms, [B, n, 3]."""
    spread = molecules.centre.flatten(1)[..., None].expand(-1, -1, 3)
    beams = x.gather(1, spread).unflatten(1, (-1, 3)) - x[:, :, None]
    a, b, c = beams.unbind(2)
    parity = molecules.parity.to(x.dtype)[..., None]
    size = SMALL**0.5 + (beams.square().sum(-1) + SMALL).sqrt().prod(-1, keepdim=True)  # the volume of right angles
    faces = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=2)
    volume = parity * (a * faces[:, :, 0]).sum(-1, keepdim=True) / size
    faces = (parity / (1 + size))[:, :, None] * faces
    push = -faces.sum(2)
    return torch.cat([volume, parity.abs()], dim=-1), push.scatter_add(1, spread, faces.flatten(1, 2))


def even(v: Tensor) -> Tensor:
    """Vectors of each atom divided by their root mean square over channels, where it is not small."""
    return v * torch.rsqrt(v.square().sum(-2, keepdim=True).mean(-1, keepdim=True) + 0.1)
