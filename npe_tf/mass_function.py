r"""The halo mass function of an environment as a TFP distribution.

A mixture of T components in log mass (natural logarithms throughout, masses in Msun/h). The paper's
components are normal, in either of two parameterisations of the same family of mass functions:

* ``"log_mass"``: dn/dlogM = sum_t alpha_t N(log M; mu_t, sigma_t);
* ``"mass"`` (Charnock et al. 2020, eq. 10 as their notebook has it):
  n(M) = dn/dM = sum_t alpha_t exp(-mu_t) N(log M; mu_t, sigma_t).

`layers.components` has these, others, and how to add one. Everything is evaluated in log space:
exp(sigma^2/2) overflows long before the mass function is unphysical.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from layers import mixtures
from layers.components import PARAMETERISATIONS, ComponentFamily, component_family

__all__ = ["PARAMETERISATIONS", "HaloMassFunction"]

tfd = tfp.distributions
Tensor = Any


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
        parameterisation: ``"log_mass"`` or, for normal components, ``"mass"``.
        family: of the components, ``"normal"``, ``"tapered_pareto"`` or a `ComponentFamily`.
        dispersion: of the number of haloes in a voxel, `[2]`, see `npe_tf.bias.counts`; `None` for
            a Poisson process. The distribution of masses does not know of it.
        validate_args: check `scale > 0` at run time.
        name: of the distribution.

    Raises:
        ValueError: if `parameterisation` or `family` is unknown.
    """

    def __init__(
        self,
        log_amplitude: Tensor,
        mean: Tensor,
        scale: Tensor,
        log_mass_threshold: float,
        parameterisation: str = "log_mass",
        family: str | ComponentFamily = "normal",
        dispersion: Tensor | None = None,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "HaloMassFunction",
    ) -> None:
        """Keep the parameters as tensors."""
        parameters = dict(locals())
        self._family = component_family(family, parameterisation)
        with tf.name_scope(name) as name:
            self._log_amplitude = tf.convert_to_tensor(log_amplitude)
            dtype = self._log_amplitude.dtype
            self._mean = tf.convert_to_tensor(mean, dtype)
            self._scale = tf.convert_to_tensor(scale, dtype)
            self._log_mass_threshold = tf.convert_to_tensor(log_mass_threshold, dtype)
            self._parameterisation = parameterisation
            self._dispersion = None
            if dispersion is not None:
                self._dispersion = tf.convert_to_tensor(dispersion, dtype)
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
        """mu_t, `[..., T]`; of the components (as their family has it), not of the distribution."""
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

    @property
    def family(self) -> ComponentFamily:
        """What one component is."""
        return self._family

    @property
    def dispersion(self) -> Tensor | None:
        """Log phi_1 and the power s, `[2]`; `None` for a Poisson process."""
        return self._dispersion

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
            log_amplitude,
            mean,
            scale,
            self._log_mass_threshold,
            self._parameterisation,
            self._family,
            self._dispersion,
        )

    def log_intensity(self, log_mass: Tensor) -> Tensor:
        """Un-normalised mass function log(dn/dlogM).

        Normal components go on below the threshold; a tapered Pareto, which starts there, has the
        value at the threshold below it. Subtract `log_mass` for log(dn/dM).

        Args:
            log_mass: broadcastable with the batch shape.

        Returns:
            `[...]` [log of (h/Mpc)^3].
        """
        return mixtures.log_intensity(
            self._log_amplitude,
            self._mean,
            self._scale,
            log_mass,
            self._family,
            self._log_mass_threshold,
        )

    def log_integral(self, log_mass: Tensor | None = None) -> Tensor:
        """Log number density of haloes above a mass, by default above the threshold.

        Args:
            log_mass: at or above the threshold, broadcastable with the batch shape.

        Returns:
            `[...]` [log of (h/Mpc)^3].
        """
        return mixtures.log_integral(
            self._log_amplitude,
            self._mean,
            self._scale,
            self._family,
            self._log_mass_threshold,
            log_mass,
        )

    def integral(self, log_mass: Tensor | None = None) -> Tensor:
        """Number density of haloes above a mass, by default above the threshold.

        Args:
            log_mass: at or above the threshold, broadcastable with the batch shape.

        Returns:
            `[...]` [(h/Mpc)^3].
        """
        return mixtures.integral(
            self._log_amplitude,
            self._mean,
            self._scale,
            self._family,
            self._log_mass_threshold,
            log_mass,
        )

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
        threshold = self._log_mass_threshold
        log_survival = self._family.log_survival(threshold, self._mean, self._scale, threshold)
        full = tf.concat([self._batch_shape_tensor(), tf.shape(self._log_amplitude)[-1:]], axis=0)
        logits = tf.broadcast_to(self._log_amplitude + log_survival, full)
        component = tfd.Categorical(logits=logits).sample(n, seed=component_seed)
        one_hot = tf.one_hot(component, depth=full[-1], on_value=True, off_value=False)

        def choose(parameter: Tensor) -> Tensor:
            chosen = tf.where(one_hot, parameter, tf.zeros([], self.dtype))
            return tf.reduce_sum(chosen, axis=-1)

        tiny = np.finfo(self.dtype.as_numpy_dtype).tiny
        uniform = tf.random.stateless_uniform(
            tf.shape(component), mass_seed, minval=tiny, dtype=self.dtype
        )
        return self._family.inverse_log_survival(
            tf.math.log(uniform) + choose(log_survival),
            choose(self._mean),
            choose(self._scale),
            threshold,
        )
