"""Gaussian noise of zero mean on ragged rows: its covariance, its degrees of freedom, and what it leaves alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.processes.gaussian import ZeroMeanGaussianProcess, centred
from scidiff.processes.parametrisations import Data, Epsilon
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers.ancestral import ddim
from scidiff.solvers.levels import levels
from scidiff.state import Layout, Rows, State

COUNTS = [5, 2, 1, 3]


def ragged(counts: list[int]) -> Rows:
    return Layout.ragged({"x": torch.tensor(counts)}, {"x": (3,)}).rows("x")


def process(dtype: torch.dtype = torch.float64) -> ZeroMeanGaussianProcess:
    return ZeroMeanGaussianProcess(schedule=Cosine(), parametrisation=Data(), dtype=dtype)


def means(x: Tensor, rows: Rows) -> Tensor:
    return torch.stack([x[rows.owner == b].mean(0) for b in range(rows.batch)])


def test_every_state_has_zero_mean() -> None:
    rows, noise = ragged(COUNTS), Noise(seed=1, index=torch.arange(4))
    x_0 = centred(torch.linspace(-1, 2, 33, dtype=torch.float64).sin().reshape(11, 3), rows)
    s, t = (torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.3, 0.5, 0.7], [0.4, 0.6, 0.8, 0.95]))
    x_s = process().corrupt(x_0, s, rows, noise.at("x", 1, rows))
    states = [
        x_s,
        process().prior(rows, noise.at("x", 0, rows)),
        process().renoise(x_s, s, t, rows, noise.at("x", 2, rows)),
        process().clean(x_s + 3.0, x_s, s, rows),
        process().unit_noise(rows, noise.at("x", 3, rows), dtype=torch.float64),
    ]
    for x in states:
        assert float(means(x, rows).abs().max()) < 1e-14
    # A point alone has nowhere to go.
    assert all(bool((x[rows.owner == 2] == 0).all()) for x in states)


def test_noise_has_the_covariance_of_the_projector() -> None:
    # Cov(z_i, z_j) = (delta_ij - 1/n) I_3, and E|z|^2 = 3 (n - 1)
    count, n = 20_000, 4
    rows = ragged([n] * count)
    z = process().unit_noise(rows, Noise(seed=1, index=torch.arange(count)).at("x", 0, rows), dtype=torch.float64)
    z = z.reshape(count, n, 3)
    covariance = torch.einsum("bic,bjd->icjd", z, z) / count
    projector = torch.eye(n, dtype=torch.float64) - 1 / n
    expected = torch.einsum("ij,cd->icjd", projector, torch.eye(3, dtype=torch.float64))
    assert float((covariance - expected).abs().max()) < 5 / math.sqrt(count)
    assert float(z.square().sum((1, 2)).mean()) == pytest.approx(3 * (n - 1), abs=4 * math.sqrt(6 * (n - 1) / count))


def test_corrupt_and_renoise_keep_the_levels_of_the_schedule() -> None:
    count, n = 20_000, 3
    rows, noise = ragged([n] * count), Noise(seed=2, index=torch.arange(count))
    x_0 = torch.zeros(count * n, 3, dtype=torch.float64)
    s, t = (torch.full((count,), v, dtype=torch.float64) for v in (0.3, 0.6))
    once = process().corrupt(x_0, t, rows, noise.at("x", 1, rows))
    twice = process().renoise(
        process().corrupt(x_0, s, rows, noise.at("x", 2, rows)), s, t, rows, noise.at("x", 3, rows)
    )
    sigma = float(Cosine()(t[0])[1])
    for x in (once, twice):
        freedom = 3 * (n - 1)
        energy = float(x.square().sum()) / (count * freedom)
        assert energy == pytest.approx(sigma**2, rel=4 * math.sqrt(2 / (count * freedom)))


def test_samples_do_not_depend_on_their_batch() -> None:
    rows, noise = ragged(COUNTS), Noise(seed=1, index=torch.tensor([4, 8, 2, 6]))
    together = process(torch.float32).prior(rows, noise.at("x", 0, rows))
    for b, count in enumerate(COUNTS):
        row = ragged([count])
        alone = process(torch.float32).prior(row, Noise(seed=1, index=noise.index[b : b + 1]).at("x", 0, row))
        assert torch.equal(alone, together[rows.owner == b])


class Shrink(Denoiser):
    """E[x_0 | x_t] for data N(0, 0.8^2) of zero mean, given off centre by `shift`."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        rows = layout.rows("x")
        alpha, sigma = process().levels(t, rows)
        gain = (alpha * 0.64 / (alpha**2 * 0.64 + sigma**2)).to(x_t["x"].dtype)
        return {"x": process().clean(gain * x_t["x"] + self.shift, x_t["x"], t, rows)}


def test_sampling_stays_centred_and_has_the_degrees_of_freedom_of_the_data() -> None:
    count, n = 4000, 3
    layout = Layout.ragged({"x": torch.full((count,), n)}, {"x": (3,)})
    noise = Noise(seed=3, index=torch.arange(count))
    grid = torch.linspace(1, 0, 41, dtype=torch.float64)
    for eta in (0.0, 1.0):
        plan = ddim(Cosine(), grid, eta=eta)
        result = sample(Shrink(shift=5.0), {"x": process()}, {"x": plan}, layout, noise)
        x, rows = result.state["x"], layout.rows("x")
        assert float(means(x[: 3 * 20], ragged([n] * 20)).abs().max()) < 1e-12
        # The discrete sampler's own variance of N(0, 0.8^2), in closed form, over 3 (n - 1) numbers a sample.
        expected = variance_of(eta, grid)
        energy = float(rows.sum(x.square()).mean()) / (3 * (n - 1))
        assert energy == pytest.approx(expected, rel=4 * math.sqrt(2 / (count * 3 * (n - 1))))


def variance_of(eta: float, grid: Tensor) -> float:
    """Variance at the end of DDIM(eta) with the exact denoiser of N(0, 0.8^2), by its linear recursion."""
    found = levels(Cosine(), grid)
    variance = found[0].sigma ** 2
    for t, s in itertools.pairwise(found):
        ratio = 0.0 if s.sigma == 0 else (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
        fresh = eta**2 * (1 - ratio) * s.sigma**2
        kept = math.sqrt(max(s.sigma**2 - fresh, 0.0)) / t.sigma
        gain = t.alpha * 0.64 / (t.alpha**2 * 0.64 + t.sigma**2)
        variance = (kept + (s.alpha - kept * t.alpha) * gain) ** 2 * variance + fresh
    return variance


def test_loss_does_not_see_translations_of_the_output() -> None:
    layout = Layout.ragged({"x": torch.tensor(COUNTS)}, {"x": (3,)})
    rows, noise = layout.rows("x"), Noise(seed=1, index=torch.arange(4))
    x_0 = {"x": centred(torch.linspace(-1, 2, 33, dtype=torch.float64).sin().reshape(11, 3), rows)}
    plain, shifted = (loss(Shrink(shift), {"x": process()}, x_0, layout, noise) for shift in (0.0, 7.0))
    torch.testing.assert_close(plain, shifted, atol=1e-12, rtol=0)


def test_parametrisations_agree_in_the_subspace() -> None:
    rows, noise = ragged(COUNTS), Noise(seed=1, index=torch.arange(4))
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    x_0 = centred(torch.linspace(-1, 2, 33, dtype=torch.float64).sin().reshape(11, 3), rows)
    z = process().unit_noise(rows, noise.at("x", 1, rows), dtype=torch.float64)
    x_t = process().mix(x_0, z, t, rows)
    by_noise = ZeroMeanGaussianProcess(schedule=Cosine(), parametrisation=Epsilon())
    torch.testing.assert_close(by_noise.clean(z, x_t, t, rows), x_0, atol=1e-12, rtol=0)
    torch.testing.assert_close(by_noise.clean(z + 2.0, x_t, t, rows), x_0, atol=1e-12, rtol=0)


def test_rotations_and_permutations_commute_with_centring() -> None:
    rows = ragged([4])
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).sin().reshape(4, 3)
    turn = torch.linalg.qr(torch.linspace(0, 1, 9, dtype=torch.float64).cos().reshape(3, 3))[0]
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(centred(x @ turn, rows), centred(x, rows) @ turn, atol=1e-14, rtol=0)
    torch.testing.assert_close(centred(x[order], rows), centred(x, rows)[order], atol=1e-14, rtol=0)
    torch.testing.assert_close(centred(x + 9.0, rows), centred(x, rows), atol=1e-14, rtol=0)


def test_a_dense_leaf_is_refused() -> None:
    rows = Layout.dense(2, {"x": (3,)}).rows("x")
    with pytest.raises(ValueError, match="expected a leaf with many rows a sample"):
        process().prior(rows, Noise(seed=0, index=torch.arange(2)).at("x", 0, rows))
