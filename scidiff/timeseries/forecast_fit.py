"""Training a forecasting model on the histories of a panel, judged by their last windows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from scidiff.denoiser import NetworkDenoiser
from scidiff.errors import UserError
from scidiff.networks.forecast import ForecastNetwork
from scidiff.networks.recurrent import RecurrentNetwork
from scidiff.noise import Noise
from scidiff.timeseries.base import fit_base, scaled
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.covariates import Covariates
from scidiff.timeseries.forecast_model import ForecastConfig, ForecastModel, known_of
from scidiff.timeseries.frequency import Frequency
from scidiff.timeseries.horizons import Horizons, horizons, origins
from scidiff.timeseries.lags import wanted
from scidiff.timeseries.model import crps_normal, imputation_loss
from scidiff.timeseries.panel import Panel
from scidiff.training.batches import Batch, DenseBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

WINDOWS = 20_000  # to learn from, at most
_NUMBERS = 10_000_000  # held in them, at most
HELD = 0.15  # the last part of the origins of each series, which is judged by
_JUDGED = 512  # windows, at most; so many at once of one variable
_CHECKS = 30  # in the time there is
_PATIENCE = 15  # checks without a better one: enough
_MOST_STEPS = 1500
_SIZE = 64  # windows a step; fewer of several variables, each of which is an example
_FEWEST = 16
_LOOK_BACK = 48  # steps of a context where seasons ask for fewer
_YEARS = 2 * 365.25 * 86_400.0  # seconds of history from which the time of year can be learned
_FAR = 30.0  # scales: targets farther out count as if they stood there


def sizes(
    panel: Panel,
    frequency: Frequency,
    covariates: Covariates,
    *,
    horizon: int,
    season: int | None,
    context: int | None,
    network: str = "patches",
) -> ForecastConfig:
    """What a model of a panel is like; UserError if the histories do not hold what is asked for."""
    counts = covariates.ends(panel)
    room = int(counts.max()) - horizon
    seasons = (season,) if season is not None else frequency.seasons
    fitting = tuple(one for one in seasons if 2 * one <= room) or (1 if season is None else season,)
    longest = fitting[-1]
    if context is None:
        most = max(longest, wanted(horizon, fitting), _LOOK_BACK)
        context = max(longest, min(most, room // 2, int(counts.min())))
    if longest > context:
        raise UserError(f"expected a context of at least one season ({longest} steps), got {context}")
    spans = panel.time[panel.offsets[1:] - 1] - panel.time[panel.offsets[:-1]]
    return ForecastConfig(
        variables=covariates.targets(panel).variables,
        context=context,
        horizon=horizon,
        season=longest,
        frequency=frequency.name,
        seasons=fitting,
        yearly=panel.clock.kind == "date" and float(spans.max()) >= _YEARS,
        covariates=covariates.fitted(panel),
        network=network,
    )


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What training gives.

    Attributes:
        model: of all windows.
        trial: of the earlier ones alone: later ones are new to it, and can be calibrated on.
    """

    model: ForecastModel
    trial: ForecastModel


def learn(
    panel: Panel,
    frequency: Frequency,
    config: ForecastConfig,
    *,
    seconds: float,
    max_steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: ForecastModel | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> Learned:
    """A model of a panel: a base forecast, and the denoiser trained on what it leaves.

    A first model learns from earlier windows and is judged by later ones, between which no horizon is shared; a second
    one learns from all of them, for as many steps as were best, none among them.

    Args:
        panel: of one frequency.
        frequency: its.
        config: sizes of the model.
        seconds: to train at most.
        max_steps: of training, in place of the time: the same seed then gives the same model.
        seed: of all that is random.
        device: to train on; the model stays there.
        start: a model of the same sizes, whose weights to start from. Default: fresh ones.
        show: takes lines on how far it is.

    Raises:
        UserError: no series is long enough.
    """
    began = time.monotonic()
    windows = windows_of(panel, frequency, config)
    early, held = _split(windows)
    first = ForecastModel.create(config, fit_base(windows, seasons=config.seasons), seed=seed)
    if start is not None:
        first.denoiser.load_state_dict(start.denoiser.state_dict())
    first.denoiser.to(device)
    model = replace(first, base=fit_base(windows[early], seasons=config.seasons), denoiser=deepcopy(first.denoiser))
    batches = _batches(model, windows[early], seed)
    judge = _Judge(model=model, data=_data(model, windows[held]))
    judge(model.denoiser)
    step = judge.seconds_of_a_step(batches.at(0))
    left = (seconds - (time.monotonic() - began)) / 2
    planned = min(max(left, 0.5), step * _MOST_STEPS)
    show(f"training on {len(early)} windows, {max_steps or max(int(planned / step), 1)} steps at most")
    settings = _settings(max_steps, planned, step, seed)
    _train(model, batches, settings, judge, show)
    best = judge.best_check * settings.validate_every
    record = {
        "windows": len(windows),
        "steps": best,
        "held_out_windows": len(held),
        "held_out_crps": min(judge.history),
        "held_out_crps_before": judge.history[0],
    }
    again = _again(first, windows, best, seed, show) if len(early) < len(windows) else model
    card = {"training": {**record, "seconds": time.monotonic() - began}, "seed": seed}
    return Learned(model=replace(again, card=card), trial=model)


def _again(
    model: ForecastModel, windows: Horizons, steps: int, seed: int, show: Callable[[str], None]
) -> ForecastModel:
    """The model, trained on all windows for so many steps."""
    if steps:
        show(f"training on all {len(windows)} windows, {steps} steps")
        judge = _Judge(model=model, data=_data(model, windows[:1]))  # keeps what the last step leaves
        settings = _settings(steps, 0.0, 1.0, seed).model_copy(update={"validate_every": 0})
        _train(model, _batches(model, windows, seed), settings, judge, show)
    return model


def _batches(model: ForecastModel, windows: Horizons, seed: int) -> DenseBatches:
    data = _data(model, windows)
    size = min(max(_SIZE // model.config.apart, _FEWEST), len(data.target))
    return DenseBatches({LEAF: data.target}, size=size, condition=data.known, masks={LEAF: data.mask}, seed=seed)


def windows_of(panel: Panel, frequency: Frequency, config: ForecastConfig) -> Horizons:
    """All windows of a panel with something in their horizon, thinned out if they are too many."""
    sizes: dict[str, Any] = {"context": config.context, "horizon": config.horizon}
    row = (config.context + config.horizon) * (len(config.variables) + config.covariates.told)
    series, origin = origins(panel, **sizes, most=min(WINDOWS, _NUMBERS // row))
    windows = horizons(panel, frequency, series, origin, covariates=config.covariates, **sizes)
    seen = ~np.isnan(windows.target).all((1, 2))
    if not seen.any():
        raise UserError("expected measurements after the first context, got empty cells only")
    return windows[seen]


def _split(windows: Horizons) -> tuple[np.ndarray, np.ndarray]:
    """Places of windows to learn from, and of some later ones to judge by; all for both, if there are too few."""
    early = np.flatnonzero(windows.place <= 1 - HELD - windows.margin)
    held = np.flatnonzero(windows.place > 1 - HELD)
    if not len(early) or not len(held):
        early = held = np.arange(len(windows))
    thin = np.unique(np.linspace(0, len(held) - 1, min(len(held), _JUDGED)).round().astype(np.int64))
    return early, held[thin]


def _settings(max_steps: int | None, seconds: float, step: float, seed: int) -> TrainingConfig:
    """Of the loop; `step` seconds a step, `seconds` in all unless there are `max_steps`."""
    steps = max_steps or max(int(seconds / step), 1)
    length: dict[str, Any] = {"max_steps": max_steps} if max_steps else {"max_minutes": seconds / 60}
    return TrainingConfig(
        **length,
        learning_rate=2e-3,
        weight_decay=0.05,
        warmup_steps=50,
        ema_decay=0.99,
        seed=seed,
        log_seconds=2.0,
        checkpoint_minutes=1e6,
        validate_every=max(steps // _CHECKS, 10),
    )


def _train(
    model: ForecastModel, batches: DenseBatches, settings: TrainingConfig, judge: _Judge, show: Callable[[str], None]
) -> None:
    """Train the denoiser, which then has the weights that judged best."""
    with tempfile.TemporaryDirectory(prefix="scidiff-") as out:
        train(
            model.denoiser,
            model.processes,
            batches,
            settings,
            out=Path(out) / "run",
            objective=partial(imputation_loss, copies=1),
            validate=judge,
            show=show,
            enough=judge.enough,
        )
    model.denoiser.load_state_dict(judge.best)
    model.denoiser.eval()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """N windows as the loss reads them: target and mask [N, H, V], and what is known."""

    target: Tensor
    mask: Tensor
    known: Mapping[str, Tensor]


def _data(model: ForecastModel, windows: Horizons) -> _Data:
    context = scaled(windows.context, model.base.season)
    clipped = np.clip(context.standardise(windows.target), -_FAR, _FAR)
    target, mask = torch.from_numpy(np.nan_to_num(clipped)).float(), torch.from_numpy(~np.isnan(clipped))
    return _Data(target=target, mask=mask, known={**known_of(model, windows), "came": target, "seen": mask.float()})


@dataclass
class _Judge:
    """Measures the held-out error of the first guess, and keeps the best weights."""

    model: ForecastModel
    data: _Data
    history: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, denoiser: nn.Module) -> Mapping[str, float]:
        value = self.measure(denoiser)
        self.history.append(value)
        if value == min(self.history):
            self.best = {name: tensor.detach().clone() for name, tensor in denoiser.state_dict().items()}
        return {"held_out_crps": value}

    @property
    def best_check(self) -> int:
        """Which check, from 0 before training, was best."""
        return int(np.argmin(self.history))

    def enough(self) -> bool:
        """Whether the last checks were all worse than the best."""
        return len(self.history) - 1 - self.best_check >= _PATIENCE

    @torch.no_grad()
    def measure(self, denoiser: nn.Module) -> float:
        """Mean CRPS of the first guess of the held-out windows, in units of their contexts."""
        device = next(denoiser.parameters()).device
        network = cast(ForecastNetwork | RecurrentNetwork, cast(NetworkDenoiser, denoiser).network)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part in torch.arange(len(self.data.target)).split(max(_JUDGED // self.model.config.apart, 1)):
            outlook = network.encode({name: value[part].to(device) for name, value in self.data.known.items()})
            found = crps_normal(self.data.target[part].to(device), outlook.location, outlook.scale)
            total += (found * self.data.mask[part].to(device)).double().sum()
        return float(total) / max(int(self.data.mask.sum()), 1)

    def seconds_of_a_step(self, batch: Batch) -> float:
        """How long a step of training takes here, roughly."""
        times = []
        for _ in range(3):
            began = time.monotonic()
            self._loss(batch).mean().backward()
            times.append(time.monotonic() - began)
        self.model.denoiser.zero_grad()
        return 1.3 * min(times)

    def _loss(self, batch: Batch) -> Tensor:
        batch = batch.to(next(self.model.denoiser.parameters()).device)
        noise, condition = Noise(seed=1, index=batch.index), cast(Mapping[str, Tensor], batch.condition)
        return imputation_loss(
            self.model.denoiser,
            self.model.processes,
            batch.x_0,
            batch.layout,
            noise,
            condition=condition,
            copies=1,
        )
