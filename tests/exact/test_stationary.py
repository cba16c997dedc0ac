"""Wiener's preconditioning: exact for Gaussian fields, EDM for white ones; the U-Net and the symmetries go with it."""

from __future__ import annotations

import torch

from scidiff.denoiser import NetworkDenoiser
from scidiff.fluids.model import prior_of
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov
from scidiff.fluids.spectral import Box
from scidiff.fluids.symmetries import moved
from scidiff.networks.unet import UNet
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.processes.stationary import Stationary
from scidiff.schedules import Cosine
from scidiff.state import Layout

SIZE = 8


def _prior() -> Stationary:
    box = Box(shape=(SIZE, SIZE))
    k_y, k_x = box.wavenumbers()
    mean = torch.linspace(-1, 1, SIZE, dtype=torch.float64)[None, :, None].expand(1, SIZE, SIZE)
    variance = 3 / (1 + k_y**2 + 2 * k_x**2) ** 2
    return Stationary(mean=mean.contiguous(), variance=torch.where(k_y**2 + k_x**2 > 0, variance, 0)[None])


def _levels() -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.tensor(x, dtype=torch.float64).reshape(-1, 1, 1, 1) for x in ([0.9, 0.4], [0.3, 1.2]))


def test_without_an_answer_it_is_the_posterior_mean_of_a_gaussian_field():
    prior, (alpha, sigma) = _prior(), _levels()
    x_t = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean = prior.clean(torch.zeros_like(x_t), x_t, alpha, sigma)
    eye = torch.eye(SIZE * SIZE, dtype=torch.float64).reshape(-1, SIZE, SIZE)
    covariance = torch.fft.irfft2(torch.fft.rfft2(eye) * prior.variance, s=(SIZE, SIZE)).flatten(1)
    for row in range(2):
        a, s = float(alpha[row]), float(sigma[row])
        off = x_t[row].flatten() - a * prior.mean.flatten()
        total = a**2 * covariance + s**2 * torch.eye(SIZE * SIZE, dtype=torch.float64)
        expected = prior.mean.flatten() + a * covariance @ torch.linalg.solve(total, off)
        torch.testing.assert_close(clean[row].flatten(), expected, rtol=0, atol=1e-12)
        left = covariance - a**2 * covariance @ torch.linalg.solve(total, covariance)
        _, gain = prior.coefficients(alpha, sigma)
        torch.testing.assert_close(gain[row].square().squeeze(), left.diagonal().mean(), rtol=1e-12, atol=0)


def test_output_inverts_clean():
    prior, (alpha, sigma) = _prior(), _levels()
    source = torch.Generator().manual_seed(1)
    x_t, output = (torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64, generator=source) for _ in range(2))
    output = output - output.mean((-2, -1), keepdim=True)  # the mean has no variance
    torch.testing.assert_close(prior.output(prior.clean(output, x_t, alpha, sigma), x_t, alpha, sigma), output)


def test_white_fields_are_preconditioned_as_by_edm():
    white = Stationary(
        mean=torch.zeros(1, SIZE, SIZE, dtype=torch.float64),
        variance=torch.full((1, SIZE, SIZE // 2 + 1), 0.25, dtype=torch.float64),
    )
    edm, (alpha, sigma) = EDM(sigma_data=0.5), _levels()
    x_t = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(white.clean(x_t**2, x_t, alpha, sigma), edm.clean(x_t**2, x_t, alpha, sigma))
    torch.testing.assert_close(white.network_input(x_t, alpha, sigma)[:, :1], edm.network_input(x_t, alpha, sigma))
    for ours, theirs in zip(white.coefficients(alpha, sigma), edm.coefficients(alpha, sigma), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_prior_of_white_noise_is_one():
    fields = torch.randn(400, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) + 2
    prior = prior_of(fields)
    torch.testing.assert_close(prior.mean.mean(), torch.tensor(2.0), rtol=0, atol=0.02)
    torch.testing.assert_close(prior.variance, torch.ones_like(prior.variance), rtol=0, atol=0.3)
    torch.testing.assert_close(prior.variance.mean(), torch.tensor(1.0), rtol=0, atol=0.03)


def test_symmetries_commute_with_the_flow():
    box = Box(shape=(32, 32))
    flow = NavierStokes(box=box, viscosity=0.01, forcing=kolmogorov(box, waves=4))
    omega = torch.randn(5, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    omega = box.multiply(omega, (box.shells() < 6) & (box.shells() > 0)) * 3
    how = {
        "shift": torch.tensor([0, 5, 0, 0, 7]),
        "turned": torch.tensor([False, False, True, False, True]),
        "half_waves": torch.tensor([0, 0, 0, 1, 3]),
        "points": 4,
    }
    after = flow.integrate(omega, step=0.02, steps=20)
    assert (after - omega).abs().mean() > 0.05
    torch.testing.assert_close(flow.integrate(moved(omega, **how), step=0.02, steps=20), moved(after, **how))
    assert all((moved(omega, **how)[k] - omega[k]).abs().max() > 1 for k in range(1, 5))


def test_the_network_goes_around_the_box_and_starts_at_the_filter():
    network = UNet(leaf="x", inputs=2, outputs=1, widths=(16, 24), blocks=1).double()
    process = GaussianProcess(schedule=Cosine(), parametrisation=_prior())
    layout, t = Layout.dense(2, {"x": (1, SIZE, SIZE)}), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = torch.randn(2, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rows = layout.rows("x")
    clean = NetworkDenoiser(network, {"x": process})({"x": x}, t, layout)["x"]
    torch.testing.assert_close(clean, process.clean(torch.zeros_like(x), x, t, rows))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
        inputs = torch.cat([x, x**2], 1)
        plain = network({"x": inputs}, t, layout)["x"]
        around = network({"x": inputs.roll((4, 4), (-2, -1))}, t, layout)["x"]
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(around, plain.roll((4, 4), (-2, -1)))
