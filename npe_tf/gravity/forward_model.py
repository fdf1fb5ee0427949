"""What every gravity model offers: particles, and the density that they make.

A model maps the modes of the linear density to the displacements of particles from a lattice. All
else stands here: positions, velocities, redshift space and mass assignment.
"""

from __future__ import annotations

import abc
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.background import as_float64
from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid, check_position
from npe_tf.painting import MASS_ASSIGNMENTS, overdensity
from npe_tf.redshift_space import HUBBLE, line_of_sight_shift

__all__ = ["ForwardModel", "Motion", "Particles"]

Tensor = Any
_LARGEST_SUPERSAMPLING = 8


class Particles(NamedTuple):
    """Particles of equal mass in a periodic box.

    Attributes:
        positions: `[3, P]` comoving [Mpc/h], not wrapped.
        velocities: `[3, P]` peculiar [km/s].
    """

    positions: Tensor
    velocities: Tensor


class Motion(NamedTuple):
    """How far particles have come from their lattice points, and how fast they go.

    Attributes:
        displacement: `[3, sN, sN, sN]` comoving [Mpc/h].
        rate: its derivative with respect to ln a, of the same shape and unit.
    """

    displacement: Tensor
    rate: Tensor


class ForwardModel(abc.ABC):
    """From the linear density to particles and their density.

    Args:
        grid: mesh of the modes and of the density.
        cosmology: gives growth and expansion.
        scale_factor: epoch, in (0, 1].
        supersampling: s^3 particles per cell, s along each side, whose motion comes from the same
            modes. More particles mean less shot noise of the particle lattice.
        mass_assignment: ``"tsc"``, the triangular-shaped cloud, whose density is smooth in the
            displacements, as Hamiltonian Monte Carlo needs it; ``"cic"``, cloud-in-cell; or
            ``"ngp"``, nearest grid point, which has no gradient.
        redshift_space: whether particles are put where their redshift says they are.
        line_of_sight: axis 0, 1 or 2, or a vector `[3]`; for redshift space seen from far away.
        observer: position `[3]` [Mpc/h] in the coordinates of the box, which need not be inside.
            With it lines of sight are radial.
        interlacing: see `npe_tf.painting.overdensity`.
        compensated: see `npe_tf.painting.overdensity`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        grid: Grid,
        cosmology: Cosmology,
        *,
        scale_factor: float = 1.0,
        supersampling: int = 1,
        mass_assignment: str = "tsc",
        redshift_space: bool = False,
        line_of_sight: int | ArrayLike = 2,
        observer: ArrayLike | None = None,
        interlacing: bool = False,
        compensated: bool = False,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        if (
            isinstance(supersampling, bool)
            or not isinstance(supersampling, (int, np.integer))
            or not 1 <= supersampling <= _LARGEST_SUPERSAMPLING
        ):
            raise ValueError(
                f"Invalid value for argument `supersampling`. Expected an integer from 1 to "
                f"{_LARGEST_SUPERSAMPLING}. Received: supersampling={supersampling!r}"
            )
        if mass_assignment not in MASS_ASSIGNMENTS:
            raise ValueError(
                f"Invalid value for argument `mass_assignment`. Expected one of "
                f"{MASS_ASSIGNMENTS}. Received: mass_assignment={mass_assignment!r}"
            )
        known = tf.get_static_value(scale_factor)
        if known is not None and not (np.isfinite(known) and 0.0 < known <= 1.0):
            raise ValueError(
                "Invalid value for argument `scale_factor`. Expected a number in (0, 1]. Received: "
                f"scale_factor={scale_factor!r}"
            )
        self.grid = grid
        self.cosmology = cosmology
        self.scale_factor = scale_factor
        self.supersampling = int(supersampling)
        self.mass_assignment = mass_assignment
        self.redshift_space = redshift_space
        self.observer = None if observer is None else check_position("observer", observer)
        self.line_of_sight = line_of_sight
        self.interlacing = interlacing
        self.compensated = compensated
        if redshift_space:
            # raises for a line of sight that is none
            line_of_sight_shift(np.zeros((3, 1)), np.zeros((3, 1)), line_of_sight, observer)

    @functools.cached_property
    def lattice_grid(self) -> Grid:
        """The lattice of the particles as a mesh, sN cells along each side."""
        return Grid(self.grid.num_cells * self.supersampling, self.grid.box_size)

    @abc.abstractmethod
    def motion(self, modes: Tensor, with_rate: bool = True) -> Motion:
        """Displacement of every particle in real space.

        Args:
            modes: linear density at a=1, `[N, N, N//2 + 1]`.
            with_rate: whether the rate is needed; it is `None` otherwise.
        """

    def displacement(self, modes: Tensor) -> Tensor:
        """Displacement of every particle in real space, `[3, sN, sN, sN]` [Mpc/h]."""
        return self.motion(self._checked(modes), with_rate=False).displacement

    def particles(self, modes: Tensor) -> Particles:
        """Particles in real space.

        Args:
            modes: linear density at a=1, `[N, N, N//2 + 1]`.

        Returns:
            (sN)^3 particles, in the order of their lattice points.
        """
        displacement, rate = self.motion(self._checked(modes))
        a = as_float64(self.scale_factor)
        factor = HUBBLE * a * self.cosmology.hubble(a)
        velocities = tf.reshape(tf.cast(factor, rate.dtype) * rate, [3, -1])
        lattice = self._lattice(rate.dtype) * tf.constant(self.grid.cell_size, rate.dtype)
        return Particles(lattice + tf.reshape(displacement, [3, -1]), velocities)

    def positions(self, modes: Tensor) -> Tensor:
        """Positions of the particles as they are seen, `[3, (sN)^3]` [cells of `grid`]."""
        displacement, rate = self.motion(self._checked(modes), with_rate=self.redshift_space)
        cell = tf.constant(self.grid.cell_size, displacement.dtype)
        positions = self._lattice(displacement.dtype) + tf.reshape(displacement, [3, -1]) / cell
        if self.redshift_space:
            rate, observer = tf.reshape(rate, [3, -1]) / cell, self.observer
            if observer is not None:
                observer = observer / self.grid.cell_size
            positions += line_of_sight_shift(positions, rate, self.line_of_sight, observer)
        return positions

    def __call__(self, modes: Tensor) -> Tensor:
        """Evolved overdensity.

        Args:
            modes: linear density at a=1, `[N, N, N//2 + 1]`.

        Returns:
            Overdensity `[N, N, N]` with mean zero, at least -1 unless it is compensated.
        """
        return overdensity(
            self.positions(modes),
            self.grid.num_cells,
            self.mass_assignment,
            interlacing=self.interlacing,
            compensated=self.compensated,
        )

    def _lattice(self, dtype: Any) -> Tensor:
        """Lattice points `[3, (sN)^3]` [cells of `grid`]."""
        return tf.constant(self._lattice_points, dtype)

    @functools.cached_property
    def _lattice_points(self) -> NDArray[np.float64]:
        # the force asks for it in every step
        return np.indices(self.lattice_grid.shape).reshape(3, -1) / self.supersampling

    def _checked(self, modes: Tensor) -> Tensor:
        modes = tf.convert_to_tensor(modes)
        if not modes.dtype.is_complex or modes.shape != self.grid.modes_shape:
            raise ValueError(
                "Invalid value for argument `modes`. Expected complex modes of shape "
                f"{self.grid.modes_shape}. Received: {modes.dtype.name} of shape "
                f"{tuple(modes.shape)}"
            )
        if tf.executing_eagerly() and not np.all(np.isfinite(modes.numpy())):
            raise ValueError(
                "Invalid value for argument `modes`. Expected finite modes. Received: "
                f"{np.count_nonzero(~np.isfinite(modes.numpy()))} that are not"
            )
        return modes
