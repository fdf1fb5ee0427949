"""Checks of constructor arguments, in the grammar of Keras' own messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["finite_number", "invalid", "one_of", "positive_integer", "positive_number"]


def invalid(name: str, expected: str, value: object) -> ValueError:
    """Return the error for a wrong value of an argument, for the caller to raise."""
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. Received: {name}={value!r}"
    )


def positive_integer(name: str, value: Any) -> int:
    """Return `value` as an `int`, or raise `ValueError` unless it is an integer above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
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
