"""The likeliest molecule: against every other one where they can be counted, and sound for any beliefs."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from scidiff.molecules.three_d.joint.batches import layout_of
from scidiff.molecules.three_d.joint.program import CHARGE, NUMBER, VALENCE, faults, in_turn, likeliest
from scidiff.molecules.three_d.joint.tokens import CLASSES, molecule_of, tokens_of, upper
from scidiff.molecules.three_d.joint.valid import ValidMolecules
from scidiff.noise import Noise
from scidiff.processes.categorical import LOG_ZERO

Choose = Callable[..., tuple[np.ndarray, np.ndarray] | None]
SMILES = ("O", "C", "C=O", "N#C", "FC#N", "CO", "C[N+](=O)[O-]", "C1CO1", "NC=O", "[NH3+]CC(=O)[O-]", "c1cc[nH]c1")


def graph(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    found = tokens_of(Chem.AddHs(Chem.MolFromSmiles(smiles)))
    assert found is not None
    return found[0].astype(np.int64), found[1].astype(np.int64)


def beliefs(n: int, seed: int, size: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return tuple(size * generator.normal(size=shape) for shape in ((n, len(CLASSES)), (n * (n - 1) // 2, 4)))


def every_molecule(atom: np.ndarray, bond: np.ndarray) -> float:
    """The largest sum of scores of all molecules, by looking at each."""
    n, (i, j) = len(atom), upper(len(atom))
    best = -np.inf
    bonds = np.array(list(itertools.product(range(4), repeat=len(bond))))
    orders = np.zeros((len(bonds), n, n), dtype=int)
    orders[:, i, j] = orders[:, j, i] = bonds
    reach = np.linalg.matrix_power((orders > 0) + np.eye(n, dtype=int), n)
    bonds, orders = (part[(reach > 0).all((1, 2))] for part in (bonds, orders))
    gains = bond[np.arange(len(bond)), bonds].sum(1)
    for classes in itertools.product(*(np.flatnonzero(np.isfinite(row)) for row in atom)):
        chosen = np.array(classes)
        if CHARGE[chosen].sum() == 0:
            fits = (orders.sum(1) == VALENCE[chosen]).all(1)
            best = max(best, float(np.where(fits, gains, -np.inf).max()) + atom[np.arange(n), chosen].sum())
    return best


@pytest.mark.parametrize(("n", "kinds"), [(2, 9), (3, 9), (4, 3)])
def test_it_is_the_best_of_all(n: int, kinds: int) -> None:
    for seed in range(12):
        atom, bond = beliefs(n, seed)
        worst = np.argsort(np.random.default_rng(seed).random(atom.shape), axis=1) >= kinds
        atom = np.where(worst, -np.inf, atom)
        expected, found = every_molecule(atom, bond), likeliest(atom, bond)
        if found is None:
            assert expected == -np.inf
        else:
            chosen = atom[np.arange(n), found[0]].sum() + bond[np.arange(len(bond)), found[1]].sum()
            assert chosen == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("choose", [likeliest, in_turn])
@given(n=st.integers(3, 7), seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 1.0, 8.0]))
@settings(max_examples=10, deadline=None)
def test_any_beliefs_give_a_molecule(choose: Choose, n: int, seed: int, size: float) -> None:
    found = choose(*beliefs(n, seed, size))
    assert found is not None
    assert faults(*found) == 0
    mol = molecule_of(*found)  # RDKit counts valences itself
    assert mol is not None
    assert mol.GetNumAtoms() == n
    assert Chem.GetFormalCharge(mol) == 0


@pytest.mark.parametrize("choose", [likeliest, in_turn])
@given(place=st.integers(0, len(SMILES) - 1), seed=st.integers(0, 10**6), part=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_what_is_known_stays_and_a_formula_is_exact(choose: Choose, place: int, seed: int, part: float) -> None:
    true, n = graph(SMILES[place]), len(graph(SMILES[place])[0])
    generator, scores = np.random.default_rng(seed), beliefs(n, seed)
    known = [generator.random(len(one)) < part for one in true]
    for score, one, there in zip(scores, true, known, strict=True):
        score[there] = -np.inf
        score[there, one[there]] = 0.0
    composition = {int(z): int(count) for z, count in zip(*np.unique(NUMBER[true[0]], return_counts=True), strict=True)}
    found = choose(*scores, composition)
    assert found is not None
    assert faults(*found, composition) == 0
    for one, other, there in zip(found, true, known, strict=True):
        assert (one[there] == other[there]).all()


def test_what_cannot_be_is_none() -> None:
    atom, bond = beliefs(4, 0)
    for choose in (likeliest, in_turn):
        assert choose(atom, bond, {1: 3, 6: 1}) is None  # CH3 is a radical
        assert choose(atom, bond, {1: 4, 6: 1}) is None  # five atoms
    bond[:, 1:] = -np.inf
    assert likeliest(atom, bond) is None  # nothing hangs together
    atom[0] = -np.inf
    assert likeliest(atom, beliefs(4, 0)[1]) is None


def test_faults_are_counted() -> None:
    atom, bond = graph("C")
    assert faults(atom, bond) == 0
    assert faults(atom, np.where(np.arange(len(bond)) == 0, 0, bond)) == 2 + 1  # two valences open, two parts
    assert faults(atom, bond, {1: 3, 6: 1, 9: 1}) == 1
    atom, bond = graph("C[N+](=O)[O-]")
    charged = np.where(atom == CLASSES.index(next(c for c in CLASSES if c.charge == 1)), 2, atom)
    assert faults(charged, bond) == 1 + 1  # four bonds at N, and a charge left over


def test_a_projected_estimate_is_one_molecule_for_each_sample_whatever_the_batch() -> None:
    n, index = 7, torch.tensor([5, 2, 9])
    generator = torch.Generator().manual_seed(0)
    layout = layout_of(n, 3)
    clean = {"pos": torch.randn(3 * n, 3, generator=generator)}
    for leaf, count, kinds in (("atom", n, len(CLASSES)), ("bond", n * (n - 1) // 2, 4)):
        clean[leaf] = torch.randn(3 * count, kinds, generator=generator).log_softmax(-1)
    clean["atom"][0] = torch.full((len(CLASSES),), LOG_ZERO).index_fill(0, torch.tensor(1), 0.0)  # known to be C
    valid = ValidMolecules(noise=Noise(seed=3, index=index))
    found = valid.project(clean, layout)
    assert torch.equal(found["pos"], clean["pos"])
    classes = {leaf: found[leaf].argmax(-1) for leaf in ("atom", "bond")}
    assert bool((found["atom"].exp().sum(-1) == 1).all())
    assert int(classes["atom"][0]) == 1
    assert valid.violation(classes, layout).tolist() == [0, 0, 0]
    assert valid.violation({**classes, "bond": 0 * classes["bond"]}, layout).min() >= n - 1
    alone = {leaf: x.unflatten(0, (3, -1))[1] for leaf, x in clean.items()}
    other = ValidMolecules(noise=Noise(seed=3, index=index[1:2])).project(alone, layout_of(n, 1))
    for leaf in ("atom", "bond"):
        assert torch.equal(other[leaf], found[leaf].unflatten(0, (3, -1))[1])
    drawn = {tuple(ValidMolecules(noise=Noise(seed=s, index=index)).project(clean, layout)["bond"].argmax(-1).tolist())
             for s in range(4)}  # fmt: skip
    assert len(drawn) == 4  # noise makes draws of it
    surest = ValidMolecules().project(clean, layout)
    assert torch.equal(surest["bond"], ValidMolecules().project(surest, layout)["bond"])
