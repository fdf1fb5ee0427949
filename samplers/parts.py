"""States in several parts, seen as one vector per chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from samplers.target import InverseHessian, TargetLogProbFn, Tensor

__all__ = ["Parts", "as_parts", "like_state"]


def as_parts(state: Any) -> list[Tensor]:
    """Return the parts of a state, which is a tensor or a list of them."""
    parts = state if isinstance(state, (list, tuple)) else [state]
    return [tf.convert_to_tensor(part) for part in parts]


def like_state(state: Any, parts: Sequence[Tensor]) -> Any:
    """Put parts into the container of a state."""
    if not isinstance(state, (list, tuple)):
        return parts[0]
    return state._make(parts) if hasattr(state, "_make") else type(state)(parts)


class Parts:
    """How a state in parts becomes the one tensor that an inverse Hessian acts on.

    A single part is that tensor; its events have as many axes as the inverse Hessian acts on. For
    an inverse Hessian of vectors, the events of several parts, of any shapes, are flattened and put
    side by side.

    Args:
        parts: of a state, each `[..., *event]` with the chains in front.
        batch_ndims: number of axes of the chains.
        inverse_hessian: says how many axes it acts on.

    Raises:
        ValueError: if the parts do not fit the inverse Hessian.
    """

    def __init__(
        self, parts: Sequence[Tensor], batch_ndims: int, inverse_hessian: InverseHessian
    ) -> None:
        """Read the shapes of the events."""
        self._shapes = [part.shape[batch_ndims:] for part in parts]
        event_ndims = inverse_hessian.event_ndims
        self._single = len(parts) == 1 and len(self._shapes[0]) == event_ndims
        # of a single part, events of more axes are more often a target summed over its chains
        fits = len(parts) > 1 and event_ndims == 1
        fits = fits and all(shape.is_fully_defined() for shape in self._shapes)
        if not (self._single or fits):
            shapes = [part.shape for part in parts]
            raise ValueError(
                "Invalid value for argument `target_log_prob_fn`. Expected one log density per "
                f"chain, for states of {event_ndims} axes and any chains in front (or, with an "
                "inverse Hessian of vectors, parts of known shapes with equal chains). Received: "
                f"log densities of {batch_ndims} axes for a state of shapes {shapes}"
            )

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts to one tensor, `[..., d]`."""
        if self._single:
            return parts[0]
        vectors = []
        for part, shape in zip(parts, self._shapes, strict=True):
            batch = tf.shape(part)[: part.shape.rank - len(shape)]
            vectors.append(tf.reshape(part, tf.concat([batch, [math.prod(shape)]], 0)))
        return tf.concat(vectors, axis=-1)

    def split(self, vector: Tensor) -> list[Tensor]:
        """One tensor `[..., d]` to parts."""
        if self._single:
            return [vector]
        sizes = [math.prod(shape) for shape in self._shapes]
        batch = tf.shape(vector)[:-1]
        return [
            tf.reshape(piece, tf.concat([batch, tf.constant(shape.as_list(), tf.int32)], 0))
            for piece, shape in zip(tf.split(vector, sizes, axis=-1), self._shapes, strict=True)
        ]

    def target(self, target_log_prob_fn: TargetLogProbFn) -> Callable[[Tensor], Tensor]:
        """The target as a function of the one tensor."""
        if self._single:
            return target_log_prob_fn
        return lambda vector: target_log_prob_fn(*self.split(vector))
