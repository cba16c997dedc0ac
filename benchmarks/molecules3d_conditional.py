"""Molecules asked for by a quantum property, with their geometry, by EDM's protocol on QM9.

    python datasets/qm9.py
    python benchmarks/molecules3d_conditional.py [--quick] [--seed N] [--json FILE] [--molecules M] [--among K]

The training split of QM9 is cut in two (Hoogeboom et al. 2022, section 5.2). A network learns to read six properties
from elements and positions of the first half; the generator is told them on the second. (property, number of atoms) of
M random molecules of the second half are asked for, one property at a time. The numbers are mean absolute errors
between what is asked for and what the network reads from the geometries that come, each the first that is certified,
its number of atoms included:

    scidiff                told the property and the number of atoms, which automata enforce; at each step one of 16
                           sequences that the network's estimate allows is chosen by sums of what fragments add to the
                           property, fitted on the second half
    scidiff, size only     told the number of atoms alone
    best of K              of K such draws each, the one that another network reads nearest to what is asked for: it
                           learned from the second half, as the generator did, and does not know the network that judges
    network                the network's own error on the M molecules, which it has not seen: the least there can be
    naive                  its estimates on the M molecules in another order
    atoms only             the median of the first half's molecules of so many atoms
    published              EDM and GeoLDM, from Table 3 of Xu et al. 2023

and, without a network, what B3LYP gives for those molecules that come and are in QM9, but not in the second half:

    ... looked up          of the first draws, of the best of K, and of those that are told the number of atoms alone

These are the easier ones, being molecules that QM9 has. The half-width of a 95 % interval is over molecules. What has
no geometry counts for no error; the second table says how many there are. The network of coordinates is that of the
packaged weights: it has seen geometries of both halves, and no property.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import guarded, options, publish, say
from rdkit import Chem, rdBase
from torch import Tensor

from scidiff.constraints.pair import Pair
from scidiff.errors import UserError
from scidiff.grids import uniform
from scidiff.molecules.conditioned import Conditioned
from scidiff.molecules.enforcement import enforce
from scidiff.molecules.grammar import grammar
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.parsing import parse
from scidiff.molecules.quantum import ATOMS, QUANTUM, halves, quantum_values
from scidiff.molecules.reference import cache_folder
from scidiff.molecules.three_d import estimator
from scidiff.molecules.three_d.conformers import conformers
from scidiff.molecules.three_d.estimator import ORDER, Estimator, read_measured
from scidiff.molecules.three_d.generated import fragments_of_small_molecules
from scidiff.molecules.three_d.model import ConformerModel
from scidiff.molecules.three_d.oracle import with_positions
from scidiff.molecules.three_d.records import Record, record
from scidiff.molecules.towards import choosing
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.solvers.categorical import CountedUnmasking
from scidiff.state import Layout

UNITS = {name: (1000.0, "meV") if one.unit == "eV" else (1.0, one.unit) for name, one in QUANTUM.items()}
PUBLISHED = {
    "EDM, as published": (2.76, 655.0, 356.0, 584.0, 1.111, 1.101),
    "GeoLDM, as published": (2.37, 587.0, 340.0, 522.0, 1.108, 1.025),
}
SIZE = "size only"
Errors = dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Data:
    """The training split of QM9.

    Attributes:
        value: float64 [N, 6], as `QUANTUM` has them.
        atoms: int64 [N].
        smiles: canonical, [N].
        first, second: places of the two halves.
    """

    value: np.ndarray
    atoms: np.ndarray
    smiles: list[str]
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came of M requests, K draws each.

    Attributes:
        smiles: of each draw, [M, K].
        whole: bool [M, K], which draws have a certified geometry and the number of atoms that was asked for.
        sized: bool [M, K], which have that number.
        judged, chooser: what the two networks read from those geometries, [M, K, 6]; NaN without.
        calls: of all networks, for a draw.
    """

    smiles: np.ndarray
    whole: np.ndarray
    sized: np.ndarray
    judged: np.ndarray
    chooser: np.ndarray
    calls: float

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """Requests with a certified draw, and the first of each: [those], [those]."""
        rows = self.whole.any(1).nonzero()[0]
        return rows, self.whole[rows].argmax(1)

    def best(self, place: int, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, of each the draw that the chooser reads nearest to the values [M] asked of one property."""
        rows = self.whole.any(1).nonzero()[0]
        away = np.where(self.whole, np.abs(self.chooser[:, :, place] - asked[:, None]), np.inf)[rows]
        return rows, away.argmin(1)


def read_data(path: Path, most: int | None) -> Data:
    """The split; `most` bounds how many SMILES are made canonical, for a quick run."""
    value = quantum_values(path)
    first, second = halves(len(value))
    with np.load(path) as held:
        atoms, smiles = held["atoms"].astype(np.int64), [str(one) for one in held["smiles"]]
    with rdBase.BlockLogs():
        canonical = [Chem.CanonSmiles(one) if most is None or k < most else one for k, one in enumerate(smiles)]
    return Data(value=value, atoms=atoms, smiles=canonical, first=first, second=second)


def told(model: FragmentModel, data: Data, rows: np.ndarray, name: str) -> tuple[Tensor, list[Tensor]]:
    """Facts [M, 2 E] of one property and the size, and how many molecules near them have 0, 1, 2 ... fragments."""
    if model.census is None:
        raise UserError("expected a model with a census, got one without: workflows/train_towards.py makes it")
    known = {ATOMS: data.atoms[rows].astype(float)}
    if name != SIZE:
        known[name] = data.value[rows, list(QUANTUM).index(name)]
    nothing = np.full(len(rows), np.nan)
    values = torch.as_tensor(np.stack([known.get(one, nothing) for one in model.edges.of], axis=1))
    near = [model.census.near({one: float(column[k]) for one, column in known.items()}) for k in range(len(rows))]
    return model.edges.of_values(values), near


def drawn(
    model: FragmentModel, facts: Tensor, near: Sequence[Tensor], data: Data, rows: np.ndarray,
    *, name: str, among: int, seed: int,
) -> list[list[int]]:  # fmt: skip
    """K sequences of fragments of each of M requests, [M K], as `scidiff molecules generate --towards` draws them.

    Inside the automaton of the number of atoms. A number of fragments L is drawn from near(L) r(L), r being the chance
    that the first estimate has so many atoms.
    """
    states = grammar(model.vocabulary)
    found: dict[int, list[int]] = {}
    sizes = data.atoms[rows]
    asked = torch.from_numpy(data.value[rows][:, [k for k, one in enumerate(QUANTUM) if one == name]])
    for size in np.unique(sizes).tolist():
        here = torch.from_numpy((sizes == size).nonzero()[0])
        counter = enforce([parse(f"{ATOMS} == {size}")], model.vocabulary, grammar_states=states.states).counter
        pair = Pair(a=states, b=counter)
        lengths = _lengths(model, facts[here], [near[k] for k in here.tolist()], pair)
        number = (here[:, None] * among + torch.arange(among)).flatten()
        rows = Layout.dense(len(number), {"length": ()}).rows("length")
        lengths = lengths.repeat_interleave(among, dim=0)
        chosen = Noise(seed=seed, index=number).at("length", 0, rows).categorical(lengths)
        for length in chosen.unique().tolist():
            some = number[chosen == length]
            layout = Layout.dense(len(some), {LEAF: (length,)})
            candidates = choosing(model, [name] if name != SIZE else [], asked[some // among])
            joint = Conditioned(pair.a, pair, candidates=candidates)
            rule = {LEAF: CountedUnmasking.on(uniform(length), joint=joint)}
            with torch.autocast("cpu", dtype=torch.bfloat16):
                done = sample(model.denoiser, model.processes, rule, layout, Noise(seed=seed, index=some),
                              condition=facts[some // among])  # fmt: skip
            found |= dict(zip(some.tolist(), done.state[LEAF].tolist(), strict=True))
    return [found[k] for k in range(len(found))]


def _lengths(model: FragmentModel, facts: Tensor, near: Sequence[Tensor], pair: Pair) -> Tensor:
    """near(L) r(L) of each request, normalised: float64 [M, longest + 1]."""
    most = max(map(len, near))
    chances = torch.stack([torch.nn.functional.pad(one, (0, most - len(one))) for one in near]).double()
    for length in chances.sum(0).nonzero().flatten().tolist():
        some = chances[:, length].nonzero().flatten()
        layout = Layout.dense(len(some), {LEAF: (length,)})
        masks = torch.full((len(some), length), len(model.vocabulary.tokens))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            estimate = model.denoiser({LEAF: masks}, torch.ones(len(some)), layout, facts[some])[LEAF]
        chances[some, length] *= Conditioned(pair.a, pair).first(estimate).exp().nan_to_num()
    return chances / chances.sum(1, keepdim=True)


def made(
    model: FragmentModel, readers: Sequence[Estimator], data: Data, rows: np.ndarray,
    *, name: str, among: int, seed: int,
) -> Made:  # fmt: skip
    """Molecules drawn towards one property, with their geometries as both networks read them."""
    facts, near = told(model, data, rows, name)
    sequences = drawn(model, facts, near, data, rows, name=name, among=among, seed=seed)
    mols = [model.vocabulary.decode(classes) for classes in sequences]
    shapes = ConformerModel.load()
    records = [r for k, mol in enumerate(mols) if isinstance(r := record(mol, shapes.config, k, ""), Record)]
    run = conformers(records, num=1, model=shapes, seed=seed)
    whole = [one for one in run.ensembles if one.conformers]
    places = np.array([one.record.number for one in whole])
    read = np.full((len(readers), len(mols), len(QUANTUM)), np.nan)
    for place, reader in enumerate(readers):
        read[place, places] = reader.values([with_positions(w.record.mol, w.conformers[0].position) for w in whole])
    read = read.reshape(len(readers), len(rows), among, -1)
    sizes = np.array([Chem.AddHs(mol).GetNumAtoms() for mol in mols]).reshape(len(rows), among)
    sized = sizes == data.atoms[rows][:, None]
    fragments = sum(map(len, sequences)) / len(mols)
    return Made(
        smiles=np.array([Chem.MolToSmiles(mol) for mol in mols]).reshape(len(rows), among),
        whole=sized & ~np.isnan(read[0, :, :, 0]),
        sized=sized,
        judged=read[0],
        chooser=read[-1],
        calls=fragments + run.steps * run.drawn / len(mols),
    )


def by_network(data: Data, rows: np.ndarray, reader: Estimator, found: Mapping[str, Made], seed: int) -> Errors:
    """The table of the protocol."""
    sizes = read_measured(cache_folder() / "qm9" / "train.npz", data.value, rows)
    order = [ORDER.index(name) for name in QUANTUM]
    read, value = (
        np.concatenate(parts)[:, order]
        for parts in (
            [reader.read(part.position, part.atom) for part in sizes.values()],
            [part.value for part in sizes.values()],
        )
    )
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    medians = np.stack([np.median(data.value[data.first[data.atoms[data.first] == data.atoms[k]]], 0) for k in rows])
    errors: Errors = {}
    for k, name in enumerate(QUANTUM):
        asked = data.value[rows, k]
        away = {
            row: one.judged[places, draws, k] - asked[places]
            for row, (one, places, draws) in ways(found, k, asked).items()
        }
        away |= {
            "network": read[:, k] - value[:, k],
            "naive": read[:, k] - value[shuffled, k],
            "atoms only": medians[:, k] - asked,
        }
        for row, values in away.items():
            errors.setdefault(row, {})[name] = error(values, name)
    return errors


def ways(found: Mapping[str, Made], k: int, asked: np.ndarray) -> dict[str, tuple[Made, np.ndarray, np.ndarray]]:
    """By row of the table: what was made, the requests that have a draw, and which draw each has."""
    name, among = list(QUANTUM)[k], found[SIZE].whole.shape[1]
    chosen = {}
    for row, one in (("scidiff", found[name]), (f"scidiff, {SIZE}", found[SIZE])):
        chosen[row] = (one, *one.first())
        chosen[f"{row}, best of {among}"] = (one, *one.best(k, asked))
    return chosen


def looked_up(data: Data, rows: np.ndarray, found: Mapping[str, Made]) -> Errors:
    """Of those that are in QM9, but not in the half that is learned: what they have, against what was asked for."""
    learned = {data.smiles[k] for k in data.second}
    known: dict[str, list[int]] = {}
    for k in data.first.tolist():
        if data.smiles[k] not in learned:
            known.setdefault(data.smiles[k], []).append(k)
    errors: Errors = {}
    for k, name in enumerate(QUANTUM):
        asked = data.value[rows, k]
        for row, (one, places, draws) in ways(found, k, asked).items():
            pairs = [(i, s) for i, s in zip(places.tolist(), one.smiles[places, draws], strict=True) if s in known]
            has = [data.value[known[smiles], k].mean() for _, smiles in pairs]  # stereoisomers are one
            away = np.array(has) - asked[[i for i, _ in pairs]]
            errors.setdefault(f"{row}, looked up", {})[name] = error(away, name)
    return errors


def error(away: np.ndarray, name: str) -> tuple[float, float]:
    """Mean absolute error in the unit of the table, and the half-width of its interval."""
    if not len(away):
        return float("nan"), float("nan")
    scaled = np.abs(away) * UNITS[name][0]
    return float(scaled.mean()), float(1.96 * scaled.std() / len(scaled) ** 0.5)


def tables(errors: Errors, found: Mapping[str, Made], data: Data, rows: np.ndarray) -> list[dict[str, Any]]:
    """The table of errors, and that of what was made."""
    among = found[SIZE].whole.shape[1]
    calls = {f"scidiff, {SIZE}": found[SIZE].calls, "scidiff": np.mean([found[name].calls for name in QUANTUM])}
    calls |= {f"{row}, best of {among}": calls[row] * among for row in calls}
    lines: list[Sequence[Any]] = [
        [row, f"{calls[row]:.0f}" if row in calls else "", *(f"{mean:.3g} ± {half:.1g}" for mean, half in one.values())]
        for row, one in errors.items()
    ]
    lines += [[name, "1000", *(f"{value:g}" for value in values)] for name, values in PUBLISHED.items()]
    learned, others = ({data.smiles[k] for k in half} for half in (data.second, data.first))
    more = []
    for name, one in found.items():
        shares = [np.mean([smiles in part for smiles in one.smiles[:, 0]]) for part in (learned, others - learned)]
        distinct = len(set(one.smiles[:, 0])) / len(rows)
        cells = [one.whole.mean(), one.sized.mean(), distinct, *shares]
        more.append([name, *map(float, cells), round(one.calls, 1)])
    columns = ["mean absolute error", "calls", *(f"{name} [{UNITS[name][1]}]" for name in QUANTUM)]
    about = [
        "told of the size and",
        "certified",
        "of the size",
        "distinct",
        "in the second half",
        "in the first",
        "calls",
    ]
    return [
        {"title": f"Properties asked for, {len(rows):,} molecules each", "columns": columns, "rows": lines},
        {"title": f"What was made, {among} draws of each", "columns": about, "rows": more},
    ]


def run(chosen: argparse.Namespace) -> int:
    count, among = (12, 2) if chosen.quick else (chosen.molecules, chosen.among)
    torch.set_num_threads(1)
    path = cache_folder() / "qm9" / "train.npz"
    if not path.exists():
        raise UserError("expected QM9 in the cache, got none: python datasets/qm9.py")
    model = FragmentModel.load(chosen.model or fragments_of_small_molecules(told=True))
    judge, chooser = Estimator.load(chosen.judge), Estimator.load(chosen.chooser or estimator.chooser())
    data = read_data(path, 2000 if chosen.quick else None)
    rows = np.sort(np.random.default_rng(chosen.seed).choice(data.second, count, replace=False))
    found = {}
    for name in (SIZE, *QUANTUM):
        found[name] = made(model, [judge, chooser], data, rows, name=name, among=among, seed=chosen.seed)
        say(f"{name}: {found[name].whole.mean():.1%} certified")
    errors = by_network(data, rows, judge, found, chosen.seed)
    bars = dict(zip(QUANTUM, PUBLISHED["EDM, as published"], strict=True))
    misses = [
        f"{row}, {name}: expected below {bar:g}, got {errors[row][name][0]:.4g}"
        for row in ("scidiff", f"scidiff, best of {among}")
        for name, bar in bars.items()
        if not errors[row][name][0] < bar
    ]
    errors |= looked_up(data, rows, found)
    cards = {"fragments": dict(model.card), "judge": dict(judge.card), "chooser": dict(chooser.card)}
    return publish("molecules3d_conditional", chosen, tables(errors, found, data, rows), misses=misses,
                   errors=errors, cards=cards)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = options(__doc__, "12 molecules of each property, 2 draws each")
    parser.add_argument("--molecules", type=int, default=500, help="of each property")
    parser.add_argument("--among", type=int, default=4, metavar="K", help="draws of each")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="weights of fragments that are told")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="weights that read properties")
    parser.add_argument("--chooser", type=Path, metavar="FOLDER", help="others, of the second half")
    return guarded(run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
