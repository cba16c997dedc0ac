"""The one reverse loop.

    x ~ prior;   for each call k:   clean = denoiser(x, t_k);   x = advance(x, clean, ...)

All leaves of a state are advanced together, each by its own rule; all rules share the same times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.solvers.base import Rule, Trace
from scidiff.state import Layout, State


class Certifiable(Protocol):
    """What a certificate asks of a constraint."""

    def violation(self, sample: State, layout: Layout) -> Tensor:
        """How far each sample is from satisfying it: float64 [B], exactly 0 where it holds."""


class Steering(Protocol):
    """Moves particles between calls of the denoiser: sequential Monte Carlo."""

    def resample(self, k: int, x: State, clean: State, log_weight: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Which particle goes on in each place, and with what weight.

        Args:
            k: the call just made.
            x: the state of call k.
            clean: its clean estimates.
            log_weight: [B] float64, the weights so far.
            noise: keyed randomness.

        Returns:
            ancestors: [B] int64, the place each particle is copied from. It has as many rows in every leaf, and the
                same condition, as the particle itself.
            log_weight: [B] float64, after resampling.
        """

    def final(self, x: State, log_weight: Tensor) -> Tensor:
        """The log-weights of the finished samples x, given those of the last `resample`: float64 [B]."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """Parts of a state that are given.

    Attributes:
        values: leaf [N, *shape]; only the values under the mask are read. Leaves without any may be absent.
        mask: leaf bool [N, *shape] (or broadcastable to it): what is known.
    """

    values: State
    mask: State


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a run of the loop came to.

    Attributes:
        state: the finished samples.
        certificate: the violation of each constraint, float64 [B], exactly 0 where it holds.
        log_weight: [B] float64, the log-weight of each particle; None without steering.
        nfe: number of calls of the denoiser.
        seed: the seed of the noise.
        index: [B] the number of each sample in the run.
    """

    state: State
    certificate: Mapping[str, Tensor]
    log_weight: Tensor | None
    nfe: int
    seed: int
    index: Tensor


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    rules: Mapping[str, Rule],
    layout: Layout,
    noise: Noise,
    *,
    condition: Any = None,
    known: Known | None = None,
    steering: Steering | None = None,
    certify: Mapping[str, Certifiable] | None = None,
    initial: State | None = None,
) -> Samples:
    """Draw samples: prior noise, n calls of the denoiser, n steps.

    Args:
        denoiser: gives the clean estimates.
        processes: of every leaf.
        rules: how every leaf advances; all on the same times.
        layout: who owns which row.
        noise: each sample is a function of (seed, index), whatever the batch.
        condition: passed to the denoiser.
        known: parts of the state that are given. Before each call they are set to what the process makes of them at
            that time (always with the same noise), and to the very values at the end.
        steering: moves particles between calls.
        certify: constraints whose violation by the finished samples is reported.
        initial: the state at the first time, in place of the prior.

    Raises:
        ValueError: leaves and rules differ, or rules have different times.
    """
    times = _shared_times(processes, rules)
    known = known or Known(values={}, mask={})
    rows = {leaf: layout.rows(leaf) for leaf in processes}
    draws = {leaf: partial(noise.at, leaf, rows=rows[leaf]) for leaf in processes}
    traces = {leaf: Trace() for leaf in processes}
    log_weight = torch.zeros(layout.batch, dtype=torch.float64, device=noise.index.device)
    x = dict(initial) if initial else {leaf: processes[leaf].prior(rows[leaf], draws[leaf](0)) for leaf in processes}
    calls = torch.tensor(times[:-1], dtype=torch.float64, device=noise.index.device)[:, None].repeat(1, layout.batch)

    for k, t in enumerate(calls.unbind()):  # [B] each, made once rather than one a step
        for leaf, value in known.values.items():
            observed = processes[leaf].observed(value, t, rows[leaf], draws[leaf](0))
            x[leaf] = torch.where(known.mask[leaf], observed, x[leaf])
        clean = denoiser(x, t, layout, condition)
        for leaf, trace in traces.items():
            trace.record(x[leaf], clean[leaf], clean.get(f"{leaf}.variance"))
        if steering is not None:
            ancestors, log_weight = steering.resample(k, x, clean, log_weight, noise)
            for leaf, trace in traces.items():
                trace.map(partial(rows[leaf].inherit, ancestors=ancestors))
        x = {
            leaf: rule.advance(k, traces[leaf], processes[leaf], rows[leaf], draws[leaf])
            for leaf, rule in rules.items()
        }
        for leaf, rule in rules.items():
            traces[leaf].forget(k - rule.memory)

    for leaf, value in known.values.items():
        x[leaf] = torch.where(known.mask[leaf], value, x[leaf])
    return Samples(
        state=x,
        certificate={name: constraint.violation(x, layout) for name, constraint in (certify or {}).items()},
        log_weight=None if steering is None else steering.final(x, log_weight),
        nfe=len(times) - 1,
        seed=noise.seed,
        index=noise.index,
    )


def _shared_times(processes: Mapping[str, Process], rules: Mapping[str, Rule]) -> tuple[float, ...]:
    if set(processes) != set(rules) or not rules:
        raise ValueError(f"expected one rule for each of the leaves {sorted(processes)}, got {sorted(rules)}")
    (first, rule), *others = rules.items()
    for leaf, other in others:
        if other.times != rule.times:
            raise ValueError(f"expected rules with the same times, got other times for {leaf!r} than for {first!r}")
    return rule.times
