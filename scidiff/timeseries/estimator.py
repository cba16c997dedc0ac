"""What makes a class an estimator to scikit-learn, without importing it: parameters, tags, names, output.

scikit-learn asks for these methods and for nothing else; where it is not installed nobody asks.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pandas as pd

from scidiff.errors import UserError


class _NotFitted(ValueError, AttributeError):
    """As scikit-learn's, where that is not installed."""


class TableTransformer:
    """A transformer of tables. Its parameters are those of its `__init__`, kept under their names."""

    n_features_in_: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name. None of them is an estimator, so `deep` changes nothing."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def set_params(self, **params: Any) -> Self:
        """Change parameters. ValueError for a name that is none."""
        known = self.get_params()
        for name in params:
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r}: expected one of {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def set_output(self, *, transform: str | None = None) -> Self:
        """What becomes of arrays: `default` arrays, `pandas` DataFrames. DataFrames always become DataFrames."""
        if transform not in (None, "default", "pandas"):
            raise ValueError(f"expected the output default or pandas, got {transform!r}")
        if transform is not None:
            self._output = transform
        return self

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Names of the columns that `transform` returns: those that came, or x0, x1, ..."""
        self._check_fitted()
        names = getattr(self, "feature_names_in_", None)
        if input_features is not None:
            given = np.asarray(input_features, dtype=object)
            if names is not None and list(given) != list(names):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(given) != self.n_features_in_:
                raise ValueError(
                    f"input_features should have length equal to number of features ({self.n_features_in_}), "
                    f"got {len(given)}"
                )
            return given
        return names if names is not None else np.array([f"x{k}" for k in range(self.n_features_in_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's tests and meta-estimators want to know."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=InputTags(allow_nan=True, string=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = {
            name: value
            for name, value in self.get_params().items()
            if not (value is defaults[name].default or repr(value) == repr(defaults[name].default))
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            theirs = sys.modules.get("sklearn.exceptions")
            error: type[Exception] = _NotFitted if theirs is None else theirs.NotFittedError
            raise error(f"expected a fitted {type(self).__name__}, got one that is not: call fit first")

    def _remember(self, X: Any, frame: pd.DataFrame) -> None:
        """Keep number and names of the columns."""
        self.n_features_in_ = frame.shape[1]
        if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _recall(self, X: Any) -> pd.DataFrame:
        """The table as a frame, if its columns are those of `fit`. ValueError if not."""
        self._check_fitted()
        frame = as_frame(X)
        names = getattr(self, "feature_names_in_", None)
        if isinstance(X, pd.DataFrame) and names is not None and list(names) != list(X.columns):
            _names_differ(list(names), list(X.columns))
        if isinstance(X, pd.DataFrame) and names is None and all(isinstance(name, str) for name in X.columns):
            warnings.warn(
                f"X has feature names, but {type(self).__name__} was fitted without feature names", stacklevel=3
            )
        if not isinstance(X, pd.DataFrame) and names is not None:
            warnings.warn(
                f"X does not have valid feature names, but {type(self).__name__} was fitted with feature names",
                stacklevel=3,
            )
            frame.columns = pd.Index(names) if frame.shape[1] == len(names) else frame.columns
        if frame.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {frame.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        return frame


def _names_differ(ours: list[str], theirs: list[Any]) -> None:
    lines = ["The feature names should match those that were passed during fit."]
    if new := [name for name in theirs if name not in ours]:
        lines += ["Feature names unseen at fit time:", *(f"- {name}" for name in new)]
    if gone := [name for name in ours if name not in theirs]:
        lines += ["Feature names seen at fit time, yet now missing:", *(f"- {name}" for name in gone)]
    if len(lines) == 1:
        lines.append("Feature names must be in the same order as they were in fit.")
    raise ValueError("\n".join(lines) + "\n")


def as_frame(X: Any) -> pd.DataFrame:
    """A DataFrame as it is; an array [rows, variables] as one with the columns x0, x1, ...

    Raises:
        TypeError: a sparse matrix.
        ValueError: no table of numbers, or an empty one.
    """
    if isinstance(X, pd.DataFrame):
        frame = X
    else:
        if hasattr(X, "tocsr"):
            raise TypeError("Sparse data was passed, but dense data is required: use X.toarray()")
        array = np.asarray(X)
        if np.iscomplexobj(array):
            raise ValueError("Complex data not supported")
        if array.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got {array.ndim}D array instead. Reshape your data either using "
                "array.reshape(-1, 1) or array.reshape(1, -1)"
            )
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float64)
        frame = pd.DataFrame(array, columns=[f"x{k}" for k in range(array.shape[1])])
    for size, what in ((frame.shape[0], "sample"), (frame.shape[1], "feature")):
        if not size:
            raise ValueError(f"Found array with 0 {what}(s) (shape={frame.shape}) while a minimum of 1 is required.")
    return frame


@contextmanager
def value_errors() -> Iterator[None]:
    """Errors of the user are ValueErrors here, as estimators raise them."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from None
