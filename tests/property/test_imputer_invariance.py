"""A draw is a function of the seed, its series and its number: not of what else there is, nor of how it is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import waves

from scidiff.timeseries import impute
from scidiff.timeseries.draws import draw
from scidiff.timeseries.impute import series_seed
from scidiff.timeseries.imputer import DiffusionImputer


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Series of different lengths, one of them empty of `a`, one longer than a window."""
    parts = [waves(series=1, rows=rows, seed=rows).assign(id=f"s{rows}") for rows in (3, 9, 16, 17, 40)]
    parts[1]["a"] = np.nan
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def imputer(table: pd.DataFrame) -> DiffusionImputer:
    found = DiffusionImputer(max_steps=2, n_draws=12, steps=2, seed=11).fit(table)
    found._learned = type(found._learned)(**{**vars(found._learned), "window": 16})
    return found


@pytest.fixture(scope="module")
def whole(imputer: DiffusionImputer, table: pd.DataFrame) -> dict[str, np.ndarray]:
    return _draws(imputer, table)


def _draws(imputer: DiffusionImputer, table: pd.DataFrame, count: int | None = None) -> dict[str, np.ndarray]:
    """[K, L, V] of every series, without its padding."""
    found = imputer.impute_samples(table, count)
    length = table.groupby("id", sort=False).size()
    return {
        str(name): found["value"].sel(series=name).to_numpy()[:, : length[name]] for name in found["series"].to_numpy()
    }


@given(data=st.data())
@settings(max_examples=6)
def test_any_subset_in_any_order_gives_the_same_draws(
    imputer: DiffusionImputer, table: pd.DataFrame, whole: dict[str, np.ndarray], data: st.DataObject
) -> None:
    names = list(dict.fromkeys(table["id"]))
    some = data.draw(st.permutations(names).flatmap(lambda p: st.integers(1, len(p)).map(lambda k: p[:k])))
    count = data.draw(st.integers(2, 12))
    part = pd.concat([table[table["id"] == name] for name in some], ignore_index=True)
    found = _draws(imputer, part, count)
    assert set(found) == set(some)
    for name in some:
        assert np.array_equal(found[name], whole[name][:count]), name


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_draws(
    imputer: DiffusionImputer, table: pd.DataFrame, whole: dict[str, np.ndarray]
) -> None:
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found = _draws(imputer, table)
        for name, draws in whole.items():
            assert np.array_equal(found[name], draws), (name, count)


def test_every_window_of_every_series_has_noise_of_its_own(
    imputer: DiffusionImputer, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[tuple[int, int]] = []

    def watched(*arguments: Any, seed: int, number: int, **more: Any) -> torch.Tensor:
        keys.append((seed, number))
        return draw(*arguments, seed=seed, number=number, **more)

    monkeypatch.setattr(impute, "draw", watched)
    imputer.impute_samples(table, 2)
    assert len(keys) == 9  # s3, s9, s16: one window each; s17: two; s40: four
    assert len(set(keys)) == len(keys)
    assert {seed for seed, _ in keys} == {series_seed(11, name) for name in table["id"]}


@given(seed=st.integers(0, 2**64 - 1), identity=st.one_of(st.text(max_size=5), st.integers()))
def test_the_seed_of_a_series_is_one_of_64_bits_and_of_its_text(seed: int, identity: Any) -> None:
    found = series_seed(seed, identity)
    assert 0 <= found < 2**64
    assert found == series_seed(seed, str(identity))
    assert found != series_seed(seed, f"{identity}x")
