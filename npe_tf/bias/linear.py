"""Haloes in proportion to the density contrast.

    n = n_0 (1 + b_1 delta),

linear bias (Kaiser 1984, ApJ 284, L9), on the evolved density of a voxel. Where that falls below
zero it is no rate, and a Poisson process needs one above zero. The ramp is therefore rounded off,

    n = n_0 r(1 + b_1 delta),    r(y) = log(1 + e^(s y)) / s,    s = 10,

which differs from y by less than 1e-3 for y above 0.5, and falls as e^(10 y) below zero: a halo
there costs log likelihood, but not all of it. Parameters: log(n_0 / 1e-3) and b_1 - 1.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from npe_tf.bias.single_rate import SingleRate, log_softplus

__all__ = ["Linear", "log_ramp"]

Tensor = Any

_SHARPNESS = 10.0


def log_ramp(y: Tensor) -> Tensor:
    """Log of r(y), the ramp that never reaches zero."""
    return log_softplus(_SHARPNESS * y) - math.log(_SHARPNESS)


@keras.saving.register_keras_serializable(package="npe_tf")
class Linear(SingleRate):
    """Overdensity to mixtures by linear bias; see `SingleRate` for the arguments."""

    def rate_parameters(self) -> tuple[str, ...]:
        """The linear bias."""
        return ("b1",)

    def log_relative_rate(self, delta: Tensor, b1: Tensor) -> Tensor:
        """Log of the rate over n_0."""
        return log_ramp(1.0 + (1.0 + b1) * delta)
