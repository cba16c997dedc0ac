"""The shipped molecule model: masked diffusion over fragment sequences, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scidiff import weights as files
from scidiff.denoiser import Denoiser, NetworkDenoiser
from scidiff.molecules.candidates import Candidates
from scidiff.molecules.census import Census
from scidiff.molecules.edges import Edges
from scidiff.molecules.head import PropertyHead
from scidiff.molecules.scores import SCORED, Scores
from scidiff.molecules.vocabulary import MAX_LENGTH, Vocabulary
from scidiff.networks.transformer import SequenceTransformer
from scidiff.processes.base import Process
from scidiff.processes.counted import CountedMaskedProcess

LEAF = "fragment"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What builds the network again.

    Attributes:
        width: features of a position.
        depth: transformer blocks.
        heads: attention heads.
        lengths: how many training molecules have 0, 1, 2 ... fragments: the distribution that lengths are drawn from.
        edges: of the properties that the model can be told of, by name; none: it cannot.
    """

    width: int = 256
    depth: int = 6
    heads: int = 4
    lengths: tuple[int, ...] = ()
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, held: Mapping[str, Any]) -> ModelConfig:
        """From plain values; TypeError or KeyError if they are others."""
        edges = {name: tuple(cuts) for name, cuts in held.get("edges", {}).items()}
        return cls(**{**held, "lengths": tuple(held["lengths"]), "edges": edges})


@dataclass(frozen=True, kw_only=True)
class FragmentModel:
    """A denoiser of fragment sequences and what belongs to it.

    Attributes:
        vocabulary: the K tokens.
        config: the network's sizes and the distribution of lengths.
        denoiser: gives log-probabilities [B, L, K] from classes [B, L].
        card: the model card.
        scores: what tokens add to properties; None if the folder has none.
        census: a sample of the training molecules; None if the folder has none.
        head: what to expect of properties from beliefs; None if the folder has none.
        sums: what they add to the properties that the model is told of, where these are others; None if not known.
        candidates: chooses among sequences that an estimate allows; None to draw one.
    """

    vocabulary: Vocabulary
    config: ModelConfig
    denoiser: Denoiser
    card: Mapping[str, Any] = field(default_factory=dict)
    scores: Scores | None = None
    census: Census | None = None
    head: PropertyHead | None = None
    sums: Scores | None = None
    candidates: Candidates | None = None

    @classmethod
    def create(
        cls, vocabulary: Vocabulary, config: ModelConfig, *, card: Mapping[str, Any] | None = None
    ) -> FragmentModel:
        """A model with fresh weights."""
        classes = len(vocabulary.tokens)
        network = SequenceTransformer(
            leaf=LEAF,
            classes=classes,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            longest=MAX_LENGTH,
            told=Edges(of=config.edges).size,
        )
        denoiser = NetworkDenoiser(network, _processes(vocabulary))
        return cls(vocabulary=vocabulary, config=config, denoiser=denoiser, card=card or {})

    @property
    def processes(self) -> Mapping[str, Process]:
        """The process of each leaf."""
        return _processes(self.vocabulary)

    @property
    def edges(self) -> Edges:
        """What it can be told of properties."""
        return Edges(of=self.config.edges)

    @cached_property
    def length_probabilities(self) -> Tensor:
        """Probability of each number of fragments, float64 [longest + 1]."""
        counts = torch.tensor(self.config.lengths, dtype=torch.float64)
        return counts / counts.sum()

    def description(self) -> dict[str, Any]:
        """What `load` needs to build the model (JSON)."""
        return {"model": asdict(self.config), "tokens": list(self.vocabulary.tokens)}

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> FragmentModel:
        """Read a model from a folder; WeightsError says in one line what is wrong with it."""
        held = files.load(folder, device=device)
        with files.expected("weights of a fragment model", folder):
            config = ModelConfig.read(held.config["model"])
            if sum(config.lengths) < 1 or len(config.lengths) > MAX_LENGTH + 1:
                raise ValueError(f"expected how many molecules have 0 .. {MAX_LENGTH} fragments, got {config.lengths}")
            vocabulary = Vocabulary(tokens=tuple(held.config["tokens"]))
            _ = vocabulary.kinds  # reads every token
            model = cls.create(vocabulary, config, card=held.card)
            model.denoiser.load_state_dict(held.part())
        model.denoiser.eval().to(device)
        head = PropertyHead.load(folder, vocabulary)
        head = None if head is None else head.to(device)
        names = tuple(config.edges) or SCORED
        census, others = Census.load(folder, names), set(names) != set(SCORED)
        added = Scores.load(folder, vocabulary, names if others else SCORED)
        scores, sums = (None, added) if others else (added, None)
        return replace(model, scores=scores, sums=sums, census=census, head=head)

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the model to a folder of safetensors and JSON."""
        tensors = {name: value.to(dtype) for name, value in self.denoiser.state_dict().items()}
        files.save(folder, files.Weights(tensors=tensors, config=self.description(), card=self.card))


def _processes(vocabulary: Vocabulary) -> dict[str, Process]:
    return {LEAF: CountedMaskedProcess(classes=len(vocabulary.tokens))}
