"""Leaves that hand the denoiser's answer on to its next call, such as the estimates of self-conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidiff.noise import Draw
from scidiff.processes.base import Process
from scidiff.processes.carried import CarriedProcess
from scidiff.solvers.base import Rule, Trace, held
from scidiff.state import Layout, Rows


@dataclass(frozen=True, kw_only=True)
class Carry(Rule):
    """The leaf becomes its own clean estimate.

    Attributes:
        times, reach: those of the other leaves' rules.
    """

    times: tuple[float, ...]
    reach: tuple[float, ...]
    memory = 0

    def advance(self, k: int, trace: Trace, process: Process, rows: Rows, draw: Callable[[int], Draw]) -> Tensor:
        return held(trace.clean[k])


def with_estimates(
    estimates: Mapping[str, tuple[int, ...]],
    processes: Mapping[str, Process],
    rules: Mapping[str, Rule],
    layout: Layout,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Process], dict[str, Rule], Layout]:
    """Processes, rules and layout with the leaves "leaf.estimate" that a `SelfConditioned` denoiser asks of `sample`.

    Args:
        estimates: as given to `SelfConditioned`.
        processes: of the other leaves.
        rules: of the other leaves.
        layout: of the other leaves.
        dtype: of the estimates.
    """
    extended_processes, extended_rules, leaves = dict(processes), dict(rules), dict(layout.leaves)
    for leaf, extra in estimates.items():
        name, rule, rows = f"{leaf}.estimate", rules[leaf], layout.rows(leaf)
        extended_processes[name] = CarriedProcess(dtype=dtype)
        extended_rules[name] = Carry(times=rule.times, reach=rule.reach)
        leaves[name] = replace(rows, shape=(*rows.shape, *extra), mask=None)
    return extended_processes, extended_rules, Layout(batch=layout.batch, leaves=leaves)
