"""Parts of molecules that must be there, and the oracle's view of them.

    decorates(*c1ccc(*)cc1)     the part, with one substituent at each attachment point `*` and none elsewhere
    extends(c1ccccc1)           the part, with substituents at any of its atoms
    links(*C1CCNCC1, *c1ccccc1) both parts, apart from each other, the one attachment point of each in use

A substituent hangs on the part by one acyclic single bond. So a part that is fused to another ring does not count, and
neither does one whose attachment points are joined to a ring outside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rdkit import Chem

PARTS = ("decorates", "extends", "links")
_MOST_MATCHES = 100_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        core: its atoms without the attachment points, each with the hydrogens it would have if none were in use.
        open: by atom, how many attachment points it has; None if any atom may bear substituents.
        smiles: its spelling.
    """

    core: Chem.Mol
    open: tuple[int, ...] | None
    smiles: str


def spelled(text: str) -> str:
    """The normal spelling of a part: canonical SMILES with attachment points `*`, without their numbers.

    Raises:
        ValueError: it is not one connected part, has stereochemistry, radicals or isotopes, or an attachment point that
            is not on one single bond.
    """
    mol = Chem.MolFromSmiles(text)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
        if atom.GetAtomicNum() == 0:
            atom.SetIsotope(0)
        problem = _problem(atom)
        if problem:
            raise ValueError(problem)
    if len(Chem.GetMolFrags(mol)) > 1:
        raise ValueError("one connected part, not several,")
    if all(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise ValueError("a part with atoms")
    if any(bond.GetStereo() > Chem.BondStereo.STEREOANY for bond in mol.GetBonds()):
        raise ValueError("a part without stereochemistry")
    return str(Chem.MolToSmiles(mol))


def _problem(atom: Chem.Atom) -> str:
    if atom.GetAtomicNum() == 0:
        single = [bond.GetBondType() == Chem.BondType.SINGLE for bond in atom.GetBonds()]
        return "" if single == [True] else "attachment points on one single bond each"
    if atom.GetIsotope() or atom.GetNumRadicalElectrons():
        return "a part without isotopes and radicals"
    return "a part without stereochemistry" if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED else ""


def points(text: str) -> int:
    """How many attachment points a part has."""
    return sum(atom.GetAtomicNum() == 0 for atom in Chem.MolFromSmiles(text).GetAtoms())


@lru_cache(maxsize=1000)
def part(text: str, *, anywhere: bool = False) -> Part:
    """The part of a normal spelling.

    Args:
        text: the spelling.
        anywhere: whether substituents may stand on any atom.
    """
    mol = Chem.MolFromSmiles(text)
    core, opened = bare(mol)
    return Part(core=core, open=None if anywhere else opened, smiles=text)


def bare(mol: Chem.Mol) -> tuple[Chem.Mol, tuple[int, ...]]:
    """A molecule with its dummies made hydrogens, and how many dummies each of its atoms had.

    The other atoms keep their order.
    """
    editable = Chem.RWMol(mol)
    opened = {atom.GetIdx(): 0 for atom in mol.GetAtoms() if atom.GetAtomicNum()}
    for atom in editable.GetAtoms():
        atom.SetNumExplicitHs(atom.GetTotalNumHs())
        atom.SetNoImplicit(True)
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0:
            neighbour = atom.GetNeighbors()[0].GetIdx()
            opened[neighbour] += 1
            held = editable.GetAtomWithIdx(neighbour)
            held.SetNumExplicitHs(held.GetNumExplicitHs() + 1)
    hydrogens = {i: editable.GetAtomWithIdx(i).GetNumExplicitHs() for i in opened}
    for i in sorted(set(range(mol.GetNumAtoms())) - set(opened), reverse=True):
        editable.RemoveAtom(i)
    for atom, i in zip(editable.GetAtoms(), opened, strict=True):  # removing a neighbour changes hydrogens
        atom.SetNumExplicitHs(hydrogens[i])
    editable.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(editable)
    return editable.GetMol(), tuple(opened.values())


def occurrences(mol: Chem.Mol, wanted: Part) -> set[frozenset[int]]:
    """The sets of atoms of a molecule that are the part, with substituents only where it allows them."""
    found = mol.GetSubstructMatches(wanted.core, uniquify=False, maxMatches=_MOST_MATCHES)
    return {frozenset(match) for match in found if _fits(mol, wanted, match)}


def _fits(mol: Chem.Mol, wanted: Part, match: tuple[int, ...]) -> bool:
    within = {j: i for i, j in enumerate(match)}
    for i, j in enumerate(match):
        asked, atom = wanted.core.GetAtomWithIdx(i), mol.GetAtomWithIdx(j)
        if (asked.GetFormalCharge(), asked.GetIsAromatic()) != (atom.GetFormalCharge(), atom.GetIsAromatic()):
            return False
        outside = 0
        for bond in atom.GetBonds():
            other = bond.GetOtherAtomIdx(j)
            if other in within:
                same = wanted.core.GetBondBetweenAtoms(i, within[other])
                if same is None or same.GetBondType() != bond.GetBondType():
                    return False
            elif bond.GetBondType() != Chem.BondType.SINGLE or bond.IsInRing():
                return False
            else:
                outside += 1
        if atom.GetTotalNumHs() + outside != asked.GetNumExplicitHs():
            return False
        if wanted.open is not None and outside != wanted.open[i]:
            return False
    return True


def parts_of(name: str, argument: str) -> tuple[Part, ...]:
    """The parts that a predicate asks for."""
    return tuple(part(text, anywhere=name == "extends") for text in argument.split(", "))


def holds(mol: Chem.Mol, name: str, argument: str) -> bool:
    """Whether a molecule has the parts of a predicate, those of `links` apart from each other."""
    found = [occurrences(mol, wanted) for wanted in parts_of(name, argument)]
    if len(found) == 1:
        return bool(found[0])
    return any(not a & b for a in found[0] for b in found[1])
