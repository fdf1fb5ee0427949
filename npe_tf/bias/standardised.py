"""Parameters of the neural bias model for which the line through psi means the same everywhere.

The head of the paper's network reads six lines w psi + b off one number psi, and psi itself depends
on the kernel and its bias: what a change of the kernel does to the scale and the origin of psi, the
lines undo. In the coordinates here the lines are written for psi of mean zero and variance one,
over voxels of a reference field that never changes:

    w psi + b = w' (psi - m) / s + b',     w' = w s,     b' = b + w m,

m and s being functions of the kernel and its bias alone. This straightens most of the long bent
ridge of the posterior, and its volume element is s for each line.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from layers import MixtureDensity, MultipoleConv3D
from npe_tf.bias.neural import NeuralBias

__all__ = [
    "ParameterCoordinates",
    "PlainParameters",
    "StandardisedParameters",
    "parameter_coordinates",
]

Tensor = Any

_NUM_REFERENCE = 4096


class ParameterCoordinates(Protocol):
    """A smooth one-to-one map of bias parameters, all in float64."""

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Bias parameters `[size]` of coordinates `[size]`, and log |dtheta / dcoordinates|."""
        ...

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `theta`, `[size]`."""
        ...


class PlainParameters:
    """The parameters themselves, for networks of which nothing is known."""

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """The same numbers."""
        return coordinates, tf.zeros([], tf.float64)

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """The same numbers."""
        return np.asarray(theta, dtype=np.float64)


class StandardisedParameters:
    """The coordinates of this module.

    Args:
        responses: of the shells of the kernel, in the voxels of the reference field, `[R, S]`.
        num_lines: lines through psi, three for each component. Behind the kernel's S weights and
            its bias, theta holds the slopes and the offsets of every third of them in turn.

    Raises:
        ValueError: if the responses are not finite or not of this shape.
    """

    def __init__(self, responses: ArrayLike, num_lines: int) -> None:
        """Check the arguments and find the lines."""
        table = np.asarray(responses, dtype=np.float64)
        if table.ndim != 2 or not len(table) or not np.all(np.isfinite(table)):
            raise ValueError(
                "Invalid value for argument `responses`. Expected finite numbers of shape [R, S]. "
                f"Received: shape {table.shape}, {np.count_nonzero(~np.isfinite(table))} of them "
                "not finite"
            )
        if num_lines < 3 or num_lines % 3:
            raise ValueError(
                "Invalid value for argument `num_lines`. Expected a positive multiple of 3. "
                f"Received: num_lines={num_lines!r}"
            )
        self._responses = table
        self._num_lines = num_lines
        each, self._start = num_lines // 3, table.shape[1] + 1
        thirds = self._start + 2 * each * np.arange(3)[:, np.newaxis]
        self._slopes = (thirds + np.arange(each)).ravel()
        self._offsets = self._slopes + each
        self.size = self._start + 2 * num_lines
        # where each of [kernel and bias, slopes, offsets] goes
        order = np.concatenate([np.arange(self._start), self._slopes, self._offsets])
        self._place = np.argsort(order)

    def _moments(self, engine: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of psi for the kernel's weights and bias, `[S + 1]`."""
        psi = tf.math.softplus(tf.linalg.matvec(self._responses, engine[:-1]) + engine[-1])
        return tf.reduce_mean(psi), tf.math.reduce_std(psi)

    def _parts(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            vector[: self._start],
            tf.gather(vector, self._slopes),
            tf.gather(vector, self._offsets),
        )

    def theta(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Bias parameters.

        Args:
            coordinates: float64 `[size]`.

        Returns:
            Parameters `[size]`, and the log of the volume that a unit of volume becomes.
        """
        engine, slopes, offsets = self._parts(coordinates)
        mean, width = self._moments(engine)
        slopes = slopes / width
        joined = tf.concat([engine, slopes, offsets - slopes * mean], 0)
        return tf.gather(joined, self._place), -self._num_lines * tf.math.log(width)

    def coordinates(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Inverse of `theta`.

        Args:
            theta: `[size]`.

        Returns:
            Coordinates `[size]`.
        """
        engine, slopes, offsets = self._parts(tf.constant(np.asarray(theta, dtype=np.float64)))
        mean, width = self._moments(engine)
        joined = tf.concat([engine, slopes * width, offsets + slopes * mean], 0)
        return np.asarray(tf.gather(joined, self._place))


def parameter_coordinates(bias: NeuralBias, delta: ArrayLike) -> ParameterCoordinates:
    """Coordinates for a bias model.

    Args:
        bias: the model.
        delta: an overdensity `[N, N, N]` like those of the posterior, such as one of the prior.

    Returns:
        Standardised parameters if the model is that of `neural_bias_model` (one softplus
        convolution to one number per voxel, and a `MixtureDensity`), else the parameters as they
        are.
    """
    hidden = [layer for layer in getattr(bias.model, "layers", []) if layer.trainable_variables]
    paper = (
        len(hidden) == 2
        and isinstance(hidden[0], MultipoleConv3D)
        and isinstance(hidden[1], MixtureDensity)
        and hidden[0].filters == 1
        and hidden[0].use_bias
        and getattr(hidden[0].activation, "__name__", "") == "softplus"
    )
    if not paper:
        return PlainParameters()
    inputs = tf.constant(np.asarray(delta), bias.dtype)[tf.newaxis, ..., tf.newaxis]
    for layer in bias.model.layers[1:]:
        if layer is hidden[0]:
            break
        inputs = layer(inputs)
    responses = np.asarray(hidden[0].shell_responses(inputs), dtype=np.float64)
    num_shells = len(hidden[0].trainable_variables[0].numpy().ravel())
    table = responses.reshape(-1, num_shells)
    chosen = np.unique(np.linspace(0, len(table) - 1, _NUM_REFERENCE).astype(int))
    return StandardisedParameters(table[chosen], (bias.parameters.size - num_shells - 1) // 2)
