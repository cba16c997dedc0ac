"""Data that scripts of this folder simulate: kept in the cache, whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _fetching import sha256
from safetensors.torch import save_file
from torch import Tensor


def kept(folder: Path, file: str, simulate: Callable[[], dict[str, Tensor]], record: Mapping[str, Any]) -> Path:
    """The folder with a safetensors file and manifest.json; simulated if it is not there.

    Args:
        folder: where.
        file: name of the file.
        simulate: makes its tensors.
        record: what the manifest tells of them, besides SHA-256 and seconds.
    """
    if (folder / "manifest.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new, began = Path(temporary) / "new", time.monotonic()
        new.mkdir()
        save_file(simulate(), new / file)
        made = {"sha256": sha256(new / file), "seconds": round(time.monotonic() - began, 1)}
        (new / "manifest.json").write_text(json.dumps({**record, **made}, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    return folder
