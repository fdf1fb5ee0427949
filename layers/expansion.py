"""One order of a multipole convolution: its kernels by weight and map, and initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layers.harmonics import orders_m
from layers.isotropy import isotropic_combinations
from layers.multipole import MultipoleBasis, MultipoleLabel
from layers.shells import parity_groups

__all__ = ["Expansion", "initial_weights"]

Tensor = Any


class Expansion:
    """One order of a layer: its kernels by weight and map, and what they reduce to.

    Args:
        basis: of the order.
        filters: of the order.
        offsets: for each axis, the offset of every cell of the kernel from the output's cell.
        share_orders: whether a weight belongs to a shell and all m, or to a shell and one m.
        isotropic: with `share_orders`, whether weights belong to isotropic combinations of shells.

    Attributes:
        labels: for each weight; with `share_orders` its m is 0 and stands for all, and the shell
            is the last one of a combination.
        num_weights: for each channel and filter.
        num_maps: output maps of all filters.
        is_scalar: whether the maps are invariant under rotations.
        kernels: `[num_weights, M, *kernel_size]`, zero where a weight does not reach a map.
        pairs: (weight, map) of those that do not vanish.
        selection: `[pairs, num_weights, M]`, one for the weight and the map of each pair.
        groups: the kernels for `layers.shells`.
        scales: factor of each initial weight that gives its map the variance of a dense kernel.
        cells: cell of the dense kernel from whose draw each initial weight is taken.
        first_maps: map from whose draw it is taken.
    """

    def __init__(
        self,
        basis: MultipoleBasis,
        filters: int,
        offsets: Sequence[Sequence[int]],
        share_orders: bool,
        isotropic: bool = False,
    ) -> None:
        order = basis.labels[0].multipole
        maps = orders_m(basis.shells.ndim, order)
        if share_orders:
            radii = sorted({label.squared_radius for label in basis.labels})
            self.labels = tuple(MultipoleLabel(order, 0, radius) for radius in radii)
            rows = [radii.index(label.squared_radius) for label in basis.labels]
        else:
            self.labels = basis.labels
            rows = list(range(basis.num_weights))
        columns = [maps.index(label.m) for label in basis.labels]
        shape = (len(self.labels), len(maps), *basis.kernels.shape[1:])
        self.kernels: NDArray[np.float64] = np.zeros(shape)
        self.kernels[rows, columns] = basis.kernels
        if isotropic:
            combinations = isotropic_combinations(self.kernels, basis.offsets, order)
            self.kernels = np.tensordot(combinations, self.kernels, 1)
            lasts = [int(np.flatnonzero(vector)[-1]) for vector in combinations]
            self.labels = tuple(self.labels[last] for last in lasts)
        self.filters = filters
        self.is_scalar = order == 0
        self.num_weights = len(self.labels)
        self.num_maps = filters * len(maps)
        axes = tuple(range(2, self.kernels.ndim))
        present = np.any(self.kernels, axis=axes)
        self.pairs = [(int(row), int(column)) for row, column in np.argwhere(present)]
        self.selection: NDArray[np.float64] = np.zeros((len(self.pairs), *present.shape))
        for number, pair in enumerate(self.pairs):
            self.selection[(number, *pair)] = 1.0
        self.groups = parity_groups(self.kernels, offsets)
        power = np.square(self.kernels).sum(axis=axes)
        size = basis.shells.size
        if share_orders:
            scale = math.sqrt(size * len(maps) / power.sum()) if self.num_weights else 1.0
            self.scales = np.full((self.num_weights,), scale)
            self.cells = np.arange(self.num_weights)
            self.first_maps = np.zeros(self.num_weights, np.int64)
        else:
            self.first_maps = np.asarray(columns)
            self.scales = np.sqrt(size / power.sum(axis=0)[self.first_maps])
            self.cells = (np.cumsum(present, axis=0) - 1)[np.arange(self.num_weights), columns]

    def dense_kernel(self, weights: Tensor) -> Tensor:
        """Dense kernel `[*kernel_size, channels, num_maps]` of weights."""
        num_weights, count, *sizes = self.kernels.shape
        channels, filters = weights.shape[1:]
        # one matrix product: outside of a graph an einsum would cost more than the convolution
        basis = tf.constant(self.kernels.reshape(num_weights, -1).T, weights.dtype)
        dense = tf.matmul(basis, tf.reshape(weights, (num_weights, -1)))
        if count > 1:
            dense = tf.reshape(dense, (count, -1, channels * filters))
            dense = tf.transpose(dense, (1, 2, 0))
        return tf.reshape(dense, (*sizes, channels, filters * count))


def initial_weights(
    initializer: Any, dense_shape: tuple[int, ...], columns: slice, part: Expansion
) -> Any:
    """Initial weights of one order, `[num_weights, channels, filters]`.

    Taken from a draw for the dense kernel, so that its fans count, and scaled so that every map
    has the variance that a dense convolution with this initialiser has on white noise.
    """

    def draw(shape: tuple[int, ...], dtype: Any) -> Tensor:
        dense = tf.convert_to_tensor(initializer(dense_shape, dtype=dtype))
        cells = tf.reshape(dense, (-1, *dense_shape[-2:]))[..., columns]
        per_map = tf.reshape(cells, (-1, shape[1], shape[2], part.num_maps // shape[2]))
        rows = [
            per_map[rank, :, :, number]
            for rank, number in zip(part.cells, part.first_maps, strict=True)
        ]
        scales = tf.constant(part.scales.reshape(-1, 1, 1), dense.dtype)
        return tf.stack(rows) * scales

    return draw
