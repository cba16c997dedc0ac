"""The imputer: what it must return of every table, and the conventions of estimators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from panels import waves

from scidiff.noise import Noise
from scidiff.timeseries.aliases import _NAMES, canonical, match
from scidiff.timeseries.batches import Standardised, series
from scidiff.timeseries.frames import read_frame
from scidiff.timeseries.grid import irregular
from scidiff.timeseries.holdout import Holdout, split
from scidiff.timeseries.imputer import DiffusionImputer
from scidiff.timeseries.masks import hide
from scidiff.timeseries.model import ImputerConfig, ImputerModel, crps_normal
from scidiff.timeseries.standardise import Translation, config_of, scale
from scidiff.timeseries.static import with_static
from scidiff.timeseries.warm import adopt, warm_start

QUICK: dict[str, Any] = {"max_steps": 1, "n_draws": 10, "steps": 2}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return waves(dated=True)


@pytest.fixture(scope="module")
def fitted(table: pd.DataFrame) -> DiffusionImputer:
    return DiffusionImputer(**QUICK, seed=3).fit(table)


def test_everything_that_came_comes_back_and_every_gap_is_filled(fitted: DiffusionImputer, table: pd.DataFrame) -> None:
    table = table.set_index(pd.Index(np.arange(len(table))[::-1] * 7, name="line"))
    before = table.copy(deep=True)
    filled = fitted.transform(table)
    pd.testing.assert_frame_equal(table, before)
    assert list(filled.columns) == list(table.columns)
    assert filled.index.equals(table.index)
    assert (filled.dtypes == table.dtypes).all()
    pd.testing.assert_frame_equal(filled[["id", "time"]], table[["id", "time"]])
    for name in ("a", "b"):
        seen = table[name].notna()
        assert filled.loc[seen, name].to_numpy().tobytes() == table.loc[seen, name].to_numpy().tobytes()
        assert filled[name].notna().all()


def test_draws_hold_what_was_observed_to_the_bit_and_their_median_is_the_filled_table(
    fitted: DiffusionImputer, table: pd.DataFrame
) -> None:
    draws = fitted.impute_samples(table)
    assert draws["value"].dims == ("series", "sample", "time", "variable")
    assert draws.sizes == {"series": 8, "sample": 10, "time": 16, "variable": 2}
    came = table[["a", "b"]].to_numpy().reshape(8, 16, 2)
    seen = ~np.isnan(came)
    assert (draws["observed"].to_numpy() == seen).all()
    for k in range(10):
        assert (draws["value"].to_numpy()[:, k][seen] == came[seen]).all()
    spread = draws["value"].std("sample").to_numpy()
    assert (spread[~seen] > 0).all()
    filled = fitted.transform(table)[["a", "b"]].to_numpy().reshape(8, 16, 2)
    assert np.array_equal(np.median(draws["value"].to_numpy(), axis=1)[~seen], filled[~seen])
    quantiles = fitted.impute_quantiles(table, (0.1, 0.9))
    pd.testing.assert_frame_equal(quantiles[list(table)], fitted.transform(table))
    expected = np.quantile(draws["value"].to_numpy(), 0.1, axis=1)
    found = quantiles[["a_p10", "b_p10"]].to_numpy().reshape(8, 16, 2)
    assert np.array_equal(found[~seen], expected[~seen])
    assert np.isnan(found[seen]).all()


def test_the_same_seed_gives_the_same_imputer_and_another_another(table: pd.DataFrame) -> None:
    first, again, other = (DiffusionImputer(**QUICK, seed=seed).fit_transform(table) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_the_first_draws_do_not_depend_on_how_many_there_are(fitted: DiffusionImputer, table: pd.DataFrame) -> None:
    few, many = (fitted.impute_samples(table, n)["value"].to_numpy() for n in (3, 25))
    assert np.array_equal(few, many[:, :3])
    assert len(np.unique(many[0, :, np.isnan(table["a"].to_numpy()[:16]), 0], axis=1).T) == 25


def test_no_name_of_a_variable_means_two() -> None:
    owners: dict[str, set[str]] = {}
    for name, words in _NAMES.items():
        for alias in (name, *words.split(", ")):
            assert canonical(alias) == canonical(name)
            owners.setdefault(canonical(alias), set()).add(name)
    assert all(len(names) == 1 for names in owners.values())
    assert match(["heart rate", "LOINC//2951-2", "Heart_Rate", "K", "x"], ["HR", "Na", "K"]) == {
        "heart rate": "HR",
        "LOINC//2951-2": "Na",
        "K": "K",
    }


def test_of_few_held_out_windows_every_one_is_asked_in_several_ways() -> None:
    observed = torch.ones(6, 4, 2, dtype=torch.bool)
    observed[:, 1:] = False  # so little that random patterns often hide nothing
    data = Standardised(values=torch.zeros(6, 4, 2), observed=observed, times=torch.arange(4.0).expand(6, 4),
                        rows=torch.ones(6, 4, dtype=torch.bool), static=torch.zeros(6, 0, 2))  # fmt: skip
    for seed in range(5):
        held = Holdout.of(data, split(observed.flatten(1).sum(1), torch.arange(6), seed=seed), seed=seed)
        assert len(held.held) == 16
        assert held.asked.flatten(1).any(1).all()
        assert not (held.asked & ~held.held.observed).any()


def test_scales_are_those_of_the_observed_values() -> None:
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    mean, std = scale(values)
    assert mean.tolist() == [2, 5, 0]
    assert std.tolist() == [1, 1, 1]
    offset = np.array([[1e9 + 0.0], [1e9 + 2.0]])
    assert scale(offset)[1].tolist() == [1]


def _split(count: list[int], series: list[int]) -> Any:
    return split(torch.tensor(count), torch.tensor(series), seed=0)


def test_no_series_is_both_learned_from_and_judged() -> None:
    chosen = _split([5] * 40, [k // 2 for k in range(40)])
    assert chosen.unit == "series"
    assert {int(k) // 2 for k in chosen.train}.isdisjoint({int(k) // 2 for k in chosen.held})
    assert sorted([*chosen.train.tolist(), *chosen.held.tolist()]) == list(range(40))
    one = _split([5] * 10, [0] * 10)
    assert one.unit == "windows"
    assert set(one.train.tolist()).isdisjoint(one.held.tolist())
    assert _split([5, 1, 3], [0, 0, 1]).unit == "values"
    with pytest.raises(ValueError, match="two observed values"):
        _split([1, 0], [0, 1])


def test_of_a_single_window_no_value_is_both_learned_from_and_judged() -> None:
    observed = torch.ones(1, 30, 3, dtype=torch.bool)
    data = Standardised(
        values=torch.arange(90.0).reshape(1, 30, 3),
        observed=observed,
        times=torch.arange(30.0)[None],
        rows=torch.ones(1, 30, dtype=torch.bool),
        static=torch.zeros(1, 0, 2),
    )
    held = Holdout.of(data, _split([90], [0]), seed=0)
    assert held.asked.any()
    assert not (held.train.observed & held.asked).any()
    assert (held.train.observed | held.asked).all()
    assert (held.train.values[held.asked] == 0).all()


def _model(variables: tuple[str, ...], static: tuple[str, ...] = ()) -> ImputerModel:
    count, known = len(variables), len(static)
    torch.manual_seed(len(variables))
    config = ImputerConfig(variables=variables, means=(1.0,) * count, stds=(2.0,) * count, static=static,
                           static_means=(0.0,) * known, static_stds=(1.0,) * known, width=16, depth=1, heads=2,
                           row_width=16, row_depth=1)  # fmt: skip
    model = ImputerModel.create(config)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_warm_start_knows_shared_variables_by_their_names() -> None:
    """With variables renamed and in another order the network computes the same function of them."""
    trained = _model(("HR", "Na", "Temp"), ("Age", "Height"))
    other = warm_start(trained, _model(("temperature", "heart rate", "Na"), ("Height", "Age")).config)
    place = [2, 0, 1]
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 6, 3, generator=generator)
    visible = torch.rand(1, 6, 3, generator=generator) < 0.6
    static = torch.randn(1, 2, 2, generator=generator)

    def first_guess(model: ImputerModel, order: list[int], covariates: list[int]) -> torch.Tensor:
        data = Standardised(values=values[:, :, order], observed=visible[:, :, order], times=torch.arange(6.0)[None],
                            rows=torch.ones(1, 6, dtype=torch.bool), static=static[:, covariates])  # fmt: skip
        seen = visible[:, :, order]
        context = model.denoiser.network.encode(series(data, visible=seen, asked=~seen))
        return context.location[:, :, [order.index(v) for v in range(3)]]

    ours, theirs = first_guess(other, place, [1, 0]), first_guess(trained, [0, 1, 2], [0, 1])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    unknown = warm_start(trained, _model(("Na", "zzz"), ("Age",)).config)
    weights = unknown.denoiser.state_dict()
    row = next(value for name, value in weights.items() if name.endswith("encoder.row.weight"))
    assert (row[:, [1, 3]] == 0).all()
    with pytest.raises(ValueError, match="sizes"):
        warm_start(trained, ImputerConfig(variables=("Na",), means=(0.0,), stds=(1.0,), width=32))


def _first_variable(data: Standardised) -> Standardised:
    return replace(data, values=data.values[:, :, :1], observed=data.observed[:, :, :1])


def test_a_new_variable_begins_as_the_known_one_that_foretells_it_best() -> None:
    trained = _model(("HR", "Na", "Temp"))
    model = warm_start(trained, _model(("Na", "zzz")).config)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(6, 9, 2, generator=generator)
    data = Standardised(values=values, observed=torch.ones(6, 9, 2, dtype=torch.bool),
                        times=torch.arange(9.0).expand(6, 9), rows=torch.ones(6, 9, dtype=torch.bool),
                        static=torch.zeros(6, 0, 2))  # fmt: skip
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    chosen = adopt(model, trained, data, seed=4)["zzz"]
    after = model.denoiser.state_dict()
    name = next(name for name in after if name.endswith("encoder.variable.weight"))
    known = trained.denoiser.state_dict()[name]
    assert torch.equal(after[name][1], known[trained.config.variables.index(chosen)])
    assert torch.equal(after[name][0], before[name][0])
    assert all(torch.equal(after[other], before[other]) for other in after if other != name)

    def error(candidate: torch.Tensor) -> float:
        """CRPS of `zzz` where half of it is hidden."""
        after[name][1] = candidate
        model.denoiser.load_state_dict(after)
        order = data.observed.flatten(1).sum(1).topk(6).indices
        hidden = hide(data.observed, data.observed, Noise(seed=4, index=order), mixture={"random": 1.0})
        hidden[:, :, 0] = False
        with torch.no_grad():
            context = model.denoiser.network.encode(series(data[order], visible=~hidden, asked=hidden))
        return float(crps_normal(data.values[order], context.location, context.scale)[hidden].sum())

    errors = [error(candidate) for candidate in known]
    assert min(errors) == errors[trained.config.variables.index(chosen)]
    assert adopt(warm_start(trained, _model(("Na",)).config), trained, _first_variable(data), seed=4) == {}


def test_a_table_in_other_units_is_put_on_its_own_scale() -> None:
    model = _model(("a", "b"))  # knows means of 1 and spreads of 2
    panel = read_frame(waves(gaps=0.2))
    translation = Translation.of(model, panel)
    assert translation.rescaled == ("b",)
    assert translation.mean[0] == 1
    assert translation.mean[1] == pytest.approx(np.nanmean(panel.value[:, 1]))
    back = translation.units((translation.across(panel.value, np.nan) - translation.mean) / translation.std, 2)
    np.testing.assert_allclose(back, panel.value, rtol=1e-12)


@pytest.mark.parametrize(
    ("card", "name", "dated", "expected"),
    [
        ({"step_seconds": 3600.0}, "minute", False, 1.0),  # rows are 60 minutes apart
        ({"step_seconds": 3600.0}, "hour", False, 60.0),
        ({"step_seconds": 1800.0}, "time", True, 2.0),
        ({"step_seconds": 3600.0}, "time", False, 1.0),  # an unknown unit: rows are counted
        ({}, "time", False, 2.0),  # the model's own step, 30
    ],
)
def test_time_counts_in_the_steps_of_the_model(card: dict[str, Any], name: str, dated: bool, expected: float) -> None:
    model = _model(("a", "b"))
    model = replace(model, card=card, config=replace(model.config, step=30.0))
    panel = read_frame(waves(dated=dated).rename(columns={"time": name}))
    times = Translation.of(model, panel).standardised(irregular(panel)).times
    torch.testing.assert_close(times, expected * torch.arange(16.0).expand(8, 16))


def test_covariates_that_are_codes_become_one_column_each() -> None:
    panel = read_frame(waves(series=20))
    ids = [f"p{k}" for k in range(20)]
    static = pd.DataFrame({"id": ids, "unit": [1, 2, 4, np.nan] * 5, "age": np.arange(20) + 40.0})
    panel = with_static(panel, static)
    config = config_of(panel, panel.value, step=60.0, sizes={"width": 16, "depth": 1})
    assert config.static == ("unit=1", "unit=2", "unit=4", "age")
    config_model = ImputerModel.create(config)
    found = Translation.of(config_model, panel).static
    assert found[:4, :3, 1].sum(1).tolist() == [3, 3, 3, 0]
    assert (found[:3, :3, 0].argmax(1) == torch.tensor([0, 1, 2])).all()


def test_variables_without_a_value_stay_empty_and_are_not_learned(table: pd.DataFrame) -> None:
    table = table.assign(c=np.nan, d=5.0)
    table.loc[table["id"] == "p2", ["a", "b"]] = np.nan  # and a series without one
    imputer = DiffusionImputer(**QUICK)
    filled = imputer.fit_transform(table)
    assert imputer.model_.config.variables == ("a", "b", "d")
    assert filled["c"].isna().all()
    assert filled[["a", "b"]].notna().all().all()
    assert (filled["d"] == 5).all()


def test_one_variable_and_one_series_is_enough() -> None:
    table = pd.DataFrame({"time": np.arange(80.0), "a": np.sin(np.arange(80) / 5)})
    table.loc[20:40:2, "a"] = np.nan
    filled = DiffusionImputer(**QUICK).fit_transform(table)
    assert filled["a"].notna().all()
    assert np.abs(filled["a"] - np.sin(np.arange(80) / 5)).max() < 1


def test_long_tables_fill_empty_rows_and_with_complete_add_the_others() -> None:
    wide = waves(series=6)
    long = wide.melt(["id", "time"], var_name="variable").sort_values(["id", "time"], ignore_index=True)
    filled = DiffusionImputer(**QUICK).fit_transform(long)
    assert len(filled) == len(long)
    assert filled["value"].notna().all()
    measured = long.dropna(ignore_index=True)
    every = DiffusionImputer(**QUICK, complete=True).fit_transform(measured)
    rows = measured.groupby("id")["time"].nunique().sum()
    assert len(every) == 2 * rows
    came = every.merge(measured, on=["id", "time", "variable"], suffixes=("", "_came"))
    assert (came["value"] == came["value_came"]).all()
    assert len(came) == len(measured)


def test_arrays_are_series_of_consecutive_rows_and_come_back_as_arrays() -> None:
    array = waves(series=1, rows=40)[["a", "b"]].to_numpy().astype(np.float32)
    imputer = DiffusionImputer(**QUICK).fit(array)
    filled = imputer.transform(array)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[~np.isnan(array)], array[~np.isnan(array)])
    assert not np.isnan(filled).any()
    frame = imputer.set_output(transform="pandas").transform(array)
    assert list(frame.columns) == ["x0", "x1"]
    assert np.array_equal(frame.to_numpy(), filled)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_draws": 1}, "2 to 4096 samples"),
        ({"steps": 0}, "at least 1 step"),
        ({"seed": -1}, "seed"),
        ({"time_budget": "soon"}, "time_budget: expected a time such as 90s"),
        ({"train": False}, "training is forbidden|that the model knows"),
        ({"id": "name"}, "'name'"),
        ({"step": -1.0}, "step: expected a number > 0"),
        ({"model": "nowhere"}, "nowhere"),
        ({"device": "abacus"}, "cpu or an accelerator"),
    ],
)
def test_bad_settings_are_value_errors_that_say_what_was_expected(
    table: pd.DataFrame, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        DiffusionImputer(**{**QUICK, **parameters}).fit(table)


def test_parameters_are_kept_untouched_and_a_clone_equals(table: pd.DataFrame) -> None:
    imputer = DiffusionImputer(id="id", seed=5, variables=["a"], n_draws=10)
    same = DiffusionImputer(**imputer.get_params())
    assert same.get_params() == imputer.get_params()
    assert repr(same) == "DiffusionImputer(id='id', variables=['a'], n_draws=10, seed=5)"
    assert same.set_params(seed=7, steps=3).get_params()["seed"] == 7
    with pytest.raises(ValueError, match="Invalid parameter 'sead'"):
        same.set_params(sead=1)
    with pytest.raises(ValueError, match="call fit first"):
        same.transform(table)
