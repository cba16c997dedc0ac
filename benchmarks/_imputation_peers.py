"""PyPOTS' BRITS, SAITS and CSDI, trained from scratch within a budget.

    pip install pypots        (1.5: with PyTorch there already, it leaves that as it is)

PyPOTS trains by epochs; here an epoch is a random part of the stays, and epochs follow one another while time is left.
Its optimiser keeps its state between them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from _imputation_data import Floats, Mask, Stays

SIZES: dict[str, dict[str, Any]] = {
    "BRITS": {"rnn_hidden_size": 128},
    "SAITS": {"n_layers": 2, "d_model": 256, "n_heads": 4, "d_k": 64, "d_v": 64, "d_ffn": 128, "dropout": 0.1},
    # the sizes of the paper; PyPOTS has no defaults for them, and its defaults for all else (50 steps)
    "CSDI": {
        "n_layers": 4,
        "n_heads": 8,
        "n_channels": 64,
        "d_time_embedding": 128,
        "d_feature_embedding": 16,
        "d_diffusion_embedding": 128,
    },
}


def missing() -> list[str]:
    """What has to be installed for these contestants."""
    return [] if find_spec("pypots") else ["pypots: BRITS, SAITS and CSDI are left out (pip install pypots)"]


class PyPOTS:
    """One of PyPOTS' networks; `part` is the number of stays in an epoch."""

    def __init__(self, kind: str, *, hours: int, variables: int, part: int, batch: int = 32) -> None:
        import torch

        self.name, self.kind, self.part = f"PyPOTS {kind}", kind, part
        self.epochs = 0.0
        with _quiet():
            import pypots.imputation

            torch.manual_seed(0)
            self.network = getattr(pypots.imputation, kind)(
                n_steps=hours,
                n_features=variables,
                **SIZES[kind],
                batch_size=batch,
                epochs=1,
                device="cpu",
                verbose=False,
                model_saving_strategy=None,
            )

    def fit(self, train: Stays, seconds: float) -> None:
        """Random parts of the stays while time is left; at least one."""
        source, began = np.random.default_rng(0), time.monotonic()
        part = min(self.part, len(train))
        longest = 0.0
        while not self.epochs or time.monotonic() - began + longest < seconds:
            took = time.monotonic()
            chosen = source.choice(len(train), part, replace=False)
            with _quiet():
                self.network.fit({"X": train.values[chosen].astype(np.float32)})
            longest = max(longest, time.monotonic() - took)
            self.epochs += part / len(train)

    def impute(self, stays: Stays, asked: Mask, draws: int) -> Floats:
        table = {"X": stays.values.astype(np.float32)}
        with _quiet():
            if self.kind != "CSDI":
                found = np.asarray(self.network.predict(table)["imputation"], dtype=np.float64)
                return found.reshape(asked.shape)[asked][None]
            drawn = np.asarray(self.network.predict(table, n_sampling_times=draws)["imputation"])
        return drawn.swapaxes(0, 1)[:, asked].astype(np.float64)


@contextlib.contextmanager
def _quiet() -> Any:
    """Without its banner, its log and its warnings."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)
