"""Two- and three-point statistics of fields on a periodic mesh, and their smoothing.

Wavenumbers in h/Mpc, power spectra in (Mpc/h)^3, bispectra in (Mpc/h)^6, for fields without unit.
The Fourier conventions are those of `Grid`, and only its live modes count. Nothing is subtracted
for shot noise: of n particles per volume it is 1/n in the power.

A field painted from particles is convolved with the window of its mass assignment, in Fourier
space the product over the axes of ``[sin(u) / u]^p`` with ``u = k_i L / (2 N)`` and p = 1 for the
nearest grid point, 2 for cloud-in-cell and 3 for the triangular-shaped cloud (Hockney & Eastwood
1981; Jing 2005, ApJ 620, 559, eq. 18). The argument `assignment` divides by it; the power that
aliasing adds near the Nyquist wavenumber stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.grid import Grid

__all__ = [
    "Bispectrum",
    "Multipoles",
    "PowerSpectrum",
    "bispectrum",
    "cross_correlation",
    "modes_per_shell",
    "power_multipoles",
    "power_spectrum",
    "smooth",
    "transfer",
]

Array = NDArray[np.float64]
Modes = NDArray[np.complex128]

_WINDOW_ORDERS = {"ngp": 1, "cic": 2, "tsc": 3}


class PowerSpectrum(NamedTuple):
    """A power spectrum in shells of k; NaN in a shell without a live mode.

    Attributes:
        wavenumber: mean wavenumber of the modes of each shell, `[num_shells]` [h/Mpc].
        power: `[..., num_shells]` [(Mpc/h)^3].
        num_modes: live modes of each shell, k and -k both, `[num_shells]`.
    """

    wavenumber: Array
    power: Array
    num_modes: NDArray[np.int64]


class Multipoles(NamedTuple):
    """Multipoles of an anisotropic power spectrum; NaN in a shell without a live mode.

    Attributes:
        wavenumber: mean wavenumber of the modes of each shell, `[num_shells]` [h/Mpc].
        power: `[..., num_multipoles, num_shells]` [(Mpc/h)^3].
        num_modes: live modes of each shell, k and -k both, `[num_shells]`.
    """

    wavenumber: Array
    power: Array
    num_modes: NDArray[np.int64]


class Bispectrum(NamedTuple):
    """A bispectrum of chosen triangles; NaN where no triangle of modes closes.

    Attributes:
        wavenumber: mean wavenumber of the modes of each side's shell, `[T, 3]` [h/Mpc].
        bispectrum: B, `[..., T]` [(Mpc/h)^6].
        reduced: Q = B / (P_1 P_2 + P_2 P_3 + P_3 P_1), `[..., T]`.
        num_triangles: ordered triples of modes that close, `[T]`.
    """

    wavenumber: Array
    bispectrum: Array
    reduced: Array
    num_triangles: NDArray[np.int64]


def _fields(name: str, field: ArrayLike, grid: Grid) -> Array:
    array = np.asarray(field)
    if array.shape[-3:] != grid.shape:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a field [..., N, N, N] with "
            f"N={grid.num_cells}. Received: shape {array.shape}"
        )
    return array


def assignment_window(num_cells: int, assignment: str) -> Array:
    """Fourier transform of the cloud, `[N, N, N//2 + 1]`: a product of sinc(k_i L / 2N)^p.

    p is 1, 2 and 3 for nearest, cloud-in-cell and triangular-shaped cloud.
    """
    order = _WINDOW_ORDERS[assignment]
    full = np.sinc(np.fft.fftfreq(num_cells)) ** order
    half = np.sinc(np.arange(num_cells // 2 + 1) / num_cells) ** order
    return np.asarray(full[:, None, None] * full[None, :, None] * half)


def _window(assignment: str | None, grid: Grid) -> Array | float:
    """Fourier transform of the mass assignment's cloud, broadcastable over `modes_shape`."""
    if assignment is None:
        return 1.0
    if assignment not in _WINDOW_ORDERS:
        raise ValueError(
            f"Invalid value for argument `assignment`. Expected None or one of "
            f"{tuple(_WINDOW_ORDERS)}. Received: assignment={assignment!r}"
        )
    return assignment_window(grid.num_cells, assignment)


def _mode_product(a: Array, b: Array | None) -> Array:
    modes = np.fft.rfftn(a.astype(np.float64))
    other = modes if b is None else np.fft.rfftn(b.astype(np.float64))
    return np.asarray(modes.real * other.real + modes.imag * other.imag)


def _cross_power(
    a: Array, b: Array, grid: Grid, num_shells: int | None, weights: ArrayLike = 1.0
) -> Array:
    """Shell means of ``w_k Re(a_k b_k*) L^3 / N^6``, leading axes broadcast.

    With weights of shape `[W, N, N, N//2 + 1]` the result is `[..., W, num_shells]`.
    """
    lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
    same = a is b
    a, b = np.broadcast_to(a, lead + grid.shape), np.broadcast_to(b, lead + grid.shape)
    scale = np.asarray(weights) * grid.volume / float(grid.num_cells) ** 6
    power = [
        # One field at a time: the modes of all samples together need not fit in memory.
        grid.shell_mean(scale * _mode_product(a[index], None if same else b[index]), num_shells)
        for index in np.ndindex(lead)
    ]
    count = grid.num_cells // 2 if num_shells is None else num_shells
    shape = (*lead, *scale.shape[:-3], count)
    return np.asarray(power, dtype=np.float64).reshape(shape)


def power_spectrum(
    delta: ArrayLike,
    grid: Grid,
    other: ArrayLike | None = None,
    num_shells: int | None = None,
    *,
    assignment: str | None = None,
) -> PowerSpectrum:
    """Measure the auto or cross power spectrum, ``P(k) = <Re(a_k b_k*)> L^3 / N^6``.

    Args:
        delta: real fields, `[..., N, N, N]`.
        grid: their mesh.
        other: fields for the cross power, whose leading axes broadcast with those of `delta`;
            `delta` itself by default.
        num_shells: number of shells, as in `Grid.shells`.
        assignment: mass assignment of both fields, ``"ngp"``, ``"cic"`` or ``"tsc"``, whose
            window is divided out; None leaves the fields as they are.

    Returns:
        Wavenumber, power `[..., num_shells]` and number of modes of each shell.

    Raises:
        ValueError: if a field is of another mesh or the assignment is not known.
    """
    first = _fields("delta", delta, grid)
    second = first if other is None else _fields("other", other, grid)
    # the window is that of an amplitude, and the power has two of them
    weights = np.broadcast_to(_window(assignment, grid), grid.modes_shape) ** -2.0
    return PowerSpectrum(
        grid.shell_wavenumber(num_shells),
        _cross_power(first, second, grid, num_shells, weights),
        modes_per_shell(grid, num_shells),
    )


def cross_correlation(
    a: ArrayLike, b: ArrayLike, grid: Grid, num_shells: int | None = None
) -> tuple[Array, Array]:
    """Correlate the modes of two fields, ``r(k) = P_ab / sqrt(P_aa P_bb)``.

    Args:
        a: real fields, `[..., N, N, N]`.
        b: real fields whose leading axes broadcast with those of `a`.
        grid: their mesh.
        num_shells: number of shells, as in `Grid.shells`.

    Returns:
        k: mean wavenumber of each shell, `[num_shells]` [h/Mpc].
        r: correlation from -1 to 1, `[..., num_shells]`; NaN where a field has no power.
    """
    first, second = _fields("a", a, grid), _fields("b", b, grid)
    norm = _cross_power(first, first, grid, num_shells) * _cross_power(
        second, second, grid, num_shells
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        r = _cross_power(first, second, grid, num_shells) / np.sqrt(norm)
    return grid.shell_wavenumber(num_shells), r


def transfer(
    a: ArrayLike, b: ArrayLike, grid: Grid, num_shells: int | None = None
) -> tuple[Array, Array]:
    """Compare the amplitudes of two fields, ``T(k) = sqrt(P_aa / P_bb)``.

    Args:
        a: real fields, `[..., N, N, N]`.
        b: reference fields whose leading axes broadcast with those of `a`.
        grid: their mesh.
        num_shells: number of shells, as in `Grid.shells`.

    Returns:
        k: mean wavenumber of each shell, `[num_shells]` [h/Mpc].
        T: transfer function, `[..., num_shells]`.
    """
    first, second = _fields("a", a, grid), _fields("b", b, grid)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = _cross_power(first, first, grid, num_shells) / _cross_power(
            second, second, grid, num_shells
        )
    return grid.shell_wavenumber(num_shells), np.sqrt(ratio)


def modes_per_shell(grid: Grid, num_shells: int | None = None) -> NDArray[np.int64]:
    """Count the live modes of each shell, k and -k both.

    A Gaussian field's power in a shell of n modes scatters by ``sqrt(2 / n) P(k)``: a real field's
    n modes are n independent real numbers.

    Args:
        grid: the mesh.
        num_shells: number of shells, as in `Grid.shells`.

    Returns:
        Number of modes, `[num_shells]`.
    """
    shells = grid.shells(num_shells)
    count = grid.num_cells // 2 if num_shells is None else num_shells
    weights = (grid.hermitian_weight * grid.alive).ravel()
    return np.bincount(shells.ravel(), weights=weights, minlength=count).astype(np.int64)


def power_multipoles(
    delta: ArrayLike,
    grid: Grid,
    multipoles: Sequence[int] = (0, 2, 4),
    line_of_sight: int = 2,
    *,
    num_shells: int | None = None,
    assignment: str | None = None,
) -> Multipoles:
    """Measure the multipoles of the power in redshift space, in the plane-parallel limit.

    ``P_l(k) = (2 l + 1) <|d_k|^2 L_l(mu)> L^3 / N^6`` with L_l the Legendre polynomial and mu the
    cosine between the wavevector and the line of sight (Cole, Fisher & Weinberg 1994, MNRAS 267,
    785). The mean is over the modes of a shell, of which the first shells have few: there the
    multipoles of the mesh mix, even for an isotropic field.

    Args:
        delta: real fields, `[..., N, N, N]`.
        grid: their mesh.
        multipoles: orders l, even and not negative; the odd ones of a real field vanish.
        line_of_sight: axis of the mesh that points away from the observer, 0, 1 or 2.
        num_shells: number of shells, as in `Grid.shells`.
        assignment: mass assignment whose window is divided out, as in `power_spectrum`.

    Returns:
        Wavenumber, power `[..., len(multipoles), num_shells]` and number of modes of each shell.

    Raises:
        ValueError: if a field is of another mesh, or an argument is not one of those above.
    """
    fields = _fields("delta", delta, grid)
    orders = list(multipoles)
    if not orders or any(
        not isinstance(order, (int, np.integer)) or order < 0 or order % 2 for order in orders
    ):
        raise ValueError(
            "Invalid value for argument `multipoles`. Expected even integers that are not "
            f"negative. Received: multipoles={multipoles!r}"
        )
    if line_of_sight not in (0, 1, 2):
        raise ValueError(
            "Invalid value for argument `line_of_sight`. Expected the axis 0, 1 or 2. Received: "
            f"line_of_sight={line_of_sight!r}"
        )
    along = grid.fundamental * grid.frequencies[line_of_sight]
    # the zero mode is not alive: its direction does not matter
    mu = along / np.where(grid.wavenumber > 0, grid.wavenumber, 1.0)
    legendre = [(2 * order + 1) * np.polynomial.Legendre.basis(int(order))(mu) for order in orders]
    weights = np.stack(legendre) / np.square(_window(assignment, grid))
    return Multipoles(
        grid.shell_wavenumber(num_shells),
        _cross_power(fields, fields, grid, num_shells, weights),
        modes_per_shell(grid, num_shells),
    )


def _triangles(triangles: ArrayLike) -> Array:
    try:
        sides = np.asarray(triangles, dtype=np.float64)
    except (TypeError, ValueError):
        sides = np.zeros(0)
    if sides.ndim != 2 or sides.shape[1] != 3 or not len(sides):
        raise ValueError(
            "Invalid value for argument `triangles`. Expected the three sides of each triangle "
            f"in h/Mpc, shape (T, 3). Received: {triangles!r}"
        )
    if not np.all(np.isfinite(sides) & (sides > 0)):
        raise ValueError(
            "Invalid value for argument `triangles`. Expected positive finite wavenumbers in "
            f"h/Mpc. Received: triangles={sides.tolist()}"
        )
    longest = sides.max(axis=1)
    if np.any(2 * longest > sides.sum(axis=1) * (1 + 1e-12)):
        first = int(np.argmax(2 * longest > sides.sum(axis=1) * (1 + 1e-12)))
        raise ValueError(
            "Invalid value for argument `triangles`. Expected sides of which none is longer than "
            f"the other two together. Received: triangles[{first}]={sides[first].tolist()}"
        )
    return sides


def _sum_of_products(fields: Sequence[Array], corners: NDArray[np.int64]) -> Array:
    """Sum over the mesh of the product of three fields, for every triple of them."""
    return np.array([np.einsum("i,i,i->", *(fields[c] for c in triple)) for triple in corners])


def bispectrum(
    delta: ArrayLike,
    grid: Grid,
    triangles: ArrayLike,
    *,
    width: float | None = None,
    assignment: str | None = None,
) -> Bispectrum:
    """Measure the bispectrum of chosen triangles of wavenumbers.

    B is defined by ``<d(k1) d(k2) d(k3)> = L^3 B`` for ``k1 + k2 + k3 = 0`` and d the transform
    with ``d^3x``, so that ``B = <d_k1 d_k2 d_k3> L^6 / N^9`` with this package's unnormalised
    transform. The mean is over all triples of live modes that close, one from the shell of each
    side. It is taken with fast Fourier transforms of the field and of ones, each filtered to a
    shell (Scoccimarro 2000, ApJ 544, 597; Sefusatti et al. 2016, MNRAS 460, 3624).

    Args:
        delta: real fields, `[..., N, N, N]`.
        grid: their mesh.
        triangles: central wavenumbers of the three shells of each triangle, `[T, 3]` [h/Mpc].
        width: width of the shells, ``k - width/2 <= |q| < k + width/2`` [h/Mpc]; the fundamental
            wavenumber by default.
        assignment: mass assignment whose window is divided out, as in `power_spectrum`.

    Returns:
        Wavenumber, B, reduced Q (with the power of the same shells) and number of triangles.

    Raises:
        ValueError: if a field is of another mesh, the width is not positive, three sides cannot
            form a triangle, or their shells reach so far that the sum of three modes could be
            an alias of zero: the upper edges must not add up to more than twice the Nyquist
            wavenumber.
    """
    fields = _fields("delta", delta, grid)
    sides = _triangles(triangles)
    thickness = grid.fundamental if width is None else width
    if not (np.isfinite(thickness) and thickness > 0):
        raise ValueError(
            "Invalid value for argument `width`. Expected a positive finite wavenumber in h/Mpc. "
            f"Received: width={width!r}"
        )
    reach = sides.sum(axis=1) + 1.5 * thickness
    if reach.max() > 2 * grid.nyquist * (1 + 1e-12):
        worst = int(np.argmax(reach))
        raise ValueError(
            "Invalid value for argument `triangles`. Expected upper edges of the three shells "
            f"that add up to at most twice the Nyquist wavenumber, {2 * grid.nyquist:g} h/Mpc. "
            f"Received: triangles[{worst}]={sides[worst].tolist()}, which reach {reach[worst]:g}"
        )
    centres, corners = np.unique(sides, return_inverse=True)
    corners = corners.reshape(sides.shape)
    # a mode on an edge belongs to the shell that starts there, whatever the rounding
    distance = (grid.wavenumber[None] - centres[:, None, None, None]) / thickness + 0.5
    distance = np.where(np.abs(distance - np.rint(distance)) < 1e-9, np.rint(distance), distance)
    masks = (distance >= 0) & (distance < 1) & grid.alive

    def filtered(modes: Modes | Array) -> list[Array]:
        return [np.fft.irfftn(modes * mask, s=grid.shape, axes=(0, 1, 2)).ravel() for mask in masks]

    cells = float(grid.num_cells) ** 3
    count = np.rint(_sum_of_products(filtered(np.ones(grid.modes_shape)), corners) * cells**2)
    weight = grid.hermitian_weight * masks
    num_modes = weight.sum(axis=(1, 2, 3))
    mean_power, mean_triple = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        wavenumber = (weight * grid.wavenumber).sum(axis=(1, 2, 3)) / num_modes
        for index in np.ndindex(fields.shape[:-3]):
            modes = np.fft.rfftn(fields[index].astype(np.float64)) / _window(assignment, grid)
            squared = modes.real**2 + modes.imag**2
            mean_power.append(np.sum(weight * squared, axis=(1, 2, 3)) / num_modes)
            mean_triple.append(_sum_of_products(filtered(modes), corners) * cells**2 / count)
        lead = fields.shape[:-3]
        power = np.reshape(mean_power, (*lead, -1))[..., corners] * grid.volume / cells**2
        b = np.reshape(mean_triple, (*lead, -1)) * grid.volume**2 / cells**3
        pairs = np.sum(power * np.roll(power, 1, axis=-1), axis=-1)
        return Bispectrum(wavenumber[corners], b, b / pairs, count.astype(np.int64))


def _gaussian(x: Array) -> Array:
    return np.exp(-0.5 * x**2)


def _top_hat(x: Array) -> Array:
    # the closed form cancels where x is small, and the series is good to 1e-13 there
    safe = np.where(x > 0.01, x, 1.0)
    closed = 3.0 * (np.sin(safe) - safe * np.cos(safe)) / safe**3
    return np.where(x > 0.01, closed, 1.0 - x**2 / 10.0 + x**4 / 280.0)


_KERNELS: dict[str, Callable[[Array], Array]] = {"gaussian": _gaussian, "top_hat": _top_hat}


def smooth(delta: ArrayLike, grid: Grid, radius: float, kernel: str = "gaussian") -> Array:
    """Smooth fields with a kernel of unit integral.

    Args:
        delta: real fields, `[..., N, N, N]`.
        grid: their mesh.
        radius: standard deviation of the Gaussian or radius of the sphere [Mpc/h]; zero leaves
            the fields as they are.
        kernel: ``"gaussian"``, ``exp(-k^2 R^2 / 2)``, or ``"top_hat"``, the mean over a sphere,
            ``3 [sin(kR) - kR cos(kR)] / (kR)^3``.

    Returns:
        `[..., N, N, N]`.

    Raises:
        ValueError: if a field is of another mesh, the radius is negative or not finite, or the
            kernel is not known.
    """
    fields = _fields("delta", delta, grid)
    if kernel not in _KERNELS:
        raise ValueError(
            f"Invalid value for argument `kernel`. Expected one of {tuple(_KERNELS)}. Received: "
            f"kernel={kernel!r}"
        )
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(
            "Invalid value for argument `radius`. Expected a non-negative length in Mpc/h. "
            f"Received: radius={radius!r}"
        )
    response = _KERNELS[kernel](grid.wavenumber * radius)
    modes = np.fft.rfftn(fields.astype(np.float64), axes=(-3, -2, -1)) * response
    return np.asarray(np.fft.irfftn(modes, s=grid.shape, axes=(-3, -2, -1)))
