"""Combinations of shells that a smooth field cannot tell from a kernel of the continuum.

The cells of one shell point in a few directions, and those of a cube know its axes: on the faces
of a 3^3 kernel three of the five harmonics of l = 2 vanish, at its corners the other two. So a
shell by itself weighs the five components of a tidal field differently, and a kernel of l = 3
even answers to a gradient. Combinations of shells can be free of both: a smooth field around a
cell is a polynomial, and what a kernel of order l, m gives on polynomials up to degree l is linear
in the weights of its shells, so asking for the answer of the continuum leaves a linear subspace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layers.harmonics import real_harmonics

__all__ = ["isotropic_combinations"]

Floats = NDArray[np.float64]

_ZERO = 1e-10


def isotropic_combinations(kernels: Floats, offsets: NDArray[Any], multipole: int) -> Floats:
    """Combinations of shells that are isotropic to leading order in the size of a cell.

    Args:
        kernels: of order l on each shell, `[num_shells, M, *kernel_size]`.
        offsets: integer vectors proportional to the offsets of the cells, `[d, *kernel_size]`.
        multipole: order l.

    Returns:
        Unit vectors `[combinations, num_shells]`: applied to any polynomial of degree up to l, the
        kernel of order l, m gives a multiple, the same for all m, of the polynomial's part r^l
        times the harmonic of order l, m. In each vector one shell, its last, is in no other
        vector's.
    """
    conditions = _anisotropies(kernels, offsets.astype(np.float64), offsets, multipole)
    return _null_space(conditions)


def _anisotropies(
    kernels: Floats, positions: Floats, offsets: NDArray[Any], multipole: int
) -> Floats:
    """What must vanish, `[conditions, num_shells]`."""
    flat = kernels.reshape(*kernels.shape[:2], -1)
    radius = np.sqrt(np.square(positions).sum(axis=0)).ravel()
    radius = radius / max(radius.max(), 1.0)
    rows = []
    # polynomials of the other parity give nothing by symmetry
    for order in range(multipole % 2, multipole + 1, 2):
        harmonics = real_harmonics(offsets, order).reshape(-1, radius.size)
        for power in range(order, multipole + 1, 2):
            answers = np.einsum("smc,nc->smn", flat, harmonics * radius**power)
            if order == multipole:
                gain = np.trace(answers, axis1=1, axis2=2) / answers.shape[1]
                answers = answers - gain[:, np.newaxis, np.newaxis] * np.eye(answers.shape[1])
            rows.append(answers.reshape(len(flat), -1).T)
    return np.concatenate(rows)


def _null_space(conditions: Floats) -> Floats:
    """Unit vectors `[n, columns]` that conditions `[rows, columns]` send to zero.

    By elimination and not by singular values, whose vectors are a matter of the linear-algebra
    library: saved weights must mean the same everywhere.
    """
    matrix = np.array(conditions)
    columns = matrix.shape[1]
    floor = _ZERO * max(float(np.abs(matrix).max()), 1.0)
    pivots: list[int] = []
    for column in range(columns):
        first = len(pivots)
        if first == len(matrix):
            break
        row = first + int(np.argmax(np.abs(matrix[first:, column])))
        if abs(matrix[row, column]) < floor:
            continue
        matrix[[first, row]] = matrix[[row, first]]
        matrix[first] /= matrix[first, column]
        others = np.arange(len(matrix)) != first
        matrix[others] -= np.outer(matrix[others, column], matrix[first])
        pivots.append(column)
    free = [column for column in range(columns) if column not in pivots]
    vectors = np.zeros((len(free), columns))
    for vector, column in zip(vectors, free, strict=True):
        vector[column] = 1.0
        vector[pivots] = -matrix[: len(pivots), column]
        vector /= np.linalg.norm(vector)
    return vectors
