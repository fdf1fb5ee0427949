"""How many haloes of which mass a universe has: published fits.

All have dn/dlogM = f(sigma) rho / M |d log sigma / d log M|, rho being the comoving matter density
and sigma(M) the linear rms overdensity of spheres that hold the mass M in the mean.

* ``"sheth_tormen"``: Sheth & Tormen 1999 (MNRAS 308, 119); all matter is in haloes.
* ``"warren"``: Warren et al. 2006 (ApJ 646, 881); of friends-of-friends haloes at z=0 with a
  linking length of 0.2, their masses corrected as `npe_tf.friends_of_friends` can.
* ``"tinker"``: Tinker et al. 2008 (ApJ 688, 709), table 2 and its change with redshift; of spheres
  of 200 times the mean density.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.peak_background import halo_mass_function, mass_variance, mean_density

__all__ = ["FITS", "expected_haloes", "halo_abundance"]

Array = NDArray[np.float64]

FITS = ("sheth_tormen", "warren", "tinker")
"""Names of the fits."""

_HEAVIEST = 1e17
_NODES = 40


def halo_abundance(
    mass: ArrayLike,
    cosmology: Cosmology,
    scale_factor: float = 1.0,
    fit: str = "sheth_tormen",
) -> Array:
    """Haloes per volume and natural logarithm of the mass.

    Args:
        mass: `[M]` [Msun/h].
        cosmology: gives power, density and growth.
        scale_factor: epoch.
        fit: one of `FITS`.

    Returns:
        `[M]` [(h/Mpc)^3].

    Raises:
        ValueError: if a mass is not in range or there is no such fit.
    """
    if fit not in FITS:
        raise ValueError(
            f"Invalid value for argument `fit`. Expected one of {FITS}. Received: fit={fit!r}"
        )
    masses = np.asarray(mass, dtype=np.float64)
    if masses.ndim != 1 or not np.all((masses >= 1e8) & (masses <= _HEAVIEST)):
        raise ValueError(
            f"Invalid value for argument `mass`. Expected shape [M], from 1e8 to {_HEAVIEST:g} "
            f"Msun/h. Received: mass={mass!r}"
        )
    variance, log_mass = mass_variance(cosmology, scale_factor), np.log(masses)
    if fit == "sheth_tormen":
        return halo_mass_function(log_mass, variance)
    x = tf.constant(log_mass)
    sigma = np.exp(0.5 * np.asarray(variance.log_variance(x)))
    steepness = -0.5 * np.asarray(variance.slope(x))
    if fit == "warren":
        share = 0.7234 * (sigma**-1.625 + 0.2538) * np.exp(-1.1982 / sigma**2)
    else:
        # their amplitudes, powers and scale at 200 times the mean density; table 2
        power_of_b = 10.0 ** -((0.75 / np.log10(200.0 / 75.0)) ** 1.2)
        amplitude = 0.186 * scale_factor**0.14
        exponent = 1.47 * scale_factor**0.06
        width = 2.57 * scale_factor**power_of_b
        share = amplitude * ((sigma / width) ** -exponent + 1.0) * np.exp(-1.19 / sigma**2)
    return np.asarray(share * mean_density(cosmology) / masses * steepness)


def expected_haloes(
    mass_edges: ArrayLike,
    volume: float,
    cosmology: Cosmology,
    scale_factor: float = 1.0,
    fit: str = "sheth_tormen",
) -> Array:
    """Expected haloes in bins of mass.

    Args:
        mass_edges: rising, `[B + 1]` [Msun/h]; infinity as the last stands for no upper edge. From
            1e17 on there are none.
        volume: [(Mpc/h)^3].
        cosmology: see `halo_abundance`.
        scale_factor: epoch.
        fit: one of `FITS`.

    Returns:
        `[B]`.

    Raises:
        ValueError: if an edge is not in range or there is no such fit.
    """
    edges = np.minimum(np.asarray(mass_edges, dtype=np.float64), _HEAVIEST)
    # Gauss and Legendre's nodes and weights
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    low, high = np.log(edges[:-1, np.newaxis]), np.log(edges[1:, np.newaxis])
    log_mass = 0.5 * (low + high + (high - low) * nodes)
    # the exponential may round the heaviest up
    mass = np.minimum(np.exp(log_mass.ravel()), _HEAVIEST)
    found = halo_abundance(mass, cosmology, scale_factor, fit)
    width = 0.5 * (high - low)[:, 0]
    return np.asarray(volume * width * (found.reshape(log_mass.shape) @ weights))
