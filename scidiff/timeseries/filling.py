"""From a table to its imputation: a model is chosen or trained, checked on what was held out, and fills the gaps."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from scidiff.devices import check_device
from scidiff.errors import UserError
from scidiff.timeseries import fit, learn
from scidiff.timeseries.calibration import Calibration
from scidiff.timeseries.draws import DRAWS, STEPS
from scidiff.timeseries.grid import Grid
from scidiff.timeseries.impute import Filled, Imputation
from scidiff.timeseries.learn import Learned
from scidiff.timeseries.model import ImputerModel
from scidiff.timeseries.panel import Panel
from scidiff.timeseries.rules import Rules

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
TRAINING = 300.0  # seconds for training, where no budget is given
_SAFETY = 1.3  # an estimate of time may be so much too low
_LEAST_TRAINING = 0.1  # part of a budget without which training is not worth it
_OVERLAP = 1 / 3  # of a window with its neighbour


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        step: of the grid, in the panel's unit of time; None for the table's own times.
        draws: of each gap, 2 to `DRAWS`.
        model: trained weights or their folder; None for the packaged ones.
        train: on the table or never; None for only where the weights do not know a variable.
        seconds: for training and imputing together; infinite for as long as it gets better. None: `TRAINING` for
            training, and what it takes for imputing.
        max_steps: of the training, in place of the time.
        steps: network calls a draw.
        seed, device: of all that is random, and where it is computed.
        run: folder of the training, which goes on if it was cut off. Default: a temporary one.
        rules: that every draw has to keep.
    """

    step: float | None = None
    draws: int = 50
    model: ImputerModel | Path | None = None
    train: bool | None = None
    seconds: float | None = None
    max_steps: int | None = None
    steps: int = STEPS
    seed: int = 0
    device: str = "cpu"
    run: Path | None = None
    rules: Rules | None = None

    def check(self, panel: Panel | None = None) -> None:
        """UserError for a number out of range, and for rules about variables that a panel does not have."""
        if panel is not None and self.rules is not None:
            self.rules.check(panel.variables)
        if not 2 <= self.draws <= DRAWS:
            raise UserError(f"expected 2 to {DRAWS} samples, got {self.draws}")
        if self.steps < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise UserError(f"expected at least 1 step, got {min(self.steps, self.max_steps or self.steps)}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"expected 0 <= seed < 2^64, got {self.seed}")
        check_device(self.device)
        if self.seconds is not None and not self.seconds > 0:
            raise UserError(f"expected a time budget > 0, got {self.seconds:g} s")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Time that may be spent, from when it was made.

    Attributes:
        seconds: in all.
        began: on the clock of `time.monotonic`.
    """

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, request: Request) -> Budget:
        """That of a request, from now."""
        return cls(seconds=TRAINING if request.seconds is None else request.seconds)

    @property
    def end(self) -> float:
        """When it is over."""
        return self.began + self.seconds


def seconds(text: str | float, *, what: str = "time") -> float:
    """A time as users write it: `90`, `90s`, `10m`, `1.5h`. UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)\s*", str(text))
    if found is None or not float(found[1]) > 0:
        raise UserError(f"{what}: expected a time such as 90s, 10m or 2h, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def levels(text: str | Sequence[float]) -> tuple[float, ...]:
    """Levels of quantiles in (0, 1), ascending, from `0.05,0.95` or numbers. UserError for anything else."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else list(text)
    try:
        found = sorted({float(part) for part in parts})
    except ValueError:
        found = [math.nan]
    if not all(0 < level < 1 for level in found):
        raise UserError(f"quantiles: expected numbers between 0 and 1 such as 0.05,0.95, got {text!r}")
    return tuple(found)


def imputation(panel: Panel, learned: Learned, request: Request, calibration: Calibration | None = None) -> Imputation:
    """How the windows of a panel are imputed by a model."""
    grid = fill_grid(panel, learned, request.step)
    return Imputation(
        model=learned.model,
        panel=panel,
        grid=grid,
        translation=learned.translation,
        draws=request.draws,
        seed=request.seed,
        steps=request.steps,
        rules=request.rules,
        calibration=calibration,
    )


def fill_grid(panel: Panel, learned: Learned, step: float | None) -> Grid:
    """The windows that are filled: neighbours overlap, and each cell is taken from where it stands farthest inside."""
    return learn.make_grid(panel, step=step, window=learned.window, overlap=int(learned.window * _OVERLAP))


def learned(
    panel: Panel, request: Request, *, budget: Budget | None = None, show: Callable[[str], None] = lambda text: None
) -> tuple[Learned, tuple[str, ...]]:
    """The model for a table, trained if need be, and what was decided, one line each.

    Args:
        panel: the table.
        request: what is asked for.
        budget: of time; it also has to hold the imputation of this table. Default: from now.
        show: takes lines on how far it is.

    Raises:
        UserError: bad settings, no usable model, or a budget that cannot hold what is asked for.
        KeyboardInterrupt: after Ctrl-C; with `request.run` the training can go on.
    """
    request.check(panel)
    budget = budget or Budget.of(request)
    choice = learn.choose(panel, model=request.model, train=request.train, device=request.device)
    if not choice.train:
        found = learn.ready(panel, choice, step=request.step)
        _filling_time(panel, found, request, budget, least=0.0)
        return found, (*choice.notes, *_rescaled(found))
    found = learn.prepare(panel, choice, step=request.step, seed=request.seed, device=request.device)
    filling = _filling_time(panel, found, request, budget, least=_LEAST_TRAINING)
    show(f"training on {len(found.holdout.train)} windows of {found.window} rows")  # type: ignore[union-attr]
    with ExitStack() as stack:
        out = request.run or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scidiff-")))
        model = fit.fit(
            found.model,
            found.holdout,  # type: ignore[arg-type]
            out=out,
            deadline=min(budget.end - filling, time.monotonic() + 1e6),
            max_steps=request.max_steps,
            seed=request.seed,
            resume=request.run is not None,
            warm=choice.start is not None,
            show=show,
        )
    model.denoiser.to(request.device)
    return replace(found, model=model), (*choice.notes, *_rescaled(found))


def _rescaled(found: Learned) -> tuple[str, ...]:
    names = ", ".join(found.translation.rescaled)
    return (f"not in the units of the model, so put on their own scale: {names}",) if names else ()


def _filling_time(panel: Panel, found: Learned, request: Request, budget: Budget, *, least: float) -> float:
    """Seconds that imputing takes, with a margin; UserError if the budget does not hold them."""
    if request.seconds is None or math.isinf(request.seconds) or request.max_steps is not None:
        return 0.0
    job = imputation(panel, found, request)
    needed = _SAFETY * len(job.grid) * job.seconds_per_window()
    left = budget.end - time.monotonic() - needed
    if left < least * budget.seconds:
        enough = (time.monotonic() - budget.began + needed) / (1 - max(least, 0.2))
        raise UserError(
            f"expected a time budget that holds {len(job.grid):,} windows of {request.draws} samples, about "
            f"{max(enough / 60, 1):.0f}m, got {budget.seconds / 60:.3g}m: give more, or fewer samples"
        )
    return needed


def fill(
    panel: Panel,
    learned: Learned,
    request: Request,
    *,
    quantiles: Sequence[float] = (),
    keep: bool = False,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Grid, Filled]:
    """Fill the gaps of a panel. Arguments as for `Imputation` and its `fill`; raises what that raises."""
    job = imputation(panel, learned, request, calibration)
    return job.grid, job.fill(levels=quantiles, keep=keep, progress=progress)
