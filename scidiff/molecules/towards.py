"""Molecules with values of properties that no oracle can certify: a model is told of them, and that is all.

A model that was trained to be told values (`Edges.pinned`) and is told some is a model of its own. Its draws follow
p(molecule | values) as far as it has learned it; at each step the sums of what fragments add to the properties choose
among sequences that the estimate allows (`scidiff.molecules.candidates`). Numbers of fragments are drawn from those of
the training molecules nearest to the values. Everything else stands on that model: what is enforced, what is certified.
The number of atoms, of which models are told besides, is a condition as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scidiff.errors import UserError
from scidiff.molecules.candidates import Candidates
from scidiff.molecules.census import Census
from scidiff.molecules.guiding import Informed
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.quantum import ATOMS, QUANTUM

_ASKED = re.compile(r"\s*(\w+)\s*=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*")


def parse(texts: Sequence[str]) -> dict[str, float]:
    """Values by name from what a user wrote: `gap=6.8eV`, `mu = 3`, in the units of `QUANTUM`; or `atoms=18`.

    Raises:
        UserError: a text that asks for nothing known, or for the same twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        match = _ASKED.fullmatch(text)
        known = ", ".join([*(f"{name} [{one.unit}]" for name, one in QUANTUM.items()), ATOMS])
        try:
            name, value = (match[1].lower(), float(match[2])) if match else ("", 0.0)
        except ValueError:
            name = ""
        unit = QUANTUM[name].unit.lower() if name in QUANTUM else ""
        if match is None or name not in (*QUANTUM, ATOMS) or match[3].lower() not in ("", unit):
            raise UserError(f"--towards: expected NAME=VALUE of {known}, got {text!r}")
        if name == ATOMS and not value.is_integer():
            raise UserError(f"--towards: expected a whole number of atoms, got {text!r}")
        if name in found:
            raise UserError(f"--towards: expected {name} once, got it twice")
        found[name] = value
    return found


def choosing(model: FragmentModel, names: Sequence[str], asked: Tensor) -> Candidates:
    """What chooses among sequences by values of the named properties, [B, J] or [J]; by ring labels without sums."""
    places = [k for k, name in enumerate(names) if name in QUANTUM]
    if model.sums is None or not places:
        return Candidates(vocabulary=model.vocabulary)
    fits = partial(model.sums.log_likelihood, names=[names[k] for k in places], asked=asked[..., places])
    return Candidates(vocabulary=model.vocabulary, log_likelihood=fits)


def _together(census: Census, asked: Mapping[str, float]) -> None:
    """UserError if no molecule of a census has values like those asked for, each within its standard deviation."""
    columns = census.values[:, [census.names.index(name) for name in asked]]
    away = (columns - torch.tensor(list(asked.values()), dtype=columns.dtype)) / columns.std(0).clamp_min(1e-9)
    least, nearest = away.abs().amax(1).min(0)
    if len(asked) > 1 and not float(least) <= 1:
        has = ", ".join(f"{name}={value:.4g}" for name, value in zip(asked, columns[nearest].tolist(), strict=True))
        got = ", ".join(f"{name}={value:g}" for name, value in asked.items())
        raise UserError(f"--towards: expected values that go together, got {got}; the nearest in training is {has}")


def towards(model: FragmentModel, asked: Mapping[str, float]) -> FragmentModel:
    """The model told of values.

    Raises:
        UserError: it cannot be told of them, or has seen none like them, or none that has them together.
    """
    edges, census = model.edges, model.census
    if census is None or not set(asked) <= set(edges.of):
        known = ", ".join(edges.of) if census is not None else ""
        got = ", ".join(f"{name}={value:g}" for name, value in asked.items())
        raise UserError(f"--towards: expected properties that the model is told of ({known or 'none'}), got {got}")
    for name, value in asked.items():
        column = census.values[:, census.names.index(name)]
        low, high = float(column.min()), float(column.max())
        if not low <= value <= high:
            raise UserError(f"--towards: expected {name} in [{low:.4g}, {high:.4g}], as in training, got {value:g}")
    _together(census, asked)
    values = torch.tensor([[asked.get(name, float("nan")) for name in edges.of]], dtype=torch.float64)
    device = next(model.denoiser.parameters()).device
    candidates = choosing(model, tuple(asked), torch.tensor(list(asked.values()), dtype=torch.float64))
    return replace(
        model,
        config=replace(model.config, lengths=tuple(census.near(asked).tolist()), edges={}),
        denoiser=Informed(model.denoiser, edges.of_values(values)[0].to(device)),
        candidates=candidates,
        census=None,  # of molecules that it was told nothing of; so are a head and scores
        head=None,
        scores=None,
        sums=None,
    )
