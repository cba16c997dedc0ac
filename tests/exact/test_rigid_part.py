"""The projection that keeps atoms in place: against plain minimisation, and its invariances."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from scidiff.molecules.three_d.batches import LEAF
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.harmonic import harmonic
from scidiff.state import Layout
from scidiff.testing import random_rotation

N = 7
FIXED = (1, 2, 4, 5)
BONDS = np.zeros((N, N), dtype=bool)
for _i, _j in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 4)]:
    BONDS[_i, _j] = BONDS[_j, _i] = True
ROOT, INVERSE = (torch.as_tensor(matrix) for matrix in harmonic(BONDS, np.arange(N) > 5))


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def part(seed: int = 0) -> RigidPart:
    return RigidPart.of(FIXED, normal(N, 3, seed=seed).numpy(), ROOT)


def layout(batch: int) -> Layout:
    return Layout.ragged({LEAF: torch.full((batch,), N)}, {LEAF: (3,)})


def harmonic_noise(batch: int, seed: int) -> torch.Tensor:
    return INVERSE @ (ROOT @ normal(batch, N, 3, seed=seed))


def project(constraint: RigidPart, y: torch.Tensor) -> torch.Tensor:
    found = constraint.project({LEAF: y.flatten(0, 1)}, layout(len(y)))[LEAF]
    return found.unflatten(0, (len(y), N))


def test_the_part_is_rigid_and_projecting_again_changes_nothing():
    constraint, y = part(), harmonic_noise(5, 1)
    assert float(constraint.violation({LEAF: y.flatten(0, 1)}, layout(5)).min()) > 0.1
    once = project(constraint, y)
    assert constraint.violation({LEAF: once.flatten(0, 1)}, layout(5)).tolist() == [0.0] * 5
    assert torch.allclose(project(constraint, once), once, atol=1e-10)
    x = ROOT @ once
    assert torch.allclose(torch.cdist(x, x)[:, FIXED][:, :, FIXED], torch.cdist(constraint.target, constraint.target))


def test_no_feasible_point_is_nearer():
    constraint, y = part(), harmonic_noise(1, 2)
    found = project(constraint, y)
    rows = ROOT[list(FIXED)].numpy()
    weight, here = np.linalg.inv(rows @ rows.T), (rows @ y[0].numpy())

    def cost(motion: np.ndarray) -> float:
        away = Rotation.from_rotvec(motion[:3]).apply(constraint.target.numpy()) + motion[3:] - here
        return float(np.trace(away.T @ weight @ away))  # |y' - y|^2 of the nearest y' for this motion

    least = min(minimize(cost, normal(6, seed=k).numpy(), tol=1e-12).fun for k in range(6))
    assert float((found - y).square().sum()) == pytest.approx(least, rel=1e-6)


def test_projection_turns_with_the_molecule_and_stays_centred():
    constraint, y = part(), harmonic_noise(3, 3)
    turn = random_rotation(seed=5)
    assert torch.allclose(project(constraint, y @ turn.T), project(constraint, y) @ turn.T, atol=1e-9)
    assert float((ROOT @ project(constraint, y)).mean(1).abs().max()) < 1e-12


def test_the_mirror_image_of_the_part_is_not_the_part():
    constraint = part()
    other = RigidPart(atoms=constraint.atoms, target=-constraint.target, root=ROOT)
    y = project(constraint, harmonic_noise(1, 4))
    assert float(other.violation({LEAF: y.flatten(0, 1)}, layout(1))) > 1e-3


def test_placed_atoms_are_where_they_were_given():
    constraint = part()
    x = constraint.placed(ROOT @ project(constraint, harmonic_noise(4, 6)))
    assert float((x[:, FIXED] - constraint.target).abs().max()) < 1e-9


def test_some_atom_must_be_free():
    with pytest.raises(ValueError, match="expected 1 to 6 fixed atoms, got 7"):
        RigidPart.of(tuple(range(N)), np.zeros((N, 3)), ROOT)
