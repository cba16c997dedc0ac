"""Samplers of other libraries for `solvers.py`: each with the grids that its own library offers.

    pip install --no-deps azula diffusers k-diffusion && pip install einops tqdm huggingface_hub torchdiffeq

A sampler is told the number of calls and gives a runner; a runner takes a denoiser and unit normal numbers z [B, C]
and returns finished samples [B, C]. All start at the same noise level, x / alpha = TOP z.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scidiff.schedules import VPLinear

VP = VPLinear()
TOP = float(torch.exp(-VP.log_snr(torch.ones((), dtype=torch.float64)) / 2))  # sigma_1 / alpha_1

Levels = Callable[[], tuple[Tensor, Tensor]]
Denoise = Callable[[Tensor, Levels], Tensor]
"""(x_t, a function that gives alpha_t and sigma_t) -> clean estimate; a free denoiser need not ask for the levels."""

Runner = Callable[[Denoise, Tensor], Tensor]
Method = Callable[[int], Runner]
Methods = dict[str, dict[str, Method]]
"""sampler -> grid -> method"""


def libraries() -> tuple[dict[str, Methods], dict[str, str]]:
    """The samplers of each library that is installed, and why the others are missing."""
    found, missing = {}, {}
    for name, load in {"azula": azula, "diffusers": diffusers, "k-diffusion": k_diffusion}.items():
        try:
            found[name] = load()
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


# azula ---------------------------------------------------------------------------------------------------------------


ADAMS_BASHFORTH = ("z", "v", "zE", "xE", "RE")


def azula() -> Methods:
    """Equal steps in t of its schedules, whose ends are set to the noise levels here."""
    samplers, noise = importlib.import_module("azula.sample"), importlib.import_module("azula.noise")
    orders = {f"{kind}AB {order}": (f"{kind}ABSampler", order) for kind in ADAMS_BASHFORTH for order in (2, 3)}
    names: dict[str, tuple[str, int | None]] = {"DDIM": ("DDIMSampler", None), "Heun": ("HeunSampler", None), **orders}
    found: Methods = {}
    for name, (sampler, order) in names.items():
        options = {} if order is None else {"order": order}
        make = partial(getattr(samplers, sampler), silent=True, **options)
        found[name] = {
            f"{schedule}, {last}": partial(_azula, make, _azula_schedule(noise, schedule, last), name == "Heun")
            for schedule in ("VP", "Cosine", "Rectified", "VE")
            for last in (1e-3, 1e-2)
        }
    return found


def _azula_schedule(noise: ModuleType, name: str, last: float) -> Any:
    """A schedule whose sigma / alpha goes from TOP to `last`."""
    make = getattr(noise, f"{name}Schedule")
    if name == "VE":
        return make(sigma_min=last, sigma_max=TOP)
    if name == "Rectified":
        return make(alpha_min=1 / TOP, sigma_min=last)
    return make(alpha_min=math.sqrt((1 + last**2) / (1 + TOP**2)), sigma_min=last)


def _azula(make: Callable[..., Any], schedule: Any, two_calls: bool, calls: int) -> Runner:
    def run(denoise: Denoise, z: Tensor) -> Tensor:
        def model(x: Tensor, t: Tensor) -> SimpleNamespace:
            return SimpleNamespace(mean=denoise(x, lambda: schedule(t)))

        model.schedule = schedule  # type: ignore[attr-defined]
        (_, sigma), (alpha, _) = (schedule(torch.tensor(t, dtype=z.dtype)) for t in (1.0, 0.0))
        found: Tensor = make(model, steps=calls // 2 if two_calls else calls, dtype=z.dtype)(sigma * z)
        return found / alpha

    return run


# diffusers -----------------------------------------------------------------------------------------------------------


def diffusers() -> Methods:
    """Every spacing and set of noise levels its schedulers offer, on the noise levels of `VP` at k / 1000."""
    schedulers = importlib.import_module("diffusers.schedulers")
    kept = VP(torch.arange(1, 1001, dtype=torch.float64) / 1000)[0].square()
    betas = (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).numpy()
    grids: dict[str, dict[str, Any]] = {
        "linspace": {},
        "trailing": {"timestep_spacing": "trailing"},
        "karras": {"use_karras_sigmas": True},
        "exponential": {"use_exponential_sigmas": True},
        "beta": {"use_beta_sigmas": True},
        "lu": {"use_lu_lambdas": True},
    }
    names: dict[str, tuple[str, dict[str, Any]]] = {}
    for order in (1, 2, 3):
        names[f"DPM-Solver++ {order}M"] = ("DPMSolver", {"solver_order": order, "final_sigmas_type": "zero"})
        names[f"UniPC {order}"] = ("UniPC", {"solver_order": order, "final_sigmas_type": "zero"})
        names[f"DEIS {order}"] = ("DEIS", {"solver_order": order})
    found: Methods = {}
    for name, (kind, options) in names.items():
        make = partial(
            getattr(schedulers, f"{kind}MultistepScheduler"), trained_betas=betas, prediction_type="sample", **options
        )
        found[name] = {
            f"{grid}{', low order last' * low}": partial(_diffusers, partial(make, lower_order_final=low, **extra))
            for grid, extra in grids.items()
            for low in (False, True)
            if grid != "lu" or kind == "DPMSolver"
        }
    return found


def _diffusers(make: Callable[..., Any], calls: int) -> Runner:
    scheduler = make()

    def run(denoise: Denoise, z: Tensor) -> Tensor:
        scheduler.set_timesteps(calls)
        ratios = scheduler.sigmas.to(z.dtype)

        def alpha_of(ratio: Tensor) -> Tensor:
            return (1 + ratio**2).rsqrt()

        def levels(k: int) -> tuple[Tensor, Tensor]:
            return alpha_of(ratios[k]), ratios[k] * alpha_of(ratios[k])

        x = levels(0)[1] * z
        for k, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(denoise(x, partial(levels, k)), timestep, x).prev_sample
        return x / alpha_of(ratios[-1])

    return run


# k-diffusion ---------------------------------------------------------------------------------------------------------


def k_diffusion() -> Methods:
    """Its grids: Karras' levels, equal steps in log sigma, those of a VP schedule; each to two last noise levels."""
    samplers = _k_diffusion_samplers()

    def grid(name: str, last: float, n: int) -> Tensor:
        made = {
            "karras": partial(samplers.get_sigmas_karras, n, last, TOP),
            "exponential": partial(samplers.get_sigmas_exponential, n, last, TOP),
            "vp": partial(samplers.get_sigmas_vp, n, eps_s=last),
        }
        sigmas: Tensor = made[name]()
        return sigmas

    silent = {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
    names: dict[str, tuple[str, dict[str, Any], bool]] = {
        "Euler": ("euler", {}, False),
        "Heun": ("heun", {}, True),
        "DPM-2": ("dpm_2", {}, True),
        "LMS 2": ("lms", {"order": 2}, False),
        "LMS 3": ("lms", {"order": 3}, False),
        "LMS 4": ("lms", {"order": 4}, False),
        "DPM-Solver++ 2S": ("dpmpp_2s_ancestral", silent, True),
        "DPM-Solver++ 2M": ("dpmpp_2m", {}, False),
        "DPM-Solver++ 3M": ("dpmpp_3m_sde", silent, False),
    }
    found: Methods = {}
    for name, (sampler, options, two_calls) in names.items():
        method = partial(getattr(samplers, f"sample_{sampler}"), disable=True, **options)
        found[name] = {
            f"{which}, {last}": partial(_k_diffusion, method, partial(grid, which, last), two_calls)
            for which in ("karras", "exponential", "vp")
            for last in (0.002, 0.01, 0.03, 0.1)
        }
    return found


def _k_diffusion(method: Callable[..., Any], grid: Callable[[int], Tensor], two_calls: bool, calls: int) -> Runner:
    sigmas = grid((calls + 1) // 2 if two_calls else calls)

    def run(denoise: Denoise, z: Tensor) -> Tensor:
        levels = sigmas.to(z.dtype)

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            return denoise(x, lambda: (torch.ones_like(sigma[0]), sigma[0]))

        found: Tensor = method(model, levels[0] * z, levels)
        return found

    return run


def _k_diffusion_samplers() -> ModuleType:
    """Its module of samplers alone: the package itself imports image libraries that they have no use for."""
    spec = PathFinder.find_spec("k_diffusion", None)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("No module named 'k_diffusion'")
    package, helpers = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = list(spec.submodule_search_locations)
    helpers.append_dims = lambda x, ndim: x.reshape(*x.shape, *[1] * (ndim - x.ndim))  # type: ignore[attr-defined]
    package.utils = helpers  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": helpers})
    if importlib.util.find_spec("torchsde") is None:  # Brownian trees, for noise that nothing here draws
        sys.modules["torchsde"] = ModuleType("torchsde")
    return importlib.import_module("k_diffusion.sampling")
