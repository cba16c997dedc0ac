"""The forecasting model: a base forecast, a denoiser of what it leaves, and how both are kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from scidiff import weights as files
from scidiff.denoiser import NetworkDenoiser
from scidiff.networks.forecast import ForecastNetwork, Known
from scidiff.networks.timegrad import TimeGradNetwork
from scidiff.noise import Noise
from scidiff.processes.base import Process
from scidiff.processes.gaussian import GaussianProcess
from scidiff.processes.parametrisations import EDM
from scidiff.sampling import sample
from scidiff.schedules import Cosine
from scidiff.solvers import Plan, recommended
from scidiff.state import Layout
from scidiff.timeseries import lags
from scidiff.timeseries.base import Base, scaled
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.covariates import NONE, Covariates
from scidiff.timeseries.frequency import FEATURES, WEEKLY
from scidiff.timeseries.horizons import Horizons
from scidiff.timeseries.panel import Floats
from scidiff.timeseries.stepwise import step_by_step

TILE = 50  # draws of one series that are computed together, whatever is asked for
STEPS = 6
NETWORKS = ("horizon", "timegrad")
RECENT = 24  # steps before the origin that are told as they came, at most
WAVES = 4  # that tell a step its place
FAR = 30.0  # scales: targets farther out count as if they stood there


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
        network: "horizon", which draws all steps at once (`networks.forecast`), or "timegrad", one after the other
            (`networks.timegrad`).
        hidden, width: of the network.
        depth, heads: of that of the whole horizon.
    """

    variables: tuple[str, ...]
    context: int
    horizon: int
    season: int
    frequency: str
    seasons: tuple[int, ...] = ()
    yearly: bool = False
    covariates: Covariates = NONE
    network: str = "horizon"
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
    def features(self) -> int:
        """How many features there are of a step to come, beside the base forecast."""
        told = self.covariates
        lagged = lags.count(self.context, self.horizon, self.seasons) * (len(self.variables) + told.told)
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
        card: the model card.
    """

    config: ForecastConfig
    base: Base
    denoiser: NetworkDenoiser
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, config: ForecastConfig, base: Base, *, seed: int = 0, card: Mapping[str, Any] | None = None
    ) -> ForecastModel:
        """A model with fresh weights, whose draws centre on the base forecast."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            network = _network(config)
        process = GaussianProcess(schedule=Cosine(), parametrisation=EDM(sigma_data=0.9))
        denoiser = NetworkDenoiser(network, {LEAF: process}).eval()
        return cls(config=config, base=base, denoiser=denoiser, card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of each leaf."""
        return self.denoiser.processes

    def save(self, folder: Path) -> None:
        """Write the model to a folder of safetensors and JSON."""
        tensors = {f"denoiser.{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors["base.spread"] = torch.from_numpy(self.base.spread)
        files.save(folder, files.Weights(tensors=tensors, config={"forecaster": asdict(self.config)}, card=self.card))

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> ForecastModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        held = files.load(folder)
        try:
            config = ForecastConfig.read(held.config["forecaster"])
            base = Base(spread=held.tensors["base.spread"].double().numpy(), season=config.season)
            model = cls.create(config, base, card=held.card)
            prefix = "denoiser."
            state = {n.removeprefix(prefix): v for n, v in held.tensors.items() if n.startswith(prefix)}
            model.denoiser.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise files.WeightsError(f"{folder}: expected weights of a forecaster, got others: {reason}") from None
        model.denoiser.to(device)
        return model


def _network(config: ForecastConfig) -> nn.Module:
    """The network that a configuration names, with fresh weights."""
    sizes: dict[str, Any] = {
        "leaf": LEAF,
        "variables": len(config.variables),
        "recent": config.recent * (2 * len(config.variables) + config.covariates.told),
        "features": config.features,
        "hidden": config.hidden,
        "width": config.width,
    }
    if config.network == "timegrad":
        return TimeGradNetwork(**sizes)
    if config.network == "horizon":
        return ForecastNetwork(**sizes, horizon=config.horizon, depth=config.depth, heads=config.heads)
    raise ValueError(f"expected the network horizon or timegrad, got {config.network!r}")


def taught(model: ForecastModel, windows: Horizons) -> dict[str, Tensor]:
    """What the network is told of windows that it learns from: a step-by-step one also what came before each step."""
    known = known_of(model, windows)
    if model.config.network == "horizon":
        return known
    target = scaled(windows.context, model.base.season).standardise(windows.target)
    past = {"target": np.nan_to_num(np.clip(target, -FAR, FAR)), "seen": ~np.isnan(target)}
    return known | {name: torch.from_numpy(value).float() for name, value in past.items()}


def known_of(model: ForecastModel, windows: Horizons) -> dict[str, Tensor]:
    """What the network is told of windows: `networks.forecast.Known`.

    Args:
        model: its configuration and its base forecast.
        windows: N of them; nothing is read from their targets.
    """
    config, base = model.config, model.base
    context = scaled(windows.context, base.season)
    guess = base(context)
    told = np.nan_to_num(windows.told)
    values = [np.arcsinh(np.nan_to_num(context.values)), ~np.isnan(context.values), told]
    recent = np.concatenate([part[:, -config.recent :] for part in values], axis=2)
    rows = np.concatenate([np.arcsinh(context.filled), told], axis=2)
    calendar, covariates = np.split(np.nan_to_num(windows.ahead), [FEATURES], axis=2)
    ahead = [
        np.broadcast_to(_waves(config.horizon), (len(windows), config.horizon, 2 * WAVES)),
        calendar[:, :, : config.calendar],
        covariates,
        lags.earlier(rows, config.horizon, config.seasons),
        np.broadcast_to(windows.facts[:, None], (len(windows), config.horizon, windows.facts.shape[1])),
    ]
    return {
        "recent": torch.from_numpy(recent.reshape(len(windows), -1)).float(),
        "ahead": torch.from_numpy(np.concatenate(ahead, axis=2)).float(),
        "base": torch.from_numpy(guess).float(),
        "spread": torch.from_numpy(np.broadcast_to(base.spread, guess.shape).copy()).float(),
    }


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
) -> Floats:
    """Draws of what follows one origin: [draws, H, V], in the units of the panel.

    A series is encoded by itself and drawn in tiles of `TILE`, since matrix products may round differently with the
    shape of a batch: draw k is a function of the model, the window, the seed and k.

    Args:
        model: the weights.
        window: one (N = 1).
        draws: how many.
        seed: keys the noise; of the series.
        steps: network calls a draw.
    """
    if len(window) != 1:
        raise ValueError(f"expected one window, got {len(window)}")
    device = next(model.denoiser.parameters()).device
    known: Known = {name: value.to(device) for name, value in known_of(model, window).items()}
    rule = _plan(cast(GaussianProcess, model.processes[LEAF]), steps)
    way = _at_once if model.config.network == "horizon" else step_by_step
    drawn = way(model.denoiser, model.processes, rule, known, draws=draws, seed=seed)
    return scaled(window.context, model.base.season).restore(drawn.double().cpu().numpy())


def _at_once(
    denoiser: NetworkDenoiser, processes: Mapping[str, Process], rule: Plan, known: Known, *, draws: int, seed: int
) -> Tensor:
    """Whole futures of one series: [draws, H, V], in the units of the base forecast."""
    outlook = cast(ForecastNetwork, denoiser.network).encode(known).repeat(TILE)
    device, shape = outlook.location.device, tuple(outlook.location.shape[1:])
    layout = Layout.dense(TILE, {LEAF: shape}, device=device)
    parts = []
    for first in range(0, draws, TILE):
        noise = Noise(seed=seed, index=first + torch.arange(TILE, device=device))
        done = sample(denoiser, processes, {LEAF: rule}, layout, noise, condition=outlook)
        parts.append(outlook.restore(done.state[LEAF]))
    return torch.cat(parts)[:draws]


@cache
def _plan(process: GaussianProcess, steps: int) -> Plan:
    """The recommended solver for data of the spread that the process expects."""
    return recommended(process.schedule, steps, std=cast(EDM, process.parametrisation).sigma_data)
