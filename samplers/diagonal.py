"""An inverse Hessian that is diagonal in the coordinates of the state."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from samplers.target import Tensor, stateless_seed

__all__ = ["CoordinateVariance", "DiagonalInverseHessian"]


class CoordinateVariance(NamedTuple):
    """The curvature state of a diagonal inverse Hessian.

    Attributes:
        variance: diagonal of B, `[*event]`, or `[..., *event]` for one per chain.
    """

    variance: Tensor


class DiagonalInverseHessian:
    """Inverse Hessian with one eigenvalue per coordinate: the usual diagonal mass matrix.

    Args:
        event_ndims: number of trailing axes of a state that make one point.

    Raises:
        ValueError: if `event_ndims` is not a positive integer.
    """

    def __init__(self, event_ndims: int = 1) -> None:
        """Check the argument and keep it; the class says what it is."""
        if (
            isinstance(event_ndims, bool)
            or not isinstance(event_ndims, (int, np.integer))
            or event_ndims < 1
        ):
            raise ValueError(
                "Invalid value for argument `event_ndims`. Expected a positive integer. "
                f"Received: event_ndims={event_ndims!r}"
            )
        self._event_ndims = int(event_ndims)

    @property
    def event_ndims(self) -> int:
        """Number of trailing axes of a state that B acts on."""
        return self._event_ndims

    def initial(self, state_like: Tensor) -> CoordinateVariance:
        """Return the curvature state of B = 1, shared by all chains."""
        state = tf.convert_to_tensor(state_like)
        return CoordinateVariance(tf.ones(tf.shape(state)[-self._event_ndims :], state.dtype))

    def from_variance(self, variance: Any, dtype: Any = None) -> CoordinateVariance:
        """Return the curvature state of given variances.

        Args:
            variance: positive, `[*event]` or `[..., *event]`.
            dtype: of the result; by default that of the variances.

        Returns:
            The curvature state.

        Raises:
            ValueError: if there are too few axes or, in eager mode, a value is not positive.
        """
        value = tf.convert_to_tensor(variance)
        value = tf.cast(value, dtype or value.dtype)
        known = tf.get_static_value(value)
        axes = value.shape.rank
        if (
            not value.dtype.is_floating
            or axes is None
            or axes < self._event_ndims
            or (known is not None and not (np.all(np.isfinite(known)) and np.all(known > 0)))
        ):
            raise ValueError(
                "Invalid value for argument `variance`. Expected positive finite numbers with at "
                f"least {self._event_ndims} axes. Received: variance={variance!r}"
            )
        return CoordinateVariance(value)

    def apply(self, curvature: CoordinateVariance, vector: Tensor) -> Tensor:
        """Return B v, `[..., *event]`."""
        return curvature.variance * vector

    def apply_inverse(self, curvature: CoordinateVariance, vector: Tensor) -> Tensor:
        """Return B^-1 v, `[..., *event]`."""
        return vector / curvature.variance

    def sample(
        self, curvature: CoordinateVariance, seed: Tensor, batch_shape: Tensor | None = None
    ) -> Tensor:
        """Draw from N(0, B).

        Args:
            curvature: the curvature state.
            seed: stateless seed.
            batch_shape: shape of the chains; by default that of the curvature state.

        Returns:
            Draws, `[..., *event]`.
        """
        variance = curvature.variance
        shape = tf.shape(variance)
        if batch_shape is not None:
            event = shape[-self._event_ndims :]
            shape = tf.concat([tf.convert_to_tensor(batch_shape, tf.int32), event], 0)
        white = tf.random.stateless_normal(shape, stateless_seed(seed), dtype=variance.dtype)
        return tf.sqrt(variance) * white
