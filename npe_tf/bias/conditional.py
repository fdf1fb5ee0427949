r"""The conditional mass function: haloes of an environment by the excursion set.

A voxel of overdensity delta holds the mass M_e (1 + delta), the part of a Lagrangian region whose
linear overdensity delta_0 is that of a sphere which has reached 1 + delta (Mo & White 1996, MNRAS
282, 347, https://arxiv.org/abs/astro-ph/9512127, eq. 18),

    delta_0 = delta_c / 1.68647 [1.68647 - 1.35 (1 + delta)^(-2/3) - 1.12431 (1 + delta)^(-1/2)
              + 0.78785 (1 + delta)^(-0.58661)],

below delta_c for every delta. Walks of the linear density that pass delta_0 at the variance S_0 of
the region have the mean r delta_0 and the variance S - r^2 S_0 at the variance S of a halo's mass,

    nu = (delta_c - r delta_0) / sqrt(S - r^2 S_0),    r = S / (S^2 + S_0^2)^(1/2),
    dn/dlogM (M | delta) = C rho (1 + delta) / M f(nu) g |dlog S / dlogM| / 2,
    g = r^2 S / (S - r^2 S_0) + (1 - r^2) delta_c / (delta_c - r delta_0).

For haloes far below the region's mass r is one, g is S / (S - S_0), and with f of Press & Schechter
this is the conditional mass function of Bond et al. 1991 (ApJ 379, 440) and Lacey & Cole 1993
(MNRAS 262, 627); with f of Sheth & Tormen 1999 it stands for that of Sheth & Tormen 2002 (MNRAS
329, 61), whose moving barrier is replaced by f as a function of nu. A voxel is no closed region:
haloes heavier than it exist, spread over its neighbours. For those r = S / S_0 and g = delta_c /
(delta_c - r delta_0): the rate of walks that first cross at S among those that pass delta_0 later,
by Bayes' theorem. The covariance r S_0 goes smoothly from one limit to the other, and is below S
for equal masses, whose regions overlap without being the same.

Haloes far below the region's mass hold C times the mass of the voxel, all masses together. Five
parameters: log C; a and p of f as in `npe_tf.bias.peak_background`; the log of M_e over 10^13
Msun/h; and the exponent e, 1 + delta standing for (1 + delta)^(1 + e) everywhere, since a model's
density is not that of the haloes' simulation.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from npe_tf.bias.peak_background import OfPeaks
from npe_tf.multiplicity import COLLAPSE_THRESHOLD

__all__ = ["Conditional", "linear_overdensity"]

Tensor = Any

_LOG_REGION = math.log(1e13)
# of 1 + delta: an emptier region has no haloes either, and its linear density diverges
_LOG_EMPTIEST = math.log(1e-2)


def linear_overdensity(log_density: Tensor) -> Tensor:
    """Linear overdensity of a sphere, from its evolved density (Mo & White 1996, eq. 18).

    Args:
        log_density: log(1 + delta), any shape.

    Returns:
        delta_0 of the same shape, in the units of `COLLAPSE_THRESHOLD`.
    """
    terms = (
        1.68647
        - 1.35 * tf.exp(-2.0 / 3.0 * log_density)
        - 1.12431 * tf.exp(-0.5 * log_density)
        + 0.78785 * tf.exp(-0.58661 * log_density)
    )
    return COLLAPSE_THRESHOLD / 1.68647 * terms


@keras.saving.register_keras_serializable(package="npe_tf")
class Conditional(OfPeaks):
    """Overdensity to hats by the conditional mass function; see `OfPeaks` for the arguments."""

    normalised = False

    def parameter_names(self) -> tuple[str, ...]:
        """Of the multiplicity, then the region's mass and the exponent."""
        return (*super().parameter_names(), "region", "exponent")

    def log_mean(self, log_mass: Tensor, *_: Tensor) -> Tensor:
        """Log of rho / M."""
        return math.log(self.variance.mean_density) - log_mass

    def log_response(
        self,
        log_density: Tensor,
        log_mass: Tensor,
        height: Tensor,
        low: Tensor,
        region: Tensor,
        exponent: Tensor,
    ) -> Tensor:
        """Log of (1 + delta) f(nu) g |dlog S / dlogM| / 2."""
        y = (1.0 + exponent) * log_density
        inside = tf.maximum(y, _LOG_EMPTIEST)
        linear = linear_overdensity(inside)
        # in logs of variances: w = S^2 / (S^2 + S_0^2) = r^2
        log_s = self.variance.log_variance(log_mass)
        log_s0 = self.variance.log_variance(region + _LOG_REGION + inside)
        ratio = log_s0 - log_s
        square = tf.sigmoid(-2.0 * ratio)
        r = tf.sqrt(square)
        rest = 1.0 - square * tf.exp(ratio)  # of the variance, in units of S
        distance = COLLAPSE_THRESHOLD - r * linear
        log_nu = tf.math.log(distance) - 0.5 * (log_s + tf.math.log(rest))
        rate = square / rest + (1.0 - square) * COLLAPSE_THRESHOLD / distance
        steepness = -0.5 * rate * self.variance.slope(log_mass)
        fraction = self.multiplicity(height, low).log_value(log_nu)
        return y + fraction + tf.math.log(steepness)
