"""A molecule model as a policy: drawn from in rounds, and moved by the gradient of its chains' log-probability."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from scidiff.molecules import chain
from scidiff.molecules.chain import Chains
from scidiff.molecules.grammar import grammar
from scidiff.molecules.model import LEAF, FragmentModel
from scidiff.molecules.remasking import Elite, remasked
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.state import Layout

_IMPOSSIBLE = -30.0  # logit of a length that the model never draws


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How the policy moves.

    Attributes:
        rate: of AdamW, on the network; that on the logits of the lengths is `length_rate`.
        length_rate: see above.
        steps: steps of each chain that are looked at, chosen at random; their sum is scaled up to the whole chain.
        kl: least weight beta of the divergence from the prior.
        repeats: the share of draws made before above which beta grows.
    """

    rate: float = 1e-3
    length_rate: float = 0.05
    steps: int = 2
    kl: float = 0.02
    repeats: float = 0.1


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """P steps of chains of one length.

    Attributes:
        x_t: [P, L], and x_s, the state after it.
        x_s: see above.
        t: [P]
        weight: [P] steps of the chain that each stands for.
        worth: [P] the chain's advantage.
        whole: [P] whether the chain began with masks alone.
    """

    x_t: Tensor
    x_s: Tensor
    t: Tensor
    weight: Tensor
    worth: Tensor
    whole: Tensor


class Policy:
    """The policy: a network that starts as the prior's, and the logits of the number of fragments.

    It moves once a round of B chains with advantages A, along the gradient of

        1/B sum_i sum_k [ A_i log pi_ik - beta/2 (log pi_ik - log pi0_ik)^2 ]

    The first term is the policy gradient (Black et al. 2023, eq. 5), the second has the gradient of beta KL(pi || pi0)
    of each step given its state. The more of its draws are repeats, the nearer it is held to the prior:

        log beta  <-  max(log kl, log beta + share of repeats - repeats)

    Args:
        model: the prior.
        learning: how it moves.
    """

    def __init__(self, model: FragmentModel, learning: Learning) -> None:
        self.model, self.learning = model, learning
        self.prior = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
        self.denoiser = copy.deepcopy(model.denoiser).eval().requires_grad_(True)
        self.device = next(self.denoiser.parameters()).device
        self.process = cast(MaskedProcess, model.processes[LEAF])
        self.automaton = grammar(model.vocabulary).to(self.device)
        start = model.length_probabilities.log().clamp_min(_IMPOSSIBLE)
        self.prior_lengths = start.to(self.device)
        self.lengths = nn.Parameter(start.clone().to(self.device))
        self.hold = torch.zeros((), dtype=torch.float64)  # log(beta / kl)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.denoiser.parameters()), "lr": learning.rate},
                {"params": [self.lengths], "lr": learning.length_rate},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )

    @property
    def beta(self) -> float:
        """The weight of the divergence from the prior."""
        return self.learning.kl * math.exp(float(self.hold))

    def draw(self, index: Tensor, *, seed: int) -> list[Chains]:
        """Chains from masks alone by length, the short ones first."""
        rows = Layout.dense(len(index), {"length": ()}).rows("length")
        probabilities = self.lengths.detach().softmax(0).cpu()
        lengths = Noise(seed=seed, index=index).at("length", 0, rows).categorical(probabilities.expand(len(index), -1))
        starts = [
            (index[lengths == length], torch.full((int((lengths == length).sum()), length), self.process.mask))
            for length in lengths.unique().tolist()
        ]
        return self._chains(starts, seed)

    def edit(self, index: Tensor, elites: Sequence[Elite], *, seed: int) -> list[Chains]:
        """Chains that write a part of elites anew."""
        possible = (self.prior_lengths > _IMPOSSIBLE).nonzero().flatten().tolist()
        starts = remasked(elites, self.automaton, possible, self.process.mask, index=index, seed=seed)
        return self._chains(starts, seed)

    def _chains(self, starts: Sequence[tuple[Tensor, Tensor]], seed: int) -> list[Chains]:
        return [
            chain.draw(
                self.denoiser,
                self.process,
                self.automaton,
                start=start.to(self.device),
                index=index.to(self.device),
                seed=seed,
            )
            for index, start in starts
        ]

    def learn(
        self, drawn: Sequence[Chains], edited: Sequence[Chains], advantage: Mapping[int, float], *, seed: int
    ) -> float:
        """Move by one round; `advantage` is by the chain's number.

        Returns:
            The mean of log pi - log pi0 of the chains that were drawn whole, in nats.
        """
        count = sum(len(one.index) for one in (*drawn, *edited))
        divergence = self._gradient_of_lengths(drawn, advantage, count)
        for steps in self._chosen(drawn, edited, advantage, seed):
            now = self._log_prob(self.denoiser, steps)
            with torch.no_grad():
                prior = self._log_prob(self.prior, steps)
            gain = steps.worth * now - self.beta / 2 * (now - prior) ** 2
            (-(steps.weight * gain).sum() / count).backward()
            divergence += float((steps.weight * (now.detach() - prior))[steps.whole].sum())
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return divergence / sum(len(one.index) for one in drawn)

    def restrain(self, repeats: float) -> None:
        """Take notice of the share of the last draws that were repeats."""
        self.hold = (self.hold + repeats - self.learning.repeats).clamp_min(0)

    def _gradient_of_lengths(self, drawn: Sequence[Chains], advantage: Mapping[int, float], count: int) -> float:
        """Add the gradient of the lengths that were drawn; returns the sum of their log pi - log pi0."""
        length = [one.states.shape[-1] for one in drawn for _ in one.index]
        worth = [advantage[i] for one in drawn for i in one.index.tolist()]
        now = self.lengths.log_softmax(0)[length]
        apart = now - self.prior_lengths.log_softmax(0)[length]
        gain = torch.tensor(worth, dtype=torch.float64, device=self.device) * now - self.beta / 2 * apart**2
        (-gain.sum() / count).backward()
        return float(apart.detach().sum())

    def _log_prob(self, denoiser: nn.Module, steps: _Steps) -> Tensor:
        return chain.log_prob(denoiser, self.process, self.automaton, x_t=steps.x_t, x_s=steps.x_s, t=steps.t)

    def _chosen(
        self, drawn: Sequence[Chains], edited: Sequence[Chains], advantage: Mapping[int, float], seed: int
    ) -> list[_Steps]:
        """Some steps of each chain, chosen with keyed noise, by the length of the sequences."""
        by_length: dict[int, list[dict[str, Tensor]]] = {}
        for one, whole in [*((c, True) for c in drawn), *((c, False) for c in edited)]:
            count, length = len(one.index), len(one.times)
            rows = Layout.dense(count, {"order": ()}).rows("order")
            order = Noise(seed=seed, index=one.index.cpu()).at("steps", 0, rows).uniform(shape=(length,))
            kept = min(self.learning.steps, length)
            k = order.argsort(-1)[:, :kept].flatten().to(self.device)
            place = torch.arange(count, device=self.device).repeat_interleave(kept)
            worth = torch.tensor([advantage[i] for i in one.index.tolist()], dtype=torch.float64, device=self.device)
            chosen = {
                "x_t": one.states[place, k],
                "x_s": one.states[place, k + 1],
                "t": one.times[k],
                "weight": torch.full_like(worth[place], length / kept),
                "worth": worth[place],
                "whole": torch.full_like(place, whole, dtype=torch.bool),
            }
            by_length.setdefault(one.states.shape[-1], []).append(chosen)
        return [
            _Steps(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
            for parts in by_length.values()
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights, and the state of the optimiser, as safetensors can hold them."""
        weights = {**self.denoiser.state_dict(), "length.logits": self.lengths.detach(), "hold": self.hold}
        held = self.optimiser.state_dict()["state"]
        return weights, {f"{k}/{name}": x for k, entries in held.items() for name, x in entries.items()}

    def restore(self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        held = dict(weights)
        with torch.no_grad():
            self.lengths.copy_(held.pop("length.logits"))
        self.hold = held.pop("hold").cpu()
        self.denoiser.load_state_dict(held)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, x in optimiser.items():
            number, name = key.split("/")
            entries.setdefault(int(number), {})[name] = x
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": entries, "param_groups": groups})
