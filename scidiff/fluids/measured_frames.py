"""What was measured of a trajectory at the times of its frames, and how far drawn trajectories are from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from scidiff.errors import UserError
from scidiff.fluids import oracle
from scidiff.fluids.asked import TOLERANCE
from scidiff.fluids.constraints import dependent
from scidiff.fluids.inversion import LEVEL
from scidiff.fluids.observed import Facts
from scidiff.fluids.sensors import seen
from scidiff.fluids.windows import WindowConfig, WindowModel

_APART = 1e-6  # of an interval, that a time may be off


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Instruments by frame.

    Attributes:
        config: of the weights.
        frames: ascending, those with instruments.
        tools: of each.
        wanted: frames that are asked for.
        noise: standard deviation of what was measured, in its unit; 0: exact.
    """

    config: WindowConfig
    frames: tuple[int, ...]
    tools: tuple[tuple[oracle.Instrument, ...], ...]
    wanted: int
    noise: float

    @classmethod
    def of(cls, tools: Sequence[oracle.Instrument], config: WindowConfig, *, until: float, noise: float) -> Measured:
        """Instruments by their times; UserError for a time, or an end, between two frames."""
        groups: dict[int, list[oracle.Instrument]] = {}
        for tool in tools:
            groups.setdefault(_frame(tool.name, tool.time, config), []).append(tool)
        return cls(
            config=config,
            frames=tuple(sorted(groups)),
            tools=tuple(tuple(groups[frame]) for frame in sorted(groups)),
            wanted=1 + _frame("--until", until, config),
            noise=noise,
        )

    def facts(self, model: WindowModel) -> Facts:
        """Of the model's leaf, in trajectories of a window at least; UserError for two that contradict each other."""
        scale, mean = self.config.scale, model.prior.mean[0].double()
        rows = [seen(group, self.config) for group in self.tools]
        values = [
            torch.tensor([tool.value for tool in group], dtype=torch.float64) / scale - (read * mean).sum((1, 2))
            for group, read in zip(self.tools, rows, strict=True)
        ]
        if not self.noise:
            self._refuse_contradictions(rows, values)
        shape = (max(self.wanted, self.config.frames), *self.config.shape)
        return Facts.of(shape, self.frames, rows, values, noise=(self.noise / scale) ** 2)

    def _refuse_contradictions(self, rows: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        for group, read, value in zip(self.tools, rows, values, strict=True):
            flat = read.flatten(1)
            found = dependent(flat @ flat.T, value).contradiction
            if found is not None:
                a, b = (group[m].name for m in found)
                raise UserError(f"infeasible: {a} contradicts {b}")

    def certificate(self, vorticity: Tensor) -> dict[str, tuple[np.ndarray, float]]:
        """How far trajectories [S, L, H, W] are from what was measured, by the oracle, and the most that they may be.

        Exact values: the worst, relative. Noisy ones: the mean square of what is off in units of the noise, which a
        draw from the posterior has with probability `LEVEL` at most.
        """
        worst, count = np.concatenate(self._off(vorticity), 1), sum(map(len, self.tools))
        if self.noise:
            return {"misfit": (np.square(worst).mean(1), float(chi2.ppf(LEVEL, count)) / count)}
        return {f"{count} measured values": (worst.max(1), TOLERANCE)}

    def misses(self, vorticity: Tensor) -> dict[float, np.ndarray]:
        """By the time of noisy values, the mean square of what is off, in units of the noise: [S]."""
        times = [frame * self.config.interval for frame in self.frames]
        return {time: np.square(off).mean(1) for time, off in zip(times, self._off(vorticity), strict=True)}

    def _off(self, vorticity: Tensor) -> list[np.ndarray]:
        """How far trajectories are from the values of each frame with instruments: [S, M]."""
        lengths, found = self.config.lengths, []
        for frame, group in zip(self.frames, self.tools, strict=True):
            omega = vorticity[:, frame].cpu()
            u, v = self.config.box.velocity(omega).numpy().swapaxes(0, 1)
            fields = {"vorticity": omega.numpy(), "u": u, "v": v}
            if self.noise:
                read = np.stack([oracle.measured(fields[tool.quantity], tool, lengths) for tool in group], 1)
                found.append((read - [tool.value for tool in group]) / self.noise)
            else:
                found.append(oracle.misfit(fields, group, lengths))
        return found


def _frame(name: str, time: float, config: WindowConfig) -> int:
    """The frame at a time."""
    frame = round(time / config.interval)
    if abs(frame * config.interval - time) > _APART * config.interval:
        raise UserError(
            f"{name}: expected a time at a multiple of {config.interval:g}, the weights' step, got {time:g}"
        )
    return frame
