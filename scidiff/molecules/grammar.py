"""The grammar of fragment sequences as a finite automaton.

A state is (open slots, set of ring labels that are open). Every token fills one slot and opens as many as it has; a
ring label fills a slot and flips its own membership. The start is a state of its own that only roots leave. A sequence
is a molecule when it ends with no open slot and no open label, and no earlier prefix has zero open slots.
"""

from __future__ import annotations

import torch

from scidiff.constraints.automaton import Automaton
from scidiff.molecules.fragments import RING_LABELS
from scidiff.molecules.vocabulary import Vocabulary

MAX_OPEN = 12  # open slots at once; MOSES needs 9


def grammar(vocabulary: Vocabulary, *, max_open: int = MAX_OPEN) -> Automaton:
    """The automaton of exactly the sequences that decode to a molecule, with at most `max_open` slots open at once."""
    kinds = sorted(set(vocabulary.kinds))
    number = {kind: k for k, kind in enumerate(kinds)}
    labels = 1 << len(RING_LABELS)
    start = (max_open + 1) * labels
    transition = torch.full((start + 1, len(kinds)), -1)
    for kind, (role, value) in enumerate(kinds):
        if role == "root":
            transition[start, kind] = value * labels if value <= max_open else -1
            continue
        for slots in range(1, max_open + 1):
            for rings in range(labels):
                opened, after = (value, rings) if role == "child" else (0, rings ^ (1 << value))
                if slots - 1 + opened <= max_open:
                    transition[slots * labels + rings, kind] = (slots - 1 + opened) * labels + after
    return Automaton(
        kind=torch.tensor([number[kind] for kind in vocabulary.kinds]),
        transition=transition,
        start=start,
        accepting=torch.arange(start + 1) == 0,
    )
