"""Guidance: denoisers that wrap a denoiser and move its clean estimate, and steering by particles.

    Project(CFG(denoiser, 2.0), constraint)

| want | use |
|---|---|
| a condition that the network was trained with | `CFG`, at half the cost and less exactly `ResidualCFG` |
| a measurement y = A(x_0) + e, differentiable | `MMPS`; `PiGDM` if the data are white; `DPS` if A is far from linear |
| the same where the data's covariance is known, A a simulation | `GaussNewton`, without gradients of the denoiser |
| a classifier of noisy states | `ClassifierGuidance` |
| a differentiable energy of the clean estimate | `EnergyGuidance` |
| parts that are known | `known=` of the sampling loop, or `Inpaint` |
| a constraint to hold exactly | `Project` |
| properties of tokens to lie in an interval, in expectation | `ProjectTokens` |
| any black box; weights; an estimate of log Z | `Steering`; with guided proposals `Twisted` |

All but `Project` and steering are soft: follow them with one that holds.
"""

from __future__ import annotations

from scidiff.guidance.classifier_free import CFG, ResidualCFG
from scidiff.guidance.dps import DPS
from scidiff.guidance.energy import ClassifierGuidance, EnergyGuidance
from scidiff.guidance.gauss_newton import GaussNewton
from scidiff.guidance.inpainting import Inpaint
from scidiff.guidance.measurement import Measurement
from scidiff.guidance.mmps import MMPS
from scidiff.guidance.pigdm import PiGDM
from scidiff.guidance.project import Project
from scidiff.guidance.project_tokens import ProjectTokens, Sums
from scidiff.guidance.steering import Steering, effective_sample_size
from scidiff.guidance.twisted import Twisted

__all__ = [
    "CFG",
    "DPS",
    "MMPS",
    "ClassifierGuidance",
    "EnergyGuidance",
    "GaussNewton",
    "Inpaint",
    "Measurement",
    "PiGDM",
    "Project",
    "ProjectTokens",
    "ResidualCFG",
    "Steering",
    "Sums",
    "Twisted",
    "effective_sample_size",
]
