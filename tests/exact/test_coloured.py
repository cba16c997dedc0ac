"""Noise with the covariance of the data: its covariance is what it says, and few calls give the data's law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scidiff.denoiser import Denoiser, NetworkDenoiser
from scidiff.noise import Noise
from scidiff.processes.coloured import Colour, ColouredGaussianProcess, Separable, Spectrum
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM, Data
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import recommended
from scidiff.state import Layout, State

F64 = torch.float64
H, V, STD = 6, 3, 0.9


def covariances() -> tuple[Tensor, Tensor]:
    """Of steps that decay slowly, and of variables two of which move against each other."""
    steps = torch.arange(H, dtype=F64)
    columns = torch.tensor([[1.0, -0.8, 0.1], [-0.8, 1.0, 0.2], [0.1, 0.2, 1.0]], dtype=F64)
    return 0.9 ** (steps[:, None] - steps).abs(), columns


def table() -> Tensor:
    """Covariance of a table [H, V], row after row: [H V, H V]."""
    return torch.kron(*covariances())


def roots(colour: Colour, shape: tuple[int, ...]) -> Tensor:
    """The matrix of `Colour.root`: [D, D], one column for each unit vector."""
    unit = torch.eye(torch.Size(shape).numel(), dtype=F64)
    return colour.root(unit.reshape(-1, *shape)).flatten(1).T


class Silent(torch.nn.Module):
    """A network that answers 0."""

    def forward(self, inputs: State, t: Tensor, layout: Layout, condition: Any) -> State:
        return {"x": torch.zeros_like(inputs["x"])}


class Exact(Denoiser):
    """E[x_0 | x_t] of data N(0, covariance) under white noise."""

    def __init__(self, covariance: Tensor) -> None:
        super().__init__()
        self.covariance = covariance

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        alpha, sigma = (level[0] for level in Cosine()(t))  # one time for all samples
        marginal = alpha**2 * self.covariance + sigma**2 * torch.eye(H * V, dtype=F64)
        clean = alpha * x_t["x"].flatten(1) @ torch.linalg.solve(marginal, self.covariance)
        return {"x": clean.reshape(-1, H, V)}


def drawn(denoiser: Denoiser, process: GaussianProcess, start: Tensor, calls: int) -> Tensor:
    """What becomes of noise [N, H, V]."""
    plan, layout = recommended(process.schedule, calls, std=STD), Layout.dense(len(start), {"x": (H, V)})
    noise = Noise(seed=0, index=torch.arange(len(start)))
    return sample(denoiser, {"x": process}, {"x": plan}, layout, noise, initial={"x": start}).state["x"]


def law(denoiser: Denoiser, process: GaussianProcess, root: Tensor, calls: int) -> Tensor:
    """The covariance of what is drawn from noise of a covariance root root^T, by a linear denoiser: [H V, H V]."""
    found = drawn(denoiser, process, root.T.reshape(-1, H, V), calls).flatten(1)
    return found.T @ found


def test_a_separable_covariance_is_a_kronecker_product() -> None:
    root = roots(Separable.of(*covariances()), (H, V))
    torch.testing.assert_close(root @ root.T, table())


def test_the_spectrum_of_noise_is_the_variance_of_its_modes() -> None:
    variance = torch.rand(1, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    variance[0, 2, 1] = 0.0
    variance[:, 1:, 0] = (variance[:, 1:, 0] + variance[:, 1:, 0].flip(1)) / 2  # of a real field
    spectrum = Spectrum(variance=variance)
    modes = torch.fft.rfft2(roots(spectrum, (1, 5, 5)).T.reshape(-1, 1, 5, 5), norm="ortho")
    torch.testing.assert_close(modes.abs().square().sum(0), variance)
    white = torch.randn(2, 1, 5, 5, dtype=F64, generator=torch.Generator().manual_seed(2))
    kept = torch.fft.rfft2(spectrum.within(white)) / torch.fft.rfft2(white)
    torch.testing.assert_close(kept.abs(), (variance > 0).to(F64).expand_as(kept))


@pytest.mark.parametrize(("calls", "off"), [(1, 1e-9), (2, 1e-3), (3, 0.01), (6, 0.04), (10, 1e-3)])
def test_few_calls_of_a_network_that_answers_nothing_give_the_law_of_gaussian_data(calls: int, off: float) -> None:
    """As far as the solver takes data N(0, std^2) to themselves: its numbers are fitted to mixtures."""
    process = ColouredGaussianProcess(
        schedule=Cosine(), parametrisation=EDM(sigma_data=STD), colour=Separable.of(*covariances()), dtype=F64
    )
    noise = roots(process.colour, (H, V))
    coloured = law(NetworkDenoiser(Silent(), {"x": process}), process, noise, calls)
    truth = STD**2 * table()
    torch.testing.assert_close(coloured, truth, rtol=off, atol=0)
    plain = GaussianProcess(schedule=Cosine(), parametrisation=Data(), dtype=F64)
    white = law(Exact(truth), plain, torch.eye(H * V, dtype=F64), calls)  # with the exact denoiser
    assert float((white - truth).norm()) > 2 * float((coloured - truth).norm())


def test_what_noise_does_to_data_has_the_covariance_of_the_process() -> None:
    process = ColouredGaussianProcess(
        schedule=Cosine(), parametrisation=EDM(sigma_data=STD), colour=Separable.of(*covariances()), dtype=F64
    )
    count = 20_000
    rows, noise = Layout.dense(count, {"x": (H, V)}).rows("x"), Noise(seed=3, index=torch.arange(count))
    x_0, t = torch.full((count, H, V), 2.0, dtype=F64), torch.full((count,), 0.4, dtype=F64)
    alpha, sigma = (float(level[0]) for level in Cosine()(t))
    off = (process.corrupt(x_0, t, rows, noise.at("x", 0, rows)) - alpha * x_0).flatten(1)
    torch.testing.assert_close(off.T @ off / count, sigma**2 * table(), atol=0.03, rtol=0)
    start = process.prior(rows, noise.at("x", 1, rows)).flatten(1)
    torch.testing.assert_close(start.T @ start / count, table(), atol=0.04, rtol=0)


def test_covariances_that_are_none_are_refused() -> None:
    rows, columns = covariances()
    with pytest.raises(ValueError, match="positive definite"):
        Separable.of(rows - 2, columns)
    with pytest.raises(ValueError, match="variances >= 0"):
        Spectrum(variance=-torch.ones(1, 2, 2))
