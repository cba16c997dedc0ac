"""Molecules from a model, one after another, each a function of (seed, index) alone.

A network's matrix products may round differently with the shape of the batch, and a rounding can tip a draw. Samples
are therefore always computed in the same *tiles* of consecutive indices, whatever is asked for: molecule 7 of a seed
comes from the tile of molecules 0 to 255, whether one molecule is wanted or a million, on one worker or on ten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from torch import Tensor

from scidiff.constraints.automaton import Automaton, anything
from scidiff.constraints.base import Infeasible
from scidiff.constraints.pair import Pair
from scidiff.constraints.runs import Runs
from scidiff.denoiser import Denoiser
from scidiff.errors import UserError
from scidiff.grids import uniform
from scidiff.molecules.conditioned import Conditioned
from scidiff.molecules.enforcement import Enforcement, enforce
from scidiff.molecules.grammar import grammar
from scidiff.molecules.guiding import Guide, Guided, by_facts, by_projection
from scidiff.molecules.language import Expression
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.motifs import Unwritable, motifs_of, with_parts
from scidiff.molecules.parts import parts_of
from scidiff.molecules.planning import Choice, choose
from scidiff.molecules.tilting import Steered, steer
from scidiff.molecules.towards import towards
from scidiff.noise import Noise
from scidiff.sampling import sample
from scidiff.side_by_side import side_by_side
from scidiff.solvers.categorical import CountedUnmasking
from scidiff.state import Layout

TILE = 256
SHIPPED = "moses"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One sample.

    Attributes:
        index: its number in the run.
        smiles: canonical SMILES.
        mol: the molecule, sanitised.
        calls: network calls spent on it.
        log_weight: logarithm of its weight; 0 unless constraints are enforced.
        classes: its tokens.
        kept: False if it was thinned out.
    """

    index: int
    smiles: str
    mol: Chem.Mol
    calls: int
    log_weight: float = 0.0
    classes: tuple[int, ...] = ()
    kept: bool = True


_Sequences = tuple[list[list[int]], list[float]]  # classes [B][L] and log-weights [B]
_Tile = list[tuple[Tensor, int, "Future[_Sequences]"]]  # of each length: samples, network calls, sequences


_HEAVIEST = 0.05  # share of the samples whose weights are clipped


def _ceiling(pilot: list[Drawn]) -> float:
    """log c, of a tile."""
    weights = torch.tensor([drawn.log_weight for drawn in pilot], dtype=torch.float64)
    return float(weights.quantile(1 - _HEAVIEST))


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Draws molecules that are valid by construction.

    Under constraints (`given`) what tokens decide is enforced at every step. The number of fragments L is drawn from
    its posterior under the first estimate of the network, x_1 being all masks (a tilt leaves it alone), and each step
    draws from the estimate conditioned on the grammar and the constraint at once:

        L ~ p(L) r(x_1),   r(x_t) = P(constraint | grammar, prod_l p_l(. | x_t))

    What comes out is the model given the constraint up to the weights w of `scidiff.molecules.conditioned`, which say
    how far a step's product of marginals misjudged what was to come: E[w f(x)] / E[w] is exact, for any f. Thinning
    keeps a sample with probability min(1, w / c), where 5 % of the first 256 samples of the seed weigh more than c:
    what is kept follows the model given the constraint, but for what the heaviest few weigh above c. A model with
    candidates chooses among draws, so that they follow no stated distribution, and none is thinned out.

    Attributes:
        model: the weights and the vocabulary.
        enforcement: what tokens must meet; None for nothing.
        thin: whether samples are thinned out by their weights.
        tilt: [K] float64, by how much each token is favoured, which the weights take back; None for not at all.
        guide: to another product than the model's, which the weights take back too; None for the model's own.
    """

    model: FragmentModel
    enforcement: Enforcement | None = None
    thin: bool = False
    tilt: Tensor | None = None
    guide: Guide | None = None

    @classmethod
    def load(cls, folder: Path | None = None, *, device: torch.device | str = "cpu") -> Generator:
        """A generator from a folder of weights, or from those shipped with the package: by their name, or `SHIPPED`."""
        shipped = resources.files("scidiff.molecules") / "weights"
        name = SHIPPED if folder is None else str(folder)
        if folder is not None and (folder.exists() or not any(one.name == name for one in shipped.iterdir())):
            return cls(model=FragmentModel.load(folder, device=device))
        with resources.as_file(shipped / name) as here:
            return cls(model=FragmentModel.load(here, device=device))

    @cached_property
    def automaton(self) -> Automaton:
        """The grammar of the vocabulary, on the model's device."""
        return grammar(self.model.vocabulary).to(self.device)

    def given(self, terms: Sequence[Expression], *, thin: bool = False) -> Generator:
        """This generator, enforcing what tokens decide of an expression.

        Args:
            terms: what must hold together.
            thin: mark samples to be left out, so that the others follow the model given what is enforced.

        Raises:
            UserError: no sequence of fragments meets it.
        """
        try:
            found = enforce(terms, self.model.vocabulary, grammar_states=self.automaton.states)
            enforced = bool(found.parts) or found.counter is not None
            given = replace(self, enforcement=found, thin=thin and enforced and self.model.candidates is None)
            if enforced:
                _ = given.length_probabilities
        except Unwritable as error:
            raise UserError(
                f"--where: the fragments of this model cannot write {error}, which a part asks for"
            ) from None
        except Infeasible:
            named = " and ".join(term.text for term in terms)
            raise UserError(f"--where {named!r}: no molecule that this model can draw meets it") from None
        return given

    def steered(
        self,
        terms: Sequence[Expression],
        *,
        seed: int,
        steps: int | None,
        most: int,
        progress: Callable[[int, int], None] = lambda calls, draws: None,
    ) -> Steered:
        """This generator, tilted towards an expression: see `scidiff.molecules.tilting`."""
        return steer(self, terms, seed=seed, steps=steps, most=most, progress=progress)

    def guided(self, terms: Sequence[Expression]) -> Generator:
        """This generator, its model told of an expression: see `scidiff.molecules.guiding`."""
        return self.but(guide=by_facts(self.model, terms), thin=False)

    def projected(self, terms: Sequence[Expression]) -> Generator:
        """This generator, its estimates projected on an expression: see `scidiff.molecules.guiding`."""
        return self.but(guide=by_projection(self.model, terms), thin=False)

    def but(self, **changes: Any) -> Generator:
        """A copy that leans or thins otherwise; it has the automata of this one, which can take seconds to build."""
        other = replace(self, **changes)
        vars(other).update({name: vars(self)[name] for name in ("automaton", "pair") if name in vars(self)})
        return other

    def towards(self, asked: Mapping[str, float]) -> Generator:
        """A generator of what the model makes when it is told of values: see `scidiff.molecules.towards`."""
        return self.but(model=towards(self.model, asked))

    def planned(self, terms: Sequence[Expression], num: int) -> Choice:
        """The method that so many molecules of an expression get: see `scidiff.molecules.planning`."""
        return choose(self.model, self.enforcement, terms, num=num)

    @cached_property
    def pair(self) -> Pair | Runs | None:
        """The grammar beside the counters and parts of what is enforced; None if nothing is, nor chosen."""
        counter = None if self.enforcement is None else self.enforcement.counter
        if self.enforcement is not None and self.enforcement.parts:
            parts = [parts_of(term.name, term.argument) for term in self.enforcement.parts]
            motifs = motifs_of(parts, self.model.vocabulary)
            return with_parts(motifs, self.model.vocabulary, self.automaton, counter).to(self.device)
        if counter is None and self.model.candidates is not None:
            counter = anything(len(self.model.vocabulary.tokens))
        return None if counter is None else Pair(a=self.automaton, b=counter.to(self.device))

    @property
    def _free(self) -> bool:
        """Whether the model is drawn from as it is."""
        return self.pair is None and self.tilt is None and self.guide is None

    @property
    def lengths_asked(self) -> Tensor:
        """What lengths are drawn from but for what is enforced: the model's distribution, or that of the guide."""
        return self.model.length_probabilities if self.guide is None else self.guide.lengths

    def _run(self) -> tuple[Denoiser, Conditioned]:
        """The denoiser of one run, and what draws from its estimates and weighs the draws."""
        if self.guide is None:
            return self.model.denoiser, Conditioned(self.automaton, self.pair, self.tilt, None, self.model.candidates)
        guided = Guided(self.model.denoiser, self.guide)
        return guided, Conditioned(self.automaton, self.pair, self.tilt, guided.plain, self.model.candidates)

    @cached_property
    def shares(self) -> Tensor:
        """By length L, r(x_1): the share of sequences that meet what is enforced, as the first step sees it."""
        if self.pair is None:
            return torch.ones_like(self.lengths_asked)
        return self.but(tilt=None, guide=None)._by_length().exp()

    @cached_property
    def offsets(self) -> Tensor:
        """By length L, what tilt and guide make of the logarithm of r(x_1) and of p(L): part of the log-weights."""
        if self.tilt is None and self.guide is None:
            return torch.zeros_like(self.lengths_asked)
        lengths = self.model.length_probabilities.log() - self.lengths_asked.log()
        return (self._by_length() - self.shares.log() + lengths).nan_to_num()

    def _by_length(self) -> Tensor:
        """By length, log r of the first step; -inf where there is no sequence."""
        found = torch.full_like(self.lengths_asked, -torch.inf)
        for length in self.lengths_asked.nonzero().flatten().tolist():
            if self.pair is None or isinstance(self.pair, Runs) or len(self.pair.layers(length)[0]):
                found[length] = self._first(length)
        return found

    @property
    def feasible(self) -> float:
        """sum_L p(L) r(x_1): the share of molecules that meet what is enforced, as the first step sees it.

        Times a sample's weight, it is how much likelier the model is to draw that sample.
        """
        return float(self.lengths_asked @ self.shares)

    @cached_property
    def length_probabilities(self) -> Tensor:
        """p(L) r(x_1), normalised: float64 [longest + 1]. Infeasible if it is 0 for every length."""
        joint = self.lengths_asked * self.shares
        if not float(joint.sum()) > 0:
            raise Infeasible("no length admits a sequence")
        return joint / joint.sum()

    def _first(self, length: int) -> float:
        """log r of a sequence that is all masks."""
        layout = Layout.dense(1, {LEAF: (length,)}, device=self.device)
        masks = torch.full((1, length), len(self.model.vocabulary.tokens), device=self.device)
        denoiser, joint = self._run()
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16):
            return float(joint.first(denoiser({LEAF: masks}, torch.ones(1, device=self.device), layout)[LEAF]))

    @property
    def device(self) -> torch.device:
        return next(self.model.denoiser.parameters()).device

    def lengths(self, seed: int, index: Tensor) -> Tensor:
        """Number of fragments of each sample: int64 [B]."""
        rows = Layout.dense(len(index), {"length": ()}).rows("length")
        draw = Noise(seed=seed, index=index).at("length", 0, rows)
        return draw.categorical(self.length_probabilities.expand(len(index), -1))

    def stream(self, *, seed: int, start: int = 0, steps: int | None = None, batch_size: int = TILE) -> Iterator[Drawn]:
        """Molecules start, start + 1, ... without end, in the order of the index.

        Args:
            seed: of the run.
            start: index of the first molecule.
            steps: network calls a molecule at most; by default one for each fragment, which is exact unmasking.
            batch_size: how many are drawn ahead, rounded up to whole tiles; changes no molecule.
        """
        ahead = -(-batch_size // TILE)
        with side_by_side(self.device) as pool:
            begun: deque[_Tile] = deque()
            ceiling = math.inf
            for number in count(start // TILE):
                begun.append(self._begin(pool, number, seed=seed, steps=steps))
                if len(begun) > ahead:  # the next tiles are drawn while the molecules of this one are looked at
                    tile = self._end(begun.popleft())
                    if self.thin and ceiling == math.inf:
                        pilot = tile if tile[0].index == 0 else self._end(self._begin(pool, 0, seed=seed, steps=steps))
                        ceiling = _ceiling(pilot)
                    yield from (self._thinned(one, seed, ceiling) for one in tile if one.index >= start)

    def _thinned(self, drawn: Drawn, seed: int, ceiling: float) -> Drawn:
        """The sample, with whether it is kept: with probability min(1, w / c)."""
        if not self.thin:
            return drawn
        rows = Layout.dense(1, {"kept": ()}).rows("kept")
        uniform = Noise(seed=seed, index=torch.tensor([drawn.index])).at("kept", 0, rows).uniform()
        return replace(drawn, kept=float(uniform) < math.exp(min(0.0, drawn.log_weight - ceiling)))

    def tile(self, number: int, *, seed: int, steps: int | None = None) -> list[Drawn]:
        """The TILE molecules of one tile."""
        with side_by_side(self.device) as pool:
            return self._end(self._begin(pool, number, seed=seed, steps=steps))

    def _begin(self, pool: Executor, number: int, *, seed: int, steps: int | None) -> _Tile:
        """Start the computations of a tile, one for each length, the long ones first."""
        index = torch.arange(number * TILE, (number + 1) * TILE)
        lengths = self.lengths(seed, index)
        _, _ = self.automaton, self.offsets  # made once, before the threads ask for them
        groups = {length: index[lengths == length] for length in lengths.unique().tolist()}
        tile: _Tile = []
        for length in sorted(groups, key=lambda length: -length * length * len(groups[length])):
            members, calls = groups[length], length if steps is None else min(length, steps)
            drawn = pool.submit(self._sequences, members, length, calls, seed)
            tile.append((members, calls * (1 if self.guide is None else self.guide.calls), drawn))
        return tile

    def _end(self, tile: _Tile) -> list[Drawn]:
        """The molecules of a tile when they are ready."""
        molecules = []
        for members, calls, drawn in tile:
            for i, classes, weight in zip(members.tolist(), *drawn.result(), strict=True):
                mol = self.model.vocabulary.decode(classes)
                smiles, tokens = Chem.MolToSmiles(mol), tuple(classes)
                one = Drawn(index=i, smiles=smiles, mol=mol, calls=calls, log_weight=weight, classes=tokens)
                molecules.append(one)
        return sorted(molecules, key=lambda molecule: molecule.index)

    def _sequences(self, index: Tensor, length: int, calls: int, seed: int) -> _Sequences:
        """Sequences of one length with their weights."""
        device = self.device
        layout = Layout.dense(len(index), {LEAF: (length,)}, device=device)
        denoiser, joint = self._run()
        rule = CountedUnmasking.on(uniform(calls), joint=self.automaton if self._free else joint)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            done = sample(
                denoiser, self.model.processes, {LEAF: rule}, layout, Noise(seed=seed, index=index.to(device))
            )
        classes = done.state[LEAF]
        if self._free:
            return classes.tolist(), [0.0] * len(index)
        return classes.tolist(), (joint.log_weight(classes) + float(self.offsets[length])).tolist()
