"""From white noise to the linear density field.

The sampled quantity is white noise x ~ N(0, 1) on the mesh; the linear density today is
``delta_k = x_k sqrt(P(k) N^3 / L^3)``, with the zero mode and the Nyquist planes empty. The prior
on x is therefore exactly standard normal whatever the cosmology.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import irfft3d, rfft3d
from npe_tf.grid import Grid
from npe_tf.power import linear_power

__all__ = ["InitialField"]

Tensor = Any


class InitialField:
    """Linear density field at a=1 as a function of white noise.

    Args:
        grid: the mesh.
        cosmology: gives the linear power spectrum.
    """

    def __init__(self, grid: Grid, cosmology: Cosmology) -> None:
        """Tabulate the amplitude of every mode."""
        self.grid = grid
        self.cosmology = cosmology
        power = linear_power(grid.wavenumber, cosmology) * grid.alive
        self._amplitude: NDArray[np.float64] = np.sqrt(power * grid.num_cells**3 / grid.volume)

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
        modes = rfft3d(white_noise)
        amplitude = tf.constant(self._amplitude, dtype=white_noise.dtype)
        return modes * tf.cast(amplitude, modes.dtype)

    def __call__(self, white_noise: Tensor) -> Tensor:
        """Linear overdensity at a=1, `[..., N, N, N]`."""
        return irfft3d(self.modes(white_noise))

    def white_noise(self, delta_linear: ArrayLike) -> NDArray[np.float64]:
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
        safe = np.where(self.grid.alive, self._amplitude, 1.0)
        modes = np.fft.rfftn(delta) * self.grid.alive / safe
        return np.asarray(np.fft.irfftn(modes, s=self.grid.shape, axes=(0, 1, 2)))
