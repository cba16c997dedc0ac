"""Weights on disk: tensors as safetensors, and a JSON record with their size, their SHA-256 and what they are for.

Nothing is ever unpickled, so a file of weights cannot run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scidiff import atomic
from scidiff.errors import UserError

RECORD = "weights.json"
SHARD = 9_000_000  # bytes of tensors in one file, so that each can be kept in a repository


class WeightsError(UserError):
    """A file of weights that is not there, is cut short or is not what its record says. One line."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights and what is needed to use them.

    Attributes:
        tensors: the state dictionary of the denoiser.
        config: what builds the denoiser (JSON).
        card: the model card: data, training, measurements (JSON).
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)

    def part(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose names begin so, without it, in float32."""
        return {name.removeprefix(prefix): t.float() for name, t in self.tensors.items() if name.startswith(prefix)}

    def fields(self, name: str) -> dict[str, Any]:
        """A part of the configuration, its lists as tuples."""
        return {key: tuple(one) if isinstance(one, list) else one for key, one in self.config[name].items()}


@contextmanager
def expected(what: str, where: Path) -> Iterator[None]:
    """Building something of weights: WeightsError names in one line what it should have been and why it is not."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{where}: expected {what}, got others: {reason}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write tensors to one safetensors file; returns the record {"bytes", "sha256"} that `read_tensors` checks."""
    # clone: tensors that share memory (tied weights) are refused by safetensors
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256(path)}


def read_tensors(
    path: Path, record: Mapping[str, Any], *, mend: str, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Read a safetensors file after checking it against its record.

    Args:
        path: the file.
        record: its size "bytes" and its "sha256".
        mend: what the reader can do about a damaged file; ends the message of the error.

    Raises:
        WeightsError: the file is missing, of another size or of another content.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: expected a file of weights, got none: {mend}")
    size = path.stat().st_size
    if size != record["bytes"]:
        what = "truncated" if size < record["bytes"] else "not the file that was written"
        raise WeightsError(f"{path}: expected {record['bytes']:,} bytes, got {size:,} ({what}): {mend}")
    digest = atomic.sha256(path)
    if digest != record["sha256"]:
        raise WeightsError(
            f"{path}: expected SHA-256 {record['sha256'][:16]}..., got {digest[:16]}... (changed since written): {mend}"
        )
    return load_file(path, device=str(device))


def _shards(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by file: "weights.safetensors" while they fit, else "weights-1.safetensors", ... in their order."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in tensors.items():
        bytes_ = value.numel() * value.element_size()
        if groups[-1] and size + bytes_ > SHARD:
            groups.append({})
            size = 0
        groups[-1][name] = value
        size += bytes_
    if len(groups) == 1:
        return {"weights.safetensors": groups[0]}
    return {f"weights-{k}.safetensors": group for k, group in enumerate(groups, 1)}


def _digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, whatever the order and spacing of its JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save(folder: Path, weights: Weights) -> None:
    """Write weights to a folder of safetensors and one record, replaced together.

    Raises:
        UserError: something else is there.
    """
    atomic.check_folder(folder, RECORD)
    with atomic.folder(folder) as temporary:
        files = {name: write_tensors(temporary / name, group) for name, group in _shards(weights.tensors).items()}
        record = {"files": files, "config": weights.config, "config_sha256": _digest(weights.config)}
        text = json.dumps({**record, "card": weights.card}, indent=1)
        (temporary / RECORD).write_text(text + "\n", encoding="utf-8")


def load(
    folder: Path,
    *,
    mend: str = "copy the folder again or reinstall what it came with",
    device: torch.device | str = "cpu",
) -> Weights:
    """Read the weights of a folder written by `save`.

    Raises:
        WeightsError: a file is missing or damaged; the message says what was expected, what came, how to mend it.
    """
    path = folder / RECORD
    if not path.is_file():
        raise WeightsError(f"{path}: expected the record of the weights, got no such file: {mend}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files, config, card = record["files"], record["config"], record.get("card", {})
        if not files or not all({"bytes", "sha256"} <= set(file) for file in files.values()):
            raise KeyError("files.sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: expected JSON with files, config and card, got {error!r}: {mend}") from None
    expected = record.get("config_sha256")  # a record made by hand may have none
    if expected is not None and expected != _digest(config):
        raise WeightsError(f"{path}: expected the configuration that was written, got another: {mend}")
    tensors: dict[str, Tensor] = {}
    for name, file in files.items():
        tensors |= read_tensors(folder / Path(name).name, file, mend=mend, device=device)
    return Weights(tensors=tensors, config=config, card=card)
