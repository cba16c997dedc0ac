"""Properties of a molecule, with their units and the range each can take.

One table, used alike by the conditions (`--where`), the oracle, the writers and the report. Every value is computed by
RDKit from the sanitised molecular graph without explicit hydrogens.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Literal

from rdkit import Chem, RDConfig
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]
from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]
from rdkit.Chem.QED import qed as _qed

from scidiff.errors import UserError

Value = float | int | str
Kind = Literal["real", "count", "formula"]


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of a molecule.

    Attributes:
        name: as written in `--where` and in the columns of files.
        kind: `real` (float), `count` (int) or `formula` (text in Hill order).
        unit: unit of the value, empty where it has none.
        low, high: the range that any molecule's value lies in, ends included; infinite where there is no limit.
        meaning: one line: what it is, and the source.
        compute: the value of a sanitised molecule.
    """

    name: str
    kind: Kind
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    meaning: str
    compute: Callable[[Chem.Mol], Value]

    @property
    def label(self) -> str:
        """The name with its unit, for axes and table heads."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@lru_cache(maxsize=1)
def _sascorer() -> ModuleType:
    """The synthetic accessibility score that RDKit ships among its contributions."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("rdkit_contrib_sascorer", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"expected RDKit's SA score at {path}: this build of RDKit comes without its Contrib folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sa(mol: Chem.Mol) -> float:
    return float(_sascorer().calculateScore(mol))


def _charge(mol: Chem.Mol) -> int:
    return int(Chem.GetFormalCharge(mol))


_TABLE = (
    Property(
        name="qed",
        kind="real",
        low=0.0,
        high=0.9485,  # every term at its best: four of them are functions of whole numbers
        meaning="quantitative estimate of drug-likeness, mean weights (Bickerton et al. 2012)",
        compute=_qed,
    ),
    Property(
        name="logp",
        kind="real",
        meaning="log10 of the octanol-water partition coefficient, atom contributions (Wildman & Crippen 1999)",
        compute=MolLogP,
    ),
    Property(
        name="mw",
        kind="real",
        unit="g/mol",
        low=0.0,
        meaning="molecular weight with natural isotope abundances, hydrogens included",
        compute=MolWt,
    ),
    Property(
        name="sa",
        kind="real",
        low=1.0,
        high=10.0,
        meaning="synthetic accessibility, 1 easy to 10 hard (Ertl & Schuffenhauer 2009)",
        compute=_sa,
    ),
    Property(
        name="tpsa",
        kind="real",
        unit="angstrom^2",
        low=0.0,
        meaning="topological polar surface area of N and O (Ertl et al. 2000)",
        compute=rdMolDescriptors.CalcTPSA,
    ),
    Property(
        name="hbd",
        kind="count",
        low=0,
        meaning="hydrogen-bond donors",
        compute=rdMolDescriptors.CalcNumHBD,
    ),
    Property(
        name="hba",
        kind="count",
        low=0,
        meaning="hydrogen-bond acceptors",
        compute=rdMolDescriptors.CalcNumHBA,
    ),
    Property(
        name="rotatable_bonds",
        kind="count",
        low=0,
        meaning="rotatable bonds, strict definition (amides and the like do not count)",
        compute=rdMolDescriptors.CalcNumRotatableBonds,
    ),
    Property(
        name="rings",
        kind="count",
        low=0,
        meaning="rings of the smallest set of smallest rings",
        compute=rdMolDescriptors.CalcNumRings,
    ),
    Property(
        name="heavy_atoms",
        kind="count",
        low=0,
        meaning="atoms other than hydrogen",
        compute=rdMolDescriptors.CalcNumHeavyAtoms,
    ),
    Property(
        name="charge",
        kind="count",
        unit="e",
        meaning="net formal charge",
        compute=_charge,
    ),
    Property(
        name="formula",
        kind="formula",
        meaning="molecular formula in Hill order, net charge at the end (C2H3O2-)",
        compute=lambda mol: hill(rdMolDescriptors.CalcMolFormula(mol)),
    ),
)
PROPERTIES: dict[str, Property] = {item.name: item for item in _TABLE}
NUMERIC: tuple[str, ...] = tuple(item.name for item in _TABLE if item.kind != "formula")


def lookup(name: str, known: Iterable[str] = ()) -> Property:
    """The property of that name. UserError with the nearest name, of these or also of `known`, if there is none."""
    if name in PROPERTIES:
        return PROPERTIES[name]
    names = (*PROPERTIES, *known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    raise UserError(f"unknown property {name!r}; {hint}")


def compute(mol: Chem.Mol, names: Iterable[str]) -> dict[str, Value]:
    """The named properties of a sanitised molecule, in the order asked for."""
    return {name: PROPERTIES[name].compute(mol) for name in names}


def parse_formula(text: str) -> tuple[dict[str, int], int]:
    """Atoms of each element and the net charge of a molecular formula such as `C9H8O4`, `H4N+` or `C2H3O2-1`.

    Raises:
        ValueError: it is not a formula of known elements; the message says what was expected.
    """
    counts: dict[str, int] = {}
    place = 0
    while place < len(text) and text[place].isupper():
        end = place + 1
        while end < len(text) and text[end].islower():
            end += 1
        symbol = text[place:end]
        digits = end
        while digits < len(text) and text[digits].isdigit():
            digits += 1
        if symbol not in _symbols():
            raise ValueError(f"expected an element, got {symbol!r}")
        number = int(text[end:digits]) if digits > end else 1
        counts[symbol] = counts.get(symbol, 0) + number
        place = digits
    tail = text[place:]
    sign = {"+": 1, "-": -1}.get(tail[:1], 0)
    magnitude = tail[1:]
    if not counts or (tail and (sign == 0 or (magnitude and not magnitude.isdigit()))):
        raise ValueError(f"expected a molecular formula such as C9H8O4, got {text!r}")
    return {symbol: n for symbol, n in counts.items() if n}, sign * int(magnitude or 1) if tail else 0


@lru_cache(maxsize=1)
def _symbols() -> frozenset[str]:
    table = Chem.GetPeriodicTable()
    return frozenset(table.GetElementSymbol(number) for number in range(1, 119))


def hill(text: str) -> str:
    """A molecular formula in Hill order: carbon, hydrogen, then by alphabet; without carbon all by alphabet."""
    counts, charge = parse_formula(text)
    first = [symbol for symbol in ("C", "H") if symbol in counts] if "C" in counts else []
    order = first + sorted(set(counts) - set(first))
    atoms = "".join(symbol + (str(counts[symbol]) if counts[symbol] > 1 else "") for symbol in order)
    sign = "" if charge == 0 else ("+" if charge > 0 else "-")
    return atoms + sign + (str(abs(charge)) if abs(charge) > 1 else "")
