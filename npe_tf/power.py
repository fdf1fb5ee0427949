"""Linear matter power spectrum: fits of Eisenstein & Hu 1998, or a table of a Boltzmann code.

Source: Eisenstein & Hu 1998, ApJ 496, 605 (https://arxiv.org/abs/astro-ph/9709112); the numbers
in the comments are theirs. Wavenumbers in h/Mpc, power in (Mpc/h)^3, at a=1. Massless neutrinos
only. Results are float64 tensors, differentiable with respect to the wavenumbers and to every
parameter of the cosmology that is a tensor.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.background import HUBBLE_DISTANCE, as_float64, sinhc_of_square
from npe_tf.cosmology import Cosmology
from npe_tf.tabulated_power import TabulatedPower, check_wavenumbers

__all__ = ["TRANSFERS", "TabulatedPower", "linear_power", "sigma8", "transfer_function"]

Array = NDArray[np.float64]
Tensor = Any

TRANSFERS = ("eisenstein_hu", "eisenstein_hu_no_wiggle")

# Wavenumber at which A_s is given [1/Mpc].
_PIVOT = 0.05

# Of the integral for sigma8 [h/Mpc]; together they cost a relative error below 3e-7.
_SIGMA8_RANGE = (1e-4, 20.0)
_SIGMA8_NODES = 512
# What a table must cover to be normalised; outside, it is continued as a power law.
_SIGMA8_COVERED = (2e-3, 1.0)


def _suppression(q: Tensor, tail: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Pressureless transfer function T0(k; alpha, beta), eqs. 19-20, `tail` the end of eq. 20."""
    log_term = tf.math.log(np.e + 1.8 * beta * q)
    return log_term / (log_term + (14.2 / alpha + tail) * q**2)


def _sinc(x: Tensor) -> Tensor:
    """sin(x)/x with accurate derivatives at small x."""
    small = tf.abs(x) < 1.0
    near = sinhc_of_square(-(tf.where(small, x, 0.0) ** 2), num_terms=9)
    far = tf.where(small, tf.ones_like(x), x)
    return tf.where(small, near, tf.sin(far) / far)


def _with_wiggles(k: Tensor, cosmology: Cosmology) -> Tensor:
    """Transfer function with acoustic oscillations at positive k [h/Mpc]."""
    h, omega_m, omega_b = (
        as_float64(p) for p in (cosmology.h, cosmology.Omega_m, cosmology.Omega_b)
    )
    k = k * h  # 1/Mpc, the paper's unit
    matter = omega_m * h**2
    baryon = omega_b * h**2
    fraction_b = omega_b / omega_m
    fraction_c = 1.0 - fraction_b
    theta = as_float64(cosmology.T_cmb) / 2.7

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
        * tf.sqrt(6.0 / r_eq)
        * tf.math.log((tf.sqrt(1.0 + r_drag) + tf.sqrt(r_drag + r_eq)) / (1.0 + tf.sqrt(r_eq)))
    )  # eq. 6
    k_silk = 1.6 * baryon**0.52 * matter**0.73 * (1.0 + (10.4 * matter) ** -0.95)  # eq. 7
    q = k / (13.41 * k_eq)  # eq. 10
    tail = 386.0 / (1.0 + 69.9 * q**1.08)

    a1 = (46.9 * matter) ** 0.670 * (1.0 + (32.1 * matter) ** -0.532)
    a2 = (12.0 * matter) ** 0.424 * (1.0 + (45.0 * matter) ** -0.582)
    alpha_c = a1**-fraction_b * a2 ** -(fraction_b**3)  # eq. 11
    bb1 = 0.944 / (1.0 + (458.0 * matter) ** -0.708)
    bb2 = (0.395 * matter) ** -0.0266
    beta_c = 1.0 / (1.0 + bb1 * (fraction_c**bb2 - 1.0))  # eq. 12
    interpolation = 1.0 / (1.0 + (k * sound / 5.4) ** 4)  # eq. 18
    cold = interpolation * _suppression(q, tail, 1.0, beta_c) + (
        1.0 - interpolation
    ) * _suppression(q, tail, alpha_c, beta_c)  # eq. 17

    y = (1.0 + z_eq) / (1.0 + z_drag)
    root = tf.sqrt(1.0 + y)
    g = y * (-6.0 * root + (2.0 + 3.0 * y) * tf.math.log((root + 1.0) / (root - 1.0)))  # eq. 15
    alpha_b = 2.07 * k_eq * sound * (1.0 + r_drag) ** -0.75 * g  # eq. 14
    # eq. 24
    beta_b = 0.5 + fraction_b + (3.0 - 2.0 * fraction_b) * tf.sqrt((17.2 * matter) ** 2 + 1.0)
    beta_node = 8.41 * matter**0.435  # eq. 23
    ks = k * sound
    shifted = ks**2 / (ks**3 + beta_node**3) ** (1.0 / 3.0)  # eq. 22, times k
    envelope = alpha_b * ks**3 / (ks**3 + beta_b**3)
    silk = tf.exp(-((k / k_silk) ** 1.4))
    baryons = (_suppression(q, tail, 1.0, 1.0) / (1.0 + (ks / 5.2) ** 2) + envelope * silk) * _sinc(
        shifted
    )  # eq. 21
    return fraction_b * baryons + fraction_c * cold  # eq. 16


def _without_wiggles(k: Tensor, cosmology: Cosmology) -> Tensor:
    """Transfer function without acoustic oscillations at positive k [h/Mpc]."""
    h, omega_m, omega_b = (
        as_float64(p) for p in (cosmology.h, cosmology.Omega_m, cosmology.Omega_b)
    )
    matter, baryon, fraction_b = omega_m * h**2, omega_b * h**2, omega_b / omega_m
    # eq. 26 [Mpc]
    sound = 44.5 * tf.math.log(9.83 / matter) / tf.sqrt(1.0 + 10.0 * baryon**0.75)
    alpha = (
        1.0
        - 0.328 * tf.math.log(431.0 * matter) * fraction_b
        + 0.38 * tf.math.log(22.3 * matter) * fraction_b**2
    )  # eq. 31
    shape = omega_m * h * (alpha + (1.0 - alpha) / (1.0 + (0.43 * k * h * sound) ** 4))  # eq. 30
    q = k * (as_float64(cosmology.T_cmb) / 2.7) ** 2 / shape  # eq. 28
    log_term = tf.math.log(2.0 * np.e + 1.8 * q)
    return log_term / (log_term + (14.2 + 731.0 / (1.0 + 62.5 * q)) * q**2)  # eq. 29


def _transfer(k: Tensor, cosmology: Cosmology, transfer: str) -> Tensor:
    fit = _with_wiggles if transfer == "eisenstein_hu" else _without_wiggles
    return fit(k, cosmology)


def transfer_function(
    k: ArrayLike | Tensor, cosmology: Cosmology, transfer: str = "eisenstein_hu"
) -> Tensor:
    """Matter transfer function, one at k -> 0.

    Args:
        k: wavenumbers [h/Mpc], non-negative, any shape.
        cosmology: the background.
        transfer: ``"eisenstein_hu"`` or ``"eisenstein_hu_no_wiggle"``, see `linear_power`.

    Returns:
        T(k), float64 of the shape of `k`.

    Raises:
        ValueError: if `k` is negative or not finite, where its value is known, or `transfer`
            unknown.
    """
    _check_transfer(transfer)
    check_wavenumbers(k)
    with _constant_if(cosmology.is_numeric and not tf.is_tensor(k)):
        k = as_float64(k)
        safe = tf.where(k > 0.0, k, 1.0)
        return tf.where(k > 0.0, _transfer(safe, cosmology, transfer), 1.0)


def linear_power(
    k: ArrayLike | Tensor,
    cosmology: Cosmology,
    transfer: str | TabulatedPower = "eisenstein_hu",
) -> Tensor:
    """Linear matter power spectrum at a=1.

    The fits are normalised to the cosmology's `sigma8`, or to its `A_s` through the growth since
    matter domination without radiation. For the default parameters and massless neutrinos sigma8
    then agrees with CAMB to 1 per cent and P(k) between 0.001 and 5 h/Mpc to 6 per cent, as
    against 4 for the same sigma8 (``benchmarks/cosmology.py``). Curvature and dark energy enter
    the normalisation by `A_s` only, not the shape.

    Args:
        k: wavenumbers [h/Mpc], non-negative, any shape.
        cosmology: supplies shape and normalisation.
        transfer: ``"eisenstein_hu"``, the fit with acoustic oscillations (their section 3);
            ``"eisenstein_hu_no_wiggle"``, their fit of the broad-band shape (section 4.2); or a
            table, which takes nothing but `sigma8` from the cosmology, if anything.

    Returns:
        P(k) [(Mpc/h)^3], float64 of the shape of `k`; zero, with finite gradients, at k=0.

    Raises:
        ValueError: if `k` is negative, not finite or outside of the table, where its value is
            known, if `transfer` is unknown, or if a table is to be normalised and cannot.
    """
    numeric = cosmology.is_numeric and not tf.is_tensor(k)
    if isinstance(transfer, TabulatedPower):
        with _constant_if(numeric and transfer.is_numeric):
            power = transfer.interpolate(k)
            if not transfer.normalise:
                return power
            return power * (_required_sigma8(cosmology) / _sigma8_of_table(transfer)) ** 2
    _check_transfer(transfer)
    check_wavenumbers(k)
    with _constant_if(numeric):
        k = as_float64(k)
        positive = k > 0.0
        safe = tf.where(positive, k, 1.0)
        if cosmology.A_s is not None:
            power = _amplitude(cosmology) * _shape(safe, cosmology, transfer)
        else:
            # One evaluation of the fit for both is half of what XLA has to compile.
            nodes, weights = _sigma8_quadrature()
            both = tf.concat([tf.constant(nodes), tf.reshape(safe, [-1])], axis=0)
            both = _shape(both, cosmology, transfer)
            variance = tf.reduce_sum(weights * both[: len(nodes)])
            power = as_float64(cosmology.sigma8) ** 2 / variance * both[len(nodes) :]
            power = tf.reshape(power, tf.shape(k))
        return tf.where(positive, power, 0.0)


def sigma8(cosmology: Cosmology, transfer: str | TabulatedPower = "eisenstein_hu") -> Tensor:
    """Linear rms overdensity in spheres of 8 Mpc/h today, of `linear_power`.

    Args:
        cosmology: as for `linear_power`.
        transfer: as for `linear_power`.

    Returns:
        float64 scalar, to a relative 3e-7; `cosmology.sigma8` itself, if that is the
        normalisation.
    """
    if isinstance(transfer, TabulatedPower):
        return (
            as_float64(_required_sigma8(cosmology))
            if transfer.normalise
            else _sigma8_of_table(transfer)
        )
    _check_transfer(transfer)
    if cosmology.A_s is None:
        return as_float64(cosmology.sigma8)
    nodes, weights = _sigma8_quadrature()
    shape = _shape(tf.constant(nodes), cosmology, transfer)
    return tf.sqrt(_amplitude(cosmology) * tf.reduce_sum(weights * shape))


def _shape(k: Tensor, cosmology: Cosmology, transfer: str) -> Tensor:
    """k^n_s T^2 at positive k."""
    return k ** as_float64(cosmology.n_s) * _transfer(k, cosmology, transfer) ** 2


def _amplitude(cosmology: Cosmology) -> Tensor:
    """What makes the shape a power, by A_s."""
    h, n_s, omega_m = (as_float64(p) for p in (cosmology.h, cosmology.n_s, cosmology.Omega_m))
    # In matter domination delta_k = 2/5 (k c/H0)^2 / Omega_m T(k) a times the curvature
    # perturbation, whose power is 2 pi^2 / k^3 A_s (k/k_pivot)^(n_s - 1).
    to_density = 0.4 * HUBBLE_DISTANCE**2 / omega_m * cosmology.growth_since_matter()
    primordial = 2.0 * np.pi**2 * as_float64(cosmology.A_s) * (h / _PIVOT) ** (n_s - 1.0)
    return primordial * to_density**2


@functools.lru_cache(maxsize=1)
def _sigma8_quadrature() -> tuple[Array, Array]:
    """Wavenumbers and weights of the trapezoidal rule in ln k for the variance at 8 Mpc/h."""
    low, high = _SIGMA8_RANGE
    k = np.geomspace(low, high, _SIGMA8_NODES)
    weights = np.full(_SIGMA8_NODES, np.log(high / low) / (_SIGMA8_NODES - 1))
    weights[[0, -1]] *= 0.5
    x = 8.0 * k
    # At small x the difference loses all its digits.
    with np.errstate(invalid="ignore"):
        exact = 3.0 * (np.sin(x) - x * np.cos(x)) / x**3
    top_hat = np.where(x > 1e-2, exact, 1.0 - x**2 / 10.0)
    return k, weights * k**3 * top_hat**2 / (2.0 * np.pi**2)


def _sigma8_of_table(table: TabulatedPower) -> Tensor:
    low, high = _SIGMA8_COVERED
    if table.k[0] > low or table.k[-1] < high:
        raise ValueError(
            f"Invalid value for argument `k`. Expected a table from {low:g} h/Mpc or less to "
            f"{high:g} h/Mpc or more, to find its sigma8. Received: {table.k[0]:.4g} to "
            f"{table.k[-1]:.4g} h/Mpc"
        )
    k, weights = _sigma8_quadrature()
    return tf.sqrt(tf.reduce_sum(weights * tf.exp(table.log_power(tf.constant(np.log(k))))))


def _required_sigma8(cosmology: Cosmology) -> Any:
    if cosmology.sigma8 is None:
        raise ValueError(
            "Invalid value for argument `normalise`. Expected False for a table and a cosmology "
            f"without sigma8. Received: normalise=True with A_s={cosmology.A_s!r}"
        )
    return as_float64(cosmology.sigma8)


def _constant_if(numeric: bool) -> Any:
    """Numbers stay numbers in a function that is being traced."""
    return tf.init_scope() if numeric else contextlib.nullcontext()


def _check_transfer(transfer: Any) -> None:
    if transfer not in TRANSFERS:
        raise ValueError(
            f"Invalid value for argument `transfer`. Expected one of {TRANSFERS} or a "
            f"TabulatedPower. Received: transfer={transfer!r}"
        )
