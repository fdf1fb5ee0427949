"""Linear matter power spectrum: Eisenstein & Hu 1998 with baryon wiggles.

Source: Eisenstein & Hu 1998, ApJ 496, 605 (https://arxiv.org/abs/astro-ph/9709112); the numbers
in the comments are theirs. Wavenumbers in h/Mpc, power in (Mpc/h)^3, at a=1, normalised to the
cosmology's `sigma8`. Massless neutrinos only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology

__all__ = ["linear_power", "transfer_function"]

Array = NDArray[np.float64]


def _suppression(q: Array, alpha: float, beta: float) -> Array:
    """Pressureless transfer function T0(k; alpha, beta), eqs. 19-20."""
    c = 14.2 / alpha + 386.0 / (1.0 + 69.9 * q**1.08)
    log_term = np.log(np.e + 1.8 * beta * q)
    return np.asarray(log_term / (log_term + c * q**2))


def transfer_function(k: ArrayLike, cosmology: Cosmology) -> Array:
    """Matter transfer function with wiggles, one at k -> 0.

    Args:
        k: wavenumbers [h/Mpc], non-negative, any shape.
        cosmology: the background.

    Returns:
        T(k) of the shape of `k`.
    """
    k = np.asarray(k, dtype=np.float64) * cosmology.h  # 1/Mpc, the paper's unit
    matter = cosmology.Omega_m * cosmology.h**2
    baryon = cosmology.Omega_b * cosmology.h**2
    fraction_b = cosmology.Omega_b / cosmology.Omega_m
    fraction_c = 1.0 - fraction_b
    theta = cosmology.T_cmb / 2.7

    z_eq = 2.50e4 * matter * theta**-4  # eq. 2
    k_eq = 7.46e-2 * matter * theta**-2  # eq. 3
    b1 = 0.313 * matter**-0.419 * (1.0 + 0.607 * matter**0.674)
    b2 = 0.238 * matter**0.223
    z_drag = 1291.0 * matter**0.251 / (1.0 + 0.659 * matter**0.828) * (1.0 + b1 * baryon**b2)
    ratio = 31.5e3 * baryon * theta**-4  # eq. 5, times 1/z
    r_drag, r_eq = ratio / z_drag, ratio / z_eq
    sound = (
        2.0
        / (3.0 * k_eq)
        * np.sqrt(6.0 / r_eq)
        * np.log((np.sqrt(1.0 + r_drag) + np.sqrt(r_drag + r_eq)) / (1.0 + np.sqrt(r_eq)))
    )  # eq. 6
    k_silk = 1.6 * baryon**0.52 * matter**0.73 * (1.0 + (10.4 * matter) ** -0.95)  # eq. 7
    q = k / (13.41 * k_eq)  # eq. 10

    a1 = (46.9 * matter) ** 0.670 * (1.0 + (32.1 * matter) ** -0.532)
    a2 = (12.0 * matter) ** 0.424 * (1.0 + (45.0 * matter) ** -0.582)
    alpha_c = a1**-fraction_b * a2 ** -(fraction_b**3)  # eq. 11
    bb1 = 0.944 / (1.0 + (458.0 * matter) ** -0.708)
    bb2 = (0.395 * matter) ** -0.0266
    beta_c = 1.0 / (1.0 + bb1 * (fraction_c**bb2 - 1.0))  # eq. 12
    interpolation = 1.0 / (1.0 + (k * sound / 5.4) ** 4)  # eq. 18
    cold = interpolation * _suppression(q, 1.0, beta_c) + (1.0 - interpolation) * _suppression(
        q, alpha_c, beta_c
    )  # eq. 17

    y = (1.0 + z_eq) / (1.0 + z_drag)
    root = np.sqrt(1.0 + y)
    g = y * (-6.0 * root + (2.0 + 3.0 * y) * np.log((root + 1.0) / (root - 1.0)))  # eq. 15
    alpha_b = 2.07 * k_eq * sound * (1.0 + r_drag) ** -0.75 * g  # eq. 14
    beta_b = 0.5 + fraction_b + (3.0 - 2.0 * fraction_b) * np.sqrt((17.2 * matter) ** 2 + 1.0)
    beta_node = 8.41 * matter**0.435  # eq. 23
    ks = k * sound
    with np.errstate(divide="ignore"):
        # eq. 22, k s~ = (ks)^2 / (ks^3 + beta^3)^(1/3): finite at k=0
        shifted = ks**2 / np.cbrt(ks**3 + beta_node**3)
        envelope = alpha_b / (1.0 + np.where(ks > 0, beta_b / ks, np.inf) ** 3)
    silk = np.exp(-((k / k_silk) ** 1.4))
    baryons = (_suppression(q, 1.0, 1.0) / (1.0 + (ks / 5.2) ** 2) + envelope * silk) * np.sinc(
        shifted / np.pi
    )  # eq. 21
    return np.asarray(fraction_b * baryons + fraction_c * cold)  # eq. 16


def _sigma8_unnormalised(cosmology: Cosmology) -> float:
    """Rms of k^n_s T^2 in spheres of 8 Mpc/h, by the trapezoidal rule in ln k."""
    log_k = np.linspace(np.log(1e-6), np.log(1e3), 40001)
    k = np.exp(log_k)
    x = 8.0 * k
    with np.errstate(invalid="ignore"):
        series = 1.0 - x**2 / 10.0
        top_hat = np.where(x > 1e-2, 3.0 * (np.sin(x) - x * np.cos(x)) / x**3, series)
    power = k**cosmology.n_s * transfer_function(k, cosmology) ** 2
    integrand = k**3 * power * top_hat**2 / (2.0 * np.pi**2)
    step = log_k[1] - log_k[0]
    return float(np.sqrt(np.sum(0.5 * (integrand[1:] + integrand[:-1])) * step))


def linear_power(k: ArrayLike, cosmology: Cosmology) -> Array:
    """Linear matter power spectrum at a=1.

    Args:
        k: wavenumbers [h/Mpc], non-negative, any shape.
        cosmology: supplies shape and normalisation.

    Returns:
        P(k) of the shape of `k` [(Mpc/h)^3]; zero at k=0.
    """
    k = np.asarray(k, dtype=np.float64)
    if not np.all(np.isfinite(k) & (k >= 0)):
        raise ValueError(
            "Invalid value for argument `k`. Expected finite non-negative wavenumbers in h/Mpc. "
            f"Received: k={k!r}"
        )
    safe = np.where(k > 0, k, 1.0)
    shape = safe**cosmology.n_s * transfer_function(safe, cosmology) ** 2
    amplitude = (cosmology.sigma8 / _sigma8_unnormalised(cosmology)) ** 2
    return np.asarray(np.where(k > 0, amplitude * shape, 0.0))
