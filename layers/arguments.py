"""Checks of constructor arguments, in the grammar of Keras' own messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "finite_number",
    "integer_per_axis",
    "invalid",
    "is_integer",
    "one_of",
    "orders",
    "per_order",
    "positive_integer",
    "positive_number",
]

_AXES = {1: "a strictly positive integer", 2: "a pair of them", 3: "three of them"}


def invalid(name: str, expected: str, value: object) -> ValueError:
    """Return the error for a wrong value of an argument, for the caller to raise."""
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={value!r}"
    )


def is_integer(value: Any) -> bool:
    """Whether a value is a Python or NumPy integer; a boolean is not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def positive_integer(name: str, value: Any) -> int:
    """Return `value` as an `int`, or raise `ValueError` unless it is an integer above zero."""
    if not is_integer(value) or value < 1:
        raise invalid(name, "a strictly positive integer", value)
    return int(value)


def finite_number(name: str, value: Any) -> float:
    """Return `value` as a `float`, or raise `ValueError` unless it is a finite number."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value)):
        raise invalid(name, "a finite number", value)
    return float(value)


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a `float`, or raise `ValueError` unless it is finite and above zero."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0):
        raise invalid(name, "a strictly positive finite number", value)
    return float(value)


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return `value`, or raise `ValueError` unless it is one of a few strings."""
    if not isinstance(value, str) or value not in choices:
        raise invalid(name, f"one of {tuple(choices)}", value)
    return value


def integer_per_axis(name: str, value: Any, num_axes: int) -> tuple[int, ...]:
    """Return one positive integer per axis, from one for all or one for each.

    Raises:
        ValueError: unless `value` is a strictly positive integer or `num_axes` of them.
    """
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * num_axes
    if len(values) != num_axes or not all(is_integer(v) and v > 0 for v in values):
        expected = _AXES[1] if num_axes == 1 else f"{_AXES[1]} or {_AXES[num_axes]}"
        raise invalid(name, expected, value)
    return tuple(int(v) for v in values)


def orders(name: str, value: Any, num_axes: int) -> tuple[int, ...]:
    """Return distinct multipole orders.

    Raises:
        ValueError: unless `value` is a non-empty sequence of different integers, none negative,
            and in one dimension none above 1.
    """
    found = tuple(value) if isinstance(value, (list, tuple)) else ()
    sound = all(is_integer(order) and order >= 0 for order in found)
    if not found or not sound or len(set(found)) != len(found):
        raise invalid(name, "a tuple of different non-negative integers", value)
    if num_axes == 1 and max(found) > 1:
        raise invalid(name, "a tuple of 0 (even) and 1 (odd) in one dimension", value)
    return tuple(int(order) for order in found)


def per_order(name: str, value: Any, num_orders: int) -> tuple[int, ...]:
    """Return one positive integer per multipole order, from one for all or one for each.

    Raises:
        ValueError: unless `value` is a strictly positive integer or `num_orders` of them.
    """
    if not isinstance(value, (list, tuple)):
        return (positive_integer(name, value),) * num_orders
    if len(value) != num_orders or not all(is_integer(v) and v > 0 for v in value):
        raise invalid(
            name, f"a strictly positive integer or one for each of {num_orders} multipoles", value
        )
    return tuple(int(v) for v in value)
