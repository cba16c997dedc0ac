"""The estimator checks of scikit-learn."""

from __future__ import annotations

import warnings

import pytest

from scidiff.timeseries.imputer import DiffusionImputer


def test_the_checks_of_scikit_learn_that_apply_pass() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    from sklearn.base import clone

    imputer = DiffusionImputer(max_steps=1, n_draws=2, steps=1)
    assert clone(imputer).get_params() == imputer.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(imputer, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 25
