"""The oracle of rules about tables: every rule broken and kept by hand-made draws, also where windows meet."""

import numpy as np
import pandas as pd
import pytest

from scidiff.timeseries.columns import Options
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import regular
from scidiff.timeseries.rules import Rules
from scidiff.timeseries.verdicts import Certifier

NAMES = ["a", "b", "c"]
CASES = [
    ({"bounds": {"a": [0, None]}}, "a >= 0", [1, 1, -0.25, 1, 1, 1], 0.25),
    ({"bounds": {"a": [None, 2]}}, "a <= 2", [1, 1, 2.5, 1, 1, 1], 0.5),
    ({"order": [["a", "b"]]}, "a <= b", [1, 1, 12.0, 1, 1, 1], 2.0),
    ({"sums": [{"total": "b", "parts": ["a", "c"]}]}, "b == a + c", [5, 5, 5.5, 5, 5, 5], 0.5),
    ({"rates": {"a": {"change": 1.0, "per": 2.0}}}, "a changes by at most 1 in 2", [1, 1, 2.0, 2, 2, 2], 0.5),
    ({"monotone": {"a": "increasing"}}, "a increasing", [1, 1, 0.5, 1, 1, 1], 0.5),
    ({"monotone": {"a": "decreasing"}}, "a decreasing", [1, 1, 1.5, 1, 1, 1], 0.5),
]


def _judged(content: dict, drawn: np.ndarray, *, window: int = 6, overlap: int = 0) -> Certifier:
    """Draws [K, 6] of a in the series s; b is 10 and c is 5 throughout, and nothing of a was observed."""
    table = pd.DataFrame({"id": "s", "time": np.arange(6.0), "a": np.nan, "b": 10.0, "c": 5.0})
    panel = read_frame(table, Options(id="id", time="time", variables=tuple(NAMES)))
    grid = regular(panel, step=1.0, window=window, overlap=overlap)
    found = Certifier(Rules.parse(content, "test"), panel, grid)
    for number in range(len(grid)):
        start, length = int(grid.start[number]), int(grid.length[number])
        draws = np.full((len(drawn), length, 3), np.nan)
        draws[:, :, 0] = drawn[:, start : start + length]
        found.add(number, draws)
    return found


@pytest.mark.parametrize(("content", "rule", "broken", "worst"), CASES)
def test_a_rule_that_one_draw_breaks(content, rule, broken, worst):
    kept = np.full(6, 5.0) if "sums" in content else np.ones(6)
    found = _judged(content, np.stack([kept, np.array(broken, float), kept]))
    assert list(found.verdicts) == [rule]
    verdict = found.verdicts[rule]
    assert (verdict.draws, verdict.series, verdict.observed) == (1, ["s"], 0)
    assert verdict.worst == pytest.approx(worst, rel=1e-12)
    assert f"{rule} broken by 1 draws" in found.summary()
    assert _judged(content, np.stack([kept, kept])).summary().endswith("all hold")


def test_rounding_is_no_violation_but_the_least_thing_beyond_a_bound_is():
    thirds = np.full((1, 6), 10 - 5.0 + 4e-16)
    assert _judged({"sums": [{"total": "b", "parts": ["a", "c"]}]}, thirds).verdicts["b == a + c"].draws == 0
    assert _judged({"bounds": {"a": [None, 1]}}, np.full((1, 6), np.nextafter(1, 2))).verdicts["a <= 1"].draws == 1


def test_a_jump_where_two_windows_meet_is_seen():
    content = {"rates": {"a": {"change": 1.0, "per": 1.0}}}
    jump = np.array([[1.0, 1, 1, 4, 4, 4]])
    for overlap in (0, 1):
        found = _judged(content, jump, window=3, overlap=overlap)
        assert found.verdicts["a changes by at most 1 in 1"].worst == pytest.approx(2.0)


def test_what_observed_values_break_among_themselves_is_counted_apart():
    found = _judged({"order": [["b", "c"]]}, np.ones((4, 6)))
    verdict = found.verdicts["b <= c"]
    assert (verdict.observed, verdict.draws, verdict.places) == (6, 0, 0)
    assert verdict.observed_at == ["s at 0.0", "s at 1.0", "s at 2.0"]
    assert "themselves break b <= c 6 times (series s at 0.0, s at 1.0, s at 2.0, ...)" in found.summary()


def test_an_order_holds_also_across_a_variable_that_is_not_there():
    found = _judged({"order": [["c", "a", "b"]]}, np.full((2, 6), np.nan))
    assert list(found.verdicts) == ["c <= a", "c <= b", "a <= b"]
    assert found.verdicts["c <= b"].observed == 0
