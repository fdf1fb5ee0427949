"""How the number of haloes in a voxel scatters about what is expected: parameters of it.

Counts are of a Poisson process, or their intensities are gamma distributed about the model's, voxel
by voxel. Then counts N of expectation lambda are negative binomial,

    var N = lambda + phi lambda^2,

and phi, the dispersion, is a parameter like those of the bias: log(phi / 0.1) has the prior
N(0, 10^2) of all others, so that phi is log-normal. With ``"negative_binomial_power"`` phi follows
the expected number n V of haloes in a completely seen voxel, phi = phi_1 (n V)^s: s = -1 is a
variance in proportion to the mean. `npe_tf.negative_binomial` has the likelihood.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

__all__ = ["COUNTS", "Dispersion", "check_counts", "with_counts"]

Tensor = Any

COUNTS = ("poisson", "negative_binomial", "negative_binomial_power")
"""Laws of the number of haloes in a voxel."""

_LOG_DISPERSION = math.log(0.1)


@keras.saving.register_keras_serializable(package="npe_tf")
class Dispersion(keras.layers.Layer):
    """The dispersion, whatever the input is; its parameters are zero at the start.

    Args:
        power: whether it follows the expected number of haloes.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, power: bool = False, **kwargs: Any) -> None:
        """Keep the argument."""
        super().__init__(**kwargs)
        self.power = power

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        names = ("log_dispersion", "dispersion_power")[: 1 + self.power]
        self.numbers = [self.add_weight(name=n, shape=(1,), initializer="zeros") for n in names]
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Anything `[batch, ...]` to log phi_1 and s, `[batch, 2]`."""
        numbers = [tf.convert_to_tensor(weight) for weight in self.numbers]
        pair = [numbers[0] + _LOG_DISPERSION, numbers[1] if self.power else tf.zeros_like(*numbers)]
        return tf.broadcast_to(tf.concat(pair, axis=0), (tf.shape(inputs)[0], 2))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """Two numbers."""
        return (input_shape[0], 2)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "power": self.power}


def check_counts(counts: str) -> None:
    """Refuse what is not in `COUNTS`."""
    if counts not in COUNTS:
        raise ValueError(
            f"Invalid value for argument `counts`. Expected one of {COUNTS}. Received: "
            f"counts={counts!r}"
        )


def with_counts(mixture: dict[str, Any], counts: str, dtype: str) -> dict[str, Any]:
    """Add the dispersion to the outputs of a model that is being built.

    Args:
        mixture: Keras tensors `log_amplitude`, `mean` and `scale`.
        counts: one of `COUNTS`.
        dtype: of the model.

    Returns:
        The mixture, with `dispersion` unless counts are those of a Poisson process.
    """
    check_counts(counts)
    if counts == "poisson":
        return mixture
    power = counts == "negative_binomial_power"
    # Keras orders weights by depth: behind the mixture they stay behind its own in theta
    dispersion = Dispersion(power, dtype=dtype, name="dispersion")(mixture["log_amplitude"])
    return {**mixture, "dispersion": dispersion}
