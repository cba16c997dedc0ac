"""Independent certification of finished molecules.

The oracle sees only what will be written: the SMILES text. It reads the text afresh, sanitises it, and computes every
property from that reading, by a route that shares nothing with the generator that made the molecule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rdkit import Chem, rdBase

from scidiff.molecules.language import Expression, Facts, violation
from scidiff.molecules.properties import Value, compute

_MAX_TEXT = 5000  # characters of one SMILES
_MAX_ATOMS = 1000


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the oracle found of one SMILES.

    Attributes:
        smiles: the text that was judged.
        canonical: its canonical form, by which duplicates are known; empty if it is no molecule.
        problem: why it is no molecule; empty if it is one.
        values: the quantities that the conditions are about.
        violations: by condition, how far the molecule is from meeting it, in the property's unit; exactly 0 if it does.
        mol: the molecule as the oracle read it; None if it is none.
    """

    smiles: str
    canonical: str = ""
    problem: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    mol: Chem.Mol | None = field(default=None, compare=False, repr=False)

    @property
    def holds(self) -> bool:
        """Whether it is a molecule that meets every condition."""
        return not self.problem and all(v == 0.0 for v in self.violations.values())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is refused: the problem, or each condition that it does not meet."""
        if self.problem:
            return (self.problem,)
        return tuple(text for text, violation in self.violations.items() if violation != 0.0)


def read_molecule(text: str) -> tuple[Chem.Mol | None, str]:
    """The one molecule that a SMILES text stands for, and an empty text; or None and why there is none.

    Refused: text that RDKit does not read or sanitise, no atoms, anything after the SMILES, several components,
    radicals, dummy atoms, and text or molecules beyond the limits (5,000 characters, 1,000 heavy atoms).
    """
    if not text or text.split() != [text]:
        return None, "empty" if not text.strip() else "more than a SMILES"
    if len(text) > _MAX_TEXT:
        return None, f"longer than {_MAX_TEXT} characters"
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
    if mol is None:
        return None, "not a valid SMILES"
    problem = _problem(mol)
    return (None, problem) if problem else (mol, "")


def _problem(mol: Chem.Mol) -> str:
    if mol.GetNumAtoms() == 0:
        return "no atoms"
    if mol.GetNumAtoms() > _MAX_ATOMS:
        return f"more than {_MAX_ATOMS} heavy atoms"
    if len(Chem.GetMolFrags(mol)) > 1:
        return "several components"
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return "dummy atom"
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return "radical"
    return ""


class Oracle:
    """Certifies molecules against expressions of the constraint language, which hold together."""

    def __init__(self, conditions: Sequence[Expression] = ()):
        self.conditions = tuple(conditions)

    def certify(self, smiles: str) -> Certificate:
        """Read the text afresh and judge it."""
        mol, problem = read_molecule(smiles)
        if mol is None:
            return Certificate(smiles=smiles, problem=problem)
        facts = Facts(mol)
        violations = {c.text: violation(c, facts) for c in self.conditions}
        return Certificate(
            smiles=smiles, canonical=Chem.MolToSmiles(mol), values=facts.values, violations=violations, mol=mol
        )


def describe(certificate: Certificate, names: Iterable[str]) -> dict[str, Value]:
    """The named properties of a certified molecule; those that the conditions needed are not computed twice."""
    if certificate.mol is None:
        raise ValueError(f"expected a molecule, got {certificate.smiles!r}: {certificate.problem}")
    names = tuple(names)
    missing = compute(certificate.mol, [name for name in names if name not in certificate.values])
    return {name: certificate.values[name] if name in certificate.values else missing[name] for name in names}
