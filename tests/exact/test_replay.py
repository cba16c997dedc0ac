"""Plans of ours that azula and k-diffusion have give their samples: same grid, noise levels and noise numbers, float64.

Where the two differ, the test says which is wrong and shows it. The peers are no dependencies:

    pip install --no-deps azula k-diffusion && pip install einops tqdm torchdiffeq
    pytest -m slow tests/exact
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from replay import NOISE_LEVELS, VP, EvenLogSNR, Run, bent, ours, same, shipped_3m
from torch import Tensor

from scidiff import grids, solvers
from scidiff.schedules import VE, Schedule
from scidiff.solvers.levels import Level, levels_at, log_ratio, steps
from scidiff.solvers.plan import Linear, Plan, Tape

pytestmark = pytest.mark.slow


def feed(monkeypatch: pytest.MonkeyPatch, noises: Sequence[Tensor]) -> None:
    """Let `torch.randn_like` give these numbers, and an error after the last."""
    numbers: Iterator[Tensor] = iter(noises)
    monkeypatch.setattr(torch, "randn_like", lambda *_, **__: next(numbers))


# azula ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def azula() -> ModuleType:
    return pytest.importorskip("azula.sample", reason="pip install --no-deps azula; pip install einops tqdm")


class AzulaModel:
    """`bent` (or another clean estimate of x / alpha and sigma / alpha) as azula's samplers call it."""

    def __init__(self, schedule: Schedule, clean: Callable[[Tensor, Tensor], Tensor] = bent) -> None:
        self.schedule, self.clean = schedule, clean

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        alpha, sigma = self.schedule(t)
        return SimpleNamespace(mean=self.clean(x / alpha, sigma / alpha))


def in_azula(azula: ModuleType, name: str, plan: Plan, start: Tensor, *, steps: int, **options: Any) -> Tensor:
    sampler = getattr(azula, name)(
        AzulaModel(VP), start=1.0, stop=plan.times[-1], steps=steps, silent=True, dtype=torch.float64, **options
    )
    found: Tensor = sampler(start)
    return found


AZULA: dict[str, tuple[str, Callable[..., Plan], dict[str, Any]]] = {
    "DDIM": ("DDIMSampler", solvers.ddim, {}),
    "Euler": ("EulerSampler", solvers.ddim, {}),
    "Heun": ("HeunSampler", solvers.heun, {}),
    "zAB 1": ("zABSampler", partial(solvers.adams_bashforth_noise, order=1), {"order": 1}),
    "zAB 2": ("zABSampler", partial(solvers.adams_bashforth_noise, order=2), {"order": 2}),
    "zAB 3": ("zABSampler", partial(solvers.adams_bashforth_noise, order=3), {"order": 3}),
    "vAB 1": ("vABSampler", partial(solvers.adams_bashforth_velocity, order=1), {"order": 1}),
    "vAB 2": ("vABSampler", partial(solvers.adams_bashforth_velocity, order=2), {"order": 2}),
    "vAB 3": ("vABSampler", partial(solvers.adams_bashforth_velocity, order=3), {"order": 3}),
    "xEAB 1": ("xEABSampler", partial(solvers.exponential_ab, order=1), {"order": 1}),
    "xEAB 2": ("xEABSampler", partial(solvers.exponential_ab, order=2), {"order": 2}),
    "xEAB 3": ("xEABSampler", partial(solvers.exponential_ab, order=3), {"order": 3}),
}


@pytest.mark.parametrize("case", AZULA)
def test_azula_deterministic(azula: ModuleType, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, solver, options = AZULA[case]
    plan = solver(VP, grids.uniform(9, end=0.03))
    run = ours(plan, VP)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # azula's DDIM draws noise at eta = 0 too
    same(in_azula(azula, name, plan, run.start, steps=9, **options), run.end)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_azula_ddim_takes_the_square_of_eta(azula: ModuleType, monkeypatch: pytest.MonkeyPatch, eta: float) -> None:
    """In the paper eta scales the deviation of the noise (DDIM, eq. 16), in azula its variance."""
    plan = solvers.ddim(VP, grids.uniform(9, end=0.03), eta=eta)
    run = ours(plan, VP)
    feed(monkeypatch, run.noises)
    same(in_azula(azula, "DDIMSampler", plan, run.start, steps=9, eta=eta**2), run.end)


def test_azula_ddpm(azula: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = solvers.ddpm(VP, grids.uniform(9, end=0.03))
    run = ours(plan, VP)
    feed(monkeypatch, run.noises)
    same(in_azula(azula, "DDPMSampler", plan, run.start, steps=9), run.end)


def test_azula_predictor_corrector(azula: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours from its second call on, which is azula's first: correct at t, predict. Equal steps in lambda."""
    strength, n = 0.3, 6
    grid = grids.log_snr_uniform(VP, n, end=0.05, floor=-20.0)
    plan = solvers.langevin(VP, grid, strength=strength, eta=0.0)
    run = ours(plan, VP)
    first, second = levels_at(VP, grid[:2])
    ratio = first.sigma / first.alpha * torch.ones((), dtype=torch.float64)
    x = second.sigma / first.sigma * run.start
    x = x + (second.alpha - first.alpha * second.sigma / first.sigma) * bent(run.start / first.alpha, ratio)

    class OnGrid(azula.PCSampler):
        timesteps = grid[1:]

    feed(monkeypatch, run.noises)
    delta = -math.expm1(-2 * strength * log_ratio(first, second))
    same(OnGrid(AzulaModel(VP), delta=delta, silent=True)(x), run.end)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_azula_exponential_adams_bashforth_of_the_noise(azula: ModuleType, order: int) -> None:
    """azula's zEAB is DEIS where t is linear in log-SNR."""
    plan = solvers.deis(EvenLogSNR(), grids.uniform(9, end=0.03), order=order)
    run = ours(plan, EvenLogSNR())
    sampler = azula.zEABSampler(
        AzulaModel(EvenLogSNR()), order=order, stop=0.03, steps=9, silent=True, dtype=torch.float64
    )
    same(sampler(run.start), run.end)


def velocity_ab(schedule: Schedule, grid: Tensor, *, order: int, right: bool) -> Plan:
    """azula's REAB as a plan: f = ((1 - a) x / alpha - clean) / b is continued by a polynomial in lambda.

    x_s / r_s = x_t / r_t + sum_j f_j int ell_j(u) e^u / (1 + e^(2 u)) du,   u = -lambda,  r^2 = alpha^2 + sigma^2

    where azula has sqrt(alpha_s^2 + sigma_t^2) for the r_s before the sum.
    """
    tape = Tape()
    x = tape.start
    past: list[tuple[Level, Linear]] = []
    for t, s in steps(schedule, grid):
        x, clean = tape.denoise(x, t.t)
        a = t.sigma**2 / (t.alpha**2 + t.sigma**2)
        past = [(t, ((1 - a) / t.alpha * x - clean) / math.sqrt(a)), *past][:order]
        u = torch.linspace(-t.lam, -s.lam, 257, dtype=torch.float64)
        change = Linear()
        for level, f in past:
            others = [other.lam for other, _ in past if other is not level]
            ell = torch.stack([(-u - lam) / (level.lam - lam) for lam in others] or [torch.ones_like(u)]).prod(0)
            change = change + float(torch.trapezoid(ell / (2 * torch.cosh(u)), u)) * f
        x = math.hypot(s.alpha, s.sigma) / math.hypot(t.alpha, t.sigma) * x
        x = x + math.hypot(s.alpha, s.sigma if right else t.sigma) * change
    return tape.plan(x, s.t)


@pytest.mark.parametrize("order", [2, 3])
def test_azula_rosenbrock_multistep_is_of_first_order(azula: ModuleType, order: int) -> None:
    """azula's REAB is wrong: it has sigma_t where sigma_s is meant, and is of order 1 whatever is asked for."""
    wrong = partial(velocity_ab, order=order, right=False)
    plan = wrong(VP, grids.uniform(9, end=0.03))
    run = ours(plan, VP)
    same(in_azula(azula, "REABSampler", plan, run.start, steps=9, order=order), run.end)
    grid = partial(grids.cosine, end=0.3)
    assert solvers.observed_order(wrong, VP, grid, finest=128) == pytest.approx(1, abs=0.1)
    right = partial(velocity_ab, order=order, right=True)
    assert solvers.observed_order(right, VP, grid, finest=128) == pytest.approx(order, abs=0.2)


# k-diffusion ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def k_diffusion() -> ModuleType:
    """Its module of samplers alone: the package itself imports image libraries that they have no use for."""
    found = PathFinder.find_spec("k_diffusion", None)
    if found is None or found.submodule_search_locations is None:
        pytest.skip("pip install --no-deps k-diffusion; pip install torchdiffeq tqdm")
    package, helpers = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = list(found.submodule_search_locations)

    def append_dims(x: Tensor, ndim: int) -> Tensor:
        return x.reshape(*x.shape, *[1] * (ndim - x.ndim))

    helpers.append_dims = append_dims
    package.utils = helpers
    stand_ins = {"k_diffusion": package, "k_diffusion.utils": helpers}
    if importlib.util.find_spec("torchsde") is None:  # Brownian trees, for noise of its own
        stand_ins["torchsde"] = ModuleType("torchsde")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        samplers = importlib.import_module("k_diffusion.sampling")
    sys.modules.pop("k_diffusion.sampling")
    return samplers


def karras_model(x: Tensor, sigma: Tensor) -> Tensor:
    return bent(x, sigma[:, None])


def in_k_diffusion(
    k_diffusion: ModuleType, name: str, run: Run, grid: Tensor, *, draws: bool = False, **options: Any
) -> Tensor:
    if draws:
        numbers = iter(run.noises)
        options["noise_sampler"] = lambda *_: next(numbers)
    sigmas = NOISE_LEVELS(grid)[1]
    found: Tensor = getattr(k_diffusion, name)(karras_model, run.start, sigmas, disable=True, **options)
    return found


K_DIFFUSION: dict[str, tuple[str, Callable[..., Plan], dict[str, Any]]] = {
    "euler": ("sample_euler", solvers.ddim, {}),
    "heun": ("sample_heun", solvers.heun, {}),
    "lms 1": ("sample_lms", partial(solvers.adams_bashforth_noise, order=1), {"order": 1}),
    "lms 2": ("sample_lms", partial(solvers.adams_bashforth_noise, order=2), {"order": 2}),
    "lms 3": ("sample_lms", partial(solvers.adams_bashforth_noise, order=3), {"order": 3}),
    "dpmpp_2s": ("sample_dpmpp_2s_ancestral", solvers.dpmpp_2s, {"eta": 0.0, "draws": True}),
    "dpmpp_2m": ("sample_dpmpp_2m", solvers.dpmpp_2m, {}),
    "euler ancestral": ("sample_euler_ancestral", solvers.ddpm, {"draws": True}),
    "euler ancestral 0.6": ("sample_euler_ancestral", partial(solvers.ddim, eta=0.6), {"eta": 0.6, "draws": True}),
    "dpmpp_2m sde": ("sample_dpmpp_2m_sde", solvers.dpmpp_sde_2m, {"draws": True}),
    "dpmpp_2m sde 0.5": ("sample_dpmpp_2m_sde", partial(solvers.dpmpp_sde_2m, eta=0.5), {"eta": 0.5, "draws": True}),
}


# k-diffusion continues a polynomial to sigma = 0 too; there a step of ours is of first order.
ENDS = [(case, end) for case in K_DIFFUSION for end in (0.0, 0.1) if case not in ("lms 2", "lms 3") or end > 0]


@pytest.mark.parametrize(("case", "end"), ENDS)
def test_k_diffusion(k_diffusion: ModuleType, monkeypatch: pytest.MonkeyPatch, case: str, end: float) -> None:
    name, solver, options = K_DIFFUSION[case]
    grid = grids.uniform(9, end=end)
    run = ours(solver(NOISE_LEVELS, grid), NOISE_LEVELS)
    if name == "sample_dpmpp_2s_ancestral":  # it draws noise of weight 0
        run = Run(start=run.start, noises=[torch.zeros_like(run.start)] * 9, end=run.end)
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # drawn whether or not it is used
    same(in_k_diffusion(k_diffusion, name, run, grid, **options), run.end)


def test_k_diffusion_churn(k_diffusion: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the very first step may be churned too: `s_tmax` forbids it, as EDM's noise ends at the first level."""
    grid = grids.uniform(9)
    run = ours(solvers.heun_churn(NOISE_LEVELS, grid, churn=3.0, lowest=0.0, highest=19.9), NOISE_LEVELS)
    feed(monkeypatch, [torch.zeros_like(run.start), *run.noises])
    found = in_k_diffusion(k_diffusion, "sample_heun", run, grid, s_churn=3.0, s_tmax=19.9)
    same(found, run.end)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_k_diffusion_3m_is_of_second_order(k_diffusion: ModuleType, end: float) -> None:
    """k-diffusion's 3M is wrong (half of the second derivative that is meant): order 2, where ours has order 3."""
    grid = grids.uniform(9, end=end)
    run = ours(shipped_3m(NOISE_LEVELS, grid), NOISE_LEVELS)
    same(in_k_diffusion(k_diffusion, "sample_dpmpp_3m_sde", run, grid, eta=0.0, draws=True), run.end)
    fine = partial(grids.cosine, end=0.3)
    assert solvers.observed_order(shipped_3m, VE(sigma_max=20.0), fine) == pytest.approx(2, abs=0.1)
    doubled = partial(shipped_3m, half=False)
    assert solvers.observed_order(doubled, VE(sigma_max=20.0), fine) == pytest.approx(3, abs=0.1)
    assert solvers.observed_order(solvers.dpmpp_3m, VE(sigma_max=20.0), fine) == pytest.approx(3, abs=0.1)
