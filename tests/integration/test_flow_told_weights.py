"""The packaged weights of several flows."""

from __future__ import annotations

import pytest

from scidiff.fluids import ensemble
from scidiff.fluids.constraints import Curl
from scidiff.fluids.model import LEAF
from scidiff.fluids.statistics import flatness
from scidiff.fluids.tasks import load

ENSTROPHY = {2: 4.1, 4: 7.1}  # of the simulator at 140, by benchmarks/flow_told.py


@pytest.mark.parametrize("waves", [2, 4])
def test_the_mean_flow_is_that_of_the_force(waves: int):
    model = load("kolmogorov-told", reynolds=140, waves=waves)
    y, _ = model.config.box.coordinates()
    profile, push = model.prior.mean[0, :, 0].double(), -(waves * y).cos()
    assert float(profile @ push / profile.norm() / push.norm()) > 0.99
    assert model.config.equation.viscosity == 1 / 140


@pytest.mark.slow
@pytest.mark.parametrize("waves", [2, 4])
def test_draws_have_the_enstrophy_of_their_flow_and_fronts(waves: int):
    model = load("kolmogorov-told", reynolds=140, waves=waves)
    curl = Curl(leaf=LEAF, box=model.config.box)
    found = ensemble.draw(model, curl, samples=ensemble.TILE, seed=3).vorticity
    assert abs(float(found.square().mean()) / 2 / ENSTROPHY[waves] - 1) < 0.3
    assert flatness(curl.box, found) > 3.5  # of a Gaussian field it is 3
