"""Real three-dimensional Fourier transforms that can be differentiated to any order.

TensorFlow registers no gradient for `rfft3d` and `irfft3d`. Here the two are wrapped as a pair
in which the derivative of each is written in terms of the other, so that the tape can go through
them again and again. Convention: forward unnormalised, as NumPy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.grid import Grid

__all__ = ["irfft3d", "pad_modes", "rfft3d", "truncate"]

Tensor = Any


def _last_axis_weight(num_cells: int, dtype: Any) -> Tensor:
    """2 for a mode that stands for itself and its conjugate, 1 for the two end planes."""
    weight = np.full(num_cells // 2 + 1, 2.0)
    weight[[0, -1]] = 1.0
    return tf.constant(weight, dtype=dtype)


def rfft3d(field: Tensor) -> Tensor:
    """Forward transform of a real field.

    Args:
        field: `[..., N, N, N]` with N even, float32 or float64.

    Returns:
        Modes `[..., N, N, N//2 + 1]`, complex64 or complex128, unnormalised.
    """

    @tf.custom_gradient
    def transform(field: Tensor) -> tuple[Tensor, Any]:
        shape = field.shape
        num_cells = shape[-1]
        modes = tf.signal.rfft3d(field)

        def grad(upstream: Tensor) -> Tensor:
            # TensorFlow's complex gradient is conj(df/dz): the adjoint of the transform acts on
            # it as a sum over the stored modes alone, which irfft3d doubles where it mirrors.
            weight = _last_axis_weight(num_cells, field.dtype)
            scaled = upstream * tf.cast(float(num_cells) ** 3 / weight, upstream.dtype)
            return irfft3d(scaled)

        return modes, grad

    return transform(tf.convert_to_tensor(field))


def irfft3d(modes: Tensor) -> Tensor:
    """Inverse of `rfft3d`.

    Args:
        modes: `[..., N, N, N//2 + 1]`, complex64 or complex128. The imaginary parts of modes that
            are their own mirror image are ignored.

    Returns:
        Real field `[..., N, N, N]`.
    """

    @tf.custom_gradient
    def transform(modes: Tensor) -> tuple[Tensor, Any]:
        num_cells = 2 * (modes.shape[-1] - 1)
        field = tf.signal.irfft3d(modes)

        def grad(upstream: Tensor) -> Tensor:
            weight = _last_axis_weight(num_cells, upstream.dtype)
            return rfft3d(upstream) * tf.cast(weight / float(num_cells) ** 3, modes.dtype)

        return field, grad

    return transform(tf.convert_to_tensor(modes))


def pad_modes(modes: Tensor, grid: Grid, factor: int) -> Tensor:
    """Embed the modes of a field in a mesh that is `factor` times finer (zero above Nyquist).

    The Nyquist planes must be empty, as `npe_tf.initial_field` leaves them.

    Args:
        modes: `[..., N, N, N//2 + 1]`.
        grid: the mesh of `modes`.
        factor: how many times finer, a positive integer.

    Returns:
        `[..., sN, sN, sN//2 + 1]` with s the factor, scaled so that the inverse transform takes
        the same values at the shared vertices.
    """
    if factor == 1:
        return modes
    half = grid.num_cells // 2
    gap = grid.num_cells * (factor - 1)
    for axis in (-3, -2):
        low, high = tf.split(modes, [half, half], axis=axis)
        shape = tf.shape(low)
        rank = len(modes.shape)
        zero_shape = tf.tensor_scatter_nd_update(shape, [[rank + axis]], [gap])
        modes = tf.concat([low, tf.zeros(zero_shape, modes.dtype), high], axis=axis)
    last = (factor - 1) * half
    paddings = [[0, 0]] * (len(modes.shape) - 1) + [[0, last]]
    static = modes.shape[:-3].as_list()
    fine = grid.num_cells * factor
    modes = tf.pad(modes, paddings) * tf.cast(float(factor) ** 3, modes.dtype)
    return tf.ensure_shape(modes, [*static, fine, fine, fine // 2 + 1])


def truncate(field: ArrayLike, num_cells: int) -> NDArray[np.float64]:
    """Represent a field on a coarser mesh by the modes that it has below its Nyquist frequency.

    For linear fields; an overdensity would ring below -1 (see `painting.coarsen`).

    Args:
        field: `[M, M, M]`.
        num_cells: vertices along each side of the coarser mesh, N <= M, even.

    Returns:
        `[N, N, N]`; the Nyquist planes are empty if N < M.
    """
    fine = np.asarray(field, dtype=np.float64)
    if num_cells > fine.shape[0] or num_cells % 2:
        raise ValueError(
            f"Invalid value for argument `num_cells`. Expected an even integer up to "
            f"{fine.shape[0]}. Received: num_cells={num_cells!r}"
        )
    if num_cells == fine.shape[0]:
        return fine
    half = num_cells // 2
    keep = np.r_[0:half, -half:0]
    modes = np.fft.rfftn(fine)[np.ix_(keep, keep, np.arange(half + 1))]
    modes[half] = modes[:, half] = modes[..., half] = 0.0
    ratio = (num_cells / fine.shape[0]) ** 3
    return np.asarray(np.fft.irfftn(modes, s=(num_cells,) * 3, axes=(0, 1, 2)) * ratio)
