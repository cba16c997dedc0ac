"""Several flows in one network: each is denoised as its own, and what was not learned is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor
from typer.testing import CliRunner

from scidiff.cli.fluids import app
from scidiff.cli.inverting import app as every_app
from scidiff.errors import UserError
from scidiff.fluids import ensemble
from scidiff.fluids.constraints import Curl
from scidiff.fluids.family import FamilyConfig, FlowFamily
from scidiff.fluids.model import LEAF
from scidiff.fluids.navier_stokes import NavierStokes, kolmogorov
from scidiff.fluids.spectral import Box
from scidiff.fluids.symmetries import FlowBatches, images
from scidiff.fluids.tasks import load
from scidiff.fluids.telling import Learned, ToldBatches
from scidiff.schedules import Cosine
from scidiff.state import Layout

BOX = Box(shape=(16, 16))
REYNOLDS, WAVES = (50.0, 100.0, 400.0), (2, 4)
CONFIG = FamilyConfig(
    reynolds=REYNOLDS, waves=WAVES, shape=BOX.shape, lengths=BOX.lengths, scale=2.0, widths=(8,), blocks=1
)


def flows() -> Tensor:
    """Fields of each flow [K, J, S, H, W], a mean of its own waves and noise of its own strength."""
    noise = torch.randn(2, 3, 40, 16, 16, generator=torch.Generator().manual_seed(1))
    mean = torch.stack([kolmogorov(BOX, waves=n).float() for n in WAVES])
    strength = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.5, 2.5]])
    return 0.2 * strength[..., None, None, None] * (noise + mean[:, None, None])


def family(*, heard: bool = True) -> FlowFamily:
    """A small one; `heard`: whose network says something, as its last layer is not zero."""
    found = FlowFamily.create(CONFIG, Learned.of(flows(), reynolds=REYNOLDS, waves=WAVES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in found.denoiser.named_parameters():
            if heard and ("head" in name or "second" in name):
                torch.nn.init.normal_(parameter, std=0.05)
    return found


def told(reynolds: list[float], waves: list[int]) -> dict[str, Tensor]:
    return {"reynolds": torch.tensor(reynolds, dtype=torch.float64), "waves": torch.tensor(waves)}


def drawn(of: FlowFamily, reynolds: float, waves: int) -> Tensor:
    model = of.told(reynolds=reynolds, waves=waves)
    return ensemble.drawn(model, Curl(leaf=LEAF, box=BOX), samples=3, seed=1, calls=3)


def test_flows_between_two_that_were_learned_are_mixed_by_the_logarithm():
    learned = family().learned
    shares = learned.shares(told([50, 100, 400, 200, math.sqrt(5000)], [2, 4, 4, 2, 4]))
    at = torch.zeros(5, 2, 3)
    at[0, 0, 0] = at[1, 1, 1] = at[2, 1, 2] = 1
    at[3, 0, 1:] = at[4, 1, :2] = 0.5
    torch.testing.assert_close(shares, at, atol=1e-6, rtol=0)
    facts = learned.facts(told([50, 400, math.sqrt(50 * 400)], [2, 4, 4]))
    torch.testing.assert_close(facts, torch.tensor([[-1.0, 1, 0], [1, 0, 1], [0, 0, 1]]), atol=1e-6, rtol=0)
    prior = learned.prior(told([200], [2]))
    torch.testing.assert_close(prior.mean, learned.mean[0, 1:].mean(0))
    covariance = learned.covariance(told([200], [2]))
    torch.testing.assert_close(covariance.matrices(), learned.matrices[0, 1:].mean(0))


def test_mean_and_covariance_have_the_symmetries_of_their_own_force():
    learned = family().learned
    for k, n in enumerate(WAVES):
        for j, strength in enumerate(([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])[k]):
            mean = learned.mean[k, j]
            torch.testing.assert_close(images(mean, waves=n), mean.expand(4 * n, -1, -1), atol=1e-5, rtol=0)
            wanted = 0.2 * strength * kolmogorov(BOX, waves=n).float()
            assert (mean[0] - wanted).abs().max() < 0.1 * 0.2 * strength
            spread = learned.covariance(told([REYNOLDS[j]], [n])).total() / 256
            assert abs(float(spread) / (0.2 * strength) ** 2 - 1) < 0.1


def test_a_fresh_family_denoises_each_field_as_the_gaussian_field_of_its_flow():
    """Against the posterior mean by dense linear algebra, of points, not waves."""
    of, reynolds, waves = family(heard=False), [50.0, 200.0, 400.0], [4, 2, 4]
    of.denoiser.double()
    x = torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64)
    layout = Layout.dense(3, {LEAF: (1, 16, 16)})
    clean = of.denoiser({LEAF: x}, t, layout, told(reynolds, waves))[LEAF].detach()
    for k in range(3):
        prior = of.learned.prior(told([reynolds[k]], [waves[k]]))
        mean, variance = prior.mean.double().numpy().ravel(), prior.variance[0].double().numpy()
        unit = np.eye(256).reshape(256, 16, 16)
        dense = np.fft.irfft2(np.fft.rfft2(unit) * variance, s=(16, 16)).reshape(256, 256)
        alpha, sigma = map(float, Cosine()(t[k]))
        seen = alpha**2 * dense + sigma**2 * np.eye(256)
        wanted = mean + alpha * dense @ np.linalg.solve(seen, x[k].numpy().ravel() - alpha * mean)
        np.testing.assert_allclose(clean[k].numpy().ravel(), wanted, atol=1e-6)


def test_fields_of_several_flows_together_are_denoised_as_each_alone():
    of, reynolds, waves = family(), [50.0, 170.0, 400.0, 50.0], [4, 2, 4, 2]
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3)).expand(4, -1, -1, -1).contiguous()
    t = torch.full((4,), 0.4, dtype=torch.float64)
    four, one = (Layout.dense(count, {LEAF: (1, 16, 16)}) for count in (4, 1))
    together = of.denoiser({LEAF: x}, t, four, told(reynolds, waves))[LEAF]
    for k in range(4):
        alone = of.told(reynolds=reynolds[k], waves=waves[k]).denoiser({LEAF: x[k : k + 1]}, t[:1], one)[LEAF]
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-5, rtol=1e-4)
    said = together - family(heard=False).denoiser({LEAF: x}, t, four, told(reynolds, waves))[LEAF]
    assert (said[0] - said[3]).abs().max() > 1e-3  # the same number, another force
    assert (said[0] - said[2]).abs().max() > 1e-3  # the same force, another number


def test_the_network_is_shown_the_waves_of_each_field_s_own_force():
    of, shown = family(), []

    class Spy(torch.nn.Module):
        def forward(self, inputs, t, layout, condition):
            shown.append((inputs[LEAF][:, 2:], condition["facts"]))
            return {LEAF: inputs[LEAF][:, :1]}

    of.denoiser.network = Spy()
    x, t = torch.randn(3, 1, 16, 16), torch.full((3,), 0.4, dtype=torch.float64)
    layout, y = Layout.dense(3, {LEAF: (1, 16, 16)}), BOX.coordinates()[0].float()
    of.denoiser({LEAF: x}, t, layout, told([50, 400, 400], [4, 2, 4]))
    of.told(reynolds=400, waves=2).denoiser({LEAF: x}, t, layout)
    for (maps, facts), waves, place in ((shown[0], [4, 2, 4], [-1.0, 1, 1]), (shown[1], [2, 2, 2], [1.0, 1, 1])):
        for k, n in enumerate(waves):
            wanted = torch.stack([torch.cos(n * y), torch.sin(n * y)])[:, :, None].expand(-1, -1, 16)
            torch.testing.assert_close(maps[k], wanted)
            torch.testing.assert_close(facts[k], torch.tensor([float(place[k]), n == 2, n == 4]), atol=1e-6, rtol=0)


def test_draws_have_the_mean_of_their_own_force():
    of = family(heard=False)
    for n in WAVES:
        model = of.told(reynolds=400, waves=n)
        assert model.config.equation.viscosity == 1 / 400
        torch.testing.assert_close(model.config.equation.forcing[0, 0], torch.tensor(-float(n)).double())
        found = ensemble.drawn(model, Curl(leaf=LEAF, box=BOX), samples=64, seed=1, calls=8).mean((0, 1, 3))
        wanted = model.prior.mean[0, :, 0].double()
        assert (found - wanted).norm() < 0.3 * wanted.norm()


def test_batches_move_each_field_by_the_symmetries_of_its_own_flow():
    """The curl of a force is what the symmetries of its flow leave as it is, and no others do."""
    waves = torch.tensor([1, 2, 4, 8]).repeat(10)
    fields = torch.stack([kolmogorov(BOX, waves=int(n)).float() for n in waves])
    numbers = torch.arange(40, dtype=torch.float64)
    batches = ToldBatches(fields, told={"reynolds": numbers, "waves": waves}, leaf="x", size=20, seed=3)
    for position in range(10):
        batch = batches.at(position)
        chosen = batch.condition["reynolds"].long()
        assert torch.equal(batch.condition["waves"], waves[chosen])
        torch.testing.assert_close(batch.x_0["x"][:, 0], fields[chosen])
    wrong = FlowBatches(fields, leaf="x", waves=4, size=20, seed=3).at(0).x_0["x"]
    assert torch.cdist(wrong.flatten(1), fields.flatten(1)).min(1).values.max() > 1
    with pytest.raises(ValueError, match="multiple of 6 rows"):
        FlowBatches(fields, leaf="x", waves=torch.tensor([2, 3]).repeat(20), size=20)
    other = ToldBatches(fields, told={"reynolds": numbers + 1, "waves": waves}, leaf="x", size=20, seed=3)
    assert other.fingerprint != batches.fingerprint


def test_images_are_solutions_of_the_same_flow():
    omega = BOX.multiply(torch.randn(1, 16, 16, dtype=torch.float64), (BOX.shells() < 4) & (BOX.shells() > 0))
    for n in (1, 2):
        flow = NavierStokes(box=BOX, viscosity=0.02, forcing=kolmogorov(BOX, waves=n))
        after = [images(flow.integrate(omega, step=0.02, steps=20), waves=n)]
        after.append(flow.integrate(images(omega, waves=n), step=0.02, steps=20))
        torch.testing.assert_close(*after)
        assert len({float(one.flatten()[3]) for one in images(omega, waves=n)}) == 4 * n


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"reynolds": 401, "waves": 2}, "--reynolds: expected 50 to 400, as in training, got 401"),
        ({"reynolds": None, "waves": 2}, "--reynolds: expected 50 to 400, as in training, got none"),
        ({"reynolds": float("nan"), "waves": 2}, "got nan"),
        ({"reynolds": 100, "waves": 3}, "--forcing-waves: expected 2 or 4, as in training, got 3"),
        ({"reynolds": 100, "waves": None}, "--forcing-waves: expected 2 or 4, as in training, got none"),
    ],
)
def test_what_was_not_learned_is_refused(asked: dict[str, float], message: str):
    with pytest.raises(UserError, match=message):
        family().told(**asked)


def test_weights_of_one_flow_are_not_told():
    with pytest.raises(UserError, match="--reynolds: expected with weights of several flows only, got it with winds"):
        load("winds", reynolds=100)
    with pytest.raises(UserError, match="--forcing-waves: expected with weights of several flows only"):
        load("kolmogorov", waves=4)


def test_weights_come_back_from_a_folder(tmp_path: Path):
    of = family()
    of.save(tmp_path / "told")
    again = FlowFamily.load(tmp_path / "told")
    assert again.config == of.config
    torch.testing.assert_close(drawn(again, 120, 4), drawn(of, 120, 4), atol=0.02, rtol=0.02)
    assert (drawn(again, 120, 4) - drawn(again, 390, 4)).abs().mean() > 1e-3
    assert (drawn(again, 120, 4) - drawn(again, 120, 2)).abs().mean() > 1e-2
    out = tmp_path / "out.nc"
    asked = ["generate", "--model", str(tmp_path / "told"), "--samples", "2", "--calls", "3", "--out", str(out)]
    found = CliRunner().invoke(app, [*asked, "--reynolds", "120"])
    assert isinstance(found.exception, UserError)
    assert not out.exists()
    found = CliRunner().invoke(app, [*asked, "--reynolds", "120", "--forcing-waves", "2"])
    assert found.exit_code == 0, found.output
    with xr.open_dataset(out) as written:
        assert (written.attrs["reynolds_number"], written.attrs["forcing_waves"]) == (120, 2)
    found = CliRunner().invoke(every_app, ["rollout", str(out), "--model", str(tmp_path / "told"), "--out", str(out)])
    assert "expected weights of a flow in time" in str(found.exception)
