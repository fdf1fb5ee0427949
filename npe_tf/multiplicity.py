r"""Which fraction of the mass is in haloes of which peak height, and how the haloes are biased.

With nu = delta_c / sigma(M), delta_c = 1.686, a universal mass function is

    dn/dlogM = rho / M f(nu) |dlog nu / dlogM|,

and f, the mass fraction per unit log nu, of one form for several fits,

    f(nu) = A nu^q [1 + (c nu^2)^-p] exp(-a nu^2 / 2):

* Press & Schechter 1974 (ApJ 187, 425): q = 1, p = 0, a = 1;
* Sheth & Tormen 1999 (MNRAS 308, 119, https://arxiv.org/abs/astro-ph/9901122, eq. 10): q = 1,
  c = a = 0.707, p = 0.3;
* Tinker et al. 2010 (ApJ 724, 878, https://arxiv.org/abs/1001.3162, eq. 8 and table 4, haloes of
  200 times the mean density): q = 1 + 2 eta = 0.514, c = beta^2 = 0.347, p = phi = -0.729,
  a = gamma = 0.864.

A is such that all mass is in haloes. A long wave delta_L shifts delta_c, and its haloes are biased
as the derivatives of f by delta_c say (the peak-background split; Mo & White 1996, MNRAS 282, 347;
Mo, Jing & White 1997, MNRAS 284, 189). With L1 = dlog f / dlog nu and L2 = d^2 log f / (dlog nu)^2,

    b1_L = -L1 / delta_c,    b2_L = (L1^2 + L2 - L1) / delta_c^2

for the density of the linear Lagrangian field, and, for spherical collapse,

    b1 = 1 + b1_L,    b2 = b2_L + 8/21 b1_L

for the evolved one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf
from numpy.typing import ArrayLike

__all__ = [
    "COLLAPSE_THRESHOLD",
    "PRESS_SCHECHTER",
    "SHETH_TORMEN",
    "TINKER",
    "Multiplicity",
    "tinker_bias",
]

Tensor = Any

COLLAPSE_THRESHOLD = 1.686
"""Linear overdensity at which a sphere collapses, delta_c."""


@dataclasses.dataclass(frozen=True)
class Multiplicity:
    """f(nu) of this module. Its numbers may be scalar tensors, and are differentiable then.

    Attributes:
        height: a > 0, of the exponential.
        low: p < q / 2, of the low peaks.
        exponent: q > 0.
        inner: c > 0; a if it is `None`.
    """

    height: float | Tensor
    low: float | Tensor
    exponent: float = 1.0
    inner: float | None = None

    def log_value(self, log_nu: ArrayLike | Tensor) -> Tensor:
        """Log f(nu), the mass fraction per unit log nu.

        Args:
            log_nu: any shape; NumPy arrays count as float64.

        Returns:
            Of the shape and dtype of `log_nu`.
        """
        log_nu, a, p, log_c = self._tensors(log_nu)
        tail = tf.math.softplus(-p * (log_c + 2.0 * log_nu))
        return self._log_norm(a, p, log_c) + (
            self.exponent * log_nu + tail - 0.5 * a * tf.exp(2.0 * log_nu)
        )

    def lagrangian_bias(self, log_nu: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        """b1_L and b2_L of haloes, each of the shape of `log_nu`."""
        log_nu, a, p, log_c = self._tensors(log_nu)
        share = tf.sigmoid(-p * (log_c + 2.0 * log_nu))
        peak = a * tf.exp(2.0 * log_nu)
        first = self.exponent - 2.0 * p * share - peak
        second = 4.0 * tf.square(p) * share * (1.0 - share) - 2.0 * peak
        b1 = -first / COLLAPSE_THRESHOLD
        b2 = (tf.square(first) + second - first) / COLLAPSE_THRESHOLD**2
        return b1, b2

    def bias(self, log_nu: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        """b1 and b2 of haloes with respect to the evolved density."""
        b1, b2 = self.lagrangian_bias(log_nu)
        return 1.0 + b1, b2 + 8.0 / 21.0 * b1

    def _tensors(self, log_nu: ArrayLike | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_nu = _as_tensor(log_nu)
        a, p = (tf.convert_to_tensor(x, log_nu.dtype) for x in (self.height, self.low))
        inner = a if self.inner is None else tf.convert_to_tensor(self.inner, log_nu.dtype)
        return log_nu, a, p, tf.math.log(inner)

    def _log_norm(self, a: Tensor, p: Tensor, log_c: Tensor) -> Tensor:
        """Log A, of int nu^(q - 1) [1 + (c nu^2)^-p] exp(-a nu^2 / 2) dnu by gamma functions."""
        half = 0.5 * self.exponent
        log_two = math.log(2.0)
        log_scale = log_two - tf.math.log(a)
        low = tf.math.lgamma(half - p) - p * (log_scale + log_c)
        high = tf.fill(tf.shape(low), tf.constant(math.lgamma(half), low.dtype))
        both = tf.reduce_logsumexp(tf.stack([low, high]), axis=0)
        return log_two - half * log_scale - both


PRESS_SCHECHTER = Multiplicity(1.0, 0.0)
SHETH_TORMEN = Multiplicity(0.707, 0.3)
TINKER = Multiplicity(0.864, -0.729, 1.0 - 2.0 * 0.243, 0.589**2)


def tinker_bias(log_nu: ArrayLike | Tensor, overdensity: float = 200.0) -> Tensor:
    """Linear bias of haloes as Tinker et al. 2010 found it in simulations (eq. 6, table 2).

    Args:
        log_nu: any shape.
        overdensity: of the haloes, over the mean density of matter.

    Returns:
        b1 with respect to the evolved density, of the shape of `log_nu`.
    """
    log_nu = _as_tensor(log_nu)
    y = math.log10(overdensity)
    spike = math.exp(-((4.0 / y) ** 4))
    power = 0.44 * y - 0.88
    # nu^a / (nu^a + delta_c^a)
    step = tf.sigmoid(power * (log_nu - math.log(COLLAPSE_THRESHOLD)))
    high = (0.019 + 0.107 * y + 0.19 * spike) * tf.exp(2.4 * log_nu)
    return 1.0 - (1.0 + 0.24 * y * spike) * step + 0.183 * tf.exp(1.5 * log_nu) + high


def _as_tensor(values: ArrayLike | Tensor) -> Tensor:
    return values if tf.is_tensor(values) else tf.convert_to_tensor(values, tf.float64)
