"""A linear power spectrum from the table of a Boltzmann code.

Wavenumbers in h/Mpc, power in (Mpc/h)^3, at a=1; the files of CAMB and CLASS are read with their
units. Results are float64 tensors.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.background import as_float64

__all__ = ["TabulatedPower", "check_wavenumbers"]

Array = NDArray[np.float64]
Tensor = Any


@dataclasses.dataclass(frozen=True, eq=False)
class TabulatedPower:
    """A linear power spectrum at a=1 given as a table.

    Between the table's wavenumbers the logarithm of the power is a natural cubic spline in the
    logarithm of k. The wavenumbers are fixed; the power may be a tensor, such as an emulator's
    output, and is then differentiated through.

    Attributes:
        k: wavenumbers [h/Mpc], `[n]`, positive and increasing, n >= 4.
        power: P(k) [(Mpc/h)^3], `[n]`, positive.
        normalise: whether to rescale the table to the cosmology's `sigma8`, for which it must
            cover 0.002 to 1 h/Mpc. Outside of its range the integral for sigma8, and nothing
            else, continues the table as a power law.

    Raises:
        ValueError: if the table is not as described.
    """

    k: Array
    power: Array | Tensor
    normalise: bool = True

    def __post_init__(self) -> None:
        """Refuse tables that cannot be interpolated."""
        k = np.asarray(self.k, dtype=np.float64)
        if k.ndim != 1 or len(k) < 4 or not np.all(np.isfinite(k) & (k > 0)):
            raise ValueError(
                "Invalid value for argument `k`. Expected at least 4 positive finite wavenumbers "
                f"[n]. Received: k={self.k!r}"
            )
        if not np.all(np.diff(k) > 0):
            raise ValueError(
                "Invalid value for argument `k`. Expected increasing wavenumbers. Received: "
                f"k[{int(np.argmin(np.diff(k) > 0)) + 1}] not above the one before"
            )
        power = self.power
        if not tf.is_tensor(power):
            power = np.asarray(power, dtype=np.float64)
        if tuple(power.shape) != k.shape:
            raise ValueError(
                f"Invalid value for argument `power`. Expected the shape of k, {k.shape}. "
                f"Received: shape {tuple(power.shape)}"
            )
        values = tf.get_static_value(power) if tf.is_tensor(power) else power
        if values is not None and not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(
                "Invalid value for argument `power`. Expected positive finite numbers. Received: "
                f"power={values!r}"
            )
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "power", power)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        units: str | None = None,
        h: float | None = None,
        normalise: bool = True,
    ) -> TabulatedPower:
        """Read the first two columns of a table as CAMB and CLASS write it.

        CAMB's ``*_matterpower.dat`` names its columns ``k/h  P``, CLASS's ``*_pk.dat``
        ``k (h/Mpc)  P (Mpc/h)^3``. The units are read from that line, the last of the lines that
        begin with #.

        Args:
            path: the file.
            units: ``"h/Mpc"`` (and (Mpc/h)^3) or ``"1/Mpc"`` (and Mpc^3), instead of what the
                file says.
            h: Hubble constant [100 km/s/Mpc] that the table was computed with; needed for units
                of Mpc.
            normalise: see the class.

        Returns:
            The table.

        Raises:
            ValueError: if the file is no table of two columns or more, its units are not known,
                `h` is missing, or the file says that its redshift is not zero and `normalise` is
                false.
        """
        with open(path, encoding="utf-8") as file:
            header = [line for line in file if line.lstrip().startswith("#")]
        k_has_h, power_has_h = _units(path, header, units)
        if not (k_has_h and power_has_h) and not (h is not None and np.isfinite(h) and h > 0):
            raise ValueError(
                "Invalid value for argument `h`. Expected the Hubble constant of the table, whose "
                f"units are of Mpc, not Mpc/h: {os.fspath(path)}. Received: h={h!r}"
            )
        redshift = re.search(r"redshift\s*z\s*=\s*([0-9.eE+-]+)", " ".join(header))
        if redshift and float(redshift[1]) != 0.0 and not normalise:
            raise ValueError(
                "Invalid value for argument `path`. Expected a table at redshift 0, if it is not "
                f"normalised. Received: redshift {redshift[1]} in {os.fspath(path)}"
            )
        try:
            table = np.loadtxt(path, comments="#", ndmin=2)
        except ValueError as error:
            raise ValueError(
                "Invalid value for argument `path`. Expected columns of numbers. Received: "
                f"{os.fspath(path)} ({error})"
            ) from error
        if table.shape[1] < 2:
            raise ValueError(
                "Invalid value for argument `path`. Expected two columns or more. Received: "
                f"{table.shape[1]} in {os.fspath(path)}"
            )
        little_h = 1.0 if h is None else h
        return cls(
            table[:, 0] / (1.0 if k_has_h else little_h),
            table[:, 1] * (1.0 if power_has_h else little_h**3),
            normalise,
        )

    @property
    def is_numeric(self) -> bool:
        """Whether the power is no tensor."""
        return not tf.is_tensor(self.power)

    def interpolate(self, k: ArrayLike | Tensor) -> Tensor:
        """The table between its wavenumbers, not normalised.

        Args:
            k: wavenumbers [h/Mpc], non-negative, any shape.

        Returns:
            P(k) [(Mpc/h)^3], float64 of the shape of `k`; zero at k=0. NaN outside of the table
            where the values of `k` are not known until the function runs.

        Raises:
            ValueError: if the table does not cover `k`.
        """
        values = check_wavenumbers(k)
        low, high = float(self.k[0]), float(self.k[-1])
        # Conversions of units round the ends.
        low, high = low * (1.0 - 1e-12), high * (1.0 + 1e-12)
        if values is not None:
            asked = values[values > 0]
            if asked.size and (asked.min() < low or asked.max() > high):
                raise ValueError(
                    f"Invalid value for argument `k`. Expected wavenumbers within the table's "
                    f"{self.k[0]:.4g} to {self.k[-1]:.4g} h/Mpc. Received: "
                    f"{asked.min():.4g} to {asked.max():.4g} h/Mpc"
                )
        k = as_float64(k)
        positive = k > 0.0
        power = tf.exp(self.log_power(tf.math.log(tf.where(positive, k, self.k[0]))))
        inside = (k >= low) & (k <= high)
        return tf.where(positive, tf.where(inside, power, np.nan), 0.0)

    def log_power(self, log_k: Tensor) -> Tensor:
        """Spline of log P in log k, continued as a straight line."""
        x = np.log(self.k)
        step = np.diff(x)
        y = tf.math.log(as_float64(self.power))
        slope = (y[1:] - y[:-1]) / step
        diagonals = np.zeros((3, len(x) - 2))
        diagonals[0, :-1] = step[1:-1]
        diagonals[1] = 2.0 * (step[:-1] + step[1:])
        diagonals[2, 1:] = step[1:-1]
        # Diagonally dominant, so that no pivoting is needed, which XLA does not have.
        inner = tf.linalg.tridiagonal_solve(
            tf.constant(diagonals),
            6.0 * (slope[1:] - slope[:-1]),
            diagonals_format="compact",
            partial_pivoting=False,
        )
        curvature = tf.pad(inner, [[1, 1]])

        within = tf.clip_by_value(log_k, x[0], x[-1])
        left = tf.searchsorted(x[1:-1], tf.reshape(within, [-1]), side="right")
        left = tf.reshape(left, tf.shape(log_k))
        x0, width, y0, slope, c0, c1 = (
            tf.gather(table, left)
            for table in (x[:-1], step, y[:-1], slope, curvature[:-1], curvature[1:])
        )
        t = within - x0
        first = slope - width * (2.0 * c0 + c1) / 6.0
        third = (c1 - c0) / (6.0 * width)
        value = y0 + t * (first + t * (0.5 * c0 + t * third))
        return value + (log_k - within) * (first + t * (c0 + 3.0 * t * third))


def _units(path: str | os.PathLike[str], header: list[str], units: str | None) -> tuple[bool, bool]:
    """Whether k is in h/Mpc (else 1/Mpc) and P in (Mpc/h)^3 (else Mpc^3)."""
    if units is not None:
        if units not in ("h/Mpc", "1/Mpc"):
            raise ValueError(
                "Invalid value for argument `units`. Expected 'h/Mpc', '1/Mpc' or None. Received: "
                f"units={units!r}"
            )
        return units == "h/Mpc", units == "h/Mpc"
    # What is left is free of spaces, brackets, carets and the numbers of the columns.
    title = re.sub(r"[\s\[\](){}^*#]|\d+:(?=[kP])", "", header[-1]) if header else ""
    k_title, _, power_title = title.partition("P")
    k_has_h = power_has_h = None
    if re.search(r"k/h$|h/Mpc|hMpc-1|h1Mpc-1", k_title):
        k_has_h = True
    elif re.search(r"1/Mpc|Mpc-1", k_title):
        k_has_h = False
    if re.search(r"Mpc/h3|Mpc3/h3|h-3Mpc3|Mpc3h-3|Mpch-13|h-1Mpc3", power_title):
        power_has_h = True
    elif re.search(r"Mpc3", power_title):
        power_has_h = False
    elif k_title.endswith("k/h"):
        # CAMB leaves the unit of P out.
        power_has_h = True
    if k_has_h is None or power_has_h is None:
        raise ValueError(
            "Invalid value for argument `units`. Expected 'h/Mpc' or '1/Mpc', because the header "
            f"does not say both units: {header[-1].strip() if header else 'no header'!r} in "
            f"{os.fspath(path)}. Received: units=None"
        )
    return k_has_h, power_has_h


def check_wavenumbers(k: Any) -> Array | None:
    """The values, checked; None if they are not known."""
    values = tf.get_static_value(k) if tf.is_tensor(k) else np.asarray(k, dtype=np.float64)
    if values is not None and not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(
            "Invalid value for argument `k`. Expected finite non-negative wavenumbers in h/Mpc. "
            f"Received: k={k!r}"
        )
    return values
