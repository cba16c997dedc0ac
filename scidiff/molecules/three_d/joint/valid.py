r"""Estimates of classes moved on to molecules: valences exact, one part, neutral, and of the formula that is asked for.

The estimate of a molecule is a product of beliefs about its atoms and pairs. It becomes the certainty of one molecule,
the likeliest once Gumbel noise is added to the log-probabilities (perturb-and-MAP: Papandreou & Yuille 2011). Without
constraints that is a draw from the product. The noise of an element is the same at all times, so a draw changes only
as beliefs do; and it is used once, for classes stay what they are when they are unmasked.

What is unmasked so far and is part of a molecule at one time has the rest of it at the next: projected from t = 1 on,
a reverse pass never runs into a dead end. While beliefs are vague atoms are drawn first and then their bonds, which is
faster (`program.in_turn`). Estimates of which no molecule can be made are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scidiff.constraints.base import Constraint, Metric
from scidiff.molecules.three_d.joint.program import Composition, Graph, faults, in_turn, likeliest
from scidiff.noise import Noise
from scidiff.processes.categorical import LOG_ZERO, one_class
from scidiff.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class ValidMolecules(Constraint):
    """States whose leaves atom and bond are molecules (see `program`), with rows as of `batches.layout_of`.

    Attributes:
        noise: of the draw; None: the likeliest molecule.
        composition: how many atoms of each atomic number; None: any.
        vague: the share of classes that must be certain for atoms and bonds to be drawn at once.
    """

    noise: Noise | None = field(default=None, repr=False)
    composition: Composition | None = None
    vague: float = 0.0

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        """Log-probabilities of one molecule each, [N, K] and [P, 4]; the metric does not matter."""
        found = {leaf: clean[leaf].clone() for leaf in ("atom", "bond")}
        atoms, bonds = (self._scores(clean, layout, leaf) for leaf in ("atom", "bond"))
        numbers = range(layout.batch) if self.noise is None else self.noise.index.tolist()
        graphs: dict[int, Graph | None] = {}  # a tile that is filled up holds a sample more than once
        for k, number in enumerate(numbers):
            own = {leaf: layout.rows(leaf).owner == k for leaf in found}
            if number not in graphs:
                graphs[number] = self._graph(atoms[_host(own["atom"])], bonds[_host(own["bond"])])
            for leaf, classes in zip(found, graphs[number] or (), strict=False):
                certain = torch.as_tensor(classes, device=own[leaf].device)
                found[leaf][own[leaf]] = one_class(certain, clean[leaf].shape[-1], clean[leaf].dtype)
        return clean | found

    def _graph(self, atom: np.ndarray, bond: np.ndarray) -> Graph | None:
        certain = np.concatenate([np.isfinite(one).sum(1) == 1 for one in (atom, bond)]).mean()
        choose = likeliest if certain >= self.vague else in_turn
        return choose(atom, bond, self.composition)

    def violation(self, sample: State, layout: Layout) -> Tensor:
        """`program.faults` of each sample; those with an element still masked have no end of them."""
        amounts = []
        for k in range(layout.batch):
            atom, bond = (_host(sample[leaf][layout.rows(leaf).owner == k]) for leaf in ("atom", "bond"))
            amounts.append(float(faults(atom, bond, self.composition)))
        return torch.tensor(amounts, dtype=torch.float64, device=sample["atom"].device)

    def _scores(self, clean: State, layout: Layout, leaf: str) -> np.ndarray:
        scores = clean[leaf].double()
        if self.noise is not None:
            scores = scores + self.noise.at(leaf, 0, layout.rows(leaf)).gumbel(shape=(scores.shape[-1],))
        return _host(torch.where(clean[leaf] > LOG_ZERO / 2, scores, -torch.inf))


def _host(x: Tensor) -> np.ndarray:
    found: np.ndarray = x.cpu().numpy()
    return found
