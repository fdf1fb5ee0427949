"""Kernels of multipoles on the lattice: shells, bases, and projections of dense kernels.

The cells of a kernel sit at integer offsets from its centre (half-integer ones along an axis of
even extent). Cells at equal distance make a shell; distances are compared as integers, never as
floating-point numbers. A multipole kernel of order l, m is a sum over shells of a weight times the
harmonic of order l, m in the direction of each cell (Charnock et al. 2020, MNRAS 494, 50).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layers.arguments import integer_per_axis, invalid, is_integer, orders
from layers.harmonics import orders_m, real_harmonics

__all__ = [
    "BasisReport",
    "MultipoleBasis",
    "MultipoleLabel",
    "MultipoleProjection",
    "cell_offsets",
    "kernel_panels",
    "multipole_basis",
    "project_multipoles",
]

Floats = NDArray[np.float64]


class MultipoleLabel(NamedTuple):
    """What one weight of a multipole kernel belongs to.

    Attributes:
        multipole: order l.
        m: from -l to l.
        squared_radius: of the shell, in units of the squared cell size; an exact number (an
            integer unless an extent is even, else a multiple of 1/4).
    """

    multipole: int
    m: int
    squared_radius: float

    @property
    def radius(self) -> float:
        """Radius of the shell in cells."""
        return float(np.sqrt(self.squared_radius))


class BasisReport(NamedTuple):
    """How independent the kernels of a basis are.

    Attributes:
        num_weights: kernels in the basis.
        rank: dimension of their span.
        orthogonal: whether any two of them are orthogonal.
        largest_overlap: largest |cosine| between two of them, 0 for one kernel.
    """

    num_weights: int
    rank: int
    orthogonal: bool
    largest_overlap: float


@dataclass(frozen=True, eq=False)
class MultipoleBasis:
    """The dense kernels that the weights of one or more multipoles multiply.

    Attributes:
        kernels: `[num_weights, *kernel_size]`, the harmonic on the cells of one shell and zero
            elsewhere.
        labels: one `MultipoleLabel` for each.
        shells: number of the shell of every cell, `[*kernel_size]`, in order of radius.
        squared_radii: of the shells, `[num_shells]`.
        offsets: of the cells, `[d, *kernel_size]`, doubled so that they are integers for even
            extents too.
    """

    kernels: Floats
    labels: tuple[MultipoleLabel, ...]
    shells: NDArray[np.int64]
    squared_radii: Floats
    offsets: NDArray[np.int64]

    @property
    def num_weights(self) -> int:
        """Number of weights of a kernel in this basis."""
        return len(self.labels)

    def gram(self) -> Floats:
        """Scalar products of the kernels, `[num_weights, num_weights]`."""
        flat = self.kernels.reshape(self.num_weights, -1)
        return flat @ flat.T

    def report(self) -> BasisReport:
        """Rank and orthogonality of the basis."""
        gram = self.gram()
        norms = np.sqrt(np.diag(gram))
        overlaps = np.abs(gram / np.outer(norms, norms))
        np.fill_diagonal(overlaps, 0.0)
        largest = float(overlaps.max())
        rank = int(np.linalg.matrix_rank(self.kernels.reshape(self.num_weights, -1), tol=1e-9))
        return BasisReport(self.num_weights, rank, largest < 1e-12, largest)

    def kernel(self, weights: ArrayLike) -> Floats:
        """Dense kernel `[*kernel_size]` of weights `[num_weights]`.

        Raises:
            ValueError: if there is not one weight for each kernel of the basis.
        """
        values = np.asarray(weights, np.float64)
        if values.shape != (self.num_weights,):
            raise invalid("weights", f"an array of shape ({self.num_weights},)", weights)
        return np.tensordot(values, self.kernels, 1)


def cell_offsets(kernel_size: Sequence[int], dilation_rate: Sequence[int]) -> NDArray[np.int64]:
    """Twice the offset of every cell of a kernel from its centre, `[d, *kernel_size]`.

    Twice, because the centre lies between cells along an axis of even extent; so doubled, all
    offsets are integers.
    """
    axes = [
        (2 * np.arange(size, dtype=np.int64) - (size - 1)) * rate
        for size, rate in zip(kernel_size, dilation_rate, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def multipole_basis(
    kernel_size: int | Sequence[int],
    multipole: int | Sequence[int] = 0,
    *,
    num_axes: int | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> MultipoleBasis:
    """Dense kernels that the weights of multipoles multiply.

    Kernels come in order of l, then of radius, within a shell in order of m. A combination that
    vanishes on the whole shell carries no weight and is left out: Y_1m at the centre, or
    Y_2,-2 ~ xy on the faces of a 3^3 kernel.

    Args:
        kernel_size: extents along each axis, or one for all. Along an axis of even extent the
            centre lies between the two middle cells.
        multipole: order l, or several different ones; 0 (even) and 1 (odd) in one dimension.
        num_axes: dimensions (1, 2 or 3); by default as many as `kernel_size` has, or 3.
        dilation_rate: spacing of the cells along each axis, or one for all; distances are those
            of the spread-out cells.

    Returns:
        The basis. A 3^3 kernel has 4 weights for l = 0 (centre, 6 faces, 12 edges, 8 corners), 9
        for l = 1, 10 for l = 2 and 17 for l = 3. The last have a rank of 13 only (five harmonics
        of l = 3 do not vanish on the faces, where odd functions have three dimensions); all orders
        up to 3 together span the 27 dimensions of a dense kernel.

    Raises:
        ValueError: if an argument is out of range.
    """
    if num_axes is None:
        num_axes = len(kernel_size) if isinstance(kernel_size, (list, tuple)) else 3
        if num_axes not in (1, 2, 3):
            raise invalid("kernel_size", "extents along 1, 2 or 3 axes", kernel_size)
    if not is_integer(num_axes) or num_axes not in (1, 2, 3):
        raise invalid("num_axes", "1, 2 or 3", num_axes)
    sizes = integer_per_axis("kernel_size", kernel_size, num_axes)
    rates = integer_per_axis("dilation_rate", dilation_rate, num_axes)
    wanted = multipole if isinstance(multipole, (list, tuple)) else (multipole,)
    basis = _basis(sizes, rates, orders("multipole", wanted, num_axes))
    if not basis.labels:
        raise invalid("kernel_size", f"extents on which l = {multipole} does not vanish", sizes)
    return basis


def _basis(
    sizes: tuple[int, ...], rates: tuple[int, ...], multipoles: Sequence[int]
) -> MultipoleBasis:
    """Basis of checked arguments; empty where all harmonics vanish."""
    num_axes = len(sizes)
    offsets = cell_offsets(sizes, rates)
    quadrupled = np.square(offsets).sum(axis=0)
    radii, shells = np.unique(quadrupled, return_inverse=True)
    shells = shells.reshape(sizes)
    kernels, labels = [np.zeros((0, *sizes))], []
    for order in multipoles:
        harmonics = real_harmonics(offsets, order)
        for number, radius in enumerate(radii):
            for m, harmonic in zip(orders_m(num_axes, order), harmonics, strict=True):
                kernel = np.where(shells == number, harmonic, 0.0)
                if np.any(kernel):
                    kernels.append(kernel[np.newaxis])
                    labels.append(MultipoleLabel(order, m, _quarter(int(radius))))
    return MultipoleBasis(np.concatenate(kernels), tuple(labels), shells, radii / 4.0, offsets)


@dataclass(frozen=True, eq=False)
class MultipoleProjection:
    """A dense kernel seen in multipoles; see `project_multipoles`.

    Attributes:
        multipoles: the orders.
        weights: for each order `[num_weights, channels, filters]`.
        kernel: the projection, `[*kernel_size, channels, filters]`.
        fractions: of the squared norm of the kernel, `[orders]`: what each order adds to those
            before it. Their sum is the fraction that the projection keeps.
        filter_fractions: the same for each filter, `[orders, filters]`.
    """

    multipoles: tuple[int, ...]
    weights: tuple[Floats, ...]
    kernel: Floats
    fractions: Floats
    filter_fractions: Floats


def project_multipoles(
    kernel: ArrayLike,
    multipoles: Sequence[int] = (0, 1, 2, 3),
    dilation_rate: int | Sequence[int] = 1,
) -> MultipoleProjection:
    """Least-squares projection of a dense kernel onto multipoles.

    Answers how isotropic an ordinary convolution is: ``project_multipoles(conv.kernel)``. On a
    lattice the orders are not orthogonal to each other (l = 4 reaches what l = 0 can do on the
    faces of a cube), so the norm is attributed in the order of `multipoles`: each gets what it
    explains beyond those before it.

    Args:
        kernel: `[*kernel_size, channels, filters]`, as in `keras.layers.Conv1D`, `Conv2D` and
            `Conv3D`.
        multipoles: orders l, lowest first for the natural reading. One that vanishes on the
            kernel's cells has no weights and a fraction of zero.
        dilation_rate: of the convolution.

    Returns:
        Weights, projection and the fraction of the squared norm in each order. Weights that the
        kernel does not determine, because the basis has a lower rank than it has members, are
        those of the smallest norm.

    Raises:
        ValueError: if an argument is out of range or the kernel is not finite.
    """
    dense = np.asarray(kernel, np.float64)
    if not 3 <= dense.ndim <= 5 or not dense.size or not np.all(np.isfinite(dense)):
        raise ValueError(
            "Invalid value for argument `kernel`. Expected finite numbers of shape "
            f"(*kernel_size, channels, filters). Received: kernel.shape={dense.shape}"
        )
    sizes, pairs = dense.shape[:-2], dense.shape[-2:]
    wanted = orders("multipoles", multipoles, len(sizes))
    rates = integer_per_axis("dilation_rate", dilation_rate, len(sizes))
    bases = [_basis(sizes, rates, (order,)) for order in wanted]
    flat = dense.reshape(-1, np.prod(pairs))
    columns = [basis.kernels.reshape(basis.num_weights, dense[..., 0, 0].size).T for basis in bases]
    kept = [np.zeros(pairs[1])]
    for count in range(1, len(wanted) + 1):
        span = np.concatenate(columns[:count], axis=1)
        directions, sizes_of, _ = np.linalg.svd(span, full_matrices=False)
        inside = directions[:, sizes_of > 1e-9].T @ flat
        kept.append(np.square(inside).reshape(-1, *pairs).sum(axis=(0, 1)))
    gains = np.diff(np.stack(kept), axis=0)
    norms = np.square(dense).sum(axis=tuple(range(dense.ndim - 1)))
    whole = np.concatenate(columns, axis=1)
    solution = np.linalg.lstsq(whole, flat, rcond=1e-9)[0]
    ends = np.cumsum([basis.num_weights for basis in bases])[:-1]
    weights = [part.reshape(len(part), *pairs) for part in np.split(solution, ends)]
    return MultipoleProjection(
        wanted,
        tuple(weights),
        (whole @ solution).reshape(dense.shape),
        _ratio(gains.sum(axis=1), norms.sum()),
        _ratio(gains, norms),
    )


def kernel_panels(kernel: ArrayLike) -> Floats:
    """A kernel as one picture for ``plt.imshow``.

    Args:
        kernel: `[k]`, `[k, k]` or `[k, k, k]`, extents of any size.

    Returns:
        A two-dimensional array: a row, the kernel itself, or the slices along the first axis side
        by side with a column of NaN, which `imshow` leaves blank, between them.

    Raises:
        ValueError: if the kernel has not one, two or three axes.
    """
    values = np.asarray(kernel, np.float64)
    if values.ndim not in (1, 2, 3) or not values.size:
        raise ValueError(
            "Invalid value for argument `kernel`. Expected an array with 1, 2 or 3 axes. "
            f"Received: kernel.shape={values.shape}"
        )
    if values.ndim < 3:
        return np.atleast_2d(values)
    gap = np.full((values.shape[1], 1), np.nan)
    panels: list[Any] = []
    for piece in values:
        panels.extend([gap, piece])
    return np.concatenate(panels[1:], axis=1)


def _quarter(number: int) -> float:
    """A quarter of an integer, as an integer where it is one."""
    exact = Fraction(number, 4)
    return int(exact) if exact.denominator == 1 else float(exact)


def _ratio(part: Floats, whole: Any) -> Floats:
    """Part of a norm, zero for a kernel of zeros."""
    return np.divide(part, whole, out=np.zeros_like(part), where=np.asarray(whole) > 0)
