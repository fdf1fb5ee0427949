"""Coordinates of the neural bias model in which its posterior is less bent.

The paper's network reads 3T lines w psi + b off one number psi, psi is a softplus of a sum over a
kernel, and the lines are amplitudes, means and widths of T components. Written in its weights the
posterior is a set of curved ridges: along most of them the mass function hardly changes, for what
one weight does another undoes. The coordinates here are quantities of the mass function itself:

* *Kernel.* Over voxels of a reference field that never changes the sum has a standard deviation s.
  Scaling the kernel, once psi is a straight line or a kink, changes nothing that a line could not
  undo. The length of the kernel in the norm s counts as asinh(s / s0), its direction stays, and the
  bias counts in units of s.
* *Lines* are written for psi of mean zero and variance one over the reference,

    w psi + b = w' (psi - m) / v + b',     w' = w v,     b' = b + w m.

* *Components.* b' is the mass function of the mean psi. For normals in log mass it is told by the
  haloes that it has above the threshold, log N, the log of their mean excess of log mass,
  log e, and asinh(z), z being how many widths the threshold lies above the mean:

    e = sigma (h(z) - z),     log N = log alpha + log Q(z),

  with Q the upper tail of the standard normal and h its hazard. N and e are what the data know; a
  component far below the threshold is close to a power law in mass, whatever its z. The w' are
  told by the change of the three per unit of (psi - m) / v.

All maps are explicit in both directions and so are their volume elements. They lose digits where a
component lies a thousand of its widths below the threshold, and has no haloes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from numpy.typing import ArrayLike, NDArray

from layers.components import component_family
from npe_tf.bias.model import BiasModel
from npe_tf.bias.neural import PapersNetwork

__all__ = [
    "ParameterCoordinates",
    "PlainParameters",
    "StandardisedParameters",
    "parameter_coordinates",
]

Tensor = Any

_NUM_REFERENCE = 4096
# far below any kernel that does something: s is then close to exp(|q|)
_SMALLEST_KERNEL = 1e-3
# where the series of h(z) - z in 1 / z beats the difference
_FAR = 50.0


class ParameterCoordinates(Protocol):
    """A smooth one-to-one map of bias parameters, all in float64."""

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Bias parameters `[size]` of coordinates `[size]`, and log |dtheta / dcoordinates|."""
        ...

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `theta`, `[size]`."""
        ...


class PlainParameters:
    """The parameters themselves, for networks of which nothing is known."""

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """The same numbers."""
        return coordinates, tf.zeros([], tf.float64)

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """The same numbers."""
        return np.asarray(theta, dtype=np.float64)


class NormalHead(NamedTuple):
    """What the lines of a `MixtureDensity` of normals in log mass start from.

    Attributes:
        amplitude: a0, added to the line of every amplitude.
        width: s0, added to that of every width.
    """

    amplitude: float
    width: float


class StandardisedParameters:
    """The coordinates of this module.

    In order: the kernel's S numbers and that of its bias; the slopes, then the offsets of the 3T
    lines (amplitudes, means, widths), or what stands for them.

    Args:
        responses: of the shells of the kernel, in the voxels of the reference field, `[R, S]`.
        num_lines: 3T. Behind the kernel's S weights and its bias, theta holds the slopes and the
            offsets of every third of them in turn.
        head: of normals in log mass; lines of other heads stay lines.

    Raises:
        ValueError: if the responses are not finite, not of this shape or not independent.
    """

    def __init__(
        self, responses: ArrayLike, num_lines: int, head: NormalHead | None = None
    ) -> None:
        """Check the arguments and find the lines."""
        table = np.asarray(responses, dtype=np.float64)
        if table.ndim != 2 or not len(table) or not np.all(np.isfinite(table)):
            raise ValueError(
                "Invalid value for argument `responses`. Expected finite numbers of shape [R, S]. "
                f"Received: shape {table.shape}, {np.count_nonzero(~np.isfinite(table))} of them "
                "not finite"
            )
        if num_lines < 3 or num_lines % 3:
            raise ValueError(
                "Invalid value for argument `num_lines`. Expected a positive multiple of 3. "
                f"Received: num_lines={num_lines!r}"
            )
        covariance = np.atleast_2d(np.cov(table, rowvar=False, bias=True))
        values, vectors = np.linalg.eigh(covariance)
        if not values[0] > 1e-12 * values[-1]:
            raise ValueError(
                "Invalid value for argument `responses`. Expected shells that differ over the "
                f"reference field. Received: eigenvalues {values} of their covariance"
            )
        self._responses = table
        self._mean_response = table.mean(axis=0)
        # kernels in whose norm every direction is alike
        self._whiten = (vectors * np.sqrt(values)) @ vectors.T
        self._num_shells = table.shape[1]
        self._num_lines = num_lines
        self._head = head
        each, self._start = num_lines // 3, table.shape[1] + 1
        thirds = self._start + 2 * each * np.arange(3)[:, np.newaxis]
        self._slopes = (thirds + np.arange(each)).ravel()
        self._offsets = self._slopes + each
        self.size = self._start + 2 * num_lines
        # where each of [kernel and bias, slopes, offsets] goes
        order = np.concatenate([np.arange(self._start), self._slopes, self._offsets])
        self._place = np.argsort(order)

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Bias parameters.

        Args:
            coordinates: float64 `[size]`.

        Returns:
            Parameters `[size]`, and the log of the volume that a unit of volume becomes.
        """
        first, last = self._start, self._start + self._num_lines
        kernel, bias, log_volume = self._kernel(coordinates[: first - 1], coordinates[first - 1])
        slopes, offsets = coordinates[first:last], coordinates[last:]
        if self._head is not None:
            slopes, offsets, log_jacobian = self._lines(slopes, offsets, self._head)
            log_volume += 2.0 * log_jacobian
        mean, width = self._moments(kernel, bias)
        slopes = slopes / width
        joined = tf.concat([kernel, bias[tf.newaxis], slopes, offsets - slopes * mean], 0)
        log_volume -= self._num_lines * tf.math.log(width)
        return tf.gather(joined, self._place), log_volume

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `theta`.

        Args:
            theta: `[size]`.

        Returns:
            Coordinates `[size]`.
        """
        vector = np.asarray(theta, dtype=np.float64)
        kernel, bias = vector[: self._num_shells], vector[self._num_shells]
        mean, width = (np.asarray(x) for x in self._moments(tf.constant(kernel), tf.constant(bias)))
        slopes, offsets = vector[self._slopes] * width, vector[self._offsets]
        offsets = offsets + vector[self._slopes] * mean
        if self._head is not None:
            slopes, offsets = self._components(slopes, offsets, self._head)
        length = self._whiten @ kernel
        s = np.linalg.norm(length)
        radius = np.arcsinh(s / _SMALLEST_KERNEL)
        direction = length * (radius / s if s > 0 else 1.0 / _SMALLEST_KERNEL)
        place = (bias + kernel @ self._mean_response) / np.hypot(s, _SMALLEST_KERNEL)
        return np.concatenate([direction, [place], slopes, offsets])

    def _kernel(self, direction: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernel `[S]`, its bias, and the log volume."""
        # no root of zero, whose slope is infinite
        radius = tf.sqrt(tf.reduce_sum(tf.square(direction)) + 1e-30)
        growth = _SMALLEST_KERNEL * tf.sinh(radius) / radius
        length = growth * direction
        s = _SMALLEST_KERNEL * tf.cosh(radius)
        kernel = tf.linalg.matvec(np.linalg.inv(self._whiten), length)
        bias = place * s - tf.reduce_sum(kernel * self._mean_response)
        log_volume = 2.0 * tf.math.log(s) + (self._num_shells - 1) * tf.math.log(growth)
        log_determinant = float(np.linalg.slogdet(self._whiten)[1])
        return kernel, bias, log_volume - log_determinant

    def _moments(self, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of psi."""
        psi = tf.math.softplus(tf.linalg.matvec(self._responses, kernel) + bias)
        return tf.reduce_mean(psi), tf.math.reduce_std(psi)

    def _lines(
        self, changes: Tensor, values: Tensor, head: NormalHead
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes, offsets, and the log volume of either, from the components' quantities."""
        log_number, log_excess, asinh_z = tf.unstack(tf.reshape(values, [3, -1]))
        by_number, by_excess, by_z = tf.unstack(tf.reshape(changes, [3, -1]))
        z = tf.sinh(asinh_z)
        by_z *= tf.cosh(asinh_z)
        log_tail, hazard, beyond = _upper_tail(z)
        scale = tf.exp(log_excess) / beyond
        amplitude = tf.exp(log_number - log_tail)
        # derivatives along psi
        by_log_amplitude = by_number + hazard * by_z
        by_log_scale = by_excess - (hazard * beyond - 1.0) / beyond * by_z
        by_mean = -scale * (by_z + z * by_log_scale)
        mean = -z * scale
        per_amplitude = amplitude / -tf.math.expm1(-amplitude)
        per_scale = scale / -tf.math.expm1(-scale)
        offsets = [_inverse_softplus(amplitude) - head.amplitude, _steps(mean)]
        slopes = [per_amplitude * by_log_amplitude, _steps(by_mean)]
        offsets.append(_inverse_softplus(scale) - head.width)
        slopes.append(per_scale * by_log_scale)
        volume = per_amplitude * per_scale * scale * tf.cosh(asinh_z)
        log_volume = tf.reduce_sum(tf.math.log(volume))
        return tf.concat(slopes, 0), tf.concat(offsets, 0), log_volume

    def _components(
        self, slopes: NDArray[np.float64], offsets: NDArray[np.float64], head: NormalHead
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Inverse of `_lines`."""
        line_amplitude, line_mean, line_scale = offsets.reshape(3, -1)
        by_amplitude, by_mean, by_scale = slopes.reshape(3, -1)
        amplitude = np.logaddexp(0.0, line_amplitude + head.amplitude)
        scale = np.logaddexp(0.0, line_scale + head.width)
        mean = np.cumsum(line_mean)
        by_log_amplitude = by_amplitude * -np.expm1(-amplitude) / amplitude
        by_log_scale = by_scale * -np.expm1(-scale) / scale
        z = -mean / scale
        log_tail, hazard, beyond = (np.asarray(x) for x in _upper_tail(tf.constant(z)))
        by_z = -np.cumsum(by_mean) / scale - z * by_log_scale
        by_number = by_log_amplitude - hazard * by_z
        by_excess = by_log_scale + (hazard * beyond - 1.0) / beyond * by_z
        values = [np.log(amplitude) + log_tail, np.log(scale * beyond), np.arcsinh(z)]
        changes = [by_number, by_excess, by_z / np.sqrt(1.0 + z**2)]
        return np.concatenate(changes), np.concatenate(values)


class _WithMore:
    """The network's coordinates, and what theta has behind them as it is."""

    def __init__(self, first: StandardisedParameters) -> None:
        self.first = first

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        theta, log_volume = self.first.theta(coordinates[: self.first.size])
        return tf.concat([theta, coordinates[self.first.size :]], 0), log_volume

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        vector = np.asarray(theta, dtype=np.float64)
        size = self.first.size
        return np.concatenate([self.first.coordinates(vector[:size]), vector[size:]])


def _upper_tail(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the standard normal above z: log probability, hazard h(z), and h(z) - z."""
    negative, far = z < 0.0, z > _FAR
    # each branch sees harmless values where another is taken, so that gradients are finite
    low = tf.where(negative, z, 0.0)
    low_tail = tfp.distributions.Normal(tf.zeros([], z.dtype), 1.0).log_survival_function(low)
    low_hazard = tf.exp(_log_normal(low) - low_tail)
    high = tf.where(negative, tf.zeros_like(z), z)
    high_hazard = math.sqrt(2.0 / math.pi) / tfp.math.erfcx(high / math.sqrt(2.0))
    large = tf.where(far, z, tf.fill(tf.shape(z), tf.constant(_FAR, z.dtype)))
    inverse = 1.0 / large
    step = tf.square(inverse)
    series = inverse * (1.0 - step * (2.0 - step * (10.0 - step * 74.0)))
    hazard = tf.where(negative, low_hazard, high_hazard)
    log_tail = tf.where(negative, low_tail, _log_normal(high) - tf.math.log(high_hazard))
    return log_tail, hazard, tf.where(far, series, hazard - z)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * tf.square(z) - 0.5 * math.log(2.0 * math.pi)


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + tf.math.log(-tf.math.expm1(-y))


def _steps(means: Tensor) -> Tensor:
    """The first, and the difference of each other to the one before it."""
    return tf.concat([means[:1], means[1:] - means[:-1]], 0)


def parameter_coordinates(bias: BiasModel, delta: ArrayLike) -> ParameterCoordinates:
    """Coordinates for a bias model.

    Args:
        bias: the model.
        delta: an overdensity `[N, N, N]` like those of the posterior, such as one of the prior.

    Returns:
        Standardised parameters if the model is that of `neural_bias_model` (one softplus
        convolution to one number per voxel, and a `MixtureDensity`), with a dispersion behind
        them if it has one; else the parameters as they are.
    """
    network = PapersNetwork.of(bias.model)
    if network is None:
        return PlainParameters()
    mixture, num_shells = network.head, network.num_shells
    responses = np.asarray(network.responses(tf.constant(np.asarray(delta), bias.dtype)))
    responses = responses.astype(np.float64)
    table = responses.reshape(-1, num_shells)
    chosen = np.unique(np.linspace(0, len(table) - 1, _NUM_REFERENCE).astype(int))
    head = None
    if bias.family == component_family("normal", "log_mass"):
        head = NormalHead(
            math.log(math.expm1(mixture.initial_amplitude)),
            math.log(math.expm1(mixture.initial_width)),
        )
    num_lines = 3 * mixture.num_components
    standardised = StandardisedParameters(table[chosen], num_lines, head)
    if bias.parameters.size == standardised.size:
        return standardised
    return _WithMore(standardised)
