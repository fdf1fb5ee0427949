"""Expansion, distances and linear growth of a homogeneous universe, in TensorFlow.

Matter, curvature and dark energy with the equation of state ``w(a) = w0 + wa (1 - a)``
(Chevallier & Polarski 2001, IJMPD 10, 213; Linder 2003, PRL 90, 091301). No radiation and no
massive neutrinos: at a < 0.01 the expansion rate is too small by more than 2 per cent.

Everything is float64 and smooth to second order and beyond in the scale factor and in every
parameter, in eager mode, in `tf.function` and under XLA. `Cosmology` has the same quantities as
methods that check their arguments.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = ["HUBBLE_DISTANCE", "Background", "as_float64", "sinhc_of_square"]

Tensor = Any
Array = NDArray[np.float64]

# Speed of light over 100 km/s/Mpc [Mpc/h].
HUBBLE_DISTANCE = 2997.92458

# Collocation nodes of the growth equations, and the power of the mapping a/(1+a) = t^3.
_NUM_NODES = 48
_POWER = 3

_NUM_QUADRATURE = 64


def as_float64(value: Any) -> Tensor:
    """A number, array or tensor as a float64 tensor, connected to it for gradients."""
    if tf.is_tensor(value):
        return tf.cast(value, tf.float64)
    return tf.convert_to_tensor(np.asarray(value, dtype=np.float64))


def sinhc_of_square(y: Tensor, num_terms: int = 32) -> Tensor:
    """sinh(sqrt(y)) / sqrt(y), which is sin(sqrt(-y)) / sqrt(-y) for negative y.

    The power series, which has no branch at y=0 and so keeps all derivatives.

    Args:
        y: float64, any shape.
        num_terms: terms of the series; 32 reach rounding for |y| < 100, 9 for |y| < 1.

    Returns:
        float64 of the shape of `y`.
    """
    result = tf.ones_like(y)
    for n in range(num_terms, 0, -1):
        result = 1.0 + result * y / float(2 * n * (2 * n + 1))
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Background:
    """A homogeneous universe.

    Attributes:
        Omega_m: matter density today in units of the critical density, float64 scalar.
        Omega_k: curvature density, positive if open.
        w0: equation of state of dark energy today.
        wa: minus its derivative with respect to a; `w0 + wa` must be negative.
    """

    Omega_m: Tensor
    Omega_k: Tensor
    w0: Tensor
    wa: Tensor

    def _dark_energy(self, a: Tensor) -> Tensor:
        """a^3 times the density of dark energy in units of the critical density today."""
        exponent = -3.0 * ((self.w0 + self.wa) * tf.math.log(a) + self.wa * (1.0 - a))
        return (1.0 - self.Omega_m - self.Omega_k) * tf.exp(exponent)

    def _scaled_square(self, a: Tensor) -> Tensor:
        """a^3 E^2, which tends to Omega_m at a=0."""
        return self.Omega_m + self.Omega_k * a + self._dark_energy(a)

    def hubble(self, a: Tensor) -> Tensor:
        """Expansion rate E(a) = H(a)/H0, of the shape of `a`."""
        return tf.sqrt(self._scaled_square(a) / a**3)

    def matter_fraction(self, a: Tensor) -> Tensor:
        """Omega_m(a), matter in units of the critical density at a."""
        return self.Omega_m / self._scaled_square(a)

    def comoving_distance(self, a: Tensor) -> Tensor:
        """Comoving distance along the line of sight from a to today [Mpc/h].

        Gauss-Legendre quadrature of 64 nodes in sqrt(a), in which the integrand is smooth at the
        big bang.
        """
        nodes, weights = np.polynomial.legendre.leggauss(_NUM_QUADRATURE)
        low = tf.sqrt(a)[..., tf.newaxis]
        u = low + (1.0 - low) * (0.5 * (nodes + 1.0))
        integrand = 2.0 / tf.sqrt(self._scaled_square(u**2))
        return HUBBLE_DISTANCE * tf.reduce_sum((1.0 - low) * integrand * (0.5 * weights), axis=-1)

    def transverse_comoving_distance(self, a: Tensor) -> Tensor:
        """Comoving distance across the line of sight from a to today [Mpc/h]."""
        distance = self.comoving_distance(a)
        return distance * sinhc_of_square(self.Omega_k * (distance / HUBBLE_DISTANCE) ** 2)

    def growth(self, a: Tensor) -> Growth:
        """Growth functions at scale factors `a`, any shape; see `Growth`.

        The equations are linear. With primes for d/dlna, h = dlnE/dlna, D1 = a g1 and
        D2 = a^2 g2 they read::

            g1'' + (4 + h) g1' + (3 + h - 3/2 Omega_m(a)) g1 = 0,      g1(0) = 1
            g2'' + (6 + h) g2' + (8 + 2h - 3/2 Omega_m(a)) g2 = -3/2 Omega_m(a) g1^2

        and are solved by Chebyshev collocation in t, a/(1+a) = t^3, from t=0, where the equations
        are singular and only the growing mode is smooth, to the largest of `a` and 1. The cube
        makes the solutions smooth at t=0 where the exponent -3(w0 + wa) of dark energy is not an
        integer, and a/(1+a) keeps the future, a > 1, within reach.
        """
        nodes = _collocation()
        # The result does not depend on the end of the interval.
        end = tf.stop_gradient(tf.maximum(tf.reduce_max(_mapped(a)), _mapped(1.0)))

        # Without the node t=0, where the coefficients are numbers.
        s = (end * nodes.unit[1:]) ** _POWER
        at = s / (1.0 - s)
        square = self._scaled_square(at)
        dark = self._dark_energy(at) * (-3.0 * (self.w0 + self.wa) + 3.0 * self.wa * at)
        h = _prepend(-1.5, 0.5 * (self.Omega_k * at + dark) / square - 1.5)
        matter = _prepend(1.0, self.Omega_m / square)

        rate, rate_slope = _rate(nodes.unit, end)
        first = rate[:, tf.newaxis] * nodes.first
        second = (rate**2)[:, tf.newaxis] * nodes.second + rate_slope[:, tf.newaxis] * first

        def system(of_first: Tensor, of_value: Tensor) -> Tensor:
            return second + of_first[:, tf.newaxis] * first + of_value[:, tf.newaxis] * nodes.value

        rows = system(4.0 + h, 3.0 + h - 1.5 * matter)
        boundary = np.eye(_NUM_NODES)[:, :1]
        g1 = tf.linalg.solve(tf.concat([nodes.value[:1], rows[1:]], axis=0), boundary)
        source = -1.5 * matter[:, tf.newaxis] * tf.linalg.matmul(nodes.value, g1) ** 2
        g2 = tf.linalg.solve(system(6.0 + h, 8.0 + 2.0 * h - 1.5 * matter), source)
        series = tf.concat([g1, g2], axis=1)

        def evaluate(a: Tensor) -> tuple[Tensor, Tensor]:
            unit = _mapped(a) / end
            basis = _chebyshev(2.0 * unit - 1.0)
            values = tf.linalg.matmul(basis, series)
            slopes = tf.linalg.matmul(basis, tf.linalg.matmul(nodes.derivative, series))
            return values, _rate(unit, end)[0][..., tf.newaxis] * slopes

        flat = tf.reshape(a, [-1])
        values, slopes = evaluate(flat)
        today = evaluate(tf.ones([1], tf.float64))[0][0, 0]
        shape = tf.shape(a)
        g1, g2 = (tf.reshape(values[:, i], shape) for i in range(2))
        slope1, slope2 = (tf.reshape(slopes[:, i], shape) for i in range(2))
        return Growth(
            first=a * g1 / today,
            first_rate=1.0 + slope1 / g1,
            second=a**2 * g2 / today**2,
            second_rate=2.0 + slope2 / g2,
            since_matter=today,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Growth:
    """Growth functions at scale factors of one shape.

    Attributes:
        first: D1, one today.
        first_rate: f1 = dlnD1/dlna.
        second: D2, in the normalisation of D1, -3/7 D1^2 in an Einstein-de Sitter universe.
        second_rate: f2 = dlnD2/dlna.
        since_matter: scalar; D1(a)/a of today over that of early matter domination, one in an
            Einstein-de Sitter universe.
    """

    first: Tensor
    first_rate: Tensor
    second: Tensor
    second_rate: Tensor
    since_matter: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class _Collocation:
    """Chebyshev-Lobatto nodes in [0, 1] and T_n, dT_n/dx, d2T_n/dx2 there, `[nodes, n]`."""

    unit: Array
    value: Array
    first: Array
    second: Array
    derivative: Array


@functools.lru_cache(maxsize=1)
def _collocation() -> _Collocation:
    chebyshev = np.polynomial.chebyshev
    angle = np.pi * np.arange(_NUM_NODES) / (_NUM_NODES - 1)
    x = -np.cos(angle)
    identity = np.eye(_NUM_NODES)
    derivative = np.stack([np.append(chebyshev.chebder(row), 0.0) for row in identity], axis=1)
    value = np.asarray(chebyshev.chebvander(x, _NUM_NODES - 1), np.float64)
    return _Collocation(
        unit=np.sin(0.5 * angle) ** 2,
        value=value,
        first=value @ derivative,
        second=value @ derivative @ derivative,
        derivative=derivative,
    )


def _mapped(a: Tensor) -> Tensor:
    """The variable t of the collocation."""
    a = tf.convert_to_tensor(a, tf.float64)
    return (a / (1.0 + a)) ** (1.0 / _POWER)


def _rate(unit: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """dx/dlna and d(dx/dlna)/dx at t = end unit, x = 2 unit - 1."""
    s = (end * unit) ** _POWER
    rate = 2.0 / _POWER * unit * (1.0 - s)
    return rate, (1.0 - (1.0 + _POWER) * s) / _POWER


def _prepend(number: float, values: Tensor) -> Tensor:
    return tf.concat([tf.constant([number], tf.float64), values], axis=0)


def _chebyshev(x: Tensor) -> Tensor:
    """T_n(x), `[..., nodes]`.

    By T_{m+n} = 2 T_m T_n - T_{m-n}: polynomials, where cos(n arccos x) has an infinite slope at
    the ends, and few operations, where the recurrence has one for each n.
    """
    basis = tf.stack([tf.ones_like(x), x], axis=-1)
    size = 2
    while size < _NUM_NODES:
        top = basis[..., -1:]
        basis = tf.concat([basis, 2.0 * top * basis[..., 1:] - basis[..., -2::-1]], axis=-1)
        size = 2 * size - 1
    return basis[..., :_NUM_NODES]
