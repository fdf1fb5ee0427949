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
from tensorflow.compiler.tf2xla.python import xla

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
# vertices along each side of a cube, or along each axis of a box
Sides = int | tuple[int, int, int]


class _Stencil(NamedTuple):
    """The vertices along each axis among which a particle is shared: one, two or three in a row.

    Attributes:
        first: number of the first, `[3, P]` int32 from 0 to N-1; the others may be past the end.
        weight: the particle's share, `[3, P]` each.
        slope: derivative of the share with respect to the position, `[3, P]` each.
    """

    first: Tensor
    weight: list[Tensor]
    slope: list[Tensor]


def _nearest_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    first = _wrap(tf.round(positions), num_cells)
    return _Stencil(first, [tf.ones_like(positions)], [tf.zeros_like(positions)])


def _cloud_in_cell_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    floor = tf.floor(positions)
    d = positions - floor
    one = tf.ones_like(d)
    return _Stencil(_wrap(floor, num_cells), [1.0 - d, d], [-one, one])


def _triangular_stencil(positions: Tensor, num_cells: int) -> _Stencil:
    centre = tf.round(positions)
    d = positions - centre
    return _Stencil(
        _wrap(centre - 1.0, num_cells),
        [0.5 * tf.square(0.5 - d), 0.75 - tf.square(d), 0.5 * tf.square(0.5 + d)],
        [d - 0.5, -2.0 * d, d + 0.5],
    )


def _wrap(vertex: Tensor, num_cells: int) -> Tensor:
    return tf.math.floormod(tf.cast(vertex, tf.int32), num_cells)


_STENCILS = {
    "ngp": _nearest_stencil,
    "cic": _cloud_in_cell_stencil,
    "tsc": _triangular_stencil,
}
MASS_ASSIGNMENTS = tuple(_STENCILS)


def _extended(mesh: Tensor, width: int) -> Tensor:
    """Repeat the first vertices of a periodic mesh behind the last, so that no block wraps."""
    _, rows, columns = mesh.shape
    i, j, k = (tf.range(size + width - 1) % size for size in mesh.shape)
    cell = (i[:, tf.newaxis, tf.newaxis] * rows + j[:, tf.newaxis]) * columns + k
    return tf.gather(tf.reshape(mesh, [-1]), cell)


def _folded(mesh: Tensor, width: int) -> Tensor:
    """Add what lies behind the last vertices to the first; the transpose of `_extended`."""
    for axis, extended in enumerate(mesh.shape):
        size = extended - width + 1
        # two, or three where a block is three times as wide as the mesh
        turns = -(-extended // size)
        pads = [[0, turns * size - extended if i == axis else 0] for i in range(3)]
        mesh = tf.add_n(tf.split(tf.pad(mesh, pads), turns, axis))
    return mesh


def _cells(stencil: _Stencil, mesh: Tensor) -> list[Tensor]:
    """Places of the vertices of a block, in turn, in an extended mesh, `[P]` each."""
    _, rows, columns = mesh.shape
    x, y, z = tf.unstack(stencil.first)
    corner = (x * rows + y) * columns + z
    vertices = itertools.product(range(len(stencil.weight)), repeat=3)
    return [corner + ((a * rows + b) * columns + c) for a, b, c in vertices]


def _stencil(positions: Tensor, num_cells: Sides, scheme: str) -> _Stencil:
    sides = num_cells if isinstance(num_cells, int) else tf.constant(num_cells)[:, tf.newaxis]
    return _STENCILS[scheme](positions, sides)


def _assign(positions: Tensor, mass: Tensor | None, num_cells: Sides, scheme: str) -> Tensor:
    """Mass at each vertex, `[N, N, N]`, of particles of mass `[P]`, or of one."""
    stencil = _stencil(positions, num_cells, scheme)
    width = len(stencil.weight)
    sides = (num_cells,) * 3 if isinstance(num_cells, int) else num_cells
    empty = tf.zeros([side + width - 1 for side in sides], positions.dtype)
    # a GPU would take the particles one by one
    add = _add_vertices if tf.config.list_logical_devices("GPU") else _add_blocks
    return _folded(add(empty, stencil, mass), width)


def _add_blocks(mesh: Tensor, stencil: _Stencil, mass: Tensor | None) -> Tensor:
    """Add a particle's whole block at once, one particle after another.

    On a CPU, XLA turns each scatter into a loop over the particles; this loop alone costs about
    as much as five of the 27 that the widest scheme needs.
    """
    width = len(stencil.weight)
    weight = tf.stack(stencil.weight)
    num_particles = tf.shape(weight)[2]

    # not `tf.slice`, which takes the start for a constant: XLA would compile for every set of
    # positions anew
    def add(p: Tensor, mesh: Tensor) -> tuple[Tensor, Tensor]:
        x, y, z = tf.unstack(tf.gather(weight, p, axis=2), axis=1)
        if mass is not None:
            x *= tf.gather(mass, p)
        share = x[:, tf.newaxis, tf.newaxis] * y[:, tf.newaxis] * z
        corner = tf.gather(stencil.first, p, axis=1)
        block = xla.dynamic_slice(mesh, corner, [width] * 3) + share
        return p + 1, xla.dynamic_update_slice(mesh, block, corner)

    return tf.while_loop(lambda p, _: p < num_particles, add, (tf.constant(0), mesh))[1]


def _add_vertices(mesh: Tensor, stencil: _Stencil, mass: Tensor | None) -> Tensor:
    """Add one vertex of all particles' blocks after another."""
    flat = tf.reshape(mesh, [-1])
    shares = itertools.product(*_by_axis(stencil.weight))
    for cell, (x, y, z) in zip(_cells(stencil, mesh), shares, strict=True):
        share = x * y * z if mass is None else x * y * z * mass
        flat = tf.tensor_scatter_nd_add(flat, cell[:, tf.newaxis], share)
    return tf.reshape(flat, mesh.shape)


def _read(mesh: Tensor, stencil: _Stencil) -> list[Tensor]:
    """What a mesh `[N, N, N]` is at the vertices of the blocks in turn, `[P]` each."""
    extended = _extended(mesh, len(stencil.weight))
    table = tf.reshape(extended, [-1])
    return [tf.gather(table, cell) for cell in _cells(stencil, extended)]


def _by_axis(shares: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """What `[3, P]` tensors are along each of the axes, `[P]` each."""
    x, y, z = (list(axis) for axis in zip(*map(tf.unstack, shares), strict=True))
    return x, y, z


def _contract(block: list[Tensor], x: list[Tensor], y: list[Tensor], z: list[Tensor]) -> Tensor:
    """Sum of x_a y_b z_c block_abc over the vertices of a block, `[P]`."""
    width = len(x)
    for factors in (z, y, x):
        lines = [block[i : i + width] for i in range(0, len(block), width)]
        block = [
            tf.add_n([f * value for f, value in zip(factors, line, strict=True)]) for line in lines
        ]
    return block[0]


def _values(mesh: Tensor, positions: Tensor, num_cells: Sides, scheme: str) -> Tensor:
    """Interpolation of a mesh `[N, N, N]` at the particles, `[P]`."""
    stencil = _stencil(positions, num_cells, scheme)
    return _contract(_read(mesh, stencil), *_by_axis(stencil.weight))


def _slopes(
    meshes: Tensor, factors: Tensor | None, positions: Tensor, num_cells: Sides, scheme: str
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
    stencil = _stencil(positions, num_cells, scheme)
    blocks = [_read(mesh, stencil) for mesh in tf.unstack(meshes)]
    if factors is not None:
        pairs = zip(tf.unstack(factors), blocks, strict=True)
        blocks = [[factor * value for value in block] for factor, block in pairs]
    block = [tf.add_n(values) for values in zip(*blocks, strict=True)]
    x, y, z = _by_axis(stencil.weight)
    dx, dy, dz = _by_axis(stencil.slope)
    return tf.stack(
        [
            _contract(block, dx, y, z),
            _contract(block, x, dy, z),
            _contract(block, x, y, dz),
        ]
    )


class _Compiled(NamedTuple):
    """The operations for one mesh and scheme.

    XLA scatters and gathers in loops two to three times faster than TensorFlow's own operations.
    """

    assign: Callable[..., Tensor]
    values: Callable[..., Tensor]
    slopes: Callable[..., Tensor]


@functools.cache
def _compiled(num_cells: Sides, scheme: str) -> _Compiled:
    return _Compiled(
        tf.function(lambda x, m: _assign(x, m, num_cells, scheme), jit_compile=True),
        tf.function(lambda f, x: _values(f, x, num_cells, scheme), jit_compile=True),
        tf.function(lambda f, c, x: _slopes(f, c, x, num_cells, scheme), jit_compile=True),
    )


def _check(positions: Tensor, num_cells: Sides, scheme: str) -> _Compiled:
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
    sides = num_cells if isinstance(num_cells, tuple) else (num_cells,)
    if len(sides) not in (1, 3) or not all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in sides
    ):
        raise ValueError(
            "Invalid value for argument `num_cells`. Expected a positive integer. Received: "
            f"num_cells={num_cells!r}"
        )
    if len(sides) == 1:
        return _compiled(int(sides[0]), scheme)
    return _compiled((int(sides[0]), int(sides[1]), int(sides[2])), scheme)


def paint(
    positions: Tensor, num_cells: Sides, mass_assignment: str = "tsc", masses: Tensor | None = None
) -> Tensor:
    """Paint particles on a periodic mesh.

    Args:
        positions: `[3, P]` in units of the cell; any real number, wrapped periodically. A particle
            at an integer position is centred on that vertex.
        num_cells: vertices along each side, N; a tuple of three for a mesh that is no cube, with
            masses of one only.
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

            # the loop has no derivative, for which a second tape would ask
            return compiled.assign(tf.stop_gradient(positions), None), gradient

        return paint_ones(positions)
    if isinstance(num_cells, tuple):
        raise ValueError(
            "Invalid value for argument `masses`. Expected None for a mesh that is no cube. "
            f"Received: masses with num_cells={num_cells!r}"
        )
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

        held = tf.stop_gradient(positions)
        rows = tf.unstack(tf.stop_gradient(masses))
        return tf.stack([compiled.assign(held, mass) for mass in rows]), gradient

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

        return tf.stack([compiled.values(m, positions) for m in tf.unstack(mesh)]), gradient

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
