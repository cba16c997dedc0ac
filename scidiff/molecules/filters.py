"""The medicinal-chemistry filters of MOSES.

A molecule passes that has no charged atom, no element but C, N, S, O, F, Cl, Br and H, no ring of eight or more atoms,
none of 22 medicinal-chemistry alerts (MCF) and none of 480 alerts of pan-assay interference (PAINS, Baell & Holloway
2010). The MCF patterns are those of MOSES (MIT licence, (c) 2018 Insilico Medicine; the licence text stands in
datasets/moses/LICENSE). PAINS is RDKit's copy; 17 of its 480 patterns were mended since MOSES took its own.
"""

from __future__ import annotations

from functools import lru_cache

from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

ELEMENTS = frozenset({"C", "N", "S", "O", "F", "Cl", "Br", "H"})
LARGEST_RING = 7

MCF = (
    "[#6]=&!@[#6]-[#6]#[#7]",
    "[#6]=&!@[#6]-[#16](=[#8])=[#8]",
    "[#6]=&!@[#6&!H0]-&!@[#6](=[#8])-&!@[#7]",
    "[H]C([H])([#6])[F,Cl,Br,I]",
    "[#6]1-[#8]-[#6]-1",
    "[#6]-[#7]=[#6]=[#8]",
    "[#6&!H0]=[#8]",
    "[#6](=&!@[#7&!H0])-&!@[#6,#7,#8,#16]",
    "[#6]1-[#7]-[#6]-1",
    "[#6]~&!@[#7]~&!@[#7]~&!@[#6]",
    "[#7]=&!@[#7]",
    "[H][#6]-1=[#6]([H])-[#6]=[#6](-*)-[#8]-1",
    "[H][#6]-1=[#6]([H])-[#6]=[#6](-*)-[#16]-1",
    "[#17,#35,#53]-c(:*):[!#1!#6]:*",
    "[H][#7]([H])-[#6]-1=[#6]-[#6]=[#6]-[#6]=[#6]-1",
    "[#16]~[#16]",
    "[#7]~&!@[#7]~&!@[#7]",
    "[#7]-&!@[#6&!H0&!H1]-&!@[#7]",
    "[#6&!H0](-&!@[#8])-&!@[#8]",
    "[#35].[#35].[#35]",
    "[#17].[#17].[#17].[#17]",
    "[#9].[#9].[#9].[#9].[#9].[#9].[#9]",
)


@lru_cache(maxsize=1)
def _mcf() -> tuple[Chem.Mol, ...]:
    return tuple(Chem.MolFromSmarts(smarts) for smarts in MCF)


@lru_cache(maxsize=1)
def _pains() -> FilterCatalog:
    parameters = FilterCatalogParams()
    parameters.AddCatalog(FilterCatalogParams.FilterCatalogs.PAINS)
    return FilterCatalog(parameters)


def passes(mol: Chem.Mol) -> bool:
    """Whether a sanitised molecule passes every filter."""
    atoms = mol.GetAtoms()
    if any(atom.GetFormalCharge() or atom.GetSymbol() not in ELEMENTS for atom in atoms):
        return False
    if any(len(ring) > LARGEST_RING for ring in mol.GetRingInfo().AtomRings()):
        return False
    # The patterns name hydrogens as atoms.
    full = Chem.AddHs(mol)
    return not any(full.HasSubstructMatch(alert) for alert in _mcf()) and not _pains().HasMatch(full)
