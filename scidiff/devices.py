"""Where torch computes."""

from __future__ import annotations

from scidiff.errors import UserError


def check_device(name: str) -> None:
    """UserError if torch cannot compute there."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch raises either, in several sentences
        raise UserError(f"--device: expected cpu or an accelerator that torch finds here, got {name!r}") from error
