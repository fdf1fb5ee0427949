"""What every kernel here needs of a target density, of a curvature and of a random seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

__all__ = [
    "InverseHessian",
    "TargetLogProbFn",
    "Tensor",
    "stateless_seed",
    "value_and_gradient",
]

# TensorFlow ships no type stubs; this is the one place that says so.
Tensor = Any

# Maps a state `[..., event]` to one log density per chain, `[...]`.
TargetLogProbFn = Callable[..., Tensor]


class InverseHessian(Protocol):
    """A symmetric positive definite operator B on states, known by what it does.

    The numbers that define B, the curvature state, are a nest of tensors which the caller
    carries; the object holds only what never changes. Two operations suffice for Hamiltonian
    Monte Carlo with the mass matrix B^-1 of the usual convention, so that a limited-memory
    matrix for ten parameters and a Fourier-diagonal one for a field share one kernel.
    """

    @property
    def event_ndims(self) -> int:
        """Number of trailing axes of a state that B acts on."""

    def initial(self, state_like: Tensor) -> Any:
        """Curvature state of the identity, for states shaped like `state_like`."""

    def apply(self, curvature: Any, vector: Tensor) -> Tensor:
        """Return B v for every chain of `vector`, `[..., event]`."""

    def sample(self, curvature: Any, seed: Tensor, batch_shape: Tensor | None = None) -> Tensor:
        """Draw from N(0, B), one draw per element of `batch_shape`, `[..., event]`."""


def value_and_gradient(target_log_prob_fn: TargetLogProbFn, state: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate a target once, with its gradient.

    The value keeps its own precision: a float32 state may have a float64 log density, and the
    gradient then is float32 again.

    Args:
        target_log_prob_fn: maps `[..., event]` to one log density per chain, `[...]`.
        state: where, `[..., event]`.

    Returns:
        The log densities, `[...]`, and their gradients, `[..., event]`.

    Raises:
        TypeError: if the target's value is not a floating-point tensor.
        ValueError: if the target does not depend on the state.
    """
    # A fresh tensor, or a bijector's cache could answer from outside the tape.
    state = tf.identity(state)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(state)
        value = tf.convert_to_tensor(target_log_prob_fn(state))
    if not value.dtype.is_floating:
        raise TypeError(
            "Invalid value for argument `target_log_prob_fn`. Expected a callable that returns "
            f"floating-point log densities. Received: dtype={value.dtype.name}"
        )
    gradient = tape.gradient(value, state)
    if gradient is None:
        raise ValueError(
            "Invalid value for argument `target_log_prob_fn`. Expected a callable that is "
            "differentiable in the state. Received: a value without a gradient"
        )
    return value, gradient


def stateless_seed(seed: Any) -> Tensor:
    """Check that a seed is stateless, so that equal seeds give equal draws.

    Args:
        seed: two integers.

    Returns:
        The seed, an int32 tensor of shape `[2]`.

    Raises:
        ValueError: for anything else, `None` and a single integer included.
    """
    converted = None if seed is None else tf.convert_to_tensor(seed)
    if (
        converted is None
        or not converted.dtype.is_integer
        or not converted.shape.is_compatible_with([2])
    ):
        raise ValueError(
            "Invalid value for argument `seed`. Expected a stateless seed, an integer tensor of "
            f"shape [2]. Received: seed={seed!r}"
        )
    return tf.cast(converted, tf.int32)
