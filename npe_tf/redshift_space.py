"""Where redshifts put things: real space to redshift space.

An object at comoving x with the peculiar velocity v is seen at ``s = x + n (v.n) / (a H(a))``, n
the unit vector of the line of sight (Kaiser 1987, MNRAS 227, 1). In Mpc/h with v in km/s,
``a H = 100 a E(a)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from npe_tf.cosmology import Cosmology

__all__ = ["HUBBLE", "line_of_sight_shift", "to_redshift_space"]

Tensor = Any

HUBBLE = 100.0
"""Hubble constant [km/s/(Mpc/h)]."""


def line_of_sight_shift(
    positions: Tensor,
    rates: Tensor,
    line_of_sight: int | ArrayLike = 2,
    observer: ArrayLike | None = None,
) -> Tensor:
    """The part of a vector along the line of sight, n (u.n).

    Args:
        positions: `[3, P]`.
        rates: u, `[3, P]`; of the unit of the result.
        line_of_sight: axis 0, 1 or 2, or a vector `[3]` of any length.
        observer: `[3]` in the coordinates of `positions`; with it lines of sight are radial.

    Returns:
        `[3, P]`. An object at the observer has no line of sight and is not shifted.

    Raises:
        ValueError: if the line of sight is no axis and no vector.
    """
    rates = tf.convert_to_tensor(rates)
    if observer is not None:
        away = tf.convert_to_tensor(positions) - tf.constant(
            np.asarray(observer, np.float64)[:, np.newaxis], rates.dtype
        )
        squared = tf.reduce_sum(tf.square(away), axis=0)
        return away * tf.math.divide_no_nan(tf.reduce_sum(rates * away, axis=0), squared)
    vector = np.asarray(line_of_sight, dtype=np.float64)
    if vector.shape == () and not isinstance(line_of_sight, bool) and line_of_sight in (0, 1, 2):
        vector = np.eye(3)[int(vector)]
    length = np.linalg.norm(vector) if vector.shape == (3,) else np.nan
    if not (np.isfinite(length) and length > 0.0):
        raise ValueError(
            "Invalid value for argument `line_of_sight`. Expected 0, 1 or 2, or a vector of three "
            f"numbers. Received: line_of_sight={line_of_sight!r}"
        )
    unit = tf.constant((vector / length)[:, np.newaxis], rates.dtype)
    return unit * tf.reduce_sum(rates * unit, axis=0)


def to_redshift_space(
    positions: ArrayLike,
    velocities: ArrayLike,
    cosmology: Cosmology,
    scale_factor: float = 1.0,
    line_of_sight: int | ArrayLike = 2,
    observer: ArrayLike | None = None,
    box_size: float | None = None,
) -> Any:
    """Move a catalogue to redshift space.

    Args:
        positions: `[H, 3]` comoving [Mpc/h].
        velocities: `[H, 3]` peculiar [km/s].
        cosmology: gives the expansion rate.
        scale_factor: epoch of the catalogue.
        line_of_sight: axis 0, 1 or 2, or a vector `[3]`.
        observer: `[3]` [Mpc/h]; with it lines of sight are radial.
        box_size: side [Mpc/h] of a periodic box into which the result is wrapped; by default it is
            not.

    Returns:
        `[H, 3]` [Mpc/h], float64.

    Raises:
        ValueError: if the shapes differ or are not `[H, 3]`.
    """
    positions = np.asarray(positions, dtype=np.float64)
    velocities = np.asarray(velocities, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3 or positions.shape != velocities.shape:
        raise ValueError(
            "Invalid value for argument `velocities`. Expected positions and velocities of shape "
            f"[H, 3]. Received: shapes {positions.shape} and {velocities.shape}"
        )
    to_length = 1.0 / (HUBBLE * scale_factor * float(cosmology.hubble(scale_factor)))
    shift = line_of_sight_shift(positions.T, velocities.T * to_length, line_of_sight, observer)
    seen = positions + np.asarray(shift).T
    return seen if box_size is None else seen % box_size
