"""Files of weights that are sound come back bit for bit; any that are not say so in one line."""

from __future__ import annotations

import json
import os

import pytest
import torch

from scidiff import atomic, weights
from scidiff.errors import UserError
from scidiff.weights import Weights, WeightsError

TENSORS = {"a.weight": torch.linspace(-1, 1, 600).reshape(20, 30), "b": torch.arange(5), "c": torch.tensor(2.5)}


@pytest.fixture
def folder(tmp_path):
    weights.save(tmp_path / "w", Weights(tensors=TENSORS, config={"width": 4}, card={"data": "none"}))
    return tmp_path / "w"


def test_weights_come_back(folder):
    back = weights.load(folder)
    assert back.config == {"width": 4}
    assert back.card == {"data": "none"}
    assert set(back.tensors) == set(TENSORS)
    for name, x in TENSORS.items():
        assert back.tensors[name].dtype == x.dtype
        assert torch.equal(back.tensors[name], x)


def test_tied_weights_are_kept(tmp_path):
    x = torch.ones(3, 3)
    weights.save(tmp_path / "w", Weights(tensors={"a": x, "b": x, "c": x.T}, config={}))
    assert torch.equal(weights.load(tmp_path / "w").tensors["b"], x)


def test_large_weights_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD", 1000)
    many = {f"layer{k}": torch.full((100,), float(k)) for k in range(7)}
    weights.save(tmp_path / "w", Weights(tensors=many, config={}))
    files = sorted(path.name for path in (tmp_path / "w").glob("*.safetensors"))
    assert files == [f"weights-{k}.safetensors" for k in range(1, 5)]
    back = weights.load(tmp_path / "w").tensors
    assert list(back) == list(many)
    assert all(torch.equal(back[name], many[name]) for name in many)
    (tmp_path / "w" / files[2]).unlink()
    with pytest.raises(WeightsError, match="weights-3"):
        weights.load(tmp_path / "w")


def refusal(folder, **options) -> str:
    with pytest.raises(WeightsError) as caught:
        weights.load(folder, **options)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_truncated_tampered_and_missing_files_are_named(folder):
    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    message = refusal(folder, mend="reinstall scidiff")
    assert f"expected {len(whole):,} bytes, got {len(whole) - 100:,} (truncated)" in message
    assert message.startswith(str(path))
    assert message.endswith("reinstall scidiff")
    for place in (0, 8, len(whole) // 2, len(whole) - 1):  # header length, header, tensors
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert "expected SHA-256" in refusal(folder)
    path.write_bytes(whole + b"x")
    assert "not the file that was written" in refusal(folder)
    path.unlink()
    assert "expected a file of weights, got none" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"files": {"a": {"bytes": 1}}, "config": {}}', '{"files": 3, "config": 1}']
)
def test_a_broken_record_is_named(folder, text):
    (folder / "weights.json").write_text(text)
    assert "weights.json: expected JSON" in refusal(folder)


def test_no_folder(tmp_path):
    assert "expected the record of the weights" in refusal(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_former_file(tmp_path):
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": 0.1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        atomic.write(path, fail)
    assert json.loads(path.read_text()) == {"a": 0.1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_failed_folder_leaves_the_former_one(tmp_path):
    target = tmp_path / "f"
    for name in ("one", "two"):
        with atomic.folder(target) as new:
            (new / name).write_text(name)
        assert os.listdir(target) == [name]  # replaced, not mixed

    def fail() -> None:
        with atomic.folder(target) as new:
            (new / "three").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(target) == ["two"]
    assert os.listdir(tmp_path) == ["f"]
