r"""Clean estimates that keep rules on their shape, by Gauss-Newton steps on what they break.

    y <- y - J^T (J J^T + ridge)^(-1) r,      r = residuals of what is broken,  J = dr / dy

in harmonic coordinates y, so the shortest way back is meant in the metric of the springs: what is bound to a moved atom
comes along. All rules are met jointly, with the lengths of bonds and the distances across angles, lest a rule be met by
breaking what it bends. The point found is feasible and near, not the nearest, which sequential quadratic programming
takes a hundred times as long to find. Distances are as they are; angles are held by their cosine, planes by the least
eigenvalue of the scatter of their atoms, whose root is no less than the distance of any from the best plane.

With a rigid part the molecule is first moved to where the part was given, which makes places in space mean something:
there x = root y + the shift that the part asks for, and steps leave the part as it is, J -> J P with the projector P of
`RigidPart.loose`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from torch import Tensor

from scidiff.constraints.base import Constraint, Metric
from scidiff.constraints.interior import all_rest
from scidiff.constraints.smooth import linearise
from scidiff.molecules.three_d.batches import LEAF
from scidiff.molecules.three_d.fixed import RigidPart
from scidiff.molecules.three_d.rules import PLACED, Rule
from scidiff.molecules.three_d.surroundings import box, read
from scidiff.state import Layout, State

MARGIN = 1e-5  # by how much ranges are drawn in, of angstrom and cosine: certificates round, too
STEPS, LONGEST = 20, 3.0  # at most, the latter in harmonic coordinates
RIDGE = 1e-2  # where residuals contradict each other or say the same
TOLERANCE = 1e-6
FLAT = 1e-6  # angstrom, of which the root is taken at least
CONTACTS = 4  # of an atom with its surroundings that are looked at together
BONDS, ANGLES = 0.04, 0.1  # angstrom, around RDKit's bounds on atoms one and two bonds apart
Values = Callable[[Tensor], Tensor]
"""Of positions [..., n, 3], numbers [..., K]."""


@dataclass(frozen=True, kw_only=True)
class Ruled(Constraint):
    """Molecules of one graph whose shapes keep rules.

    Attributes:
        root: float64 [n, n], from harmonic coordinates to positions.
        equal, below: what must be 0, and what must not be positive.
        part: atoms that keep their places besides.
    """

    root: Tensor
    equal: tuple[Values, ...] = field(default=())
    below: tuple[Values, ...] = field(default=())
    part: RigidPart | None = None

    @classmethod
    def of(cls, rules: Sequence[Rule], mol: Chem.Mol, root: Tensor, part: RigidPart | None = None) -> Ruled | None:
        """The rules of a molecule; None if no rule has a match in it."""
        equal, below = [], []
        for rule in rules:
            places = rule.places(mol)
            if not places:
                continue
            value, low, high = _measure(rule, places, mol, root.device)
            if low == high:
                equal.append(_less(value, low))
                continue
            if low > -math.inf:
                below.append(_more(value, low + MARGIN))
            if high < math.inf:
                below.append(_less(value, high - min(MARGIN, abs(high) / 2)))
        if not equal and not below:
            return None
        lengths, shortest, longest = _frame(mol, root.device, () if part is None else part.atoms.tolist())
        below += [_more(lengths, shortest), _less(lengths, longest)]
        return cls(root=root.double(), equal=tuple(equal), below=tuple(below), part=part)

    def project(self, clean: State, layout: Layout, metric: Metric = None) -> State:
        """A feasible clean estimate nearby, in harmonic coordinates; a metric is an error.

        Rows for which none is found come back as they were, but for the rigid part, and their violation tells.

        Raises:
            ValueError: a metric is given.
        """
        if metric is not None:
            raise ValueError("expected no metric: rules of shape are projected in that of the springs")
        exact = {LEAF: clean[LEAF].double()}
        exact = exact if self.part is None else self.part.project(exact, layout)
        y, turn = self._turned(exact[LEAF].unflatten(0, (layout.batch, -1)))
        found = y
        for _ in range(STEPS):
            if all_rest(self._holds(found)):
                break
            found = found + self._step(found)
        found = torch.where(self._holds(found), found, y).unflatten(1, (-1, 3)) @ turn.mT
        return clean | {LEAF: found.flatten(0, 1).to(clean[LEAF].dtype)}

    def _turned(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Molecules y [B, n, 3] turned to where they belong, [B, 3 n], and by what turn [B, 3, 3]."""
        if self.part is None:
            return y.flatten(1), torch.eye(3, dtype=y.dtype, device=y.device).expand(len(y), -1, -1)
        turn, _ = self.part.pose(self.root @ y)
        return (y @ turn).flatten(1), turn

    def _holds(self, y: Tensor) -> Tensor:
        """Of rows [B, 3 n], whether the rules hold: bool [B, 1]."""
        return self._residuals(y).abs().amax(-1, keepdim=True) <= TOLERANCE

    def _step(self, y: Tensor) -> Tensor:
        """The shortest step to where the linearised residuals of what is broken are 0, at most LONGEST."""
        residual, gradient = linearise(self._residuals, y)
        if self.part is not None:
            gradient = (self.part.loose @ gradient.unflatten(-1, (-1, 3))).flatten(-2)
        broken = residual != 0
        gradient = gradient * broken[..., None]
        gram = gradient @ gradient.mT + torch.diag_embed(torch.where(broken, RIDGE, 1.0))
        step = -(gradient.mT @ torch.linalg.solve(gram, residual)[..., None])[..., 0]
        length = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        return torch.where(length.isfinite(), step * LONGEST / length.clamp_min(LONGEST), 0)

    def violation(self, sample: State, layout: Layout) -> Tensor:
        """The largest residual of a rule or distance of a fixed atom, in angstrom or of a cosine: float64 [B]."""
        y = sample[LEAF].double().unflatten(0, (layout.batch, -1))
        whole = y.isfinite().flatten(1).all(1)
        y, _ = self._turned(torch.where(whole[:, None, None], y, 0))
        amount = self._residuals(y).abs().amax(-1)
        amount = torch.where(amount <= TOLERANCE, 0, amount)
        if self.part is not None:
            amount = torch.maximum(amount, self.part.violation(sample, layout))
        return torch.where(whole & ~amount.isnan(), amount, torch.inf)

    def placed(self, x: Tensor) -> Tensor:
        """Positions where the rigid part was given; as they are without one, for then rules know no place."""
        return x if self.part is None else self.part.placed(x)

    def _residuals(self, y: Tensor) -> Tensor:
        x = self.root @ y.unflatten(-1, (-1, 3))
        if self.part is not None:
            x = x + (self.part.target - x[..., self.part.atoms, :]).mean(-2, keepdim=True)
        below = [part(x).clamp_min(0) for part in self.below]
        return torch.cat([*(part(x) for part in self.equal), *below], -1)


def _frame(mol: Chem.Mol, device: torch.device, fixed: Sequence[int]) -> tuple[Values, Tensor, Tensor]:
    """Distances of atoms one and two bonds apart and their bounds, so that no rule is met by breaking what it bends.

    Those of two fixed atoms are left out: nothing can be done about them.
    """
    bounds, far = rdDistGeom.GetMoleculeBoundsMatrix(mol), Chem.GetDistanceMatrix(mol)
    near = np.triu((far == 1) | (far == 2))
    near[np.ix_(fixed, fixed)] = False
    places = np.argwhere(near)
    i, j = places.T
    room = np.where(far[i, j] == 1, BONDS, ANGLES)
    low, high = (torch.as_tensor(bound, device=device) for bound in (bounds[j, i] - room, bounds[i, j] + room))
    first, second = torch.as_tensor(places.T, device=device)
    return (lambda x: (x[..., first, :] - x[..., second, :]).square().sum(-1).sqrt()), low, high


def _less(value: Values, bound: float | Tensor) -> Values:
    return lambda x: value(x) - bound


def _more(value: Values, bound: float | Tensor) -> Values:
    return lambda x: bound - value(x)


def _measure(
    rule: Rule, places: list[tuple[int, ...]], mol: Chem.Mol, device: torch.device
) -> tuple[Values, float, float]:
    """What a rule measures as a smooth function, and the range of that."""
    if rule.kind == "planar":
        return _planes(places, device), -math.inf, rule.high
    if rule.kind in PLACED:
        return (_outside(rule, mol, device) if rule.kind == "outside" else _inside(rule, device)), rule.low, rule.high
    atoms = torch.tensor(places, device=device).unbind(-1)
    if rule.kind == "angle":
        ends = (math.radians(max(rule.low, 0)), math.radians(min(rule.high, 180)))
        low = -math.inf if rule.high >= 180 else math.cos(ends[1])
        high = math.inf if rule.low <= 0 else math.cos(ends[0])
        return (lambda x: _cosine(x, *atoms)), low, high
    scale = torch.ones(len(places), dtype=torch.float64, device=device)
    if rule.kind == "clash":
        table = Chem.GetPeriodicTable()
        radius = torch.tensor([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()], dtype=torch.float64)
        scale = (radius[atoms[0].cpu()] + radius[atoms[1].cpu()]).to(device)
    return (lambda x: (x[..., atoms[0], :] - x[..., atoms[1], :]).square().sum(-1).sqrt() / scale), rule.low, rule.high


def _cosine(x: Tensor, i: Tensor, j: Tensor, k: Tensor) -> Tensor:
    a, b = x[..., i, :] - x[..., j, :], x[..., k, :] - x[..., j, :]
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def _outside(rule: Rule, mol: Chem.Mol, device: torch.device) -> Values:
    """Distances of each atom to the `CONTACTS` atoms of the surroundings nearest to it, in van der Waals radii."""
    around, table = read(rule.smarts), Chem.GetPeriodicTable()
    radius = torch.tensor([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()], dtype=torch.float64)
    radii = (radius[:, None] + torch.as_tensor(around.radius)).to(device)
    place, count = torch.as_tensor(around.position, device=device), min(CONTACTS, len(around.radius))

    def values(x: Tensor) -> Tensor:
        square = (x.detach()[..., None, :] - place).square().sum(-1)
        nearest = (square.sqrt() / radii).topk(count, dim=-1, largest=False).indices
        beam = x[..., None, :] - place[nearest]
        scale = radii.expand(*nearest.shape[:-1], -1).gather(-1, nearest)
        return (beam.square().sum(-1).sqrt() / scale).flatten(-2)

    return values


def _inside(rule: Rule, device: torch.device) -> Values:
    """How far each coordinate is beyond either end of its range."""
    low, high = torch.as_tensor(np.asarray(box(rule.smarts)), device=device).unbind(-1)
    return lambda x: torch.cat([low - x, x - high], -1).flatten(-2)


def _planes(places: list[tuple[int, ...]], device: torch.device) -> Values:
    parts = [torch.tensor(place, device=device) for place in places]

    def values(x: Tensor) -> Tensor:
        least = []
        for part in parts:
            spread = x[..., part, :] - x[..., part, :].mean(-2, keepdim=True)
            least.append((torch.linalg.eigvalsh(spread.transpose(-1, -2) @ spread)[..., 0] + FLAT**2).sqrt())
        return torch.stack(least, -1)

    return values
