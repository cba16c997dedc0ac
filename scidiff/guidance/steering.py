r"""Steering by particles: Feynman-Kac steering (Singhal et al. 2025), twisted diffusion sampling (Wu et al. 2023).

Samples are drawn from p(x_0) exp(U(x_0)) / Z, with p(x_0) the law of the sampler as it stands (guided or not) and U any
function, a black box too. A population of P particles is sampled together; at call k each is weighed by

    w_k = exp(B_k + U_k(clean_k))

and where the weights have become too unequal, the population is drawn anew in proportion to them: promising particles
are continued more than once, hopeless ones not at all. U_k is U of what the clean estimate looks like, a twisting
function in the sense of Wu et al.; the weights telescope, so whatever it says on the way, the end is exact: the
weighted particles follow the target as P grows, and the mean weight estimates Z without bias at any P.

What is passed on between calls is B_k, the log-weight *without* the present potential:

    not resampled   B_{k+1} = B_k
    resampled       B_{k+1} = log mean_i w_k,i - U_k(clean_k of the ancestor)

so that nothing else needs to be remembered. Proposals that are guided on purpose add log p / q of the step (`Twisted`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.state import Rows, State


def always(k: int) -> float:
    """The tempering that takes every potential as it is."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Resamples populations of particles by a potential of their clean estimates.

    Samples whose index lies in [g P, (g + 1) P) are population g: a batch must hold whole populations, in any order.
    What becomes of a population does not depend on the rest of the batch. Resampled particles part again through the
    noise of a stochastic solver only. Ragged samples of one population must be of one size.

    Attributes:
        potential: U, from a finished sample to [B] floats; -inf rules a sample out, and so do NaN and +inf. Before the
            end it is asked about guesses: the clean estimate of a continuous leaf, the likeliest classes of a
            categorical one. Row b depends on sample b alone.
        particles: P, at least 2.
        threshold: resample where the effective sample size is below this fraction of P; in (0, 1].
        tempering: U_k = tempering(k) U. 0 leaves call k out, and the potential is not asked then: for expensive
            potentials, and for early calls whose guesses say nothing. The end is not tempered.
        correction: of guided proposals, `Twisted.correction(layout)`: p is then the law of the plain sampler. Without
            it p is the law of the sampler as it stands, guidance included.
    """

    potential: Callable[[State], Tensor]
    particles: int
    threshold: float = 0.5
    tempering: Callable[[int], float] = always
    correction: Callable[[int, State, Tensor, Noise], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise ValueError(f"expected at least 2 particles, got {self.particles}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"expected a threshold in (0, 1], got {self.threshold}")

    def resample(self, k: int, x: State, clean: State, log_weight: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw the populations anew where their weights are too unequal.

        Args:
            k: number of the call.
            x: the state at call k.
            clean: its clean estimates.
            log_weight: B_k, [B] float64, 0 at the first call.
            noise: the run's.

        Returns:
            ancestors: [B] int64, the place in the batch whose history each place continues.
            log_weight: B_{k+1}, [B].
        """
        ancestors, log_weight = self._select(k, x, clean, log_weight, noise)
        if self.correction is not None:
            log_weight = log_weight + self.correction(k, clean, ancestors, noise)
        return ancestors, log_weight

    def final(self, x: State, log_weight: Tensor) -> Tensor:
        """The log-weights of finished samples x: [B] float64, given B_n as the last `resample` returned it."""
        return log_weight + self._potential(x)

    def log_z(self, log_weight: Tensor, index: Tensor) -> Tensor:
        """Estimate of log Z by each population, [populations], from final log-weights and sample indices [B].

        Z is estimated without bias, its logarithm with one that falls as 1 / P; -inf if all particles were ruled out.
        """
        return log_mean_exp(log_weight[self.populations(index)])

    def populations(self, index: Tensor) -> Tensor:
        """The places in the batch of each population's particles, by ascending index: [populations, P]."""
        if len(index) % self.particles:
            raise ValueError(f"expected whole populations of {self.particles} particles, got {len(index)} samples")
        return index.argsort().reshape(-1, self.particles)

    def _select(self, k: int, x: State, clean: State, log_weight: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Ancestors and log-weights without the correction of the step ahead."""
        factor = self.tempering(k)
        if factor == 0:
            return torch.arange(len(log_weight), device=log_weight.device), log_weight
        places = self.populations(noise.index)
        potential = factor * self._potential(guess(x, clean))[places]
        base = log_weight[places]
        total = base + potential
        size = effective_sample_size(total)
        # A population without any weight is kept as it is: later potentials may see hope, and the end reports it.
        collapsed = ((size < self.threshold * self.particles) & (size > 0))[:, None]

        same = torch.arange(self.particles, device=places.device).expand_as(places)
        chosen = torch.where(collapsed, systematic(total, self._offset(k, noise)[places[:, 0]]), same)
        base = torch.where(collapsed, log_mean_exp(total)[:, None] - potential.gather(1, chosen), base)
        return _put(places, places.gather(1, chosen)), _put(places, base)

    def _potential(self, state: State) -> Tensor:
        value = self.potential(state).double()
        return torch.where(value < math.inf, value, -math.inf)

    def _offset(self, k: int, noise: Noise) -> Tensor:
        """One uniform number a sample, [B]."""
        here = torch.arange(len(noise.index), device=noise.index.device)
        rows = Rows(batch=len(here), shape=(), owner=here, local=torch.zeros_like(here), single=True)
        return noise.at("steering", k, rows).uniform()


def guess(x: State, clean: State) -> State:
    """What a finished sample may look like: clean estimates of continuous leaves, likeliest classes of the others.

    A guided estimate that comes with its plain one ("leaf.plain") would flatter itself: the plain one counts.
    """
    plain = {leaf: clean.get(f"{leaf}.plain", clean[leaf]) for leaf in x}
    return {leaf: plain[leaf] if value.is_floating_point() else plain[leaf].argmax(-1) for leaf, value in x.items()}


def systematic(log_weight: Tensor, offset: Tensor) -> Tensor:
    """Systematic resampling (Carpenter et al. 1999): P places drawn in proportion to the weights.

    The number of times that i is drawn is P w_i / sum(w) on average, and never off by one or more.

    Args:
        log_weight: [populations, P] float64.
        offset: [populations], uniform in (0, 1).

    Returns:
        [populations, P] int64, ascending; a particle of weight 0 is drawn only where all have weight 0.
    """
    dead = log_weight.amax(-1, keepdim=True) == -math.inf
    weight = torch.softmax(torch.where(dead, 0.0, log_weight), -1)
    count = log_weight.shape[-1]
    positions = (torch.arange(count, device=weight.device) + offset[:, None]) / count
    chosen = torch.searchsorted(weight.cumsum(-1), positions.to(weight.dtype), right=True)
    last = count - 1 - (weight > 0).flip(-1).to(torch.uint8).argmax(-1, keepdim=True)
    return torch.minimum(chosen, last)


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over the last axis, in [1, P]; 0 where all weights are 0."""
    dead = log_weight.amax(-1) == -math.inf
    finite = torch.where(dead[..., None], 0.0, log_weight)
    return torch.where(dead, 0.0, torch.exp(2 * finite.logsumexp(-1) - (2 * finite).logsumexp(-1)))


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """log of the mean weight over the last axis; -inf where all weights are 0."""
    return log_weight.logsumexp(-1) - math.log(log_weight.shape[-1])


def _put(places: Tensor, values: Tensor) -> Tensor:
    """Values by population, [populations, P], back at their places in the batch: [B]."""
    return torch.empty_like(values).reshape(-1).scatter(0, places.reshape(-1), values.reshape(-1))
