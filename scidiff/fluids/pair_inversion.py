r"""Coefficient and solution from values of either at some points: by what is usual of both, and through the equation.

    y_a = R_a a + noise,    y_u = R_u u + noise,    u = the solver from a,    (a, u) ~ the model's prior

`alike` tells the model the values and leaves it at that: pairs meet the values exactly, the equation about. `through`
draws coefficients, and their solutions are the solver's, so that the equation holds; where values of the solution are
known, each clean estimate is moved towards them through the solver and its derivative (`scidiff.guidance.GaussNewton`
says how), in the metric of what the noisy pair leaves open of a Gaussian one, from where the joint covariance alone
would have it. For a linear equation and a Gaussian prior that is the posterior. Draws whose misfit is more than one
from the posterior may have are moved on within the coefficient's bounds (`scidiff.fluids.bounded`): the derivative
through a number that is beyond its bound is 0, so that the steps above leave phases as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from scidiff.denoiser import Denoiser
from scidiff.fluids import ensemble
from scidiff.fluids.bounded import Bounded
from scidiff.fluids.constraints import Measured
from scidiff.fluids.pairs import LEAF, PairConfig, PairModel
from scidiff.guidance import Measurement
from scidiff.guidance.gauss_newton import Misfit
from scidiff.guidance.measurement import gaussian_leaves, pullback
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.state import Layout, State

TILE = 3
CALLS = 12
ITERATIONS = 12  # of the conjugate gradients in a step
LEVELS = (0.03, 12.0)  # sigma / alpha between which the calls lie
FINISHING = (0.2, 0.4, 0.8, 0.8, 1.6, 3.2, 6.4)  # share of what may change that does, until a draw's misfit holds
FIRM = 0.01  # what may change of a coefficient where its neighbours are all on the same bound, relative
LEVEL = 0.999  # of the certificate's test


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """Values of coefficient and solution, float64.

    Attributes:
        rows: of each of the two, what was read, as inner products: [M, N, N]; M may be 0 of one.
        values: of each, [M].
        noise: standard deviation of the values of each, > 0.
    """

    rows: tuple[Tensor, Tensor]
    values: tuple[Tensor, Tensor]
    noise: tuple[float, float]

    @classmethod
    def at(cls, places: tuple[Tensor, Tensor], truth: Tensor, noise: tuple[float, float]) -> Given:
        """The values of a pair [2, N, N] at grid points, by their places in the flattened fields."""
        one = torch.eye(truth[0].numel(), dtype=torch.float64)
        rows = tuple(one[at].reshape(-1, *truth.shape[1:]) for at in places)
        values = tuple(part.double().flatten()[at] for part, at in zip(truth, places, strict=True))
        return cls(rows=(rows[0], rows[1]), values=(values[0], values[1]), noise=noise)

    def facts(self, model: PairModel) -> Measured:
        """That the model's pairs have these values."""
        mean, rows, values = model.mean.double(), [], []
        for channel, (read, known) in enumerate(zip(self.rows, self.values, strict=True)):
            lifted = torch.zeros(len(read), *mean.shape, dtype=torch.float64)
            lifted[:, channel] = read
            rows.append(lifted)
            values.append((known - read.flatten(1) @ mean[channel].flatten()) / model.config.scale[channel])
        return Measured(leaf=LEAF, rows=torch.cat(rows), values=torch.cat(values))

    def read(self, coefficient: Tensor, solution: Tensor) -> Tensor:
        """What would be read of pairs [B, N, N], in units of the noise: [B, M]."""
        parts = zip(self.rows, (coefficient, solution), self.noise, strict=True)
        return torch.cat([field.flatten(1) @ rows.to(field).flatten(1).T / by for rows, field, by in parts], 1)

    def known(self) -> Tensor:
        """What was read, in units of the noise: [M]."""
        return torch.cat([values / by for values, by in zip(self.values, self.noise, strict=True)])

    def misfit(self, pairs: Tensor) -> Tensor:
        """Sum of squares of what is off in pairs [B, 2, N, N], in units of the noise: [B]."""
        return (self.read(*pairs.double().unbind(1)) - self.known().to(pairs.device)).square().sum(1)

    def bound(self) -> float:
        """What the misfit of a draw from the posterior stays below with probability `LEVEL` (chi-square)."""
        return float(chi2.ppf(LEVEL, len(self.known())))


def alike(model: PairModel, given: Given, *, samples: int, seed: int = 0, calls: int = ensemble.CALLS) -> Tensor:
    """Pairs that meet the values exactly, without the equation: float64 [samples, 2, N, N]."""
    return model.fields(ensemble.drawn(model, given.facts(model), samples=samples, seed=seed, calls=calls))


def solved(model: PairModel, coefficient: Tensor) -> Tensor:
    """Coefficients [B, N, N] within their bounds, and their solutions: float64 [B, 2, N, N]."""
    within = coefficient.double().clamp(*model.config.ties.bounds)
    return torch.stack([within, model.config.ties.solve(within)], 1)


def through(
    model: PairModel,
    given: Given,
    *,
    samples: int,
    seed: int = 0,
    calls: int = CALLS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Coefficients and the solutions that they have by the solver: float64 [samples, 2, N, N].

    Args:
        model: the weights.
        given: the values.
        samples: how many.
        seed: of the run.
        calls: of the network for each.
        progress: called with how many are done, of how many.
    """
    if not len(given.values[1]):
        return solved(model, alike(model, given, samples=samples, seed=seed, calls=calls)[:, 0])
    parts, rule, told = [], ensemble.plan(model, calls, levels=LEVELS), Told(model, given)
    for first in range(0, samples, TILE):
        noise = Noise(seed=seed, index=first + torch.arange(TILE, device=model.mean.device))
        layout = Layout.dense(TILE, {LEAF: tuple(model.mean.shape)}, device=model.mean.device)
        found = sample(told, model.processes, {LEAF: rule}, layout, noise).state[LEAF]
        parts.append(_finished(told, found))
        if progress is not None:
            progress(min(first + TILE, samples), samples)
    return torch.cat(parts)[:samples]


class Told(Denoiser):
    """The denoiser of a model, told values through the solver.

    Args:
        model: the weights.
        given: the values.
    """

    def __init__(self, model: PairModel, given: Given) -> None:
        super().__init__()
        self.model, self.given, self.facts = model, given, given.facts(model)
        self.measurement = Measurement(operator=self._read, value=given.known().to(model.mean.device), variance=1.0)

    def _read(self, state: State) -> Tensor:
        """The values that pairs lead to, in units of the noise: infinity where the solver fails."""
        coefficient = self.model.fields(state[LEAF])[:, 0]
        try:
            return self.given.read(coefficient, self.model.config.ties.solve(coefficient).to(coefficient))
        except FloatingPointError:
            return coefficient.new_full((len(coefficient), len(self.given.known())), torch.inf)

    def search(self, centre: Tensor, level: Tensor) -> Misfit:
        """What is minimised about pairs [B, 2, N, N] that were seen in noise of a variance `level`."""
        root = self.model.covariance.posterior(level).root
        return Misfit(leaf=LEAF, measurement=self.measurement, centre=centre, root=root)

    def linearised(self, coefficient: Tensor) -> tuple[Tensor, Tensor]:
        """J [B, M, N N] and y - A(a) + J a about coefficients a [B, N, N] within their bounds: A gives what is read.

        On a bound the derivative is the one from within.
        """

        def read(a: Tensor) -> tuple[Tensor, State]:
            return self.given.read(a, self.model.config.ties.solve(a)), {}

        seen, transpose, _ = pullback(read, coefficient)
        one = torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device)
        rows = torch.stack([transpose(unit.expand_as(seen)) for unit in one], 1).flatten(2)
        off = self.given.known().to(seen) - seen
        return rows, off + (rows @ coefficient.flatten(1)[..., None])[..., 0]

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        """All samples are at one time, as in the loop."""
        torch._assert_async((t == t[0]).all(), "expected one time for all samples")
        outputs = self.model.denoiser(x_t, t, layout, condition)
        alpha, sigma = gaussian_leaves(self.model.processes)[LEAF].schedule(t[0])
        level = (sigma / alpha).square()
        search = self.search(outputs[LEAF], level)
        nothing, guess = torch.zeros_like(search.centre), self._guess(search.centre, level)
        better = search.value(guess) < search.value(nothing)
        u = search.step(torch.where(better[:, None, None, None], guess, nothing), iterations=ITERATIONS)
        return outputs | {LEAF: search.at(u)}

    def _guess(self, centre: Tensor, level: Tensor) -> Tensor:
        """u of the likeliest pairs by the joint covariance, without the solver: [B, 2, N, N]."""
        left, rows = self.model.covariance.posterior(level), self.facts.rows.to(centre.device)
        reach = left.root(rows)
        off = self.facts.values.to(centre.device) - torch.einsum("bcyx,mcyx->bm", centre.double(), rows)
        sizes = zip(self.given.values, self.given.noise, self.model.config.scale, strict=True)
        noise = torch.cat([torch.full_like(values, (by / scale) ** 2) for values, by, scale in sizes])
        gram = reach.flatten(1) @ reach.flatten(1).T + torch.diag(noise.to(centre.device))
        return torch.einsum("bm,mcyx->bcyx", torch.linalg.solve(gram, off.T).T, reach).to(centre)


def _finished(told: Told, x: Tensor) -> Tensor:
    """Pairs of draws [B, 2, N, N], of which those beyond the bound of the misfit are moved on."""
    model, given = told.model, told.given
    start = solved(model, model.fields(x.double())[:, 0])
    pairs, loose = start.clone(), _looseness(model.config, start[:, 0])
    for level in FINISHING:
        beyond = given.misfit(pairs) > given.bound()
        if not bool(beyond.any()):
            break
        rows, values = told.linearised(pairs[beyond, 0])
        centre, variance = start[beyond, 0].flatten(1), level**2 * loose[beyond].flatten(1)
        bounds = model.config.ties.bounds
        search = Bounded(centre=centre, variance=variance, operator=rows, values=values, bounds=bounds)
        pairs[beyond] = solved(model, search.nearest().reshape(-1, *pairs.shape[2:]))
    return pairs


def _looseness(config: PairConfig, coefficient: Tensor) -> Tensor:
    """The variance of what may change of coefficients [B, N, N], if all may: [B, N, N].

    Of a number between bounds whose mean is m, (m - low) (high - m) at most: it has that much if it is on either bound,
    as that of two phases is. Here the mean is over the neighbours, so that the phases' edges move first.
    """
    low, high = config.ties.bounds
    mean = avg_pool2d(pad(coefficient[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    most = config.scale[0] ** 2
    return ((mean - low) * (high - mean)).clamp(FIRM * most, most)
