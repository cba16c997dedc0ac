"""Couplings against brute force over every permutation, and against cases whose optimum is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scidiff.coupling import EquivariantAlignment, EquivariantTransport, MinibatchTransport, align, kabsch
from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.processes.gaussian import ZeroMeanGaussianProcess
from scidiff.processes.parametrisations import Data
from scidiff.processes.so3 import rotation_exp
from scidiff.schedules import RectifiedFlow
from scidiff.state import Layout, Rows, State


def clouds(counts: list[int], step: int) -> tuple[Tensor, Rows]:
    """Centred random points, float64 [N, 3]."""
    rows = Layout.ragged({"x": torch.tensor(counts)}, {"x": (3,)}).rows("x")
    x = Noise(seed=2, index=torch.arange(len(counts))).at("x", step, rows).normal(dtype=torch.float64)
    mean = torch.zeros(len(counts), 3, dtype=torch.float64).index_add(0, rows.owner, x)
    return x - (mean / torch.tensor(counts)[:, None])[rows.owner], rows


def superposed(x_0: np.ndarray, x_1: np.ndarray) -> float:
    """min over proper rotations of |x_0 - R x_1|^2, from the singular values alone (no rotation is built)."""
    covariance = x_0.T @ x_1
    s = np.linalg.svd(covariance, compute_uv=False)
    s[-1] *= np.sign(np.linalg.det(covariance))
    return float((x_0**2).sum() + (x_1**2).sum() - 2 * s.sum())


def brute_force(x_0: np.ndarray, x_1: np.ndarray) -> float:
    """min over every permutation and proper rotation of |x_0 - R x_1[p]|^2."""
    return min(superposed(x_0, x_1[list(p)]) for p in itertools.permutations(range(len(x_0))))


def test_minibatch_transport_is_optimal_over_all_permutations() -> None:
    rows = Layout.dense(6, {"x": (2, 3)}).rows("x")
    draw = Noise(seed=1, index=torch.arange(6)).at("x", 0, rows)
    x_0, noise = draw.normal(kind="a"), draw.normal(kind="b")
    coupled = MinibatchTransport()(x_0, noise, rows)
    costs = [float((x_0 - noise[list(p)]).double().square().sum()) for p in itertools.permutations(range(6))]
    assert float((x_0 - coupled).double().square().sum()) == pytest.approx(min(costs), rel=1e-12)
    assert sorted(coupled.flatten().tolist()) == sorted(noise.flatten().tolist())


def test_minibatch_transport_on_a_line_sorts() -> None:
    rows = Layout.dense(200, {"x": ()}).rows("x")
    draw = Noise(seed=1, index=torch.arange(200)).at("x", 0, rows)
    x_0, noise = draw.normal(kind="a"), draw.normal(kind="b")
    coupled = MinibatchTransport()(x_0, noise, rows)
    assert torch.equal(coupled[x_0.argsort()], noise.sort().values)


def test_minibatch_transport_keeps_ragged_samples_whole() -> None:
    counts = [2, 3, 2, 1, 3, 3]
    x_0, rows = clouds(counts, 0)
    noise, _ = clouds(counts, 1)
    coupled = MinibatchTransport()(x_0, noise, rows)
    split = dict(enumerate(noise.split(counts)))
    for size in (1, 2, 3):
        members = [b for b, count in enumerate(counts) if count == size]
        data = [x_0.split(counts)[b] for b in members]
        costs = {
            p: sum(float((d - split[b]).square().sum()) for d, b in zip(data, p, strict=True))
            for p in itertools.permutations(members)
        }
        best = min(costs, key=lambda p: costs[p])
        for b, source in zip(members, best, strict=True):
            assert torch.equal(coupled.split(counts)[b], split[source])


def test_kabsch_recovers_a_rotation_and_never_a_reflection() -> None:
    x, _ = clouds([5], 0)
    r = rotation_exp(torch.tensor([0.4, -2.1, 1.3], dtype=torch.float64))
    found = kabsch((x @ r.mT).numpy(), x.numpy())
    np.testing.assert_allclose(found, r.numpy(), atol=1e-12)
    mirrored = x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    found = kabsch(mirrored.numpy(), x.numpy())
    assert np.linalg.det(found) == pytest.approx(1.0)
    left = float(np.square(mirrored.numpy() - x.numpy() @ found.T).sum())
    assert left == pytest.approx(superposed(mirrored.numpy(), x.numpy()), rel=1e-10)
    assert left > 0.1


@pytest.mark.parametrize("count", [3, 4, 5])
def test_alignment_is_the_minimum_over_permutations_and_rotations(count: int) -> None:
    cases = 25
    x_0, _ = clouds([count] * cases, 0)
    noise, _ = clouds([count] * cases, 1)
    a, b = x_0.reshape(cases, count, 3).numpy(), noise.reshape(cases, count, 3).numpy()
    aligned, cost = align(a, b, starts=24)
    best = np.array([brute_force(x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(np.square(a - aligned).sum((1, 2)), cost, rtol=1e-12)
    assert (cost > best - 1e-9).all()
    assert (cost < best + 1e-9).mean() >= 0.96


def test_more_starts_never_cost_more_and_any_start_improves() -> None:
    x_0, _ = clouds([9] * 20, 0)
    noise, _ = clouds([9] * 20, 1)
    a, b = x_0.reshape(20, 9, 3).numpy(), noise.reshape(20, 9, 3).numpy()
    before = np.square(a - b).sum((1, 2))
    for starts in (1, 2, 8, 24):
        _, cost = align(a, b, starts=starts)
        assert (cost <= before + 1e-12).all()
        before = cost


def test_alignment_undoes_a_known_turn_and_shuffle() -> None:
    counts = [6, 4, 6, 1]
    x_0, rows = clouds(counts, 0)
    r = rotation_exp(torch.tensor([0.3, 0.2, -0.25], dtype=torch.float64))
    order = torch.cat([torch.arange(c).flip(0) + sum(counts[:b]) for b, c in enumerate(counts)])
    coupled = EquivariantAlignment(starts=24)(x_0, (x_0 @ r.mT)[order], rows)
    torch.testing.assert_close(coupled, x_0, atol=1e-7, rtol=0)


def test_alignment_moves_noise_only_by_a_permutation_and_a_proper_rotation() -> None:
    counts = [5, 7]
    x_0, rows = clouds(counts, 0)
    noise, _ = clouds(counts, 1)
    for before, after in zip(noise.split(counts), EquivariantAlignment()(x_0, noise, rows).split(counts), strict=True):
        radii = before.norm(dim=-1), after.norm(dim=-1)
        torch.testing.assert_close(radii[0].sort().values, radii[1].sort().values)
        order = radii[0].argsort()[radii[1].argsort().argsort()]
        assert superposed(after.numpy(), before[order].numpy()) == pytest.approx(0.0, abs=1e-9)


def test_mirror_images_stay_apart() -> None:
    # A regular tetrahedron with four different corners is chiral: its mirror image costs what brute force says, not 0.
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    molecule = corners * torch.tensor([1.0, 1.5, 2.0, 2.5], dtype=torch.float64)[:, None]
    rows = Layout.ragged({"x": torch.tensor([4])}, {"x": (3,)}).rows("x")
    mirror = molecule * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    coupled = EquivariantAlignment(starts=24)(molecule, mirror, rows)
    left = float((molecule - coupled).square().sum())
    assert left == pytest.approx(brute_force(molecule.numpy(), mirror.numpy()), rel=1e-9)
    assert left > 1.0


def test_kinds_change_places_only_among_themselves() -> None:
    x_0, rows = clouds([5], 0)
    noise, _ = clouds([5], 1)
    kinds = torch.tensor([0, 1, 0, 1, 1])
    coupled = EquivariantAlignment(starts=24, kinds=kinds)(x_0, noise, rows)
    allowed = [p for p in itertools.permutations(range(5)) if torch.equal(kinds[list(p)], kinds)]
    assert len(allowed) == 12
    best = min(superposed(x_0.numpy(), noise[list(p)].numpy()) for p in allowed)
    assert float((x_0 - coupled).square().sum()) == pytest.approx(best, rel=1e-9)


def test_equivariant_transport_pairs_molecules_at_the_least_total_cost() -> None:
    counts = [4, 3, 4, 4]
    x_0, rows = clouds(counts, 0)
    noise, _ = clouds(counts, 1)
    coupled = EquivariantTransport(starts=24)(x_0, noise, rows)
    data, other = x_0.split(counts), noise.split(counts)
    members = [0, 2, 3]
    cost = {(i, j): brute_force(data[i].numpy(), other[j].numpy()) for i in members for j in members}
    best = min(sum(cost[i, j] for i, j in zip(members, p, strict=True)) for p in itertools.permutations(members))
    after = [float((d - c).square().sum()) for d, c in zip(data, coupled.split(counts), strict=True)]
    assert sum(after[b] for b in members) == pytest.approx(best, rel=1e-9)
    assert after[1] == pytest.approx(brute_force(data[1].numpy(), other[1].numpy()), rel=1e-9)


def test_what_is_not_points_in_space_is_refused() -> None:
    rows = Layout.dense(2, {"x": (4,)}).rows("x")
    with pytest.raises(ValueError, match="expected one point in space a row"):
        EquivariantAlignment()(torch.zeros(2, 4), torch.zeros(2, 4), rows)
    with pytest.raises(ValueError, match="expected 1 to 24 starts, got 0"):
        EquivariantAlignment(starts=0)


class Recorder(Denoiser):
    """Keeps the state it is given."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        self.seen, self.times = x_t, t
        return x_t


def test_training_mixes_data_with_the_noise_of_the_coupling() -> None:
    # x_t = (1 - t) x_0 + t noise, so the noise can be read off x_t: it lies as near to the data as brute force allows.
    counts = [4, 3, 4]
    x_0, rows = clouds(counts, 0)
    layout = Layout(batch=3, leaves={"x": rows})
    process = ZeroMeanGaussianProcess(schedule=RectifiedFlow(), parametrisation=Data())
    noise = Noise(seed=8, index=torch.arange(3))
    plain, coupled = Recorder(), Recorder()
    loss(plain, {"x": process}, {"x": x_0}, layout, noise)
    loss(coupled, {"x": process}, {"x": x_0}, layout, noise, couplings={"x": EquivariantAlignment(starts=24)})
    assert torch.equal(plain.times, coupled.times)
    t = rows.per_row(coupled.times)
    before, after = ((record.seen["x"] - (1 - t) * x_0) / t for record in (plain, coupled))
    for data, free, bound in zip(x_0.split(counts), before.split(counts), after.split(counts), strict=True):
        assert float((data - bound).square().sum()) == pytest.approx(brute_force(data.numpy(), free.numpy()), rel=1e-9)
        assert float(bound.mean(0).abs().max()) < 1e-12
