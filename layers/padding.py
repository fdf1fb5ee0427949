"""Periodic padding of a cubic mesh."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.arguments import invalid, one_of

__all__ = ["PeriodicPadding3D", "crop", "embed", "wrap"]

Tensor = Any
Pads = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def wrap(inputs: Tensor, pads: Pads) -> Tensor:
    """Continue a periodic mesh beyond its faces.

    Args:
        inputs: `[batch, D, H, W, channels]`.
        pads: cells to add before and after, for each of the three axes.

    Returns:
        `[batch, D', H', W', channels]`, D' = D + before + after and so on. Padding may be wider
        than the mesh, which is then repeated.
    """
    outputs = inputs
    for axis, (before, after) in enumerate(pads, start=1):
        if before == after == 0:
            continue
        size = outputs.shape[axis]
        if size is not None and max(before, after) <= size:
            # two splits and a concatenation: their gradients are as cheap as they are
            head = tf.split(outputs, [size - before, before], axis)[1]
            tail = tf.split(outputs, [after, size - after], axis)[0]
            outputs = tf.concat([head, outputs, tail], axis)
        else:
            period = tf.shape(outputs)[axis]
            cells = tf.math.floormod(tf.range(-before, period + after), period)
            outputs = tf.gather(outputs, cells, axis=axis)
    return outputs


def crop(inputs: Tensor, before: int, after: int) -> Tensor:
    """Cut cells off a mesh: `before` at the start and `after` at the end of all three axes.

    `crop` and `embed` are each other's adjoint and are differentiated as such: the gradient of a
    slice compiled by XLA has no gradient of its own, that of a strided slice is slow without XLA.
    """

    @tf.custom_gradient
    def crop_differentiably(mesh: Tensor) -> Any:
        dynamic = tf.shape(mesh)
        sizes = [dynamic[i] if mesh.shape[i] is None else mesh.shape[i] for i in (1, 2, 3)]
        sizes = [size - before - after for size in sizes]
        inner = tf.slice(mesh, [0, before, before, before, 0], [-1, *sizes, -1])
        return inner, lambda upstream: embed(upstream, before, after)

    return crop_differentiably(inputs)


def embed(inputs: Tensor, before: int, after: int) -> Tensor:
    """Put zeros around a mesh: `before` at the start and `after` at the end of all three axes."""

    @tf.custom_gradient
    def embed_differentiably(mesh: Tensor) -> Any:
        outer = tf.pad(mesh, [[0, 0], *[[before, after]] * 3, [0, 0]])
        return outer, lambda upstream: crop(upstream, before, after)

    return embed_differentiably(inputs)


def _normalise(padding: Any) -> Pads:
    expected = (
        "a non-negative integer, three of them, or three pairs of them (before and after each axis)"
    )

    def count(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise invalid("padding", expected, padding)
        return int(value)

    def pair(value: Any) -> tuple[int, int]:
        if not isinstance(value, (list, tuple)):
            return count(value), count(value)
        if len(value) != 2:
            raise invalid("padding", expected, padding)
        return count(value[0]), count(value[1])

    axes = padding if isinstance(padding, (list, tuple)) else (padding,) * 3
    if len(axes) != 3:
        raise invalid("padding", expected, padding)
    return pair(axes[0]), pair(axes[1]), pair(axes[2])


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PeriodicPadding3D(keras.layers.Layer):
    """Pads a three-dimensional mesh with its own periodic continuation.

    Input `[batch, D, H, W, channels]`, output the same with longer D, H and W.

    Args:
        padding: cells to add: an integer (all six faces), three integers (both faces of each
            axis), or three pairs (before and after each axis), as in `keras.layers.ZeroPadding3D`.
        data_format: ``"channels_last"``.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range or the input is not of rank 5.
    """

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = _normalise(padding)
        self.data_format = one_of("data_format", data_format or "channels_last", ("channels_last",))
        self.input_spec = keras.layers.InputSpec(ndim=5)

    def call(self, inputs: Tensor) -> Tensor:
        """Mesh `[batch, D, H, W, channels]` to padded mesh."""
        return wrap(inputs, self.padding)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the padded mesh."""
        if len(input_shape) != 5:
            raise invalid("input_shape", "(batch, D, H, W, channels)", input_shape)
        mesh = (
            None if size is None else size + before + after
            for size, (before, after) in zip(input_shape[1:4], self.padding, strict=True)
        )
        return (input_shape[0], *mesh, input_shape[4])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "padding": self.padding,
            "data_format": self.data_format,
        }
