"""A model of other variables that begins with what a trained one knows: weights are copied by the names they are of."""

from __future__ import annotations

import torch
from torch import Tensor

from scidiff.noise import Noise
from scidiff.timeseries.aliases import match
from scidiff.timeseries.batches import Standardised, series
from scidiff.timeseries.masks import hide
from scidiff.timeseries.model import ImputerConfig, ImputerModel, crps_normal

SIZES = ("network", "width", "depth", "heads", "row_width", "row_depth")
_TRIED = 8  # windows


def warm_start(trained: ImputerModel, config: ImputerConfig) -> ImputerModel:
    """A model of `config` with the weights of a trained one of the same sizes.

    What belongs to a variable (its embedding, its columns of the rows' projection) or to a covariate is copied where
    names match; a new variable begins as the mean of the known ones and unheard by its row, a new covariate at 0.

    Args:
        trained: of the network "panel".
        config: names, scales, and the sizes of `trained`.

    Raises:
        ValueError: other sizes or another network.
    """
    differ = [name for name in SIZES if getattr(config, name) != getattr(trained.config, name)]
    if differ or config.network != "panel":
        raise ValueError(f"expected the network panel of the sizes of the trained one, got other {differ or 'network'}")
    model = ImputerModel.create(config)
    state = {name: value.detach().clone() for name, value in trained.denoiser.state_dict().items()}
    own = _places(config.variables, trained.config.variables)
    covariates = _places(config.static, trained.config.static)
    for name, value in state.items():
        if name.endswith("encoder.variable.weight"):
            state[name] = _copied(value, own, new=value.mean(0))
        elif name.endswith("encoder.row.weight"):  # what a row has, then how fresh that is
            state[name] = torch.cat([_columns(part, own) for part in value.chunk(2, dim=1)], dim=1)
        elif name.endswith("encoder.static.weight"):
            pairs = value.unflatten(1, (-1, 2)).permute(1, 0, 2)
            state[name] = _copied(pairs, covariates, new=torch.zeros(value.shape[0], 2)).permute(1, 0, 2).flatten(1)
    model.denoiser.load_state_dict(state)
    return model


@torch.no_grad()
def adopt(model: ImputerModel, trained: ImputerModel, data: Standardised, *, seed: int = 0) -> dict[str, str]:
    """Give each new variable the embedding of the known one that foretells it best; returns which.

    A half of what was observed of the new variables is hidden; the first guesses are judged by their CRPS.

    Args:
        model: from `warm_start`; its embedding is changed.
        trained: that it was made from.
        data: windows to learn from.
        seed: of the hidden half.
    """
    own = _places(model.config.variables, trained.config.variables)
    new = [v for v, place in enumerate(own) if place is None]
    fullest = data.observed[:, :, new].flatten(1).sum(1).topk(min(_TRIED, len(data))).indices
    some = data[fullest]
    hidden = hide(some.observed, some.observed, Noise(seed=seed, index=fullest), mixture={"random": 1.0})
    hidden[:, :, [v for v, place in enumerate(own) if place is not None]] = False
    if not new or not hidden.any():
        return {}
    embedding = next(p for name, p in model.denoiser.named_parameters() if name.endswith("encoder.variable.weight"))
    known = next(p for name, p in trained.denoiser.named_parameters() if name.endswith("encoder.variable.weight"))
    asked = series(some, visible=some.observed & ~hidden, asked=hidden)
    scores = []
    for candidate in known:
        embedding[new] = candidate
        context = model.denoiser.network.encode(asked)  # type: ignore[operator]
        error = crps_normal(some.values, context.location, context.scale)[:, :, new]
        scores.append(torch.where(hidden[:, :, new], error, 0).sum((0, 1)))
    best = torch.stack(scores).argmin(0)
    embedding[new] = known[best]
    names = trained.config.variables
    return {model.config.variables[v]: names[u] for v, u in zip(new, best.tolist(), strict=True)}


def _places(names: tuple[str, ...], known: tuple[str, ...]) -> list[int | None]:
    """Where each name stands among those known."""
    found = match(names, known)
    return [known.index(found[name]) if name in found else None for name in names]


def _copied(rows: Tensor, places: list[int | None], *, new: Tensor) -> Tensor:
    """Rows [U, ...] by their places: [V, ...]."""
    if not places:
        return rows[:0]
    return torch.stack([new if place is None else rows[place] for place in places])


def _columns(matrix: Tensor, places: list[int | None]) -> Tensor:
    return _copied(matrix.T, places, new=torch.zeros(len(matrix))).T
