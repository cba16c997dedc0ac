r"""How likely the model finds a geometry: the log-density of positions under its probability flow.

    log p(x) = log p(y) + 3 sum over modes of log(stiffness^(1/2)),      y = C^(-1/2) x

on the 3 (n - 1) dimensions of centred positions, in nats relative to Lebesgue measure in angstrom. Rotations count:
all orientations are equally likely. Differences between conformers of one molecule are what can be compared.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidiff.likelihood import Divergence, Exact, log_prob
from scidiff.molecules.three_d.batches import LEAF, condition_of, harmonic_of
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.records import Record
from scidiff.solvers.adaptive import Control
from scidiff.state import Layout

BLUR = 0.01  # the time, and about the standard deviation in harmonic coordinates, of the noise the data are given
_CONTROL = Control(relative=1e-3, absolute=1e-3, attempts=500, look_every=5)


def log_density(
    model: ConformerModel,
    record: Record,
    positions: np.ndarray,
    *,
    divergence: Divergence | None = None,
    blur: float = BLUR,
    control: Control = _CONTROL,
) -> Tensor:
    """The log-density of geometries of one molecule, blurred a little: float64 [K].

    Args:
        model: of conformers.
        record: the molecule.
        positions: [K, n, 3] in angstrom, in the order of its atoms.
        divergence: exact by default, which takes 3 n backward passes a step; `Hutchinson` estimates it.
        blur: the time at which the geometries are placed.
        control: tolerances of the flow.

    Raises:
        ValueError: positions of another shape, or a flow that does not arrive.
    """
    n = record.mol.GetNumAtoms()
    if positions.ndim != 3 or positions.shape[1:] != (n, 3):
        raise ValueError(f"expected positions [K, {n}, 3], got {list(positions.shape)}")
    device = next(model.denoiser.parameters()).device
    count = len(positions)
    inverse = torch.as_tensor(harmonic_of(record.graph)[1], device=device)
    y = inverse @ torch.as_tensor(positions, dtype=torch.float64, device=device)  # which leaves shifts behind
    layout = Layout.ragged({LEAF: torch.full((count,), n, device=device)}, {LEAF: (3,)})
    condition = {name: value.to(device) for name, value in condition_of([record.graph] * count).items()}
    found = log_prob(
        model.denoiser,
        model.processes,
        {LEAF: y.float().flatten(0, 1)},
        layout,
        divergence=divergence or Exact(),
        start=blur,
        control=control,
        condition=condition,
    )
    if not bool(found.arrived.all()):
        raise ValueError("expected a flow that reaches the noise, got one that does not: are these geometries of it?")
    stiff = torch.linalg.eigvalsh(inverse)[1:]
    return found.log_prob + 3 * stiff.log().sum()
