"""A forecasting model: a base forecast, and a denoiser of what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from scidiff.denoiser import NetworkDenoiser
from scidiff.errors import UserError
from scidiff.networks.forecast import ForecastNetwork, Known, Outlook
from scidiff.networks.recurrent import RecurrentNetwork
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.coloured import ColouredGaussianProcess, Separable
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import Plan, recommended
from scidiff.state import Layout
from scidiff.timeseries import lags, references
from scidiff.timeseries.base import Base, Scaled, scaled
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.covariates import NONE, Covariates
from scidiff.timeseries.frequency import FEATURES, WEEKLY
from scidiff.timeseries.horizons import RECENT, Horizons
from scidiff.timeseries.panel import Floats, Ints

TILE = 50  # draws of one series that are computed together, whatever is asked for
STEP_TILE = 100  # the same, of a network that draws step by step
STEPS = 6
NETWORKS = ("patches", "recurrent")
_SCHEDULE = Cosine()
_STD = 0.9  # of the data in the coordinates of the network
_APART = 0x9E3779B97F4A7C15  # between the seeds of steps: 2^64 over the golden ratio
WAVES = 4  # that tell a step its place


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What builds the network again.

    Attributes:
        variables: names of the targets, in the order of the columns.
        context, horizon: in steps.
        season: of the base forecast, in steps.
        frequency: as `Frequency.name` says it.
        seasons: that lags are told of, ascending.
        yearly: whether the time of year is told; of no use unless years came again in the histories.
        covariates: what else is told.
        references: series that all others attend to, by their names.
        network: `patches`, which draws the horizon at once, or `recurrent`, which draws step by step.
        hidden, width, depth, heads: of the network; of `recurrent` hidden alone.
    """

    variables: tuple[str, ...]
    context: int
    horizon: int
    season: int
    frequency: str
    seasons: tuple[int, ...] = ()
    yearly: bool = False
    covariates: Covariates = NONE
    references: tuple[str, ...] = ()
    network: str = "patches"
    hidden: int = 128
    width: int = 64
    depth: int = 2
    heads: int = 4

    @property
    def calendar(self) -> int:
        """How many features of the calendar are told."""
        return FEATURES if self.yearly else WEEKLY

    @property
    def recent(self) -> int:
        """How many of the last steps are told as they came."""
        return min(self.context, RECENT)

    @property
    def apart(self) -> int:
        """How many times the network reads a window: each variable by itself, or all as one."""
        return 1 if self.network == "recurrent" else len(self.variables)

    @property
    def features(self) -> int:
        """How many features there are of a step to come, beside the base forecast."""
        told = self.covariates
        lagged = lags.count(self.context, self.horizon, self.seasons) * (len(self.variables) // self.apart + told.told)
        return 2 * WAVES + self.calendar + told.ahead + lagged + len(told.static)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> ForecastConfig:
        """From JSON, as `asdict` has it."""
        plain, told = _tuples(fields), _tuples(fields["covariates"])
        return cls(**{**plain, "covariates": Covariates(**told)})


@dataclass(frozen=True, kw_only=True)
class ForecastModel:
    """A denoiser of horizons and what belongs to it.

    Attributes:
        config: names and sizes.
        base: what the diffusion starts from.
        denoiser: of the leaf `LEAF`, [S * draws, H, V], in the coordinates of `networks.forecast.Outlook`.
    """

    config: ForecastConfig
    base: Base
    denoiser: NetworkDenoiser

    @classmethod
    def create(cls, config: ForecastConfig, base: Base, *, seed: int = 0) -> ForecastModel:
        """A model with fresh weights, whose draws centre on the base forecast."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            network = _network(config)
        denoiser = NetworkDenoiser(network, {LEAF: _process(config, base)}).eval()
        return cls(config=config, base=base, denoiser=denoiser)

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of each leaf."""
        return self.denoiser.processes

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def with_base(self, base: Base) -> ForecastModel:
        """A copy of the weights, for what another base forecast leaves."""
        other = ForecastModel.create(self.config, base)
        other.denoiser.load_state_dict(self.denoiser.state_dict())
        other.denoiser.to(self.device)
        return other


def _process(config: ForecastConfig, base: Base) -> GaussianProcess:
    """The noise: a Gaussian process as the errors of the base forecast are, white step by step."""
    reading = EDM(sigma_data=_STD)
    if config.network == "recurrent":
        return GaussianProcess(schedule=_SCHEDULE, parametrisation=reading)
    colour = Separable.of(torch.from_numpy(base.steps), torch.from_numpy(base.variables))
    return ColouredGaussianProcess(schedule=_SCHEDULE, parametrisation=reading, colour=colour)


def _network(config: ForecastConfig) -> nn.Module:
    """The network that a configuration names, with fresh weights."""
    sizes = {"variables": len(config.variables), "features": config.features, "hidden": config.hidden}
    told = config.covariates.told
    if config.network == "recurrent":
        return RecurrentNetwork(leaf=LEAF, told=told, **sizes)
    if config.network != "patches":
        raise UserError(f"network: expected one of {', '.join(NETWORKS)}, got {config.network!r}")
    recent = config.recent * (2 + told)
    shape = {"references": len(config.references), "other": references.features(config.recent)}
    shape |= {"horizon": config.horizon, "width": config.width, "depth": config.depth, "heads": config.heads}
    return ForecastNetwork(leaf=LEAF, recent=recent, **shape, **sizes)


def known_of(model: ForecastModel, windows: Horizons) -> dict[str, Tensor]:
    """What the network is told of windows: `networks.forecast.Known`.

    For the recurrent network `recent` and `ahead` have no axis V: it reads all variables as one.

    Args:
        model: its configuration and its base forecast.
        windows: N of them; nothing is read from their targets.
    """
    config, base = model.config, model.base
    context = scaled(windows.context, base.season)
    each = np.split(np.arange(len(config.variables)), config.apart)
    parts = [_told(config, windows, context, chosen) for chosen in each]
    recent, ahead = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
    if config.network == "recurrent":
        recent, ahead = recent[:, 0], ahead[:, 0]
    return {
        "recent": torch.from_numpy(recent),
        "ahead": torch.from_numpy(ahead),
        "base": torch.from_numpy(base(context)).float(),
        "spread": torch.from_numpy(base.spreads(context)).float(),
        "others": torch.from_numpy(windows.others),
    }


def _told(config: ForecastConfig, windows: Horizons, context: Scaled, chosen: Ints) -> tuple[np.ndarray, np.ndarray]:
    """`recent` [N, R] and `ahead` [N, H, F] of some variables, float32."""
    values, filled, told = context.values[..., chosen], context.filled[..., chosen], np.nan_to_num(windows.told)
    seen = [np.arcsinh(np.nan_to_num(values)), ~np.isnan(values), told]
    recent = np.concatenate([part[:, -config.recent :] for part in seen], axis=2)
    rows = np.concatenate([np.arcsinh(filled), told], axis=2)
    calendar, covariates = np.split(np.nan_to_num(windows.ahead), [FEATURES], axis=2)
    ahead = [
        np.broadcast_to(_waves(config.horizon), (len(windows), config.horizon, 2 * WAVES)),
        calendar[:, :, : config.calendar],
        covariates,
        lags.earlier(rows, config.horizon, config.seasons),
        np.broadcast_to(windows.facts[:, None], (len(windows), config.horizon, windows.facts.shape[1])),
    ]
    return recent.reshape(len(windows), -1).astype(np.float32), np.concatenate(ahead, axis=2).astype(np.float32)


def _waves(horizon: int) -> Floats:
    """Where a step stands in the horizon: [H, 2 WAVES]."""
    angle = np.pi * np.arange(1, WAVES + 1) * (np.arange(horizon)[:, None] + 0.5) / horizon
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def _tuples(fields: Any) -> Any:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


@torch.no_grad()
def draw(
    model: ForecastModel,
    window: Horizons,
    *,
    draws: int,
    seed: int,
    steps: int = STEPS,
    told: Mapping[str, Tensor] | None = None,
) -> Floats:
    """Draws of what follows one origin: [draws, H, V], in the units of the panel.

    A series is encoded by itself and drawn in tiles of one size, since matrix products may round differently with the
    shape of a batch: draw k is a function of the model, the window, the seed and k.

    Args:
        model: the weights.
        window: one (N = 1).
        draws: how many.
        seed: keys the noise; of the series.
        steps: network calls a draw; of the recurrent network, of a step of it.
        told: `known_of` the model and the window, if it is at hand.
    """
    if len(window) != 1:
        raise ValueError(f"expected one window, got {len(window)}")
    device = model.device
    known: Known = {name: value.to(device) for name, value in (told or known_of(model, window)).items()}
    network = model.denoiser.network
    recurrent = isinstance(network, RecurrentNetwork)
    one = partial(_unrolled, known=known) if recurrent else _whole(model, known)
    size = STEP_TILE if recurrent else TILE
    tiles = (first + torch.arange(size, device=device) for first in range(0, draws, size))
    found = torch.cat([one(model, Noise(seed=seed, index=index), steps) for index in tiles])[:draws]
    return scaled(window.context, model.base.season).restore(found.double().cpu().numpy())


def _whole(model: ForecastModel, known: Known) -> Callable[[ForecastModel, Noise, int], Tensor]:
    """Draws whole horizons of one series: [TILE, H, V] in units of its context."""
    outlook = cast(ForecastNetwork, model.denoiser.network).encode(known).repeat(TILE)
    return lambda model, noise, steps: _denoised(model, outlook, noise, steps)


def _unrolled(model: ForecastModel, noise: Noise, steps: int, *, known: Known) -> Tensor:
    """Draws step by step, each with noise of its own: [B, H, V] in units of the context."""
    network, size = cast(RecurrentNetwork, model.denoiser.network), len(noise.index)
    state = network.start(known).expand(size, -1)
    found = []
    for step in range(model.config.horizon):
        told = (known[name][:, step : step + 1].expand(size, -1, -1) for name in ("base", "spread", "ahead"))
        own = replace(noise, seed=(noise.seed + step * _APART) % 2**64)
        x = _denoised(model, network.look(state.unsqueeze(1), *told), own, steps)
        found.append(x)
        state = network.advance(state, x[:, 0])
    return torch.cat(found, dim=1)


def _denoised(model: ForecastModel, outlook: Outlook, noise: Noise, steps: int) -> Tensor:
    """Samples in the coordinates of an outlook, restored: [B, steps, V]."""
    layout = Layout.dense(len(noise.index), {LEAF: tuple(outlook.location.shape[1:])}, device=noise.index.device)
    done = sample(model.denoiser, model.processes, {LEAF: _plan(steps)}, layout, noise, condition=outlook)
    return outlook.restore(done.state[LEAF])


@cache
def _plan(steps: int) -> Plan:
    """`recommended`, made once."""
    return recommended(_SCHEDULE, steps, std=_STD)
