"""Rows and layouts: sums, places and ancestors against loops over samples."""

from __future__ import annotations

import pytest
import torch

from scidiff.noise import Noise
from scidiff.state import Layout

COUNTS = torch.tensor([3, 0, 4, 1])
RAGGED = Layout.ragged({"x": COUNTS}, {"x": (2,)}).rows("x")
VALUES = Noise(seed=0, index=torch.arange(4)).at("x", 0, RAGGED).normal(dtype=torch.float64)
PARTS = list(VALUES.split(COUNTS.tolist()))


def test_ragged_rows_by_hand() -> None:
    assert RAGGED.owner.tolist() == [0, 0, 0, 2, 2, 2, 2, 3]
    assert RAGGED.local.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert RAGGED.per_row(torch.tensor([1.0, 2.0, 3.0, 4.0])).squeeze(1).tolist() == [1, 1, 1, 3, 3, 3, 3, 4]


def test_sum_and_mean_by_sample() -> None:
    torch.testing.assert_close(RAGGED.sum(VALUES), torch.stack([part.sum() for part in PARTS]))
    means = [part.mean() if len(part) else torch.zeros((), dtype=torch.float64) for part in PARTS]
    torch.testing.assert_close(RAGGED.mean(VALUES), torch.stack(means))


def test_masked_elements_count_for_nothing() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    rows = Layout.dense(2, {"x": (3,)}, masks={"x": mask}).rows("x")
    x = torch.tensor([[1.0, torch.nan, 5.0], [torch.inf, 2.0, 3.0]])
    assert rows.sum(x).tolist() == [6.0, 0.0]
    assert rows.mean(x).tolist() == [3.0, 0.0]


@pytest.mark.parametrize("single", [True, False])
def test_rank_is_the_place_in_the_sorted_sample(single: bool) -> None:
    if single:
        rows, x = Layout.dense(4, {"x": (5,)}).rows("x"), torch.randint(3, (4, 5), generator=torch.Generator())
        parts = list(x.split(1))
    else:
        rows, x = RAGGED, (VALUES * 2).round()
        parts = list(x.split(COUNTS.tolist()))
    expected = []
    for part in parts:
        flat = part.flatten().tolist()
        order = sorted(range(len(flat)), key=lambda i, flat=flat: (flat[i], i))  # type: ignore[misc]
        expected += [order.index(i) for i in range(len(flat))]
    assert rows.rank(x).flatten().tolist() == expected


def test_inherit_copies_the_rows_of_the_ancestor() -> None:
    rows = Layout.ragged({"x": torch.tensor([2, 3, 2, 3])}, {"x": (2,)}).rows("x")
    x = torch.arange(20.0).reshape(10, 2)
    got = rows.inherit(x, ancestors=torch.tensor([2, 3, 2, 1]))
    assert torch.equal(got, torch.cat([x[5:7], x[7:10], x[5:7], x[2:5]]))
    with pytest.raises(RuntimeError, match="as many rows"):
        rows.inherit(x, ancestors=torch.tensor([1, 1, 2, 3]))


def test_errors_name_what_was_expected() -> None:
    with pytest.raises(KeyError, match=r"expected one of the leaves \['x'\], got 'y'"):
        Layout.dense(2, {"x": ()}).rows("y")
    with pytest.raises(ValueError, match="same number of samples"):
        Layout.ragged({"x": torch.tensor([1]), "y": torch.tensor([1, 2])}, {"x": (), "y": ()})
