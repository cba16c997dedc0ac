"""What each fragment adds to each property, which steered sampling tilts its draws by; kept beside a model's weights.

A property y of a molecule with token counts n is approximated by  y ~ b + sum_k n_k s_k,  where s_k = t_k + g . f_k has
a part of its own and one that is shared through the atoms, rings and slots f_k of the token. Ridge regression, the
shared part hardly penalised, so that tokens seen seldom are scored by what they are made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from scidiff import atomic
from scidiff.molecules.enforcement import token
from scidiff.molecules.fragments import RING_LABELS, arity, skeleton
from scidiff.molecules.properties import PROPERTIES
from scidiff.molecules.vocabulary import Vocabulary
from scidiff.weights import WeightsError

SCORED = ("qed", "logp", "mw", "sa", "tpsa", "hbd", "hba", "rotatable_bonds", "rings", "heavy_atoms")
TENSORS, CARD = "scores.safetensors", "scores.json"
_ELEMENTS = ("C", "N", "O", "S", "F", "Cl", "Br")
_PENALTY, _SHARED_PENALTY = 3.0, 0.01
_POOR = 0.7  # of a property's standard deviation left by sums: an R^2 below 0.5
_TESTED = 0.1  # share of the molecules that R^2 is measured on


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the K tokens of a vocabulary.

    Attributes:
        table: s, float64 [K, P], in the order of `names`.
        intercept: b, float64 [P].
        left: standard deviation of what they leave of each property, on other molecules, float64 [P]; None if it was
            not kept.
        card: where they come from, and how good they are.
    """

    table: Tensor
    intercept: Tensor
    card: Mapping[str, Any]
    left: Tensor | None = None
    names: tuple[str, ...] = SCORED

    def log_likelihood(self, x: Tensor, names: Sequence[str], asked: Tensor) -> Tensor:
        """log N(asked; b + sum_l s(x^l), left^2) of sequences, but for a constant.

        Args:
            x: tokens, int64 [B, M, L].
            names: of J properties.
            asked: values of these, [B, J], or [J] for all.

        Returns:
            float64 [B, M].
        """
        if self.left is None:
            raise ValueError("expected scores that say what they leave, got none")
        places = [self.names.index(name) for name in names]
        table, intercept, left = (one[..., places].to(x.device) for one in (self.table, self.intercept, self.left))
        away = table[x].sum(2) + intercept - asked.to(x.device).reshape(-1, 1, len(places))
        return -0.5 * (away / left).square().sum(-1)

    def say_little(self, spread: Tensor, asked: Tensor) -> bool:
        """Whether they leave more than half of the variance of a property that is asked for.

        Args:
            spread: standard deviation of each property, [P].
            asked: which of them, by number or bool [P].
        """
        return self.left is not None and bool((self.left > _POOR * spread.to(self.left))[asked].any())

    @classmethod
    def fit(
        cls,
        vocabulary: Vocabulary,
        classes: np.ndarray,
        values: np.ndarray,
        *,
        source: str,
        names: tuple[str, ...] = SCORED,
    ) -> Scores:
        """Fit to molecules in random order, of which the last tenth is only judged by.

        Args:
            vocabulary: the tokens.
            classes: those of each molecule, [M, L], -1 beyond the end.
            values: its properties, [M, P].
            source: what they are, for the card.
            names: of the properties.
        """
        counts = np.array([np.bincount(row[row >= 0], minlength=len(vocabulary.tokens)) for row in classes], np.float32)
        cut = len(counts) - max(1, round(_TESTED * len(counts)))
        table, intercept = _ridge(vocabulary, counts[:cut], values[:cut])
        left = values[cut:] - counts[cut:] @ table - intercept
        spread = np.maximum(values[cut:].var(0), 1e-12)
        good = dict(zip(names, np.round(1 - left.var(0) / spread, 3).tolist(), strict=True))
        card = {
            "what": "what each fragment adds to each property: ridge regression on token counts",
            "fitted": f"{cut:,} molecules of {source}",
            "vocabulary_sha256": fingerprint(vocabulary),
            "properties": list(names),
            f"r_squared_on_{len(counts) - cut}_others": good,
        }
        found = {"table": table, "intercept": intercept, "left": left.std(0)}
        return cls(card=card, names=names, **{name: torch.from_numpy(values) for name, values in found.items()})

    def save(self, folder: Path) -> None:
        """Write them beside the weights."""
        kept = {"scores": self.table.T.contiguous().to(torch.float16), "intercept": self.intercept.float()}
        if self.left is not None:
            kept["left"] = self.left.float()
        stored = save(kept)
        atomic.write(folder / TENSORS, lambda temporary: temporary.write_bytes(stored))
        atomic.write_json(folder / CARD, dict(self.card))

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary, names: tuple[str, ...] = SCORED) -> Scores | None:
        """Those of a folder, of the named properties; None if it has none.

        WeightsError if they are damaged, of other tokens or properties.
        """
        if not (folder / CARD).exists():
            return None
        try:
            card = json.loads((folder / CARD).read_text(encoding="utf-8"))
            held = load((folder / TENSORS).read_bytes())
            table, intercept = held["scores"].double().T, held["intercept"].double()
            left = held["left"].double() if "left" in held else None
            belongs = card["vocabulary_sha256"] == fingerprint(vocabulary)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"{folder / CARD}: expected scores of fragments, got others: {reason}") from None
        shapes = [tuple(one.shape) for one in (table, intercept, intercept if left is None else left)]
        if not belongs or shapes != [(len(vocabulary.tokens), len(names)), (len(names),), (len(names),)]:
            raise WeightsError(f"{folder / CARD}: expected scores of the tokens of this model, got those of others")
        return cls(table=table, intercept=intercept, card=card, left=left, names=names)


def scored(mol: Chem.Mol) -> list[float]:
    """The properties `SCORED` of a molecule."""
    return [float(PROPERTIES[name].compute(mol)) for name in SCORED]


def fingerprint(vocabulary: Vocabulary) -> str:
    """SHA-256 of the tokens in their order, one a line: scores belong to exactly these."""
    return hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()


def _made_of(text: str) -> list[float]:
    """Elements, rings, double bonds in the Kekule form, hydrogens on N and O, and slots of a token."""
    adds = token(text)
    if text in RING_LABELS:
        return [0.0] * (len(_ELEMENTS) + 3) + [1.0]
    mol = skeleton(text)
    polar = sum(a.GetTotalNumHs() for a in mol.GetAtoms() if a.GetSymbol() in "NO")
    double = sum(b.GetBondTypeAsDouble() > 1 for b in mol.GetBonds())
    own = (float(adds.atoms.get(x, 0)) for x in _ELEMENTS)
    return [*own, float(adds.rings), float(polar), float(double), float(arity(text))]


def _ridge(vocabulary: Vocabulary, counts: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [K, P] and intercepts [P]:  (X'X + diag(penalty))^-1 X'y  of standardised y."""
    shared = np.array([_made_of(text) for text in vocabulary.tokens], np.float32)
    mean, spread = values.mean(0), np.maximum(values.std(0), 1e-6)
    x = np.concatenate([counts, counts @ shared, np.ones((len(counts), 1), np.float32)], 1)
    penalty = np.r_[np.full(counts.shape[1], _PENALTY), np.full(shared.shape[1] + 1, _SHARED_PENALTY)]
    normal = (x.T @ x).astype(float) + np.diag(penalty)
    solved = np.linalg.solve(normal, x.T.astype(float) @ ((values - mean) / spread))
    own, through = solved[: counts.shape[1]], solved[counts.shape[1] : -1]
    return (own + shared @ through) * spread, solved[-1] * spread + mean
