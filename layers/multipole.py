"""Geometry of the cubic lattice: shells, harmonics, and which cells of a kernel share a weight.

The cells of a k^3 kernel (k odd) sit at integer offsets from its centre. Cells at equal distance
make a shell; distances are compared as integers (squared offsets), never as floating-point
numbers. A multipole kernel of order l, m is a sum over shells of a weight times the real spherical
harmonic Y_lm in the direction of each cell (Charnock et al. 2020, MNRAS 494, 50).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layers.arguments import invalid, positive_integer

__all__ = ["MultipoleLabel", "lattice_offsets", "multipole_basis", "squared_radii"]

MULTIPOLES = (0,)


class MultipoleLabel(NamedTuple):
    """What one weight of a multipole kernel belongs to.

    Attributes:
        multipole: order l.
        m: from -l to l.
        squared_radius: of the shell, in units of the squared cell size.
    """

    multipole: int
    m: int
    squared_radius: int


def lattice_offsets(kernel_size: int) -> NDArray[np.int64]:
    """Offsets of the cells of a cubic kernel from its centre.

    Args:
        kernel_size: extent k along each axis; odd.

    Returns:
        `[3, k, k, k]`, from -(k - 1)/2 to (k - 1)/2 along each axis.

    Raises:
        ValueError: if `kernel_size` is not an odd positive integer.
    """
    if positive_integer("kernel_size", kernel_size) % 2 == 0:
        raise invalid("kernel_size", "an odd integer, so that a cell is the centre", kernel_size)
    axis = np.arange(kernel_size, dtype=np.int64) - kernel_size // 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))


def squared_radii(kernel_size: int) -> NDArray[np.int64]:
    """Squared distance of every cell from the centre of the kernel, `[k, k, k]`, exact."""
    return np.square(lattice_offsets(kernel_size)).sum(axis=0)


def multipole_basis(
    kernel_size: int, multipole: int = 0
) -> tuple[NDArray[np.float64], tuple[MultipoleLabel, ...]]:
    """Dense kernels that the weights of one multipole multiply.

    Shells come in order of radius, within a shell m goes from -l to l; a combination that vanishes
    on the whole lattice carries no weight and is left out.

    Args:
        kernel_size: extent k along each axis; odd.
        multipole: order l; only 0 for now.

    Returns:
        Basis `[num_weights, k, k, k]`, Y_lm on the cells of a shell and zero elsewhere, with
        orthonormal harmonics (Y_00 = 1 / (2 sqrt(pi))); and the label of each weight. For k = 3
        and l = 0 the weights belong to the centre, 6 faces, 12 edges and 8 corners.

    Raises:
        ValueError: if an argument is out of range.
    """
    radii = squared_radii(kernel_size)
    harmonics = _real_harmonics(multipole, lattice_offsets(kernel_size))
    kernels, labels = [], []
    for squared_radius in np.unique(radii):
        shell = radii == squared_radius
        for m, harmonic in zip(range(-multipole, multipole + 1), harmonics, strict=True):
            kernel = np.where(shell, harmonic, 0.0)
            if np.any(kernel):
                kernels.append(kernel)
                labels.append(MultipoleLabel(multipole, m, int(squared_radius)))
    return np.stack(kernels), tuple(labels)


def _real_harmonics(multipole: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Y_lm in the direction of each offset, `[2 l + 1, k, k, k]` in order of m."""
    is_integer = isinstance(multipole, (int, np.integer)) and not isinstance(multipole, bool)
    if not is_integer or multipole not in MULTIPOLES:
        raise invalid("multipole", f"one of {MULTIPOLES}; others are not implemented", multipole)
    return np.full((1, *offsets.shape[1:]), 0.5 / math.sqrt(math.pi))
