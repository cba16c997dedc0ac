r"""Coordinates in which a molecule is noise of unit variance: those of a network of springs along its bonds.

With one spring of stiffness k = 3 / length^2 along each bond, positions x [n, 3] at "temperature" one are Gaussian of
zero mean and covariance C = L^+ over the atoms, L the weighted Laplacian of the graph: bonded atoms are then as far
apart, in the mean square, as they are in molecules. The diffusion runs in

    y = C^(-1/2) x,    x = C^(1/2) y,    |y|^2 = sum over bonds of k |x_i - x_j|^2

so that noise is a chain of the right size, and the squared error of y is that of the bonds (harmonic priors: Jing et
al., EigenFold, 2023; Hassan et al., ET-Flow, 2024). Turning and shifting a molecule does in y what it does in x.
"""

from __future__ import annotations

import numpy as np

HEAVY, HYDROGEN = 1.45, 1.09  # angstrom: bonds between heavy atoms, and to hydrogen


def harmonic(bonds: np.ndarray, hydrogen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """C^(1/2) and C^(-1/2), which are 0 on shifts of the whole.

    Args:
        bonds: bool [..., n, n], of connected molecules.
        hydrogen: bool [..., n].

    Returns:
        Two float64 [..., n, n].
    """
    light = hydrogen[..., :, None] | hydrogen[..., None, :]
    stiffness = np.where(bonds, np.where(light, 3 / HYDROGEN**2, 3 / HEAVY**2), 0.0)
    laplacian = np.eye(bonds.shape[-1]) * stiffness.sum(-1)[..., None] - stiffness
    values, vectors = np.linalg.eigh(laplacian)
    moving = values > 1e-6 * values[..., -1:]
    stiff = np.sqrt(np.where(moving, values, 1.0))
    turned = np.swapaxes(vectors, -1, -2)
    root = (vectors * np.where(moving, 1 / stiff, 0)[..., None, :]) @ turned
    inverse = (vectors * np.where(moving, stiff, 0)[..., None, :]) @ turned
    return root, inverse
