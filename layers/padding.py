"""Periodic padding of a mesh in one, two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from layers.arguments import invalid, is_integer, one_of

__all__ = [
    "DATA_FORMATS",
    "Pads",
    "PeriodicPadding1D",
    "PeriodicPadding2D",
    "PeriodicPadding3D",
    "channels_first",
    "channels_last",
    "crop",
    "embed",
    "wrap",
]

Tensor = Any
Pads = Sequence[tuple[int, int]]

DATA_FORMATS = ("channels_last", "channels_first")


def channels_last(inputs: Tensor, data_format: str) -> Tensor:
    """`[batch, *mesh, channels]` from a tensor in either format."""
    if data_format == "channels_last":
        return inputs
    return tf.transpose(inputs, [0, *range(2, inputs.shape.rank), 1])


def channels_first(outputs: Tensor, data_format: str) -> Tensor:
    """Undo `channels_last`: `[batch, *mesh, channels]` to a tensor in the format."""
    if data_format == "channels_last":
        return outputs
    rank = outputs.shape.rank
    return tf.transpose(outputs, [0, rank - 1, *range(1, rank - 1)])


def wrap(inputs: Tensor, pads: Pads) -> Tensor:
    """Continue a periodic mesh beyond its faces.

    Args:
        inputs: `[batch, *mesh, channels]`.
        pads: cells to add before and after, for each axis of the mesh.

    Returns:
        `[batch, *mesh', channels]`, each side longer by before + after. Padding may be wider than
        the mesh, which is then repeated.
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


def crop(inputs: Tensor, pads: Pads) -> Tensor:
    """Cut cells off a mesh `[batch, *mesh, channels]`, before and after along each axis.

    `crop` and `embed` are each other's adjoint and are differentiated as such: the gradient of a
    slice compiled by XLA has no gradient of its own, that of a strided slice is slow without XLA.
    """

    @tf.custom_gradient
    def crop_differentiably(mesh: Tensor) -> Any:
        dynamic = tf.shape(mesh)
        starts = [before for before, _ in pads]
        sizes = [
            (dynamic[axis] if mesh.shape[axis] is None else mesh.shape[axis]) - before - after
            for axis, (before, after) in enumerate(pads, start=1)
        ]
        inner = tf.slice(mesh, [0, *starts, 0], [-1, *sizes, -1])
        return inner, lambda upstream: embed(upstream, pads)

    return crop_differentiably(inputs)


def embed(inputs: Tensor, pads: Pads) -> Tensor:
    """Put zeros around a mesh `[batch, *mesh, channels]`, before and after along each axis."""

    @tf.custom_gradient
    def embed_differentiably(mesh: Tensor) -> Any:
        outer = tf.pad(mesh, [[0, 0], *([before, after] for before, after in pads), [0, 0]])
        return outer, lambda upstream: crop(upstream, pads)

    return embed_differentiably(inputs)


_EXPECTED = {
    1: "a non-negative integer or a pair of them (before and after)",
    2: "a non-negative integer, two of them, or two pairs of them (before and after each axis)",
    3: "a non-negative integer, three of them, or three pairs of them (before and after each axis)",
}


def _normalise(padding: Any, num_axes: int) -> Pads:
    def count(value: Any) -> int:
        if not is_integer(value) or value < 0:
            raise invalid("padding", _EXPECTED[num_axes], padding)
        return int(value)

    def pair(value: Any) -> tuple[int, int]:
        if not isinstance(value, (list, tuple)):
            return count(value), count(value)
        if len(value) != 2:
            raise invalid("padding", _EXPECTED[num_axes], padding)
        return count(value[0]), count(value[1])

    if not isinstance(padding, (list, tuple)):
        return (pair(padding),) * num_axes
    if num_axes == 1 and len(padding) == 2:
        return (pair(padding),)
    if len(padding) != num_axes:
        raise invalid("padding", _EXPECTED[num_axes], padding)
    return tuple(pair(axis) for axis in padding)


class _PeriodicPadding(keras.layers.Layer):
    num_axes: int

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = _normalise(padding, self.num_axes)
        self.data_format = one_of(
            "data_format", data_format or keras.config.image_data_format(), DATA_FORMATS
        )
        self.input_spec = keras.layers.InputSpec(ndim=self.num_axes + 2)

    def call(self, inputs: Tensor) -> Tensor:
        """Mesh to padded mesh."""
        mesh = channels_last(inputs, self.data_format)
        return channels_first(wrap(mesh, self.padding), self.data_format)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the padded mesh."""
        shape = list(input_shape)
        if len(shape) != self.num_axes + 2:
            raise invalid("input_shape", f"{self.num_axes + 2} sizes", tuple(input_shape))
        first = 1 if self.data_format == "channels_last" else 2
        for axis, pads in enumerate(self.padding, start=first):
            shape[axis] = None if shape[axis] is None else shape[axis] + sum(pads)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "padding": self.padding,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PeriodicPadding1D(_PeriodicPadding):
    """Pads a one-dimensional mesh with its own periodic continuation.

    Input `[batch, D, channels]`, output the same with a longer D. Padding may be wider than the
    mesh, which is then repeated.

    Args:
        padding: cells to add: an integer (both ends) or a pair (before and after), as in
            `keras.layers.ZeroPadding1D`.
        data_format: ``"channels_last"`` or ``"channels_first"`` (`[batch, channels, D]`); by
            default the one of the Keras configuration.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range or the input is not of rank 3.
    """

    num_axes = 1


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PeriodicPadding2D(_PeriodicPadding):
    """Pads a two-dimensional mesh with its own periodic continuation.

    Input `[batch, H, W, channels]`, output the same with longer H and W. Padding may be wider than
    the mesh, which is then repeated.

    Args:
        padding: cells to add: an integer (all four sides), two integers (both sides of each axis)
            or two pairs (before and after each axis), as in `keras.layers.ZeroPadding2D`.
        data_format: ``"channels_last"`` or ``"channels_first"`` (`[batch, channels, H, W]`); by
            default the one of the Keras configuration.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range or the input is not of rank 4.
    """

    num_axes = 2


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class PeriodicPadding3D(_PeriodicPadding):
    """Pads a three-dimensional mesh with its own periodic continuation.

    Input `[batch, D, H, W, channels]`, output the same with longer D, H and W. Padding may be
    wider than the mesh, which is then repeated.

    Args:
        padding: cells to add: an integer (all six faces), three integers (both faces of each
            axis) or three pairs (before and after each axis), as in `keras.layers.ZeroPadding3D`.
        data_format: ``"channels_last"`` or ``"channels_first"`` (`[batch, channels, D, H, W]`);
            by default the one of the Keras configuration.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range or the input is not of rank 5.
    """

    num_axes = 3
