"""Reading and replacing fields in the nested results of transition kernels.

TFP's kernels keep their bookkeeping in namedtuples inside namedtuples: a wrapper holds what it
wraps under `inner_results`, Metropolis-Hastings holds the current point under
`accepted_results`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

__all__ = [
    "find_innermost",
    "find_outermost",
    "innermost_state",
    "merge_fields",
    "replace_innermost",
]

_NESTED = ("inner_results", "accepted_results")


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def find_outermost(results: Any, field: str) -> Any:
    """Return the first field of that name on the way in.

    Raises:
        ValueError: if no level has it.
    """
    if hasattr(results, field):
        return getattr(results, field)
    for name in _NESTED:
        if hasattr(results, name):
            return find_outermost(getattr(results, name), field)
    raise ValueError(
        f"Invalid kernel results. Expected a field `{field}` at some level. Received: "
        f"{type(results).__name__}"
    )


def find_innermost(results: Any, field: str) -> Any:
    """Return the last field of that name on the way in.

    Raises:
        ValueError: if no level has it.
    """
    for name in _NESTED:
        if hasattr(results, name):
            try:
                return find_innermost(getattr(results, name), field)
            except ValueError:
                break
    if hasattr(results, field):
        return getattr(results, field)
    raise ValueError(
        f"Invalid kernel results. Expected a field `{field}` at some level. Received: "
        f"{type(results).__name__}"
    )


def replace_innermost(results: Any, field: str, value: Any) -> Any:
    """Return a copy with the innermost field of that name replaced.

    Raises:
        ValueError: if no level has it.
    """
    for name in _NESTED:
        if hasattr(results, name):
            try:
                inner = replace_innermost(getattr(results, name), field, value)
            except ValueError:
                break
            return results._replace(**{name: inner})
    if hasattr(results, field):
        return results._replace(**{field: value})
    raise ValueError(
        f"Invalid kernel results. Expected a field `{field}` at some level. Received: "
        f"{type(results).__name__}"
    )


def innermost_state(results: Any, state: Any) -> Any:
    """Return the state in the coordinates of the innermost target.

    `tfp.mcmc.TransformedTransitionKernel` shows the world its state after the bijector and keeps
    the one that the kernel inside it moves, and whose gradients that one remembers, in its results.

    Args:
        results: of a kernel, or of a wrapper around it.
        state: what the outermost of them calls its state.

    Returns:
        What the innermost of them calls its state.
    """
    try:
        return find_innermost(results, "transformed_state")
    except ValueError:
        return state


def merge_fields(previous: Any, fresh: Any, fields: Collection[str]) -> Any:
    """Take the named fields from `fresh` at every depth, and everything else from `previous`.

    Args:
        previous: kernel results.
        fresh: kernel results of the same structure.
        fields: names of the fields to renew.

    Returns:
        Kernel results of the same structure.

    Raises:
        ValueError: if the two structures differ.
    """
    if _is_namedtuple(previous):
        if type(previous) is not type(fresh):
            raise ValueError(
                "Invalid kernel results. Expected equal types in `previous` and `fresh`. "
                f"Received: {type(previous).__name__} and {type(fresh).__name__}"
            )
        return type(previous)(
            *(
                new if name in fields else merge_fields(old, new, fields)
                for name, old, new in zip(previous._fields, previous, fresh, strict=True)
            )
        )
    if isinstance(previous, (list, tuple)):
        if not isinstance(fresh, (list, tuple)) or len(previous) != len(fresh):
            raise ValueError(
                "Invalid kernel results. Expected lists of equal length in `previous` and "
                f"`fresh`. Received: {previous!r} and {fresh!r}"
            )
        make: Callable[..., Any] = type(previous)
        return make(
            merge_fields(old, new, fields) for old, new in zip(previous, fresh, strict=True)
        )
    return previous
