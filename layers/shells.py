"""Sums over the shells of a periodic mesh by shifted copies, axis by axis.

Let S_d be the sum of a mesh shifted by +d and by -d along an axis (S_0 the mesh itself). The sum
over the cells at offsets (+-a, +-b, +-c), in every order of the three, is a symmetric sum of
products of S_a, S_b and S_c on the three axes, so two axes are summed once for all shells and the
third closes each of them: 6 sums of two meshes give all shells of a 3^3 kernel, 4 their weighted
total, where the dense kernel has 27 products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["shell_sums", "weighted_shell_sum"]

Tensor = Any


def shell_sums(mesh: Tensor, reach: int) -> list[Tensor]:
    """Sums over the neighbours at each distance.

    Args:
        mesh: `[batch, D, H, W, channels]`, periodic.
        reach: largest offset along an axis, (k - 1)/2 for a k^3 kernel.

    Returns:
        One mesh of the same shape for each shell, in order of radius.
    """
    planes = _plane_sums(mesh, reach)
    shells = []
    for squared_radius in _squared_radii(reach):
        parts = [
            _pair(plane, distance, axis=1)
            for (a, b), plane in planes.items()
            for distance in range(reach + 1)
            if a * a + b * b + distance * distance == squared_radius
        ]
        shells.append(_total(parts))
    return shells


def weighted_shell_sum(mesh: Tensor, reach: int, weigh: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Sum over shells of `weigh(shell, sum over the neighbours in the shell)`, but faster.

    Args:
        mesh: `[batch, D, H, W, channels]`, periodic.
        reach: largest offset along an axis, (k - 1)/2 for a k^3 kernel.
        weigh: number of a shell, in order of radius, and a mesh, to the weighted mesh; linear in
            the mesh and the same in every cell.

    Returns:
        A mesh `[batch, D, H, W, ...]`.
    """
    planes = _plane_sums(mesh, reach)
    number = {radius: shell for shell, radius in enumerate(_squared_radii(reach))}
    parts = []
    for distance in range(reach + 1):
        weighted = [
            weigh(number[a * a + b * b + distance * distance], plane)
            for (a, b), plane in planes.items()
        ]
        parts.append(_pair(_total(weighted), distance, axis=1))
    return _total(parts)


def _plane_sums(mesh: Tensor, reach: int) -> dict[tuple[int, int], Tensor]:
    """Sums over offsets (+-a, +-b) and (+-b, +-a) on axes 2 and 3, for all a <= b."""
    lines = [_pair(mesh, distance, axis=3) for distance in range(reach + 1)]
    planes = {}
    for a in range(reach + 1):
        for b in range(a, reach + 1):
            plane = _pair(lines[b], a, axis=2)
            planes[a, b] = plane if a == b else plane + _pair(lines[a], b, axis=2)
    return planes


def _pair(mesh: Tensor, distance: int, axis: int) -> Tensor:
    """S_distance along an axis."""
    if distance == 0:
        return mesh
    return tf.roll(mesh, distance, axis) + tf.roll(mesh, -distance, axis)


def _squared_radii(reach: int) -> list[int]:
    squares = [n * n for n in range(reach + 1)]
    return sorted({a + b + c for a in squares for b in squares for c in squares})


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
