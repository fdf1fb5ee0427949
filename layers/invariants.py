"""Scalars from the maps of multipole convolutions.

The 2 l + 1 maps that one filter of order l makes (two in a plane, one on a line) turn into each
other when the input is rotated, as the components of a vector do for l = 1. Their scalar products
do not: summed over m, the product of two objects of one order is the same in every orientation
(the coupling of l and l to 0, of which the power is the special case of two equal ones). With
`share_orders` in the convolution these scalars are exactly invariant under the symmetries of the
lattice, so a network that takes them between its convolutions is invariant at any depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from layers.arguments import invalid, one_of, orders, per_order
from layers.harmonics import orders_m
from layers.padding import DATA_FORMATS, channels_first, channels_last

__all__ = ["MultipolePower", "MultipoleProduct"]

Tensor = Any

_PAIRS = ("matching", "all")


class _Invariants(keras.layers.Layer):
    """What both layers need to know of the maps they are given."""

    def __init__(
        self,
        multipoles: Sequence[int],
        filters: int | Sequence[int] | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.multipoles = orders("multipoles", multipoles, 3)
        if filters is not None:
            per_order("filters", filters, len(self.multipoles))
        self.filters = tuple(filters) if isinstance(filters, (list, tuple)) else filters
        self.data_format = one_of(
            "data_format", data_format or keras.config.image_data_format(), DATA_FORMATS
        )

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "multipoles": self.multipoles,
            "filters": self.filters,
            "data_format": self.data_format,
        }

    def _filters_of(self, input_shape: Any) -> tuple[int, ...]:
        """Filters of each order in maps of this shape."""
        shape = tuple(input_shape)
        num_axes = len(shape) - 2
        if num_axes not in (1, 2, 3):
            raise invalid("input_shape", "a batch, one to three axes, and maps", shape)
        orders("multipoles", self.multipoles, num_axes)
        maps = shape[-1 if self.data_format == "channels_last" else 1]
        if maps is None:
            raise invalid("input_shape", "a known number of maps", shape)
        counts = [len(orders_m(num_axes, order)) for order in self.multipoles]
        filters = self.filters
        if filters is None and maps % sum(counts) == 0:
            filters = maps // sum(counts)
        if filters is not None:
            found = per_order("filters", filters, len(counts))
            if sum(f * count for f, count in zip(found, counts, strict=True)) == maps:
                return found
        raise ValueError(
            f"Invalid value for argument `inputs`. Expected {counts} maps for each filter of the "
            f"orders {self.multipoles} with filters={self.filters}. Received: {maps} maps in "
            f"inputs.shape={shape}"
        )

    def _split(self, inputs: Tensor) -> list[Tensor]:
        """For each order the maps as `[batch, *mesh, filters, M]`."""
        filters = self._filters_of(inputs.shape)
        maps = channels_last(inputs, self.data_format)
        num_axes = maps.shape.rank - 2
        counts = [len(orders_m(num_axes, order)) for order in self.multipoles]
        sizes = [f * count for f, count in zip(filters, counts, strict=True)]
        mesh = tf.shape(maps)[:-1]
        return [
            tf.reshape(piece, tf.concat([mesh, [f, count]], 0))
            for piece, f, count in zip(tf.split(maps, sizes, axis=-1), filters, counts, strict=True)
        ]

    def _with_channels(self, input_shape: Any, channels: int) -> tuple[int | None, ...]:
        shape = list(input_shape)
        shape[-1 if self.data_format == "channels_last" else 1] = channels
        return tuple(shape)


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class MultipolePower(_Invariants):
    """Power of each filter's maps: the sum of their squares over m.

    Input `[batch, *mesh, maps]` as `MultipoleConv1D`, `MultipoleConv2D` or `MultipoleConv3D` makes
    it, output `[batch, *mesh, filters]` (those of all orders, in the same order). Maps of l = 0
    are scalars already and pass unchanged. No weights.

    Args:
        multipoles: orders of the convolution before it.
        filters: its filters, one number or one for each order; `None` if it is one number, which
            then follows from the number of maps.
        data_format: ``"channels_last"`` or ``"channels_first"``; by default the one of the Keras
            configuration.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range or the input has another number of maps.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Maps to scalars."""
        scalars = [
            piece[..., 0] if order == 0 else tf.reduce_sum(tf.square(piece), axis=-1)
            for order, piece in zip(self.multipoles, self._split(inputs), strict=True)
        ]
        return channels_first(tf.concat(scalars, axis=-1), self.data_format)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the scalars."""
        return self._with_channels(input_shape, sum(self._filters_of(input_shape)))


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class MultipoleProduct(_Invariants):
    """Scalar products, summed over m, of two sets of maps of the same orders.

    Inputs: a list of two tensors `[batch, *mesh, maps]` on one mesh, as two multipole convolutions
    with the same `multipoles` make them; the same tensor twice gives the products among its own
    filters. Output `[batch, *mesh, products]`. No weights.

    Args:
        multipoles: orders of both convolutions.
        filters: their filters, one number or one for each order; `None` if it is one number, which
            then follows from the number of maps, and may differ between the two with
            ``pairs="all"``.
        pairs: ``"matching"``: the products of filter f of the first with filter f of the second;
            ``"all"``: of every filter of the first with every filter of the second (those of the
            second run fastest).
        data_format: ``"channels_last"`` or ``"channels_first"``; by default the one of the Keras
            configuration.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range, there are not two inputs, or they do not fit.
    """

    def __init__(
        self,
        multipoles: Sequence[int],
        filters: int | Sequence[int] | None = None,
        pairs: str = "matching",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(multipoles, filters, data_format, **kwargs)
        self.pairs = one_of("pairs", pairs, _PAIRS)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Two sets of maps to scalars."""
        self._products([tensor.shape for tensor in self._two(inputs)])
        products = []
        for first, second in zip(*(self._split(tensor) for tensor in inputs), strict=True):
            if self.pairs == "matching":
                products.append(tf.reduce_sum(first * second, axis=-1))
            else:
                table = tf.linalg.matmul(first, second, transpose_b=True)
                count = table.shape[-1] * table.shape[-2]
                products.append(tf.reshape(table, tf.concat([tf.shape(table)[:-2], [count]], 0)))
        return channels_first(tf.concat(products, axis=-1), self.data_format)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the products."""
        first, second = self._two(input_shape)
        return self._with_channels(first, self._products([first, second]))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "pairs": self.pairs}

    def _two(self, inputs: Any) -> Any:
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise ValueError(
                "Invalid value for argument `inputs`. Expected a list of two tensors. "
                f"Received: {inputs!r}"
            )
        return inputs

    def _products(self, shapes: Sequence[Any]) -> int:
        """Number of products of two sets of maps."""
        first, second = (self._filters_of(shape) for shape in shapes)
        axis = -1 if self.data_format == "channels_last" else 1
        meshes = [list(shape) for shape in shapes]
        for mesh in meshes:
            del mesh[axis]
        sizes = list(zip(*meshes, strict=False))
        differ = any(None not in pair and pair[0] != pair[1] for pair in sizes)
        if differ or len(meshes[0]) != len(meshes[1]):
            raise ValueError(
                "Invalid value for argument `inputs`. Expected two tensors on one mesh. Received: "
                f"inputs of shape {tuple(shapes[0])} and {tuple(shapes[1])}"
            )
        if self.pairs == "all":
            return sum(f * g for f, g in zip(first, second, strict=True))
        if first != second:
            raise ValueError(
                "Invalid value for argument `inputs`. Expected as many filters in both with "
                f"pairs='matching'. Received: {first} and {second}"
            )
        return sum(first)
