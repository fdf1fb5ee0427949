"""Meshes cut into slabs along the first axis, one for each device, and what passes between them.

A cut field is a list of tensors, slab d on device d with the planes from d N/D to (d + 1) N/D. All
operations are placed by hand, those of gradients too: TensorFlow puts the operations of a tape's
gradient on the first device, whatever the device of the operation that they are the gradient of.
So there is no tape around the whole. Work on one slab is recorded by a tape of its own (`recorded`)
and played back on its device; what passes between slabs has its adjoint written out.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

__all__ = ["Slabs", "extend", "fold", "recorded", "total"]

Tensor = Any


class Slabs:
    """How a mesh is cut.

    Args:
        num_cells: vertices along each side, N.
        devices: names of the devices, D of them; a device that comes twice holds two slabs.

    Attributes:
        thickness: planes of a slab, N/D.

    Raises:
        ValueError: if there are no devices, or N is not a multiple of D.
    """

    def __init__(self, num_cells: int, devices: Sequence[str]) -> None:
        """Check that the slabs are of equal thickness."""
        self.num_cells = num_cells
        self.devices = tuple(devices)
        if not self.devices or num_cells % len(self.devices):
            raise ValueError(
                "Invalid value for argument `devices`. Expected a number of devices that divides "
                f"num_cells={num_cells}. Received: {len(self.devices)} devices {self.devices}"
            )
        self.thickness = num_cells // len(self.devices)

    def __len__(self) -> int:
        """Number of slabs, D."""
        return len(self.devices)

    def scatter(self, field: Any, dtype: Any = None) -> list[Tensor]:
        """Cut a field `[N, N, N]` into slabs `[N/D, N, N]`, each on its device.

        Args:
            field: an array, of which only one slab at a time is copied.
            dtype: of the slabs; by default that of the field.

        Raises:
            ValueError: if the field is of another shape.
        """
        if tuple(field.shape) != (self.num_cells,) * 3:
            raise ValueError(
                f"Invalid value for argument `field`. Expected shape {(self.num_cells,) * 3}. "
                f"Received: shape {tuple(field.shape)}"
            )
        slabs = []
        for number, device in enumerate(self.devices):
            with tf.device(device):
                planes = slice(number * self.thickness, (number + 1) * self.thickness)
                slabs.append(tf.identity(tf.cast(field[planes], dtype or field.dtype)))
        return slabs

    def check(self, slabs: Sequence[Tensor]) -> None:
        """Refuse what is no cut field.

        Raises:
            ValueError: if number or shape of the slabs are others.
        """
        shape = (self.thickness, self.num_cells, self.num_cells)
        shapes = [tuple(slab.shape) for slab in slabs]
        if shapes != [shape] * len(self):
            raise ValueError(
                f"Invalid value for argument `slabs`. Expected {len(self)} tensors of shape "
                f"{shape}. Received: shapes {shapes}"
            )


def total(terms: Sequence[Tensor]) -> Tensor:
    """Sum of tensors in their order.

    Not `tf.add_n`, which starts with whichever input it may overwrite at that moment: the same
    graph would round differently from call to call.
    """
    return functools.reduce(operator.add, terms)


def recorded(
    device: str, function: Callable[..., Tensor], *inputs: Tensor
) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """Run a function on a device, and its gradient later on the same one.

    Args:
        device: where.
        function: of tensors, to one tensor or a list of them.
        *inputs: its arguments.

    Returns:
        What the function returns, and the map from a gradient with respect to that to the
        gradients with respect to the inputs.
    """
    with tf.device(device), tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)

    def pull_back(upstream: Tensor) -> list[Tensor]:
        with tf.device(device):
            return list(tape.gradient(output, inputs, upstream))

    return output, pull_back


def extend(slabs: Sequence[Tensor], width: int, devices: Sequence[str]) -> list[Tensor]:
    """Put copies of the neighbours' planes beside each slab of a periodic mesh.

    Args:
        slabs: `[n, ...]` each.
        width: planes on either side, up to n.
        devices: of the slabs.

    Returns:
        `[n + 2 width, ...]` each.
    """
    if width == 0:
        return list(slabs)
    first, last = [], []
    for slab, device in zip(slabs, devices, strict=True):
        # cut where the slab is, so that no more than the ghosts travel
        with tf.device(device):
            first.append(tf.identity(slab[:width]))
            last.append(tf.identity(slab[slab.shape[0] - width :]))
    extended = []
    for number, (slab, device) in enumerate(zip(slabs, devices, strict=True)):
        with tf.device(device):
            after = first[(number + 1) % len(first)]
            extended.append(tf.concat([last[number - 1], slab, after], axis=0))
    return extended


def fold(extended: Sequence[Tensor], width: int, devices: Sequence[str]) -> list[Tensor]:
    """Add ghost planes to the planes that they are copies of; the transpose of `extend`.

    Args:
        extended: `[n + 2 width, ...]` each.
        width: planes on either side, up to n.
        devices: of the slabs.

    Returns:
        `[n, ...]` each.
    """
    if width == 0:
        return list(extended)
    before, own, after = [], [], []
    for slab, device in zip(extended, devices, strict=True):
        with tf.device(device):
            low, middle, high = tf.split(slab, [width, slab.shape[0] - 2 * width, width], axis=0)
            before.append(low)
            own.append(middle)
            after.append(high)
    folded = []
    for number, device in enumerate(devices):
        with tf.device(device):
            middle = own[number]
            rest = [[0, 0]] * (middle.shape.rank - 1)
            gap = middle.shape[0] - width
            low = tf.pad(after[number - 1], [[0, gap], *rest])
            high = tf.pad(before[(number + 1) % len(before)], [[gap, 0], *rest])
            folded.append(total([middle, low, high]))
    return folded
