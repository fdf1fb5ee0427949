"""Real Fourier transforms of meshes that are cut into slabs.

Each device transforms its planes along the last two axes; then every device sends every other a
share, so that each holds some lines of the second axis in full length along the first, and
transforms those. Modes therefore stay transposed: ``[ky, kz, kx]``, cut along ky, with N/D of the N
ky on each device, N/2 + 1 kz and N kx. The one exchange of all with all per transform consists of
copies between devices, which TensorFlow makes by itself where an operation's input is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from npe_tf.sharded.slabs import Slabs

__all__ = ["SlabFourier"]

Tensor = Any


class SlabFourier:
    """The transforms of `npe_tf.fourier` for cut meshes, and their adjoints.

    Args:
        slabs: how the mesh is cut.
    """

    def __init__(self, slabs: Slabs) -> None:
        """Keep the cut."""
        self.slabs = slabs
        self.num_cells = slabs.num_cells

    def frequencies(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Integer frequencies of the modes on a device.

        Args:
            number: of the device.

        Returns:
            int32 of the axes x, y and z of the field, broadcastable over the modes `[N/D, N/2 + 1,
            N]`.
        """
        n = self.num_cells
        full = np.rint(np.fft.fftfreq(n) * n).astype(np.int32)
        own = full[number * self.slabs.thickness : (number + 1) * self.slabs.thickness]
        half = np.arange(n // 2 + 1, dtype=np.int32)
        return (
            tf.constant(full[None, None, :]),
            tf.constant(own[:, None, None]),
            tf.constant(half[None, :, None]),
        )

    def forward(self, slabs: Sequence[Tensor]) -> list[Tensor]:
        """Unnormalised transform of a real field.

        Args:
            slabs: `[N/D, N, N]` each, float32 or float64.

        Returns:
            Modes `[N/D, N/2 + 1, N]` each.
        """
        pieces = []
        for slab, device in zip(slabs, self.slabs.devices, strict=True):
            with tf.device(device):
                planes = tf.transpose(tf.signal.rfft2d(slab), [1, 2, 0])
                pieces.append(tf.split(planes, len(self.slabs), axis=0))
        modes = []
        for number, device in enumerate(self.slabs.devices):
            with tf.device(device):
                modes.append(tf.signal.fft(tf.concat([p[number] for p in pieces], axis=2)))
        return modes

    def inverse(self, modes: Sequence[Tensor]) -> list[Tensor]:
        """Inverse of `forward`.

        Args:
            modes: `[N/D, N/2 + 1, N]` each. Imaginary parts of modes that are their own mirror
                image are ignored.

        Returns:
            Real field, `[N/D, N, N]` each.
        """
        pieces = []
        for own, device in zip(modes, self.slabs.devices, strict=True):
            with tf.device(device):
                pieces.append(tf.split(tf.signal.ifft(own), len(self.slabs), axis=2))
        slabs = []
        for number, device in enumerate(self.slabs.devices):
            with tf.device(device):
                planes = tf.concat([p[number] for p in pieces], axis=0)
                planes = tf.transpose(planes, [2, 0, 1])
                slabs.append(tf.signal.irfft2d(planes, [self.num_cells] * 2))
        return slabs

    def forward_adjoint(self, upstream: Sequence[Tensor]) -> list[Tensor]:
        """Gradient with respect to the field, from that with respect to its modes.

        In TensorFlow's convention, the conjugate of the derivative; see `npe_tf.fourier.rfft3d`.
        """
        return self.inverse(self._weighted(upstream, -1.0))

    def inverse_adjoint(self, upstream: Sequence[Tensor]) -> list[Tensor]:
        """Gradient with respect to modes, from that with respect to the field that they make."""
        return self._weighted(self.forward(upstream), 1.0)

    def _weighted(self, modes: Sequence[Tensor], power: float) -> list[Tensor]:
        """Multiply by a power of the number of modes that each stands for, over N^3."""
        weight = np.full(self.num_cells // 2 + 1, 2.0)
        weight[[0, -1]] = 1.0
        factor = (weight[:, None] / float(self.num_cells) ** 3) ** power
        weighted = []
        for own, device in zip(modes, self.slabs.devices, strict=True):
            with tf.device(device):
                weighted.append(own * tf.constant(factor, own.dtype))
        return weighted
