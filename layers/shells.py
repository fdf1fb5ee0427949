"""Multipole convolutions by shifted copies of the mesh, axis by axis.

Every harmonic is even or odd under the reflection of each axis. So a kernel is known by its
octant, K[a, b, c] for non-negative distances, and applying it is

    sum over a of S_a ( sum over b, c of K[a, b, c] S_b S_c mesh ),

where S_a adds the mesh shifted by +a and by -a along one axis (or subtracts it, if odd). The
products over all axes but the first, the planes, are made once for all kernels of one parity, and
planes that no kernel tells apart are added first: for l = 0 and extent 3 that is three planes and
four shifted sums instead of the 27 products of the dense kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = ["ParityGroup", "apply_weighted", "responses", "parity_groups"]

Tensor = Any
Floats = NDArray[np.float64]
Shifts = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class ParityGroup:
    """Kernels of one parity, reduced to what must be computed.

    Attributes:
        maps: which output maps these are.
        parity: +1 or -1 for each axis.
        shifts: for each axis the offsets (forward, backward) of every distance; equal at distance
            zero.
        planes: sets of distances along the axes after the first; the planes of a set are added.
        coefficients: `[num_weights, maps, distances, planes]`, by which the sum of planes enters
            at each distance along the first axis.
    """

    maps: tuple[int, ...]
    parity: tuple[int, ...]
    shifts: tuple[Shifts, ...]
    planes: tuple[tuple[tuple[int, ...], ...], ...]
    coefficients: Floats


def parity_groups(kernels: Floats, offsets: Sequence[Sequence[int]]) -> tuple[ParityGroup, ...]:
    """Sort kernels by parity.

    Args:
        kernels: `[num_weights, maps, *kernel_size]`; those of one map have one parity.
        offsets: for each axis, the offset of every cell of the kernel from the output's cell.

    Returns:
        One group for each parity that occurs; maps whose kernels all vanish are in none.
    """
    sizes = kernels.shape[2:]
    members: dict[tuple[int, ...], list[int]] = {}
    for number in np.flatnonzero(np.any(kernels, axis=(0, *range(2, kernels.ndim)))):
        members.setdefault(_parity(kernels[:, number]), []).append(int(number))
    shifts = tuple(
        tuple(zip(axis[size // 2 :], axis[(size - 1) // 2 :: -1], strict=True))
        for axis, size in zip(offsets, sizes, strict=True)
    )
    octant = kernels[(slice(None), slice(None), *(slice(size // 2, None) for size in sizes))]
    groups = []
    for parity, maps in members.items():
        coefficients = octant[:, maps]
        every_plane = list(np.ndindex(coefficients.shape[3:]))
        columns = coefficients.reshape(*coefficients.shape[:3], len(every_plane))
        alike: dict[bytes, list[int]] = {}
        for number in np.flatnonzero(np.any(columns, axis=(0, 1, 2))):
            alike.setdefault(columns[..., number].tobytes(), []).append(int(number))
        planes = tuple(tuple(every_plane[n] for n in same) for same in alike.values())
        firsts = [same[0] for same in alike.values()]
        groups.append(ParityGroup(tuple(maps), parity, shifts, planes, columns[..., firsts]))
    return tuple(groups)


def apply_weighted(
    mesh: Tensor, weights: Tensor, groups: Sequence[ParityGroup]
) -> dict[int, Tensor]:
    """Convolve a mesh with weighted sums of kernels.

    Args:
        mesh: `[batch, *mesh, channels]`, periodic.
        weights: `[num_weights, channels, filters]`.
        groups: of `parity_groups`.

    Returns:
        Number of each map that is in a group, and its mesh `[batch, *mesh, filters]`.
    """
    channels, filters = weights.shape[1:]
    outputs: dict[int, Tensor] = {}
    for group in groups:
        planes = _plane_sums(mesh, group)
        _, count, distances, _ = group.coefficients.shape
        coefficients = tf.constant(group.coefficients, mesh.dtype)
        matrix = tf.einsum("jmap,jcf->pcamf", coefficients, weights)
        if channels == 1 and filters == 1:
            weighted = _combine(planes, matrix, group)
        else:
            flat = tf.reshape(matrix, (-1, distances * count * filters))
            product = tf.tensordot(tf.concat(planes, -1), flat, 1)
            pieces = tf.split(product, distances * count, axis=-1)
            weighted = [pieces[a * count : (a + 1) * count] for a in range(distances)]
        for position, number in enumerate(group.maps):
            parts = [
                _pair(row[position], shift, 1, group.parity[0])
                for row, shift in zip(weighted, group.shifts[0], strict=True)
                if row[position] is not None
            ]
            outputs[number] = _total(parts)
    return outputs


def responses(
    mesh: Tensor, groups: Sequence[ParityGroup], pairs: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Convolve a mesh with single kernels.

    Args:
        mesh: `[batch, *mesh, channels]`, periodic.
        groups: of `parity_groups`.
        pairs: (weight, map) of each kernel wanted.

    Returns:
        For each pair a mesh `[batch, *mesh, channels]`.
    """
    found: dict[tuple[int, int], Tensor] = {}
    for group in groups:
        planes = _plane_sums(mesh, group)
        for position, number in enumerate(group.maps):
            for weight in range(len(group.coefficients)):
                if (weight, number) in pairs:
                    columns = group.coefficients[weight, position]
                    found[weight, number] = _single(planes, columns, group)
    return [found[pair] for pair in pairs]


def _parity(kernels: Floats) -> tuple[int, ...]:
    """Parity of kernels `[num_weights, *kernel_size]` along each axis."""
    return tuple(
        1 if np.array_equal(np.flip(kernels, axis), kernels) else -1
        for axis in range(1, kernels.ndim)
    )


def _plane_sums(mesh: Tensor, group: ParityGroup) -> list[Tensor]:
    """The planes of a group, those of a set added."""
    made: dict[tuple[int, ...], Tensor] = {(): mesh}

    def plane(distances: tuple[int, ...]) -> Tensor:
        if distances not in made:
            axis = len(group.shifts) - len(distances)
            shift = group.shifts[axis][distances[0]]
            made[distances] = _pair(plane(distances[1:]), shift, axis + 1, group.parity[axis])
        return made[distances]

    return [_total([plane(distances) for distances in same]) for same in group.planes]


def _combine(planes: list[Tensor], matrix: Tensor, group: ParityGroup) -> list[list[Tensor]]:
    """Weighted sums of planes by distance and map, `None` where nothing contributes.

    Whole meshes times scalars: with one channel this is several times faster than a matrix
    product over a last axis of two or three.
    """
    used = np.any(group.coefficients, axis=0)
    rows = []
    for distance in range(used.shape[1]):
        row = []
        for position in range(used.shape[0]):
            terms = [
                plane * matrix[number, 0, distance, position, 0]
                for number, plane in enumerate(planes)
                if used[position, distance, number]
            ]
            row.append(_total(terms) if terms else None)
        rows.append(row)
    return rows


def _single(planes: list[Tensor], columns: Floats, group: ParityGroup) -> Tensor:
    """Combine planes by constant coefficients `[distances, planes]`."""
    nonzero = columns[columns != 0]
    common = float(nonzero[0]) if np.all(nonzero == nonzero[0]) else None
    parts = []
    for row, shift in zip(columns, group.shifts[0], strict=True):
        terms = [
            plane if common is not None else plane * tf.constant(value, plane.dtype)
            for plane, value in zip(planes, row, strict=True)
            if value != 0
        ]
        if terms:
            parts.append(_pair(_total(terms), shift, 1, group.parity[0]))
    total = _total(parts)
    return total if common is None else total * tf.constant(common, total.dtype)


def _pair(mesh: Tensor, shift: tuple[int, int], axis: int, parity: int) -> Tensor:
    """The mesh seen from `shift` cells ahead, plus or minus the mesh seen from behind."""
    ahead, behind = (tf.roll(mesh, -cells, axis) if cells else mesh for cells in shift)
    if shift[0] == shift[1]:
        return ahead
    return ahead + behind if parity > 0 else ahead - behind


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
