"""A genetic algorithm on molecular graphs, the baseline of `molecules_optimise.py`.

After Jensen, "A graph-based genetic algorithm and generative model / Monte Carlo tree search for the exploration of
chemical space" (Chemical Science 2019): parents in proportion to their rank, crossover by exchange of what hangs on a
cut acyclic or pair of ring bonds, mutation by small reactions, and survival of the best of parents and children.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

POPULATION = 100
MUTATION_RATE = 0.5  # of children; Jensen's 0.5 for penalised logP
MOST_ATOMS = 50
_ACYCLIC = Chem.MolFromSmarts("[*]-;!@[*]")
_RING = Chem.MolFromSmarts("[R]@[R;!D2]@[R]@[R]")
_JOIN = AllChem.ReactionFromSmarts("[*:1]-[1*].[1*]-[*:2]>>[*:1]-[*:2]")
_JOIN_RINGS = (
    AllChem.ReactionFromSmarts("[*:1]~[1*].[1*]~[*:2]>>[*:1]-[*:2]"),
    AllChem.ReactionFromSmarts("([*:1]~[1*].[1*]~[*:2])>>[*:1]-[*:2]"),
)
_ATOMS = ("C", "N", "O", "F", "S", "Cl", "Br")
_MUTATIONS: tuple[tuple[float, tuple[str, ...]], ...] = (
    # append an atom
    (0.25, (*(f"[*;!H0:1]>>[*:1]-{a}" for a in _ATOMS), "[*;!H0;!H1:1]>>[*:1]=C", "[*;!H0;!H1:1]>>[*:1]=O")),
    # insert one into a bond
    (0.15, tuple(f"[*:1]-[*:2]>>[*:1]-{a}-[*:2]" for a in ("C", "N", "O", "S"))),
    # delete one at an end, or between two
    (0.15, ("[*:1]-[D1]>>[*:1]", "[*:1]-[D2]-[*:2]>>[*:1]-[*:2]", "[*:1]=[D1]>>[*:1]")),
    # change the order of a bond
    (0.15, ("[*;!H0:1]-[*;!H0:2]>>[*:1]=[*:2]", "[*:1]=[*:2]>>[*:1]-[*:2]", "[*:1]#[*:2]>>[*:1]=[*:2]")),
    # close a ring of five or six, or open one
    (
        0.15,
        (
            "[*;!r;!H0:1]~[*;!r:2]~[*:3]~[*:4]~[*;!r;!H0:5]>>[*:1]1~[*:2]~[*:3]~[*:4]~[*:5]-1",
            "[*;!r;!H0:1]~[*;!r:2]~[*:3]~[*:4]~[*:5]~[*;!r;!H0:6]>>[*:1]1~[*:2]~[*:3]~[*:4]~[*:5]~[*:6]-1",
            "[*:1]-@[*:2]>>([*:1].[*:2])",
        ),
    ),
    # change an element
    (0.15, ("[#6;X4:1]>>[N:1]", "[#7;+0:1]>>[C:1]", "[#6;D1:1]>>[F:1]", "[O;+0:1]>>[S:1]", "[c;H1:1]>>[n;H0:1]")),
)
_REACTIONS = tuple((w, tuple(AllChem.ReactionFromSmarts(text) for text in texts)) for w, texts in _MUTATIONS)


def _sound(mol: Chem.Mol | None) -> Chem.Mol | None:
    """A molecule read back from its SMILES, if it is one connected closed-shell molecule of a reasonable size."""
    if mol is None:
        return None
    try:
        text = Chem.MolToSmiles(mol)
    except (RuntimeError, ValueError):
        return None
    read = Chem.MolFromSmiles(text)
    if read is None or "." in text or "*" in text or not 5 <= read.GetNumAtoms() <= MOST_ATOMS:
        return None
    if any(atom.GetNumRadicalElectrons() for atom in read.GetAtoms()):
        return None
    rings = read.GetRingInfo()
    allenes = read.HasSubstructMatch(Chem.MolFromSmarts("[R]=[R]=[R]"))
    return None if allenes or any(len(ring) > 8 for ring in rings.AtomRings()) else read


def _halves(mol: Chem.Mol, draw: random.Random, *, ring: bool) -> list[Chem.Mol]:
    found = mol.GetSubstructMatches(_RING if ring else _ACYCLIC)
    if not found:
        return []
    chosen = draw.choice(found)
    pairs = ((chosen[0], chosen[1]), (chosen[2], chosen[3])) if ring else (chosen,)
    bonds = [mol.GetBondBetweenAtoms(*pair).GetIdx() for pair in pairs]
    cut = Chem.FragmentOnBonds(mol, bonds, addDummies=True, dummyLabels=[(1, 1)] * len(bonds))
    try:
        halves = Chem.GetMolFrags(cut, asMols=True, sanitizeFrags=True)
    except Chem.MolSanitizeException:
        return []
    return list(halves) if len(halves) == 2 else []


def crossover(a: Chem.Mol, b: Chem.Mol, draw: random.Random) -> Chem.Mol | None:
    """A child that has a part of either; None if none comes of ten tries."""
    for _ in range(10):
        ring = draw.random() < 0.5
        ours, theirs = _halves(a, draw, ring=ring), _halves(b, draw, ring=ring)
        if not ours or not theirs:
            continue
        joined = _react(_JOIN_RINGS[0] if ring else _JOIN, (draw.choice(ours), draw.choice(theirs)))
        if ring:
            joined = [mol for one in joined[:5] for mol in _react(_JOIN_RINGS[1], (one,))]
        children = [child for child in map(_sound, joined) if child is not None]
        if children:
            return draw.choice(children)
    return None


def mutate(mol: Chem.Mol, draw: random.Random) -> Chem.Mol | None:
    """A molecule changed by one small reaction; None if none comes of ten tries."""
    for _ in range(10):
        (_, reactions) = draw.choices(_REACTIONS, weights=[weight for weight, _ in _REACTIONS])[0]
        changed = _react(draw.choice(reactions), (Chem.Mol(mol),))
        found = [one for one in map(_sound, changed) if one is not None]
        if found:
            return draw.choice(found)
    return None


def _react(reaction: AllChem.ChemicalReaction, reactants: tuple[Chem.Mol, ...]) -> list[Chem.Mol]:
    try:
        products = reaction.RunReactants(reactants, maxProducts=100)
    except (RuntimeError, ValueError):
        return []
    return [group[0] for group in products]


def search(
    start: Sequence[str], score: Callable[[Chem.Mol], float], *, budget: int, seed: int
) -> list[tuple[str, float]]:
    """The distinct molecules scored, the start's first, each with its score: exactly `budget` of them."""
    draw = random.Random(seed)
    scored: dict[str, float] = {}

    def judge(mol: Chem.Mol) -> None:
        text = Chem.MolToSmiles(mol)
        if text not in scored and len(scored) < budget:
            scored[text] = score(mol)

    with rdBase.BlockLogs():
        for text in start:
            judge(Chem.MolFromSmiles(text))
        while len(scored) < budget:
            best = sorted(scored, key=lambda text: -scored[text])[:POPULATION]
            weights = [1.0 / (rank + 5) for rank in range(len(best))]
            parents = [Chem.MolFromSmiles(text) for text in best]
            for _ in range(POPULATION):
                a, b = draw.choices(parents, weights=weights, k=2)
                child = crossover(a, b, draw)
                if child is not None and draw.random() < MUTATION_RATE:
                    child = mutate(child, draw)
                if child is None:
                    child = mutate(a, draw)
                if child is not None:
                    judge(child)
    return list(scored.items())
