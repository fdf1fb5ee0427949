"""Inhomogeneous Poisson process in position and mass: the likelihood of the un-binned catalogue.

log L = sum over haloes of log[C n(log M_h | voxel)] - V sum over voxels of C times the integral
of n above the threshold (Charnock et al. 2020, eq. 3 with its sign mended), n per unit log mass,
C the completeness.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.mass_function import HaloMassFunction

__all__ = ["PoissonLikelihood"]

Tensor = Any


class PoissonLikelihood:
    """Likelihood of a halo catalogue given the mass function of every voxel.

    Args:
        grid: the mesh; a halo belongs to the vertex nearest to it.
        catalogue: haloes in the same box.
        mass_threshold: smallest mass [Msun/h]; smaller haloes are left out.
        completeness: expected fraction of haloes in the catalogue, `[N, N, N]` in [0, 1]; all
            ones by default.
        padding: ``"periodic"`` counts every voxel; ``"valid"`` counts voxels at least `margin`
            away from the faces of the box, and the haloes in them.
        margin: voxels lost on each side with ``"valid"``: half the network's receptive field.

    Attributes:
        num_haloes: haloes that count.
        num_dropped: haloes above the threshold that lie outside the voxels that count.
        shape: of the voxels that count.
        voxels: flat index of each halo among the voxels that count, `[H]`.
        log_masses: log mass of each halo, `[H]` [log of Msun/h].

    Raises:
        ValueError: if box sizes differ, the completeness is not in [0, 1] or no field on this
            mesh, a halo lies where it is zero, or no halo remains.
    """

    def __init__(
        self,
        grid: Grid,
        catalogue: Catalogue,
        mass_threshold: float,
        *,
        completeness: ArrayLike | None = None,
        padding: str = "periodic",
        margin: int = 1,
    ) -> None:
        """Find the voxel of every halo and check the catalogue against the mesh."""
        if padding not in ("periodic", "valid"):
            raise ValueError(
                "Invalid value for argument `padding`. Expected 'periodic' or 'valid'. Received: "
                f"padding={padding!r}"
            )
        catalogue.require_padding(padding)
        if not np.isclose(catalogue.box_size, grid.box_size, rtol=1e-6):
            raise ValueError(
                "Invalid value for argument `catalogue`. Expected the grid's box_size="
                f"{grid.box_size:g}. Received: box_size={catalogue.box_size:g}"
            )
        if not isinstance(margin, (int, np.integer)) or margin < 0:
            raise ValueError(
                "Invalid value for argument `margin`. Expected a non-negative integer. Received: "
                f"margin={margin!r}"
            )
        self.grid = grid
        self.mass_threshold = mass_threshold
        self.padding = padding
        margin = margin if padding == "valid" else 0
        num_kept = grid.num_cells - 2 * margin
        if num_kept < 1:
            raise ValueError(
                f"Invalid value for argument `margin`. Expected less than half of num_cells="
                f"{grid.num_cells}. Received: margin={margin}"
            )
        self.shape: tuple[int, int, int] = (num_kept,) * 3

        selected = catalogue.above(mass_threshold)
        voxel = np.stack(np.unravel_index(selected.voxel_index(grid.num_cells), grid.shape))
        counted = np.all((voxel >= margin) & (voxel < margin + num_kept), axis=0)
        self.num_haloes = int(counted.sum())
        self.num_dropped = len(selected) - self.num_haloes
        if not self.num_haloes:
            raise ValueError(
                "Invalid value for argument `catalogue`. Expected haloes inside the interior of "
                f"the box. Received: all {len(selected)} haloes within {margin} voxels of a face"
            )
        self.voxels = np.ravel_multi_index(tuple(voxel[:, counted] - margin), self.shape)
        self.log_masses = selected.log_mass[counted]

        self._completeness: np.ndarray[Any, np.dtype[np.float64]] | None = None
        self._log_completeness = 0.0
        if completeness is not None:
            window = np.asarray(completeness, dtype=np.float64)
            if window.shape != grid.shape:
                raise ValueError(
                    "Invalid value for argument `completeness`. Expected shape "
                    f"{grid.shape}. Received: shape {window.shape}"
                )
            if not np.all((window >= 0) & (window <= 1)):
                raise ValueError(
                    "Invalid value for argument `completeness`. Expected values in [0, 1]. "
                    f"Received: values from {np.min(window)} to {np.max(window)}"
                )
            window = self.interior(window)
            at_haloes = window.ravel()[self.voxels]
            if np.any(at_haloes == 0):
                lost = np.flatnonzero(at_haloes == 0)
                first = np.flatnonzero(counted)[lost[0]]
                raise ValueError(
                    "Invalid value for argument `completeness`. Expected a positive completeness "
                    f"at every halo. Received: zero at {lost.size} haloes, first at position "
                    f"{selected.positions[first].tolist()}"
                )
            self._completeness = window
            self._log_completeness = float(np.sum(np.log(at_haloes)))

    @property
    def completeness(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Completeness of the voxels that count, of shape `shape`."""
        return np.ones(self.shape) if self._completeness is None else self._completeness

    def interior(self, field: ArrayLike) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The voxels of a field `[N, N, N]` that count, of shape `shape`."""
        cube = np.asarray(field, dtype=np.float64)
        if cube.shape != self.grid.shape:
            raise ValueError(
                f"Invalid value for argument `field`. Expected shape {self.grid.shape}. Received: "
                f"shape {cube.shape}"
            )
        margin = (self.grid.num_cells - self.shape[0]) // 2
        inside = slice(margin, margin + self.shape[0])
        return cube[inside, inside, inside]

    def abundance_matched(self, delta: ArrayLike, smoothing: float = 8.0) -> PoissonLikelihood:
        """The likelihood of the same haloes, moved to where a field unrelated to them is dense.

        Voxels are ranked by the smoothed number of haloes per completeness and by `delta`; the
        haloes of each go to the voxel of equal rank, and its completeness with them. Voxels of
        completeness zero stay out of it. Bias parameters fitted to the result know
        that haloes live in dense places, and how strongly, before any field is known.

        Args:
            delta: finite overdensity `[N, N, N]`, for instance a draw from the prior.
            smoothing: of the haloes, standard deviation of a Gaussian [Mpc/h]. Less of it takes
                more of the haloes' shot noise for structure.

        Returns:
            A likelihood that differs in where haloes and completeness are.

        Raises:
            ValueError: if `delta` is of another mesh or not finite, or `smoothing` is negative.
        """
        if not (np.isfinite(smoothing) and smoothing >= 0):
            raise ValueError(
                "Invalid value for argument `smoothing`. Expected a non-negative length in Mpc/h. "
                f"Received: smoothing={smoothing!r}"
            )
        if not np.all(np.isfinite(delta)):
            raise ValueError(
                "Invalid value for argument `delta`. Expected a finite overdensity. Received: "
                f"{np.count_nonzero(~np.isfinite(delta))} values that are NaN or infinite"
            )
        completeness = self.completeness
        k = [2.0 * np.pi * np.fft.fftfreq(n, self.grid.cell_size) for n in self.shape]
        squared = sum(np.square(np.meshgrid(*k, indexing="ij")))
        kernel = np.exp(-0.5 * smoothing**2 * squared)
        found, possible = (
            np.fft.ifftn(np.fft.fftn(field) * kernel).real for field in (self.counts, completeness)
        )
        seen = np.flatnonzero(completeness)
        score = (found / np.maximum(possible, 1e-3)).ravel()[seen]
        density = self.interior(delta).ravel()[seen]
        destination = np.zeros(completeness.size, dtype=np.int64)
        destination[seen[np.argsort(score, kind="stable")]] = seen[
            np.argsort(density, kind="stable")
        ]
        moved = copy.copy(self)
        moved.voxels = destination[self.voxels]
        if self._completeness is not None:
            window = np.zeros(completeness.size)
            window[destination[seen]] = completeness.ravel()[seen]
            moved._completeness = window.reshape(self.shape)
        return moved

    def slab(self, first: int, last: int) -> PoissonLikelihood:
        """The share of some planes of voxels; the shares of all planes add up to the whole.

        Args:
            first: of the planes along the first axis of `shape`, from 0.
            last: the one after the last.

        Returns:
            A likelihood of mass functions of batch shape `[last - first, ...]`, possibly without a
            halo.
        """
        part = copy.copy(self)
        plane = self.shape[1] * self.shape[2]
        inside = (self.voxels >= first * plane) & (self.voxels < last * plane)
        part.shape = (last - first, *self.shape[1:])
        part.voxels = self.voxels[inside] - first * plane
        part.log_masses = self.log_masses[inside]
        part.num_haloes = int(inside.sum())
        if self._completeness is not None:
            part._completeness = self._completeness[first:last]
            at_haloes = part._completeness.ravel()[part.voxels]
            part._log_completeness = float(np.sum(np.log(at_haloes)))
        return part

    @property
    def counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Haloes that count in each voxel, of shape `shape`."""
        counts = np.bincount(self.voxels, minlength=int(np.prod(self.shape)))
        return counts.reshape(self.shape)

    def expected_counts(
        self, mass_function: HaloMassFunction, log_mass: float | None = None
    ) -> Tensor:
        """Expected haloes in each voxel, of shape `shape`.

        Args:
            mass_function: of batch shape `shape`.
            log_mass: count those above it; above the threshold by default [log of Msun/h].
        """
        cell_volume = tf.cast(self.grid.cell_volume, mass_function.dtype)
        counts = mass_function.integral(log_mass) * cell_volume
        if self._completeness is not None:
            counts *= tf.constant(self._completeness, mass_function.dtype)
        return counts

    def __call__(self, mass_function: HaloMassFunction) -> Tensor:
        """Log likelihood, a float64 scalar.

        The terms are summed in float64 whatever the dtype of the mass function: a sum of 10^5
        of them in float32 is too coarse for a Metropolis test.

        Args:
            mass_function: of batch shape `shape`, without a dispersion.
        """
        if mass_function.dispersion is not None:
            raise ValueError(
                "Invalid value for argument `mass_function`. Expected one of a Poisson process. "
                "Received: one with a dispersion, which takes a NegativeBinomialLikelihood"
            )
        found = self._log_intensities(mass_function)
        return found - tf.reduce_sum(tf.cast(self.expected_counts(mass_function), tf.float64))

    def draw_counts(
        self,
        expected: NDArray[np.float64],
        mass_function: HaloMassFunction,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Draw the number of haloes of each voxel.

        Args:
            expected: numbers, of shape `shape`; `expected_counts` of the mass function.
            mass_function: of the voxels.
            rng: source of random numbers.

        Returns:
            Of shape `shape`.
        """
        counts: NDArray[np.int64] = rng.poisson(expected)
        return counts

    def _log_intensities(self, mass_function: HaloMassFunction) -> Tensor:
        """Sum over the haloes of the log of their intensity, completeness included."""
        if tuple(mass_function.batch_shape) != self.shape:
            raise ValueError(
                f"Invalid value for argument `mass_function`. Expected batch shape {self.shape}. "
                f"Received: batch shape {tuple(mass_function.batch_shape)}"
            )
        log_mass = tf.constant(self.log_masses, mass_function.dtype)
        at_haloes = mass_function.at(tf.constant(self.voxels, tf.int32)).log_intensity(log_mass)
        return tf.reduce_sum(tf.cast(at_haloes, tf.float64)) + self._log_completeness
