"""Flat LCDM background and linear growth.

Matter and a cosmological constant only, so that the growing mode has the closed integral of
Heath (1977, MNRAS 179, 351). `D1` is normalised to one today; `D2` is the second-order factor
with the sign convention `D2 ~ -3/7 D1^2` (Bouchet et al. 1995, A&A 296, 575).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Cosmology"]

_BOUNDS = {
    "Omega_m": (0.0, 1.0),
    "Omega_b": (0.0, 1.0),
    "h": (0.0, 5.0),
    "sigma8": (0.0, 10.0),
    "n_s": (-5.0, 5.0),
    "T_cmb": (0.0, 100.0),
}


@dataclasses.dataclass(frozen=True)
class Cosmology:
    """Parameters of a flat LCDM universe.

    Attributes:
        Omega_m: total matter density today in units of the critical density, in (0, 1].
        Omega_b: baryon density today, in (0, Omega_m).
        h: Hubble constant in units of 100 km/s/Mpc.
        sigma8: linear rms overdensity in spheres of 8 Mpc/h today.
        n_s: spectral index of the primordial power.
        T_cmb: temperature of the microwave background today [K].

    Raises:
        ValueError: if a parameter is not finite or out of its range.
    """

    Omega_m: float = 0.315
    Omega_b: float = 0.049
    h: float = 0.68
    sigma8: float = 0.81
    n_s: float = 0.97
    T_cmb: float = 2.7255

    def __post_init__(self) -> None:
        """Refuse parameters for which the formulae below do not hold."""
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            inside = np.isfinite(value) and low < value and value <= high
            if not inside:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a number in ({low:g}, "
                    f"{high:g}]. Received: {name}={value!r}"
                )
        if self.Omega_b >= self.Omega_m:
            raise ValueError(
                "Invalid value for argument `Omega_b`. Expected less than "
                f"Omega_m={self.Omega_m!r}. Received: Omega_b={self.Omega_b!r}"
            )

    def hubble(self, a: ArrayLike) -> NDArray[np.float64]:
        """Expansion rate in units of the Hubble constant, E(a) = H(a)/H0."""
        a = np.asarray(a, dtype=np.float64)
        return np.asarray(np.sqrt(self.Omega_m / a**3 + (1.0 - self.Omega_m)))

    def _growth_integral(self, a: NDArray[np.float64]) -> NDArray[np.float64]:
        """5/2 Omega_m E(a) int_0^a da'/(a' E(a'))^3, by Gauss-Legendre quadrature.

        With a' = a u^2 the integrand is smooth at the lower end, so that 64 nodes reach rounding.
        """
        nodes, weights = np.polynomial.legendre.leggauss(64)
        u = 0.5 * (nodes + 1.0)
        x = a[..., None] * u**2
        integrand = (x * self.hubble(x)) ** -3 * 2.0 * a[..., None] * u
        integral = 0.5 * np.sum(weights * integrand, axis=-1)
        return np.asarray(2.5 * self.Omega_m * self.hubble(a) * integral)

    def growth_factor(self, a: ArrayLike) -> NDArray[np.float64]:
        """Linear growth factor D1(a), one at a=1.

        Args:
            a: scale factors, positive, any shape.

        Returns:
            D1 of the shape of `a`.
        """
        a = _scale_factor(a)
        today = self._growth_integral(np.ones(()))
        return np.asarray(self._growth_integral(a) / today)

    def growth_rate(self, a: ArrayLike) -> NDArray[np.float64]:
        """Logarithmic growth rate f1(a) = dlnD1/dlna, the exact derivative of `growth_factor`."""
        a = _scale_factor(a)
        squared = self.hubble(a) ** 2
        matter = self.Omega_m / a**3
        return np.asarray((2.5 * matter * a / self._growth_integral(a) - 1.5 * matter) / squared)


def _scale_factor(a: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(a, dtype=np.float64)
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(
            f"Invalid value for argument `a`. Expected positive finite scale factors. Received: "
            f"a={a!r}"
        )
    return values
