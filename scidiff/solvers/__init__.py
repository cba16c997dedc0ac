"""Fixed-step Gaussian solvers as plans. Rules for other leaves live in their own modules."""

from scidiff.solvers.adams import (
    adams_bashforth_clean,
    adams_bashforth_noise,
    adams_bashforth_velocity,
    exponential_ab,
)
from scidiff.solvers.ancestral import LearnedVariance, ddim, ddpm, ddpm_learned
from scidiff.solvers.base import Rule, Trace
from scidiff.solvers.check import Gaussian, check_order, moment_error, moments, observed_order
from scidiff.solvers.deis import deis
from scidiff.solvers.dpmpp import dpmpp_1s, dpmpp_2m, dpmpp_2s, dpmpp_3m
from scidiff.solvers.dpmpp_sde import dpmpp_sde_2m, dpmpp_sde_3m
from scidiff.solvers.euler import euler, euler_maruyama, midpoint
from scidiff.solvers.extrapolated import extrapolated
from scidiff.solvers.fitted import fit
from scidiff.solvers.heun import heun, heun_churn
from scidiff.solvers.langevin import langevin
from scidiff.solvers.plan import Linear, Plan, Tape
from scidiff.solvers.recommended import recommended
from scidiff.solvers.renoise import renoise, time_travel
from scidiff.solvers.sa import sa_solver
from scidiff.solvers.unipc import unipc

__all__ = [
    "Gaussian",
    "LearnedVariance",
    "Linear",
    "Plan",
    "Rule",
    "Tape",
    "Trace",
    "adams_bashforth_clean",
    "adams_bashforth_noise",
    "adams_bashforth_velocity",
    "check_order",
    "ddim",
    "ddpm",
    "ddpm_learned",
    "deis",
    "dpmpp_1s",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde_2m",
    "dpmpp_sde_3m",
    "euler",
    "euler_maruyama",
    "exponential_ab",
    "extrapolated",
    "fit",
    "heun",
    "heun_churn",
    "langevin",
    "midpoint",
    "moment_error",
    "moments",
    "observed_order",
    "recommended",
    "renoise",
    "sa_solver",
    "time_travel",
    "unipc",
]
