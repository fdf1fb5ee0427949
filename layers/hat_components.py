"""Hats: components whose sum is a piecewise linear density.

With hats at the vertices of a regular mesh in x, one step apart and one step wide, the mixture's
density is the linear interpolation of its amplitudes over the step: any tabulated function of x is
a mixture, with the integrals and the sampling of one.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from layers.components import ComponentFamily

__all__ = ["HatComponents"]

Tensor = Any

# of zero there is no logarithm; what is not there has a density of no consequence
_NOTHING = 1e-30


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class HatComponents(ComponentFamily):
    """The triangle on [mean - scale, mean + scale], of integral one.

    Where it is zero its logarithms stop at that of 1e-30, with a gradient of zero. The threshold is
    not used: a hat about it has half of its integral above.
    """

    name = "hat"

    def log_density(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of (1 - |x - mean| / scale) / scale."""
        height = 1.0 - tf.abs(x - mean) / scale
        return tf.math.log(tf.maximum(height, _NOTHING)) - tf.math.log(scale)

    def log_survival(self, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor) -> Tensor:
        """Log of the triangle's area above x."""
        return tf.math.log(tf.maximum(_area_above((x - mean) / scale), _NOTHING))

    def integral(
        self, log_amplitude: Tensor, x: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """exp(`log_amplitude`) times the triangle's area above x, which may be zero here."""
        return tf.exp(log_amplitude) * _area_above((x - mean) / scale)

    def inverse_log_survival(
        self, log_survival: Tensor, mean: Tensor, scale: Tensor, threshold: Tensor
    ) -> Tensor:
        """The x at or above the threshold where `log_survival` takes a given value."""
        area = tf.exp(tf.minimum(log_survival, 0.0))
        above = 1.0 - tf.sqrt(2.0 * tf.minimum(area, 0.5))
        below = tf.sqrt(2.0 * (1.0 - tf.maximum(area, 0.5))) - 1.0
        return tf.maximum(mean + scale * tf.where(area < 0.5, above, below), threshold)


def _area_above(u: Tensor) -> Tensor:
    """Of the triangle on [-1, 1]."""
    right = 0.5 * tf.square(tf.nn.relu(1.0 - u))
    left = 1.0 - 0.5 * tf.square(tf.nn.relu(1.0 + u))
    return tf.where(u > 0.0, right, left)
