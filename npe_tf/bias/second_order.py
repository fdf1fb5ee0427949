"""Second-order bias with the tidal field.

    n = n_0 r(1 + b_1 delta + b_2 / 2 delta^2 + b_s / 2 s^2),

McDonald & Roy 2009 (JCAP 08, 020, https://arxiv.org/abs/0902.0991), to second order, as in
the review of Desjacques, Jeong & Schmidt 2018 (https://arxiv.org/abs/1611.09787). The mean of
delta^2 and s^2 is not subtracted: n_0 holds it. r is the ramp of `npe_tf.bias.linear`, which keeps
the rate positive. s^2 is the square of the tidal field,

    s_ij(k) = (k_i k_j / k^2 - 1/3 [i = j]) delta(k),    s^2 = sum_ij s_ij^2,

on the periodic mesh, without its Nyquist planes. Parameters: log(n_0 / 1e-3), b_1 - 1, b_2, b_s.
"""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from npe_tf.bias.linear import log_ramp
from npe_tf.bias.single_rate import SingleRate
from npe_tf.fourier import irfft3d, rfft3d

__all__ = ["SecondOrder", "tidal_square"]

Tensor = Any


def tidal_square(delta: Tensor) -> Tensor:
    """Square of the tidal field, s^2.

    Args:
        delta: overdensity `[..., N, N, N]` with N even and known, float32 or float64; periodic.

    Returns:
        `[..., N, N, N]`.

    Raises:
        ValueError: if N is odd or not known.
    """
    num_cells = delta.shape[-1]
    if num_cells is None or num_cells % 2:
        raise ValueError(
            "Invalid value for argument `delta`. Expected a mesh of an even number of cells. "
            f"Received: shape {delta.shape}"
        )
    # the unit of k drops out
    full = np.fft.fftfreq(num_cells, 1.0 / num_cells)
    k = np.meshgrid(full, full, np.arange(num_cells // 2 + 1), indexing="ij")
    squared = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    alive = (squared > 0) & np.all(np.abs(k) < num_cells // 2, axis=0)
    modes = rfft3d(delta)
    total = tf.zeros_like(delta)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        tensor = k[i] * k[j] / np.where(squared > 0, squared, 1.0) - (i == j) / 3.0
        field = irfft3d(modes * tf.constant(tensor * alive, modes.dtype))
        total += (1.0 if i == j else 2.0) * tf.square(field)
    return total


@keras.saving.register_keras_serializable(package="npe_tf")
class SecondOrder(SingleRate):
    """Overdensity to mixtures by second-order bias; see `SingleRate` for the arguments.

    The mesh must be periodic, and its number of cells even and known.
    """

    def rate_parameters(self) -> tuple[str, ...]:
        """Linear, quadratic and tidal bias."""
        return ("b1", "b2", "bs")

    def log_relative_rate(self, delta: Tensor, b1: Tensor, b2: Tensor, bs: Tensor) -> Tensor:
        """Log of the rate over n_0."""
        quadratic = b2 * tf.square(delta) + bs * tidal_square(delta)
        return log_ramp(1.0 + (1.0 + b1) * delta + 0.5 * quadratic)
