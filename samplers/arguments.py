"""Checks of arguments that several kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["check_count", "check_positive"]


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


def _scalar(value: Any) -> tuple[str, Any]:
    """NumPy's letter for the kind of a scalar, empty for all else, and its value if known."""
    if tf.is_tensor(value):
        kind = np.dtype(value.dtype.as_numpy_dtype).kind if value.shape.rank in (0, None) else ""
        return kind, tf.get_static_value(value)
    array = np.asarray(value)
    return (array.dtype.kind if array.ndim == 0 else ""), array
