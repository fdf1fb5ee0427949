"""What the graph of a cut field asks of each device: bytes held at once, and bytes received.

Read off the graph, not measured: every tensor of known shape counts from the operation that makes
it to the last that reads it, operations taken in the order in which they were written, and once
more on each other device that reads it. What happens inside a compiled piece, which works on one
slab, is not seen, but its outputs are; these include what a forward pass keeps for its gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["DeviceMemory", "memory_by_device"]

# outputs that share the memory of their first input
_VIEWS = ("Identity", "Reshape", "StopGradient", "ExpandDims", "Squeeze")


class DeviceMemory(NamedTuple):
    """Bytes on one device.

    Attributes:
        peak: largest sum of what is held at once.
        largest: largest single tensor.
        received: all that comes from other devices in one evaluation.
        produced: all that operations write in one evaluation, besides what is received.
    """

    peak: int
    largest: int
    received: int
    produced: int


def _size(tensor: Any) -> int:
    if not tensor.shape.is_fully_defined():
        return 0
    return int(np.prod(tensor.shape.as_list())) * int(tensor.dtype.size)


def memory_by_device(function: Any, devices: Any) -> list[DeviceMemory]:
    """Bytes that a traced function needs on each device.

    Args:
        function: a concrete function, such as `ShardedPosterior.graph_function`.
        devices: names, as they were given to `tf.device`.

    Returns:
        One entry for each device.
    """
    operations = function.graph.get_operations()
    short = {name: name.rsplit("device:", 1)[-1].lstrip("/") for name in devices}
    place = {op.name: op.device.rsplit("device:", 1)[-1].lstrip("/") for op in operations}
    roots: dict[str, Any] = {}
    # of each tensor on each device: when it comes there and when it is read last
    spans: dict[tuple[str, str], list[int]] = {}
    sizes: dict[str, int] = {}
    home: dict[str, str] = {}
    for time, op in enumerate(operations):
        for tensor in op.inputs:
            root = roots.get(tensor.name, tensor).name
            # placeholders have no device of their own but that of who reads them first
            home[root] = home.get(root) or place[op.name]
            spans.setdefault((root, place[op.name] or home[root]), [time, time])[1] = time
        for tensor in op.outputs:
            if op.type in _VIEWS and len(op.inputs) > 0:
                source = op.inputs[0]
                root = roots.get(source.name, source)
                if place[op.name] in ("", home.get(root.name)):
                    roots[tensor.name] = root
                    continue
            sizes[tensor.name] = _size(tensor)
            home[tensor.name] = place[op.name]
            if place[op.name]:
                spans[tensor.name, place[op.name]] = [time, time]
    end = len(operations)
    for tensor in function.outputs:
        root = roots.get(tensor.name, tensor).name
        spans.setdefault((root, home[root]), [end, end])[1] = end
    result = []
    for name in devices:
        change = np.zeros(end + 2, np.int64)
        largest = received = produced = 0
        for (tensor_name, device), (first, last) in spans.items():
            if device != short[name]:
                continue
            size = sizes.get(tensor_name, 0)
            change[first] += size
            change[last + 1] -= size
            largest = max(largest, size)
            if home[tensor_name] == device:
                produced += size
            else:
                received += size
        peak = int(np.cumsum(change).max())
        result.append(DeviceMemory(peak, largest, received, produced))
    return result
