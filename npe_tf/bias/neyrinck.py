"""Haloes from densities by a power law with an exponential cut-off in voids.

Neyrinck et al. 2014 (MNRAS 441, 646, https://arxiv.org/abs/1309.6641), the model that Charnock et
al. 2020 compare theirs with:

    n = nbar (1 + delta)^beta exp[-A (1 + delta)^-eps].

Written about the mean density, since nbar and A are nearly degenerate otherwise,

    n = n_0 (1 + delta)^beta exp(-A [(1 + delta)^-eps - 1]),    nbar = n_0 e^A.

Parameters: log(n_0 / 1e-3), beta - 1, and the inverse softplus of A and of eps less that of one. A
prior of N(0, 10^2) is flat over beta and, for A and eps, close to a half-normal of width 10.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from npe_tf.bias.single_rate import INVERSE_SOFTPLUS_OF_ONE, SOFTENING, SingleRate

__all__ = ["Neyrinck"]

Tensor = Any

# exp(40) of anything is no halo at all, and squares of it are finite in float32
_LARGEST_EXPONENT = 40.0


@keras.saving.register_keras_serializable(package="npe_tf")
class Neyrinck(SingleRate):
    """Overdensity to mixtures by Neyrinck et al. 2014; see `SingleRate` for the arguments.

    `SOFTENING` is added to 1 + delta. In a voxel so empty that (1 + delta)^-eps is above e^40 the
    rate no longer falls.
    """

    def rate_parameters(self) -> tuple[str, ...]:
        """Exponent, cut-off and its exponent."""
        return ("beta", "cutoff", "epsilon")

    def log_relative_rate(
        self, delta: Tensor, beta: Tensor, cutoff: Tensor, epsilon: Tensor
    ) -> Tensor:
        """Log of the rate over n_0."""
        log_density = tf.math.log(delta + (1.0 + SOFTENING))
        exponent = -tf.math.softplus(epsilon + INVERSE_SOFTPLUS_OF_ONE) * log_density
        decay = tf.math.expm1(tf.minimum(exponent, _LARGEST_EXPONENT))
        return (1.0 + beta) * log_density - tf.math.softplus(
            cutoff + INVERSE_SOFTPLUS_OF_ONE
        ) * decay
