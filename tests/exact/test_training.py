"""The training loop against a slow obvious twin, closed forms, and everything a run can be hit by."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from training_runs import F64, Line, config, numbers, run, squares, weights

from scidiff.denoiser import NetworkDenoiser
from scidiff.errors import UserError
from scidiff.networks.transformer import SequenceTransformer
from scidiff.noise import Noise
from scidiff.processes.categorical import MaskedProcess
from scidiff.state import Layout
from scidiff.training import SequenceBatches, TrainingConfig, train
from scidiff.training import checkpoint as checkpoints
from scidiff.training.optimisers import Optimisers, extendable, learning_rate_factor

# --- the loop


def test_the_loop_is_adamw_with_clipping_warm_up_cosine_and_an_average(tmp_path):
    settings = config(weight_decay=0.1, clip=0.5, ema_decay=0.9, seed=7)
    source = numbers(size=12)  # batches of 12, 12, 12 and 4: each sample counts the same
    twin = Line()
    mean = [p.detach().clone() for p in twin.parameters()]
    first = [torch.zeros_like(p) for p in twin.parameters()]
    second = [torch.zeros_like(p) for p in twin.parameters()]
    for n in range(30):
        batch = source.at(n)
        total = squares(twin, {}, batch.x_0, batch.layout, Noise(seed=7, index=batch.index)).sum() / 10
        grads = torch.autograd.grad(total, list(twin.parameters()))
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
        rate = 0.05 * min(1, (n + 1) / 5) * (1 + math.cos(math.pi * n / 30)) / 2
        d = min(0.9, (1 + n) / (10 + n)) if n else 0
        for k, (p, g, decay) in enumerate(zip(twin.parameters(), grads, (0.1, 0.0), strict=True)):
            clipped = g * min(1.0, 0.5 / (norm + 1e-6))
            first[k] = 0.9 * first[k] + 0.1 * clipped
            second[k] = 0.99 * second[k] + 0.01 * clipped**2
            m, v = first[k] / (1 - 0.9 ** (n + 1)), second[k] / (1 - 0.99 ** (n + 1))
            p.data = p.data * (1 - rate * decay) - rate * m / (v.sqrt() + 1e-8)
            mean[k] = d * mean[k] + (1 - d) * p.data
    result = run(tmp_path, settings, batches=source)
    torch.testing.assert_close(weights(result), torch.cat([x.flatten() for x in mean]), rtol=1e-11, atol=1e-12)


def test_the_run_finds_the_least_squares_line(tmp_path):
    def plain(denoiser, processes, x_0, layout, noise, *, condition=None):
        t = torch.zeros(layout.batch, dtype=F64)
        return ((denoiser(x_0, t, layout)["x"] - 3 * x_0["x"] + 1) ** 2).sum(-1)

    result = run(tmp_path, config(max_steps=600, learning_rate=0.2, ema_decay=0.5), objective=plain)
    torch.testing.assert_close(weights(result), torch.tensor([3.0, -1.0], dtype=F64), atol=1e-6, rtol=0)


def test_accumulation_is_a_larger_batch(tmp_path):
    large = run(tmp_path / "a", config(max_steps=10), batches=numbers(48, size=12))
    small = run(tmp_path / "b", config(max_steps=10, accumulation=3), batches=numbers(48, size=4))
    torch.testing.assert_close(weights(large), weights(small), rtol=1e-11, atol=1e-12)
    assert small.samples == large.samples == 120
    assert small.loss == pytest.approx(large.loss, rel=1e-12)


def test_loss_is_the_mean_over_the_samples(tmp_path):
    result = run(tmp_path, config(max_steps=5, learning_rate=1e-12, clip=1e9), batches=numbers(40, size=8))
    batch = numbers(40, size=40).at(0)
    order = numbers(40, size=40).at(0).index
    expected = squares(Line(), {}, batch.x_0, batch.layout, Noise(seed=0, index=order)).mean()
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-9)


# --- learning rate and optimisers


def test_learning_rates():
    cosine = config(max_steps=100, warmup_steps=10, final_factor=0.1)
    assert learning_rate_factor(cosine, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate_factor(cosine, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate_factor(cosine, 99, 1.0) == pytest.approx(0.1)
    stable = config(max_steps=100, warmup_steps=10, schedule="stable", decay_fraction=0.2)
    assert [learning_rate_factor(stable, n, n / 100) for n in (4, 10, 79)] == pytest.approx([0.5, 1, 1])
    assert learning_rate_factor(stable, 85, 0.85) == pytest.approx(0.5)  # a quarter into the decay: 1 - sqrt(1/4)
    assert learning_rate_factor(stable, 100, 1.0) == pytest.approx(0)
    assert extendable(stable, 0.8)
    assert not extendable(stable, 0.81)
    assert not extendable(cosine, 0.0)
    timed = TrainingConfig(max_minutes=2.0)
    assert timed.progress(10**6, 30.0) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "bad", [{}, {"max_steps": 1, "max_minutes": 1.0}, {"max_steps": 1, "learning_rate": -1}, {"max_steps": 1, "lr": 1}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        TrainingConfig(**bad)


class Net(nn.Module):
    """A small network with an embedding, two hidden matrices and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 16), nn.Linear(16, 6)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x_t, t, layout, condition=None):
        h = self.embed(x_t["tokens"]) + t.to(self.embed.weight.dtype)[:, None, None]
        return {"tokens": self.head(h + self.down(torch.relu(self.up(h + h.mean(1, keepdim=True)))))}


def masked(denoiser, processes, x_0, layout, noise, *, condition=None):
    rows = layout.rows("tokens")
    draw = noise.at("tokens", 0, rows)
    t = draw.uniform(shape=(), kind="time").float()
    hidden = draw.uniform() < t[:, None]
    logits = denoiser({"tokens": torch.where(hidden, 6, x_0["tokens"])}, t, layout, condition)["tokens"]
    nats = -logits.float().log_softmax(-1).gather(-1, x_0["tokens"][..., None])[..., 0]
    return rows.sum(torch.where(hidden, nats, 0))


def words() -> SequenceBatches:
    return SequenceBatches([[k % 6, (k + 1) % 6] * (1 + k % 3) for k in range(60)], leaf="tokens", tokens=40)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_muon_turns_hidden_matrices_orthogonally_and_leaves_the_rest_to_adamw():
    module = net().double()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    settings = config(optimiser="muon", learning_rate=0.01, muon_learning_rate=0.02)
    optimisers = Optimisers(module, settings)
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=F64)
    grads = {name: p.grad.clone() for name, p in module.named_parameters()}
    optimisers.step(0.5)
    for name, p in module.named_parameters():
        moved = (start[name] - p.detach()) / 0.5
        if name in ("up.weight", "down.weight"):
            # Liu et al. 2025, eq. 4: 0.2 sqrt(max(out, in)) times a matrix whose singular values are about 1
            values = torch.linalg.svdvals(moved / (0.02 * 0.2 * math.sqrt(48)))
            assert values.min() > 0.6
            assert values.max() < 1.3
            overlap = (moved * grads[name]).sum() / (moved.norm() * grads[name].norm())
            assert overlap > 0.85
        else:
            torch.testing.assert_close(moved, 0.01 * grads[name].sign(), rtol=1e-4, atol=0)
        assert p.grad is None


def test_bfloat16_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path):
    seen = []

    def watched(denoiser, processes, x_0, layout, noise, *, condition=None):
        out = masked(denoiser, processes, x_0, layout, noise)
        seen.append(torch.is_autocast_enabled("cpu"))
        return out

    low = run(tmp_path / "a", config(precision="bfloat16"), batches=words(), objective=watched, denoiser=net())
    high = run(tmp_path / "b", config(), batches=words(), objective=masked, denoiser=net())
    assert all(seen)
    assert all(p.dtype == torch.float32 for p in low.denoiser.parameters())
    assert low.loss == pytest.approx(high.loss, rel=0.05)
    assert not torch.equal(weights(low), weights(high))


@pytest.mark.slow
def test_one_compiled_graph_serves_all_lengths(tmp_path):
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    settings = config(compile=True)
    compiled = run(tmp_path / "a", settings, batches=words(), objective=masked, denoiser=net())
    assert counters["stats"]["unique_graphs"] <= 2  # training; one more would be the averaged model's
    plain = run(tmp_path / "b", config(), batches=words(), objective=masked, denoiser=net())
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)


# --- resuming


def same_file(a, b) -> bool:
    return (a.weights / "weights.safetensors").read_bytes() == (b.weights / "weights.safetensors").read_bytes()


class StopAt:
    """Raises KeyboardInterrupt the n-th time it measures."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, denoiser) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return {}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, optimiser):
    settings = config(optimiser=optimiser, max_steps=20, checkpoint_minutes=0, validate_every=1)
    make = {"batches": words(), "objective": masked}
    whole = run(tmp_path / "whole", settings, denoiser=net(), **make)
    for stop in (3, 6, 8):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", settings, denoiser=net(), resume=True, validate=StopAt(stop), **make)
    last = checkpoints.read_state(checkpoints.folders(tmp_path / "cut" / "checkpoints")[-1])
    assert last.step == 17
    # other initial weights: everything comes from the checkpoint
    cut = run(tmp_path / "cut", settings, denoiser=Net(), resume=True, **make)
    assert same_file(whole, cut)
    assert cut.samples == whole.samples
    lines = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_finished_stable_run_is_extended_as_if_it_had_been_longer(tmp_path):
    settings = {"schedule": "stable", "decay_fraction": 0.25}
    run(tmp_path / "a", config(max_steps=20, **settings))
    # step 15, the last at the full rate, is at three quarters
    assert [f.name[-2:] for f in checkpoints.folders(tmp_path / "a" / "checkpoints")] == ["16", "20"]
    longer = run(tmp_path / "a", config(max_steps=40, **settings), resume=True)
    assert same_file(longer, run(tmp_path / "b", config(max_steps=40, **settings)))


def test_what_may_not_change_in_a_resumed_run(tmp_path):
    run(tmp_path, config())
    with pytest.raises(UserError, match="expected an empty folder for a new run"):
        run(tmp_path, config())
    with pytest.raises(UserError, match=r"expected learning_rate = 0.05 as in the run that is resumed, got 0.1"):
        run(tmp_path, config(learning_rate=0.1), resume=True)
    with pytest.raises(UserError, match="expected the data of the run that is resumed"):
        run(tmp_path, config(), batches=numbers(seed=1), resume=True)
    with pytest.raises(UserError, match="has begun to decay"):
        run(tmp_path, config(max_steps=60), resume=True)


def test_a_damaged_checkpoint_is_skipped_and_said(tmp_path, capsys):
    settings = config(checkpoint_minutes=0, log_seconds=0)
    whole = run(tmp_path, settings)
    before = (whole.weights / "weights.safetensors").read_bytes()
    newest = checkpoints.folders(tmp_path / "checkpoints")[-1]
    path = newest / "optimiser.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    again = run(tmp_path, settings, resume=True)
    assert "skipped a damaged checkpoint" in capsys.readouterr().err
    assert (again.weights / "weights.safetensors").read_bytes() == before
    assert checkpoints.load(newest).state.step == 30  # written anew
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 31))  # the line of the lost step is not there twice


def test_a_loss_that_is_not_finite_ends_the_run_and_no_checkpoint_holds_it(tmp_path):
    def burst(denoiser, processes, x_0, layout, noise, *, condition=None):
        value = squares(denoiser, processes, x_0, layout, noise)
        return value * float("nan") if noise.index.min() >= 40 else value

    with pytest.raises(FloatingPointError, match="expected a finite loss, got nan before step 6"):
        run(tmp_path, config(checkpoint_minutes=0), objective=burst)
    saved = checkpoints.latest(tmp_path / "checkpoints")
    assert saved.state.step == 5
    assert all(torch.isfinite(x).all() for x in saved.model.values())


def test_dropout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a denoiser without dropout"):
        run(tmp_path, config(), denoiser=nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1)))


def test_nothing_is_pickled_and_the_folder_describes_itself(tmp_path):
    result = run(tmp_path, config(seed=11), description={"kind": "line"}, validate=lambda _: {"score": 2.0})
    kinds = {p.suffix for p in tmp_path.rglob("*") if p.is_file() and "tensorboard" not in p.parts}
    assert kinds == {".safetensors", ".json", ".jsonl"}
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["training"] == config(seed=11).model_dump(mode="json")
    assert record["seed"] == 11
    assert record["config"]["data"] == numbers().fingerprint
    assert record["results"]["score"] == 2.0
    assert record["results"]["steps"] == 30
    assert {"started", "finished", "hardware", "versions"} <= set(record)
    assert record["versions"]["torch"] == torch.__version__
    assert result.validation == {"score": 2.0}


def test_state_of_a_run_survives_its_record(tmp_path):
    state = checkpoints.RunState(step=3, position=9, samples=72, seconds=0.1 + 0.2, config={"a": 1}, fingerprint="f")
    tensors = {"w": torch.arange(3.0), "step": torch.tensor(3.0)}
    for step in (3, 4, 5, 6):
        saved = checkpoints.Checkpoint(
            state=replace(state, step=step, stable=step < 5), model=tensors, ema=tensors, optimiser=tensors
        )
        checkpoints.save(tmp_path, saved)
    assert [checkpoints.read_state(f).step for f in checkpoints.folders(tmp_path)] == [4, 5, 6]
    assert checkpoints.latest(tmp_path, stable=True).state == replace(state, step=4)
    assert torch.equal(checkpoints.latest(tmp_path).optimiser["w"], tensors["w"])


def test_a_stable_run_is_annealed_from_where_it_stands(tmp_path):
    """Asked for a long run, stopped, then resumed with an end and a decay that begins at once."""
    long = config(max_steps=1000, schedule="stable", checkpoint_minutes=0, validate_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", long, validate=StopAt(21))
    end = config(max_steps=40, schedule="stable", decay_fraction=0.5)
    annealed = run(tmp_path / "a", end, resume=True)
    assert annealed.steps == 40
    assert same_file(annealed, run(tmp_path / "b", end))


def test_masked_diffusion_learns_the_conditionals_of_its_data(tmp_path):
    """Two tokens that are always equal, of three classes with known frequencies."""
    counts = (8, 5, 3)
    sequences = [[k, k] for k, count in enumerate(counts) for _ in range(count)]
    processes = {"tokens": MaskedProcess(classes=3)}
    torch.manual_seed(0)
    network = SequenceTransformer(leaf="tokens", classes=3, width=32, depth=1, heads=2, longest=2)
    settings = config(max_steps=120, optimiser="muon", learning_rate=0.02, muon_learning_rate=0.02, ema_decay=0.9)
    source = SequenceBatches(sequences * 8, leaf="tokens", tokens=256)
    result = train(NetworkDenoiser(network, processes), processes, source, settings, out=tmp_path)
    x_t = {"tokens": torch.tensor([[3, 3], [0, 3], [3, 1], [2, 3]])}
    with torch.no_grad():
        t = torch.tensor([0.99, 0.5, 0.5, 0.5])
        clean = result.denoiser(x_t, t, Layout.dense(4, {"tokens": (2,)}))["tokens"].exp()
    torch.testing.assert_close(clean[0], torch.tensor([counts, counts]) / 16, atol=0.05, rtol=0)
    same = torch.stack([clean[1, 1, 0], clean[2, 0, 1], clean[3, 1, 2]])
    torch.testing.assert_close(same, torch.ones(3), atol=0.02, rtol=0)
