"""A molecule model as a policy: drawn from in rounds, and moved by the gradient of its chains' log-probability."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from scidiff.molecules import chain
from scidiff.molecules.chain import Chains
from scidiff.molecules.grammar import grammar
from scidiff.molecules.model import LEAF, FragmentModel
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
        epochs: moves a round; after the first the ratio to the probabilities drawn from is clipped (Schulman et al.
            2017, eq. 7).
        clip: how far the ratio may leave 1.
        steps: steps of each chain that are looked at, chosen at random; their sum is scaled up to the whole chain.
        kl: weight beta of the divergence from the prior.
    """

    rate: float = 5e-4
    length_rate: float = 0.05
    epochs: int = 2
    clip: float = 0.2
    steps: int = 3
    kl: float = 0.02


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Steps of chains of one length, with what does not change while the policy moves."""

    x_t: Tensor
    x_s: Tensor
    t: Tensor
    owner: Tensor  # the chain of each step, by its place in the round
    weight: Tensor
    drawn: Tensor  # log-probability under the policy that they were drawn from
    prior: Tensor  # and under the prior


class Policy:
    """The policy: a network that starts as the prior's, and the logits of the number of fragments.

    The objective of a round of B chains with advantages A, and the network's gradient of it,

        max_theta  1/B sum_i sum_k [ min(rho_ik A_i, clip(rho_ik) A_i) - beta/2 (log pi_ik - log pi0_ik)^2 ]

    with rho = pi / pi_drawn. At rho = 1 this is the policy gradient A grad log pi (Black et al. 2023, eq. 5), and the
    second term has the gradient of beta KL(pi || pi0) of each step given its state.

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
        self.optimiser = torch.optim.AdamW(
            [
                {"params": list(self.denoiser.parameters()), "lr": learning.rate},
                {"params": [self.lengths], "lr": learning.length_rate},
            ],
            weight_decay=0.0,
            betas=(0.9, 0.99),
        )

    def draw(self, index: Tensor, *, seed: int) -> list[Chains]:
        """Chains by length, the short ones first."""
        rows = Layout.dense(len(index), {"length": ()}).rows("length")
        probabilities = self.lengths.detach().softmax(0).cpu()
        lengths = Noise(seed=seed, index=index).at("length", 0, rows).categorical(probabilities.expand(len(index), -1))
        return [
            chain.draw(
                self.denoiser,
                self.process,
                self.automaton,
                length=length,
                index=index[lengths == length].to(self.device),
                seed=seed,
            )
            for length in lengths.unique().tolist()
        ]

    def learn(self, chains: list[Chains], advantage: Mapping[int, float], *, seed: int) -> float:
        """Move by one round; `advantage` is by the chain's number. Returns the mean divergence from the prior."""
        index = torch.cat([c.index for c in chains])
        worth = torch.tensor([advantage[i] for i in index.tolist()], dtype=torch.float64, device=self.device)
        lengths = torch.cat([torch.full_like(c.index, c.states.shape[-1]) for c in chains])
        first = 0
        steps = []
        for one in chains:
            steps.append(self._chosen(one, first, seed))
            first += len(one.index)
        prior = (self.lengths.detach().log_softmax(0) - self.prior_lengths.log_softmax(0))[lengths]
        drawn = self.lengths.detach().log_softmax(0)[lengths]
        for _ in range(self.learning.epochs):
            of_lengths = self._gain(self.lengths.log_softmax(0)[lengths], drawn, worth)
            divergence = (self.lengths.log_softmax(0)[lengths] - self.prior_lengths.log_softmax(0)[lengths]) ** 2 / 2
            (-(of_lengths - self.learning.kl * divergence).sum() / len(index)).backward()
            for step in steps:
                now = self._log_prob(self.denoiser, step)
                gain = self._gain(now, step.drawn, worth[step.owner])
                gain = gain - self.learning.kl * (now - step.prior) ** 2 / 2
                (-(step.weight * gain).sum() / len(index)).backward()
            torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
        of_steps = sum(float((step.weight * (step.drawn - step.prior)).sum()) for step in steps)
        return (of_steps + float(prior.sum())) / len(index)

    def _gain(self, now: Tensor, drawn: Tensor, worth: Tensor) -> Tensor:
        """min(rho A, clip(rho) A)."""
        ratio = (now - drawn).exp()
        clipped = ratio.clamp(1 - self.learning.clip, 1 + self.learning.clip)
        return torch.minimum(ratio * worth, clipped * worth)

    def _log_prob(self, denoiser: nn.Module, step: _Step) -> Tensor:
        return chain.log_prob(denoiser, self.process, self.automaton, x_t=step.x_t, x_s=step.x_s, t=step.t)

    @torch.no_grad()
    def _chosen(self, chains: Chains, first: int, seed: int) -> _Step:
        """Some steps of each chain, chosen with keyed noise."""
        count, length = len(chains.index), len(chains.times)
        rows = Layout.dense(count, {"order": ()}).rows("order")
        order = Noise(seed=seed, index=chains.index.cpu()).at("steps", 0, rows).uniform(shape=(length,))
        kept = min(self.learning.steps, length)
        k = order.argsort(-1)[:, :kept].flatten().to(self.device)
        place = torch.arange(count, device=self.device).repeat_interleave(kept)
        x_t, x_s, t = chains.states[place, k], chains.states[place, k + 1], chains.times[k]
        blank = torch.zeros(len(k), dtype=torch.float64, device=self.device)
        step = _Step(x_t=x_t, x_s=x_s, t=t, owner=place + first, weight=blank + length / kept, drawn=blank, prior=blank)
        return replace(step, drawn=self._log_prob(self.denoiser, step), prior=self._log_prob(self.prior, step))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights, and the state of the optimiser, as safetensors can hold them."""
        weights = {**self.denoiser.state_dict(), "length.logits": self.lengths.detach()}
        held = self.optimiser.state_dict()["state"]
        return weights, {f"{k}/{name}": x for k, entries in held.items() for name, x in entries.items()}

    def restore(self, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        held = dict(weights)
        with torch.no_grad():
            self.lengths.copy_(held.pop("length.logits"))
        self.denoiser.load_state_dict(held)
        entries: dict[int, dict[str, Tensor]] = {}
        for key, x in optimiser.items():
            number, name = key.split("/")
            entries.setdefault(int(number), {})[name] = x
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": entries, "param_groups": groups})
