"""Frechet ChemNet distance (Preuer et al., "Frechet ChemNet distance", J. Chem. Inf. Model. 2018).

The activations of a network trained on bioactivities are summarised by their mean and covariance; the distance of two
sets is that of the Gaussians with these moments. ChemNet comes with the optional package `fcd_torch`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scidiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean [512] and covariance [512, 512] (unbiased) of ChemNet's activations, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def available() -> bool:
    """Whether `fcd_torch` is installed."""
    return importlib.util.find_spec("fcd_torch") is not None


def moments(smiles: Sequence[str], *, device: str = "cpu") -> Moments:
    """Moments of the activations of at least two molecules, given as SMILES.

    Raises:
        UserError: `fcd_torch` is not installed, or there are fewer than two molecules.
    """
    if not available():
        raise UserError("FCD needs ChemNet: expected the package fcd_torch, found none; pip install 'scidiff[bench]'")
    if len(smiles) < 2:
        raise UserError(f"FCD: expected at least 2 molecules, got {len(smiles)}")
    from fcd_torch import FCD

    activations = np.asarray(FCD(device=device, n_jobs=1).get_predictions(list(smiles)), dtype=np.float64)
    return Moments(mean=activations.mean(0), covariance=np.cov(activations.T))


def frechet_distance(a: Moments, b: Moments) -> float:
    """d^2 = |m_a - m_b|^2 + Tr( C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2 )  (Dowson & Landau 1982).

    The symmetric form of the product's root: its eigenvalues are real and not negative up to rounding, whatever the
    rank of the covariances.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b.covariance @ root), 0.0, None)).sum()
    shift = a.mean - b.mean
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2.0 * cross)
