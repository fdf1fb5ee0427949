"""Lagrangian perturbation theory of first and second order.

A particle that starts at the lattice point q is found at

    x = q + D1(a) psi1(q) + D2(a) psi2(q),

with psi1_k = i k/k^2 delta_k (Zel'dovich 1970, A&A 5, 84) and psi2 the gradient of the inverse
Laplacian of S = sum_{i<j} (phi_ii phi_jj - phi_ij^2), where phi is the inverse Laplacian of delta
and D2 ~ -3/7 D1^2 (Bouchet et al. 1995, A&A 296, 575).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import irfft3d, pad_modes, rfft3d
from npe_tf.gravity.forward_model import ForwardModel, Motion
from npe_tf.grid import Grid

__all__ = ["LPT", "lpt_displacements"]

Tensor = Any

# The far end of light cones.
_EARLIEST = 0.05


def _constant(values: Any, modes: Tensor) -> Tensor:
    return tf.cast(tf.constant(values, modes.dtype.real_dtype), modes.dtype)


def _gradient(potential: Tensor, grid: Grid, supersampling: int) -> Tensor:
    """Gradient `[3, sN, sN, sN]` of a potential given by its modes on `grid`."""
    imaginary = tf.constant(1j, potential.dtype) * potential
    return tf.stack(
        [
            irfft3d(pad_modes(imaginary * _constant(k, potential), grid, supersampling))
            for k in (grid.fundamental * f for f in grid.frequencies)
        ]
    )


@functools.lru_cache(maxsize=4)
def _inverse_laplacian(grid: Grid) -> Any:
    return -1.0 * grid.alive / np.where(grid.alive, grid.wavenumber**2, 1.0)


def second_order_source(modes: Tensor, grid: Grid, supersampling: int = 1) -> Tensor:
    """S = sum_{i<j} (phi_ii phi_jj - phi_ij^2) on the lattice, `[sN, sN, sN]`.

    Products of modes above half the Nyquist wavenumber of the lattice alias; with a supersampling
    of two nothing does.
    """
    potential = modes * _constant(_inverse_laplacian(grid), modes)
    k = [grid.fundamental * f for f in grid.frequencies]

    def second(i: int, j: int) -> Tensor:
        return irfft3d(pad_modes(potential * _constant(-k[i] * k[j], modes), grid, supersampling))

    xx, yy, zz = (second(i, i) for i in range(3))
    off = tf.square(second(0, 1)) + tf.square(second(0, 2)) + tf.square(second(1, 2))
    return xx * yy + zz * (xx + yy) - off


def lpt_displacements(
    modes: Tensor, grid: Grid, order: int = 1, supersampling: int = 1
) -> tuple[Tensor, ...]:
    """Displacement fields psi1 and, for the second order, psi2, at D1 = D2 = 1.

    Args:
        modes: linear density at a=1, `[N, N, N//2 + 1]`.
        grid: mesh of the modes.
        order: 1 or 2.
        supersampling: s, lattice points per cell and side.

    Returns:
        One or two fields `[3, sN, sN, sN]` [Mpc/h].
    """
    first = _gradient(-modes * _constant(_inverse_laplacian(grid), modes), grid, supersampling)
    if order == 1:
        return (first,)
    lattice = Grid(grid.num_cells * supersampling, grid.box_size)
    source = rfft3d(second_order_source(modes, grid, supersampling))
    potential = source * _constant(_inverse_laplacian(lattice), modes)
    return first, _gradient(potential, lattice, 1)


class LPT(ForwardModel):
    """First- or second-order Lagrangian perturbation theory.

    Args:
        grid: mesh of the modes and of the density.
        cosmology: gives growth and expansion.
        order: 1, the Zel'dovich approximation, or 2.
        light_cone: whether every particle has grown as much as light that reaches the `observer`
            today has seen of it, by the distance of its lattice point; `scale_factor` is 1 then.
        **arguments: of `ForwardModel`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        grid: Grid,
        cosmology: Cosmology,
        *,
        order: int = 1,
        light_cone: bool = False,
        **arguments: Any,
    ) -> None:
        """Tabulate the growth."""
        super().__init__(grid, cosmology, **arguments)
        if isinstance(order, bool) or order not in (1, 2):
            raise ValueError(
                f"Invalid value for argument `order`. Expected 1 or 2. Received: order={order!r}"
            )
        if light_cone and self.observer is None:
            raise ValueError(
                "Invalid value for argument `observer`. Expected a position, as `light_cone` is "
                "True. Received: observer=None"
            )
        if light_cone and self.scale_factor != 1.0:
            raise ValueError(
                "Invalid value for argument `scale_factor`. Expected 1, the epoch of the observer "
                f"of a light cone. Received: scale_factor={self.scale_factor!r}"
            )
        self.order = order
        self.light_cone = light_cone
        epoch = self._epochs() if light_cone else self.scale_factor
        growth = cosmology.growth(epoch)
        self._growth = [
            (growth.first, growth.first * growth.first_rate),
            (growth.second, growth.second * growth.second_rate),
        ][:order]

    def _epochs(self) -> Any:
        """Scale factor at which the observer sees each lattice point, `[sN, sN, sN]`."""
        points = np.arange(self.lattice_grid.num_cells) * self.lattice_grid.cell_size
        axes = [points - x for x in np.asarray(self.observer)]
        distance = np.sqrt(sum(d**2 for d in np.meshgrid(*axes, indexing="ij")))
        # linear interpolation of so smooth a function is exact to 1e-7 with so many points
        table = tf.linspace(tf.constant(1.0, tf.float64), _EARLIEST, 4000)
        far = self.cosmology.comoving_distance(table)
        if tf.executing_eagerly() and distance.max() > far[-1]:
            raise ValueError(
                f"Invalid value for argument `observer`. Expected a box within {far[-1]:.0f} Mpc/h "
                f"(a={_EARLIEST}). Received: one that reaches {distance.max():.0f} Mpc/h"
            )
        flat = tf.constant(distance.ravel())
        after = tf.clip_by_value(tf.searchsorted(far, flat), 1, len(table) - 1)
        near, next_far = tf.gather(far, after - 1), tf.gather(far, after)
        share = (flat - near) / (next_far - near)
        epochs = tf.gather(table, after - 1) + share * (table[1] - table[0])
        return tf.reshape(epochs, distance.shape)

    def motion(self, modes: Tensor, with_rate: bool = True) -> Motion:
        """Displacement of every particle; see `ForwardModel`."""
        fields = lpt_displacements(modes, self.grid, self.order, self.supersampling)

        def total(column: int) -> Tensor:
            terms = zip(self._growth, fields, strict=True)
            return tf.add_n([tf.cast(g[column], f.dtype) * f for g, f in terms])

        return Motion(total(0), total(1) if with_rate else None)
