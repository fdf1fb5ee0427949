"""From white noise to the linear density field.

The sampled quantity is white noise x ~ N(0, 1) on the mesh; the linear density today is
``delta_k = x_k sqrt(P(k) N^3 / L^3)``, with the zero mode and the Nyquist planes empty. The prior
on x is therefore exactly standard normal whatever the cosmology.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import irfft3d, rfft3d
from npe_tf.grid import Grid
from npe_tf.power import linear_power
from npe_tf.tabulated_power import TabulatedPower

__all__ = ["InitialField"]

Array = NDArray[np.float64]
Tensor = Any


class InitialField:
    """Linear density field at a=1 as a function of white noise.

    Where the cosmology or the power consists of tensors, the field is differentiable with respect
    to them; the field then belongs to the function or the tape in which it was made.

    Args:
        grid: the mesh.
        cosmology: gives the linear power spectrum.
        power: another spectrum than the fit with acoustic oscillations: the name of a fit or a
            table, see the argument `transfer` of `linear_power`; or a function from wavenumbers
            [h/Mpc] to P(k) [(Mpc/h)^3], both `[n]`, that is called once, at positive wavenumbers,
            and taken as it is.

    Raises:
        ValueError: if `power` is no spectrum or does not cover the mesh.
    """

    def __init__(
        self,
        grid: Grid,
        cosmology: Cosmology,
        power: str | TabulatedPower | Callable[[Array], Tensor] | None = None,
    ) -> None:
        """Tabulate the amplitude of every length of the wavevector."""
        self.grid = grid
        self.cosmology = cosmology
        # P(k) at every squared integer frequency that is alive: some 10^4 on a mesh of 10^7.
        x, y, z = grid.frequencies
        squared = x**2 + y**2 + z**2
        present = np.flatnonzero(np.bincount(squared[grid.alive]))
        k = grid.fundamental * np.sqrt(present.astype(np.float64))
        rank = np.zeros(int(squared.max()) + 1, np.int32)
        rank[present] = np.arange(len(present))
        self._index = rank[squared]

        if callable(power):
            values: Tensor = tf.convert_to_tensor(power(k))
            if tuple(values.shape) != k.shape:
                raise ValueError(
                    "Invalid value for argument `power`. Expected a function that keeps the shape "
                    f"{k.shape} of the wavenumbers. Received: a function to shape "
                    f"{tuple(values.shape)}"
                )
            numeric = False
        else:
            transfer = "eisenstein_hu" if power is None else power
            values = linear_power(k, cosmology, transfer)
            numeric = cosmology.is_numeric and not (
                isinstance(power, TabulatedPower) and not power.is_numeric
            )
        self._power: Tensor = values.numpy() if numeric else tf.cast(values, tf.float64)
        self._numeric = numeric

    @functools.cached_property
    def _fixed_amplitude(self) -> Array:
        """Amplitudes of a spectrum of numbers, `[N, N, N//2 + 1]`."""
        scaled = np.asarray(self._power) * (self.grid.num_cells**3 / self.grid.volume)
        return np.asarray(np.sqrt(scaled)[self._index] * self.grid.alive)

    def _amplitude(self, dtype: Any) -> Tensor:
        """Amplitude of every mode, `[N, N, N//2 + 1]`."""
        if self._numeric:
            return tf.constant(self._fixed_amplitude, dtype)
        scaled = self._power * (self.grid.num_cells**3 / self.grid.volume)
        gathered = tf.gather(tf.cast(tf.sqrt(scaled), dtype), self._index)
        return gathered * tf.constant(self.grid.alive, dtype)

    def linear_power(self) -> Tensor:
        """Linear power of every mode [(Mpc/h)^3], float64 `[N, N, N//2 + 1]`.

        Zero where the field has no modes.
        """
        return tf.gather(tf.convert_to_tensor(self._power), self._index) * tf.constant(
            self.grid.alive, tf.float64
        )

    def modes(self, white_noise: Tensor) -> Tensor:
        """Fourier modes of the linear density.

        Args:
            white_noise: `[..., N, N, N]`, float32 or float64.

        Returns:
            `[..., N, N, N//2 + 1]`, complex, unnormalised forward transform.
        """
        white_noise = tf.convert_to_tensor(white_noise)
        if white_noise.shape[-3:] != self.grid.shape:
            raise ValueError(
                "Invalid value for argument `white_noise`. Expected shape "
                f"[..., {', '.join(map(str, self.grid.shape))}]. Received: shape "
                f"{tuple(white_noise.shape)}"
            )
        return self.amplify(rfft3d(white_noise))

    def amplify(self, modes: Tensor) -> Tensor:
        """Fourier modes of white noise to those of the linear density, `[N, N, N//2 + 1]`."""
        real = tf.math.real(modes).dtype
        return modes * tf.cast(self._amplitude(real), modes.dtype)

    def __call__(self, white_noise: Tensor) -> Tensor:
        """Linear overdensity at a=1, `[..., N, N, N]`."""
        return irfft3d(self.modes(white_noise))

    def white_noise(self, delta_linear: ArrayLike) -> Array:
        """White noise that gives a known linear field (its inverse where modes are alive).

        Args:
            delta_linear: linear overdensity at a=1 on this mesh, `[N, N, N]`.

        Returns:
            `[N, N, N]`; the dead modes are empty.
        """
        delta = np.asarray(delta_linear, dtype=np.float64)
        if delta.shape != self.grid.shape:
            raise ValueError(
                f"Invalid value for argument `delta_linear`. Expected shape {self.grid.shape}. "
                f"Received: shape {delta.shape}"
            )
        amplitude = np.asarray(self._amplitude(tf.float64))
        safe = np.where(self.grid.alive, amplitude, 1.0)
        modes = np.fft.rfftn(delta) * self.grid.alive / safe
        return np.asarray(np.fft.irfftn(modes, s=self.grid.shape, axes=(0, 1, 2)))
