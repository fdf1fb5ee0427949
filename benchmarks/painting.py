"""Mass assignment against plain TensorFlow and NumPy: time of a density and of its gradient.

Measured: `npe_tf.painting` puts 64^3 and 128^3 particles on a mesh of 64^3 vertices, in float32,
with the displacements of a Zel'dovich draw from the prior in a box of 250 Mpc/h (memory access
depends on them). The gradient is that of half the sum of squares of the mesh with respect to the
positions. The peers do the same sums with the same weights:

* ``TensorFlow``: `tf.tensor_scatter_nd_add`, differentiated by the tape, in a `tf.function`;
* ``TensorFlow, XLA``: the same function compiled by XLA;
* ``NumPy bincount``: `np.bincount`, which sums in float64, and a gather written by hand for the
  gradient;
* ``NumPy add.at``: `np.add.at`, a density only.

Why: painting and its adjoint are a large part of the cost of a gradient of the posterior. What XLA
gains shows in the second peer, what the adjoint written by hand gains in the ratio to it.

Every result is compared with ours before it is timed. The implementations take turns, so that a
busy machine slows all alike; each NumPy call keeps to one core.

Run from the root of the repository: ``python benchmarks/painting.py --repeats 9``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.painting import paint

Tensor = Any
Array = NDArray[Any]

NUM_CELLS = 64
BOX_SIZE = 250.0
OURS = "npe_tf"
SCHEMES = ("cic", "tsc")


def draw_positions(supersampling: int) -> Tensor:
    """Positions `[3, P]` [cells] of a Zel'dovich draw, float32."""
    grid = Grid(NUM_CELLS, BOX_SIZE)
    white_noise = np.random.default_rng(1).standard_normal(grid.shape).astype(np.float32)
    modes = InitialField(grid, Cosmology()).modes(white_noise)
    return LPT(grid, Cosmology(), supersampling=supersampling).positions(modes)


def shares(positions: Any, scheme: str, xp: Any) -> list[tuple[Any, Any, Any]]:
    """Offset, weight and slope of each vertex along an axis; xp is NumPy or TensorFlow."""
    if scheme == "cic":
        low = xp.floor(positions)
        d = positions - low
        return [(low, 1 - d, -xp.ones_like(d)), (low + 1, d, xp.ones_like(d))]
    centre = xp.round(positions)
    d = positions - centre
    return [
        (centre - 1, (0.5 - d) ** 2 / 2, d - 0.5),
        (centre, 0.75 - d**2, -2 * d),
        (centre + 1, (0.5 + d) ** 2 / 2, d + 0.5),
    ]


def tensorflow_paint(positions: Tensor, scheme: str) -> Tensor:
    """The plain way: one scatter for each vertex, left to the tape."""
    stencil = [
        (tf.math.floormod(tf.cast(vertex, tf.int32), NUM_CELLS), weight)
        for vertex, weight, _ in shares(positions, scheme, tf)
    ]
    mesh = tf.zeros([NUM_CELLS**3], positions.dtype)
    for (i, u), (j, v), (k, w) in itertools.product(stencil, repeat=3):
        index = (i[0] * NUM_CELLS + j[1]) * NUM_CELLS + k[2]
        mesh = tf.tensor_scatter_nd_add(mesh, index[:, None], u[0] * v[1] * w[2])
    return tf.reshape(mesh, [NUM_CELLS] * 3)


def tensorflow_gradient(paint: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Gradient of half the sum of squares of what a function paints."""

    def gradient(positions: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(positions)
            loss = 0.5 * tf.reduce_sum(tf.square(paint(positions)))
        return tape.gradient(loss, positions)

    return gradient


def numpy_vertices(positions: Array, scheme: str) -> Iterator[tuple[Array, list[Any]]]:
    """Flat index of each vertex, and its weights and slopes along the three axes."""
    stencil = [
        (vertex.astype(np.int32) % NUM_CELLS, weight, slope)
        for vertex, weight, slope in shares(positions, scheme, np)
    ]
    for x, y, z in itertools.product(stencil, repeat=3):
        index = (x[0][0] * NUM_CELLS + y[0][1]) * NUM_CELLS + z[0][2]
        yield index, [(part[1][axis], part[2][axis]) for axis, part in enumerate((x, y, z))]


def bincount_paint(positions: Array, scheme: str) -> Array:
    """`np.bincount` for each vertex."""
    mesh = np.zeros(NUM_CELLS**3)
    for index, ((u, _), (v, _), (w, _)) in numpy_vertices(positions, scheme):
        mesh += np.bincount(index, u * v * w, mesh.size)
    return mesh.reshape((NUM_CELLS,) * 3)


def add_at_paint(positions: Array, scheme: str) -> Array:
    """`np.add.at` for each vertex."""
    mesh = np.zeros(NUM_CELLS**3, positions.dtype)
    for index, ((u, _), (v, _), (w, _)) in numpy_vertices(positions, scheme):
        np.add.at(mesh, index, u * v * w)
    return mesh.reshape((NUM_CELLS,) * 3)


def bincount_gradient(positions: Array, scheme: str) -> Array:
    """Gradient of half the sum of squares of the mesh, gathered by hand."""
    mesh = bincount_paint(positions, scheme).astype(positions.dtype).ravel()
    total = np.zeros_like(positions)
    for index, ((u, du), (v, dv), (w, dw)) in numpy_vertices(positions, scheme):
        value = mesh[index]
        total[0] += value * du * v * w
        total[1] += value * u * dv * w
        total[2] += value * u * v * dw
    return total


def implementations(scheme: str, with_gradient: bool) -> dict[str, Callable[[Tensor], Any]]:
    """Everything that is compared; ours first."""

    def ours(positions: Tensor) -> Tensor:
        return paint(positions, NUM_CELLS, scheme)

    def plain(positions: Tensor) -> Tensor:
        return tensorflow_paint(positions, scheme)

    wrap = tensorflow_gradient if with_gradient else lambda paint: paint
    by_bincount = bincount_gradient if with_gradient else bincount_paint
    entries: dict[str, Callable[[Tensor], Any]] = {
        OURS: tf.function(wrap(ours)),
        "TensorFlow": tf.function(wrap(plain)),
        "TensorFlow, XLA": tf.function(wrap(plain), jit_compile=True),
        "NumPy bincount": lambda positions: by_bincount(positions.numpy(), scheme),
    }
    if not with_gradient:
        entries["NumPy add.at"] = lambda positions: add_at_paint(positions.numpy(), scheme)
    return entries


def median_seconds(
    entries: dict[str, Callable[[Tensor], Any]], positions: Tensor, repeats: int
) -> dict[str, float]:
    """Compare all results with ours (this also compiles), then let the entries take turns."""
    expected = np.asarray(entries[OURS](positions))
    scale = np.sqrt(np.mean(expected**2))
    for name, call in entries.items():
        error = np.max(np.abs(np.asarray(call(positions)) - expected)) / scale
        if error > 1e-3:
            raise RuntimeError(f"{name} differs from {OURS} by {error:.1e} of the rms")
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(repeats):
        for name, call in entries.items():
            began = time.perf_counter()
            np.asarray(call(positions))
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    """Time everything and print the ratios to ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timings of each implementation")
    args = parser.parse_args()

    print(f"{os.cpu_count()} cores; medians of {args.repeats}; ratio = peer / {OURS}")
    for supersampling, scheme in itertools.product((1, 2), SCHEMES):
        positions = draw_positions(supersampling)
        side = NUM_CELLS * supersampling
        for with_gradient in (False, True):
            entries = implementations(scheme, with_gradient)
            medians = median_seconds(entries, positions, args.repeats)
            task = "value and gradient" if with_gradient else "value"
            print(f"\n{scheme}, {side}^3 particles on {NUM_CELLS}^3, {task}")
            for name, median in medians.items():
                ratio = f"{median / medians[OURS]:6.1f}" if name != OURS else ""
                print(f"  {name:18s} {1e3 * median:9.1f} ms {ratio}", flush=True)


if __name__ == "__main__":
    main()
