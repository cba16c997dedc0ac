r"""What a network's output stands for, in one place.

Every parametrisation in use is linear in the state and the output,

    clean = skip_t x_t + gain_t output,

so two coefficients define it, and the squared error of the output is 1 / gain_t^2 times that of the clean estimate.
Coefficients come from alpha_t and sigma_t of x_t = alpha_t x_0 + sigma_t noise, whatever the schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Parametrisation(ABC):
    """What a network's output stands for."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """skip_t and gain_t, of the shape of alpha_t and sigma_t."""

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The factor of x_t in the network's input."""
        return torch.ones_like(alpha)

    def network_input(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network is given; alpha_t and sigma_t broadcast against x_t."""
        return self.input_scale(alpha, sigma).to(x_t.dtype) * x_t

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean estimate that an output stands for; alpha_t and sigma_t broadcast against x_t."""
        skip, gain = (c.to(x_t.dtype) for c in self.coefficients(alpha, sigma))
        return skip * x_t + gain * output

    def output(self, clean: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The output that stands for a clean estimate: the network's target where `clean` is x_0."""
        skip, gain = (c.to(x_t.dtype) for c in self.coefficients(alpha, sigma))
        return (clean - skip * x_t) / gain


class Epsilon(Parametrisation):
    """The noise (Ho et al., DDPM, 2020):  clean = (x_t - sigma_t output) / alpha_t. Undefined where alpha_t = 0."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / alpha, -sigma / alpha


class Data(Parametrisation):
    """The data:  clean = output."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)


class Velocity(Parametrisation):
    r"""v = (alpha_t noise - sigma_t x_0) / r_t,  r_t^2 = alpha_t^2 + sigma_t^2  (Salimans & Ho 2022, where r_t = 1).

    clean = (alpha_t x_t - sigma_t r_t output) / r_t^2
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        squared = alpha.square() + sigma.square()
        return alpha / squared, -sigma / squared.sqrt()


class Score(Parametrisation):
    """The score, grad log p_t(x_t) (Song et al. 2021):  clean = (x_t + sigma_t^2 output) / alpha_t, by Tweedie."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / alpha, sigma.square() / alpha


class Flow(Parametrisation):
    """noise - x_0, the velocity of straight paths (Lipman et al. 2023).

    clean = (x_t - sigma_t output) / (alpha_t + sigma_t)

    It is dx_t/dt where alpha_t = 1 - t and sigma_t = t, and well defined for every schedule.
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)


@dataclass(frozen=True, kw_only=True)
class EDM(Parametrisation):
    r"""Input, output and target of unit variance at every noise level (Karras et al. 2022, eq. 7 and table 1).

        clean = c_skip y + c_out output,   input = c_in y,   y = x_t / alpha_t,   sigma = sigma_t / alpha_t,
        c_skip = sd^2 / (sigma^2 + sd^2),   c_out = sigma sd / sqrt(sigma^2 + sd^2),   c_in = 1 / sqrt(sigma^2 + sd^2)

    written below without the division by alpha_t, so that it holds where alpha_t = 0.

    Attributes:
        sigma_data: sd, the standard deviation of the data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < float("inf"):
            raise ValueError(f"expected a finite sigma_data > 0, got {self.sigma_data}")

    def _variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Variance of x_t."""
        return (alpha * self.sigma_data).square() + sigma.square()

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        variance = self._variance(alpha, sigma)
        return alpha * self.sigma_data**2 / variance, sigma * self.sigma_data / variance.sqrt()

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """c_in / alpha_t."""
        return self._variance(alpha, sigma).rsqrt()
