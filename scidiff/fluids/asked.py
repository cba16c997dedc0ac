"""What a user asks of a flow, as text, and the certificate of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scidiff.constraints.base import Infeasible
from scidiff.errors import UserError
from scidiff.fluids import oracle
from scidiff.fluids.constraints import Bounded, Conserved, Curl, FieldConstraint, energy, enstrophy
from scidiff.fluids.ensemble import Ensemble
from scidiff.fluids.joined import joined
from scidiff.fluids.model import LEAF, FlowConfig, FlowModel
from scidiff.fluids.sensors import facts
from scidiff.processes.stationary import Stationary

FREE = "divergence-free"
FORMS = f"{FREE}, energy=VALUE, enstrophy=VALUE, vorticity=LOW:HIGH"
TOLERANCE = 1e-10
"""Of every certificate, relative to the terms that it is the difference of."""
_FAR = 10.0  # times the mean of an integral, or one part in so many of it; training data come to 0.4 and 1.6 times


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What must hold.

    Attributes:
        sensors: the instruments, in the unit of the data.
        free: whether no divergence is certified; it holds of any velocity that comes from a vorticity.
        energy, enstrophy: of each field, or None.
        bounds: of the vorticity.
    """

    sensors: tuple[oracle.Instrument, ...] = ()
    free: bool = False
    energy: float | None = None
    enstrophy: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def of(cls, sensors: Sequence[oracle.Instrument], texts: Sequence[str]) -> Asked:
        """From constraints such as `energy=0.7`; UserError says which are known."""
        found: dict[str, object] = {}
        for text in texts:
            name, _, value = text.replace(" ", "").partition("=")
            key = {FREE: "free", "vorticity": "bounds"}.get(name, name)
            if key in found:
                raise UserError(f"--constraint {text!r}: expected {name} once, got it twice")
            if text.strip() == FREE:
                found[key] = True
            elif name in ("energy", "enstrophy"):
                found[key] = _numbers(text, value, 1)[0]
            elif name == "vorticity":
                found[key] = _numbers(text, value, 2)
            else:
                raise UserError(f"--constraint: expected one of {FORMS}, got {text!r}")
        return cls(sensors=tuple(sensors), **found)  # type: ignore[arg-type]

    def constraint(self, config: FlowConfig) -> FieldConstraint:
        """The set on the model's leaf; UserError if it is empty, with the two that contradict each other."""
        try:
            try:
                return self._joined(config)
            except Infeasible:
                self._joined(replace(config, scale=1.0))  # fails alike, and tells numbers in the user's unit
                raise
        except Infeasible as error:
            raise UserError(f"infeasible: {error}") from None

    def _joined(self, config: FlowConfig) -> FieldConstraint:
        box, scale = config.box, config.scale
        parts: list[FieldConstraint] = [Curl(leaf=LEAF, box=box)]
        if self.sensors:
            parts.append(facts(self.sensors, config))
        if self.energy is not None:
            parts.append(energy(LEAF, box, self.energy / scale**2, of="vorticity"))
        if self.enstrophy is not None:
            parts.append(enstrophy(LEAF, box, self.enstrophy / scale**2, of="vorticity"))
        if self.bounds != (-math.inf, math.inf):
            low, high = (bound / scale for bound in self.bounds)
            parts.append(Bounded(leaf=LEAF, shape=(1, *config.shape), low=low, high=high))
        return joined(*parts)

    def refuse_unlike(self, model: FlowModel) -> None:
        """UserError for integrals or bounds that no flow of the model comes near: numbers in another unit, say."""
        box, square = model.config.box, model.config.scale**2
        means = {
            "energy": square * usual(energy(LEAF, box, 1.0, of="vorticity"), model.prior),
            "enstrophy": square * usual(enstrophy(LEAF, box, 1.0, of="vorticity"), model.prior),
        }
        told = "the mean of the flow that the weights know"
        for name, mean in means.items():
            value, least, most = getattr(self, name), mean / _FAR, mean * _FAR
            if value is not None and not least <= value <= most:
                raise UserError(
                    f"--constraint {name}={value:g}: expected {least:.3g} to {most:.3g}, a tenth to ten times {told}"
                )
        low, high = self.bounds
        most = -low * high / 2 if low < 0 < high else 0.0  # of a field without mean (Bhatia and Davis 2000)
        if most < means["enstrophy"] / _FAR:
            raise UserError(
                f"--constraint vorticity={low:g}:{high:g}: expected bounds that leave an enstrophy of "
                f"{means['enstrophy'] / _FAR:.3g}, a tenth of {told}, got at most {most:.3g}"
            )

    def certificate(self, ensemble: Ensemble, lengths: tuple[float, float]) -> dict[str, np.ndarray]:
        """How far each field of a box is from each thing asked for, by the oracle, relative: name -> [S]."""
        omega = ensemble.vorticity.cpu().numpy()
        u, v = ensemble.velocity.cpu().numpy().swapaxes(0, 1)
        found: dict[str, np.ndarray] = {}
        if self.free:
            found[FREE] = oracle.divergence(u, v, lengths)
        curl = oracle.curl(u, v, lengths)
        found["vorticity is the curl of u, v"] = _relative(curl - omega, np.abs(omega).max((1, 2)))
        if self.sensors:
            off = oracle.misfit({"vorticity": omega, "u": u, "v": v}, self.sensors, lengths)
            found[f"{len(self.sensors)} sensors"] = off.max(1)
        if self.energy is not None:
            found[f"energy={self.energy:g}"] = np.abs(oracle.energy(u, v) / self.energy - 1)
        if self.enstrophy is not None:
            found[f"enstrophy={self.enstrophy:g}"] = np.abs(oracle.enstrophy(omega) / self.enstrophy - 1)
        if self.bounds != (-math.inf, math.inf):
            low, high = self.bounds
            over = np.maximum(np.maximum(omega - high, low - omega), 0)
            found[f"vorticity={low:g}:{high:g}"] = _relative(over, np.abs(omega).max((1, 2)))
        return found


def usual(integral: Conserved, prior: Stationary) -> float:
    """The mean of an integral over fields with the mean and the spectrum of a prior."""
    mean = torch.fft.rfft2(prior.mean.double(), norm="ortho").abs().square()
    density = (prior.variance.double() + mean) * integral.multiplier.to(mean)
    return float(torch.fft.irfft2(density, s=integral.shape[1:])[..., 0, 0].sum()) / 2


def _relative(off: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(off).max((1, 2)) / np.where(size > 0, size, 1))


def _numbers(text: str, value: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(":"))
    except ValueError:
        found = ()
    if len(found) != count or any(math.isnan(number) for number in found):
        wanted = "a number" if count == 1 else "LOW:HIGH, two numbers"
        raise UserError(f"--constraint {text!r}: expected {wanted} after =, got {value!r}")
    return found
