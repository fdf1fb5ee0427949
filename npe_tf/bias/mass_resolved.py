"""Bias models whose masses follow the density too.

    dn/dlogM (M | delta) = nbar(M) F(M, delta),

in every voxel a curve over mass, not a number times a common curve. It is evaluated at vertices a
quarter of an e-fold apart, from the threshold to 10^16.5 Msun/h, and interpolated linearly between
them: a mixture of hats (`layers.hat_components`), whose integrals and samples are exact. Against
the curve itself that is 0.5 per cent per unit of slope squared, at most, and two thirds of it on
average.

In the normalised models F has a mean of one over the voxels of the box at every mass, so that
nbar is the mass function of the box whatever the parameters of F are: the abundance of haloes and
their bias are told apart. All parameters are zero at the start.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.hat_components import HatComponents
from npe_tf.bias.counts import with_counts
from npe_tf.bias.neural import NeuralBias
from npe_tf.bias.single_rate import SOFTENING

__all__ = ["STEP", "MassResolved", "mass_resolved_bias", "mass_vertices"]

Tensor = Any

STEP = 0.25
"""Between the vertices, in log mass."""

_HIGHEST_MASS = math.log(10.0) * 16.5


def mass_vertices(log_mass_threshold: float) -> tuple[float, ...]:
    """Log masses where the mass functions are evaluated, from the threshold on [log of Msun/h]."""
    count = max(2, math.ceil((_HIGHEST_MASS - log_mass_threshold) / STEP) + 1)
    return tuple(log_mass_threshold + STEP * np.arange(count))


class MassResolved(keras.layers.Layer):
    """Overdensity to a mass function at the vertices; subclasses have the two factors.

    Args:
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        margin: voxels to leave out on each side of the mesh.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if the margin is negative.
    """

    normalised = True
    """Whether F is divided by its mean over the box."""

    def __init__(self, log_mass_threshold: float, margin: int = 0, **kwargs: Any) -> None:
        """Check the arguments."""
        if margin < 0:
            raise ValueError(
                "Invalid value for argument `margin`. Expected a non-negative integer. Received: "
                f"margin={margin!r}"
            )
        super().__init__(**kwargs)
        self.log_mass_threshold = log_mass_threshold
        self.margin = margin
        self.vertices = mass_vertices(log_mass_threshold)

    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, besides the amplitude."""
        raise NotImplementedError

    def log_mean(self, log_mass: Tensor, *parameters: Tensor) -> Tensor:
        """Log of nbar over its amplitude.

        Args:
            log_mass: of the vertices, `[T]`.
            *parameters: scalars, in the order of `parameter_names`.

        Returns:
            `[T]` [log of (h/Mpc)^3].
        """
        raise NotImplementedError

    def log_response(self, log_density: Tensor, log_mass: Tensor, *parameters: Tensor) -> Tensor:
        """Log of F, which need not be normalised.

        Args:
            log_density: log(1 + delta), softened, `[batch, N, N, N, 1]`.
            log_mass: of the vertices, `[T]`.
            *parameters: scalars, in the order of `parameter_names`.

        Returns:
            `[batch, N, N, N, T]`.
        """
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Make the weights, all zero."""
        names = ("log_rate", *self.parameter_names())
        self.numbers = [self.add_weight(name=n, shape=(1,), initializer="zeros") for n in names]
        self.built = True

    def call(self, inputs: Tensor) -> dict[str, Tensor]:
        """Overdensity `[batch, N, N, N, 1]` to hats, each number `[batch, N', N', N', T]`."""
        log_rate, *others = (tf.convert_to_tensor(weight)[0] for weight in self.numbers)
        log_mass = tf.constant(self.vertices, log_rate.dtype)
        response = self.log_response(tf.math.log(inputs + (1.0 + SOFTENING)), log_mass, *others)
        if self.normalised:
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[1:4]), response.dtype)
            total = tf.reduce_logsumexp(response, axis=(1, 2, 3), keepdims=True)
            response -= total - tf.math.log(count)
        if self.margin:
            inside = slice(self.margin, -self.margin)
            response = response[:, inside, inside, inside]
        # a hat's integral is one, its height one over its width
        log_amplitude = response + (log_rate + self.log_mean(log_mass, *others) + math.log(STEP))
        shape = tf.shape(log_amplitude)
        return {
            "log_amplitude": log_amplitude,
            "mean": tf.broadcast_to(log_mass, shape),
            "scale": tf.fill(shape, tf.constant(STEP, log_mass.dtype)),
        }

    def compute_output_shape(self, input_shape: Any) -> dict[str, Any]:
        """Shape of each number of the mixture."""
        side = [n if n is None else n - 2 * self.margin for n in input_shape[1:-1]]
        shape = (input_shape[0], *side, len(self.vertices))
        return dict.fromkeys(("log_amplitude", "mean", "scale"), shape)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "log_mass_threshold": self.log_mass_threshold,
            "margin": self.margin,
        }


def mass_resolved_bias(
    layer: MassResolved, num_cells: int | None = None, counts: str = "poisson"
) -> NeuralBias:
    """Wrap a layer as a bias model.

    Args:
        layer: mass-resolved.
        num_cells: side of the input mesh; `None` for any.
        counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.

    Returns:
        The bias model, of hats, with the layer as `bias.model.layers[1]`.
    """
    delta = keras.Input((num_cells,) * 3 + (1,), dtype=layer.dtype, name="delta")
    outputs = with_counts(layer(delta), counts, layer.dtype)
    model = keras.Model(delta, outputs, name=layer.name)
    return NeuralBias(model, layer.log_mass_threshold, family=HatComponents())
