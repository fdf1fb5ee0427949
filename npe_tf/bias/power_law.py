"""Haloes from densities by a power law.

    n = n_0 (1 + delta)^beta,

the model of de la Torre & Peacock 2013 (MNRAS 435, 743, https://arxiv.org/abs/1212.3615), and
Neyrinck's without its cut-off. Parameters: log(n_0 / 1e-3) and beta - 1.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from npe_tf.bias.single_rate import SOFTENING, SingleRate

__all__ = ["PowerLaw"]

Tensor = Any


@keras.saving.register_keras_serializable(package="npe_tf")
class PowerLaw(SingleRate):
    """Overdensity to mixtures by a power law; see `SingleRate` for the arguments.

    `SOFTENING` is added to 1 + delta.
    """

    def rate_parameters(self) -> tuple[str, ...]:
        """The exponent."""
        return ("beta",)

    def log_relative_rate(self, delta: Tensor, beta: Tensor) -> Tensor:
        """Log of the rate over n_0."""
        return (1.0 + beta) * tf.math.log(delta + (1.0 + SOFTENING))
