"""The weights of a Keras model as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["FlatParameters"]

Tensor = Any


class FlatParameters:
    """Order, names and shapes of a Keras model's trainable weights in one vector.

    Args:
        model: a built Keras model. Its trainable variables, in Keras' order and each in C order,
            make the vector.

    Attributes:
        names: one name per number, such as ``"amplitude_kernel[0, 1]"``.
        size: length of the vector (17 for the model of Charnock et al. 2020).
    """

    def __init__(self, model: Any) -> None:
        """Read the shapes off the model."""
        variables = list(model.trainable_variables)
        if not variables:
            raise ValueError(
                "Invalid value for argument `model`. Expected a built Keras model with trainable "
                f"weights. Received: {model!r}"
            )
        self._shapes = [tuple(int(n) for n in v.shape) for v in variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self.size = sum(self._sizes)
        self.names = tuple(
            f"{v.name}[{', '.join(map(str, index))}]"
            for v, shape in zip(variables, self._shapes, strict=True)
            for index in np.ndindex(shape)
        )

    def flatten(self, variables: Sequence[Any]) -> Tensor:
        """Join a list of weights into one vector `[size]`."""
        parts = [tf.reshape(tf.convert_to_tensor(v), [-1]) for v in variables]
        if [int(p.shape[0]) for p in parts] != self._sizes:
            raise ValueError(
                f"Invalid value for argument `variables`. Expected weights of sizes {self._sizes}. "
                f"Received: sizes {[int(p.shape[0]) for p in parts]}"
            )
        return tf.concat(parts, axis=0)

    def unflatten(self, theta: Tensor) -> list[Tensor]:
        """Split a vector `[size]` into the list of weights that `stateless_call` takes."""
        theta = tf.convert_to_tensor(theta)
        if theta.shape != (self.size,):
            raise ValueError(
                f"Invalid value for argument `theta`. Expected shape ({self.size},). Received: "
                f"shape {tuple(theta.shape)}"
            )
        parts = tf.split(theta, self._sizes)
        return [tf.reshape(p, s) for p, s in zip(parts, self._shapes, strict=True)]

    def assign(self, model: Any, theta: Tensor) -> None:
        """Set the trainable weights of a model to a vector `[size]`."""
        for variable, value in zip(model.trainable_variables, self.unflatten(theta), strict=True):
            variable.assign(tf.cast(value, variable.dtype))
