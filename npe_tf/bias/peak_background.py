r"""The peak-background split: mass function and bias of one multiplicity function.

    dn/dlogM (M | delta) = C nbar(M) F / <F>,
    log F = s b1(nu) y + t [b2(nu) - b1(nu)^2 + b1(nu)] y^2 / 2,    y = log(1 + delta),

nbar, b1 and b2 being the mass function and the biases of Sheth & Tormen 1999
(`npe_tf.multiplicity`) at the cosmology's peak height nu(M). With s = t = 1 F is
1 + b1 delta + b2 delta^2 / 2 to second order, and positive everywhere; the bracket is negative for
heavy haloes, so that log F bends down where the expansion in delta would have no end.

Five parameters: log C; a and p of the multiplicity, which set nbar and the biases together; s and
t, for what a voxel of the model's density is worth. s = 1 + slope, t = 1 + curvature; a and
q / 2 - p are their published values times a softplus that is one at the start. All mass is in
haloes at C = 1.

`TinkerPeakBackground` has the multiplicity of Tinker et al. 2010, haloes of 200 times the mean
density, and their b1(nu), fitted to simulations, in place of the split's own; b2 is the split's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from npe_tf.bias.mass_resolved import MassResolved
from npe_tf.bias.single_rate import INVERSE_SOFTPLUS_OF_ONE
from npe_tf.mass_variance import MassVariance
from npe_tf.multiplicity import (
    COLLAPSE_THRESHOLD,
    SHETH_TORMEN,
    TINKER,
    Multiplicity,
    tinker_bias,
)

__all__ = ["OfPeaks", "PeakBackground", "TinkerPeakBackground"]

Tensor = Any


class OfPeaks(MassResolved):
    """What the models of a multiplicity function share: its parameters and the peak heights.

    Args:
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        variance: of the linear density by mass, at the epoch of the haloes.
        margin: voxels to leave out on each side of the mesh.
        **kwargs: of `keras.layers.Layer`.
    """

    published: Multiplicity = SHETH_TORMEN

    def __init__(
        self,
        log_mass_threshold: float,
        variance: MassVariance | dict[str, Any],
        margin: int = 0,
        **kwargs: Any,
    ) -> None:
        """Read the variance, which is a dictionary in a layer's configuration."""
        super().__init__(log_mass_threshold, margin, **kwargs)
        if not isinstance(variance, MassVariance):
            variance = MassVariance(tuple(variance["coefficients"]), variance["mean_density"])
        self.variance = variance

    def parameter_names(self) -> tuple[str, ...]:
        """A and p of the multiplicity first."""
        return ("height", "low")

    def multiplicity(self, height: Tensor, low: Tensor) -> Multiplicity:
        """The multiplicity function of two parameters."""
        limit = 0.5 * self.published.exponent
        factors = tf.math.softplus(tf.stack([height, low]) + INVERSE_SOFTPLUS_OF_ONE)
        return dataclasses.replace(
            self.published,
            height=self.published.height * factors[0],
            low=limit - (limit - self.published.low) * factors[1],
        )

    def log_peak_height(self, log_mass: Tensor) -> Tensor:
        """Log nu of haloes, `[T]`."""
        return math.log(COLLAPSE_THRESHOLD) - 0.5 * self.variance.log_variance(log_mass)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "variance": dataclasses.asdict(self.variance)}


@keras.saving.register_keras_serializable(package="npe_tf")
class PeakBackground(OfPeaks):
    """Overdensity to hats by the peak-background split; see `OfPeaks` for the arguments."""

    def parameter_names(self) -> tuple[str, ...]:
        """Of the multiplicity, then s - 1 and t - 1."""
        return (*super().parameter_names(), "slope", "curvature")

    def log_mean(self, log_mass: Tensor, height: Tensor, low: Tensor, *_: Tensor) -> Tensor:
        """Log of the mean mass function."""
        fraction = self.multiplicity(height, low).log_value(self.log_peak_height(log_mass))
        steepness = tf.math.log(-0.5 * self.variance.slope(log_mass))
        return math.log(self.variance.mean_density) - log_mass + fraction + steepness

    def log_response(
        self,
        log_density: Tensor,
        log_mass: Tensor,
        height: Tensor,
        low: Tensor,
        slope: Tensor,
        curvature: Tensor,
    ) -> Tensor:
        """Log of F."""
        log_nu = self.log_peak_height(log_mass)
        b1, b2 = self.multiplicity(height, low).bias(log_nu)
        b1 = self.linear_bias(log_nu, b1)
        second = 0.5 * (1.0 + curvature) * (b2 - tf.square(b1) + b1)
        return ((1.0 + slope) * b1 + second * log_density) * log_density

    def linear_bias(self, log_nu: Tensor, of_split: Tensor) -> Tensor:
        """b1 of haloes, `[T]`, given that of the split."""
        return of_split


@keras.saving.register_keras_serializable(package="npe_tf")
class TinkerPeakBackground(PeakBackground):
    """The same with the multiplicity and the linear bias of Tinker et al. 2010."""

    published = TINKER

    def linear_bias(self, log_nu: Tensor, of_split: Tensor) -> Tensor:
        """Their fit, whatever the parameters of the multiplicity are."""
        return tinker_bias(log_nu)
