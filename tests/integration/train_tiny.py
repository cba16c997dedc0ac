"""A small training: `python train_tiny.py OUT STEPS [--resume] [--float64] [--fsdp]`, also under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from scidiff.errors import INTERRUPTED
from scidiff.training import SequenceBatches, TrainingConfig, train


class Net(nn.Module):
    """Embedding, mixing over the sequence, two hidden matrices, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 16), nn.Linear(16, 6)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x_t, t, layout, condition=None):
        h = self.embed(x_t["tokens"]) + t[:, None, None]
        return {"tokens": self.head(h + self.down(torch.relu(self.up(h + h.mean(1, keepdim=True)))))}


def masked(denoiser, processes, x_0, layout, noise, *, condition=None):
    """Cross-entropy of the masked positions, in nats a sample."""
    rows = layout.rows("tokens")
    draw = noise.at("tokens", 0, rows)
    t = draw.uniform(shape=(), kind="time").to(next(denoiser.parameters()).dtype)
    hidden = draw.uniform() < t[:, None]
    logits = denoiser({"tokens": torch.where(hidden, 6, x_0["tokens"])}, t, layout, condition)["tokens"]
    nats = -logits.log_softmax(-1).gather(-1, x_0["tokens"][..., None])[..., 0]
    return rows.sum(torch.where(hidden, nats, 0))


def main(out: str, steps: str, *options: str) -> None:
    """Train for some steps, with a checkpoint after each."""
    torch.set_num_threads(1)
    resume, float64 = "--resume" in options, "--float64" in options
    torch.manual_seed(resume)  # a resumed run starts from other weights: all must come from the checkpoint
    sequences = [[k % 6, (k + 1) % 6] * (1 + k % 3) for k in range(60)]
    settings = TrainingConfig(
        max_steps=int(steps),
        optimiser="adamw" if float64 else "muon",
        learning_rate=0.02,
        muon_learning_rate=0.02,
        schedule="stable",
        warmup_steps=5,
        accumulation=2,
        clip=10.0,
        ema_decay=0.9,
        checkpoint_minutes=0,
        log_seconds=0,
        validate_every=7,
        strategy="fsdp" if "--fsdp" in options else "ddp",
    )
    result = train(
        Net().double() if float64 else Net(),
        {},
        SequenceBatches(sequences, leaf="tokens", tokens=40),
        settings,
        out=Path(out),
        resume=resume,
        objective=masked,
        validate=lambda denoiser: {"norm": float(sum(p.square().sum() for p in denoiser.parameters()))},
    )
    print(f"{result.steps} {result.samples} {result.loss!r}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
