"""Checks of arguments that several kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from samplers.trajectory import INTEGRATORS

__all__ = ["check_count", "check_dynamics", "check_positive", "check_step_size"]


def check_count(name: str, value: Any) -> None:
    """Refuse what is not a positive integer, as far as the value is known.

    Args:
        name: of the argument.
        value: a number, an array, a tensor or a variable.

    Raises:
        ValueError: if it is not.
    """
    dtype, known = _scalar(value)
    if not dtype or dtype not in "iu" or (known is not None and known < 1):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive integer. "
            f"Received: {name}={value!r}"
        )


def check_positive(name: str, value: Any) -> None:
    """Refuse what is not a positive finite number, as far as the value is known.

    Args:
        name: of the argument.
        value: a number, an array, a tensor or a variable.

    Raises:
        ValueError: if it is not.
    """
    dtype, known = _scalar(value)
    if (
        not dtype
        or dtype not in "iuf"
        or (known is not None and not (np.isfinite(known) and known > 0))
    ):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive finite number. "
            f"Received: {name}={value!r}"
        )


def check_step_size(step_size: Any, event_ndims: int) -> None:
    """Refuse a step size that is not positive or differs within an event.

    Args:
        step_size: a scalar, or one per chain with trailing axes of one.
        event_ndims: number of axes of an event.

    Raises:
        ValueError: if it is something else.
    """
    known = None if step_size is None else tf.get_static_value(step_size)
    if (
        step_size is None
        or isinstance(step_size, (list, tuple, str, bool))
        or (known is not None and not (np.all(np.isfinite(known)) and np.all(known > 0)))
    ):
        raise ValueError(
            "Invalid value for argument `step_size`. Expected a positive finite number or tensor. "
            f"Received: step_size={step_size!r}"
        )
    # A step size that varies within an event would be a second, diagonal B.
    shape = step_size.shape if tf.is_tensor(step_size) else np.shape(step_size)
    if any(n != 1 for n in shape[-event_ndims:]):
        raise ValueError(
            "Invalid value for argument `step_size`. Expected a scalar, or a shape that ends in "
            f"{event_ndims} axes of size 1. Received: shape={shape}"
        )


def check_dynamics(
    target_log_prob_fn: Any,
    inverse_hessian: Any,
    integrator: Any,
    operations: tuple[str, ...] = ("apply", "sample", "event_ndims"),
) -> None:
    """Refuse what a trajectory cannot be followed with.

    Args:
        target_log_prob_fn: a callable.
        inverse_hessian: has the operations.
        integrator: one of `samplers.trajectory.INTEGRATORS`.
        operations: names of attributes.

    Raises:
        ValueError: if an argument is something else.
    """
    if not callable(target_log_prob_fn):
        raise ValueError(
            "Invalid value for argument `target_log_prob_fn`. Expected a callable. Received: "
            f"target_log_prob_fn={target_log_prob_fn!r}"
        )
    if not all(hasattr(inverse_hessian, name) for name in operations):
        *most, last = (f"`{name}`" for name in operations)
        raise ValueError(
            "Invalid value for argument `inverse_hessian`. Expected an object with "
            f"{', '.join(most)} and {last}. Received: inverse_hessian={inverse_hessian!r}"
        )
    if integrator not in INTEGRATORS:
        raise ValueError(
            f"Invalid value for argument `integrator`. Expected one of {tuple(INTEGRATORS)}. "
            f"Received: integrator={integrator!r}"
        )


def _scalar(value: Any) -> tuple[str, Any]:
    """NumPy's letter for the kind of a scalar, empty for all else, and its value if known."""
    if tf.is_tensor(value):
        kind = np.dtype(value.dtype.as_numpy_dtype).kind if value.shape.rank in (0, None) else ""
        return kind, tf.get_static_value(value)
    array = np.asarray(value)
    return (array.dtype.kind if array.ndim == 0 else ""), array
