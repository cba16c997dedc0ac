r"""Steering towards properties: draws tilted by what each fragment adds to them, with the weights that make them exact.

Beside a model's weights is what token k adds to each property, s_k (`scidiff.molecules.scores`). With
S(x) = sum_l s(x^l) the sampler draws from about p(x) exp(lambda . S(x)) at each length, inside the grammar and what is
enforced, and `scidiff.molecules.conditioned` keeps the weight W = p / q of every draw, exact for any lambda and any s:
a poor s costs draws, never the weights.

lambda comes from a pilot, by the cross-entropy method (Rubinstein & Kroese 2004): of all exponential tilts the nearest
to the model given the conditions has the same mean of S. Each round draws a tile, takes the draws that hold (or, while
there are few, the tenth that come nearest), weighs them, and makes a Newton step

    lambda += Cov_lambda(S)^{-1} (mean_elite(S) - mean_lambda(S)) a,    a = max(0, 1 - d / (n |difference|^2))

where a (James & Stein 1961) forgets differences that are noise of n draws in d dimensions. It ends as soon as a
quarter of a tile holds: a further tilt would bring little and make molecules alike. The pilot stops where a further
tile would exceed the draws it may spend.

Every tilted draw that holds is delivered, with its weight. By weight they follow the model given the conditions;
unweighted, the tilt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scidiff.molecules.language import And, Expression
from scidiff.molecules.oracle import Oracle

if TYPE_CHECKING:
    from scidiff.molecules.generator import Generator

ROUNDS = 6
_ELITE = 0.1  # share of a tile that a round learns from, at least
_PLENTY = 0.25  # of a tile that holds
_COST = 1.6  # of a tilted draw, in plain ones: a tilt that brings less is left alone
_CLIPPED = 0.05  # share of the elite whose weights are clipped
_ROOM = 1e-2  # added to the variances of scores, in units of the model's
_TILE = 256  # draws of a tile
MOST = _TILE * (ROUNDS + 1)  # draws of the longest pilot
_PILOT = 0x9E3779B97F4A7C15  # takes the pilot's seed away from the run's


@dataclass(frozen=True, kw_only=True)
class Steered:
    """A generator and how it came to be.

    Attributes:
        source: draws the molecules.
        record: what the pilot found, as plain values: `used`, `why`, `base_rate`, `pilot_draws`, and where it is used
            `rounds`, `rate` (share of tilted draws that hold), and `pays_from`.
        calls, oracle_calls: what it spent.
    """

    source: Generator
    record: dict[str, Any]
    calls: int
    oracle_calls: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """A tile of the pilot.

    Attributes:
        scores: S of each draw, [B, d].
        log_weight: log W, [B].
        miss: how far each is from meeting the conditions, in units of the first tile's spread; 0 if it does, [B].
    """

    scores: Tensor
    log_weight: Tensor
    miss: Tensor

    @property
    def holds(self) -> Tensor:
        """Which draws meet the conditions."""
        return self.miss == 0


def scores(generator: Generator) -> Tensor | None:
    """What each token adds to each scored property: float64 [K, d]; None for a model without scores."""
    held = generator.model.scores
    return None if held is None else held.table


class _Spent(Exception):
    """The pilot has no draws left for a further tile."""


class _Pilot:
    """Draws tiles and judges them.

    Args:
        generator: not tilted.
        terms: what must hold.
        table: [K, d].
        seed, steps: of the run.
        most: draws that it may spend.
        progress: told of network calls and draws after every tile.
    """

    def __init__(
        self,
        generator: Generator,
        terms: Sequence[Expression],
        table: Tensor,
        *,
        seed: int,
        steps: int | None,
        most: int,
        progress: Callable[[int, int], None],
    ):
        self.generator, self.table, self.seed, self.steps = generator, table, seed, steps
        self.most, self.progress = most, progress
        self.terms = tuple(part for term in terms for part in (term.of if isinstance(term, And) else (term,)))
        self.oracle = Oracle(self.terms)
        self.unit: Tensor | None = None
        self.calls = self.oracle_calls = 0

    def tile(self, generator: Generator, number: int, *, seed: int, steps: int | None = None) -> Round:
        """One tile of a generator, tilted or not; _Spent if it would exceed the draws allowed."""
        if self.oracle_calls + _TILE > self.most:
            raise _Spent
        drawn = generator.tile(number, seed=seed, steps=self.steps if steps is None else steps)
        self.calls += sum(one.calls for one in drawn)
        self.oracle_calls += len(drawn)
        self.progress(self.calls, self.oracle_calls)
        misses = []
        for one in drawn:
            found = self.oracle.certify(one.smiles)
            misses.append([math.inf if found.problem else found.violations[t.text] for t in self.terms])
        miss = torch.tensor(misses, dtype=torch.float64).clamp_max(1e6)
        if self.unit is None:
            spread = miss.std(0)
            self.unit = torch.where(spread > 0, spread, 1.0)
        return Round(
            scores=torch.stack([self.table[list(one.classes)].sum(0) for one in drawn]),
            log_weight=torch.tensor([one.log_weight for one in drawn], dtype=torch.float64)
            + math.log(generator.feasible),
            miss=(miss / self.unit).sum(1),
        )


def steer(
    generator: Generator,
    terms: Sequence[Expression],
    *,
    seed: int,
    steps: int | None,
    most: int,
    progress: Callable[[int, int], None] = lambda calls, draws: None,
) -> Steered:
    """Tilt a generator towards an expression.

    Args:
        generator: with what is enforced.
        terms: what must hold together.
        seed, steps: of the run to come; the generator found is a function of them, the terms and `most`.
        most: draws that the pilot may spend.
        progress: told of the pilot's network calls and draws after every tile.

    Returns:
        A tilted generator whose draws carry weights; the one given where no tilt is found.
    """
    table = scores(generator)
    if table is None:
        return _unsteered(generator, "this model has no scores of fragments", None, None)
    table = table / table.std(0)
    pilot = _Pilot(generator, terms, table, seed=seed, steps=steps, most=most, progress=progress)
    rate: float | None = None
    try:
        last = pilot.tile(generator, 0, seed=seed)
        rate = float(last.holds.double().mean())
        exponent = torch.zeros(table.shape[1], dtype=torch.float64)
        for rounds in range(1, ROUNDS + 1):
            exponent = exponent + newton(last)
            found = generator.but(tilt=(table @ exponent).to(generator.device), thin=False)
            last = pilot.tile(found, rounds, seed=(seed + _PILOT) % 2**64)
            if float(last.holds.double().mean()) >= _PLENTY:
                break
    except _Spent:
        return _unsteered(generator, f"the pilot may spend {most:,} draws, too few to find a tilt", pilot, rate)
    return _judged(pilot, found, last, rounds, rate)


def _judged(pilot: _Pilot, found: Generator, last: Round, rounds: int, rate: float) -> Steered:
    """The tilt, if the last round shows that it pays."""
    tilted = float(last.holds.double().mean())
    if not tilted:
        return _unsteered(pilot.generator, "the pilot found none that holds", pilot, rate)
    share = max(rate, float((last.log_weight.exp() * last.holds).mean()))
    if tilted < _COST * share:
        return _unsteered(pilot.generator, "fragments say too little of the conditions", pilot, rate)
    record = {
        "used": True,
        "why": "",
        "base_rate": share,
        "rate": tilted,
        "pilot_draws": pilot.oracle_calls,
        "rounds": rounds,
        "pays_from": pays_from(pilot.oracle_calls, share, tilted / _COST),
    }
    return Steered(source=found, record=record, calls=pilot.calls, oracle_calls=pilot.oracle_calls)


def pays_from(spent: int, share: float, rate: float) -> int:
    """Of how many molecules on a pilot costs no more than it saves: n / share = spent + n / rate, with rate > share."""
    return math.ceil(spent / (1 / share - 1 / rate))


def newton(last: Round) -> Tensor:
    """The change of lambda that a round of draws asks for: [d]."""
    quantile = last.miss.quantile(_ELITE)
    elite = last.miss <= quantile  # all that hold, if they are more than that
    log_weight = last.log_weight[elite]
    weight = (log_weight.clamp_max(float(log_weight.quantile(1 - _CLIPPED))) - log_weight.amax()).exp()
    weight = weight / weight.sum()
    centre = last.scores.mean(0)
    difference = weight @ last.scores[elite] - centre
    step = torch.linalg.solve(covariance(last.scores), difference)
    size = float(difference @ step)  # |difference|^2 in the metric of the covariance
    count = float(1 / weight.square().sum())
    return step * max(0.0, 1 - len(step) / (count * size)) if size > 0 else torch.zeros_like(step)


def covariance(found: Tensor) -> Tensor:
    """Of scores [B, d], with a little more variance, so that it can be inverted: [d, d]."""
    spread = found.T.cov().reshape(found.shape[1], -1)
    return spread + _ROOM * torch.diag(spread.diagonal().clamp_min(1e-12))


def _unsteered(generator: Generator, why: str, pilot: _Pilot | None, rate: float | None) -> Steered:
    calls, draws = (pilot.calls, pilot.oracle_calls) if pilot is not None else (0, 0)
    record = {"used": False, "why": why, "base_rate": rate, "pilot_draws": draws}
    return Steered(source=generator, record=record, calls=calls, oracle_calls=draws)
