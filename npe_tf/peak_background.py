"""Halo mass functions and biases of a cosmology: the peak-background split without a field.

sigma^2(M) is the variance of the linear density in spheres that hold the mass M on average,

    sigma^2 = int k^3 P(k) W^2(k R) / (2 pi^2) dlog k,    W(x) = 3 (sin x - x cos x) / x^3,
    M = 4/3 pi R^3 rho,

of the library's own linear power, grown to the epoch. `npe_tf.multiplicity` makes mass functions
and biases of it. Masses in Msun/h, lengths in Mpc/h.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.gadget import CRITICAL_DENSITY
from npe_tf.mass_variance import LOG_MASS_RANGE, MassVariance
from npe_tf.multiplicity import COLLAPSE_THRESHOLD, SHETH_TORMEN, Multiplicity
from npe_tf.power import linear_power
from npe_tf.tabulated_power import TabulatedPower

__all__ = [
    "halo_mass_function",
    "lagrangian_radius",
    "log_peak_height",
    "mass_variance",
    "mean_density",
    "sigma_of_radius",
]

Array = NDArray[np.float64]

# Of the integral over log k: what lies outside changes sigma by less than 1e-4 for R from 0.1 to
# 200 Mpc/h, and the trapezoidal rule by less still.
_K_RANGE = (1e-5, 1e3)
_NODES = 8192
_DEGREE = 14


def mean_density(cosmology: Cosmology) -> float:
    """Comoving density of matter [Msun/h / (Mpc/h)^3]."""
    return CRITICAL_DENSITY * float(cosmology.Omega_m)


def lagrangian_radius(mass: ArrayLike, cosmology: Cosmology) -> Array:
    """Radius of the sphere that holds a mass at the mean density [Mpc/h]."""
    volume = np.asarray(mass, dtype=np.float64) / mean_density(cosmology)
    return np.asarray(np.cbrt(0.75 / np.pi * volume))


def sigma_of_radius(
    radius: ArrayLike,
    cosmology: Cosmology,
    scale_factor: float = 1.0,
    transfer: str | TabulatedPower = "eisenstein_hu",
) -> Array:
    """Linear rms overdensity in spheres.

    Args:
        radius: from 0.1 to 200 Mpc/h, any shape.
        cosmology: of numbers.
        scale_factor: epoch.
        transfer: see `linear_power`; a table must reach from 1e-5 to 1e3 h/Mpc.

    Returns:
        Of the shape of `radius`.

    Raises:
        ValueError: if a radius is not positive or the cosmology has tensors.
    """
    radii = np.asarray(radius, dtype=np.float64)
    if not np.all(np.isfinite(radii) & (radii > 0)):
        raise ValueError(
            "Invalid value for argument `radius`. Expected positive lengths in Mpc/h. Received: "
            f"radius={radius!r}"
        )
    if not cosmology.is_numeric:
        raise ValueError(
            "Invalid value for argument `cosmology`. Expected numbers. Received: tensors among "
            f"{cosmology!r}"
        )
    with tf.init_scope():
        k = np.geomspace(*_K_RANGE, _NODES)
        power = linear_power(k, cosmology, transfer).numpy()
        growth = float(cosmology.growth_factor(scale_factor))
    integrand = k**3 * power / (2.0 * np.pi**2) * math.log(k[1] / k[0])
    variance = [np.sum(integrand * np.square(_top_hat(k * r))) for r in radii.ravel()]
    return growth * np.sqrt(np.reshape(variance, radii.shape))


def mass_variance(
    cosmology: Cosmology,
    scale_factor: float = 1.0,
    transfer: str | TabulatedPower = "eisenstein_hu",
) -> MassVariance:
    """sigma^2(M) as a polynomial.

    For the default cosmology sigma agrees with the integral to 5e-4 from 1e10 to 1e16 Msun/h, and
    to 1.5e-3 beyond.

    Args:
        cosmology: of numbers.
        scale_factor: epoch.
        transfer: as for `sigma_of_radius`.

    Returns:
        The polynomial.
    """
    low, high = LOG_MASS_RANGE
    u = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    log_mass = 0.5 * (low + high) + 0.5 * (high - low) * u
    radius = lagrangian_radius(np.exp(log_mass), cosmology)
    log_variance = 2.0 * np.log(sigma_of_radius(radius, cosmology, scale_factor, transfer))
    chebyshev = np.polynomial.chebyshev.chebfit(u, log_variance, _DEGREE)
    coefficients = np.polynomial.chebyshev.cheb2poly(chebyshev)
    return MassVariance(tuple(coefficients), mean_density(cosmology))


def log_peak_height(log_mass: ArrayLike, variance: MassVariance) -> Array:
    """Log nu, of the shape of `log_mass`."""
    x = tf.constant(np.asarray(log_mass, dtype=np.float64))
    return np.asarray(math.log(COLLAPSE_THRESHOLD) - 0.5 * variance.log_variance(x))


def halo_mass_function(
    log_mass: ArrayLike, variance: MassVariance, multiplicity: Multiplicity = SHETH_TORMEN
) -> Array:
    """Mean number density of haloes dn/dlogM.

    Args:
        log_mass: any shape [log of Msun/h].
        variance: see `mass_variance`.
        multiplicity: which fit.

    Returns:
        Of the shape of `log_mass` [(h/Mpc)^3].
    """
    x = np.asarray(log_mass, dtype=np.float64)
    fraction = np.exp(multiplicity.log_value(log_peak_height(x, variance)))
    # dlog nu / dlogM is half of the slope, and positive
    steepness = -0.5 * np.asarray(variance.slope(tf.constant(x)))
    return np.asarray(variance.mean_density * np.exp(-x) * fraction * steepness)


def _top_hat(x: Array) -> Array:
    """Transform of the sphere."""
    # at small x the difference loses all its digits
    far = np.maximum(x, 1e-2)
    exact = 3.0 * (np.sin(far) - far * np.cos(far)) / far**3
    return np.where(x > 1e-2, exact, 1.0 - x**2 / 10.0)
