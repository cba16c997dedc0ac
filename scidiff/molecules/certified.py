"""Certified molecules: draw, certify, count, until as many as asked for hold.

Nothing is repaired or dropped silently: every draw is certified, or refused for a reason that the summary counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scidiff.devices import check_device
from scidiff.errors import UserError, one_line
from scidiff.interrupts import held_back
from scidiff.molecules.effort import Effort
from scidiff.molecules.hopeless import Watch
from scidiff.molecules.language import Expression, Holds, leaves
from scidiff.molecules.oracle import Oracle, describe
from scidiff.molecules.parsing import parse_all
from scidiff.molecules.planning import Choice
from scidiff.molecules.properties import PROPERTIES, Value, lookup
from scidiff.molecules.quantum import implied
from scidiff.molecules.sources import Conditionable, Drawn, Guidable, Source, Steerable, Tellable
from scidiff.molecules.training import training_molecules
from scidiff.molecules.where import Condition

DUPLICATE = "duplicate"
THINNED = "thinned to the distribution of the model"
METHODS = ("auto", "exact", "guide", "project", "steer", "enforce", "reject")
"""`auto` takes `exact`, `steer`, `guide` or `project` by how many training molecules meet the request
(`scidiff.molecules.planning`). `exact` enforces what fragments decide and thins draws to the model given the
conditions, but for the heaviest weights, which are clipped; `enforce` does not thin: it favours what looks likelier to
one step than it is. Three lean towards the rest besides, and give each molecule its weight: `guide` tells a model of
properties that was trained to be told; `project` moves each estimate to where properties hold in expectation; `steer`
tilts draws, after a pilot of up to half of the draws allowed. `reject` only certifies."""
GUIDED = ("guide", "project")
_RARE_DRAWS, _RARE_LEAST = 20, 4096  # allowed a molecule, and in all, where a census has none like those asked for
_MAX_INDEX = 2**32
_MAX_SEED = 2**64


@dataclass(frozen=True, kw_only=True)
class Molecule:
    """One certified molecule.

    Attributes:
        index, seed: the sample that it is; the same two give the same molecule again.
        smiles: as drawn and certified.
        values: its properties, by name.
        violations: by condition, exactly 0: it holds.
        log_weight: of a steered or guided draw, how much likelier the model is to draw it than the sampler; else None.
    """

    index: int
    seed: int
    smiles: str
    values: Mapping[str, Value] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    log_weight: float | None = None


@dataclass(kw_only=True)
class Generation:
    """The certified molecules of a run and the account of all draws: drawn = certified + refused.

    Attributes:
        requested: how many were asked for.
        seed, start: the draws are the samples start, start + 1, ..., next_index - 1 of this seed.
        conditions: what every molecule meets.
        properties: the names of the properties that every molecule carries.
        molecules: those certified, in the order of their index.
        refused: number of draws that were refused.
        reasons: how many draws each reason refused; a draw can have several.
        stopped: why there are fewer than requested, or empty.
        seconds: wall-clock time of drawing and certifying, the pilot of steering left out.
        method: how they were drawn, and why if that was left to the planner.
        steering: what the pilot of steering found; None if there was none.
        effort: draws, network calls and oracle calls, the pilot's included, and the share of feasible molecules.
    """

    requested: int
    seed: int
    start: int
    conditions: tuple[Expression, ...] = ()
    properties: tuple[str, ...] = ()
    molecules: list[Molecule] = field(default_factory=list)
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    stopped: str = ""
    seconds: float = 0.0
    method: str = "exact"
    why: str = ""
    steering: Mapping[str, object] | None = None
    effort: Effort = field(default_factory=Effort)

    @property
    def drawn(self) -> int:
        """Number of draws."""
        return len(self.molecules) + self.refused

    @property
    def weighted(self) -> bool:
        """Whether the molecules carry weights."""
        return self.method in GUIDED or (self.steering is not None and bool(self.steering["used"]))

    @property
    def complete(self) -> bool:
        """Whether as many were certified as were requested."""
        return len(self.molecules) >= self.requested

    @property
    def next_index(self) -> int:
        """Where a later run goes on (`start=`)."""
        return self.start + self.drawn

    @property
    def acceptance(self) -> float:
        """Share of the draws that were certified."""
        return len(self.molecules) / self.drawn if self.drawn else 0.0

    def summary(self) -> str:
        """`requested 200, certified 200, drawn 1432, refused 1232 (qed >= 0.8: 1001, logp <= 3: 320)`."""
        why = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        return (
            f"requested {self.requested}, certified {len(self.molecules)}, drawn {self.drawn}, refused {self.refused}"
            + (f" ({why})" if why else "")
        )

    def as_dict(self) -> dict[str, object]:
        """The account as plain values, for JSON."""
        return {
            "requested": self.requested,
            "certified": len(self.molecules),
            "drawn": self.drawn,
            "refused": self.refused,
            "reasons": dict(self.reasons.most_common()),
            "acceptance": self.acceptance,
            "where": [condition.text for condition in self.conditions],
            "seed": self.seed,
            "start": self.start,
            "next_index": self.next_index,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "method": self.method,
            "why": self.why,
            "steering": self.steering,
            **self.effort.as_dict(len(self.molecules)),
        }


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. `generation` holds what was certified until then."""

    def __init__(self, generation: Generation):
        super().__init__("interrupted")
        self.generation = generation


def generate(
    *,
    num: int,
    where: Sequence[str] = (),
    certify: Sequence[str] = (),
    seed: int = 0,
    start: int = 0,
    steps: int | None = None,
    batch_size: int = 256,
    unique: bool = True,
    max_draws: int | None = None,
    properties: Sequence[str] = tuple(PROPERTIES),
    model: str | Path | None = None,
    device: str | None = None,
    method: str = "auto",
    source: Source | None = None,
    towards: Mapping[str, float] | None = None,
    progress: Callable[[Generation], None] = lambda generation: None,
) -> Generation:
    """Draw molecules until `num` are certified to meet every condition, draws run out, or the request proves hopeless.

    Args:
        num: how many certified molecules, at least 1.
        where: expressions of `scidiff.molecules.language` such as `qed >= 0.8 or rings == 2`; they hold together.
        certify: more of them, which nearly all draws meet: they are certified, and not worth enforcing.
        seed: seed of the draws, in [0, 2^64).
        start: index of the first draw: go on where an earlier run with this seed ended (`Generation.next_index`).
        steps: denoising steps of a draw; the model's own default if None. Any number gives valid molecules.
        batch_size: molecules drawn at a time; changes speed only, never a molecule.
        unique: refuse a molecule that was certified before in this run.
        max_draws: give up after so many, a pilot's included; default 1,000 a molecule and at least 20,000, or 20 and
            4,096 where none of the training molecules in the model's census meets the properties.
        properties: what to compute of certified molecules, besides what the conditions need.
        model: a folder with weights; the packaged model if None.
        device: `cpu`, `cuda`, ...; the processor if None.
        method: one of `METHODS`.
        source: drawn from, not a model.
        towards: values that the model is told of (`scidiff.molecules.towards`); only a number of atoms is certified.
        progress: told of the account after every draw.

    Raises:
        UserError: an argument that cannot be met, or weights that cannot be read.
        Interrupted: Ctrl-C; carries what was certified.
    """
    wanted = [*where, *implied(towards or {})]
    conditions = parse_all([*wanted, *certify])
    limit = max(1000 * num, 20_000) if max_draws is None else max_draws
    _check(method, num=num, seed=seed, start=start, steps=steps, batch_size=batch_size, max_draws=limit)
    names = _named(conditions, properties)
    choice = _unplanned(method)
    if source is None:
        source, choice = _conditioned(_told(model, device, towards or {}), parse_all(wanted), method, num)
    limit = min(limit, max(_RARE_DRAWS * num, _RARE_LEAST)) if max_draws is None and choice.share == 0 else limit
    generation = Generation(requested=num, seed=seed, start=start, conditions=conditions, properties=names)
    generation.method, generation.why = choice.method, choice.why
    if choice.method == "steer" and conditions and isinstance(source, Steerable):
        source = _steer(generation, source, steps=steps, most=limit // 2, progress=progress)
    generation.effort.scale = getattr(source, "feasible", 1.0)
    stream = source.stream(seed=seed, start=start, steps=steps, batch_size=batch_size)
    return _timed(generation, stream, limit, unique=unique, progress=progress)


def _named(conditions: Sequence[Expression], properties: Sequence[str]) -> tuple[str, ...]:
    """What to compute of certified molecules, for the conditions and as asked for; what `novel` needs is read ahead."""
    if any(leaf == Holds(name="novel") for c in conditions for leaf in leaves(c)):
        training_molecules()
    return tuple(
        dict.fromkeys([*(n for n in asked(conditions) if n in PROPERTIES), *(lookup(n).name for n in properties)])
    )


def _told(model: str | Path | None, device: str | None, towards: Mapping[str, float]) -> Source:
    """The model with these weights, told of values if there are any."""
    with held_back():  # threads that torch starts now never see Ctrl-C
        source = load(model, device)
        if not towards:
            return source
        if not isinstance(source, Tellable):
            raise UserError("--towards: expected a model that can be told of values, got one that cannot")
        return source.towards(towards)


def _unplanned(method: str) -> Choice:
    """The method where nobody plans one."""
    return Choice(method="exact" if method == "auto" else method, why="")


def _conditioned(source: Source, conditions: Sequence[Expression], method: str, num: int) -> tuple[Source, Choice]:
    """The source doing what the method does towards the conditions, and the method it came to."""
    with held_back():
        if method != "reject" and conditions and isinstance(source, Conditionable):
            source = source.given(conditions, thin=method in ("auto", "exact", "steer"))
        if not isinstance(source, Guidable):
            return source, _unplanned(method)
        choice = source.planned(conditions, num) if method == "auto" else Choice(method=method, why="")
        if choice.method in GUIDED:
            source = source.guided(conditions) if choice.method == "guide" else source.projected(conditions)
    return source, choice


def _steer(
    generation: Generation,
    source: Steerable,
    *,
    steps: int | None,
    most: int,
    progress: Callable[[Generation], None],
) -> Source:
    """The source, tilted if a tilt is found; what the pilot found and spent goes on record."""

    def told(calls: int, draws: int) -> None:
        generation.effort.calls, generation.effort.oracle_calls = calls, draws
        progress(generation)

    try:
        found = source.steered(generation.conditions, seed=generation.seed, steps=steps, most=most, progress=told)
    except KeyboardInterrupt:
        generation.stopped = "interrupted"
        raise Interrupted(generation) from None
    generation.steering = found.record
    generation.effort.calls, generation.effort.oracle_calls = found.calls, found.oracle_calls
    return found.source


def asked(conditions: Sequence[Expression]) -> tuple[str, ...]:
    """The quantities that expressions are about, each once, in their order."""
    named = (leaf.property for c in conditions for leaf in leaves(c) if isinstance(leaf, Condition))
    return tuple(dict.fromkeys(named))


def _timed(
    generation: Generation,
    stream: Iterator[Drawn],
    limit: int,
    *,
    unique: bool,
    progress: Callable[[Generation], None],
) -> Generation:
    """Draw what a pilot left of the limit, and say how long it took; Interrupted carries what was certified."""
    watch = Watch(wanted=generation.requested, max_draws=limit - generation.effort.oracle_calls)
    began = time.perf_counter()
    try:
        _draw(generation, stream, watch, unique=unique, progress=progress)
    except KeyboardInterrupt:
        generation.stopped = "interrupted"
        raise Interrupted(generation) from None
    finally:
        generation.seconds = time.perf_counter() - began
    return generation


def _draw(
    generation: Generation,
    stream: Iterator[Drawn],
    watch: Watch,
    *,
    unique: bool,
    progress: Callable[[Generation], None],
) -> None:
    oracle = Oracle(generation.conditions)
    began = time.perf_counter()
    seen: set[str] = set()
    for drawn in stream:
        with held_back():
            certificate = oracle.certify(drawn.smiles)
            reasons = tuple(getattr(drawn, "refused", ())) or certificate.reasons
            generation.effort.add(drawn, holds=not reasons)
            if not reasons and not getattr(drawn, "kept", True):
                reasons = (THINNED,)
            if not reasons and unique and certificate.canonical in seen:
                reasons = (DUPLICATE,)
            values = {} if reasons else describe(certificate, generation.properties)
        if reasons:
            generation.refused += 1
            generation.reasons.update(reasons)
        else:
            seen.add(certificate.canonical)
            generation.molecules.append(
                Molecule(
                    index=drawn.index,
                    seed=generation.seed,
                    smiles=drawn.smiles,
                    values=values,
                    violations=certificate.violations,
                    log_weight=generation.effort.log_weight(drawn) if generation.weighted else None,
                )
            )
        generation.seconds = time.perf_counter() - began
        progress(generation)
        if generation.complete:
            return
        generation.stopped = watch.verdict(len(generation.molecules), generation.drawn)
        if not generation.stopped and generation.drawn >= watch.max_draws:
            pilot = generation.effort.oracle_calls - generation.drawn
            spent = f", {pilot} of them by the pilot" if pilot else ""
            generation.stopped = f"--max-draws {watch.max_draws + pilot} reached{spent}"
        if generation.stopped:
            return


def _check(method: str, *, num: int, seed: int, start: int, steps: int | None, batch_size: int, max_draws: int) -> None:
    if method not in METHODS:
        raise UserError(f"--method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, number in {"num": num, "steps": steps, "batch-size": batch_size, "max-draws": max_draws}.items():
        if number is not None and number < 1:
            raise UserError(f"--{name}: expected at least 1, got {number}")
    if not 0 <= seed < _MAX_SEED:
        raise UserError(f"--seed: expected 0 <= seed < 2^64, got {seed}")
    if not 0 <= start < _MAX_INDEX - max_draws:
        raise UserError(f"--start: expected 0 <= start < 2^32 - --max-draws, got {start}")


def load(model: str | Path | None, device: str | None) -> Source:
    """The generator with these weights; UserError if they are missing, damaged or tampered with."""
    from scidiff.molecules.generator import Generator

    check_device(device or "cpu")
    try:
        return Generator.load(None if model is None else Path(model), device=device or "cpu")
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        where = f"the model in {model}" if model is not None else "the packaged model"
        raise UserError(f"cannot load {where}: {one_line(error)}") from error
