"""The rules about one series, with what was observed put in: a set that the unknown cells must lie in.

Rules link few cells each, so the set falls apart into small polyhedra, which are projected onto side by side; most
cells have bounds alone. All numbers are in the units of the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from scidiff.constraints.programs import nearest_each
from scidiff.timeseries.rules import Term

ROUNDING = 64 * torch.finfo(torch.float64).eps
_SIZES = (4, 16, 64, 256, 1024, 4096)  # small polyhedra are padded to these numbers of cells and of faces


@dataclass(frozen=True, kw_only=True)
class Group:
    """P polyhedra of D cells (some of them padding), M equalities and K inequalities.

    Attributes:
        cells: [P, D] int64; padding points one past the last cell.
        equal, target: [P, M, D], [P, M].
        below, bound: [P, K, D], [P, K].
    """

    cells: Tensor
    equal: Tensor
    target: Tensor
    below: Tensor
    bound: Tensor

    def outside(self, c: Tensor) -> Tensor:
        """How far points are outside, in the units of the rules: [..., P] of c [..., P, D]."""
        over = (torch.einsum("pkd,...pd->...pk", self.below, c) - self.bound).clamp_min(0)
        off = (torch.einsum("pmd,...pd->...pm", self.equal, c) - self.target).abs()
        return torch.cat([over, off], dim=-1).amax(-1)

    def nearest(self, c: Tensor, variance: Tensor) -> Tensor:
        """The nearest points inside: c [K, P, D], variance [P, D]. What is inside stays to the bit."""
        draw, part = torch.nonzero(self.outside(c) > 0, as_tuple=True)
        if not len(draw):
            return c
        each = {name: getattr(self, name)[part] for name in ("equal", "target", "below", "bound")}
        return c.index_put((draw, part), nearest_each(c[draw, part], variance[part], **each))

    def part(self, chosen: Tensor) -> Group:
        """Some of the polyhedra."""
        return Group(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """What the unknown cells of one series must satisfy.

    Attributes:
        low, high: [L * V], bounds of each cell; infinite where there are none.
        groups: cells that are linked.
        matrix, limit, equality: every rule with an unknown cell, for the certificate: [J, L * V] sparse, [J], [J].
        unit: [J], the standard deviations that the terms of a rule sum up to.
        broken: what the observed values break among themselves, in words.
        contradictory: rules that no value of the unknown cells can satisfy, given what was observed, in words.
    """

    low: Tensor
    high: Tensor
    groups: tuple[Group, ...]
    matrix: Tensor
    limit: Tensor
    equality: Tensor
    unit: Tensor
    broken: tuple[str, ...]
    contradictory: tuple[str, ...]

    def project(self, x: Tensor, variance: Tensor) -> Tensor:
        """The nearest draws that hold: float64 [K, L * V].

        Args:
            x: draws.
            variance: [L * V], how uncertain each cell is: what is uncertain moves most.
        """
        padded = torch.cat([x, x.new_zeros(len(x), 1)], dim=1)
        spread = torch.cat([variance, variance.new_ones(1)])
        for group in self.groups:
            padded[:, group.cells] = group.nearest(padded[:, group.cells], spread[group.cells])
        return torch.minimum(torch.maximum(padded[:, :-1], self.low), self.high)

    def violation(self, x: Tensor) -> Tensor:
        """The greatest violation of each draw, in standard deviations: float64 [K], exactly 0 where all rules hold."""
        reached = (self.matrix @ x.T).T
        scale = (self.matrix.abs() @ x.abs().T).T + self.limit.abs() + self.unit
        over = reached - self.limit
        over = torch.where(self.equality, over.abs(), over.clamp_min(0))
        over = torch.where(over <= ROUNDING * scale, 0, over / self.unit).nan_to_num(nan=torch.inf)
        return torch.cat([over, x.new_zeros(len(x), 1)], dim=1).amax(1)


def restrict(
    stated: Iterable[Term],
    *,
    values: np.ndarray,
    asked: np.ndarray,
    stds: np.ndarray,
) -> Restriction:
    """Put the observed values of one series into its rules.

    Args:
        stated: the rules, by cell.
        values: float64 [L, V], the table's own values where observed.
        asked: bool [L, V], the unknown cells.
        stds: [V], the standard deviation of each variable, the unit of violations.
    """
    size, width = asked.size, asked.shape[1]
    known, free = values.reshape(-1), asked.reshape(-1)
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    broken: list[str] = []
    crossed: set[int] = set()
    single: list[Term] = []
    linked: list[Term] = []
    for term in stated:
        left, scale = _left(term, known, free)
        cells, coefficients, bound = left.cells, left.coefficients, left.bound
        if not cells:
            if bound < -ROUNDING * scale or (term.equality and bound > ROUNDING * scale):
                broken.append(f"row {min(term.cells) // width + 1}: {term.rule}")
        elif len(cells) == 1:
            single.append(left)
            (cell,), edge = cells, bound / coefficients[0]
            above = edge if term.equality or coefficients[0] > 0 else np.inf
            under = edge if term.equality or coefficients[0] < 0 else -np.inf
            room = ROUNDING * max(abs(edge), scale)
            if under > high[cell] + room or above < low[cell] - room:
                crossed.add(cell)  # the rules before it hold, bounds first; this one is told and left out
            else:
                low[cell], high[cell] = max(low[cell], under), min(high[cell], above)
        else:
            linked.append(left)
    contradictory = [f"row {cell // width + 1}: {_rules_of(cell, single)}" for cell in sorted(crossed)]
    high = np.maximum(low, high)
    groups, empty = _possible(_groups(linked, low, high), np.tile(stds, len(asked)))
    contradictory += [f"row {min(cells) // width + 1}: {_rules_linking(cells, linked)}" for cells in empty]
    return Restriction(
        low=torch.from_numpy(low),
        high=torch.from_numpy(high),
        groups=groups,
        broken=tuple(broken),
        contradictory=tuple(contradictory),
        **_certificate([*single, *linked], np.tile(stds, len(asked))),
    )


def _left(term: Term, known: np.ndarray, free: np.ndarray) -> tuple[Term, float]:
    """What a rule asks of the unknown cells, and the size of the numbers it is made of."""
    bound, scale = term.bound, abs(term.bound)
    open_ = []
    for cell, coefficient in zip(term.cells, term.coefficients, strict=True):
        if free[cell]:
            open_.append((cell, coefficient))
        else:
            bound -= coefficient * known[cell]
            scale += abs(coefficient * known[cell])
    cells, coefficients = tuple(c for c, _ in open_), tuple(a for _, a in open_)
    return replace(term, cells=cells, coefficients=coefficients, bound=bound), scale


def _rules_of(cell: int, single: Sequence[Term]) -> str:
    return " and ".join(dict.fromkeys(term.rule for term in single if term.cells[0] == cell))


def _rules_linking(cells: set[int], linked: Sequence[Term]) -> str:
    return " and ".join(dict.fromkeys(term.rule for term in linked if cells.issuperset(term.cells)))


def _possible(groups: Iterable[Group], unit: np.ndarray) -> tuple[tuple[Group, ...], list[set[int]]]:
    """The polyhedra that have a point, and the cells of the others: their links are dropped, their bounds stay."""
    kept, empty = [], []
    variance = torch.from_numpy(np.append(unit, 1.0)).square()
    for group in groups:
        spread = variance[group.cells]
        found = group.nearest(torch.zeros_like(spread)[None], spread)[0]
        size = torch.cat([group.bound.abs(), group.target.abs()], 1).amax(1) + found.abs().amax(1)
        possible = group.outside(found) <= 1e-9 * size
        kept.append(group.part(possible))
        empty += [{cell for cell in cells if cell < len(unit)} for cells in group.cells[~possible].tolist()]
    return tuple(kept), empty


def _certificate(stated: Sequence[Term], unit: np.ndarray) -> dict[str, Tensor]:
    """Every term as a row of a sparse matrix."""
    rows = [k for k, term in enumerate(stated) for _ in term.cells]
    columns = [cell for term in stated for cell in term.cells]
    entries = [coefficient for term in stated for coefficient in term.coefficients]
    return {
        "matrix": torch.sparse_coo_tensor(
            torch.tensor([rows, columns], dtype=torch.int64).reshape(2, -1),
            torch.tensor(entries, dtype=torch.float64),
            (len(stated), len(unit)),
            check_invariants=False,
        ).coalesce(),
        "limit": torch.tensor([term.bound for term in stated], dtype=torch.float64),
        "equality": torch.tensor([term.equality for term in stated], dtype=torch.bool),
        "unit": torch.tensor(
            [np.abs(term.coefficients) @ unit[list(term.cells)] for term in stated], dtype=torch.float64
        ),
    }


def _groups(linked: Sequence[Term], low: np.ndarray, high: np.ndarray) -> tuple[Group, ...]:
    """The terms that link cells, by connected component, components of about one size together."""
    if not linked:
        return ()
    pairs = [(term.cells[0], cell) for term in linked for cell in term.cells[1:]]
    first, second = np.array(pairs).T
    graph = coo_matrix((np.ones(len(pairs)), (first, second)), shape=(len(low), len(low)))
    _, label = connected_components(graph, directed=False)
    members: dict[int, list[Term]] = defaultdict(list)
    for term in linked:
        members[label[term.cells[0]]].append(term)
    sized: dict[tuple[int, int, int], list[tuple[list[int], list[Term]]]] = defaultdict(list)
    for linking in members.values():
        cells = sorted({cell for term in linking for cell in term.cells})
        stated = [*linking, *_bounds(cells, low, high)]
        equalities = sum(term.equality for term in stated)
        sized[_padded(len(cells)), equalities, _padded(len(stated) - equalities)].append((cells, stated))
    return tuple(_group(shape, parts, len(low)) for shape, parts in sized.items())


def _bounds(cells: Sequence[int], low: np.ndarray, high: np.ndarray) -> list[Term]:
    above = [
        Term(cells=(c,), coefficients=(1.0,), bound=float(high[c]), equality=False, rule="")
        for c in cells
        if np.isfinite(high[c])
    ]
    below = [
        Term(cells=(c,), coefficients=(-1.0,), bound=-float(low[c]), equality=False, rule="")
        for c in cells
        if np.isfinite(low[c])
    ]
    return above + below


def _padded(count: int) -> int:
    return next(size for size in _SIZES if size >= count)


def _group(shape: tuple[int, int, int], parts: Sequence[tuple[list[int], list[Term]]], last: int) -> Group:
    size, equalities, faces = shape
    cells = torch.full((len(parts), size), last, dtype=torch.int64)
    equal = torch.zeros(len(parts), equalities, size, dtype=torch.float64)
    below = torch.zeros(len(parts), faces, size, dtype=torch.float64)
    target = torch.zeros(len(parts), equalities, dtype=torch.float64)
    bound = torch.ones(len(parts), faces, dtype=torch.float64)  # a padded face is 0 x <= 1
    for p, (chosen, stated) in enumerate(parts):
        cells[p, : len(chosen)] = torch.tensor(chosen)
        place = {cell: k for k, cell in enumerate(chosen)}
        count = {True: 0, False: 0}
        for term in stated:
            row = count[term.equality]
            count[term.equality] += 1
            matrix, limit = (equal, target) if term.equality else (below, bound)
            for cell, coefficient in zip(term.cells, term.coefficients, strict=True):
                matrix[p, row, place[cell]] = coefficient
            limit[p, row] = term.bound
    return Group(cells=cells, equal=equal, target=target, below=below, bound=bound)
