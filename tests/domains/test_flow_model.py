"""A denoiser of flow fields comes back from disk as it went."""

from __future__ import annotations

import json
import math

import pytest
import torch

from scidiff.fluids.calibrated import Calibrated
from scidiff.fluids.covariance import Covariance
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel, covariance_of, prior_of
from scidiff.fluids.symmetries import images, symmetrised
from scidiff.state import Layout
from scidiff.weights import WeightsError


def test_a_model_comes_back_from_its_folder(tmp_path):
    fields = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = FlowConfig(shape=(16, 16), lengths=(2 * math.pi, 2 * math.pi), scale=4.0, waves=4, widths=(8, 8), blocks=1)
    prior = prior_of(fields)
    share = torch.rand(3, 9, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    left = Calibrated.of_shares(covariance_of(fields[:, 0], prior, waves=4), levels, share)
    model = FlowModel.create(sizes, prior, covariance=left, card={"seed": 0})
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.copy_((parameter + 0.1 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))).half())
    model.save(tmp_path / "model")
    again = FlowModel.load(tmp_path / "model")
    assert (again.config, again.card) == (sizes, {"seed": 0})
    torch.testing.assert_close(again.covariance.matrices(), model.covariance.matrices(), rtol=0, atol=1e-5)
    assert isinstance(again.covariance, Calibrated)
    torch.testing.assert_close(again.covariance.share, share, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(again.covariance.levels, levels)
    layout, t = Layout.dense(3, {LEAF: (1, 16, 16)}), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    clean, same = (m.denoiser({LEAF: fields[:3]}, t, layout)[LEAF] for m in (model, again))
    torch.testing.assert_close(same, clean, rtol=1e-3, atol=1e-3)
    filtered = FlowModel.create(sizes, prior_of(fields)).denoiser({LEAF: fields[:3]}, t, layout)[LEAF]
    assert clean.isfinite().all()
    assert (clean - filtered).abs().max() > 0.05


def test_a_record_that_says_nothing_was_told_is_read_and_one_that_says_more_is_refused(tmp_path):
    fields = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    sizes = FlowConfig(shape=(16, 16), lengths=(2 * math.pi, 2 * math.pi), scale=4.0, waves=4, widths=(8,), blocks=1)
    FlowModel.create(sizes, prior_of(fields)).save(tmp_path / "model")
    path = tmp_path / "model" / "weights.json"
    record = json.loads(path.read_text())
    del record["config_sha256"]
    record["config"]["flow"]["reynolds"] = None
    path.write_text(json.dumps(record))
    assert FlowModel.load(tmp_path / "model").config == sizes
    record["config"]["flow"]["reynolds"] = [50.0, 400.0]
    path.write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="expected weights of a flow, got others: several flows"):
        FlowModel.load(tmp_path / "model")


def test_covariances_average_over_the_symmetries_of_the_force():
    fields = torch.randn(30, 16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fields = fields * torch.linspace(0.5, 2.0, 16, dtype=torch.float64)[:, None]
    one, all_of_them = (
        Covariance.of(fields, torch.zeros(16, 12)),
        Covariance.of(images(fields, waves=2), torch.zeros(16, 12)),
    )
    torch.testing.assert_close(symmetrised(one.matrices(), waves=2), all_of_them.matrices())
