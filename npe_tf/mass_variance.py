"""Variance of the linear density in spheres that hold a mass, as numbers that a layer can keep.

log sigma^2 is smooth in log mass. A polynomial of it can be evaluated and differentiated anywhere,
in any dtype, and goes into a layer's configuration as a dozen numbers;
`npe_tf.peak_background.mass_variance` makes it from a power spectrum.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["LOG_MASS_RANGE", "MassVariance"]

Tensor = Any

LOG_MASS_RANGE = (math.log(1e8), math.log(1e18))
"""Where the polynomial holds [log of Msun/h]; masses outside count as its ends."""


@dataclasses.dataclass(frozen=True)
class MassVariance:
    """log sigma^2 as a polynomial of log mass.

    Attributes:
        coefficients: of log sigma^2 in u, lowest power first; u is -1 and 1 at the ends of
            `LOG_MASS_RANGE`.
        mean_density: of matter, comoving [Msun/h / (Mpc/h)^3].
    """

    coefficients: tuple[float, ...]
    mean_density: float

    def __post_init__(self) -> None:
        """Check the numbers, which may come from a file."""
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        if not self.coefficients or not np.all(np.isfinite(self.coefficients)):
            raise ValueError(
                "Invalid value for argument `coefficients`. Expected finite numbers. Received: "
                f"coefficients={self.coefficients!r}"
            )
        if not (math.isfinite(self.mean_density) and self.mean_density > 0):
            raise ValueError(
                "Invalid value for argument `mean_density`. Expected a positive number. Received: "
                f"mean_density={self.mean_density!r}"
            )

    def log_variance(self, log_mass: Tensor) -> Tensor:
        """Log sigma^2 at masses.

        Args:
            log_mass: tensor of any shape [log of Msun/h].

        Returns:
            Of the same shape.
        """
        return _horner(self.coefficients, _unit(log_mass))

    def slope(self, log_mass: Tensor) -> Tensor:
        """Dlog sigma^2 / dlogM, negative, of the shape of `log_mass`."""
        low, high = LOG_MASS_RANGE
        derived = [n * c for n, c in enumerate(self.coefficients)][1:] or [0.0]
        return _horner(derived, _unit(log_mass)) * (2.0 / (high - low))


def _unit(log_mass: Tensor) -> Tensor:
    low, high = LOG_MASS_RANGE
    u = (2.0 * log_mass - (low + high)) / (high - low)
    return tf.clip_by_value(u, -1.0, 1.0)


def _horner(coefficients: Any, u: Tensor) -> Tensor:
    total = tf.zeros_like(u)
    for coefficient in reversed(list(coefficients)):
        total = total * u + coefficient
    return total
