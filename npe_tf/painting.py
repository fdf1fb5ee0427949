"""Mass assignment: cloud-in-cell with a hand-written adjoint.

Cloud-in-cell (Hockney & Eastwood 1981, chapter 5) shares the mass of a particle among the eight
vertices around it with trilinear weights. Positions are in units of the cell and come one axis
after another, `[3, P]`: every step below works on one axis at a time, and a transposition of the
particles would cost as much as the painting.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

__all__ = ["cloud_in_cell", "coarsen"]

Tensor = Any

_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def _split(positions: Tensor, num_cells: int) -> tuple[Tensor, dict[tuple[int, int, int], Tensor]]:
    """Offsets inside the cell `[3, P]` and the flat index of each of its eight corners `[P]`."""
    floor = tf.floor(positions)
    low = tf.math.floormod(tf.cast(floor, tf.int32), num_cells)
    high = low + 1
    high = tf.where(high == num_cells, 0, high)
    rows = [tf.unstack(low), tf.unstack(high)]
    x = [rows[a][0] * num_cells**2 for a in (0, 1)]
    y = [rows[b][1] * num_cells for b in (0, 1)]
    z = [rows[c][2] for c in (0, 1)]
    index = {(a, b, c): x[a] + y[b] + z[c] for a, b, c in _CORNERS}
    return positions - floor, index


def _assign(positions: Tensor, num_cells: int) -> Tensor:
    offset, index = _split(positions, num_cells)
    x, y, z = ((1.0 - d, d) for d in tf.unstack(offset))
    mesh = tf.add_n(
        [
            tf.math.unsorted_segment_sum(x[a] * y[b] * z[c], index[a, b, c], num_cells**3)
            for a, b, c in _CORNERS
        ]
    )
    return tf.reshape(mesh, (num_cells,) * 3)


def _gradient_at(mesh: Tensor, positions: Tensor, num_cells: int) -> Tensor:
    """Derivative of the trilinear interpolation of `mesh` at the particles, `[3, P]`.

    This is the adjoint of `_assign`. It is made of differentiable operations, so that the tape
    can go through it again; the derivative is zero across cell boundaries, where cloud-in-cell
    has kinks.
    """
    offset, index = _split(positions, num_cells)
    flat = tf.reshape(mesh, [-1])
    v = {corner: tf.gather(flat, i) for corner, i in index.items()}
    dx, dy, dz = tf.unstack(offset)
    slope_z = {(a, b): v[a, b, 1] - v[a, b, 0] for a in (0, 1) for b in (0, 1)}
    at_z = {ab: v[(*ab, 0)] + slope * dz for ab, slope in slope_z.items()}
    slope_y = {a: at_z[a, 1] - at_z[a, 0] for a in (0, 1)}
    at_y = {a: at_z[a, 0] + slope_y[a] * dy for a in (0, 1)}
    slope_z_at_y = {a: slope_z[a, 0] + (slope_z[a, 1] - slope_z[a, 0]) * dy for a in (0, 1)}
    return tf.stack(
        [
            at_y[1] - at_y[0],
            slope_y[0] + (slope_y[1] - slope_y[0]) * dx,
            slope_z_at_y[0] + (slope_z_at_y[1] - slope_z_at_y[0]) * dx,
        ]
    )


def cloud_in_cell(positions: Tensor, num_cells: int) -> Tensor:
    """Paint particles of unit mass on a periodic mesh.

    Args:
        positions: `[3, P]` in units of the cell; any real number, wrapped periodically. A particle
            at an integer position gives all its mass to that vertex.
        num_cells: vertices along each side, N.

    Returns:
        Mass at each vertex, `[N, N, N]`, of the dtype of `positions`; it sums to P.

    Raises:
        ValueError: if `positions` is not of shape `[3, P]`.
    """
    positions = tf.convert_to_tensor(positions)
    if len(positions.shape) != 2 or positions.shape[0] != 3:
        raise ValueError(
            "Invalid value for argument `positions`. Expected shape [3, P]. Received: shape "
            f"{tuple(positions.shape)}"
        )

    @tf.custom_gradient
    def paint(positions: Tensor) -> tuple[Tensor, Any]:
        def grad(upstream: Tensor) -> Tensor:
            return _gradient_at(upstream, positions, num_cells)

        return _assign(positions, num_cells), grad

    return paint(positions)


def coarsen(delta: ArrayLike, num_cells: int) -> NDArray[np.float64]:
    """Cloud-in-cell overdensity of the same particles on a coarser mesh.

    Exact, not an approximation: the cloud of a coarse cell is a sum of clouds of fine cells with
    triangular weights, so that no particle is needed.

    Args:
        delta: cloud-in-cell overdensity `[M, M, M]`.
        num_cells: vertices along each side of the coarser mesh, a divisor of M.

    Returns:
        Overdensity `[N, N, N]`.
    """
    fine = np.asarray(delta, dtype=np.float64)
    side = fine.shape[0]
    if num_cells < 1 or side % num_cells:
        raise ValueError(
            f"Invalid value for argument `num_cells`. Expected a divisor of the mesh's {side} "
            f"vertices a side. Received: num_cells={num_cells!r}"
        )
    factor = side // num_cells
    for axis in range(3):
        fine = sum(
            (1.0 - abs(j) / factor) / factor * np.roll(fine, -j, axis)
            for j in range(1 - factor, factor)
        )
        fine = np.take(fine, np.arange(0, fine.shape[axis], factor), axis)
    return fine
