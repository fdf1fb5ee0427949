"""Cosmological parameters: background, distances and linear growth as functions of them.

The formulae are those of `npe_tf.background`: matter, curvature and dark energy with the equation
of state ``w(a) = w0 + wa (1 - a)``, no radiation. `D1` is normalised to one today; `D2` is the
second-order factor in the same normalisation, with the sign convention ``D2 ~ -3/7 D1^2``
(Bouchet et al. 1995, A&A 296, 575).

Importing this module does not start TensorFlow; its functions do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from npe_tf.background import Background, Growth

__all__ = ["PRESETS", "Cosmology"]

Tensor = Any

_BOUNDS = {
    "Omega_m": (0.0, 1.0),
    "Omega_b": (0.0, 1.0),
    "h": (0.0, 5.0),
    "sigma8": (0.0, 10.0),
    "n_s": (-3.0, 5.0),
    "T_cmb": (0.0, 100.0),
    "w0": (-5.0, 1.0),
    "wa": (-10.0, 10.0),
    "Omega_k": (-1.0, 1.0),
    "A_s": (0.0, 1e-6),
}

PRESETS: dict[str, dict[str, float]] = {
    # Charnock et al. 2020, MNRAS 494, 50: the VELMASS simulations.
    "velmass": {"Omega_m": 0.315, "Omega_b": 0.049, "h": 0.68, "sigma8": 0.81, "n_s": 0.97},
    # Planck 2015 XIII, A&A 594, A13, table 4, TT,TE,EE+lowP+lensing+ext; Omega_b from
    # Omega_b h^2 = 0.02230.
    "planck2015": {"Omega_m": 0.3089, "Omega_b": 0.0486, "h": 0.6774, "sigma8": 0.8159,
                   "n_s": 0.9667},
    # Planck 2018 VI, A&A 641, A6, table 2, TT,TE,EE+lowE+lensing+BAO; Omega_b from
    # Omega_b h^2 = 0.02242.
    "planck2018": {"Omega_m": 0.3111, "Omega_b": 0.0490, "h": 0.6766, "sigma8": 0.8102,
                   "n_s": 0.9665},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cosmology:
    """Parameters of a universe of matter, curvature and dark energy; flat LCDM by default.

    Each is a number, or a scalar TensorFlow tensor; then all that follows from the cosmology is
    differentiable with respect to it. Numbers, and tensors whose values are known (eager ones,
    constants), are checked. A cosmology of numbers can be compared and hashed.

    Attributes:
        Omega_m: total matter density today in units of the critical density, in (0, 1].
        Omega_b: baryon density today, in (0, Omega_m).
        h: Hubble constant in units of 100 km/s/Mpc.
        sigma8: linear rms overdensity in spheres of 8 Mpc/h today; None if `A_s` is given.
        n_s: spectral index of the primordial power.
        T_cmb: temperature of the microwave background today [K].
        w0: equation of state of dark energy today.
        wa: dark energy has w(a) = w0 + wa (1 - a); `w0 + wa` is negative, so that matter comes
            first.
        Omega_k: curvature density today, positive if open.
        A_s: amplitude of the primordial curvature power at 0.05/Mpc, instead of `sigma8`.

    Raises:
        ValueError: if a parameter is not finite or out of its range, if the universe bounces
            (E^2 is not positive at some 0 < a <= 1), or if not exactly one of `sigma8` and `A_s`
            is given.
    """

    Omega_m: float | Tensor = 0.315
    Omega_b: float | Tensor = 0.049
    h: float | Tensor = 0.68
    sigma8: float | Tensor | None = 0.81
    n_s: float | Tensor = 0.97
    T_cmb: float | Tensor = 2.7255
    w0: float | Tensor = -1.0
    wa: float | Tensor = 0.0
    Omega_k: float | Tensor = 0.0
    A_s: float | Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse parameters for which the formulae do not hold."""
        if (self.sigma8 is None) == (self.A_s is None):
            raise ValueError(
                "Invalid value for argument `A_s`. Expected exactly one of sigma8 and A_s, the "
                f"other None. Received: A_s={self.A_s!r}, sigma8={self.sigma8!r}"
            )
        known = {}
        for name, bounds in _BOUNDS.items():
            given = getattr(self, name)
            if given is None and name in ("sigma8", "A_s"):
                continue
            known[name] = _checked(name, given, bounds)
            if not _is_tensor(given):
                object.__setattr__(self, name, known[name])
        values = {name: value for name, value in known.items() if value is not None}
        if {"Omega_m", "Omega_b"} <= values.keys() and values["Omega_b"] >= values["Omega_m"]:
            raise ValueError(
                "Invalid value for argument `Omega_b`. Expected less than "
                f"Omega_m={values['Omega_m']!r}. Received: Omega_b={values['Omega_b']!r}"
            )
        if {"w0", "wa"} <= values.keys() and values["w0"] + values["wa"] >= 0.0:
            raise ValueError(
                "Invalid value for argument `wa`. Expected w0 + wa < 0, or dark energy comes "
                f"before matter. Received: wa={values['wa']!r} with w0={values['w0']!r}"
            )
        if {"Omega_m", "Omega_k", "w0", "wa"} <= values.keys():
            _refuse_bounce(values)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Cosmology:
        """A published set of parameters.

        Args:
            name: ``"velmass"`` (Charnock et al. 2020, the defaults), ``"planck2015"`` (Planck 2015
                XIII, table 4, TT,TE,EE+lowP+lensing+ext) or ``"planck2018"`` (Planck 2018 VI,
                table 2, TT,TE,EE+lowE+lensing+BAO).
            **changes: parameters to set otherwise.

        Returns:
            The cosmology.

        Raises:
            ValueError: if there is no such set.
        """
        if name not in PRESETS:
            raise ValueError(
                f"Invalid value for argument `name`. Expected one of {sorted(PRESETS)}. Received: "
                f"name={name!r}"
            )
        return cls(**{**PRESETS[name], **changes})

    @property
    def is_numeric(self) -> bool:
        """Whether no parameter is a tensor."""
        return not any(_is_tensor(getattr(self, field.name)) for field in dataclasses.fields(self))

    def hubble(self, a: ArrayLike | Tensor) -> Tensor:
        """Expansion rate in units of the Hubble constant, E(a) = H(a)/H0.

        Args:
            a: scale factors, positive, any shape.

        Returns:
            float64 tensor of the shape of `a`. So do all functions of the scale factor below.

        Raises:
            ValueError: if `a` is not positive and finite, where its value is known.
        """
        return self._of_scale_factor("hubble", a)

    def matter_fraction(self, a: ArrayLike | Tensor) -> Tensor:
        """Omega_m(a), the matter density in units of the critical density at a."""
        return self._of_scale_factor("matter_fraction", a)

    def comoving_distance(self, a: ArrayLike | Tensor) -> Tensor:
        """Comoving distance along the line of sight from a to today [Mpc/h].

        Negative for a > 1. Relative error below 1e-9 for a >= 0.01 and w0 + wa <= -0.2.
        """
        return self._of_scale_factor("comoving_distance", a)

    def transverse_comoving_distance(self, a: ArrayLike | Tensor) -> Tensor:
        """Comoving distance across the line of sight from a to today [Mpc/h].

        The comoving distance, bent by curvature: (c/H0) sinh(sqrt(Omega_k) d H0/c) /
        sqrt(Omega_k), and the sine if closed (Hogg 1999, https://arxiv.org/abs/astro-ph/9905116,
        eq. 16). Smooth at Omega_k = 0.
        """
        return self._of_scale_factor("transverse_comoving_distance", a)

    def growth_factor(self, a: ArrayLike | Tensor) -> Tensor:
        """Linear growth factor D1(a), one at a=1.

        By Chebyshev collocation of the growth equation, see `Background.growth`. Measured against
        a fine Runge-Kutta solution at 1e-3 <= a <= 1 (also for the other growth functions):
        relative error below 1e-10 for LCDM with Omega_m >= 0.05 and |Omega_k| <= 0.2, below 1e-8
        for -2 <= w0 <= -0.4 with w0 + wa <= -0.2 or Omega_m >= 0.01, and 5e-6 at w0 + wa = -0.1.
        For 1 < a <= 2 below 1e-7 in LCDM and 5e-6 at w0 = -2; worse beyond.
        First derivatives agree with finite differences to 1e-6, second ones to 1e-5.
        """
        return self._of_scale_factor("growth", a, "first")

    def growth_rate(self, a: ArrayLike | Tensor) -> Tensor:
        """Logarithmic growth rate f1(a) = dlnD1/dlna, the exact derivative of `growth_factor`."""
        return self._of_scale_factor("growth", a, "first_rate")

    def second_order_growth_factor(self, a: ArrayLike | Tensor) -> Tensor:
        """Second-order growth factor D2(a), -3/7 D1^2 in an Einstein-de Sitter universe.

        The solution of D2'' + (2 + dlnE/dlna) D2' - 3/2 Omega_m(a) (D2 - D1^2) = 0 that grows
        with D1^2, primes for d/dlna; D1 is normalised to one today.
        """
        return self._of_scale_factor("growth", a, "second")

    def second_order_growth_rate(self, a: ArrayLike | Tensor) -> Tensor:
        """Logarithmic growth rate f2(a) = dlnD2/dlna."""
        return self._of_scale_factor("growth", a, "second_rate")

    def growth(self, a: ArrayLike | Tensor) -> Growth:
        """The growth functions of both orders together, from one solution; see `Growth`."""
        return self._of_scale_factor("growth", a)

    def growth_since_matter(self) -> Tensor:
        """D1(a)/a of today over that of early matter domination, float64 scalar.

        What is left of the growth in an Einstein-de Sitter universe; it ties `A_s` to the power
        of today. Relative error 1e-9 for w0 + wa <= -0.3, 4e-7 at -0.2 and 3e-4 at -0.1.
        """
        return self._of_scale_factor("growth", 1.0, "since_matter")

    def _of_scale_factor(self, function: str, a: Any, part: str | None = None) -> Tensor:
        import tensorflow as tf

        from npe_tf.background import Background, as_float64

        a_is_tensor = _is_tensor(a)
        values = tf.get_static_value(a) if a_is_tensor else np.asarray(a, dtype=np.float64)
        if values is not None and not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(
                "Invalid value for argument `a`. Expected positive finite scale factors. Received: "
                f"a={a!r}"
            )
        # Numbers stay numbers in a function that is being traced.
        constant = self.is_numeric and not a_is_tensor
        with tf.init_scope() if constant else contextlib.nullcontext():
            background: Background = Background(
                *(as_float64(p) for p in (self.Omega_m, self.Omega_k, self.w0, self.wa))
            )
            result = getattr(background, function)(as_float64(a))
            return result if part is None else getattr(result, part)


def _is_tensor(value: Any) -> bool:
    # Where TensorFlow has not started there is no tensor.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and bool(tensorflow.is_tensor(value))


def _checked(name: str, given: Any, bounds: tuple[float, float]) -> float | None:
    """The value of a parameter, checked; None if it is not known."""
    low, high = bounds
    expected = f"Invalid value for argument `{name}`. Expected a number in ({low:g}, {high:g}]"
    if _is_tensor(given):
        import tensorflow as tf

        if given.shape.rank not in (0, None):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected a number or a scalar tensor. "
                f"Received: {name} of shape {tuple(given.shape)}"
            )
        given = tf.get_static_value(given)
        if given is None:
            return None
    if isinstance(given, np.ndarray) and given.ndim == 0:
        given = given[()]
    if not isinstance(given, numbers.Real):
        raise ValueError(f"{expected}. Received: {name}={given!r}")
    value = float(given)
    if not (np.isfinite(value) and low < value <= high):
        raise ValueError(f"{expected}. Received: {name}={value!r}")
    return value


def _refuse_bounce(values: dict[str, float]) -> None:
    matter, curvature, w0, wa = (values[name] for name in ("Omega_m", "Omega_k", "w0", "wa"))
    a = np.concatenate([np.geomspace(1e-4, 1e-2, 50), np.linspace(0.01, 1.0, 991)])
    dark = (1.0 - matter - curvature) * np.exp(-3.0 * ((w0 + wa) * np.log(a) + wa * (1.0 - a)))
    scaled_square = matter + curvature * a + dark
    if not np.all(scaled_square > 0.0):
        worst = a[np.argmin(scaled_square)]
        raise ValueError(
            "Invalid value for argument `Omega_k`. Expected E(a)^2 > 0 for 0 < a <= 1; it is not "
            f"at a={worst:.3g}. Received: Omega_k={curvature!r} with Omega_m={matter!r}, "
            f"w0={w0!r}, wa={wa!r}"
        )
