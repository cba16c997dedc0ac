"""Rollouts of a linear flow under Gaussian noise, whose statistics are known, by a network that answers 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from scidiff.errors import UserError
from scidiff.fluids.animation import write_animation
from scidiff.fluids.rollout import TILE, drawn, expected, rollout, seed_of, unrolled
from scidiff.fluids.spectral import Box
from scidiff.fluids.transition import (
    LEAF,
    Linear,
    TransitionBatches,
    TransitionConfig,
    TransitionModel,
    erring,
)
from scidiff.noise import Noise
from scidiff.schedules import Cosine
from scidiff.solvers import Gaussian, moments, recommended
from scidiff.state import Layout
from scidiff.weights import WeightsError

BOX = Box(shape=(16, 16))
SCALE, CHANGE = 3.0, 0.4


def linear() -> Linear:
    """A falls from 0.9 with the number of waves, r is a field of steep spectrum and unit variance."""
    shells = BOX.shells().double()
    variance = 1 / (1 + shells) ** 3
    variance[0, 0] = 0
    carried, mean = 0.9 * torch.exp(-shells / 8), torch.zeros(1, 16, 16)
    return Linear(carried=carried, mean=mean, spectrum=(variance / _mean(variance))[None], change=CHANGE)


def _mean(variance: torch.Tensor) -> float:
    twice = torch.full((9,), 2.0)
    twice[[0, -1]] = 1
    return float((variance * twice).sum() / 256)


def model(**changed: object) -> TransitionModel:
    sizes = TransitionConfig(
        shape=(16, 16), lengths=BOX.lengths, scale=SCALE, waves=2, interval=0.5, change=CHANGE, error=0.1,
        widths=(8, 8), blocks=1, **changed,  # type: ignore[arg-type]
    )  # fmt: skip
    return TransitionModel.create(sizes, linear())


def test_a_linear_flow_has_the_variance_and_the_memory_that_it_should() -> None:
    """x' = A x + c r is stationary with variance c^2 S / (1 - A^2) of each mode, A times it from one step to the next.

    The solver leaves r narrower by a factor that is known, the same for all modes.
    """
    step, count = drawn(model(), 6), 128
    _, narrow = moments(recommended(Cosine(), 6), Cosine(), Gaussian(mean=0.0, std=1.0))
    assert 0.97 < narrow <= 1
    late = unrolled(step, torch.zeros(count, 16, 16), torch.arange(count), seed=3, steps=16)[:, -2:]
    waves = torch.fft.rfft2(late.double(), norm="ortho")
    flow = linear()
    variance = (narrow * CHANGE) ** 2 * flow.spectrum[0] / (1 - flow.carried**2)
    known = variance > 0
    power = waves[:, 1].abs().square().mean(0)[known] / variance[known]
    memory = (waves[:, 0].conj() * waves[:, 1]).real.mean(0)[known] / (flow.carried * variance)[known]
    assert abs(float(power.mean()) - 1) < 0.03
    assert abs(float(memory.mean()) - 1) < 0.05
    assert waves[:, 1].mean(0).abs().max() < 5 * math.sqrt(float(variance.max()) / count)


def test_the_step_without_chance_is_the_linear_prediction() -> None:
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    one, noise = model(), Noise(seed=0, index=torch.arange(2))
    torch.testing.assert_close(expected(one)(x, noise), one.predicted(x))


def test_the_linear_prediction_is_found_from_pairs() -> None:
    flow = linear()
    shape, source = (3000, 16, 16), torch.Generator().manual_seed(1)
    before = torch.randn(shape, generator=source)
    rest = torch.fft.irfft2(torch.fft.rfft2(torch.randn(shape, generator=source)) * flow.spectrum[0].sqrt())
    after = torch.fft.irfft2(torch.fft.rfft2(before) * flow.carried) + CHANGE * rest
    found = Linear.of(before, after.float())
    assert abs(found.change - CHANGE) < 0.01
    torch.testing.assert_close(found.carried.double(), flow.carried, rtol=0, atol=0.05)
    ratio = found.spectrum[0].double() / flow.spectrum[0].clamp_min(1e-9)
    assert (ratio[flow.spectrum[0] > 0] - 1).abs().mean() < 0.03


def test_a_trajectory_is_the_same_whatever_is_drawn_beside_it() -> None:
    start = 3 * torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(2))
    many = rollout(model(), start, steps=3, samples=TILE + 2, seed=7)
    few = rollout(model(), start, steps=2, samples=3, seed=7)
    assert torch.equal(many.vorticity[:3, :3], few.vorticity)
    assert torch.equal(many.vorticity[:, 0].float(), SCALE * (start / SCALE)[torch.arange(TILE + 2) % 2])
    assert many.times.tolist() == [0, 0.5, 1, 1.5]
    again = many.vorticity[2, 1:] - many.vorticity[0, 1:]  # the same start, another number
    assert again.abs().amax((-2, -1)).min() > 0.1
    assert len({seed_of(seed, n) for seed in (0, 1) for n in range(50)}) == 100


def test_pairs_to_learn_from_are_steps_with_an_error(tmp_path) -> None:
    """r and what is told add up to the second field of a pair, whichever symmetry moved it."""
    pairs = torch.randn(9, 2, 16, 16, generator=torch.Generator().manual_seed(4))
    one = model()
    batch = TransitionBatches(pairs, one, size=3, seed=5).at(4)
    assert isinstance(batch.condition, torch.Tensor)
    before = batch.condition[:, :1]
    after = one.predicted(before) + CHANGE * batch.x_0[LEAF]
    error = erring(one, Noise(seed=5, index=batch.index))
    sizes = (before - error).square().mean((1, 2, 3)), after.square().mean((1, 2, 3))
    owners = [
        [k for k in range(9) if abs(float(pairs[k, c].square().mean()) - float(size)) < 1e-4]
        for c in range(2)
        for size in sizes[c]
    ]
    assert owners[:3] == owners[3:]
    assert all(len(owner) == 1 for owner in owners)
    assert abs(float(error.std()) / (0.1 * CHANGE) - 1) < 0.3
    velocity = BOX.velocity(SCALE * before[:, 0])
    torch.testing.assert_close(batch.condition[:, 1:], velocity)


def test_a_model_comes_back_from_its_folder(tmp_path) -> None:
    one = model(generative=False)
    with torch.no_grad():
        for parameter in one.denoiser.parameters():
            parameter.copy_((parameter + 0.1 * torch.sin(torch.arange(parameter.numel()).view_as(parameter))).half())
    one.save(tmp_path / "model")
    again = TransitionModel.load(tmp_path / "model")
    assert again.config == one.config
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(6))
    layout, t = Layout.dense(2, {LEAF: (1, 16, 16)}), torch.tensor([0.3, 1.0], dtype=torch.float64)
    clean, same = (m.denoiser({LEAF: x}, t, layout, m.told(x))[LEAF] for m in (one, again))
    torch.testing.assert_close(same, clean, rtol=1e-3, atol=1e-3)
    other = one.denoiser({LEAF: x}, t, layout, one.told(2 * x))[LEAF]
    assert (other - clean).abs().max() > 0.01  # it reads what it is told
    (tmp_path / "model" / "weights.json").unlink()
    with pytest.raises(WeightsError, match="got no such file"):
        TransitionModel.load(tmp_path / "model")


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_pictures_move(tmp_path, ending) -> None:
    vorticity = np.zeros((2, 3, 16, 16))
    vorticity[0, :, 0, 0] = [1.0, -1.0, 0.5]  # low left
    write_animation(vorticity, tmp_path / f"a.{ending}")
    with Image.open(tmp_path / f"a.{ending}") as picture:
        assert (picture.n_frames, picture.size) == (3, (3 * 256 + 2 * 4, 256))
        for n, warm in enumerate([True, False, True]):
            picture.seek(n)
            red, _, blue = picture.convert("RGB").getpixel((8, 248))
            assert (red > blue) == warm
    with pytest.raises(UserError, match="cannot write"):
        write_animation(vorticity, tmp_path / "none" / "a.gif")
