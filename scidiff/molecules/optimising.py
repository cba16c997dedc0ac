"""Molecules that score high: a policy gradient on the denoising chain, with a budget of oracle calls.

    each round:   draw chains, edit elites;   certify and score what is new;   discount, rank;   move the policy

The budget counts distinct molecules that are scored, and is spent exactly. A run folder holds the scores and the
policy: a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rdkit import Chem

from scidiff.errors import UserError
from scidiff.interrupts import held_back
from scidiff.molecules.arithmetic import parse, value
from scidiff.molecules.certified import load
from scidiff.molecules.chain import Chains
from scidiff.molecules.fragments import EncodeError
from scidiff.molecules.language import Expression, Facts
from scidiff.molecules.oracle import Certificate, Oracle
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.policy import Learning, Policy
from scidiff.molecules.quantities import scaffold
from scidiff.molecules.remasking import Elite, Elites
from scidiff.molecules.run_folder import RunFolder
from scidiff.molecules.scaffold_memory import ROOM, ScaffoldMemory, advantages
from scidiff.training import interrupt

Score = Callable[[Chem.Mol], float]
BATCH = 64
REPEATED = "drawn before"
_EDITED = 50  # elites that are
_IDLE = 30  # rounds without a new molecule after which a run ends


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A molecule that was scored.

    Attributes:
        index: its number among the draws of the seed.
        smiles: canonical SMILES.
        score: the objective; NaN if it is no finite number.
    """

    index: int
    smiles: str
    score: float


@dataclass(kw_only=True)
class Optimisation:
    """A run and its account: drawn = scored + refused.

    Attributes:
        objective: its spelling.
        budget: oracle calls that were asked for.
        seed: of the draws.
        conditions: what every scored molecule meets.
        scored: the molecules that were scored, each once, in the order of their draws: one oracle call each.
        refused: draws that were not scored.
        reasons: how many draws each reason refused.
        rounds: how often the policy moved.
        divergence: of the policy from the prior in the last round: mean of log pi - log pi0 of a chain from masks
            alone, in nats.
        seconds: time of all sessions.
        stopped: why the budget was not spent, or empty.
    """

    objective: str
    budget: int
    seed: int
    conditions: tuple[Expression, ...] = ()
    scored: list[Scored] = field(default_factory=list)
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    divergence: float = 0.0
    seconds: float = 0.0
    stopped: str = ""

    @property
    def calls(self) -> int:
        """Oracle calls spent."""
        return len(self.scored)

    @property
    def complete(self) -> bool:
        """Whether the budget is spent."""
        return self.calls >= self.budget

    def best(self, count: int) -> list[Scored]:
        """Those of the highest scores, the highest first; the earlier first among equals."""
        finite = [one for one in self.scored if math.isfinite(one.score)]
        return sorted(finite, key=lambda one: (-one.score, one.index))[:count]

    def top(self, count: int) -> float:
        """Mean score of the best; NaN if there are fewer."""
        scores = [one.score for one in self.best(count)]
        return sum(scores) / count if len(scores) == count else math.nan

    def as_dict(self) -> dict[str, object]:
        """The account as plain values, for JSON."""
        tops = {f"top_{k}": self.top(k) for k in (1, 10, 100)}
        return {
            "objective": self.objective,
            "budget": self.budget,
            "calls": self.calls,
            "rounds": self.rounds,
            "refused": self.refused,
            "reasons": dict(self.reasons.most_common()),
            **{name: number if math.isfinite(number) else None for name, number in tops.items()},
            "where": [condition.text for condition in self.conditions],
            "seed": self.seed,
            "divergence_nats": self.divergence,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a run. `optimisation` holds what was scored until then."""

    def __init__(self, optimisation: Optimisation):
        super().__init__("interrupted")
        self.optimisation = optimisation


def optimise(
    *,
    objective: str | Score,
    budget: int,
    where: Sequence[str] = (),
    seed: int = 0,
    batch: int = BATCH,
    room: int = ROOM,
    learning: Learning | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[Optimisation], None] = lambda run: None,
) -> Optimisation:
    """Search for molecules of a high objective.

    Args:
        objective: an expression of `scidiff.molecules.arithmetic`, or a function of an RDKit molecule. What it makes
            of a molecule that is no finite number counts as a call and is never among the best.
        budget: distinct molecules to score.
        where: expressions of `scidiff.molecules.language`; molecules that do not meet them are refused unscored.
        seed: of all randomness.
        batch: chains of a round; from the second on, half of them write a part of a good molecule anew
            (`scidiff.molecules.remasking`).
        room: molecules of one scaffold that are rewarded (`scidiff.molecules.scaffold_memory`).
        learning: how the policy moves.
        model: a folder with weights, the prior; the packaged model if None.
        device: `cpu`, `cuda`, ...
        folder: where the run is kept, if anywhere.
        resume: go on with the run in `folder`; its budget may be larger now.
        progress: told of the account after every round.

    Raises:
        UserError: an argument that cannot be met, or a folder that holds another run or was changed.
        Interrupted: Ctrl-C, at the end of the round; carries what was scored.
    """
    score, text = _score(objective)
    conditions = parse_all(where)
    _check(budget=budget, batch=batch, seed=seed)
    learning = learning or Learning()
    with held_back():
        prior = load(model, device).model  # type: ignore[attr-defined]
        policy = Policy(prior, learning)
    run = Optimisation(objective=text, budget=budget, seed=seed, conditions=conditions)
    asked = {"objective": text, "where": [condition.text for condition in conditions], "seed": seed, "batch": batch}
    request = {**asked, "room": room, "learning": asdict(learning)}
    kept = None if folder is None else RunFolder(Path(folder), request, fingerprint=_fingerprint(policy))
    if kept is not None:
        kept.begin(resume=resume)
    loop = _Loop(run=run, policy=policy, score=score, batch=batch, room=room, kept=kept)
    if kept is not None and resume:
        loop.resume(kept)
    with interrupt.kept() as stop:
        loop.run_rounds(stop, progress)
    return run


def _check(*, budget: int, batch: int, seed: int) -> None:
    if budget < 1:
        raise UserError(f"--budget: expected at least 1, got {budget}")
    if batch < 2:
        raise UserError(f"--batch-size: expected at least 2, got {batch}")
    if not 0 <= seed < 2**64:
        raise UserError(f"--seed: expected 0 <= seed < 2^64, got {seed}")


def _score(objective: str | Score) -> tuple[Score, str]:
    """The objective as a function, and its spelling."""
    if not isinstance(objective, str):
        return objective, getattr(objective, "__qualname__", type(objective).__name__)
    read = parse(objective)
    return lambda mol: value(read, Facts(mol)), read.text


def _fingerprint(policy: Policy) -> str:
    """SHA-256 of the prior's weights."""
    digest = hashlib.sha256()
    for name, x in sorted(policy.prior.state_dict().items()):
        digest.update(name.encode())
        digest.update(x.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Loop:
    """A run in progress."""

    def __init__(
        self, *, run: Optimisation, policy: Policy, score: Score, batch: int, room: int, kept: RunFolder | None
    ) -> None:
        self.run, self.policy, self.score, self.batch, self.room, self.kept = run, policy, score, batch, room, kept
        self.oracle = Oracle(run.conditions)
        self.seen: set[str] = set()
        self.memory: ScaffoldMemory | None = None
        self.elites = Elites()
        self.idle = 0
        self.known: dict[str, float] = {}  # scored in rounds that a kill undid: not computed again

    def resume(self, kept: RunFolder) -> None:
        """Take up the newest checkpoint: the policy, the scores, and from those the memory."""
        found, self.known = kept.take_up(self.policy)
        if found is None:
            return
        run, account = self.run, found.account
        if account["calls"] > run.budget:
            raise UserError(f"--budget: expected at least the {account['calls']} calls already made, got {run.budget}")
        run.scored = [Scored(index=row.index, smiles=row.smiles, score=row.score) for row in found.rows]
        run.refused, run.reasons, run.rounds = account["refused"], Counter(account["reasons"]), account["rounds"]
        run.seconds, self.idle = account["seconds"], account["idle"]
        self.seen = {one.smiles for one in run.scored}
        by_round: dict[int, list[Scored]] = {}
        for one in run.scored:
            by_round.setdefault(one.index // self.batch, []).append(one)
        for rows in by_round.values():
            self._remember(rows)

    def run_rounds(self, stop: interrupt.Stop, progress: Callable[[Optimisation], None]) -> None:
        """Rounds until the budget is spent."""
        run, began = self.run, time.monotonic() - self.run.seconds
        while not run.complete and not run.stopped:
            self._round()
            run.seconds = time.monotonic() - began
            if self.idle >= _IDLE:
                run.stopped = f"no new molecule in {_IDLE} rounds"
            progress(run)
            last = run.complete or bool(run.stopped) or stop.requested
            if self.kept is not None:
                self.kept.keep(self.policy, run, idle=self.idle, now=last)
            if stop.requested and not run.complete:
                run.stopped = "interrupted"
                raise Interrupted(run)

    def _round(self) -> None:
        """Draw, score, move."""
        run = self.run
        index = torch.arange(run.rounds * self.batch, (run.rounds + 1) * self.batch)
        whole, part = index.tensor_split([self.batch - (self.batch // 2 if self.elites else 0)])
        drawn = self.policy.draw(whole, seed=run.seed)
        edited = self.policy.edit(part, self.elites.best(_EDITED), seed=run.seed) if len(part) else []
        reward = dict.fromkeys(index.tolist(), -math.inf)
        with held_back():
            new, repeated = self._judged([*drawn, *edited])
            reward.update(self._remember(new))
        self.idle = 0 if new else self.idle + 1
        worth: dict[int, float] = {}
        for group in filter(None, (whole.tolist(), part.tolist())):  # edits are ranked among edits: they begin higher
            worth.update(zip(group, advantages([reward[i] for i in group]).tolist(), strict=True))
        if not run.complete and any(worth.values()):  # nothing is learned where all are worth the same
            run.divergence = self.policy.learn(drawn, edited, worth, seed=run.seed)
        self.policy.restrain(len(repeated.intersection(whole.tolist())) / len(whole))
        run.rounds += 1

    def _judged(self, chains: Sequence[Chains]) -> tuple[list[Scored], set[int]]:
        """The molecules of a round that are new and meet the conditions, scored; and which draws were made before."""
        run, vocabulary = self.run, self.policy.model.vocabulary
        made = [pair for one in chains for pair in zip(one.index.tolist(), one.sequences.tolist(), strict=True)]
        new, repeated = [], set()
        for index, classes in sorted(made):
            if run.complete:
                break
            certificate = self.oracle.certify(Chem.MolToSmiles(vocabulary.decode(classes)))
            reasons = certificate.reasons or ((REPEATED,) if certificate.canonical in self.seen else ())
            if not reasons:
                new.append(self._scored(index, certificate))
                continue
            run.refused += 1
            run.reasons.update(reasons)
            if reasons == (REPEATED,):
                repeated.add(index)
        return new, repeated

    def _scored(self, index: int, certificate: Certificate) -> Scored:
        """A new molecule with its score: a call of the oracle."""
        self.seen.add(certificate.canonical)
        found = self.known.get(certificate.canonical)
        score = float(self.score(certificate.mol)) if found is None else found  # type: ignore[arg-type]
        one = Scored(index=index, smiles=certificate.canonical, score=score if math.isfinite(score) else math.nan)
        self.run.scored.append(one)
        if self.kept is not None:
            self.kept.append(one.index, one.smiles, one.score)
        return one

    def _remember(self, rows: Sequence[Scored]) -> dict[int, float]:
        """What each new molecule of a round is rewarded with. Good is what reaches the median of the first round."""
        finite = [one for one in rows if math.isfinite(one.score)]
        if self.memory is None and finite:
            self.memory = ScaffoldMemory(threshold=float(np.median([one.score for one in finite])), room=self.room)
        rewards: dict[int, float] = {}
        for one in finite:
            mol = Chem.MolFromSmiles(one.smiles)
            of = scaffold(mol)
            rewards[one.index] = cast(ScaffoldMemory, self.memory).discounted(one.score, of)
            if self.elites.beaten(of, one.score):
                with suppress(EncodeError):  # rings that were drawn in pieces may not be found again
                    classes = tuple(self.policy.model.vocabulary.encode(mol))
                    self.elites.put(of, Elite(score=one.score, index=one.index, classes=classes))
        return rewards


def account(run: Optimisation, idle: int) -> dict[str, Any]:
    """What a checkpoint keeps of a run beside the scores."""
    return json.loads(
        json.dumps(
            {
                "calls": run.calls,
                "refused": run.refused,
                "reasons": dict(run.reasons),
                "rounds": run.rounds,
                "seconds": run.seconds,
                "idle": idle,
            }
        )
    )
