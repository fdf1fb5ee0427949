r"""The halo mass function of an environment as a TFP distribution.

A mixture of T normal components in log mass, in either of two parameterisations of the same
family (natural logarithms throughout, masses in Msun/h):

* ``"log_mass"``: dn/dlogM = sum_t alpha_t N(log M; mu_t, sigma_t);
* ``"mass"`` (Charnock et al. 2020, eq. 10 as their notebook has it):
  n(M) = dn/dM = sum_t alpha_t exp(-mu_t) N(log M; mu_t, sigma_t).

As densities in log M the two differ by the tilt exp(log M - mu_t) of each component, which is all
that the code below needs to know of them. Everything is evaluated in log space: exp(sigma^2/2)
overflows long before the mass function is unphysical.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["PARAMETERISATIONS", "HaloMassFunction"]

tfd = tfp.distributions
Tensor = Any

PARAMETERISATIONS = ("log_mass", "mass")

_SQRT2 = math.sqrt(2.0)
_LOG_2PI_HALF = 0.5 * math.log(2.0 * math.pi)
_NEWTON_STEPS = 6


def _log_survival(z: Tensor) -> Tensor:
    """Upper tail of the standard normal beyond sqrt(2) z, in logs: log(erfc(z)/2)."""
    return tfp.math.logerfc(z) - math.log(2.0)


def _inverse_log_survival(log_survival: Tensor, lower: Tensor) -> Tensor:
    """Solve log(erfc(z)/2) = log_survival for z >= lower.

    Newton's method on a concave, falling function converges from the left without overshooting;
    `lower` is to the left of the solution. In the far tail the first step from there is poor, and
    sqrt(lower^2 - log u) (the exponential tail's own solution) starts closer.
    """
    excess = _log_survival(lower) - log_survival
    start = tf.where(lower > 0.0, tf.sqrt(tf.square(lower) + excess), lower)
    body = tf.math.erfcinv(2.0 * tf.exp(tf.clip_by_value(log_survival, -20.0, 0.0)))
    z = tf.where(log_survival > -15.0, body, start)
    for _ in range(_NEWTON_STEPS):
        # d/dz log erfc(z) = -2/sqrt(pi) exp(-z^2) / erfc(z)
        log_slope = math.log(2.0 / math.sqrt(math.pi)) - tf.square(z) - tfp.math.logerfc(z)
        step = (_log_survival(z) - log_survival) * tf.exp(-log_slope)
        z = tf.where(log_survival > -15.0, z, z + step)
    return tf.maximum(z, lower)


class HaloMassFunction(tfp.distributions.Distribution):
    """Distribution of a halo's log mass above a threshold, with the rate of haloes beside it.

    As a distribution it is normalised above the threshold (`log_prob`, `sample`); `integral` is
    the number density of haloes above the threshold and `log_intensity` the un-normalised
    mass function log(dn/dlogM), so that ``log_prob = log_intensity - log_integral``.

    Args:
        log_amplitude: log alpha_t, `[..., T]` [log of (h/Mpc)^3].
        mean: mu_t, `[..., T]` [log of Msun/h].
        scale: sigma_t > 0, `[..., T]`.
        log_mass_threshold: log of the smallest mass [log of Msun/h].
        parameterisation: ``"log_mass"`` or ``"mass"``.
        validate_args: check `scale > 0` at run time.
        name: of the distribution.

    Raises:
        ValueError: if `parameterisation` is unknown.
    """

    def __init__(
        self,
        log_amplitude: Tensor,
        mean: Tensor,
        scale: Tensor,
        log_mass_threshold: float,
        parameterisation: str = "log_mass",
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "HaloMassFunction",
    ) -> None:
        """Keep the parameters as tensors."""
        parameters = dict(locals())
        if parameterisation not in PARAMETERISATIONS:
            raise ValueError(
                "Invalid value for argument `parameterisation`. Expected one of "
                f"{PARAMETERISATIONS}. Received: parameterisation={parameterisation!r}"
            )
        with tf.name_scope(name) as name:
            self._log_amplitude = tf.convert_to_tensor(log_amplitude)
            dtype = self._log_amplitude.dtype
            self._mean = tf.convert_to_tensor(mean, dtype)
            self._scale = tf.convert_to_tensor(scale, dtype)
            self._log_mass_threshold = tf.convert_to_tensor(log_mass_threshold, dtype)
            self._tilted = parameterisation == "mass"
            self._parameterisation = parameterisation
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @property
    def log_amplitude(self) -> Tensor:
        """Log alpha_t, `[..., T]`."""
        return self._log_amplitude

    @property
    def mean_log_mass(self) -> Tensor:
        """mu_t, `[..., T]`; the means of the components, not of the distribution."""
        return self._mean

    @property
    def scale(self) -> Tensor:
        """sigma_t, `[..., T]`."""
        return self._scale

    @property
    def log_mass_threshold(self) -> Tensor:
        """Log of the smallest mass, scalar."""
        return self._log_mass_threshold

    @property
    def parameterisation(self) -> str:
        """``"log_mass"`` or ``"mass"``."""
        return self._parameterisation

    def at(self, indices: Tensor) -> HaloMassFunction:
        """The mass functions of chosen voxels.

        Args:
            indices: `[H]` flat C-order indices into the batch of this distribution.

        Returns:
            Distribution of batch shape `[H]`.
        """
        count = self._log_amplitude.shape[-1]
        log_amplitude, mean, scale = (
            tf.gather(tf.reshape(p, [-1, count]), indices)
            for p in (self._log_amplitude, self._mean, self._scale)
        )
        return HaloMassFunction(
            log_amplitude, mean, scale, self._log_mass_threshold, self._parameterisation
        )

    def log_intensity(self, log_mass: Tensor) -> Tensor:
        """Un-normalised mass function log(dn/dlogM), whether above the threshold or below it.

        Subtract `log_mass` for log(dn/dM).

        Args:
            log_mass: broadcastable with the batch shape.

        Returns:
            `[...]` [log of (h/Mpc)^3].
        """
        log_mass = tf.convert_to_tensor(log_mass, self.dtype)[..., tf.newaxis]
        offset = log_mass - self._mean
        terms = (
            self._log_amplitude - 0.5 * tf.square(offset / self._scale) - tf.math.log(self._scale)
        )
        if self._tilted:
            terms += offset
        return tf.reduce_logsumexp(terms, axis=-1) - _LOG_2PI_HALF

    def _standardised_threshold(self) -> Tensor:
        """Threshold in units of sqrt(2) sigma from each component's mean in log mass."""
        distance = self._log_mass_threshold - self._mean
        if self._tilted:
            distance -= tf.square(self._scale)
        return distance / (_SQRT2 * self._scale)

    def _log_integral_of_components(self) -> Tensor:
        log_integral = self._log_amplitude + _log_survival(self._standardised_threshold())
        if self._tilted:
            log_integral += 0.5 * tf.square(self._scale)
        return log_integral

    def log_integral(self) -> Tensor:
        """Log number density of haloes above the threshold, `[...]` [log of (h/Mpc)^3]."""
        return tf.reduce_logsumexp(self._log_integral_of_components(), axis=-1)

    def integral(self) -> Tensor:
        """Number density of haloes above the threshold, `[...]` [(h/Mpc)^3]."""
        if self._tilted:
            return tf.reduce_sum(tf.exp(self._log_integral_of_components()), axis=-1)
        # Without the tilt nothing grows, and the direct form costs half of the one in log space.
        survival = 0.5 * tf.math.erfc(self._standardised_threshold())
        return tf.reduce_sum(tf.exp(self._log_amplitude) * survival, axis=-1)

    def _batch_shape(self) -> tf.TensorShape:
        shape = tf.broadcast_static_shape(self._log_amplitude.shape, self._mean.shape)
        return tf.broadcast_static_shape(shape, self._scale.shape)[:-1]

    def _batch_shape_tensor(self, **_: Any) -> Tensor:
        shape = tf.broadcast_dynamic_shape(tf.shape(self._log_amplitude), tf.shape(self._mean))
        return tf.broadcast_dynamic_shape(shape, tf.shape(self._scale))[:-1]

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> Tensor:
        return tf.constant([], dtype=tf.int32)

    def _log_prob(self, log_mass: Tensor) -> Tensor:
        log_prob = self.log_intensity(log_mass) - self.log_integral()
        impossible = tf.constant(-np.inf, self.dtype)
        return tf.where(log_mass >= self._log_mass_threshold, log_prob, impossible)

    def _sample_n(self, n: Tensor, seed: Any = None) -> Tensor:
        component_seed, mass_seed = tfp.random.split_seed(seed, n=2, salt="halo_mass_function")
        batch = self._batch_shape_tensor()
        full = tf.concat([batch, tf.shape(self._log_amplitude)[-1:]], axis=0)
        logits = tf.broadcast_to(self._log_integral_of_components(), full)
        component = tfd.Categorical(logits=logits).sample(n, seed=component_seed)
        one_hot = tf.one_hot(component, depth=full[-1], on_value=True, off_value=False)

        def choose(parameter: Tensor) -> Tensor:
            chosen = tf.where(one_hot, parameter, tf.zeros([], self.dtype))
            return tf.reduce_sum(chosen, axis=-1)

        threshold = choose(self._standardised_threshold())
        scale = choose(self._scale)
        mean = choose(self._mean)
        if self._tilted:
            mean += tf.square(scale)
        tiny = np.finfo(self.dtype.as_numpy_dtype).tiny
        uniform = tf.random.stateless_uniform(
            tf.shape(threshold), mass_seed, minval=tiny, dtype=self.dtype
        )
        z = _inverse_log_survival(tf.math.log(uniform) + _log_survival(threshold), threshold)
        return tf.maximum(mean + _SQRT2 * scale * z, self._log_mass_threshold)
