r"""Guidance by the gradient of any differentiable function: a classifier of noisy states, or an energy of clean ones.

By Tweedie's formula, adding g to the score of a Gaussian leaf adds (sigma_t^2 / alpha_t) g to its clean estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.guidance.measurement import gaussian_leaves, pullback, tweedie_shift
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.state import Layout, State


class ClassifierGuidance(Denoiser):
    r"""Guidance by a classifier, or any likelihood, of noisy states (Dhariwal & Nichol 2021).

        clean + scale (sigma_t^2 / alpha_t) grad_{x_t} log p(y | x_t)

    Exact with scale 1 and the true p(y | x_t): the estimate becomes E[x_0 | x_t, y]. Leaves that are not Gaussian are
    left alone.

    Args:
        denoiser: what is guided.
        processes: of every leaf.
        log_likelihood: (x_t, t, layout) -> log p(y | x_t), [B], differentiable by the Gaussian leaves.
        scale: strength.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        log_likelihood: Callable[[State, Tensor, Layout], Tensor],
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.leaves = denoiser, gaussian_leaves(processes)
        self.log_likelihood, self.scale = log_likelihood, scale

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:

        def total(noisy: State) -> Tensor:
            return self.log_likelihood({**x_t, **noisy}, t, layout).sum()

        gradient = torch.func.grad(total)({leaf: x_t[leaf] for leaf in self.leaves})
        shift = tweedie_shift(self.leaves, gradient, t, layout)
        outputs = self.denoiser(x_t, t, layout, condition)
        return outputs | {leaf: outputs[leaf] + self.scale * shift[leaf] for leaf in shift}


class EnergyGuidance(Denoiser):
    r"""Guidance towards low energy of the clean estimate, through the denoiser.

    With m the posterior mean of every leaf, its clean estimate if continuous and the probabilities of its classes if
    categorical, and E an energy of m,

        Gaussian leaf      clean - scale (sigma_t^2 / alpha_t) grad_{x_t} E(m(x_t))
        categorical leaf   p proportional to p exp(-scale dE/dp)

    The first is the score of p(x_t) exp(-scale E(m(x_t))) (Song et al., "Loss-guided diffusion models", 2023, with one
    sample); the second is exact for an energy that is linear in p, a sum over elements, and first-order otherwise
    (Vignac et al., DiGress, 2023, section 5). Leaves on a manifold are left alone.

    Args:
        denoiser: what is guided.
        processes: of every leaf.
        energy: m -> [B], differentiable. Leaf shapes are [N, *shape], with a last axis K for a categorical leaf.
        scale: strength; 1 where exp(-E) is a likelihood.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        energy: Callable[[State], Tensor],
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.energy, self.scale = denoiser, energy, scale
        self.leaves = {leaf: process for leaf, process in processes.items() if isinstance(process, GaussianProcess)}

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        classes = [leaf for leaf, x in x_t.items() if not x.is_floating_point()]

        def denoise(noisy: State) -> tuple[State, State]:
            outputs = self.denoiser({**x_t, **noisy}, t, layout, condition)
            return {leaf: outputs[leaf].exp() if leaf in classes else outputs[leaf] for leaf in x_t}, outputs

        if self.leaves:
            means, pull, outputs = pullback(denoise, {leaf: x_t[leaf] for leaf in self.leaves})
            slope = self._slope(means)
            gradient = pull(slope)
        else:
            means, outputs = denoise({})
            slope, gradient = self._slope(means), {}
        shift = tweedie_shift(self.leaves, gradient, t, layout)
        guided = {leaf: outputs[leaf] - self.scale * shift[leaf] for leaf in shift}
        for leaf in classes:
            guided[leaf] = torch.log_softmax(outputs[leaf] - self.scale * slope[leaf], -1)
        return outputs | guided

    def _slope(self, means: State) -> State:
        """dE/dm of every leaf."""
        return torch.func.grad(lambda state: self.energy(state).sum())(means)
