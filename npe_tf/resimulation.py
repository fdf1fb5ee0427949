"""Initial conditions of a posterior sample for a simulation of its own.

A sample of the initial field fixes the modes that the mesh of the inference carries. A finer mesh
gets them as they are and the rest from fresh white noise, so that a simulation of it has the
structures that the haloes tell of and small scales that are a draw from the prior.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import resample_white_noise
from npe_tf.gravity.forward_model import Particles
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField

__all__ = ["constrained_particles"]


def constrained_particles(
    white_noise: ArrayLike,
    box_size: float,
    cosmology: Cosmology,
    redshift: float,
    num_particles: int | None = None,
    seed: int | None = None,
) -> Particles:
    """Particles of second-order Lagrangian perturbation theory from white noise.

    Args:
        white_noise: of a sample, `[N, N, N]`.
        box_size: side of the box [Mpc/h].
        cosmology: gives power and growth.
        redshift: where the simulation starts; shell crossing must be far, 20 to 100 is usual.
        num_particles: along each side, even; by default N.
        seed: of the modes that the sample does not have, needed if `num_particles` is above N.

    Returns:
        `num_particles`^3 particles; positions and velocities `[3, P]`, float64.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not (np.isfinite(redshift) and redshift >= 0.0):
        raise ValueError(
            "Invalid value for argument `redshift`. Expected a number of at least 0. Received: "
            f"redshift={redshift!r}"
        )
    noise = np.asarray(white_noise, dtype=np.float64)
    if num_particles is not None:
        noise = resample_white_noise(noise, num_particles, seed)
    grid = Grid(noise.shape[-1], box_size)
    model = LPT(grid, cosmology, order=2, scale_factor=1.0 / (1.0 + redshift))
    return model.particles(InitialField(grid, cosmology).modes(tf.constant(noise)))
