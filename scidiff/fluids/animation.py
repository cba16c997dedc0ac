"""A flow in time as a moving picture: GIF or WebP, a few members and the mean of all, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scidiff import atomic
from scidiff.errors import UserError, one_line

_MEMBERS = 3
_SIDE = 256  # pixels of a panel's longer side, about
_GAP = 4  # pixels between panels
_MILLISECONDS = 80  # of a frame


def write_animation(vorticity: NDArray[np.float64], path: Path) -> None:
    """Write trajectories [S, T, H, W] as an endless loop, whole or not at all; y points up.

    Raises:
        UserError: it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    try:
        atomic.write(path, lambda temporary: temporary.write_bytes(animated(vorticity, kind)))
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def animated(vorticity: NDArray[np.float64], kind: str) -> bytes:
    """Trajectories [S, T, H, W] as a file of a kind, gif or webp."""
    members = list(vorticity[:_MEMBERS])
    panels = members if len(vorticity) == 1 else [*members, vorticity.mean(0)]
    most = brightest(vorticity)
    frames = [_frame([panel[n] for panel in panels], most) for n in range(vorticity.shape[1])]
    stream = io.BytesIO()
    frames[0].save(stream, format=kind, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)
    return stream.getvalue()


def brightest(vorticity: NDArray[np.float64]) -> float:
    """The vorticity of the darkest red; that of the darkest blue is minus that."""
    return float(np.quantile(np.abs(vorticity[0]), 0.999)) or 1.0


def _frame(fields: list[NDArray[np.float64]], most: float) -> Image.Image:
    from matplotlib import colormaps

    height, width = fields[0].shape
    times = max(1, round(_SIDE / max(height, width)))
    gap = np.full((height * times, _GAP, 3), 255, dtype=np.uint8)
    row = []
    for field in fields:
        colours = colormaps["RdBu_r"](np.clip(field[::-1] / (2 * most) + 0.5, 0, 1), bytes=True)[..., :3]
        row += [colours.repeat(times, 0).repeat(times, 1), gap]
    return Image.fromarray(np.concatenate(row[:-1], 1))
