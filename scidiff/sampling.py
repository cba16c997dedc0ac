"""The one reverse loop.

    x ~ prior;   for each call k:   clean = denoiser(x, t_k);   x = advance(x, clean, ...)

All leaves of a state are advanced together, each by its own rule; all rules share the same times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Draw, Noise
from scidiff.processes.base import Process
from scidiff.solvers.base import Rule, Trace
from scidiff.state import Layout, Rows, State


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

    def into(self, x: State, values: State) -> State:
        """The state x with `values` under the mask."""
        return x | {leaf: torch.where(self.mask[leaf], value, x[leaf]) for leaf, value in values.items()}


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
    known, certify = known or Known(values={}, mask={}), certify or {}
    rows = {leaf: layout.rows(leaf) for leaf in processes}
    draws = {leaf: partial(noise.at, leaf, rows=rows[leaf]) for leaf in processes}
    traces = {leaf: Trace() for leaf in processes}
    log_weight = torch.zeros(layout.batch, dtype=torch.float64, device=noise.index.device)
    x = dict(initial) if initial else {leaf: processes[leaf].prior(rows[leaf], draws[leaf](0)) for leaf in processes}
    calls = torch.tensor(times[:-1], dtype=torch.float64, device=noise.index.device)[:, None].repeat(1, layout.batch)

    for k, t in enumerate(calls.unbind()):  # [B] each, made once rather than one a step
        x = known.into(x, _observed(known.values, t, processes, rows=rows, draws=draws))
        clean = denoiser(x, t, layout, condition)
        for leaf, trace in traces.items():
            trace.record(x[leaf], clean[leaf], clean.get(f"{leaf}.variance"))
        if steering is not None:
            ancestors, log_weight = steering.resample(k, x, clean, log_weight, noise)
            for leaf, trace in traces.items():
                trace.map(partial(rows[leaf].inherit, ancestors=ancestors))
        x = _advanced(k, traces, processes, rules=rules, rows=rows, draws=draws)
    x = known.into(x, known.values)
    return Samples(
        state=x,
        certificate={name: constraint.violation(x, layout) for name, constraint in certify.items()},
        log_weight=None if steering is None else steering.final(x, log_weight),
        nfe=len(times) - 1,
        seed=noise.seed,
        index=noise.index,
    )


def _observed(
    values: State,
    t: Tensor,
    processes: Mapping[str, Process],
    *,
    rows: Mapping[str, Rows],
    draws: Mapping[str, Callable[[int], Draw]],
) -> State:
    """What the processes make of known values at time t, with the same noise at every time."""
    return {leaf: processes[leaf].observed(x, t, rows[leaf], draws[leaf](0)) for leaf, x in values.items()}


def _advanced(
    k: int,
    traces: Mapping[str, Trace],
    processes: Mapping[str, Process],
    *,
    rules: Mapping[str, Rule],
    rows: Mapping[str, Rows],
    draws: Mapping[str, Callable[[int], Draw]],
) -> State:
    """The state for call k + 1, every leaf by its own rule; the traces forget what no rule looks at any more."""
    x = {}
    for leaf, rule in rules.items():
        x[leaf] = rule.advance(k, traces[leaf], processes[leaf], rows[leaf], draws[leaf])
        traces[leaf].forget(k - rule.memory)
    return x


def _shared_times(processes: Mapping[str, Process], rules: Mapping[str, Rule]) -> tuple[float, ...]:
    if set(processes) != set(rules) or not rules:
        raise ValueError(f"expected one rule for each of the leaves {sorted(processes)}, got {sorted(rules)}")
    (first, rule), *others = rules.items()
    for leaf, other in others:
        if other.times != rule.times:
            raise ValueError(f"expected rules with the same times, got other times for {leaf!r} than for {first!r}")
    return rule.times
