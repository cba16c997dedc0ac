"""Plans of ours that diffusers has give its samples: same grid, noise levels and noise numbers, float64.

Where the two differ, the test says which is wrong and shows it. The peers are no dependencies:

    pip install --no-deps diffusers && pip install huggingface_hub
    pytest -m slow tests/exact
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from replay import VP, EvenLogSNR, bent, ours, same, shipped_3m
from torch import Tensor

from scidiff import grids, solvers
from scidiff.solvers.levels import clean_weights, levels_at
from scidiff.solvers.plan import Plan

pytestmark = pytest.mark.slow


@pytest.fixture
def diffusers() -> ModuleType:
    pytest.importorskip("diffusers", reason="pip install --no-deps diffusers; pip install huggingface_hub")
    return importlib.import_module("diffusers.schedulers")


def ratios(grid: Tensor) -> Tensor:
    alpha, sigma = VP(grid)
    return sigma / alpha


def on_levels(diffusers: ModuleType, name: str, grid: Tensor, **options: Any) -> Any:
    """A scheduler on the noise levels of a grid, which it would else round to float32."""
    scheduler = getattr(diffusers, name)(prediction_type="sample", lower_order_final=False, **options)
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = ratios(grid)
    return scheduler


def in_diffusers(scheduler: Any, start: Tensor, step: Callable[..., Tensor] | None = None) -> Tensor:
    """Run a scheduler, by its `step` or by another function of (scheduler, clean, timestep, x)."""
    x = start
    for timestep, ratio in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        alpha = (1 + ratio.square()).rsqrt()
        clean = bent(x / alpha, ratio)
        x = scheduler.step(clean, timestep, x).prev_sample if step is None else step(scheduler, clean, timestep, x)
    return x


@pytest.mark.parametrize("order", [1, 2, 3])
def test_diffusers_unipc(diffusers: ModuleType, order: int) -> None:
    grid = grids.uniform(8, end=0.05)
    run = ours(solvers.unipc(VP, grid, order=order), VP)
    scheduler = on_levels(diffusers, "UniPCMultistepScheduler", grid, solver_order=order, solver_type="bh2")
    same(in_diffusers(scheduler, run.start), run.end)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_diffusers_deis(diffusers: ModuleType, order: int) -> None:
    """diffusers' DEIS interpolates in lambda: ours where t is linear in log-SNR."""
    grid = grids.uniform(8, end=0.05)
    run = ours(solvers.deis(EvenLogSNR(), grid, order=order), EvenLogSNR())
    scheduler = on_levels(diffusers, "DEISMultistepScheduler", grid, solver_order=order)
    alpha, sigma = EvenLogSNR()(grid)
    scheduler.sigmas = sigma / alpha
    same(in_diffusers(scheduler, run.start), run.end)


def multistep(scheduler: Any, clean: Tensor, timestep: Tensor, x: Tensor, noise: Tensor | None = None) -> Tensor:
    """DPMSolverMultistepScheduler.step without its rounding of the state to float32."""
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    scheduler.model_outputs = [*scheduler.model_outputs[1:], clean]
    order = min(scheduler.config.solver_order, scheduler.lower_order_nums + 1)
    if order == 1 or float(scheduler.sigmas[scheduler.step_index + 1]) == 0:
        x = scheduler.dpm_solver_first_order_update(clean, sample=x, noise=noise)
    elif order == 2:
        x = scheduler.multistep_dpm_solver_second_order_update(scheduler.model_outputs, sample=x, noise=noise)
    else:
        x = scheduler.multistep_dpm_solver_third_order_update(scheduler.model_outputs, sample=x, noise=noise)
    scheduler.lower_order_nums += 1
    scheduler._step_index += 1
    return x


DIFFUSERS_MULTISTEP: dict[str, tuple[Callable[..., Plan], dict[str, Any]]] = {
    "dpmpp 1": (solvers.dpmpp_1s, {"solver_order": 1}),
    "dpmpp 2": (solvers.dpmpp_2m, {"solver_order": 2}),
    "dpmpp 3, order 2": (partial(shipped_3m, start="midpoint"), {"solver_order": 3}),
    "sde 1": (solvers.ddpm, {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}),
    "sde 2": (solvers.dpmpp_sde_2m, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
}


@pytest.mark.parametrize("case", DIFFUSERS_MULTISTEP)
def test_diffusers_dpmpp_multistep(diffusers: ModuleType, case: str) -> None:
    """Its third order is the form of second order shown above."""
    solver, options = DIFFUSERS_MULTISTEP[case]
    grid = grids.uniform(8, end=0.05)
    run = ours(solver(VP, grid), VP)
    scheduler = on_levels(diffusers, "DPMSolverMultistepScheduler", grid, **options)
    noises = iter(run.noises)
    same(in_diffusers(scheduler, run.start, lambda *step: multistep(*step, noise=next(noises, None))), run.end)


@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_diffusers_sa_solver(diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch, tau: float) -> None:
    """The whole run with one estimate each, and the weights of two and three.

    diffusers adds a term of order h^3 to the weights of two, "for few steps", which is not in the paper.
    """
    grid = grids.uniform(8, end=0.05)
    run = ours(solvers.sa_solver(VP, grid, tau=tau, predictor=1, corrector=1), VP)
    options = {"predictor_order": 1, "corrector_order": 1, "tau_func": lambda _: torch.tensor(tau, dtype=torch.float64)}
    scheduler = on_levels(diffusers, "SASolverScheduler", grid, **options)
    numbers = iter(run.noises or [torch.zeros_like(run.start)] * 8)
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(numbers))
    same(in_diffusers(scheduler, run.start), run.end)

    s, t, *nodes = reversed(levels_at(VP, grid[2:6]))
    for count in (1, 2, 3):
        used = [t, *nodes][:count]
        start, end, *places = (torch.tensor(level.lam, dtype=torch.float64) for level in (t, s, *used))
        found = scheduler.get_coefficients_fn(count, start, end, places, torch.tensor(tau, dtype=torch.float64))
        scale = (1 + tau**2) * s.sigma * math.exp(-(tau**2) * s.lam)
        same(scale * torch.stack(found), torch.as_tensor(clean_weights(t, s, used, rate=tau**2)))


def discrete(scheduler: Any) -> Tensor:
    """Give a scheduler our noise levels at the times (k + 1) / 1000; returns those times."""
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    scheduler.alphas_cumprod = VP(times)[0].square()
    return times


@pytest.mark.parametrize(
    ("case", "solver"),
    [
        ("DDIM 0", solvers.ddim),
        ("DDIM 0.5", partial(solvers.ddim, eta=0.5)),
        ("DDPM fixed_small", solvers.ddpm),
        ("DDPM fixed_large", partial(solvers.ddpm, spread=1.0)),
    ],
)
def test_diffusers_ancestral(
    diffusers: ModuleType, monkeypatch: pytest.MonkeyPatch, case: str, solver: Callable[..., Plan]
) -> None:
    name, option = case.split()
    options = {"timestep_spacing": "leading", "clip_sample": False, "prediction_type": "sample"}
    extra = {"variance_type": option} if name == "DDPM" else {}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options, **extra)
    scheduler.set_timesteps(8)
    times = discrete(scheduler)
    grid = torch.cat([times[scheduler.timesteps], times.new_zeros(1)])
    run = ours(solver(VP, grid), VP)
    numbers = iter(run.noises)
    module = sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(numbers, torch.zeros_like(run.start)))
    x = run.start
    for timestep in scheduler.timesteps:
        alpha, sigma = VP(times[timestep])
        clean = bent(x / alpha, sigma / alpha)
        eta = {"eta": float(option)} if name == "DDIM" else {}
        x = scheduler.step(clean, int(timestep), x, **eta).prev_sample
    same(x, run.end)


def test_diffusers_ddim_linspace_tells_the_network_wrong_levels(diffusers: ModuleType) -> None:
    """diffusers is wrong: with spacing "linspace" DDIM steps by 1000 // n, and not to the next time of its own list.

    For data at 0 the state is sigma z: it shows the level that it is at, and the network is told another.
    """
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False, prediction_type="sample")
    scheduler.set_timesteps(8)
    times = discrete(scheduler)
    told, x = scheduler.timesteps, VP(times[scheduler.timesteps[0]])[1].reshape(1, 1)
    for timestep, following in itertools.pairwise(told):
        before = x
        x = scheduler.step(torch.zeros_like(x), int(timestep), x).prev_sample
        taken = (x / before).squeeze()
        same(taken, VP(times[timestep - 125])[1] / VP(times[timestep])[1])
        assert int(following) != int(timestep) - 125
    # the noise that is there at the last call, against what the network is told of it
    assert float(x) > 2 * float(VP(times[told[-1]])[1])
