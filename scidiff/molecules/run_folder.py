"""The folder of an optimisation: its scores, one line a call, and checkpoints of its policy.

scores.csv                index,smiles,score: written as they are made
checkpoints/step-.../     the policy after that many rounds (`scidiff.training.checkpoint`)
"""

from __future__ import annotations

import csv
import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidiff import atomic, runs
from scidiff.errors import UserError, one_line
from scidiff.training import checkpoint
from scidiff.training.checkpoint import Checkpoint, RunState

if TYPE_CHECKING:
    from scidiff.molecules.optimising import Optimisation
    from scidiff.molecules.policy import Policy

_HEAD = "index,smiles,score\n"
_EVERY = 60.0  # seconds between checkpoints


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the scores."""

    index: int
    smiles: str
    score: float

    @property
    def text(self) -> str:
        """The line."""
        return f"{self.index},{self.smiles},{self.score!r}\n"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where a run stands: what its checkpoint says, and the rows scored by then."""

    account: Mapping[str, Any]
    rows: tuple[Row, ...]


class RunFolder:
    """A run on disk.

    Args:
        path: the folder.
        request: what decides the run; it is resumed only with the same.
        fingerprint: of the prior.
    """

    def __init__(self, path: Path, request: Mapping[str, Any], *, fingerprint: str) -> None:
        self.path, self.request, self.fingerprint = path, dict(request), fingerprint
        self.scores, self.checkpoints = path / "scores.csv", path / "checkpoints"
        self._digest = hashlib.sha256()
        self._saved = time.monotonic()

    def begin(self, *, resume: bool) -> None:
        """Make the folder. UserError if it cannot be, or holds a run that is not to be resumed, or none that is."""
        if self.path.exists() and not resume and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{self.path}: expected a new folder for the run, got one with files: --resume goes on")
        if resume and not self.scores.is_file():
            raise UserError(f"{self.path}: expected the folder of a run to resume, got none")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                runs.begin(self.path, config=self.request, seed=self.request["seed"])
                self.scores.write_text(_HEAD, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {one_line(error)}") from None

    def append(self, index: int, smiles: str, score: float) -> None:
        """Write down a score."""
        text = Row(index=index, smiles=smiles, score=score).text
        self._digest.update(text.encode())
        with self.scores.open("a", encoding="utf-8") as file:
            file.write(text)

    def keep(self, policy: Policy, run: Optimisation, *, idle: int, now: bool) -> None:
        """Write a checkpoint if one is due, or `now`."""
        from scidiff.molecules.optimising import account

        if not now and time.monotonic() - self._saved < _EVERY:
            return
        weights, optimiser = policy.state()
        config = {"request": self.request, "account": account(run, idle), "scores_sha256": self._digest.hexdigest()}
        state = RunState(
            step=run.rounds,
            position=run.rounds,
            samples=run.calls,
            seconds=run.seconds,
            config=config,
            fingerprint=self.fingerprint,
        )
        checkpoint.save(self.checkpoints, Checkpoint(state=state, model=weights, ema={}, optimiser=optimiser))
        self._saved = time.monotonic()

    def take_up(self, policy: Policy) -> tuple[Found | None, dict[str, float]]:
        """The newest checkpoint, put into the policy; and the scores made since, which need not be made again.

        Raises:
            UserError: another request or prior, or files that were changed.
        """
        rows = self._rows()
        if not checkpoint.folders(self.checkpoints):
            self._rewrite(())
            return None, {row.smiles: row.score for row in rows}
        found = checkpoint.latest(self.checkpoints)
        if found is None:
            raise UserError(f"{self.checkpoints}: expected a sound checkpoint, got none")
        state = found.state
        for name, expected in state.config["request"].items():
            if self.request.get(name) != expected:
                raise UserError(
                    f"{self.path}: expected {name} = {expected!r} as in the run that is resumed, "
                    f"got {self.request.get(name)!r}"
                )
        if state.fingerprint != self.fingerprint:
            raise UserError(f"{self.path}: expected the model of the run that is resumed, got another")
        kept, rest = rows[: state.samples], rows[state.samples :]
        self._rewrite(kept)
        if len(kept) != state.samples or self._digest.hexdigest() != state.config["scores_sha256"]:
            raise UserError(f"{self.scores}: expected the scores of the run, got others: changed since written")
        policy.restore(found.model, found.optimiser)
        checkpoint.forget_after(self.checkpoints, state.step)
        known = {row.smiles: row.score for row in rest}
        return Found(account=state.config["account"], rows=tuple(kept)), known

    def _rows(self) -> list[Row]:
        """The whole lines of the scores; what a kill cut short is left out."""
        lines = self.scores.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines[1:] if line.endswith("\n")]
        try:
            return [
                Row(index=int(index), smiles=smiles, score=float(score))
                for index, smiles, score in csv.reader(io.StringIO("".join(whole)))
            ]
        except ValueError:
            raise UserError(f"{self.scores}: expected lines of index,smiles,score, got others") from None

    def _rewrite(self, rows: Sequence[Row]) -> None:
        self._digest = hashlib.sha256()
        for row in rows:
            self._digest.update(row.text.encode())
        if len(rows) != len(self._rows()):
            atomic.write_text(self.scores, _HEAD + "".join(row.text for row in rows))
