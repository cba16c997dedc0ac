"""What is said of generated molecules, while they are drawn and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scidiff.molecules.certified import Generation


def status(generation: Generation) -> str:
    """How far it is, on a line."""
    have, seconds = len(generation.molecules), generation.seconds
    if not generation.drawn and generation.effort.oracle_calls:
        return f"pilot of steering: {generation.effort.oracle_calls} draws"
    text = f"certified {have}/{generation.requested}  drawn {generation.drawn}  acceptance {generation.acceptance:.1%}"
    if have and seconds > 0:
        left = (generation.requested - have) * seconds / have
        text += f"  {have / seconds:.1f} certified/s  {_duration(left)} left"
    return text


def said(generation: Generation) -> list[str]:
    """What came of it, a line each: the account, how molecules weigh, and why there are fewer than asked for."""
    lines, have = [generation.summary()], len(generation.molecules)
    if generation.weighted and have:
        chosen = f"--method {generation.method}, for {generation.why}; " if generation.why else ""
        worth = f"worth {generation.effort.effective:.2g} independent draws"
        lines.append(f"{chosen}molecules have weights (log_weight) and are {worth}")
    if generation.steering is not None:
        lines.append(_steering(generation.steering))
    if generation.stopped:
        lines.append(f"stopped: {generation.stopped}")
    if not generation.complete and generation.conditions and generation.effort.draws > 1:
        lines.append(generation.effort.text())
    if not generation.complete and have:
        lines.append(f"the {have} certified are kept; --start {generation.next_index} goes on from here")
    return lines


def _steering(found: Mapping[str, object]) -> str:
    """What the pilot found."""
    if not found["used"]:
        return f"not steered ({found['why']}), after a pilot of {found['pilot_draws']} draws"
    shares = f"{found['rate']:.0%} of steered draws hold, {found['base_rate']:.2g} of the model's"
    return (
        f"steered: {shares}; a pilot of {found['pilot_draws']} draws, which pays from {found['pays_from']} molecules on"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
