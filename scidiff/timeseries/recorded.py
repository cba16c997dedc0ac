"""Values as a table records them: whole scores, tens of degrees, ends of a scale.

A variable that takes few values, each many times, is one of which nothing else can be observed. The recorded value
nearest to a draw is then a better draw: errors of what is always recorded as 0 or 15 become 0. Since this is
monotone and leaves recorded values alone, an interval that holds one still does with its ends at recorded values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Levels = tuple[tuple[float, ...], ...]

MOST = 256  # values of a variable; one of more is continuous
_EACH = 4  # how often, on average, each of them is there


def levels(values: npt.NDArray[Any]) -> Levels:
    """The values that each variable takes, ascending; none of continuous ones: V tuples of values [..., V] with NaN."""
    found = []
    for column in np.asarray(values, dtype=np.float64).reshape(-1, values.shape[-1]).T:
        seen = column[~np.isnan(column)]
        own = np.unique(seen)
        found.append(tuple(own.tolist()) if len(own) <= MOST and len(seen) >= _EACH * len(own) else ())
    return tuple(found)


def nearest(x: npt.NDArray[Any], variable: npt.NDArray[Any], known: Sequence[Sequence[float]]) -> npt.NDArray[Any]:
    """The recorded value nearest to each of x [..., N], the larger of two; `variable` [N] tells whose it is.

    NaN stays, and so does what belongs to a continuous variable.
    """
    out = np.array(x, dtype=np.float64)
    for v in np.unique(variable):
        own = np.asarray(known[v], dtype=np.float64)
        if len(own):
            here = variable == v
            place = np.searchsorted((own[1:] + own[:-1]) / 2, out[..., here], side="right")
            out[..., here] = np.where(np.isnan(out[..., here]), np.nan, own[place])
    return out
