"""A simulated box of one's own: particle mesh, and friends-of-friends haloes in it.

White noise on the lattice of the particles, as fine as they are, makes the linear field; the
particle mesh moves them to the epoch of the catalogue; groups of friends are its haloes. What is
kept is what inference and pre-training ask for: haloes, and linear and evolved density on a mesh.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import resample_white_noise, truncate
from npe_tf.friends_of_friends import (
    FoundHaloes,
    find_haloes,
    require_scipy,
    warren_number,
)
from npe_tf.gadget import CRITICAL_DENSITY
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.halo_abundance import expected_haloes
from npe_tf.initial_field import InitialField
from npe_tf.painting import overdensity
from npe_tf.redshift_space import to_redshift_space

__all__ = ["NBodyConfig", "Simulation", "simulate"]

Tensor = Any
Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class NBodyConfig:
    """A simulation.

    Attributes:
        num_particles: along each side of their lattice; even.
        box_size: comoving side [Mpc/h].
        num_cells: along each side of the mesh of the fields that are kept; even, and at most
            `num_particles`.
        cosmology: background and linear power.
        scale_factor: epoch of the haloes.
        num_steps: of the particle mesh.
        force_factor: cells of the force mesh for each particle and side.
        linking_length: in units of the mean separation of the particles.
        min_particles: of a halo.
        warren_correction: whether masses are corrected as in Warren et al. 2006.
        redshift_space: whether haloes and evolved density are where redshifts put them, along the
            last axis.

    Raises:
        ValueError: if a number is out of range.
    """

    num_particles: int
    box_size: float
    num_cells: int
    cosmology: Cosmology = dataclasses.field(default_factory=Cosmology)
    scale_factor: float = 1.0
    num_steps: int = 40
    force_factor: int = 2
    linking_length: float = 0.2
    min_particles: int = 20
    warren_correction: bool = False
    redshift_space: bool = False

    def __post_init__(self) -> None:
        """Refuse what would fail only after the simulation."""
        for name, limit in (("num_particles", None), ("num_cells", self.num_particles)):
            value = getattr(self, name)
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or value < 4 or value % 2 or (limit is not None and value > limit):
                most = "" if limit is None else f" up to num_particles={limit}"
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected an even integer from 4 on{most}"
                    f". Received: {name}={value!r}"
                )
        if not 0.0 < self.linking_length < 1.0:
            raise ValueError(
                "Invalid value for argument `linking_length`. Expected a number between 0 and 1, "
                "in units of the mean separation of the particles. Received: "
                f"linking_length={self.linking_length!r}"
            )
        if not 1 <= self.min_particles <= self.num_particles**3:
            raise ValueError(
                "Invalid value for argument `min_particles`. Expected a positive integer up to "
                f"num_particles^3={self.num_particles**3}. Received: "
                f"min_particles={self.min_particles!r}"
            )

    @property
    def particle_mass(self) -> float:
        """Mass of a particle [Msun/h]."""
        matter = CRITICAL_DENSITY * float(self.cosmology.Omega_m) * float(self.box_size) ** 3
        return matter / int(self.num_particles) ** 3

    @property
    def smallest_mass(self) -> float:
        """Mass of the smallest halo [Msun/h]."""
        number = warren_number(self.min_particles) if self.warren_correction else self.min_particles
        return self.particle_mass * float(number)

    @property
    def expected_haloes(self) -> float:
        """How many haloes the fit of Sheth & Tormen 1999 expects."""
        # a single particle is no halo of the fit's; below 1e8 Msun/h it is not tabulated
        edges = [max(self.smallest_mass, 1e8), math.inf]
        volume = float(self.box_size) ** 3
        return float(expected_haloes(edges, volume, self.cosmology, self.scale_factor)[0])

    def to_attributes(self) -> dict[str, Any]:
        """Flat numbers, as a file's attributes keep them, without cosmology and box."""
        values = dataclasses.asdict(self)
        return {key: values[key] for key in values if key not in ("cosmology", "box_size")}


class Simulation(NamedTuple):
    """What is kept of a simulation.

    Attributes:
        haloes: in redshift space if that was asked for.
        delta_linear: linear overdensity at a=1, `[N, N, N]` float32.
        delta_final: evolved overdensity, cloud-in-cell from all particles, `[N, N, N]` float32.
        white_noise: that `InitialField` makes `delta_linear` of, `[N, N, N]` float32.
    """

    haloes: FoundHaloes
    delta_linear: Array
    delta_final: Array
    white_noise: Array


class _WatchedMesh(ParticleMesh):
    """A particle mesh that tells of each step, and has no gradient."""

    report: Callable[[int, int], None] | None = None

    def _evolve(self, displacement: Tensor, velocity: Tensor, steps: Tensor) -> tuple[Any, Any]:
        step = tf.function(self._step)
        for number, row in enumerate(tf.unstack(steps), 1):
            displacement, velocity = step(row, displacement, velocity)
            if self.report is not None:
                self.report(number, self.num_steps)
        return displacement, velocity


def simulate(
    config: NBodyConfig,
    white_noise: ArrayLike,
    report: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Run a simulation and find its haloes.

    Args:
        config: of the simulation.
        white_noise: on the lattice of the particles, `[M, M, M]`; float32 is precise enough.
        report: called after each step with its number, from 1, and the number of steps.

    Returns:
        Haloes and fields. There may be no halo.

    Raises:
        ImportError: if SciPy is not installed.
        ValueError: if the white noise has another shape.
    """
    require_scipy()  # rather now than after the last step
    lattice = Grid(int(config.num_particles), float(config.box_size))
    noise = tf.convert_to_tensor(np.asarray(white_noise))
    initial = InitialField(lattice, config.cosmology)
    modes = initial.modes(noise)
    mesh = _WatchedMesh(
        lattice,
        config.cosmology,
        num_steps=config.num_steps,
        force_factor=config.force_factor,
        scale_factor=config.scale_factor,
    )
    mesh.report = report
    particles = mesh.particles(modes)
    positions = np.asarray(particles.positions).T
    velocities = np.asarray(particles.velocities).T
    haloes = find_haloes(
        positions,
        lattice.box_size,
        config.particle_mass,
        velocities,
        linking_length=config.linking_length,
        min_particles=config.min_particles,
        warren_correction=config.warren_correction,
    )

    def seen(where: Array, moving: Any) -> Array:
        if not config.redshift_space or not len(where):
            return where
        box = lattice.box_size
        shifted = to_redshift_space(
            where, moving, config.cosmology, config.scale_factor, box_size=box
        )
        return np.where(shifted >= box, 0.0, shifted)

    haloes = haloes._replace(positions=seen(haloes.positions, haloes.velocities))
    cells = int(config.num_cells)
    scaled = seen(positions, velocities) * (cells / lattice.box_size)
    delta_final = overdensity(tf.constant(scaled.T, tf.float32), cells, "cic")
    return Simulation(
        haloes,
        truncate(np.asarray(initial(noise)), cells).astype(np.float32),
        np.asarray(delta_final),
        resample_white_noise(np.asarray(white_noise), cells).astype(np.float32),
    )
