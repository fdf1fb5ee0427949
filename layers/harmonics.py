r"""Real harmonics on integer lattices in one, two and three dimensions.

The harmonics of order l are functions of direction that are orthonormal on the unit sphere of the
space and transform among themselves under rotations:

* three dimensions: the real spherical harmonics Y_lm, m = -l, ..., l, without the
  Condon-Shortley phase; the polar axis is the last one of the mesh, the azimuth runs from the
  first axis to the second, so Y_1,-1, Y_10, Y_11 point along axes 1, 2, 0;
* two dimensions: sin(l phi) / sqrt(pi) for m = -l and cos(l phi) / sqrt(pi) for m = l, phi from
  the first axis to the second; 1 / sqrt(2 pi) for l = 0;
* one dimension: the even part 1 / sqrt(2) for l = 0 and the odd part sign(x) / sqrt(2) for l = 1.

Each is a homogeneous polynomial with integer coefficients over r^l. The polynomial is evaluated in
integers, so that a harmonic vanishes exactly where it should.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["orders_m", "real_harmonics"]

Integers = NDArray[Any]


def orders_m(num_axes: int, multipole: int) -> tuple[int, ...]:
    """Values of m that the harmonics of one order have, in the order they are given in."""
    if multipole == 0 or num_axes == 1:
        return (0,)
    if num_axes == 2:
        return (-multipole, multipole)
    return tuple(range(-multipole, multipole + 1))


def real_harmonics(offsets: NDArray[np.int64], multipole: int) -> NDArray[np.float64]:
    """Harmonics of one order in the direction of each lattice vector.

    Args:
        offsets: integer vectors `[d, ...]` with d = 1, 2 or 3.
        multipole: order l; 0 or 1 for d = 1.

    Returns:
        `[M, ...]` in the order of `orders_m`. At the origin, which has no direction, those of
        l = 0 keep their constant and the others are zero.
    """
    num_axes = len(offsets)
    vectors = [axis.astype(object) for axis in offsets]
    squared = offsets.astype(np.float64) ** 2
    radius = np.sqrt(squared.sum(axis=0))
    away = radius > 0
    safe = np.where(away, radius, 1.0) ** multipole
    values = []
    for m in orders_m(num_axes, multipole):
        polynomial = _POLYNOMIALS[num_axes](vectors, multipole, m)
        value = np.asarray(polynomial, np.float64) * _norm(num_axes, multipole, m) / safe
        values.append(np.where(away, value, 0.0 if multipole else value))
    return np.stack(values)


def _line(vectors: list[Integers], multipole: int, m: int) -> Integers:
    return vectors[0] if multipole else np.ones_like(vectors[0])


def _circle(vectors: list[Integers], multipole: int, m: int) -> Integers:
    return _azimuthal(vectors[0], vectors[1], m)


def _sphere(vectors: list[Integers], multipole: int, m: int) -> Integers:
    """2^l times the m-th derivative of the Legendre polynomial, times the azimuthal part."""
    x, y, z = vectors
    squared = x * x + y * y + z * z
    order = abs(m)
    polar = np.zeros_like(z)
    for k in range((multipole - order) // 2 + 1):
        power = multipole - 2 * k
        binomials = math.comb(multipole, k) * math.comb(2 * (multipole - k), multipole)
        falling = math.factorial(power) // math.factorial(power - order)
        polar = polar + (-1) ** k * binomials * falling * squared**k * z ** (power - order)
    return polar * _azimuthal(x, y, m)


_POLYNOMIALS = {1: _line, 2: _circle, 3: _sphere}


def _azimuthal(x: Integers, y: Integers, m: int) -> Integers:
    """Re (x + i y)^m for m >= 0, Im (x + i y)^|m| for m < 0."""
    real, imaginary = np.ones_like(x), np.zeros_like(x)
    for _ in range(abs(m)):
        real, imaginary = real * x - imaginary * y, real * y + imaginary * x
    return real if m >= 0 else imaginary


def _norm(num_axes: int, multipole: int, m: int) -> float:
    if num_axes == 1:
        return math.sqrt(0.5)
    if num_axes == 2:
        return math.sqrt((1.0 if m else 0.5) / math.pi)
    order = abs(m)
    ratio = math.factorial(multipole - order) / math.factorial(multipole + order)
    degeneracy = 2.0 if m else 1.0
    norm = math.sqrt(degeneracy * (2 * multipole + 1) / (4 * math.pi) * ratio)
    return norm / 2.0**multipole
