"""Likelihood of the un-binned catalogue where counts scatter more than those of a Poisson process.

The intensity of every voxel is gamma distributed about the model's, with the mean one and the
variance phi; given it haloes are a Poisson process. Their number N in a voxel that expects lambda
is then negative binomial, their masses independent given N, and the likelihood that of
`npe_tf.likelihood` with another law of N,

    log L = sum over haloes of log[C n(log M_h | voxel)] + sum over voxels of
            [sum_{k<N} log(1 + k phi) - (N + 1 / phi) log(1 + phi lambda)],

per unit volume and log mass as there: for phi -> 0 the bracket is -lambda. The first sum is one of
haloes, counted 0, 1, 2, ... within their voxel. No difference of large numbers is taken: what is
log Gamma(N + 1/phi) - log Gamma(1/phi) + N log phi elsewhere keeps its digits for every phi.

phi is that of `npe_tf.bias.counts`. Completeness thins haloes at random, which leaves phi alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.likelihood import PoissonLikelihood
from npe_tf.mass_function import HaloMassFunction

__all__ = ["NegativeBinomialLikelihood", "log1p_ratio"]

Tensor = Any

_SMALL = 1e-2
_NUM_TERMS = 8
# logarithms of phi: one is Poisson to the last digit, the other leaves next to all voxels empty
_FEWEST = 1e-100
_LOWEST, _HIGHEST = -100.0, 100.0


class NegativeBinomialLikelihood(PoissonLikelihood):
    """Likelihood of a halo catalogue given mass functions that have a dispersion.

    Arguments, attributes and errors are those of `PoissonLikelihood`.
    """

    @property
    def ranks(self) -> NDArray[np.int64]:
        """How many haloes of the same voxel come before each, `[H]`."""
        order = np.argsort(self.voxels, kind="stable")
        grouped = self.voxels[order]
        first = np.searchsorted(grouped, grouped, side="left")
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - first
        return ranks

    def log_dispersion(self, mass_function: HaloMassFunction) -> Tensor:
        """Log phi of every voxel, float64 of shape `shape`."""
        if mass_function.dispersion is None:
            raise ValueError(
                "Invalid value for argument `mass_function`. Expected one with a dispersion, as of "
                "a model with counts='negative_binomial'. Received: dispersion=None"
            )
        pair = tf.cast(mass_function.dispersion, tf.float64)
        # not `log_integral`, whose custom gradient cannot be differentiated from outside a function
        number = tf.cast(mass_function.integral(), tf.float64) * self.grid.cell_volume
        log_number = tf.math.log(tf.maximum(number, _FEWEST))
        return tf.clip_by_value(pair[0] + pair[1] * log_number, _LOWEST, _HIGHEST)

    def draw_counts(
        self,
        expected: NDArray[np.float64],
        mass_function: HaloMassFunction,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Draw the number of haloes of each voxel."""
        phi = np.exp(np.asarray(self.log_dispersion(mass_function)))
        # a gamma variable of so large a shape is one
        shape = np.minimum(1.0 / phi, 1e15)
        counts: NDArray[np.int64] = rng.poisson(expected * rng.gamma(shape) / shape)
        return counts

    def __call__(self, mass_function: HaloMassFunction) -> Tensor:
        """Log likelihood, a float64 scalar; sums and dispersions are float64 throughout.

        Args:
            mass_function: of batch shape `shape`, with a dispersion.
        """
        found = self._log_intensities(mass_function)
        phi = tf.exp(self.log_dispersion(mass_function))
        expected = tf.cast(self.expected_counts(mass_function), tf.float64)
        at_haloes = tf.gather(tf.reshape(phi, [-1]), tf.constant(self.voxels, tf.int32))
        excess = tf.reduce_sum(tf.math.log1p(tf.constant(self.ranks, tf.float64) * at_haloes))
        x = phi * expected
        number = tf.constant(self.counts, tf.float64)
        missing = tf.reduce_sum(number * tf.math.log1p(x) + expected * log1p_ratio(x))
        return found + excess - missing


def log1p_ratio(x: Tensor) -> Tensor:
    """Ratio log(1 + x) / x with accurate derivatives at small x, one at zero.

    Args:
        x: float64 tensor of any shape, non-negative.

    Returns:
        Of the same shape.
    """
    small = x < _SMALL
    near = tf.where(small, x, tf.zeros_like(x))
    series = tf.zeros_like(x)
    for n in reversed(range(_NUM_TERMS)):
        series = series * near + (-1.0) ** n / (n + 1.0)
    far = tf.where(small, tf.ones_like(x), x)
    return tf.where(small, series, tf.math.log1p(far) / far)
