"""The Fourier neural operator: its spectral convolution by an FFT, shifts, and one function on every grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scidiff.fluids.fresh import fresh, network
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel
from scidiff.networks.fno import FNO, Differential, SpectralConvolution
from scidiff.networks.unet import WalledConvolution
from scidiff.processes.stationary import Stationary
from scidiff.state import Layout

LAYOUT = Layout.dense(2, {"field": (3, 8, 8)})


def _net(**options: int) -> FNO:
    """One whose zero layers have learned something."""
    net = fresh(lambda: FNO(leaf="field", inputs=3, outputs=1, width=16, depth=2, modes=5, **options), 0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("head") or ".second." in name:
                parameter.copy_(0.3 * torch.sin(1.0 + torch.arange(parameter.numel())).view_as(parameter))
    return net.double()  # type: ignore[return-value]


def _waves(points: int) -> Tensor:
    """Fields of few waves on a grid: [2, 3, points, points]."""
    at = torch.arange(points).double() * (2 * math.pi / points)
    y, x = at[:, None], at
    fields = [torch.cos(y + k) * torch.sin(2 * x - k) + 0.5 * torch.sin(3 * y + x * k) for k in range(6)]
    return torch.stack(fields).reshape(2, 3, points, points)


def _answer(net: FNO, fields: Tensor) -> Tensor:
    with torch.no_grad():
        return net({"field": fields}, torch.tensor([0.3, 0.7], dtype=torch.float64), LAYOUT)["field"]


@pytest.mark.parametrize(("axis", "points"), [(-1, 12), (-1, 9), (-2, 16), (-2, 7)])
def test_a_spectral_convolution_is_what_an_fft_says(axis: int, points: int):
    layer = SpectralConvolution(4, 5, axis=axis).double()
    x = torch.randn(2, 4, points, points, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = min(5, (points - 1) // 2) + 1
    along = x.movedim(axis, -1)
    modes = torch.fft.rfft(along)
    out = torch.zeros_like(modes)
    out[..., :kept] = torch.einsum("bcrk,kcd->bdrk", modes[..., :kept], torch.complex(*layer.weight[:, :kept]))
    expected = torch.fft.irfft(out, n=points).movedim(-1, axis)
    torch.testing.assert_close(layer(x), expected)


def test_the_local_term_is_a_derivative_on_a_fine_grid():
    layer = Differential(3).double()
    offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    slope_x, slope_y = (layer.weight * offsets).sum((-2, -1)), (layer.weight * offsets[:, None]).sum((-2, -1))
    errors = []
    for points in (64, 128):
        at = torch.arange(points).double() * (2 * math.pi / points)
        field = (torch.sin(at)[:, None] * torch.cos(2 * at)).expand(1, 3, -1, -1)
        along_y, along_x = torch.cos(at)[:, None] * torch.cos(2 * at), -2 * torch.sin(at)[:, None] * torch.sin(2 * at)
        expected = slope_y[..., None] * along_y + slope_x[..., None] * along_x
        errors.append(float((layer(field)[0] - expected).abs().max().detach()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3)


def test_a_shifted_field_gives_the_shifted_answer():
    net, fields = _net(), torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = _answer(net, fields.roll((3, -5), (-2, -1)))
    torch.testing.assert_close(moved, _answer(net, fields).roll((3, -5), (-2, -1)))
    assert (moved - _answer(net, fields)).abs().max() > 0.1


def test_one_function_on_every_grid():
    """Two grids differ by the error of the local term, which halves with the spacing."""
    net = _net()
    coarse, middle, fine = (_answer(net, _waves(points)) for points in (32, 64, 128))
    size = float(fine.abs().max())
    apart = [
        float((a - b[..., ::2, ::2]).abs().max()) / size for a, b in ((coarse, middle), (middle, fine))
    ]  # the points that both have
    assert size > 0.1
    assert apart[1] < 0.05
    assert 1.6 < apart[0] / apart[1] < 2.4


def test_all_that_can_learn_does():
    net = _net()
    net({"field": _waves(16)}, torch.tensor([0.3, 0.7], dtype=torch.float64), LAYOUT)[
        "field"
    ].square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_flow_model_may_have_one(tmp_path):
    sizes = FlowConfig(
        shape=(16, 16), lengths=(2 * math.pi,) * 2, scale=2.0, waves=2, network="fno", widths=(8,), blocks=1
    )
    prior = Stationary(mean=torch.zeros(1, 16, 16), variance=torch.ones(1, 16, 9))
    FlowModel.create(sizes, prior).save(tmp_path / "model")
    again = FlowModel.load(tmp_path / "model")
    assert isinstance(again.denoiser.network, FNO)
    x, t = torch.ones(2, 1, 16, 16), torch.full((2,), 0.5, dtype=torch.float64)
    assert again.denoiser({LEAF: x}, t, Layout.dense(2, {LEAF: (1, 16, 16)}))[LEAF].shape == x.shape


def test_it_knows_no_walls():
    shared = {"leaf": "field", "inputs": 1, "outputs": 1, "maps": torch.zeros(0, 8, 8), "blocks": 1}
    with pytest.raises(ValueError, match="expected a periodic field"):
        network("fno", widths=(8,), convolution=WalledConvolution, **shared)
    with pytest.raises(ValueError, match="one width of an FNO"):
        network("fno", widths=(8, 8), **shared)
