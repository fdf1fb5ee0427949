"""Real three-dimensional Fourier transforms that can be differentiated to any order.

TensorFlow registers no gradient for `rfft3d` and `irfft3d`. Here the two are wrapped as a pair
in which the derivative of each is written in terms of the other, so that the tape can go through
them again and again. Convention: forward unnormalised, as NumPy's.

Fields and white noise are carried from one mesh to another in NumPy, axis by axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.grid import Grid

__all__ = [
    "irfft3d",
    "pad_modes",
    "resample",
    "resample_white_noise",
    "rfft3d",
    "truncate",
]

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


def _check_resampling(name: str, field: ArrayLike, num_cells: int) -> NDArray[np.float64]:
    cube = np.asarray(field, dtype=np.float64)
    sides = cube.shape[-3:]
    if len(sides) != 3 or len(set(sides)) != 1 or sides[0] < 2 or sides[0] % 2:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected shape [..., N, N, N] with N even. "
            f"Received: shape {cube.shape}"
        )
    integer = isinstance(num_cells, (int, np.integer)) and not isinstance(num_cells, bool)
    if not integer or num_cells < 2 or num_cells % 2:
        raise ValueError(
            "Invalid value for argument `num_cells`. Expected a strictly positive even integer. "
            f"Received: num_cells={num_cells!r}"
        )
    return cube


def _resample_axis(
    values: NDArray[np.float64], axis: int, num_cells: int, nyquist: float
) -> NDArray[np.float64]:
    """Keep or pad the modes of one axis, unnormalised; `nyquist` times the last shared one.

    Which is real on the coarser of the two meshes, and there stands for itself alone.
    """
    modes = np.fft.rfft(values, axis=axis)
    half = min(num_cells, values.shape[axis]) // 2
    shape = list(modes.shape)
    shape[axis] = num_cells // 2 + 1
    resampled = np.zeros(shape, dtype=np.complex128)
    source, target = np.moveaxis(modes, axis, 0), np.moveaxis(resampled, axis, 0)
    target[:half] = source[:half]
    target[half] = nyquist * source[half].real
    return np.fft.irfft(resampled, n=num_cells, axis=axis)


def _resample_axes(
    field: NDArray[np.float64], num_cells: int, nyquist: float, scale: float
) -> NDArray[np.float64]:
    for axis in (-3, -2, -1):
        field = _resample_axis(field, axis, num_cells, nyquist) * scale
    return field


def resample(field: ArrayLike, num_cells: int) -> NDArray[np.float64]:
    """Represent fields on a finer or coarser mesh over the same box, by the modes of both.

    On a finer mesh this is the trigonometric interpolation: the values at shared vertices stay.
    To a coarser mesh it is for linear fields; an overdensity would ring below -1 (see
    `painting.coarsen`).

    Args:
        field: `[..., M, M, M]` with M even.
        num_cells: vertices along each side of the other mesh, N, even.

    Returns:
        `[..., N, N, N]`. The Nyquist planes are empty if N < M. If N > M, the Nyquist modes of
        the coarser mesh are shared between plus and minus that frequency.

    Raises:
        ValueError: if the fields are no even cubes or `num_cells` is no even positive integer.
    """
    cube = _check_resampling("field", field, num_cells)
    size = cube.shape[-1]
    if num_cells == size:
        return cube
    return _resample_axes(cube, num_cells, 0.5 if num_cells > size else 0.0, num_cells / size)


def truncate(field: ArrayLike, num_cells: int) -> NDArray[np.float64]:
    """Represent fields on a coarser mesh; `resample` that refuses a finer one.

    Args:
        field: `[..., M, M, M]` with M even.
        num_cells: vertices along each side of the coarser mesh, N <= M, even.

    Returns:
        `[..., N, N, N]`; the Nyquist planes are empty if N < M.

    Raises:
        ValueError: if the fields are no even cubes or `num_cells` is no even integer up to M.
    """
    cube = _check_resampling("field", field, num_cells)
    if num_cells > cube.shape[-1]:
        raise ValueError(
            f"Invalid value for argument `num_cells`. Expected an even integer up to "
            f"{cube.shape[-1]}. Received: num_cells={num_cells!r}"
        )
    return resample(cube, num_cells)


def resample_white_noise(
    white_noise: ArrayLike, num_cells: int, seed: int | None = None
) -> NDArray[np.float64]:
    """Carry white noise to a finer or coarser mesh over the same box.

    Modes below the Nyquist frequencies of both meshes keep their phases, and their amplitudes
    in units of N^(3/2), so that `InitialField` makes the same large scales of both. What comes
    out is again exactly N(0, 1) and independent from vertex to vertex.

    A mode on a Nyquist plane of the coarser mesh is the sum of the finer mesh's modes of either
    sign, over the square root of their number. The map P to the coarser mesh then has
    orthonormal rows. Upwards, fresh noise u becomes ``u + P^T (x - P u)``, in which the coarser
    mesh has exactly x.

    Args:
        white_noise: `[..., M, M, M]` with M even, each N(0, 1).
        num_cells: vertices along each side of the other mesh, N, even.
        seed: of the modes that the coarser mesh lacks; needed if N > M, not used otherwise.

    Returns:
        `[..., N, N, N]`.

    Raises:
        ValueError: if the fields are no even cubes, `num_cells` is no even positive integer, or a
            finer mesh is asked for without a seed.
    """
    x = _check_resampling("white_noise", white_noise, num_cells)
    size = x.shape[-1]
    if num_cells == size:
        return x
    # unitary per axis: an unnormalised mode of white noise has the variance of its mesh's size
    scale = float(np.sqrt(num_cells / size))
    if num_cells < size:
        return _resample_axes(x, num_cells, float(np.sqrt(2.0)), scale)
    if seed is None:
        raise ValueError(
            "Invalid value for argument `seed`. Expected an integer for the modes that a mesh of "
            f"{size} cells lacks and one of num_cells={num_cells} has. Received: seed=None"
        )
    fresh = np.random.default_rng(seed).standard_normal((*x.shape[:-3], *(num_cells,) * 3))
    missing = x - _resample_axes(fresh, size, float(np.sqrt(2.0)), 1.0 / scale)
    return fresh + _resample_axes(missing, num_cells, float(np.sqrt(0.5)), scale)
