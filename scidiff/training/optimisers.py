"""How the weights move: which optimiser takes which of them, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from scidiff.training.config import TrainingConfig


def learning_rate_factor(config: TrainingConfig, step: int, progress: float) -> float:
    """The learning rate of a step, as a part of its peak.

    Linear warm-up over `warmup_steps`, times, with p the progress of the run in [0, 1], f = `final_factor` and
    d = `decay_fraction`,

        cosine:   f + (1 - f) (1 + cos(pi p)) / 2
        stable:   1 before p = 1 - d;   then   f + (1 - f) (1 - sqrt((p - 1 + d) / d))
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        decay = (1 + math.cos(math.pi * progress)) / 2
    else:
        start = 1 - config.decay_fraction
        decay = 1 - math.sqrt((progress - start) / config.decay_fraction) if progress > start else 1.0
    return warmup * (config.final_factor + (1 - config.final_factor) * decay)


def extendable(config: TrainingConfig, progress: float) -> bool:
    """Whether a step at this progress has the learning rate it would have in a run of any greater length."""
    return config.schedule == "stable" and progress <= 1 - config.decay_fraction


def hidden_matrices(module: nn.Module, not_hidden: Iterable[str]) -> set[str]:
    """Names of the weights [out, in] of linear layers, less those that match a pattern."""
    names = set()
    for prefix, layer in module.named_modules():
        name = f"{prefix}.weight".lstrip(".")
        if isinstance(layer, nn.Linear) and not any(fnmatch(name, pattern) for pattern in not_hidden):
            names.add(name)
    return names


class Optimisers:
    """The optimisers of a run as one: stepped together, with state that safetensors can hold."""

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        hidden = hidden_matrices(module, config.not_hidden) & set(named) if config.optimiser == "muon" else set()
        rest = [p for name, p in named.items() if name not in hidden]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parameters = list(named.values())
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas)
        ]
        if hidden:
            self._optimisers.append(_muon([named[name] for name in named if name in hidden], config))
        self._peak = [[group["lr"] for group in optimiser.param_groups] for optimiser in self._optimisers]

    def step(self, factor: float) -> None:
        """Move the weights by their gradients, at `factor` times the peak learning rates, and clear the gradients."""
        for optimiser, peaks in zip(self._optimisers, self._peak, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state of every parameter: {"optimiser/parameter/name": tensor}."""
        return {
            f"{k}/{parameter}/{name}": value
            for k, optimiser in enumerate(self._optimisers)
            for parameter, entries in optimiser.state_dict()["state"].items()
            for name, value in entries.items()
        }

    def parameters_of(self, state: Iterable[str]) -> dict[str, Tensor]:
        """The parameter that each entry of a state belongs to."""
        ordered = [[p for group in optimiser.param_groups for p in group["params"]] for optimiser in self._optimisers]
        keys = {key: key.split("/") for key in state}
        return {key: ordered[int(which)][int(parameter)] for key, (which, parameter, _) in keys.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a state that `state` gave."""
        for k, optimiser in enumerate(self._optimisers):
            entries: dict[int, dict[str, Any]] = {}
            for key, value in state.items():
                which, parameter, name = key.split("/")
                if int(which) == k:
                    entries.setdefault(int(parameter), {})[name] = value
            optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})


def _muon(parameters: list[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """Muon (Jordan et al., 2024) with the update scale of Liu et al., arXiv 2502.16982, eq. 4."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f'expected torch >= 2.9 for optimiser "muon", got {torch.__version__}: use "adamw"')
    return torch.optim.Muon(
        parameters,
        lr=config.muon_learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
