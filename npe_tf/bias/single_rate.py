"""Bias models of one rate: how many haloes depends on the density, how heavy they are does not.

    dn/dlogM = n(delta) f(log M),

with f normalised above the threshold and shared by all voxels: a mixture of T normals in log mass,
cut at the threshold, which is the freedom that one voxel of the neural model has. Its parameters
are part of theta, so that likelihoods of these models are of the same data as the neural model's.

    f = sum_t w_t N(log M; mu_t, sigma_t) / Q_t,    w = softmax(0, mass_logit),
    mu_t = log m_tau + t + mass_mean_t,    sigma_t = 1e-3 + softplus(mass_width_t + log(e - 1)),

Q_t being the part of component t above the threshold: w_t is the fraction of haloes that are of
component t. No mean is more than ten widths below the threshold, where the tail is close to a
power law of mass already.

All parameters are of order one for haloes of 1e12 to 1e15 Msun/h, so that the prior N(0, 10^2) is
wide, and theta = 0 is a start: 1e-3 haloes per (Mpc/h)^3 at the mean density, masses over a factor
of a few above the threshold.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from npe_tf.bias.counts import with_counts
from npe_tf.bias.neural import NeuralBias, log_softplus

__all__ = [
    "INVERSE_SOFTPLUS_OF_ONE",
    "SOFTENING",
    "SingleRate",
    "log_softplus",
    "single_rate_bias",
]

Tensor = Any

SOFTENING = 1e-3
"""Added to 1 + delta where a logarithm or a power of it is taken: far below any voxel's density."""

INVERSE_SOFTPLUS_OF_ONE = math.log(math.expm1(1.0))
"""Where softplus is one."""

_LOG_RATE = math.log(1e-3)
_LEAST_WIDTH = 1e-3
# e^(z^2 / 2) of more widths z overflows in float32
_MOST_WIDTHS_BELOW = 10.0


class SingleRate(keras.layers.Layer):
    """Overdensity to the mixture of a model of one rate; subclasses have the rate.

    Args:
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        num_components: T, of the mass distribution.
        margin: voxels to leave out on each side of the mesh.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if there is no component or the margin is negative.
    """

    def __init__(
        self,
        log_mass_threshold: float,
        num_components: int = 2,
        margin: int = 0,
        **kwargs: Any,
    ) -> None:
        """Check the arguments."""
        if num_components < 1:
            raise ValueError(
                "Invalid value for argument `num_components`. Expected a strictly positive "
                f"integer. Received: num_components={num_components!r}"
            )
        if margin < 0:
            raise ValueError(
                "Invalid value for argument `margin`. Expected a non-negative integer. Received: "
                f"margin={margin!r}"
            )
        super().__init__(**kwargs)
        self.log_mass_threshold = log_mass_threshold
        self.num_components = num_components
        self.margin = margin

    def rate_parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the rate, besides its amplitude."""
        raise NotImplementedError

    def log_relative_rate(self, delta: Tensor, *parameters: Tensor) -> Tensor:
        """Log of the rate over its amplitude.

        Args:
            delta: overdensity `[batch, N, N, N]`.
            *parameters: scalars, in the order of `rate_parameters`.

        Returns:
            `[batch, N, N, N]`, finite for every finite delta >= -1.
        """
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Make the weights, all zero: of the rate first."""
        names = ("log_rate", *self.rate_parameters())
        self.rate = [self.add_weight(name=n, shape=(1,), initializer="zeros") for n in names]
        count = self.num_components
        self.mass_logit = None
        if count > 1:
            self.mass_logit = self.add_weight(
                name="mass_logit", shape=(count - 1,), initializer="zeros"
            )
        self.mass_mean = self.add_weight(name="mass_mean", shape=(count,), initializer="zeros")
        self.mass_width = self.add_weight(name="mass_width", shape=(count,), initializer="zeros")
        self.built = True

    def call(self, inputs: Tensor) -> dict[str, Tensor]:
        """Overdensity `[batch, N, N, N, 1]` to mixtures, each number `[batch, N', N', N', T]`."""
        log_rate, *others = (tf.convert_to_tensor(weight)[0] for weight in self.rate)
        relative = self.log_relative_rate(inputs[..., 0], *others)
        if self.margin:
            inside = slice(self.margin, -self.margin)
            relative = relative[:, inside, inside, inside]
        log_weight, mean, scale = self.mass_distribution()
        log_amplitude = relative[..., tf.newaxis] + (log_rate + _LOG_RATE) + log_weight
        shape = tf.shape(log_amplitude)
        return {
            "log_amplitude": log_amplitude,
            "mean": tf.broadcast_to(mean, shape),
            "scale": tf.broadcast_to(scale, shape),
        }

    def mass_distribution(self) -> tuple[Tensor, Tensor, Tensor]:
        """log(w_t / Q_t), mu_t and sigma_t, each `[T]`."""
        mean = tf.convert_to_tensor(self.mass_mean)
        mean += self.log_mass_threshold + tf.range(self.num_components, dtype=mean.dtype)
        width = tf.convert_to_tensor(self.mass_width)
        scale = _LEAST_WIDTH + tf.math.softplus(width + INVERSE_SOFTPLUS_OF_ONE)
        mean = tf.maximum(mean, self.log_mass_threshold - _MOST_WIDTHS_BELOW * scale)
        logits = tf.zeros([1], mean.dtype)
        if self.mass_logit is not None:
            logits = tf.concat([logits, tf.convert_to_tensor(self.mass_logit)], 0)
        normal = tfp.distributions.Normal(mean, scale)
        log_above = normal.log_survival_function(tf.constant(self.log_mass_threshold, mean.dtype))
        return tf.nn.log_softmax(logits) - log_above, mean, scale

    def compute_output_shape(self, input_shape: Any) -> dict[str, Any]:
        """Shape of each number of the mixture."""
        side = [n if n is None else n - 2 * self.margin for n in input_shape[1:-1]]
        shape = (input_shape[0], *side, self.num_components)
        return dict.fromkeys(("log_amplitude", "mean", "scale"), shape)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "log_mass_threshold": self.log_mass_threshold,
            "num_components": self.num_components,
            "margin": self.margin,
        }


def single_rate_bias(
    layer: SingleRate, num_cells: int | None = None, counts: str = "poisson"
) -> NeuralBias:
    """Wrap a layer as a bias model.

    Args:
        layer: of one rate.
        num_cells: side of the input mesh; `None` for any.
        counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.

    Returns:
        The bias model, with the layer as `bias.model.layers[1]`.
    """
    delta = keras.Input((num_cells,) * 3 + (1,), dtype=layer.dtype, name="delta")
    outputs = with_counts(layer(delta), counts, layer.dtype)
    model = keras.Model(delta, outputs, name=layer.name)
    return NeuralBias(model, layer.log_mass_threshold)
