"""Random expressions, and their evaluation written apart from the package: plain comparisons and RDKit alone."""

from __future__ import annotations

import operator
import re

from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Descriptors, FilterCatalog, Lipinski, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from scidiff.molecules.language import And, Condition, Expression, Not, Or
from scidiff.molecules.parsing import parse

POOL = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "O=[N+]([O-])c1ccc(Cl)cc1",
    "CCCCCCCCCCCCCCCC(=O)O",
    "c1ccc2[nH]ccc2c1",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "NS(=O)(=O)c1ccc(F)cc1Br",
    "C1CC2CCC1CC2",
    "C[N+](C)(C)CC(=O)[O-]",
    "O",
)
PATTERNS = ("c1ccccc1", "C(=O)[O;H1]", "[#7]", "[N,O;!H0]", "C~C(~C)C", "[$([NX3]C(=O))]", "S(=O)(=O)N")
COMPARE = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt}
NUMBERS = {
    "mw": Descriptors.MolWt,
    "logp": Descriptors.MolLogP,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "rings": rdMolDescriptors.CalcNumRings,
    "hbd": rdMolDescriptors.CalcNumHBD,
    "hba": rdMolDescriptors.CalcNumHBA,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "heavy_atoms": lambda mol: mol.GetNumHeavyAtoms(),
    "atoms": lambda mol: Chem.AddHs(mol).GetNumAtoms(),
    "charge": Chem.GetFormalCharge,
}


def catalogue() -> FilterCatalog.FilterCatalog:
    parameters = FilterCatalog.FilterCatalogParams()
    parameters.AddCatalog(FilterCatalog.FilterCatalogParams.FilterCatalogs.PAINS)
    parameters.AddCatalog(FilterCatalog.FilterCatalogParams.FilterCatalogs.BRENK)
    return FilterCatalog.FilterCatalog(parameters)


CATALOGUE = catalogue()
MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def measured(name: str, mol: Chem.Mol) -> float | str:
    if name in NUMBERS:
        return NUMBERS[name](mol)
    if name == "formula":
        return rdMolDescriptors.CalcMolFormula(mol)
    if name == "alerts":
        return len(CATALOGUE.GetMatches(mol))
    if name.startswith("n_atoms["):
        symbols = [atom.GetSymbol() for atom in Chem.AddHs(mol).GetAtoms()]
        return symbols.count(name[8:-1])
    if name.startswith("count("):
        return len({tuple(sorted(match)) for match in mol.GetSubstructMatches(Chem.MolFromSmarts(name[6:-1]))})
    a, b = (MORGAN.GetFingerprint(m) for m in (mol, Chem.MolFromSmiles(name[11:-1])))
    on_a, on_b = set(a.GetOnBits()), set(b.GetOnBits())
    return len(on_a & on_b) / len(on_a | on_b)


def naive(expression: Expression, mol: Chem.Mol) -> bool:
    if isinstance(expression, Not):
        return not naive(expression.of, mol)
    if isinstance(expression, And):
        return all(naive(part, mol) for part in expression.of)
    if isinstance(expression, Or):
        return any(naive(part, mol) for part in expression.of)
    if isinstance(expression, Condition):
        name, op, value = expression.text.split(maxsplit=2)
        found = measured(name, mol)
        if op != "in":
            return COMPARE[op](found, value if name == "formula" else float(value.replace("none", "0")))
        parts = re.split(r", ", value[1:-1])
        if value.startswith("{"):
            return str(found) in parts if name == "formula" else found in [float(part) for part in parts]
        return float(parts[0]) <= found <= float(parts[1])  # type: ignore[operator]
    if expression.name == "contains":
        return mol.HasSubstructMatch(Chem.MolFromSmarts(expression.argument))
    if expression.name == "scaffold":
        return MurckoScaffoldSmiles(mol=mol) == expression.argument
    if expression.name == "lipinski":
        donors, acceptors = Lipinski.NumHDonors(mol), Lipinski.NumHAcceptors(mol)  # type: ignore[attr-defined]
        return Descriptors.MolWt(mol) <= 500 and Descriptors.MolLogP(mol) <= 5 and donors <= 5 and acceptors <= 10
    if expression.name == "veber":
        return rdMolDescriptors.CalcNumRotatableBonds(mol) <= 10 and rdMolDescriptors.CalcTPSA(mol) <= 140
    return Chem.MolToSmiles(mol) not in (Chem.CanonSmiles(POOL[0]),)


@st.composite
def conditions(draw: st.DrawFn) -> str:
    name = draw(
        st.one_of(
            st.sampled_from([*NUMBERS, "alerts"]),
            st.sampled_from(["C", "H", "N", "O", "Cl"]).map("n_atoms[{}]".format),
            st.sampled_from(PATTERNS).map("count({})".format),
            st.sampled_from(POOL).map("similarity({})".format),
        )
    )
    if name.startswith("similarity"):
        numbers = st.floats(0.01, 0.99)
    else:
        numbers = st.floats(0.5, 400) if name in ("mw", "logp", "tpsa") else st.integers(1, 12)  # type: ignore[assignment]
    kind = draw(st.sampled_from([*COMPARE, "interval", "set"]))
    if kind == "interval":
        low, high = sorted((draw(numbers), draw(numbers)))
        return f"{name} in [{low!r}, {high!r}]"
    if kind == "set":
        return f"{name} in {{{', '.join(repr(draw(numbers)) for _ in range(2))}}}"
    return f"{name} {kind} {draw(numbers)!r}"


leaf = st.one_of(
    conditions(),
    st.sampled_from(POOL[:3]).map(lambda s: f"formula == {rdMolDescriptors.CalcMolFormula(Chem.MolFromSmiles(s))}"),
    st.just("formula in {C9H8O4, H2O}"),
    st.sampled_from(PATTERNS).map("contains {}".format),
    st.sampled_from(PATTERNS).map("lacks {}".format),
    st.sampled_from(["scaffold == c1ccccc1", "alerts == none", "lipinski", "veber", "novel"]),
).map(parse)
expressions = st.recursive(
    leaf,
    lambda inner: st.one_of(
        inner.map(lambda x: Not(of=x)),
        st.lists(inner, min_size=2, max_size=3).map(lambda x: And(of=tuple(x))),
        st.lists(inner, min_size=2, max_size=3).map(lambda x: Or(of=tuple(x))),
    ),
    max_leaves=6,
)
