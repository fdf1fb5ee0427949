"""The regular mesh over a periodic cube, and every convention that hangs on it.

Lengths are in Mpc/h and wavenumbers in h/Mpc. A mesh has `num_cells`^3 cells over a cube of
side `box_size`; the mesh value ``[i, j, k]`` sits at the vertex ``(i, j, k) * cell_size``. The
forward Fourier transform is unnormalised (NumPy's convention), so that the power spectrum of a
field `d` is ``P(k) = <|d_k|^2> box_size^3 / num_cells^6``.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Grid", "check_position"]

_SMALLEST_MESH = 4


@dataclasses.dataclass(frozen=True)
class Grid:
    """A cubic periodic mesh.

    Attributes:
        num_cells: number of cells along each side, N; even and at least 4.
        box_size: comoving side of the cube [Mpc/h].

    Raises:
        ValueError: if `num_cells` is odd, too small or no integer, or `box_size` is not a
            positive finite number.
    """

    num_cells: int
    box_size: float

    def __post_init__(self) -> None:
        """Refuse meshes on which the Fourier conventions do not hold."""
        n = self.num_cells
        if (
            not isinstance(n, (int, np.integer))
            or isinstance(n, bool)
            or n < _SMALLEST_MESH
            or n % 2
        ):
            raise ValueError(
                "Invalid value for argument `num_cells`. Expected an even integer of at least "
                f"{_SMALLEST_MESH}. Received: num_cells={n!r}"
            )
        try:
            box_size = float(self.box_size)
        except (TypeError, ValueError):
            box_size = float("nan")
        if not (np.isfinite(box_size) and box_size > 0):
            raise ValueError(
                "Invalid value for argument `box_size`. Expected a positive finite length in "
                f"Mpc/h. Received: box_size={self.box_size!r}"
            )
        object.__setattr__(self, "num_cells", int(n))
        object.__setattr__(self, "box_size", box_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a field on the mesh, `(N, N, N)`."""
        return (self.num_cells,) * 3

    @property
    def modes_shape(self) -> tuple[int, int, int]:
        """Shape of a real field's Fourier modes, `(N, N, N//2 + 1)`."""
        return (self.num_cells, self.num_cells, self.num_cells // 2 + 1)

    @property
    def cell_size(self) -> float:
        """Side of one cell [Mpc/h]."""
        return self.box_size / self.num_cells

    @property
    def cell_volume(self) -> float:
        """Volume of one cell [(Mpc/h)^3]."""
        return self.cell_size**3

    @property
    def volume(self) -> float:
        """Volume of the box [(Mpc/h)^3]."""
        return self.box_size**3

    @property
    def fundamental(self) -> float:
        """Fundamental wavenumber 2 pi / L [h/Mpc]."""
        return 2.0 * np.pi / self.box_size

    @property
    def nyquist(self) -> float:
        """Nyquist wavenumber pi N / L [h/Mpc]."""
        return float(np.pi * self.num_cells / self.box_size)

    @functools.cached_property
    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Integer frequencies of the three axes, broadcastable over `modes_shape`."""
        n = self.num_cells
        full = np.rint(np.fft.fftfreq(n) * n).astype(np.int64)
        half = np.arange(n // 2 + 1, dtype=np.int64)
        return full[:, None, None], full[None, :, None], half[None, None, :]

    @functools.cached_property
    def wavenumber(self) -> NDArray[np.float64]:
        """Magnitude of the wavevector, `[N, N, N//2 + 1]` [h/Mpc]."""
        x, y, z = self.frequencies
        return self.fundamental * np.sqrt((x**2 + y**2 + z**2).astype(np.float64))

    @functools.cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Modes that carry the linear field, `[N, N, N//2 + 1]`.

        All but the zero mode and the three Nyquist planes, on which a real field cannot have a
        displacement with the right symmetry.
        """
        x, y, z = self.frequencies
        half = self.num_cells // 2
        nyquist = (np.abs(x) == half) | (np.abs(y) == half) | (np.abs(z) == half)
        return ~nyquist & ((x != 0) | (y != 0) | (z != 0))

    @functools.cached_property
    def hermitian_weight(self) -> NDArray[np.float64]:
        """How many modes of the full transform each stored mode stands for, `[1, 1, N//2 + 1]`."""
        weight = np.full(self.num_cells // 2 + 1, 2.0)
        weight[[0, -1]] = 1.0
        return weight[None, None, :]

    def shells(self, num_shells: int | None = None) -> NDArray[np.int64]:
        """Number the modes by shells of equal width in k from the fundamental to the Nyquist.

        Shell 0 holds everything below 1.5 fundamental wavenumbers (the zero mode included), the
        last shell everything from the Nyquist wavenumber to the corners of the Fourier cube.

        Args:
            num_shells: number of shells; by default N/2, one per fundamental wavenumber.

        Returns:
            Shell of every mode, `[N, N, N//2 + 1]`, from 0 to `num_shells - 1`.
        """
        count = self.num_cells // 2 if num_shells is None else num_shells
        if not isinstance(count, (int, np.integer)) or not 1 <= count <= self.num_cells:
            raise ValueError(
                "Invalid value for argument `num_shells`. Expected an integer from 1 to "
                f"{self.num_cells}. Received: num_shells={num_shells!r}"
            )
        ratio = self.wavenumber / self.fundamental
        width = (self.num_cells / 2) / count
        shell = np.floor((ratio - 0.5) / width).astype(np.int64)
        return np.clip(shell, 0, count - 1)

    def shell_mean(self, modes_quantity: Any, num_shells: int | None = None) -> NDArray[np.float64]:
        """Average a quantity over the live modes of each shell.

        Args:
            modes_quantity: real numbers per mode, `[..., N, N, N//2 + 1]`.
            num_shells: as in `shells`.

        Returns:
            Mean per shell, `[..., num_shells]`; NaN in a shell without a live mode.
        """
        shell = self.shells(num_shells).ravel()
        count = int(shell.max()) + 1 if num_shells is None else num_shells
        weight = (self.hermitian_weight * self.alive).ravel()
        values = np.asarray(modes_quantity, dtype=np.float64)
        flat = values.reshape(-1, shell.size)
        total = np.bincount(shell, weights=weight, minlength=count)
        sums = np.stack([np.bincount(shell, weights=weight * row, minlength=count) for row in flat])
        with np.errstate(invalid="ignore", divide="ignore"):
            return (sums / total).reshape(*values.shape[:-3], count)

    def shell_wavenumber(self, num_shells: int | None = None) -> NDArray[np.float64]:
        """Mean wavenumber of the live modes of each shell, `[num_shells]` [h/Mpc]."""
        return self.shell_mean(self.wavenumber, num_shells)


def check_position(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """A position in the box as a vector.

    Args:
        name: of the argument.
        value: three coordinates [Mpc/h].

    Returns:
        `[3]`.

    Raises:
        ValueError: if it is something else.
    """
    try:
        vector = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (3,) or not np.all(np.isfinite(vector)):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected three finite coordinates in Mpc/h. "
            f"Received: {name}={value!r}"
        )
    return vector
