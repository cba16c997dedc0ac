"""The networks of geometry turn, shift and reorder with the molecule; hands alone tell it from its mirror image."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scidiff.molecules.three_d.batches import LEAF
from scidiff.molecules.three_d.graphs import ATOM_CLASSES, PAIR_CLASSES
from scidiff.molecules.three_d.harmonic import harmonic
from scidiff.molecules.three_d.joint.batches import layout_of
from scidiff.networks.geometric import EquivariantTransformer, Molecules, handedness
from scidiff.networks.joint import JointTransformer, square
from scidiff.networks.pairs import SomePairs
from scidiff.networks.tensor_products import TensorProductNetwork
from scidiff.state import Layout
from scidiff.testing import assert_equivariant, equivariance_errors, random_rotation

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
Told = dict[str, Tensor]


CLASSES = {"leaf": LEAF, "atom_classes": ATOM_CLASSES, "pair_classes": PAIR_CLASSES}


def shaken(made: nn.Module, seed: int) -> nn.Module:
    """The network with every weight random: those that begin at zero would hide the most."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) * 0.3 / max(1, parameter.shape[-1] / 8) ** 0.5
        )
    return made


def network(seed: int) -> nn.Module:
    return shaken(EquivariantTransformer(**CLASSES, width=16, depth=2, heads=2, channels=4, pair_width=8), seed)


def graph(n: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Told]:
    """Random positions and a random connected graph with classes and parities of any kind."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    atom = torch.stack([draw(count, n) for count in ATOM_CLASSES], dim=-1)
    atom[:, 0] = atom[:, 0].clamp_min(1)
    bonds = torch.zeros(n, n, dtype=torch.bool)
    for i in range(1, n):
        bonds[i, int(draw(i, 1))] = True
    bonds = bonds | bonds.T
    codes = draw(int(torch.tensor(PAIR_CLASSES[1:]).prod()), n, n).tril()
    pair = codes + codes.T + bonds * int(torch.tensor(PAIR_CLASSES[1:]).prod())
    pair = pair.clamp_max(int(torch.tensor(PAIR_CLASSES).prod()) - 1)
    root, inverse = harmonic(bonds.numpy(), (atom[:, 0] == 1).numpy())
    told = {
        "atom": atom,
        "pair": pair,
        "centre": draw(n, n, 3),
        "parity": (draw(3, n) - 1).to(dtype),
        "root": torch.as_tensor(root).to(dtype),
        "inverse": torch.as_tensor(inverse).to(dtype),
    }
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x - x.mean(0), told


def permuted(told: Told, order: Tensor) -> Told:
    back = order.argsort()
    square = {name: told[name][order][:, order] for name in ("pair", "root", "inverse")}
    return square | {
        "atom": told["atom"][order],
        "centre": back[told["centre"][order]],
        "parity": told["parity"][order],
    }


def mirrored(told: Told) -> Told:
    return told | {"parity": -told["parity"]}


def function(made: nn.Module, time: float = 0.4):
    def call(x: Tensor, told: Told) -> Tensor:
        condition = {name: value[None] for name, value in told.items()}
        layout = Layout.ragged({LEAF: torch.tensor([len(x)])}, {LEAF: (3,)})
        return made({LEAF: x}, torch.tensor([time], dtype=x.dtype), layout, condition)[LEAF]

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(n=st.integers(3, 12), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_attention_is_equivariant(dtype, n, seed):
    made = network(seed).to(dtype)
    x, told = graph(n, seed, dtype)
    ask = {"vectors": True, "permuted": permuted, "mirrored": mirrored, "tolerance": TOLERANCE[dtype], "seed": seed}
    assert_equivariant(function(made), x, told, **ask)


@given(n=st.integers(3, 12), count=st.integers(2, 14), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_attention_to_the_nearest_is_equivariant(n, count, seed):
    made = network(seed).double()
    made.neighbours = count
    x, told = graph(n, seed, torch.float64)
    ask = {"vectors": True, "permuted": permuted, "mirrored": mirrored, "tolerance": 1e-12, "seed": seed}
    assert_equivariant(function(made), x, told, **ask)


@given(n=st.integers(3, 12), seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_attention_to_as_many_as_there_are_is_attention_to_all(n, seed):
    made = network(seed).double()
    x, told = graph(n, seed, torch.float64)
    expected = function(made)(x, told)
    made.neighbours = n + 3
    assert torch.allclose(function(made)(x, told), expected, rtol=1e-10, atol=1e-11)
    made.neighbours = 2
    assert not torch.allclose(function(made)(x, told), expected, rtol=1e-3) or n <= 3


def test_the_nearest_are_the_atom_its_bonds_and_then_those_near_it():
    x = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2.1, 0, 0], [3.3, 0, 0], [9, 0, 0]]])
    bonds = torch.zeros(1, 5, 5, dtype=torch.bool)
    bonds[0, 0, 4] = bonds[0, 4, 0] = True
    there = torch.ones(1, 5, 5, dtype=torch.bool)
    found = SomePairs.nearest(x, there, bonds, 3).index[0].sort(-1).values
    assert found.tolist() == [[0, 1, 4], [0, 1, 2], [1, 2, 3], [1, 2, 3], [0, 3, 4]]


@cache
def products(dtype: torch.dtype) -> nn.Module:
    """Made in its precision: e3nn keeps the coefficients of its products as they were when they were made."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            irreps = "6x0e + 2x0o + 3x1o + 2x1e + 2x2e"
            return TensorProductNetwork(**CLASSES, irreps=irreps, depth=2, pair_width=8)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(n=st.integers(3, 9), seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_tensor_products_are_equivariant(dtype, n, seed):
    x, told = graph(n, seed, dtype)
    ask = {"vectors": True, "permuted": permuted, "mirrored": mirrored, "tolerance": TOLERANCE[dtype], "seed": seed}
    assert_equivariant(function(products(dtype)), x, told, **ask)


@pytest.mark.parametrize("kind", ["attention", "tensor products"])
def test_the_hands_of_centres_are_seen(kind):
    made = network(0).double() if kind == "attention" else products(torch.float64)
    x, told = graph(8, 3, torch.float64)
    told["parity"] = torch.ones(8, dtype=torch.float64)
    told["centre"] = torch.stack([(torch.arange(8)[:, None] + k) % 8 for k in (1, 2, 3)], -1)[:, 0]
    errors = equivariance_errors(function(made), x, told, vectors=True, mirrored=lambda told: told)
    assert errors["rotation"] < 1e-12
    assert errors["reflection"] > 1e-3


def test_vectors_go_back_to_the_leaf():
    made = network(2).double()
    x, told = graph(6, 1, torch.float64)
    twice = told | {"inverse": 2 * told["inverse"]}
    assert torch.allclose(function(made)(x, twice), 2 * function(made)(x, told))
    assert float(function(made)(x, told).mean(0).abs().max()) < 1e-12  # as the leaf, without shifts


def test_a_right_angled_corner_has_volume_one():
    corner = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    x = torch.stack([corner + 5, corner[[0, 2, 1, 3]] - 7])
    centre = torch.tensor([[1, 2, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0]]).expand(2, -1, -1)
    parity = torch.tensor([1.0, 0, 0, 0]).double().expand(2, -1)
    none = torch.zeros(0)
    volume, push = handedness(x, Molecules(none, none, none, none, centre, parity))
    assert volume[:, 0, 0].tolist() == pytest.approx([1, -1], abs=0.03)
    assert torch.equal(volume[..., 1], parity)
    assert float(push.sum(1).abs().max()) < 1e-12  # what moves the neighbours moves the centre back
    assert float((push[0, 1:] * torch.eye(3)).sum(-1).min()) > 0.3  # outwards grows the volume


def test_samples_of_a_batch_do_not_see_each_other():
    made = network(1)
    (x, told), (y, other) = graph(7, 1, torch.float32), graph(7, 2, torch.float32)
    layout = Layout.ragged({LEAF: torch.tensor([7, 7])}, {LEAF: (3,)})
    both = {name: torch.stack([told[name], other[name]]) for name in told}
    together = made({LEAF: torch.cat([x, y])}, torch.tensor([0.4, 0.4]), layout, both)[LEAF]
    assert torch.allclose(together[:7], function(made)(x, told), atol=1e-5)
    assert torch.allclose(together[7:], function(made)(y, other), atol=1e-5)


BROKEN = {
    "rotation": lambda x, told: x * x.abs(),
    "translation": lambda x, told: 2 * x,
    "permutation": lambda x, told: x * torch.arange(1.0, len(x) + 1, dtype=x.dtype)[:, None],
    "reflection": lambda x, told: torch.linalg.cross(x - x.mean(0), (x - x.mean(0)).roll(1, 0)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_symmetry_is_named(name):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = equivariance_errors(BROKEN[name], x, None, permuted=lambda told, order: told, mirrored=lambda told: told)
    assert errors[name] > 1e-2
    with pytest.raises(AssertionError, match="expected an error of at most"):
        assert_equivariant(BROKEN[name], x, None, permuted=lambda told, order: told, mirrored=lambda told: told)


def test_what_is_not_a_number_is_refused():
    with pytest.raises(AssertionError, match="rotation"):
        assert_equivariant(lambda x, told: x * float("nan"), torch.ones(3, 3), None)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_random_rotations_are_proper(seed):
    turn = random_rotation(seed=seed)
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(torch.linalg.det(turn)) == pytest.approx(1)


def test_random_rotations_have_the_moments_of_the_group():
    turns = torch.stack([random_rotation(seed=seed) for seed in range(1000)])
    trace = turns.diagonal(dim1=1, dim2=2).sum(-1)
    assert abs(float(trace.mean())) < 0.12  # E tr R = 0
    assert abs(float(trace.square().mean()) - 1) < 0.15  # E (tr R)^2 = 1


def joint(n: int, seed: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]:
    """A joint network, random positions, and random classes of atoms [n] and pairs [n, n], masks among them."""
    sizes = {"width": 16, "depth": 2, "heads": 2, "channels": 4, "pair_width": 8}
    made = shaken(JointTransformer(atom_classes=9, bond_classes=4, scale=1.4, **sizes), seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype)
    atom = torch.randint(10, (n,), generator=generator)
    return made, x - x.mean(0), (atom, square(torch.randint(5, (1, n * (n - 1) // 2), generator=generator))[0])


def outputs(made: nn.Module, x: Tensor, told: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Vectors [n, 3], logits of atoms [n, K] and of pairs [n, n, K]."""
    (atom, pair), n = told, len(x)
    i, j = torch.triu_indices(n, n, 1)
    found = made({"pos": x, "atom": atom, "bond": pair[i, j]}, torch.tensor([0.4], dtype=x.dtype), layout_of(n, 1))
    bonds = torch.stack([square(column[None])[0] for column in found["bond"].unbind(-1)], dim=-1)
    return {**found, "bond": bonds}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(n=st.integers(3, 10), seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_joint_vectors_turn_and_joint_logits_do_not(dtype, n, seed):
    made, x, told = joint(n, seed, dtype)

    def permuted(told, order):
        return told[0][order], told[1][order][:, order]

    ask = {"vectors": True, "permuted": permuted, "mirrored": lambda told: told, "tolerance": TOLERANCE[dtype]}
    assert_equivariant(lambda x, told: outputs(made, x, told)["pos"], x, told, seed=seed, **ask)
    turn = random_rotation(seed=seed, dtype=dtype)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    mirror = torch.tensor([1.0, -1.0, 1.0], dtype=dtype)
    expected = outputs(made, x, told)
    other = outputs(made, (x * mirror @ turn.T)[order] + turn[0], permuted(told, order))
    for name, wanted in (("atom", expected["atom"][order]), ("bond", expected["bond"][order][:, order])):
        error = (other[name] - wanted).detach().abs().max() / wanted.detach().abs().max().clamp_min(1)
        assert float(error) < TOLERANCE[dtype]
