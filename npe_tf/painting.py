"""Mass assignment on a periodic mesh, with hand-written adjoints.

A particle shares its mass among the vertices around it, with weights that are a product over the
axes (Hockney & Eastwood 1981, chapter 5). Along one axis, with d the distance from a vertex in
cells,

* cloud-in-cell: 1 - |d| for the two nearest vertices;
* triangular-shaped cloud: 3/4 - d^2 for the nearest, (3/2 - |d|)^2 / 2 for the two beside it.

The density from the former is continuous in the positions with kinks where a particle passes a
vertex; that from the latter has a continuous gradient. Hamiltonian Monte Carlo through the kinks
conserves its energy so badly that it needs steps four times smaller.

Positions are in units of the cell and come one axis after another, `[3, P]`: every step works on
one axis at a time, and a transposition of the particles would cost as much as the painting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

__all__ = ["MASS_ASSIGNMENTS", "cloud_in_cell", "coarsen", "triangular_shaped_cloud"]

Tensor = Any


class _Stencil(NamedTuple):
    """The vertices along each axis among which a particle is shared, two or three of them.

    Attributes:
        vertex: their numbers, `[3, P]` int32 each.
        weight: the particle's share, `[3, P]` each.
        slope: derivative of the share with respect to the position, `[3, P]` each.
    """

    vertex: list[Tensor]
    weight: list[Tensor]
    slope: list[Tensor]


def _cloud_in_cell_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    floor = tf.floor(positions)
    d = positions - floor
    low = tf.math.floormod(tf.cast(floor, tf.int32), num_cells)
    one = tf.ones_like(d)
    return _Stencil([low, _next(low, num_cells)], [1.0 - d, d], [-one, one])


def _triangular_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    centre = tf.round(positions)
    d = positions - centre
    middle = tf.math.floormod(tf.cast(centre, tf.int32), num_cells)
    before = tf.where(middle == 0, num_cells - 1, middle - 1)
    return _Stencil(
        [before, middle, _next(middle, num_cells)],
        [0.5 * tf.square(0.5 - d), 0.75 - tf.square(d), 0.5 * tf.square(0.5 + d)],
        [d - 0.5, -2.0 * d, d + 0.5],
    )


def _next(index: Tensor, num_cells: int) -> Tensor:
    return tf.where(index == num_cells - 1, 0, index + 1)


_STENCILS = {"cic": _cloud_in_cell_stencil, "tsc": _triangular_stencil}
MASS_ASSIGNMENTS = tuple(_STENCILS)


def _assign(positions: Tensor, num_cells: int, scheme: str) -> Tensor:
    """Mass at each vertex, `[N, N, N]`."""
    stencil = _STENCILS[scheme](positions, num_cells)
    index = [tf.unstack(i) for i in stencil.vertex]
    weight = [tf.unstack(w) for w in stencil.weight]
    size = num_cells**3
    points = range(len(index))
    shares = []
    for a in points:
        for b in points:
            row = (index[a][0] * num_cells + index[b][1]) * num_cells
            mass = weight[a][0] * weight[b][1]
            shares += [
                tf.math.unsorted_segment_sum(mass * weight[c][2], row + index[c][2], size)
                for c in points
            ]
    return tf.reshape(tf.add_n(shares), (num_cells,) * 3)


def _gradient_at(mesh: Tensor, positions: Tensor, num_cells: int, scheme: str) -> Tensor:
    """Derivative of the interpolation of `mesh` at the particles, `[3, P]`.

    This is the adjoint of `_assign`. It is made of differentiable operations, so that the tape
    can go through it again; where the scheme has kinks its derivative is the one-sided one.
    """
    stencil = _STENCILS[scheme](positions, num_cells)
    index = [tf.unstack(i) for i in stencil.vertex]
    weight = [tf.unstack(w) for w in stencil.weight]
    slope = [tf.unstack(s) for s in stencil.slope]
    flat = tf.reshape(mesh, [-1])
    points = range(len(index))
    total: list[Tensor] = [0.0, 0.0, 0.0]
    for a in points:
        plane: list[Tensor] = [0.0, 0.0, 0.0]
        for b in points:
            row = (index[a][0] * num_cells + index[b][1]) * num_cells
            values = [tf.gather(flat, row + index[c][2]) for c in points]
            line = tf.add_n([v * weight[c][2] for c, v in enumerate(values)])
            line_slope = tf.add_n([v * slope[c][2] for c, v in enumerate(values)])
            plane[0] += line * weight[b][1]
            plane[1] += line * slope[b][1]
            plane[2] += line_slope * weight[b][1]
        total[0] += plane[0] * slope[a][0]
        total[1] += plane[1] * weight[a][0]
        total[2] += plane[2] * weight[a][0]
    return tf.stack(total)


@functools.cache
def _compiled(num_cells: int, scheme: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """`_assign` and `_gradient_at` for one mesh.

    XLA scatters and gathers in loops two to three times faster than TensorFlow's own operations.
    """
    return (
        tf.function(lambda x: _assign(x, num_cells, scheme), jit_compile=True),
        tf.function(lambda m, x: _gradient_at(m, x, num_cells, scheme), jit_compile=True),
    )


def _paint(positions: Tensor, num_cells: int, scheme: str) -> Tensor:
    positions = tf.convert_to_tensor(positions)
    if len(positions.shape) != 2 or positions.shape[0] != 3:
        raise ValueError(
            "Invalid value for argument `positions`. Expected shape [3, P]. Received: shape "
            f"{tuple(positions.shape)}"
        )

    assign, gradient_at = _compiled(num_cells, scheme)

    @tf.custom_gradient
    def paint(positions: Tensor) -> tuple[Tensor, Any]:
        return assign(positions), lambda upstream: gradient_at(upstream, positions)

    return paint(positions)


def cloud_in_cell(positions: Tensor, num_cells: int) -> Tensor:
    """Paint particles of unit mass on a periodic mesh, each on the 8 vertices around it.

    Args:
        positions: `[3, P]` in units of the cell; any real number, wrapped periodically. A particle
            at an integer position gives all its mass to that vertex.
        num_cells: vertices along each side, N.

    Returns:
        Mass at each vertex, `[N, N, N]`, of the dtype of `positions`; it sums to P.

    Raises:
        ValueError: if `positions` is not of shape `[3, P]`.
    """
    return _paint(positions, num_cells, "cic")


def triangular_shaped_cloud(positions: Tensor, num_cells: int) -> Tensor:
    """Paint particles of unit mass on a periodic mesh, each on the 27 vertices around it.

    Args:
        positions: `[3, P]` in units of the cell; any real number, wrapped periodically. A particle
            at an integer position gives 3/4 of its mass to that vertex along each axis.
        num_cells: vertices along each side, N, at least 3.

    Returns:
        Mass at each vertex, `[N, N, N]`, of the dtype of `positions`; it sums to P.

    Raises:
        ValueError: if `positions` is not of shape `[3, P]`.
    """
    return _paint(positions, num_cells, "tsc")


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
