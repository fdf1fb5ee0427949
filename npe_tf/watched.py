"""Quantities of a sample that are watched for convergence beside parameters and spectra.

Power spectra say nothing of phases, and the 17 parameters have degeneracies that no observable
feels. Watched are therefore also

* ``modes``: some Fourier modes of the white noise;
* ``voxels``: the evolved log density of some voxels;
* ``mass_function``: the bias as a function, the density of haloes of some masses in environments of
  some densities.

Which ones is fixed by the mesh and the catalogue alone, so that all chains watch the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.fourier import rfft3d
from npe_tf.grid import Grid
from npe_tf.posterior import FieldPosterior

__all__ = ["ENVIRONMENTS", "Watched"]

Tensor = Any
Array = NDArray[np.float64]

ENVIRONMENTS = (0.25, 0.6, 1.5, 4.0)
"""Densities 1 + delta at the centres of the environments."""

_ENVIRONMENT_WIDTH = 0.3  # of log density; a third of the distance between the centres
_SMALLEST_LOG_WEIGHT = -600.0  # in the range of float64
_SOFTENING = 0.1
_NUM_MODES = 16
_NUM_MASSES = 5
_LARGEST_QUANTILE = 0.99  # of the haloes' masses; above it a handful of haloes decide
_NUM_FULLEST, _NUM_OCCUPIED, _NUM_EMPTY = 6, 5, 5
_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))


class Watched:
    """Function from a sample to the quantities watched.

    A call costs one forward model and the mass functions of its voxels, no gradient.

    Args:
        posterior: of the samples.

    Attributes:
        wavevectors: integer frequencies of the M modes, `[M, 3]`, by increasing wavenumber: those
            nearest to 16 vectors whose lengths are spread evenly in log k from the fundamental to
            the Nyquist wavenumber and whose directions turn by the golden angle. M is 13 on a
            mesh of 4^3 cells, which has no more modes, and 16 on all others.
        voxels: indices in the mesh of the V voxels, `[V, 3]`: the 6 with the most haloes, 5 of the
            others that have haloes and 5 that have none, each evenly spaced in C order. Where there
            are not enough of a kind the others make up for it. V is 16, or all voxels if fewer
            count.
        masses: [Msun/h], `[5]`: evenly spaced in log from the threshold to that above which lies
            one halo of a hundred.
        names: one name per number, by array, in C order.
    """

    def __init__(self, posterior: FieldPosterior) -> None:
        """Choose what is watched."""
        likelihood = posterior.likelihood
        self._posterior = posterior
        self._margin = (posterior.grid.num_cells - likelihood.shape[0]) // 2
        self._dtype = tf.as_dtype(posterior.bias.dtype)
        self.wavevectors = _spread_wavevectors(posterior.grid)
        inside = _spread_voxels(likelihood.counts)
        self.voxels = inside + self._margin
        low = math.log(likelihood.mass_threshold)
        high = max(float(np.quantile(likelihood.log_masses, _LARGEST_QUANTILE)), low + math.log(2))
        self.masses = np.geomspace(likelihood.mass_threshold, math.exp(high), _NUM_MASSES)

        k = posterior.grid.fundamental * np.linalg.norm(self.wavevectors, axis=1)
        counts = likelihood.counts[tuple(inside.T)]
        self.names: Mapping[str, tuple[str, ...]] = {
            "modes": tuple(
                f"mode k={length:.3g} ({x},{y},{z}) {part}"
                for length, (x, y, z) in zip(k, self.wavevectors, strict=True)
                for part in ("re", "im")
            ),
            "voxels": tuple(
                f"voxel ({x},{y},{z}), {count} halo{'' if count == 1 else 'es'}"
                for (x, y, z), count in zip(self.voxels, counts, strict=True)
            ),
            "mass_function": tuple(
                f"log dn/dlogM({mass:.2g} | 1+delta={density:g})"
                for density in ENVIRONMENTS
                for mass in self.masses
            ),
        }
        self._evaluate = tf.function(
            self._watch,
            input_signature=[
                tf.TensorSpec(posterior.grid.shape, self._dtype),
                tf.TensorSpec([posterior.bias.parameters.size], tf.float64),
            ],
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every array."""
        return {
            "modes": (2 * len(self.wavevectors),),
            "voxels": (len(self.voxels),),
            "mass_function": (len(ENVIRONMENTS), len(self.masses)),
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """What a chain file says of the arrays: their names and what they were taken at."""
        return {
            **{f"names.{name}": list(names) for name, names in self.names.items()},
            "watched.wavevectors": self.wavevectors,
            "watched.voxels": self.voxels,
            "watched.environments": np.array(ENVIRONMENTS),
            "watched.masses": self.masses,
        }

    def __call__(self, white_noise: ArrayLike, theta: ArrayLike) -> dict[str, Array]:
        """Evaluate all.

        Args:
            white_noise: `[N, N, N]`.
            theta: parameters, `[size]`.

        Returns:
            Float64 arrays of `shapes`:

            ``modes``: real and imaginary parts in turn, scaled to a prior variance of one each,
            which are the coefficients of orthonormal cosines and sines.

            ``voxels``: log(1 + delta + 0.1).

            ``mass_function``: log(dn/dlogM) at each mass [log of (h/Mpc)^3], `[4, 5]`, of the mean
            of dn/dlogM over all voxels, weighted by a Gaussian of width 0.3 in log(1 + delta + 0.1)
            about each of `ENVIRONMENTS`. Where no voxel is near, the nearest ones have the weight,
            so that there is always a number.

        Raises:
            ValueError: if a shape is wrong.
        """
        shapes = {"white_noise": self._posterior.grid.shape}
        shapes["theta"] = (self._posterior.bias.parameters.size,)
        given = {"white_noise": white_noise, "theta": theta}
        for name, shape in shapes.items():
            if tuple(np.shape(given[name])) != shape:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected shape {shape}. Received: shape "
                    f"{tuple(np.shape(given[name]))}"
                )
        found = self._evaluate(tf.cast(white_noise, self._dtype), tf.cast(theta, tf.float64))
        return {name: value.numpy() for name, value in found.items()}

    def _watch(self, white_noise: Tensor, theta: Tensor) -> dict[str, Tensor]:
        grid, likelihood = self._posterior.grid, self._posterior.likelihood
        indices = self.wavevectors % grid.num_cells
        modes = tf.gather_nd(rfft3d(white_noise), indices) * math.sqrt(2.0 / grid.num_cells**3)
        parts = tf.stack([tf.math.real(modes), tf.math.imag(modes)], axis=-1)

        delta = self._posterior.density(white_noise)
        density = tf.maximum(tf.cast(delta, tf.float64) + 1.0, 0.0)
        log_density = tf.math.log(density + _SOFTENING)
        voxels = tf.gather_nd(log_density, self.voxels)

        mass_function = self._posterior.bias.mass_function(delta, tf.cast(theta, self._dtype))
        inside = slice(self._margin, self._margin + likelihood.shape[0])
        log_density = log_density[inside, inside, inside]
        weights = tf.stack([_weights(log_density, centre) for centre in ENVIRONMENTS])
        numbers = tf.stack(
            [
                tf.cast(tf.reshape(mass_function.log_intensity(log_mass), [-1]), tf.float64)
                for log_mass in np.log(self.masses)
            ]
        )
        largest = tf.reduce_max(numbers, axis=1, keepdims=True)
        means = tf.matmul(weights, tf.exp(numbers - largest), transpose_b=True)
        return {
            "modes": tf.cast(tf.reshape(parts, [-1]), tf.float64),
            "voxels": voxels,
            "mass_function": tf.math.log(means) + largest[:, 0],
        }


def _weights(log_density: Tensor, centre: float) -> Tensor:
    """How much voxels belong to an environment, `[V]`; the sum is one."""
    distance = (log_density - math.log(centre + _SOFTENING)) / _ENVIRONMENT_WIDTH
    exponent = tf.reshape(-0.5 * tf.square(distance), [-1])
    # no weight is zero, not even where all haloes are in one voxel of any density
    exponent = tf.maximum(exponent - tf.reduce_max(exponent), _SMALLEST_LOG_WEIGHT)
    weight = tf.exp(exponent)
    return weight / tf.reduce_sum(weight)


def _spread_wavevectors(grid: Grid) -> NDArray[np.int64]:
    """Frequencies of live modes, one of k and -k each, `[M, 3]`."""
    x, y, z = np.broadcast_arrays(*grid.frequencies)
    # the others are mirror images, or stored twice
    half = (z > 0) | ((z == 0) & ((y > 0) | ((y == 0) & (x > 0))))
    candidates = np.stack([axis[grid.alive & half] for axis in (x, y, z)], axis=1)
    count = min(_NUM_MODES, len(candidates))
    lengths = np.geomspace(1.0, grid.num_cells / 2, count)
    # a spiral on the upper half of the sphere
    height = (np.arange(count) + 0.5) / count
    angle = _GOLDEN_ANGLE * np.arange(count)
    radius = np.sqrt(1.0 - height**2)
    directions = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    free = np.ones(len(candidates), dtype=bool)
    chosen = []
    for target in lengths[:, np.newaxis] * directions:
        offset = np.minimum(
            np.linalg.norm(candidates - target, axis=1),
            np.linalg.norm(candidates + target, axis=1),
        )
        # rounded, so that the last bit does not decide between equals
        best = int(np.argmin(np.where(free, np.round(offset, 9), np.inf)))
        free[best] = False
        chosen.append(best)
    vectors = candidates[chosen]
    return np.asarray(vectors[np.argsort(np.sum(vectors**2, axis=1), kind="stable")])


def _spread_voxels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of voxels of many, some and no haloes, `[V, 3]`."""
    flat = counts.ravel()
    fullest = np.argsort(-flat, kind="stable")[:_NUM_FULLEST]
    others = np.setdiff1d(np.arange(flat.size), fullest)
    occupied, empty = others[flat[others] > 0], others[flat[others] == 0]
    num_occupied = min(_NUM_OCCUPIED, len(occupied))
    num_empty = min(_NUM_OCCUPIED + _NUM_EMPTY - num_occupied, len(empty))
    num_occupied = min(_NUM_OCCUPIED + _NUM_EMPTY - num_empty, len(occupied))
    chosen = [fullest, _evenly(occupied, num_occupied), _evenly(empty, num_empty)]
    return np.stack(np.unravel_index(np.concatenate(chosen), counts.shape), axis=1)


def _evenly(items: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of the items, from the middles of as many equal stretches."""
    return items[(2 * np.arange(count) + 1) * len(items) // max(1, 2 * count)]
