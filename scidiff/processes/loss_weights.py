r"""Weights of the squared error of the clean estimate, as functions of log_snr = log(alpha_t^2 / sigma_t^2).

Every loss of Gaussian diffusion in use is  weight(log_snr) |clean - x_0|^2  (Kingma & Gao, "Understanding diffusion
objectives as the ELBO with simple data augmentation", 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LossWeight = Callable[[Tensor], Tensor]
"""From the log-SNR [B] to the weight [B]."""


def data_error(log_snr: Tensor) -> Tensor:
    """1: the squared error of x_0 itself."""
    return torch.ones_like(log_snr)


def noise_error(log_snr: Tensor) -> Tensor:
    """SNR: the squared error of the noise, the "simplified" loss (Ho et al. 2020, eq. 14)."""
    return log_snr.exp()


def velocity_error(log_snr: Tensor) -> Tensor:
    """SNR + 1: the squared error of v (Salimans & Ho 2022, section 4)."""
    return log_snr.exp() + 1


def flow_error(log_snr: Tensor) -> Tensor:
    """(1 + alpha / sigma)^2: the squared error of noise - x_0, flow matching (Lipman et al. 2023)."""
    return (1 + (log_snr / 2).exp()).square()


@dataclass(frozen=True, kw_only=True)
class MinSNR:
    """min(SNR, gamma): tasks of little noise do not outweigh the others (Hang et al. 2023, section 3.4)."""

    gamma: float = 5.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp().clamp_max(self.gamma)


@dataclass(frozen=True, kw_only=True)
class EDMError:
    """(sigma^2 + sd^2) / (sigma sd)^2 = SNR + 1 / sd^2: the error of EDM's output (Karras et al. 2022, table 1)."""

    sigma_data: float = 0.5

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """SNR sigmoid(bias - log_snr): the noise's error, less where little noise is left (Kingma & Gao 2023)."""

    bias: float = 2.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() * torch.sigmoid(self.bias - log_snr)
