"""The generator against published vectors, its distributions against theory, its keys against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from scidiff.noise import Draw, Noise, philox
from scidiff.state import Layout, Rows

VECTORS = [  # counter, key, output: Random123's kat_vectors for philox4x32-10
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def dense(count: int, *shape: int, seed: int = 3, leaf: str = "x", step: int = 1, first: int = 0) -> Draw:
    rows = Layout.dense(count, {"x": shape}).rows("x")
    return Noise(seed=seed, index=torch.arange(first, first + count)).at(leaf, step, rows)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    k0, k1 = words(key)
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words(counter))
    assert [int(word) for word in philox((c0, c1, c2, c3), (k0, k1))] == words(expected)


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_takes_integers_beside_tensors(counter: str, key: str, expected: str) -> None:
    k0, k1 = words(key)
    c0, c1, c2, c3 = words(counter)
    out = philox((torch.full((3, 1), c0), c1, c2, torch.full((1, 2), c3)), (k0, k1))
    for word, value in zip(out, words(expected), strict=True):
        assert bool((word == value).all())


def test_uniform_is_uniform() -> None:
    u = dense(3000, 33).uniform()
    assert u.dtype == torch.float64
    assert 0 < float(u.min()) < float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    low_bits = (u.flatten() * 2**32 - 0.5).long() & 0xFF
    assert stats.chisquare(torch.bincount(low_bits, minlength=256).numpy()).pvalue > 1e-3


def test_extreme_words_give_finite_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, 2**32 - 1):
        monkeypatch.setattr("scidiff.noise.philox", lambda counter, key, word=word: (torch.full((2, 1), word),) * 4)
        draw = dense(2, 4)
        assert 0 < float(draw.uniform().min()) <= float(draw.uniform().max()) < 1
        for dtype in (torch.float32, torch.float64):
            assert float(draw.normal(dtype=dtype).abs().max()) < 6.8
        assert bool(draw.gumbel().isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_normal(dtype: torch.dtype) -> None:
    z = dense(4000, 25).normal(dtype=dtype)
    assert z.dtype == dtype
    assert stats.kstest(z.flatten().double().numpy(), "norm").pvalue > 1e-3
    tail = (z.abs() > 3).double().mean()
    expected = 2 * stats.norm.sf(3)
    assert abs(float(tail) - expected) < 5 * (expected / z.numel()) ** 0.5


def test_normals_of_one_row_are_independent() -> None:
    z = dense(40_000, 6).normal(dtype=torch.float64)
    for x in (z, z**2, z.abs().log()):
        correlation = torch.corrcoef(x.T) - torch.eye(6, dtype=torch.float64)
        assert float(correlation.abs().max()) < 5 / len(z) ** 0.5
    triple = (z[:, 0] * z[:, 1] * z[:, 2]).mean()
    assert abs(float(triple)) < 5 / len(z) ** 0.5
    angle = torch.atan2(z[:, 1], z[:, 0])
    assert stats.kstest(angle.numpy(), stats.uniform(-torch.pi, 2 * torch.pi).cdf).pvalue > 1e-3


def test_precisions_agree() -> None:
    draw = dense(500, 31)
    torch.testing.assert_close(draw.normal().double(), draw.normal(dtype=torch.float64), atol=2e-5, rtol=1e-5)
    assert draw.normal(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_gumbel_is_gumbel() -> None:
    assert stats.kstest(dense(2000, 10).gumbel().flatten().numpy(), "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"seed": 3 + 2**32}, {"first": 20_000}, {"leaf": "y"}, {"step": 2}, {"step": 1 + 2**20}],
    ids=str,
)
def test_every_part_of_the_key_matters(change: dict[str, int]) -> None:
    one, other = dense(20_000, 4).normal(), dense(20_000, 4, **change).normal()  # type: ignore[arg-type]
    for lag in range(4):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.roll(lag, 1).flatten()]))[0, 1]
        assert abs(float(correlation)) < 5 / one.numel() ** 0.5
    assert float((one == other).double().mean()) < 1e-3


def test_kinds_are_independent_and_repeatable() -> None:
    draw = dense(20_000, 2)
    assert torch.equal(draw.uniform(kind="a"), draw.uniform(kind="a"))
    correlation = torch.corrcoef(torch.stack([draw.uniform(kind="a").flatten(), draw.uniform(kind="b").flatten()]))
    assert abs(float(correlation[0, 1])) < 5 / 40_000**0.5


def test_batch_order_and_shard_change_no_bit() -> None:
    index = torch.tensor([7, 0, 2**32 - 1, 123_456, 5, 6])
    everyone = Layout.dense(6, {"x": (3, 5)}).rows("x")
    whole = Noise(seed=11, index=index).at("x", 4, everyone)
    for part in ([3], [5, 0], [2, 4, 1, 0], [0, 1, 2, 3, 4, 5]):
        rows = Layout.dense(len(part), {"x": (3, 5)}).rows("x")
        shard = Noise(seed=11, index=index[part]).at("x", 4, rows)
        assert torch.equal(shard.normal(), whole.normal()[part])
        assert torch.equal(shard.uniform(), whole.uniform()[part])
        assert torch.equal(shard.gumbel(), whole.gumbel()[part])


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_ragged_rows_have_the_numbers_of_the_dense_sample(width: int) -> None:
    counts = torch.tensor([3, 0, 5, 1, 4])
    index = torch.tensor([9, 4, 2, 77, 0])
    noise = Noise(seed=1, index=index)
    ragged = Layout.ragged({"x": counts}, {"x": (width,)}).rows("x")
    padded = Layout.dense(5, {"x": (5, width)}).rows("x")
    for numbers in (Draw.normal, Draw.uniform):
        flat: Tensor = numbers(noise.at("x", 2, ragged))
        square: Tensor = numbers(noise.at("x", 2, padded))
        assert torch.equal(flat, torch.cat([square[b, :n] for b, n in enumerate(counts.tolist())]))


def test_scalar_rows() -> None:
    counts = torch.tensor([2, 4, 1])
    noise = Noise(seed=1, index=torch.arange(3))
    flat = noise.at("x", 0, Layout.ragged({"x": counts}, {"x": ()}).rows("x")).uniform()
    square = noise.at("x", 0, Layout.dense(3, {"x": (4,)}).rows("x")).uniform()
    assert torch.equal(flat, torch.cat([square[b, :n] for b, n in enumerate(counts.tolist())]))


def test_categorical_is_the_inverse_of_the_cumulative_distribution() -> None:
    weights = dense(50, 7, 9).uniform() ** 4
    weights[..., 3] = 0
    rows = Layout.dense(50, {"x": (7,)}).rows("x")
    draw = replace(dense(50, 7), rows=rows)
    chosen, u = draw.categorical(weights), draw.uniform(kind="categorical")
    for b in range(50):
        for j in range(7):
            share = weights[b, j] / weights[b, j].sum()
            k = next(k for k in range(9) if float(share[: k + 1].sum()) > float(u[b, j]))
            assert int(chosen[b, j]) == k
    assert torch.equal(draw.categorical(weights * 1e-3), chosen)


def test_categorical_frequencies(drawn_from) -> None:  # type: ignore[no-untyped-def]
    p = torch.tensor([0.0, 0.02, 0.3, 0.0, 0.6, 0.08, 0.0])
    chosen = dense(30_000).categorical(p.expand(30_000, 7))
    drawn_from(torch.bincount(chosen, minlength=7), p)
    certain = torch.tensor([0.0, 0.0, 1e-30, 0.0]).expand(1000, 4)
    assert bool((dense(1000).categorical(certain) == 2).all())


def test_each_row_of_a_large_vocabulary_costs_one_number() -> None:
    # The class drawn depends on the one uniform number of its element, not on the size of the vocabulary.
    p = torch.tensor([0.2, 0.5, 0.3])
    rows: Rows = Layout.dense(200, {"x": ()}).rows("x")
    draw = Noise(seed=0, index=torch.arange(200)).at("x", 0, rows)
    wide = torch.cat([p, torch.zeros(5000)]).expand(200, 5003)
    assert torch.equal(draw.categorical(p.expand(200, 3)), draw.categorical(wide))
