"""A sample is a function of (seed, index): no bit of it depends on the batch, its order, or how the run is cut up."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scidiff import grids
from scidiff.denoiser import Denoiser
from scidiff.noise import Noise
from scidiff.objective import loss, stratified
from scidiff.processes.categorical import MaskedProcess
from scidiff.processes.gaussian import GaussianProcess, ZeroMeanGaussianProcess
from scidiff.processes.manifold import ManifoldProcess, ScaledScore
from scidiff.processes.mixing import MixingProcess
from scidiff.processes.parametrisations import Data
from scidiff.processes.torus import Torus
from scidiff.sampling import Known, sample
from scidiff.schedules import VE, Cosine
from scidiff.solvers.ancestral import ddim, ddpm
from scidiff.solvers.categorical import Confidence, CountedUnmasking, PosteriorJump, Remasking, TauLeap
from scidiff.solvers.dpmpp import dpmpp_2m
from scidiff.solvers.dpmpp_sde import dpmpp_sde_2m
from scidiff.solvers.heun import heun
from scidiff.solvers.joint import Sharpened
from scidiff.solvers.manifold import GeodesicMultistep
from scidiff.solvers.renoise import time_travel
from scidiff.state import Layout, State

SCHEDULE = Cosine()
SOLVERS = {
    "ddim": ddim(SCHEDULE, grids.uniform(4)),
    "ddpm": ddpm(SCHEDULE, grids.uniform(4)),
    "2m": dpmpp_2m(SCHEDULE, grids.uniform(4)),
    "sde": dpmpp_sde_2m(SCHEDULE, grids.uniform(4)),
    "heun": heun(SCHEDULE, grids.uniform(3)),
    "travel": time_travel(SCHEDULE, grids.uniform(3), jump=2, repeats=2),
}
CLASSES = {
    "jump": (MaskedProcess(classes=3), PosteriorJump, {}),
    "sharp": (MaskedProcess(classes=3), PosteriorJump, {"joint": Sharpened(temperature=0.7, top_p=0.9)}),
    "counted": (MaskedProcess(classes=3), CountedUnmasking, {}),
    "confident": (MaskedProcess(classes=3), CountedUnmasking, {"order": Confidence(noise=0.5)}),
    "remask": (MaskedProcess(classes=3), Remasking, {}),
    "uniform": (MixingProcess.uniform(classes=3), PosteriorJump, {}),
    "leap": (MixingProcess.marginal(torch.tensor([3, 2, 1])), TauLeap, {}),
}
INDEX = torch.tensor([11, 0, 5, 2**32 - 1, 7, 8])
ATOMS = torch.tensor([3, 1, 4, 0, 2, 5])


class Elementwise(Denoiser):
    """Looks at one sample at a time, in operations that round alike in every batch."""

    def forward(self, x_t: State, t: Tensor, layout: Layout, condition: Any = None) -> State:
        clean: State = {}
        for leaf, x in x_t.items():
            time = layout.rows(leaf).per_row(t)
            if leaf == "class":
                logits = torch.sin(x[..., None] * 1.3 + time[..., None] + torch.arange(3.0))
                clean[leaf] = logits - logits.exp().sum(-1, keepdim=True).log()
                if bool((x == 3).any()):
                    clean[leaf] = torch.where(
                        (x == 3)[..., None], clean[leaf], -30.0 * (x[..., None] != torch.arange(3))
                    )
            else:
                clean[leaf] = torch.sin(x) * (1 - time).to(x.dtype)
        return clean


def run(solver: str, classes: str, chosen: list[int], *, known: bool = False, seed: int = 3) -> list[State]:
    """The samples of INDEX[chosen], each by itself."""
    plan = SOLVERS[solver]
    process, rule, settings = CLASSES[classes]
    counts = ATOMS[chosen]
    dense = Layout.dense(len(chosen), {"value": (5,), "class": (4,), "angle": (3,)})
    ragged = Layout.ragged({"pos": counts}, {"pos": (3,)})
    layout = Layout(batch=len(chosen), leaves={**dense.leaves, **ragged.leaves})
    torus = ManifoldProcess(manifold=Torus(), schedule=VE(sigma_max=6.0), parametrisation=ScaledScore())
    state = sample(
        Elementwise(),
        {
            "value": GaussianProcess(schedule=SCHEDULE, parametrisation=Data()),
            "pos": ZeroMeanGaussianProcess(schedule=SCHEDULE, parametrisation=Data()),
            "angle": torus,
            "class": process,
        },
        {
            "value": plan,
            "pos": plan,
            "angle": GeodesicMultistep(times=plan.times, reach=plan.reach),
            "class": rule.beside(plan, **settings),
        },
        layout,
        Noise(seed=seed, index=INDEX[chosen]),
        known=Known(values={"value": torch.ones(1, 5)}, mask={"value": torch.arange(5) < 2}) if known else None,
    ).state
    parts = {leaf: x.split(counts.tolist() if leaf == "pos" else 1) for leaf, x in state.items()}
    return [{leaf: part[b] for leaf, part in parts.items()} for b in range(len(chosen))]


WHOLE: dict[tuple[str, str, bool], list[State]] = {}


@given(
    solver=st.sampled_from(sorted(SOLVERS)),
    classes=st.sampled_from(sorted(CLASSES)),
    chosen=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    known=st.booleans(),
)
def test_samples_do_not_depend_on_their_batch(solver: str, classes: str, chosen: list[int], known: bool) -> None:
    key = (solver, classes, known)
    if key not in WHOLE:
        WHOLE[key] = run(solver, classes, list(range(6)), known=known)
    for place, alone in zip(chosen, run(solver, classes, chosen, known=known), strict=True):
        for leaf, x in WHOLE[key][place].items():
            assert torch.equal(alone[leaf], x), leaf


@given(cut=st.integers(1, 5), solver=st.sampled_from(sorted(SOLVERS)))
def test_shards_put_together_are_the_run(cut: int, solver: str) -> None:
    shards = run(solver, "jump", list(range(cut))) + run(solver, "jump", list(range(cut, 6)))
    whole = WHOLE.setdefault((solver, "jump", False), run(solver, "jump", list(range(6))))
    for shard, sample_ in zip(shards, whole, strict=True):
        for leaf, x in sample_.items():
            assert torch.equal(shard[leaf], x)


def test_seeds_differ() -> None:
    one, other = run("ddpm", "jump", [0, 1]), run("ddpm", "jump", [0, 1], seed=4)
    assert not torch.equal(one[0]["value"], other[0]["value"])
    assert not torch.equal(one[0]["value"], one[1]["value"])


@given(chosen=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8, unique=True), seed=st.integers(0, 2**64 - 1))
def test_times_and_losses_belong_to_the_sample(chosen: list[int], seed: int) -> None:
    processes = {"value": GaussianProcess(schedule=SCHEDULE, parametrisation=Data())}

    def losses(index: list[int]) -> tuple[Tensor, Tensor]:
        noise, layout = Noise(seed=seed, index=torch.tensor(index)), Layout.dense(len(index), {"value": (6,)})
        data = {"value": torch.ones(len(index), 6)}
        return stratified(noise), loss(Elementwise(), processes, data, layout, noise)

    together = losses(chosen)
    for place, index in enumerate(chosen):
        for one, many in zip(losses([index]), together, strict=True):
            assert torch.equal(one[0], many[place])
