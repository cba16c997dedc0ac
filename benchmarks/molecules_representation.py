"""How a molecule is best written for masked diffusion: fragments against SELFIES pieces and SELFIES symbols.

    python benchmarks/molecules_representation.py [--quick] [--seed N] [--json FILE] [--minutes M] [--molecules N]
                                                  [--samples N] [--repeats N] [--threads N]

Contestants; whatever is drawn, each decodes to something that RDKit reads (`raw validity` asks more, e.g. no radicals):
* `fragments`: ours, a tree of fragments in pre-order under its automaton; 4,096 tokens.
* `SELFIES pieces`: byte-pair pieces of SELFIES (Krenn et al. 2020; Gage 1994), learned here; 600 pieces.
* `SELFIES symbols`: each symbol of SELFIES is a token.

All have the same transformer (but for the table of tokens), bound, optimiser, tokens a batch, minutes and threads, the
same training molecules, and one network call for every token drawn. No sequence is padded: those of one length make a
batch, and lengths are drawn from those of the training set.

What is compared. The held-out number bounds the cost of one string s of a molecule m from above,
    -log p(m) <= -log p(s) <= bound of masked diffusion given the length of s - log p(length),
in nats a molecule: so all bound the same -log p(m), each through the string that its encoder writes. p(length) counts
the training molecules, one added to each. It is of the test molecules that every contestant can write.
Intervals are 95 %: of the mean over molecules for the bound, over repeats of the sampling (Student's t) for the rest.
One training each, so the spread between trainings is not in them.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _running import guarded, interval, options, publish, say
from molecules_moses import quick_files
from rdkit import Chem, rdBase

from scidiff.denoiser import NetworkDenoiser
from scidiff.errors import UserError
from scidiff.grids import uniform
from scidiff.molecules import evaluate, fcd
from scidiff.molecules.grammar import grammar
from scidiff.molecules.readers import read_smiles
from scidiff.molecules.reference import locate
from scidiff.molecules.vocabulary import Vocabulary, encode_many
from scidiff.networks.transformer import SequenceTransformer
from scidiff.noise import Noise
from scidiff.objective import loss
from scidiff.processes.counted import CountedMaskedProcess
from scidiff.sampling import sample
from scidiff.solvers.categorical import CountedUnmasking
from scidiff.solvers.joint import Joint, independent
from scidiff.state import Layout
from scidiff.training.batches import SequenceBatches
from scidiff.training.config import TrainingConfig
from scidiff.training.loop import train

try:
    import selfies
except ImportError:
    selfies = None

LEAF = "token"
TOKENS, PIECES = 4096, 600  # tokens of the fragments (and elements of a batch), pieces of SELFIES
TILE = 256


class Representation(ABC):
    """A way to write molecules, fitted to training molecules.

    Attributes:
        name: of the row.
        classes: number of tokens.
        joint: how the tokens of a sequence are drawn together.
    """

    name: str
    classes: int
    joint: Joint = staticmethod(independent)

    @abstractmethod
    def encode(self, smiles: Sequence[str]) -> list[list[int] | None]:
        """The tokens of each molecule, or None where it cannot be written."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The SMILES of a sequence."""


class Fragments(Representation):
    """Ours."""

    name = "fragments"

    def __init__(self, smiles: Sequence[str]):
        self.vocabulary = Vocabulary.build(smiles, TOKENS)
        self.classes = len(self.vocabulary.tokens)
        self.joint = grammar(self.vocabulary)

    def encode(self, smiles: Sequence[str]) -> list[list[int] | None]:
        return [classes for classes, _ in encode_many(self.vocabulary, smiles)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(Chem.MolToSmiles(self.vocabulary.decode(tokens)))


class Pieces(Representation):
    """SELFIES, the commonest pairs of neighbours joined to one token again and again until there are `size` tokens."""

    def __init__(self, smiles: Sequence[str], size: int | None):
        self.name = "SELFIES symbols" if size is None else "SELFIES pieces"
        written = [symbols for symbols in map(_symbols, smiles) if symbols is not None]
        self.symbols = sorted({symbol for row in written for symbol in row})
        self.number = {symbol: k for k, symbol in enumerate(self.symbols)}
        self.expanded: list[tuple[int, ...]] = [(k,) for k in range(len(self.symbols))]
        self.merges: list[tuple[int, int]] = []
        row = _joined([[self.number[symbol] for symbol in symbols] for symbols in written])
        while size is not None and len(self.expanded) < size:
            here = (row[:-1] >= 0) & (row[1:] >= 0)
            pairs = np.bincount(row[:-1][here] * len(self.expanded) + row[1:][here])
            if pairs.size == 0 or pairs.max() < 2:
                break
            first, second = divmod(int(pairs.argmax()), len(self.expanded))
            row = _merged(row, first, second, len(self.expanded))
            self.merges.append((first, second))
            self.expanded.append(self.expanded[first] + self.expanded[second])
        self.classes = len(self.expanded)

    def encode(self, smiles: Sequence[str]) -> list[list[int] | None]:
        """None where SELFIES cannot write a molecule or takes a symbol that was not seen in training."""
        written = list(map(_symbols, smiles))
        known = [symbols is not None and self.number.keys() >= set(symbols) for symbols in written]
        row = _joined(
            [[self.number[s] for s in symbols or ()] for symbols, ok in zip(written, known, strict=True) if ok]
        )
        for k, (first, second) in enumerate(self.merges):
            row = _merged(row, first, second, len(self.symbols) + k)
        ends = np.flatnonzero(row < 0)
        found = iter([part[part >= 0].tolist() for part in np.split(row, ends)[1:]])
        return [next(found) if ok else None for ok in known]

    def decode(self, tokens: Sequence[int]) -> str:
        text = "".join(self.symbols[symbol] for token in tokens for symbol in self.expanded[token])
        mol = Chem.MolFromSmiles(selfies.decoder(text))
        return "" if mol is None else str(Chem.MolToSmiles(mol))


def _symbols(smiles: str) -> list[str] | None:
    """The symbols of SELFIES, or None where it cannot write a molecule."""
    try:
        return list(selfies.split_selfies(selfies.encoder(smiles)))
    except selfies.EncoderError:
        return None


def _joined(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows one after another, each after a -1."""
    return np.concatenate([np.array([-1, *row], dtype=np.int64) for row in rows])


def _merged(row: np.ndarray, first: int, second: int, token: int) -> np.ndarray:
    """Every pair of neighbours (first, second), from the left, as one token."""
    at = np.flatnonzero((row[:-1] == first) & (row[1:] == second))
    if first == second:  # of a run of overlapping pairs, every other one
        start = np.flatnonzero(np.diff(at, prepend=-2) > 1)
        place = np.arange(len(at)) - np.repeat(start, np.diff(start, append=len(at)))
        at = at[place % 2 == 0]
    row = row.copy()
    row[at] = token
    return np.delete(row, at + 1)


@dataclass(kw_only=True)
class Fitted:
    """A trained contestant.

    Attributes:
        representation: how it writes molecules.
        denoiser: of its sequences.
        lengths: [longest + 1] how many training molecules have each length.
        bound: nats of each held-out molecule.
        measured: what else the training gave.
    """

    representation: Representation
    denoiser: NetworkDenoiser
    lengths: np.ndarray
    bound: np.ndarray
    measured: dict[str, float]


def fit(
    representation: Representation, data: list[list[int]], held_out: list[list[int]], arguments: argparse.Namespace
) -> Fitted:
    """Train the same network on the sequences of a representation."""
    lengths = np.bincount([len(row) for row in data], minlength=max(map(len, held_out)) + 1)
    torch.manual_seed(arguments.seed)
    size = {"width": 64, "depth": 2, "heads": 2} if arguments.quick else {"width": 256, "depth": 6, "heads": 4}
    network = SequenceTransformer(leaf=LEAF, classes=representation.classes, longest=len(lengths) - 1, **size)
    denoiser = NetworkDenoiser(network, {LEAF: CountedMaskedProcess(classes=representation.classes)})
    config = TrainingConfig(
        max_minutes=arguments.minutes,
        optimiser="muon",
        learning_rate=2e-3,
        muon_learning_rate=5e-3,
        not_hidden=("*embed*", "*modulat*", "*condition*", "*length*"),
        schedule="stable",
        decay_fraction=0.3,
        warmup_steps=40,
        ema_decay=0.998,
        precision="bfloat16",
        compile=not arguments.quick,
        seed=arguments.seed,
        log_seconds=60,
    )
    tensors = [torch.tensor(row) for row in data]
    batches = SequenceBatches(tensors, leaf=LEAF, tokens=TOKENS, seed=arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        done = train(denoiser, denoiser.processes, batches, config, out=Path(folder) / "run", show=say)
    denoiser.load_state_dict(done.denoiser.state_dict())
    denoiser.eval()
    measured = {
        "parameters": float(sum(parameter.numel() for parameter in denoiser.parameters())),
        "tokens a molecule": float(np.mean([len(row) for row in data])),
        "trained/s": done.samples / done.seconds,
    }
    bound = held_out_bound(denoiser, held_out, lengths, arguments.seed)
    return Fitted(representation=representation, denoiser=denoiser, lengths=lengths, bound=bound, measured=measured)


@torch.no_grad()
def held_out_bound(denoiser: NetworkDenoiser, held_out: list[list[int]], lengths: np.ndarray, seed: int) -> np.ndarray:
    """Nats of each molecule: the bound given its length, one mask pattern each, and those of its length."""
    length_nats = -np.log((lengths + 1) / (lengths + 1).sum())
    batches = SequenceBatches([torch.tensor(row) for row in held_out], leaf=LEAF, tokens=2 * TOKENS)
    found = []
    for position in range(batches.batches_per_epoch):
        batch = batches.at(position)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            noise = Noise(seed=seed + 1, index=batch.index)
            values = loss(denoiser, denoiser.processes, batch.x_0, batch.layout, noise)
        found.append(values.double().numpy() + length_nats[batch.x_0[LEAF].shape[1]])
    return np.concatenate(found)


def draw(fitted: Fitted, start: int, number: int, seed: int) -> list[str]:
    """Molecules start, start + 1, ... of a seed, as they come, in tiles of equal lengths."""
    source = np.random.default_rng([seed, start])
    chosen = source.choice(len(fitted.lengths), size=number, p=fitted.lengths / fitted.lengths.sum())
    smiles = [""] * number
    for length in np.unique(chosen).tolist():
        members = np.flatnonzero(chosen == length)
        for part in np.array_split(members, -(-len(members) // TILE)):
            layout = Layout.dense(len(part), {LEAF: (length,)})
            rule = CountedUnmasking.on(uniform(length), joint=fitted.representation.joint)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                noise = Noise(seed=seed, index=torch.from_numpy(part) + start)
                done = sample(fitted.denoiser, fitted.denoiser.processes, {LEAF: rule}, layout, noise)
            for place, tokens in zip(part.tolist(), done.state[LEAF].tolist(), strict=True):
                smiles[place] = fitted.representation.decode(tokens)
    return smiles


def judge(fitted: Fitted, arguments: argparse.Namespace, reference: str, training: str) -> list[dict[str, float]]:
    """The metrics of each repeat, on disjoint samples."""
    found = []
    for repeat in range(arguments.repeats):
        began = time.perf_counter()
        smiles = draw(fitted, repeat * arguments.samples, arguments.samples, arguments.seed)
        rate = arguments.samples / (time.perf_counter() - began)
        judged = evaluate(smiles, references=[reference], training=training, seed=arguments.seed + repeat)
        found.append({**{k: float(v) for k, v in judged.as_dict().items()}, "drawn/s": rate})
    return found


def cell(values: Sequence[float | None]) -> str:
    """Mean +- half-width of its 95 % interval; a dash where a repeat has none."""
    there = [value for value in values if value is not None]
    if len(there) < len(values):
        return "-"
    mean, half = interval(there)
    return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± {half:.2g}"


def row_of(fitted: Fitted, refused: float, found: list[dict[str, float]], reference: str) -> list[str]:
    """One line of the table."""
    nats, spread = fitted.bound.mean(), 1.96 * fitted.bound.std() / math.sqrt(len(fitted.bound))
    metrics = ["valid", "unique", f"FCD/{reference}", f"FCD floor/{reference}", "drawn/s"]
    return [
        fitted.representation.name,
        f"{fitted.representation.classes:,}",
        f"{fitted.measured['tokens a molecule']:.1f}",
        f"{refused:.3%}",
        f"{nats:.2f} ± {spread:.2f}",
        *(cell([one.get(name) for one in found]) for name in metrics),
        f"{fitted.measured['trained/s']:.0f}",
    ]


COLUMNS = (
    "written as,tokens,tokens a molecule,refused,held-out bound [nats],"
    "raw validity,unique,FCD,floor of FCD,drawn/s,trained/s"
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__, "a few seconds each, a small network, vendored molecules")
    parser.add_argument("--minutes", type=float, help="of training, each; default 20")
    parser.add_argument("--molecules", type=int, help="training molecules; default 200,000")
    parser.add_argument("--samples", type=int, help="a repeat; default 2,000")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in training and in sampling")
    chosen = parser.parse_args(arguments)
    small = {"minutes": 0.05, "molecules": 2000, "samples": 60, "repeats": 2, "held_out": 200}
    large = {"minutes": 20.0, "molecules": 200_000, "samples": 2000, "repeats": 3, "held_out": 8000}
    for name, value in (small if chosen.quick else large).items():
        setattr(chosen, name, getattr(chosen, name, None) or value)
    return chosen


def run(arguments: argparse.Namespace) -> int:
    if selfies is None:
        raise UserError("expected the package selfies, found none: pip install 'scidiff[bench]'")
    torch.set_num_threads(arguments.threads)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            return _run(arguments, *quick_files(Path(folder)))
    return _run(arguments, "test", "train")


def _run(arguments: argparse.Namespace, reference: str, training: str) -> int:
    everything = read_smiles(locate(training))
    learnt = random.Random(arguments.seed).sample(everything, min(arguments.molecules, len(everything)))
    tested = read_smiles(locate(reference))
    held_out = random.Random(arguments.seed).sample(tested, min(arguments.held_out, len(tested)))
    fitted_to = learnt[: len(learnt) // 4]  # what the vocabularies are learnt from
    say(f"writing {len(learnt):,} molecules in three ways")
    ways: list[Representation] = [Fragments(fitted_to), Pieces(fitted_to, PIECES), Pieces(fitted_to, None)]
    with rdBase.BlockLogs():
        tests = [way.encode(held_out) for way in ways]
    common = [k for k in range(len(held_out)) if all(rows[k] is not None for rows in tests)]
    rows, raw = [], {}
    name = Path(reference).name if Path(reference).suffix else reference
    for way, test in zip(ways, tests, strict=True):
        data = way.encode(learnt)
        kept = [row for row in data if row is not None]
        say(f"{way.name}: {way.classes:,} tokens, training for {arguments.minutes:g} minutes")
        fitted = fit(way, kept, [test[k] or [] for k in common], arguments)
        say(f"{way.name}: {arguments.repeats} x {arguments.samples:,} molecules")
        found = judge(fitted, arguments, reference, training)
        rows.append(row_of(fitted, 1 - len(kept) / len(data), found, name))
        counted = dict(Counter(len(row) for row in kept).most_common())
        raw[way.name] = {**fitted.measured, "bound": float(fitted.bound.mean()), "repeats": found, "lengths": counted}
    title = (
        f"Writing molecules: {arguments.minutes:g} minutes of training on {arguments.threads} thread(s), "
        f"{arguments.repeats} x {arguments.samples:,} samples, {len(common):,} held-out molecules, "
        f"seed {arguments.seed}"
    )
    table: dict[str, Any] = {"title": title, "columns": COLUMNS.split(","), "rows": rows}
    missing = [] if fcd.available() else ["fcd_torch"]
    return publish("molecules_representation", arguments, [table], missing=missing, packages=["selfies"], results=raw)


def main(arguments: list[str] | None = None) -> int:
    return guarded(run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
