"""An inverse Hessian that is diagonal in Fourier space, with one value per shell of wavenumber.

For a real field x on a periodic mesh, B x = F^-1 [ b(shell(k)) F x ] with a positive b per shell.
B is symmetric positive definite for every normalisation of the transform; N(0, B) is white noise
filtered with sqrt(b). The shells are given, so that nothing here knows a length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from samplers.target import TargetLogProbFn, Tensor, stateless_seed, value_and_gradient

__all__ = ["FourierDiagonalInverseHessian", "ShellVariance", "shell_curvature"]

_FORWARD = {1: tf.signal.rfft, 2: tf.signal.rfft2d, 3: tf.signal.rfft3d}
_BACKWARD = {1: tf.signal.irfft, 2: tf.signal.irfft2d, 3: tf.signal.irfft3d}


class ShellVariance(NamedTuple):
    """The curvature state of a Fourier-diagonal inverse Hessian.

    Attributes:
        variance: eigenvalue of B in each shell, `[num_shells]`, or `[..., num_shells]` for one
            per chain.
    """

    variance: Tensor


class FourierDiagonalInverseHessian:
    """Inverse Hessian of fields on a periodic mesh, one eigenvalue per Fourier shell.

    Args:
        shell_index: shell of every mode of a real transform, integers from 0 to
            `num_shells - 1`, `[N, N, N//2 + 1]`; `[N, N//2 + 1]` and `[N//2 + 1]` serve fields
            in two and one dimensions. The last axis of the field must be even.
        num_shells: number of shells.

    Raises:
        ValueError: if a mode has no shell, a shell no mode, or k and -k differ in their shell,
            which would make B asymmetric.
    """

    def __init__(self, shell_index: NDArray[np.integer[Any]], num_shells: int) -> None:
        """Check the arguments and keep them; the class says what they are."""
        index = np.asarray(shell_index)
        if (
            isinstance(num_shells, bool)
            or not isinstance(num_shells, (int, np.integer))
            or num_shells < 1
        ):
            raise ValueError(
                "Invalid value for argument `num_shells`. Expected a positive integer. "
                f"Received: num_shells={num_shells!r}"
            )
        if index.ndim not in _FORWARD or index.dtype.kind not in "iu" or index.shape[-1] < 2:
            raise ValueError(
                "Invalid value for argument `shell_index`. Expected an integer array of one to "
                f"three dimensions. Received: shape={index.shape}, dtype={index.dtype}"
            )
        if not np.array_equal(np.unique(index), np.arange(num_shells)):
            raise ValueError(
                "Invalid value for argument `shell_index`. Expected every integer from 0 to "
                f"num_shells - 1 = {num_shells - 1}. Received: {np.unique(index)}"
            )
        # Only where the last frequency is its own negative are k and -k both stored.
        for plane in (index[..., 0], index[..., -1]):
            mirrored = plane[np.ix_(*(-np.arange(n) % n for n in plane.shape))]
            if not np.array_equal(plane, mirrored):
                raise ValueError(
                    "Invalid value for argument `shell_index`. Expected the same shell at k and "
                    "-k. Received: an asymmetric array"
                )
        self._index = index.astype(np.int32)
        self._num_shells = int(num_shells)
        self._field_shape = (*index.shape[:-1], 2 * (index.shape[-1] - 1))

    @property
    def num_shells(self) -> int:
        """Number of shells."""
        return self._num_shells

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Shape of one field, `(N, N, N)`."""
        return self._field_shape

    @property
    def event_ndims(self) -> int:
        """Number of dimensions of a field."""
        return self._index.ndim

    def initial(self, state_like: Tensor) -> ShellVariance:
        """Return the curvature state of B = 1, shared by all chains."""
        state = tf.convert_to_tensor(state_like)
        self._check_field("state_like", state)
        return ShellVariance(tf.ones([self._num_shells], state.dtype))

    def from_curvature(self, curvature: Any, dtype: Any = None) -> ShellVariance:
        """Return the curvature state for a given curvature of -log density per shell.

        Args:
            curvature: v'Hv / v'v in each shell, positive, `[..., num_shells]`.
            dtype: of the result; by default that of the curvature.

        Returns:
            The curvature state, with the variance 1 / curvature.

        Raises:
            ValueError: if the shape is wrong or, in eager mode, a value is not positive.
        """
        value = tf.convert_to_tensor(curvature)
        if value.shape.rank is None or value.shape.rank < 1 or value.shape[-1] != self._num_shells:
            raise ValueError(
                "Invalid value for argument `curvature`. Expected shape [..., num_shells] with "
                f"num_shells={self._num_shells}. Received: shape={value.shape}"
            )
        known = tf.get_static_value(value)
        if known is not None and not (np.all(np.isfinite(known)) and np.all(known > 0)):
            raise ValueError(
                "Invalid value for argument `curvature`. Expected positive finite numbers; "
                "`minimum` of `shell_curvature` sets a floor. "
                f"Received: curvature={known!r}"
            )
        return ShellVariance(tf.cast(1.0 / value, dtype or value.dtype))

    def apply(self, curvature: ShellVariance, vector: Tensor) -> Tensor:
        """Return B x.

        Args:
            curvature: the curvature state.
            vector: fields x, `[..., N, N, N]`.

        Returns:
            B x, `[..., N, N, N]`.
        """
        return self._filter(tf.gather(curvature.variance, self._index, axis=-1), vector)

    def apply_inverse(self, curvature: ShellVariance, vector: Tensor) -> Tensor:
        """Return B^-1 x.

        Args:
            curvature: the curvature state.
            vector: fields x, `[..., N, N, N]`.

        Returns:
            B^-1 x, `[..., N, N, N]`.
        """
        return self._filter(tf.gather(1.0 / curvature.variance, self._index, axis=-1), vector)

    def sample(
        self, curvature: ShellVariance, seed: Tensor, batch_shape: Tensor | None = None
    ) -> Tensor:
        """Draw from N(0, B).

        Args:
            curvature: the curvature state.
            seed: stateless seed.
            batch_shape: shape of the chains; by default that of the curvature state.

        Returns:
            Fields, `[..., N, N, N]`.
        """
        variance = curvature.variance
        batch = tf.shape(variance)[:-1] if batch_shape is None else batch_shape
        shape = tf.concat([tf.convert_to_tensor(batch, tf.int32), self._field_shape], 0)
        white = tf.random.stateless_normal(shape, stateless_seed(seed), dtype=variance.dtype)
        return self._filter(tf.gather(tf.sqrt(variance), self._index, axis=-1), white)

    def project(self, shell: Tensor, field: Tensor) -> Tensor:
        """Keep the modes of one shell.

        Args:
            shell: its number, a scalar.
            field: `[..., N, N, N]`.

        Returns:
            The orthogonal projection, `[..., N, N, N]`.
        """
        return self._filter(tf.cast(tf.equal(self._index, shell), field.dtype), field)

    def _filter(self, transfer: Tensor, field: Tensor) -> Tensor:
        field = tf.convert_to_tensor(field)
        self._check_field("vector", field)
        modes = _FORWARD[self.event_ndims](field)
        modes *= tf.cast(transfer, modes.dtype)
        return tf.ensure_shape(
            _BACKWARD[self.event_ndims](modes, fft_length=self._field_shape), field.shape
        )

    def _check_field(self, name: str, field: Tensor) -> None:
        rank = field.shape.rank
        if (
            rank is None
            or rank < self.event_ndims
            or not field.shape[rank - self.event_ndims :].is_compatible_with(self._field_shape)
        ):
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected fields of shape "
                f"[..., {', '.join(map(str, self._field_shape))}]. "
                f"Received: shape={field.shape}"
            )


def shell_curvature(
    target_log_prob_fn: TargetLogProbFn,
    state: Tensor,
    inverse_hessian: FourierDiagonalInverseHessian,
    seed: Tensor,
    displacement: Any,
    num_probes: int = 1,
    minimum: float | None = None,
) -> Tensor:
    """Estimate the curvature v'Hv / v'v of -log density in every Fourier shell.

    Random fields v confined to one shell at a time (Hutchinson 1989) see the mean of H over the
    shell's modes. H v is a central difference of the gradient, [g(x - v) - g(x + v)] / 2 for the
    gradient g of the log density, and v is as long as a chain moves in one trajectory: mass
    assignment is piecewise linear in the particles' positions, so that a good part of the
    curvature sits in kinks, which a finite displacement averages over and an exact
    Hessian-vector product misses.

    Args:
        target_log_prob_fn: maps fields `[..., N, N, N]` to log densities `[...]`.
        state: where, `[..., N, N, N]`; chains are averaged over.
        inverse_hessian: defines the shells.
        seed: stateless seed.
        displacement: standard deviation of the displacement of every mode, in units in which
            white noise of unit variance per cell has unit variance per mode; a positive number,
            or one per shell, `[num_shells]`. Of the order of the posterior's width there.
        num_probes: number of probes per shell; two gradients are taken for each.
        minimum: floor of the result, for instance the prior's own curvature.

    Returns:
        Curvature per shell, `[num_shells]`, in the precision of the state.

    Raises:
        ValueError: if an argument is out of range.
    """
    state = tf.convert_to_tensor(state)
    shells = inverse_hessian.num_shells
    if (
        isinstance(num_probes, bool)
        or not isinstance(num_probes, (int, np.integer))
        or (num_probes < 1)
    ):
        raise ValueError(
            "Invalid value for argument `num_probes`. Expected a positive integer. "
            f"Received: num_probes={num_probes!r}"
        )
    size = tf.convert_to_tensor(displacement, state.dtype)
    known = tf.get_static_value(size)
    if size.shape.as_list() not in ([], [shells]) or (
        known is not None and not (np.all(np.isfinite(known)) and np.all(known > 0))
    ):
        raise ValueError(
            "Invalid value for argument `displacement`. Expected a positive finite number or one "
            f"for each of {shells} shells. Received: displacement={displacement!r}"
        )
    if minimum is not None and not minimum > 0:
        raise ValueError(
            "Invalid value for argument `minimum`. Expected a positive number or None. "
            f"Received: minimum={minimum!r}"
        )
    size = tf.broadcast_to(size, [shells])
    seed = stateless_seed(seed)

    turns = 2 * shells * num_probes

    def one_gradient(turn: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        probe, shell = turn // 2, turn // (2 * num_probes)
        sign = tf.cast(1 - 2 * (turn % 2), state.dtype)
        own_seed = tf.random.experimental.stateless_fold_in(seed, probe)
        noise = tf.random.stateless_normal(tf.shape(state), own_seed, dtype=state.dtype)
        v = tf.gather(size, shell) * inverse_hessian.project(shell, noise)
        _, gradient = value_and_gradient(target_log_prob_fn, state + sign * v)
        v, gradient = tf.cast(v, tf.float64), tf.cast(-sign * gradient, tf.float64)
        pair = tf.stack([tf.reduce_sum(v * gradient), tf.reduce_sum(v * v)])
        return turn + 1, tf.tensor_scatter_nd_add(products, [[shell]], [pair])

    # Both signs of every probe of every shell are turns of one loop: the target is traced once.
    _, products = tf.while_loop(
        lambda turn, _: turn < turns,
        one_gradient,
        (tf.constant(0), tf.zeros([shells, 2], tf.float64)),
    )
    # The two signs of a probe add up to 2 v'Hv and 2 v'v.
    curvature = products[:, 0] / products[:, 1]
    if minimum is not None:
        curvature = tf.maximum(curvature, minimum)
    return tf.cast(curvature, state.dtype)
