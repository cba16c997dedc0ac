"""Pictures of permeabilities and pressures for a report, with the wells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from scidiff.fluids.pictures import maps_of
from scidiff.fluids.report import Picture, png
from scidiff.fluids.wells import Well

_MEMBERS = 2


def of_pairs(pairs: Tensor, wells: Sequence[Well]) -> Picture:
    """Mean, spread and members of permeability and pressure, [S, 2, N, N], each a row."""
    from matplotlib.figure import Figure

    fields = pairs.cpu().numpy()
    columns = maps_of(fields, _MEMBERS)
    figure = Figure(figsize=(3.2 * len(columns), 5.6), layout="compressed")
    axes: Any = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey=True)
    for column, (title, shown) in enumerate(columns.items()):
        for row, (name, field) in enumerate(zip(("permeability", "pressure"), shown, strict=True)):
            axis, every = axes[row, column], fields[:, row]
            limits = (0, None) if title.startswith("spread") else (float(every.min()), float(every.max()))
            image = axis.imshow(field, origin="lower", extent=(0, 1, 0, 1), vmin=limits[0], vmax=limits[1])
            figure.colorbar(image, ax=axis, shrink=0.85)
            axis.set_title(f"{name}: {title}", fontsize=9)
    places = np.array([well.place for well in wells])
    axes[0, 0].plot(places[:, 1], places[:, 0], "r.", markersize=2)
    alt = "Mean with the wells, spread and members of permeability and pressure"
    return Picture(title="Permeability and pressure", alt=alt, data=png(figure), note="Dots: the wells.", broad=True)
