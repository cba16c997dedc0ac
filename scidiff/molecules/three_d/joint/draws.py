"""Joint states drawn by the one loop, all leaves at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from scidiff.guidance.project import Project
from scidiff.molecules.three_d.draws import Halved, solver
from scidiff.molecules.three_d.joint.batches import SCALE, layout_of
from scidiff.molecules.three_d.joint.model import JointModel
from scidiff.molecules.three_d.joint.program import Composition
from scidiff.molecules.three_d.joint.valid import ValidMolecules
from scidiff.noise import Noise
from scidiff.processes.gaussian import GaussianProcess
from scidiff.sampling import sample
from scidiff.solvers.categorical import PosteriorJump

STEPS = 24
VAGUE = 0.3  # share of classes that are certain, below which atoms are drawn before their bonds


@dataclass(frozen=True, kw_only=True)
class States:
    """B finished states of n atoms.

    Attributes:
        atom, bond: int64 [B, n] and [B, n (n - 1) / 2], classes.
        position: float64 [B, n, 3], angstrom, centred.
        faults: [B], 0 of molecules.
    """

    atom: np.ndarray
    bond: np.ndarray
    position: np.ndarray
    faults: np.ndarray


def states(
    model: JointModel,
    n: int,
    *,
    seed: int,
    index: torch.Tensor,
    steps: int = STEPS,
    composition: Composition | None = None,
    projected: bool = True,
) -> States:
    """Draw states of n atoms.

    Args:
        model: on the device to draw on.
        n: atoms of each.
        seed: of the noise.
        index: [B], the number of each draw, which keys its noise.
        steps: network calls.
        composition: of all n atoms, if it is asked for.
        projected: whether estimates are projected on molecules; if not, classes are drawn one by one.
    """
    layout, noise = layout_of(n, len(index), index.device), Noise(seed=seed, index=index)
    plan = solver(cast(GaussianProcess, model.processes["pos"]), steps)
    rules = {"pos": plan, "atom": PosteriorJump.beside(plan), "bond": PosteriorJump.beside(plan)}
    valid = ValidMolecules(noise=noise, composition=composition, vague=VAGUE)
    denoiser = Project(Halved(model.denoiser), valid) if projected else Halved(model.denoiser)
    found = sample(denoiser, model.processes, rules, layout, noise, certify={"valid": valid})
    atom, bond, position = (found.state[leaf].unflatten(0, (len(index), -1)) for leaf in ("atom", "bond", "pos"))
    return States(
        atom=atom.cpu().numpy(),
        bond=bond.cpu().numpy(),
        position=SCALE * position.double().cpu().numpy(),
        faults=found.certificate["valid"].cpu().numpy(),
    )
