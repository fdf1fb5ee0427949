"""A power law of the density whose exponent grows with mass.

    dn/dlogM (M | delta) = C nbar(M) F / <F>,    F = (1 + delta)^alpha(M),
    alpha = alpha_0 + alpha_1 x,    nbar = exp[-gamma x - e^(x - x_c)],    x = log(M / m),

m being the threshold: the model of de la Torre & Peacock 2013 (https://arxiv.org/abs/1212.3615) for
each mass, with a Schechter function for the mean mass function. It knows of no cosmology. Five
parameters: log of C over 10^-3 (h/Mpc)^3; gamma - 1; x_c - 5; alpha_0 - 1; alpha_1.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from npe_tf.bias.mass_resolved import MassResolved

__all__ = ["PowerLawByMass"]

Tensor = Any

_LOG_RATE = math.log(1e-3)
_CUTOFF = 5.0
# e^40 e-folds are no halo at all, and squares of it are finite in float32
_LARGEST_EXPONENT = 40.0


@keras.saving.register_keras_serializable(package="npe_tf")
class PowerLawByMass(MassResolved):
    """Overdensity to hats by a power law for each mass; see `MassResolved` for the arguments."""

    def parameter_names(self) -> tuple[str, ...]:
        """Of the mean mass function, then of the exponent."""
        return ("decline", "cutoff", "alpha", "alpha_by_mass")

    def log_mean(self, log_mass: Tensor, decline: Tensor, cutoff: Tensor, *_: Tensor) -> Tensor:
        """Log of the Schechter function."""
        x = log_mass - self.log_mass_threshold
        taper = tf.exp(tf.minimum(x - cutoff - _CUTOFF, _LARGEST_EXPONENT))
        return _LOG_RATE - (1.0 + decline) * x - taper

    def log_response(
        self,
        log_density: Tensor,
        log_mass: Tensor,
        decline: Tensor,
        cutoff: Tensor,
        alpha: Tensor,
        alpha_by_mass: Tensor,
    ) -> Tensor:
        """Log of F."""
        x = log_mass - self.log_mass_threshold
        return (1.0 + alpha + alpha_by_mass * x) * log_density
