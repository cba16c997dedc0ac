"""Which of several linear facts follow from the others, or contradict them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """Which linear facts are independent, and whether the others follow from them.

    Attributes:
        independent: int64 [R], places.
        contradiction: two places of facts that contradict each other, one twice if it is always 0, or None.
    """

    independent: Tensor
    contradiction: tuple[int, int] | None


def dependent(gram: Tensor, values: Tensor, whole: Tensor | None = None, *, tolerance: float = 1e-12) -> Dependence:
    """From the Gram matrix of facts [M, M], on the host, by a Cholesky factorisation with pivots.

    Args:
        gram: of the facts, as far as they lie in the space of what is free.
        values: [M].
        whole: squares of the facts' whole lengths [M]; None: the diagonal of the Gram matrix.
        tolerance: of a length's square, what counts as none.
    """
    from scipy.linalg.lapack import dpstrf

    size = gram.diagonal()
    scale = torch.where(size > 1e-20 * (size if whole is None else whole), size, torch.inf).sqrt()
    unit = torch.where(scale.isfinite(), scale, 1)
    gram, values = (gram / scale / scale[:, None]).cpu(), (values / unit).cpu()
    factor, pivot, rank, _ = dpstrf(gram.numpy(), tol=tolerance, lower=1)
    order = torch.as_tensor(pivot.astype("int64") - 1)
    first, rest = order[:rank], order[rank:]
    if not len(rest):
        return Dependence(independent=first.sort().values, contradiction=None)
    lower = torch.as_tensor(factor[:rank, :rank]).tril()
    share = torch.cholesky_solve(gram[first][:, rest], lower)
    off = (values[first] @ share - values[rest]).abs()
    rounding = 1e-13 * values.abs().max()  # of the shares
    bad = off > 1e-9 * (values[first].abs() @ share.abs() + values[rest].abs()) + rounding
    pair = None
    if bool(bad.any()):
        m = int(bad.to(torch.uint8).argmax())
        other = first[share[:, m].abs().argmax()] if bool((share[:, m] != 0).any()) else rest[m]
        pair = (int(rest[m]), int(other))
    return Dependence(independent=first.sort().values, contradiction=pair)
