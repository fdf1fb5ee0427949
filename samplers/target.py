"""What every kernel here needs of a target density, of a curvature and of a random seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

__all__ = [
    "InverseHessian",
    "TargetLogProbFn",
    "Tensor",
    "check_start",
    "stateless_seed",
    "to_dtype",
    "value_and_gradient",
    "value_and_gradients",
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
    """Evaluate a target of one tensor once, with its gradient; see `value_and_gradients`."""
    value, [gradient] = value_and_gradients(target_log_prob_fn, [state])
    return value, gradient


def value_and_gradients(
    target_log_prob_fn: TargetLogProbFn, parts: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Evaluate a target once, with its gradient.

    The value keeps its own precision: a float32 state may have a float64 log density, and the
    gradient then is float32 again.

    Args:
        target_log_prob_fn: maps the parts of a state, each `[..., event]`, to one log density per
            chain, `[...]`.
        parts: where.

    Returns:
        The log densities, `[...]`, and their gradients with respect to each part.

    Raises:
        TypeError: if the target's value is not a floating-point tensor.
        ValueError: if the target does not depend on the state.
    """
    # Fresh tensors, or a bijector's cache could answer from outside the tape.
    parts = [tf.identity(part) for part in parts]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(parts)
        value = tf.convert_to_tensor(target_log_prob_fn(*parts))
    if not value.dtype.is_floating:
        raise TypeError(
            "Invalid value for argument `target_log_prob_fn`. Expected a callable that returns "
            f"floating-point log densities. Received: dtype={value.dtype.name}"
        )
    gradients = tape.gradient(value, parts)
    if any(gradient is None for gradient in gradients):
        raise ValueError(
            "Invalid value for argument `target_log_prob_fn`. Expected a callable that is "
            "differentiable in the state. Received: a value without a gradient"
        )
    return value, gradients


def to_dtype(value: Any, dtype: Any) -> Tensor:
    """Cast a number or tensor; `tf.cast` would round a Python number to float32 on its way."""
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.convert_to_tensor(value, dtype)


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


def check_start(
    state: Tensor, log_prob: Tensor, gradient: Tensor, inverse_hessian: InverseHessian
) -> None:
    """Refuse a start from where no chain would ever move.

    Args:
        state: `[..., event]`.
        log_prob: what the target returned for it.
        gradient: its gradient, `[..., event]`.
        inverse_hessian: says how many axes an event has.

    Raises:
        ValueError: if there is not one log density per chain or, in eager mode, if a log density or
            a gradient is not finite.
    """
    event_ndims = inverse_hessian.event_ndims
    if state.shape.rank is None or log_prob.shape.rank != state.shape.rank - event_ndims:
        raise ValueError(
            "Invalid value for argument `target_log_prob_fn`. Expected one log density per chain, "
            f"for states of {event_ndims} axes and any chains in front. Received: "
            f"shape={log_prob.shape} for a state of shape={state.shape}"
        )
    if tf.executing_eagerly():
        flat = gradient.numpy().reshape(*log_prob.shape, -1)
        finite = np.isfinite(log_prob.numpy()) & np.all(np.isfinite(flat), -1)
        if not np.all(finite):
            raise ValueError(
                "Invalid value for argument `init_state`. Expected a finite log density and "
                f"gradient for every chain. Received: {np.sum(~finite)} of {finite.size} chains "
                f"where they are not, the first with log density {log_prob.numpy()[~finite][0]}"
            )
