"""The policy: which steps of its chains it looks at, its gradient, and how it is held to the prior."""

from __future__ import annotations

from typing import Any

import pytest
import small_model
import torch

from scidiff.molecules import chain
from scidiff.molecules.model import FragmentModel
from scidiff.molecules.policy import Learning, Policy
from scidiff.molecules.remasking import Elite

SEED = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FragmentModel:
    return FragmentModel.load(small_model.make(tmp_path_factory.mktemp("model")))


def gradient(policy: Policy, seed: int, *, worth: dict[int, float], drawn: Any, edited: Any) -> dict[str, torch.Tensor]:
    """What the optimiser is given: the policy does not move."""
    policy.optimiser.step = lambda *a: None  # type: ignore[method-assign, assignment]
    policy.optimiser.zero_grad = lambda **k: None  # type: ignore[method-assign]
    policy.learn(drawn, edited, worth, seed=seed)
    found = {name: x.grad.clone() for name, x in policy.denoiser.named_parameters() if x.grad is not None}
    for x in policy.denoiser.parameters():
        x.grad = None
    return found


def test_the_gradient_is_that_of_the_whole_chain_whole_or_edited(
    model: FragmentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every step looked at: grad of 1/B sum_i [A_i log pi_i - beta/2 sum_k (log pi_ik - log pi0_ik)^2]."""
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: None)
    policy = Policy(model, Learning(steps=99, kl=0.3))
    with torch.no_grad():
        for x in policy.denoiser.parameters():
            x.mul_(1.1)
    drawn = policy.draw(torch.arange(6), seed=SEED)
    elites = [Elite(score=0.0, index=0, classes=tuple(drawn[-1].sequences[0].tolist()))]
    edited = policy.edit(torch.arange(6, 10), elites, seed=SEED)
    worth = {i: (-1.0) ** i * i for i in range(10)}
    found = gradient(policy, SEED, worth=worth, drawn=drawn, edited=edited)

    total = torch.zeros((), dtype=torch.float64)
    for one in (*drawn, *edited):
        for b, i in enumerate(one.index.tolist()):
            states = one.states[b]
            step = {"process": policy.process, "automaton": policy.automaton, "x_t": states[:-1], "x_s": states[1:]}
            now = chain.log_prob(policy.denoiser, t=one.times, **step)
            prior = chain.log_prob(policy.prior, t=one.times, **step).detach()
            total = total + (worth[i] * now - 0.3 / 2 * (now - prior) ** 2).sum() / 10
    names, values = zip(*policy.denoiser.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(-total, values, allow_unused=True), strict=True))
    assert set(found) == {name for name, x in expected.items() if x is not None}
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_every_step_is_as_likely_looked_at_and_stands_for_as_many_as_there_are(
    model: FragmentModel, drawn_from: Any
) -> None:
    policy = Policy(model, Learning(steps=2))
    count, length = 3000, 4
    index = torch.arange(count)
    states = torch.arange(length + 1).expand(count, -1)[..., None]  # each state is its own number
    made = chain.Chains(index=index, states=states, times=torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64))
    (steps,) = policy._chosen([made], [], dict.fromkeys(range(count), 1.0), SEED)
    assert torch.equal(steps.x_s, steps.x_t + 1)
    assert torch.equal(steps.t, 1 - steps.x_t.squeeze(-1).double() / length)
    assert steps.weight.eq(length / 2).all()
    assert (steps.x_t.view(count, 2).diff() != 0).all()  # no step twice
    drawn_from(steps.x_t[::2].flatten().bincount(minlength=length), torch.full((length,), 0.25, dtype=torch.float64))


def test_repeats_hold_the_policy_to_the_prior_and_new_molecules_let_it_go(model: FragmentModel) -> None:
    policy = Policy(model, Learning(kl=0.02, repeats=0.1))
    policy.restrain(0.0)
    assert policy.beta == pytest.approx(0.02)
    for _ in range(3):
        policy.restrain(0.6)
    assert policy.beta == pytest.approx(0.02 * torch.tensor(1.5).exp().item())
    other = Policy(model, Learning(kl=0.02, repeats=0.1))
    other.restore(*policy.state())
    assert other.beta == policy.beta
    for _ in range(20):
        policy.restrain(0.0)
    assert policy.beta == pytest.approx(0.02)


def test_an_edit_of_a_molecule_is_a_molecule(model: FragmentModel) -> None:
    policy = Policy(model, Learning())
    classes = policy.draw(torch.arange(1), seed=SEED)[0].sequences[0]
    elites = [Elite(score=0.0, index=0, classes=tuple(classes.tolist()))]
    for one in policy.edit(torch.arange(64), elites, seed=SEED):
        assert policy.automaton.accepts(one.sequences).all()
        for sequence in one.sequences.tolist():
            assert model.vocabulary.decode(sequence).GetNumAtoms() > 0
