r"""Known parts, put into the clean estimate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.processes.categorical import one_class
from scidiff.processes.manifold import ManifoldProcess, tweedie_point
from scidiff.state import Layout, State


class Inpaint(Denoiser):
    r"""Replaces the clean estimate of known elements by the one that knows them.

        continuous    the value itself
        categorical   probability 1 on the known class
        manifold      exp_{x_t}(sigma_t^2 grad log q(x_t | x_0 = value))

    Two ways to keep known parts, and when to use which:

    * `known=` of the sampling loop writes them into the *state*: before each call x_t is what the process makes of the
      known values at that time, along one noise path. Use it by default, and for masked categorical leaves always: the
      network sees their known classes from the first call.
    * `Inpaint` writes them into the *clean estimate* and leaves the state to the solver, whose own noise then corrupts
      the known part: from a state prepared around the values, a deterministic solver makes the states of `known=`,
      number for number. Use it where the state must not be touched (multistep solvers remember it, adaptive ones
      measure it), within other guidance, and for parts that become known on the way. The finished sample holds the
      values exactly if the solver ends on its clean estimate (at t = 0).

    Both tell the unknown parts of the known ones through x_t alone, so the result is not exactly a sample of the
    posterior; `MMPS` with a mask as its operator comes closer, and steering does in the limit.

    Args:
        denoiser: what is guided.
        values: of each leaf that is partly known, [N, *shape], anything where unknown.
        mask: of the same leaves, bool, broadcastable to [N, *shape]: what is known.
        manifolds: the processes of the leaves that live on a manifold; a leaf not named here is taken for flat.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        values: State,
        mask: State,
        *,
        manifolds: Mapping[str, ManifoldProcess] | None = None,
    ) -> None:
        if values.keys() != mask.keys():
            raise ValueError(f"expected values and mask of the same leaves, got {sorted(values)} and {sorted(mask)}")
        super().__init__()
        self.denoiser, self.values, self.mask = denoiser, dict(values), dict(mask)
        self.manifolds = dict(manifolds or {})

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        outputs = dict(self.denoiser(x_t, t, layout, condition))
        for leaf, value in self.values.items():
            clean, mask = outputs[leaf], self.mask[leaf]
            if not value.is_floating_point():
                known = torch.where(mask, value, 0)  # an unknown element may hold any integer, that of a mask too
                certain, mask = one_class(known, clean.shape[-1], clean.dtype), mask[..., None]
            elif leaf in self.manifolds:
                process = self.manifolds[leaf]
                certain = tweedie_point(process.manifold, x_t[leaf], value, process.variance(t), layout.rows(leaf))
            else:
                certain = value
            outputs[leaf] = torch.where(mask, certain.to(clean.dtype), clean)
        return outputs
