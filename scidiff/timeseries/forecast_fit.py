"""Training a forecasting model on the histories of a panel, judged by their last windows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from scidiff.errors import UserError
from scidiff.noise import Noise
from scidiff.timeseries.base import fit_base
from scidiff.timeseries.batches import LEAF
from scidiff.timeseries.covariates import Covariates
from scidiff.timeseries.ensemble import Ensemble
from scidiff.timeseries.forecast_judge import JUDGED, Judge, examples, periods
from scidiff.timeseries.forecast_model import ForecastConfig, ForecastModel
from scidiff.timeseries.frequency import Frequency
from scidiff.timeseries.horizons import Horizons, horizons, origins
from scidiff.timeseries.lags import wanted
from scidiff.timeseries.model import imputation_loss
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.references import chosen
from scidiff.training.batches import Batch, DenseBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

WINDOWS = 20_000  # to learn from, at most
_NUMBERS = 10_000_000  # held in them, at most
HELD = 0.15  # of the origins of each series, which a member is judged by
PARTS = 4  # of so many origins; member k is judged by part k mod 4
_CHECKS = 30  # in the time there is
_MOST_STEPS = 1500
_SIZE = 64  # windows a step; fewer of several variables, each of which is an example
_FEWEST = 16
_LOOK_BACK = 48  # steps of a context where seasons ask for fewer
_YEARS = 2 * 365.25 * 86_400.0  # seconds of history from which the time of year can be learned


def sizes(
    panel: Panel,
    frequency: Frequency,
    covariates: Covariates,
    *,
    horizon: int,
    season: int | None,
    context: int | None,
    network: str = "patches",
    references: int = 0,
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
    targets = covariates.targets(panel)
    spans = panel.time[panel.offsets[1:] - 1] - panel.time[panel.offsets[:-1]]
    return ForecastConfig(
        variables=targets.variables,
        context=context,
        horizon=horizon,
        season=longest,
        frequency=frequency.name,
        seasons=fitting,
        yearly=panel.clock.kind == "date" and float(spans.max()) >= _YEARS,
        covariates=covariates.fitted(panel),
        references=chosen(targets, references),
        network=network,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A model that has learned from some windows, and others that are new to it."""

    model: ForecastModel
    held: Horizons


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What training gives.

    Attributes:
        model: of all windows.
        trials: one of each member, each with another part of the history held out, which can be calibrated on.
    """

    model: Ensemble
    trials: tuple[Trial, ...]


def learn(
    panel: Panel,
    frequency: Frequency,
    config: ForecastConfig,
    *,
    seconds: float,
    max_steps: int | None = None,
    members: int = 1,
    seed: int = 0,
    device: str = "cpu",
    start: Ensemble | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> Learned:
    """An ensemble for a panel: a base forecast, and denoisers trained on what it leaves.

    Of each member a first model learns from some windows and is judged by others, between which no horizon is shared; a
    second one learns from all of them, for as many steps as were best. There are none, unless they are better
    than none by two standard errors of the mean over four or more periods, each of a horizon: of fewer, a network that
    helps cannot be told from one that was lucky, however many series there are.

    Args:
        panel: of one frequency.
        frequency: its.
        config: sizes of the model.
        seconds: to train at most, all members together.
        max_steps: of training a member, in place of the time: the same seed then gives the same ensemble.
        members: how many.
        seed: of all that is random; member k has the seed + k.
        device: to train on; the members stay there.
        start: members of the same sizes, whose weights to start from, in turn. Default: fresh ones.
        show: takes lines on how far it is.

    Raises:
        UserError: no series is long enough.
    """
    began = time.monotonic()
    windows = windows_of(panel, frequency, config)
    base = fit_base(windows, seasons=config.seasons)
    learned = []
    for k in range(members):
        first = ForecastModel.create(config, base, seed=seed + k)
        if start is not None:
            first.denoiser.load_state_dict(start.members[k % len(start.members)].denoiser.state_dict())
        first.denoiser.to(device)
        lesson = _Lesson(
            windows=windows,
            part=k % PARTS,
            seconds=(seconds - (time.monotonic() - began)) / (members - k),
            max_steps=max_steps,
            seed=seed + k,
            show=partial(_numbered, show, f"member {k + 1} of {members}: "),
        )
        learned.append(lesson(first))
    models, trials, records = zip(*learned, strict=True)
    training = _account(trials, records) | {"windows": len(windows), "seconds": time.monotonic() - began}
    return Learned(model=Ensemble(members=models, card={"training": training, "seed": seed}), trials=trials)


def _account(trials: Sequence[Trial], records: Sequence[tuple[int, float, float]]) -> dict[str, Any]:
    """What the card tells of the members' lessons."""
    steps, after, before = zip(*records, strict=True)
    return {
        "held_out_windows": sum(len(trial.held) for trial in trials),
        "steps": steps,
        "held_out_crps": float(np.mean(after)),
        "held_out_crps_before": float(np.mean(before)),
    }


def _numbered(show: Callable[[str], None], prefix: str, text: str) -> None:
    show(prefix + text)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lesson:
    """What one member learns from, and for how long."""

    windows: Horizons
    part: int
    seconds: float
    max_steps: int | None
    seed: int
    show: Callable[[str], None]

    def __call__(self, first: ForecastModel) -> tuple[ForecastModel, Trial, tuple[int, float, float]]:
        """The model of all windows; that of some; its best step, and its held-out CRPS there and before training."""
        began = time.monotonic()
        early, held = _split(self.windows, self.part)
        model = first.with_base(fit_base(self.windows[early], seasons=first.config.seasons))
        alone = len(early) == len(self.windows)
        trial = Trial(model=model, held=self.windows[held[: 0 if alone else None]])
        batches = _batches(model, self.windows[early], self.seed)
        judged = self.windows[held]
        judge = Judge(data=examples(model, judged), period=periods(judged), apart=first.config.apart)
        judge(model.denoiser)
        before = float(judge.losses[0].mean())
        if alone or not judge.able:
            self.show("the base forecast alone: too short a history to tell whether training helps")
            return first, trial, (0, before, before)
        step = _seconds_of_a_step(model, batches.at(0))
        left = (self.seconds - (time.monotonic() - began)) / 2
        planned = min(max(left, 0.5), step * _MOST_STEPS)
        self.show(f"training on {len(early)} windows, {self.max_steps or max(int(planned / step), 1)} steps at most")
        settings = _settings(self.max_steps, planned, step, self.seed)
        _train(model, batches, settings, judge, self.show)
        best = judge.chosen * settings.validate_every
        again = _again(first, self.windows, best, self.seed, self.show)
        return again, trial, (best, float(judge.losses[judge.chosen].mean()), before)


def _again(
    model: ForecastModel, windows: Horizons, steps: int, seed: int, show: Callable[[str], None]
) -> ForecastModel:
    """The model, trained on all windows for so many steps."""
    if steps:
        show(f"training on all {len(windows)} windows, {steps} steps")
        # it keeps what the last step leaves
        judge = Judge(data=examples(model, windows[:1]), period=np.zeros(1), apart=model.config.apart)
        settings = _settings(steps, 0.0, 1.0, seed).model_copy(update={"validate_every": 0})
        _train(model, _batches(model, windows, seed), settings, judge, show)
    return model


def _batches(model: ForecastModel, windows: Horizons, seed: int) -> DenseBatches:
    data = examples(model, windows)
    size = min(max(_SIZE // model.config.apart, _FEWEST), len(data.target))
    return DenseBatches({LEAF: data.target}, size=size, condition=data.known, masks={LEAF: data.mask}, seed=seed)


def windows_of(panel: Panel, frequency: Frequency, config: ForecastConfig) -> Horizons:
    """All windows of a panel with something in their horizon, thinned out if they are too many."""
    sizes: dict[str, Any] = {"context": config.context, "horizon": config.horizon}
    row = (config.context + config.horizon) * (len(config.variables) + config.covariates.told)
    series, origin = origins(panel, **sizes, most=min(WINDOWS, _NUMBERS // row))
    told: dict[str, Any] = {"covariates": config.covariates, "references": config.references}
    windows = horizons(panel, frequency, series, origin, **sizes, **told)
    seen = ~np.isnan(windows.target).all((1, 2))
    if not seen.any():
        raise UserError("expected measurements after the first context, got empty cells only")
    return windows[seen]


def _split(windows: Horizons, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of windows to learn from, and of some others to judge by; all for both, if there are too few.

    Those of a part stand together in time; part 0 comes last, part 1 before it.
    """
    end = 1 - HELD * part
    held = np.flatnonzero((windows.place > end - HELD) & (windows.place <= end))
    early = np.flatnonzero((windows.place <= end - HELD - windows.margin) | (windows.place > end + windows.margin))
    if not len(early) or not len(held):
        early = held = np.arange(len(windows))
    thin = np.unique(np.linspace(0, len(held) - 1, min(len(held), JUDGED)).round().astype(np.int64))
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
    model: ForecastModel, batches: DenseBatches, settings: TrainingConfig, judge: Judge, show: Callable[[str], None]
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
    model.denoiser.load_state_dict(judge.weights)
    model.denoiser.eval()


def _seconds_of_a_step(model: ForecastModel, batch: Batch) -> float:
    """How long a step of training takes here, roughly."""
    batch, times = batch.to(model.device), []
    condition = cast(Mapping[str, Tensor], batch.condition)
    for _ in range(3):
        began = time.monotonic()
        noise = Noise(seed=1, index=batch.index)
        loss = imputation_loss(
            model.denoiser, model.processes, batch.x_0, batch.layout, noise, condition=condition, copies=1
        )
        loss.mean().backward()
        times.append(time.monotonic() - began)
    model.denoiser.zero_grad()
    return 1.3 * min(times)
