"""Mass assignment on a periodic mesh and interpolation from it, with hand-written adjoints.

A particle shares its mass among the vertices around it, with weights that are a product over the
axes (Hockney & Eastwood 1981, chapter 5). Along one axis, with d the distance from a vertex in
cells,

* nearest: 1 for the nearest vertex;
* cloud-in-cell: 1 - |d| for the two nearest vertices;
* triangular-shaped cloud: 3/4 - d^2 for the nearest, (3/2 - |d|)^2 / 2 for the two beside it.

The density from the first is a step function of the positions, with a gradient of zero; that from
the second is continuous with kinks where a particle passes a vertex; that from the third has a
continuous gradient. Hamiltonian Monte Carlo through the kinks conserves its energy so badly that it
needs steps four times smaller.

Painting and interpolation are each other's transpose. The derivatives of each are written in terms
of the other and of `_slopes`, which is made of differentiable operations, so that the tape can go
through them again.

Positions are in units of the cell and come one axis after another, `[3, P]`: every step works on
one axis at a time, and a transposition of the particles would cost as much as the painting.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.fourier import irfft3d, rfft3d
from npe_tf.statistics import assignment_window

__all__ = [
    "MASS_ASSIGNMENTS",
    "coarsen",
    "interpolate",
    "overdensity",
    "paint",
]

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


def _nearest_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    vertex = tf.math.floormod(tf.cast(tf.round(positions), tf.int32), num_cells)
    return _Stencil([vertex], [tf.ones_like(positions)], [tf.zeros_like(positions)])


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


_STENCILS = {
    "ngp": _nearest_stencil,
    "cic": _cloud_in_cell_stencil,
    "tsc": _triangular_stencil,
}
MASS_ASSIGNMENTS = tuple(_STENCILS)


def _rows(stencil: _Stencil, num_cells: int) -> Any:
    """For every pair of vertices along the first two axes: the row that they start, and both."""
    index = [tf.unstack(i) for i in stencil.vertex]
    points = range(len(index))
    for a, b in itertools.product(points, points):
        row = (index[a][0] * num_cells + index[b][1]) * num_cells
        yield a, b, [row + index[c][2] for c in points]


def _assign(positions: Tensor, masses: Tensor | None, num_cells: int, scheme: str) -> Tensor:
    """Mass at each vertex, `[N, N, N]`, or `[C, N, N, N]` for masses `[C, P]`.

    XLA adds to a mesh in its place, so that there is one for each column and no more.
    """
    stencil = _STENCILS[scheme](positions, num_cells)
    weight = [tf.unstack(w) for w in stencil.weight]
    columns = [None] if masses is None else tf.unstack(masses)
    meshes = [tf.zeros([num_cells**3], positions.dtype) for _ in columns]
    for a, b, cells in _rows(stencil, num_cells):
        across = weight[a][0] * weight[b][1]
        for c, cell in enumerate(cells):
            share = across * weight[c][2]
            meshes = [
                tf.tensor_scatter_nd_add(
                    mesh, cell[:, tf.newaxis], share if mass is None else share * mass
                )
                for mesh, mass in zip(meshes, columns, strict=True)
            ]
    cubes = [tf.reshape(mesh, (num_cells,) * 3) for mesh in meshes]
    return cubes[0] if masses is None else tf.stack(cubes)


def _values(meshes: Tensor, positions: Tensor, num_cells: int, scheme: str) -> Tensor:
    """Interpolation of meshes `[C, N, N, N]` at the particles, `[C, P]`."""
    stencil = _STENCILS[scheme](positions, num_cells)
    weight = [tf.unstack(w) for w in stencil.weight]
    # what a particle reads of all meshes lies side by side
    table = tf.transpose(tf.reshape(meshes, [meshes.shape[0], -1]))
    total: Any = 0.0
    for a, b, cells in _rows(stencil, num_cells):
        across = weight[a][0] * weight[b][1]
        for c, cell in enumerate(cells):
            total += (across * weight[c][2])[:, tf.newaxis] * tf.gather(table, cell)
    return tf.transpose(total)


def _slopes(
    meshes: Tensor, factors: Tensor | None, positions: Tensor, num_cells: int, scheme: str
) -> Tensor:
    """Derivative of sum_c factor_c times the interpolation of mesh c, `[3, P]`.

    It is made of differentiable operations, so that the tape can go through it again; where the
    scheme has kinks its derivative is the one-sided one.

    Args:
        meshes: `[C, N, N, N]`.
        factors: `[C, P]`, or `None` for ones.
        positions: `[3, P]`.
        num_cells: N.
        scheme: the mass assignment.
    """
    stencil = _STENCILS[scheme](positions, num_cells)
    weight = [tf.unstack(w) for w in stencil.weight]
    slope = [tf.unstack(s) for s in stencil.slope]
    table = tf.transpose(tf.reshape(meshes, [meshes.shape[0], -1]))
    rows = None if factors is None else tf.transpose(factors)
    total: list[Any] = [0.0, 0.0, 0.0]
    for a, b, cells in _rows(stencil, num_cells):
        line: Any = 0.0
        line_slope: Any = 0.0
        for c, cell in enumerate(cells):
            read = tf.gather(table, cell)
            value = tf.reduce_sum(read if rows is None else rows * read, axis=-1)
            line += value * weight[c][2]
            line_slope += value * slope[c][2]
        total[0] += line * slope[a][0] * weight[b][1]
        total[1] += line * weight[a][0] * slope[b][1]
        total[2] += line_slope * weight[a][0] * weight[b][1]
    return tf.stack(total)


class _Compiled(NamedTuple):
    """The operations for one mesh and scheme.

    XLA scatters and gathers in loops two to three times faster than TensorFlow's own operations.
    """

    assign: Callable[..., Tensor]
    values: Callable[..., Tensor]
    slopes: Callable[..., Tensor]


@functools.cache
def _compiled(num_cells: int, scheme: str) -> _Compiled:
    return _Compiled(
        tf.function(lambda x, m: _assign(x, m, num_cells, scheme), jit_compile=True),
        tf.function(lambda f, x: _values(f, x, num_cells, scheme), jit_compile=True),
        tf.function(lambda f, c, x: _slopes(f, c, x, num_cells, scheme), jit_compile=True),
    )


def _check(positions: Tensor, num_cells: int, scheme: str) -> _Compiled:
    if len(positions.shape) != 2 or positions.shape[0] != 3:
        raise ValueError(
            "Invalid value for argument `positions`. Expected shape [3, P]. Received: shape "
            f"{tuple(positions.shape)}"
        )
    if scheme not in _STENCILS:
        raise ValueError(
            f"Invalid value for argument `mass_assignment`. Expected one of {MASS_ASSIGNMENTS}. "
            f"Received: mass_assignment={scheme!r}"
        )
    if isinstance(num_cells, bool) or not isinstance(num_cells, (int, np.integer)) or num_cells < 1:
        raise ValueError(
            "Invalid value for argument `num_cells`. Expected a positive integer. Received: "
            f"num_cells={num_cells!r}"
        )
    return _compiled(int(num_cells), scheme)


def paint(
    positions: Tensor, num_cells: int, mass_assignment: str = "tsc", masses: Tensor | None = None
) -> Tensor:
    """Paint particles on a periodic mesh.

    Args:
        positions: `[3, P]` in units of the cell; any real number, wrapped periodically. A particle
            at an integer position is centred on that vertex.
        num_cells: vertices along each side, N.
        mass_assignment: ``"ngp"``, ``"cic"`` or ``"tsc"``.
        masses: `[P]`, or `[C, P]` for C meshes of the same particles; by default ones.

    Returns:
        Mass at each vertex, `[N, N, N]` or `[C, N, N, N]`, of the dtype of `positions`; it sums to
        that of the particles. Differentiable in positions and masses to any order.

    Raises:
        ValueError: if a shape is wrong or the mass assignment is not known.
    """
    positions = tf.convert_to_tensor(positions)
    compiled = _check(positions, num_cells, mass_assignment)
    if masses is None:

        @tf.custom_gradient
        def paint_ones(positions: Tensor) -> tuple[Tensor, Any]:
            def gradient(upstream: Tensor) -> Tensor:
                return compiled.slopes(upstream[tf.newaxis], None, positions)

            return compiled.assign(positions, None), gradient

        return paint_ones(positions)
    masses = tf.convert_to_tensor(masses, positions.dtype)
    if masses.shape.rank not in (1, 2) or masses.shape[-1] != positions.shape[-1]:
        raise ValueError(
            f"Invalid value for argument `masses`. Expected shape [{positions.shape[-1]}] or [C, "
            f"{positions.shape[-1]}]. Received: shape {tuple(masses.shape)}"
        )

    @tf.custom_gradient
    def paint_masses(positions: Tensor, masses: Tensor) -> tuple[Tensor, Any]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return (
                compiled.slopes(upstream, masses, positions),
                interpolate(upstream, positions, mass_assignment),
            )

        return compiled.assign(positions, masses), gradient

    if masses.shape.rank == 1:
        return paint_masses(positions, masses[tf.newaxis])[0]
    return paint_masses(positions, masses)


def interpolate(mesh: Tensor, positions: Tensor, mass_assignment: str = "tsc") -> Tensor:
    """Read a periodic mesh at particles, with the weights of the mass assignment.

    Args:
        mesh: `[N, N, N]`, or `[C, N, N, N]` for C meshes.
        positions: `[3, P]` in units of the cell, as in `paint`.
        mass_assignment: ``"ngp"``, ``"cic"`` or ``"tsc"``.

    Returns:
        Values `[P]` or `[C, P]`; differentiable in mesh and positions to any order.

    Raises:
        ValueError: if a shape is wrong or the mass assignment is not known.
    """
    mesh = tf.convert_to_tensor(mesh)
    positions = tf.convert_to_tensor(positions)
    if mesh.shape.rank not in (3, 4) or len(set(mesh.shape[-3:])) != 1:
        raise ValueError(
            "Invalid value for argument `mesh`. Expected shape [N, N, N] or [C, N, N, N]. "
            f"Received: shape {tuple(mesh.shape)}"
        )
    num_cells = mesh.shape[-1]
    compiled = _check(positions, num_cells, mass_assignment)

    @tf.custom_gradient
    def read(mesh: Tensor, positions: Tensor) -> tuple[Tensor, Any]:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return (
                paint(positions, num_cells, mass_assignment, upstream),
                compiled.slopes(mesh, upstream, positions),
            )

        return compiled.values(mesh, positions), gradient

    if mesh.shape.rank == 3:
        return read(mesh[tf.newaxis], positions)[0]
    return read(mesh, positions)


def overdensity(
    positions: Tensor,
    num_cells: int,
    mass_assignment: str = "tsc",
    *,
    interlacing: bool = False,
    compensated: bool = False,
) -> Tensor:
    """Overdensity of equal particles on a periodic mesh.

    Args:
        positions: `[3, P]` in units of the cell of this mesh, which may be finer or coarser than
            the lattice of the particles.
        num_cells: vertices along each side, N; even for the two options.
        mass_assignment: ``"ngp"``, ``"cic"`` or ``"tsc"``.
        interlacing: paint a second time, half a cell aside, and combine both, which cancels the
            odd aliases (Sefusatti et al. 2016, MNRAS 460, 3624).
        compensated: divide by the window of the cloud in Fourier space. The result may ring below
            -1 and is for spectra, not for a logarithm.

    Returns:
        `[N, N, N]`, of mean zero.
    """
    positions = tf.convert_to_tensor(positions)
    mean = float(positions.shape[-1]) / num_cells**3
    delta = paint(positions, num_cells, mass_assignment) / mean - 1.0
    if not (interlacing or compensated):
        return delta
    modes = rfft3d(delta)
    if interlacing:
        shifted = rfft3d(paint(positions + 0.5, num_cells, mass_assignment) / mean - 1.0)
        full, half = np.fft.fftfreq(num_cells), np.arange(num_cells // 2 + 1) / num_cells
        x, y, z = full[:, None, None], full[None, :, None], half
        phase = np.exp(1j * np.pi * (x + y + z))
        # on the Nyquist planes half a cell is no symmetry of a real field
        share = 0.5 * ((np.abs(x) < 0.5) & (np.abs(y) < 0.5) & (z < 0.5))
        modes = tf.constant(1.0 - share, modes.dtype) * modes
        modes += tf.constant(share * phase, modes.dtype) * shifted
    if compensated:
        window = assignment_window(num_cells, mass_assignment)
        modes /= tf.constant(window, modes.dtype)
    return irfft3d(modes)


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
