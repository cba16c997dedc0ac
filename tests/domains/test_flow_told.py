"""What a flow's network is told of: facts, who hears them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from scidiff.cli.fluids import app
from scidiff.errors import UserError
from scidiff.fluids import ensemble
from scidiff.fluids.constraints import Curl
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel, prior_of
from scidiff.fluids.tasks import load
from scidiff.fluids.telling import UNTOLD, ToldBatches, facts
from scidiff.networks.unet import UNet

SPAN = (50.0, 400.0)


def model(reynolds: tuple[float, float] | None = SPAN) -> FlowModel:
    """A small one, whose network hears: its last layer is not zero."""
    fields = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    sizes = FlowConfig(
        shape=(16, 16), lengths=(6.28, 6.28), scale=2.0, waves=2, widths=(8,), blocks=1, reynolds=reynolds
    )
    found = FlowModel.create(sizes, prior_of(fields))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in found.denoiser.named_parameters():
            if "head" in name or "second" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return found


def drawn(flow: FlowModel) -> torch.Tensor:
    curl = Curl(leaf=LEAF, box=flow.config.box)
    return ensemble.drawn(flow, curl, samples=3, seed=1, calls=3)


def test_facts_are_the_logarithm_between_the_ends_of_training():
    told = facts(torch.tensor([50.0, 400.0, (50 * 400) ** 0.5, 100.0]), SPAN)
    torch.testing.assert_close(told[:, 0], torch.tensor([-1.0, 1.0, 0.0, -1 / 3]), atol=1e-6, rtol=0)
    assert (told[:, 1] == 1).all()


def test_draws_heed_the_number_and_an_untold_network_does_not():
    flow = model()
    low, high, none = drawn(flow.told(60)), drawn(flow.told(390)), drawn(flow)
    assert (low - high).abs().mean() > 1e-4
    assert (low - none).abs().mean() > 1e-4
    torch.testing.assert_close(drawn(flow.told(60)), low)
    assert flow.told(80).config.equation.viscosity == 1 / 80


def test_what_cannot_be_told_is_refused():
    with pytest.raises(UserError, match="expected 50 to 400, as in training, got 401"):
        model().told(401)
    with pytest.raises(UserError, match="expected weights that are told"):
        model(None).told(100)
    with pytest.raises(UserError, match="expected a number"):
        _ = model().config.equation
    with pytest.raises(UserError, match="periodic flow only, got it with winds"):
        load("winds", reynolds=100)
    with pytest.raises(ValueError, match="a context or facts"):
        UNet(leaf="x", inputs=1, outputs=1, context=1, facts=2)


def test_weights_come_back_from_a_folder(tmp_path: Path):
    flow = model()
    flow.save(tmp_path / "told")
    again = FlowModel.load(tmp_path / "told")
    assert again.config == flow.config
    torch.testing.assert_close(drawn(again.told(120)), drawn(flow.told(120)), atol=0.02, rtol=0.02)
    out = tmp_path / "out.nc"
    asked = ["generate", "--model", str(tmp_path / "told"), "--samples", "2", "--calls", "3", "--out", str(out)]
    found = CliRunner().invoke(app, [*asked, "--reynolds", "120"])
    assert found.exit_code == 0, found.output
    assert out.exists()
    found = CliRunner().invoke(app, [*asked, "--reynolds", "900"])
    assert isinstance(found.exception, UserError)


def test_batches_tell_most_fields_their_own_facts():
    fields = torch.arange(40.0)[:, None, None].expand(40, 8, 8).contiguous()
    told = torch.stack([torch.arange(40.0) + 1, torch.ones(40)], 1)
    batches = ToldBatches(fields, facts=told, leaf="x", waves=2, size=20, seed=3)
    heard = 0
    for position in range(50):
        batch = batches.at(position)
        number = batch.x_0["x"][:, 0, 0, 0].abs()  # reflections change the sign
        assert isinstance(batch.condition, dict)
        given = batch.condition["facts"]
        known = given[:, 1] == 1
        torch.testing.assert_close(given[known, 0], number[known] + 1)
        assert (given[~known] == 0).all()
        heard += int(known.sum())
    assert abs(heard / 1000 - (1 - UNTOLD)) < 0.03
    again = ToldBatches(fields, facts=told, leaf="x", waves=2, size=20, seed=3).at(7)
    assert torch.equal(again.condition["facts"], batches.at(7).condition["facts"])
