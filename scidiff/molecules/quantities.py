"""Quantities of a molecule that take an argument, beside the table of properties: `n_atoms[N]`, `count(SMARTS)`, ...

Each is a `Property`, known by its spelling: `quantity("n_atoms[N]")`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from scidiff.errors import UserError
from scidiff.molecules.properties import Property, lookup

RADIUS, BITS = 2, 2048  # of the Morgan fingerprints of `similarity`
_MOST_MATCHES = 100_000
_MORGAN = GetMorganGenerator(radius=RADIUS, fpSize=BITS)
_SPELLED = re.compile(r"(n_atoms)\[(\w+)\]|(count|similarity)\((.+)\)")
_PLACE = re.compile(r"around position (\d+)")


def element(symbol: str) -> int:
    """The atomic number of an element. ValueError if there is none of that symbol."""
    with rdBase.BlockLogs():
        try:
            number = int(Chem.GetPeriodicTable().GetAtomicNumber(symbol))
        except RuntimeError:
            number = 0
    if number < 1 or Chem.GetPeriodicTable().GetElementSymbol(number) != symbol:
        raise ValueError(f"expected an element, got {symbol!r}")
    return number


class PatternError(ValueError):
    """A SMARTS or SMILES that means nothing here.

    Attributes:
        expected: what was, in words.
        place: how far into it the error was noticed, from 0; 0 where RDKit does not say.
    """

    def __init__(self, expected: str, text: str, place: int = 0):
        super().__init__(f"expected {expected}, got {text!r}")
        self.expected, self.place = expected, place


@lru_cache(maxsize=1000)
def smarts(text: str) -> Chem.Mol:
    """The pattern of a SMARTS. PatternError with the place if RDKit does not read it, or if it has stereochemistry.

    RDKit would match `[C@H]` with every carbon of a molecule that has no stereochemistry, as generated ones.
    """
    pattern, place = _read(Chem.MolFromSmarts, text)
    if pattern is None or pattern.GetNumAtoms() == 0:
        raise PatternError("a SMARTS that RDKit reads", text, place)
    chiral = any(atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED for atom in pattern.GetAtoms())
    if chiral or any(bond.GetStereo() != Chem.BondStereo.STEREONONE for bond in pattern.GetBonds()):
        raise PatternError("a SMARTS without stereochemistry, as generated molecules have none,", text)
    return pattern


@lru_cache(maxsize=1000)
def smiles(text: str) -> str:
    """The canonical SMILES of a molecule. PatternError with the place if RDKit does not read it."""
    mol, place = _read(Chem.MolFromSmiles, text)
    if mol is None or mol.GetNumAtoms() == 0:
        raise PatternError("a SMILES that RDKit reads", text, place)
    return str(Chem.MolToSmiles(mol))


def _read(parse, text: str):  # type: ignore[no-untyped-def]
    """The molecule or None, and where RDKit noticed an error."""
    capture = getattr(rdBase, "CaptureErrorLog", None)  # not in the oldest RDKit that is supported
    if capture is None:
        with rdBase.BlockLogs():
            return parse(text), 0
    with capture() as log:
        found = parse(text)
    place = _PLACE.search(log.messages or "")
    return found, int(place.group(1)) - 1 if place else 0


def scaffold(mol: Chem.Mol) -> str:
    """The canonical SMILES of the Bemis-Murcko scaffold; empty for a molecule without rings."""
    return str(Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol)))


@lru_cache(maxsize=1)
def _alerts() -> FilterCatalog:
    parameters = FilterCatalogParams()
    for catalogue in ("PAINS", "BRENK"):
        parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, catalogue))
    return FilterCatalog(parameters)


ALERTS = Property(
    name="alerts",
    kind="count",
    low=0,
    meaning="structural alerts of PAINS (Baell & Holloway 2010) and BRENK (Brenk et al. 2008), as RDKit has them",
    compute=lambda mol: len(_alerts().GetMatches(mol)),
)
ATOMS = Property(
    name="atoms",
    kind="count",
    low=1,
    meaning="atoms, hydrogens counted",
    compute=lambda mol: mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()),
)
OTHERS = ("alerts", "atoms", "n_atoms[X]", "count(SMARTS)", "similarity(SMILES)")
PREDICATES = ("contains", "lacks", "scaffold", "novel", "lipinski", "veber", "decorates", "extends", "links")


@lru_cache(maxsize=10_000)
def quantity(name: str) -> Property:
    """The property of that spelling.

    One of the table, `alerts`, `atoms`, `n_atoms[X]`, `count(SMARTS)`, `similarity(SMILES)`.

    Raises:
        UserError: there is none; the message names the nearest.
        PatternError, ValueError: the argument is no SMARTS, SMILES or element.
    """
    if name in (ALERTS.name, ATOMS.name):
        return ALERTS if name == ALERTS.name else ATOMS
    found = _SPELLED.fullmatch(name)
    if found is None:
        return lookup(name, (*OTHERS, *PREDICATES))
    family, argument = found.group(1) or found.group(3), found.group(2) or found.group(4)
    return {"n_atoms": _atoms, "count": _matches, "similarity": _similarity}[family](argument)


def _atoms(symbol: str) -> Property:
    number = element(symbol)

    def compute(mol: Chem.Mol) -> int:
        if number == 1:
            return sum(a.GetTotalNumHs() for a in mol.GetAtoms()) + sum(a.GetAtomicNum() == 1 for a in mol.GetAtoms())
        return sum(atom.GetAtomicNum() == number for atom in mol.GetAtoms())

    return Property(name=f"n_atoms[{symbol}]", kind="count", low=0, meaning=f"atoms of {symbol}", compute=compute)


def _matches(text: str) -> Property:
    pattern = smarts(text)
    return Property(
        name=f"count({text})",
        kind="count",
        low=0,
        meaning="matches of the SMARTS that differ in their atoms",
        compute=lambda mol: len(mol.GetSubstructMatches(pattern, maxMatches=_MOST_MATCHES)),
    )


def _similarity(text: str) -> Property:
    canonical = smiles(text)
    target = _MORGAN.GetFingerprint(Chem.MolFromSmiles(canonical))
    return Property(
        name=f"similarity({canonical})",
        kind="real",
        low=0.0,
        high=1.0,
        meaning="Tanimoto similarity of Morgan fingerprints, radius 2, 2,048 bits (Rogers & Hahn 2010)",
        compute=lambda mol: float(DataStructs.TanimotoSimilarity(_MORGAN.GetFingerprint(mol), target)),
    )


def known(name: str) -> Property:
    """As `quantity`, for names that were read before."""
    try:
        return quantity(name)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
