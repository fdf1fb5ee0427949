"""The algebra of the samplers, written as slowly and plainly as possible in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bfgs_inverse_hessian(pairs: list[tuple[Array, Array]], scale: float, size: int) -> Array:
    """Dense BFGS recursion for the inverse Hessian, oldest pair first."""
    b = scale * np.eye(size)
    for s, y in pairs:
        rho = 1.0 / (s @ y)
        left = np.eye(size) - rho * np.outer(s, y)
        b = left @ b @ left.T + rho * np.outer(s, s)
    return b


def leapfrog(
    gradient_of_potential: Callable[[Array], Array],
    b: Array,
    mass: Array,
    x: Array,
    p: Array,
    step_size: float,
    num_steps: int,
) -> tuple[Array, Array]:
    """Leapfrog for x' = B M^-1 p, p' = -B grad V with dense matrices."""
    inverse_mass = np.linalg.inv(mass)
    for _ in range(num_steps):
        p = p - 0.5 * step_size * b @ gradient_of_potential(x)
        x = x + step_size * b @ inverse_mass @ p
        p = p - 0.5 * step_size * b @ gradient_of_potential(x)
    return x, p


def hmc_leapfrog(
    gradient_of_potential: Callable[[Array], Array],
    inverse_mass: Array,
    x: Array,
    q: Array,
    step_size: float,
    num_steps: int,
) -> tuple[Array, Array]:
    """Plain leapfrog for x' = W q, q' = -grad V with a dense inverse mass W."""
    for _ in range(num_steps):
        q = q - 0.5 * step_size * gradient_of_potential(x)
        x = x + step_size * inverse_mass @ q
        q = q - 0.5 * step_size * gradient_of_potential(x)
    return x, q


def fourier_diagonal_matrix(shape: tuple[int, ...], eigenvalue: Callable[..., float]) -> Array:
    """Dense matrix of a Fourier-diagonal operator on the flattened mesh, by explicit sums.

    `eigenvalue` maps signed integer frequencies, one per axis, to the operator's eigenvalue.
    """
    cells = list(np.ndindex(*shape))
    matrix = np.zeros((len(cells), len(cells)), complex)
    for k in np.ndindex(*shape):
        signed = [f if f <= n // 2 else f - n for f, n in zip(k, shape, strict=True)]
        phase = np.array(
            [sum(f * c / n for f, c, n in zip(k, cell, shape, strict=True)) for cell in cells]
        )
        mode = np.exp(2j * np.pi * phase) / np.sqrt(len(cells))
        matrix += eigenvalue(*signed) * np.outer(mode, mode.conj())
    if np.abs(matrix.imag).max() > 1e-10:
        raise ValueError("The operator does not map real fields to real fields.")
    return np.asarray(matrix.real)


def shells(shape: tuple[int, ...], num_shells: int) -> NDArray[np.int64]:
    """Shell of every mode of a real transform, by distance from zero frequency."""
    half = (*shape[:-1], shape[-1] // 2 + 1)
    index = np.zeros(half, np.int64)
    for k in np.ndindex(*half):
        signed = [f if f <= n // 2 else f - n for f, n in zip(k, shape, strict=True)]
        index[k] = shell(num_shells, *signed)
    return index


def shell(num_shells: int, *frequencies: int) -> int:
    """Shell of one mode."""
    return min(int(np.sqrt(sum(f * f for f in frequencies))), num_shells - 1)


def positive_definite(
    rng: np.random.Generator, size: int, smallest: float, largest: float
) -> Array:
    """A random symmetric matrix with eigenvalues spread evenly in their logarithm."""
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    values = np.geomspace(smallest, largest, size)
    return np.asarray((vectors * values) @ vectors.T)
