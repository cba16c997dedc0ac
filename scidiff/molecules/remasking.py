r"""Edits of good molecules: a run of fragments is cut out and masked, and the policy writes it anew.

Masked diffusion may be entered at any state. A molecule of L fragments in pre-order of which c are replaced by m masks,

    (x_1 .. x_{i-1}, mask .. mask, x_{i+c} .. x_L),

is one. The chain of m steps that lifts them is a decision of the policy with the same exact log-probability as a chain
from masks alone (`scidiff.molecules.chain`), and the grammar makes a molecule of it. It searches near what is good, by
what the model knows of molecules (fragment remasking: Lee et al., "GenMol: a drug discovery generalist with discrete
diffusion", 2025; there as many tokens are written as were masked).

Edited are the elites: the best molecule of each scaffold, so that no scaffold takes all (MAP-Elites: Mouret & Clune,
"Illuminating search spaces by mapping elites", 2015).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidiff.constraints.automaton import Automaton
from scidiff.noise import Noise
from scidiff.state import Layout

LONGEST_RUN = 4  # fragments that are cut out, and that are written, at most


@dataclass(frozen=True, kw_only=True)
class Elite:
    """The best molecule of a scaffold.

    Attributes:
        score: the objective.
        index: its number in the run.
        classes: its fragments.
    """

    score: float
    index: int
    classes: tuple[int, ...]


class Elites:
    """The best molecule of each scaffold; the earlier one among equals."""

    def __init__(self) -> None:
        self._of: dict[str, Elite] = {}

    def __len__(self) -> int:
        return len(self._of)

    def beaten(self, scaffold: str, score: float) -> bool:
        """Whether a score is higher than that of the scaffold's elite."""
        held = self._of.get(scaffold)
        return held is None or score > held.score

    def put(self, scaffold: str, elite: Elite) -> None:
        """Make a molecule the elite of its scaffold."""
        self._of[scaffold] = elite

    def best(self, count: int) -> list[Elite]:
        """Those of the highest scores, the highest first."""
        return heapq.nsmallest(count, self._of.values(), key=lambda one: (-one.score, one.index))


def fits(automaton: Automaton, sequence: Tensor, mask: int) -> bool:
    """Whether the masks of a sequence [L] can be lifted so that it is accepted."""
    sequence = sequence.to(automaton.kind.device)
    masked = sequence == mask
    fixed = torch.nn.functional.one_hot(automaton.kind[torch.where(masked, 0, sequence)], automaton.transition.shape[1])
    return bool(automaton.log_total(torch.where(masked[:, None], 1, fixed)[None].double()).isfinite())


def remasked(
    elites: Sequence[Elite], automaton: Automaton, lengths: Sequence[int], mask: int, *, index: Tensor, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Elites with masks for some of their fragments, one for each number in the run.

    How many fragments are cut and written is the same for all (which makes few batches), but where a sequence of that
    length is not among `lengths`, or the grammar has none: then as many are written as were cut.

    Args:
        elites: to choose from, the best first. The logarithm of the rank is uniform: that of rank r is chosen with
            probability log((r + 1) / r) / log(n + 1), so that each doubling of the ranks has as many edits.
        automaton: the grammar.
        lengths: that a sequence may have.
        mask: the class of the mask.
        index: [B] int64.
        seed: of the noise, with which elite and place are chosen.

    Returns:
        Numbers [b] and sequences [b, L], by their length and number of masks.
    """
    rows = Layout.dense(len(index), {"edit": ()}).rows("edit")
    draw = Noise(seed=seed, index=index).at("edit", 0, rows)
    cut, written = (draw.uniform(shape=(2,), kind="sizes")[0] * LONGEST_RUN).long().add(1).tolist()
    batches: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    for number, (which, where) in zip(index.tolist(), draw.uniform(shape=(2,)).tolist(), strict=True):
        classes = elites[int((len(elites) + 1) ** which) - 1].classes
        away = min(cut, len(classes))
        first = int(where * (len(classes) - away + 1))
        head, tail = classes[:first], classes[first + away :]
        masks, sequence = written, torch.tensor([*head, *[mask] * written, *tail])
        if len(sequence) not in lengths or not fits(automaton, sequence, mask):
            masks, sequence = away, torch.tensor([*head, *[mask] * away, *tail])
        batches.setdefault((len(sequence), masks), []).append((number, sequence))
    return [
        (torch.tensor([number for number, _ in batch]), torch.stack([sequence for _, sequence in batch]))
        for _, batch in sorted(batches.items(), key=lambda item: item[0])
    ]
