"""The memory of scaffolds: good molecules fill buckets, and full buckets are rewarded no more."""

from __future__ import annotations

import math

from scidiff.molecules.scaffold_memory import ScaffoldMemory


def test_a_full_bucket_is_rewarded_no_more() -> None:
    memory = ScaffoldMemory(threshold=0.5, room=2)
    assert [memory.discounted(0.9, "A") for _ in range(4)] == [0.9, 0.9, -math.inf, -math.inf]
    assert memory.discounted(0.9, "B") == 0.9
    assert memory.buckets == {"A": 2, "B": 1}


def test_what_is_not_good_fills_nothing_and_keeps_its_score() -> None:
    memory = ScaffoldMemory(threshold=0.5, room=1)
    assert [memory.discounted(0.4, "A") for _ in range(3)] == [0.4, 0.4, 0.4]
    assert memory.discounted(0.5, "A") == 0.5
    assert memory.discounted(0.5, "A") == -math.inf
    assert memory.discounted(0.4, "A") == 0.4
