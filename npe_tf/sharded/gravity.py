"""From white noise to the evolved overdensity on a mesh cut into slabs.

`npe_tf.initial_field`, `npe_tf.gravity.lpt` and `npe_tf.painting` on D devices, one particle per
cell. Nothing here is as large as the mesh: amplitudes are looked up by the squared frequency in a
table of 3 N^2 / 4 numbers. Particles stay with the slab of their lattice point; each slab is
painted with ghost planes on either side, which are then added to the neighbours. How many there
are has to be known beforehand, so that a particle may come too far, which is an error when it
happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.painting import paint
from npe_tf.power import linear_power
from npe_tf.sharded.fft import SlabFourier
from npe_tf.sharded.slabs import Slabs, extend, fold, recorded, total

__all__ = ["SlabGravity"]

Tensor = Any
PullBack = Callable[[Sequence[Tensor]], list[Tensor]]

# how far beyond the first and the last lattice point a particle's cloud may not reach [cells]
_CLOUD = {"ngp": -0.5, "cic": 0.0, "tsc": 0.5}
# standard deviations of the displacement along an axis; among 10^9 particles the largest is at 6
_FARTHEST = 7.0
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def _second_order_source(xx: Tensor, yy: Tensor, zz: Tensor, *off: Tensor) -> Tensor:
    xy, xz, yz = off
    squares = tf.square(xy) + tf.square(xz) + tf.square(yz)
    return xx * yy + zz * (xx + yy) - squares


class SlabGravity:
    """Lagrangian perturbation theory on a cut mesh.

    Args:
        grid: the mesh.
        slabs: how it is cut.
        cosmology: gives linear power and growth, in numbers.
        order: 1 or 2.
        scale_factor: epoch.
        mass_assignment: ``"ngp"``, ``"cic"`` or ``"tsc"``.
        ghost_planes: painted on either side of a slab; by default enough for displacements of
            seven standard deviations of linear theory.

    Attributes:
        ghost_planes: as given or found.

    Raises:
        ValueError: if the ghost planes are too few for any displacement, or more than a slab has.
    """

    def __init__(
        self,
        grid: Grid,
        slabs: Slabs,
        cosmology: Cosmology,
        *,
        order: int = 1,
        scale_factor: float = 1.0,
        mass_assignment: str = "tsc",
        ghost_planes: int | None = None,
    ) -> None:
        """Tabulate the amplitudes and choose the ghost planes."""
        self.grid = grid
        self.slabs = slabs
        self.order = order
        self.mass_assignment = mass_assignment
        self.fourier = SlabFourier(slabs)
        growth = cosmology.growth(scale_factor)
        self._growth = float(growth.first), float(growth.second)
        squared = np.arange(3 * (grid.num_cells // 2) ** 2 + 1, dtype=np.float64)
        power = np.asarray(linear_power(grid.fundamental * np.sqrt(squared), cosmology))
        self._amplitudes = np.sqrt(power * (grid.num_cells**3 / grid.volume))
        cloud = _CLOUD[mass_assignment]
        if ghost_planes is None:
            farthest = _FARTHEST * self._displacement(cosmology) / grid.cell_size
            ghost_planes = math.floor(farthest + cloud) + 1
        self.ghost_planes = ghost_planes
        self.farthest = ghost_planes - cloud
        if self.farthest <= 0 or ghost_planes > slabs.thickness:
            raise ValueError(
                f"Invalid value for argument `ghost_planes`. Expected more than {max(cloud, 0)} "
                f"and up to the {slabs.thickness} planes of a slab of {len(slabs)}; fewer devices "
                f"have thicker slabs. Received: ghost_planes={ghost_planes}"
            )

    def _displacement(self, cosmology: Cosmology) -> float:
        """Standard deviation of the linear displacement along one axis [Mpc/h]."""
        log_k = np.linspace(
            np.log(self.grid.fundamental / 2), np.log(math.sqrt(3.0) * self.grid.nyquist), 512
        )
        k = np.exp(log_k)
        power = np.asarray(linear_power(k, cosmology)) * k
        integral = float(np.sum(power[1:] + power[:-1]) * (log_k[1] - log_k[0]) / 2)
        return abs(self._growth[0]) * math.sqrt(integral / (6.0 * math.pi**2))

    def density(self, white_noise: Sequence[Tensor]) -> tuple[list[Tensor], PullBack]:
        """Evolved overdensity, and its pull-back.

        Args:
            white_noise: `[N/D, N, N]` each.

        Returns:
            Overdensity, `[N/D, N, N]` each, of mean zero over all; and the map from gradients with
            respect to it to those with respect to the white noise.
        """
        devices, ghosts = self.slabs.devices, self.ghost_planes
        fields, pull_displacement = self._displacements(white_noise)
        painted, pulls = [], []
        for number, device in enumerate(devices):
            mass, pull = recorded(device, self._paint, *(field[number] for field in fields))
            painted.append(mass)
            pulls.append(pull)
        delta = []
        for mass, device in zip(fold(painted, ghosts, devices), devices, strict=True):
            with tf.device(device):
                delta.append(mass - 1.0)

        def pull_back(upstream: Sequence[Tensor]) -> list[Tensor]:
            ghosted = extend(upstream, ghosts, devices)
            by_slab = [pull(own) for pull, own in zip(pulls, ghosted, strict=True)]
            return pull_displacement(list(zip(*by_slab, strict=True)))

        return delta, pull_back

    def _displacements(
        self, white_noise: Sequence[Tensor]
    ) -> tuple[list[list[Tensor]], Callable[[Sequence[Any]], list[Tensor]]]:
        """Displacement along each axis [cells], and its pull-back to the white noise."""
        fourier, devices = self.fourier, self.slabs.devices
        modes = fourier.forward(white_noise)
        first = self._each(lambda e, m: self._over_laplacian(e, m) * self._amplitude(e, m), modes)
        potential = self._each(lambda _, m: m * tf.constant(self._growth[0], m.dtype), first)
        if self.order == 2:
            seconds = [
                fourier.inverse(self._each(lambda e, m, p=pair: self._product(e, m, p), first))
                for pair in _PAIRS
            ]
            sources, pull_sources = [], []
            for device, *six in zip(devices, *seconds, strict=True):
                source, pull = recorded(device, _second_order_source, *six)
                sources.append(source)
                pull_sources.append(pull)
            second = self._each(self._second_potential, fourier.forward(sources))
            potential = self._each(lambda _, m, o: m + o, potential, second)
        fields = [
            fourier.inverse(self._each(lambda e, m, a=axis: self._gradient(e, m, a), potential))
            for axis in range(3)
        ]

        def pull_back(upstream: Sequence[Any]) -> list[Tensor]:
            # i k is its own adjoint but for the sign, all other factors are real
            parts = [
                self._each(
                    lambda e, m, a=axis: -self._gradient(e, m, a), fourier.inverse_adjoint(own)
                )
                for axis, own in enumerate(upstream)
            ]
            to_potential = self._each(lambda _, *m: total(m), *parts)
            onto = self._each(lambda _, m: m * tf.constant(self._growth[0], m.dtype), to_potential)
            if self.order == 2:
                to_source = fourier.forward_adjoint(
                    self._each(self._second_potential, to_potential)
                )
                by_slab = [pull(own) for pull, own in zip(pull_sources, to_source, strict=True)]
                terms = [
                    self._each(
                        lambda e, m, p=pair: self._product(e, m, p), fourier.inverse_adjoint(own)
                    )
                    for pair, own in zip(_PAIRS, zip(*by_slab, strict=True), strict=True)
                ]
                onto = self._each(lambda _, *m: total(m), onto, *terms)
            white = self._each(
                lambda e, m: self._over_laplacian(e, m) * self._amplitude(e, m), onto
            )
            return fourier.forward_adjoint(white)

        return fields, pull_back

    def _each(self, function: Callable[..., Tensor], *modes: Sequence[Tensor]) -> list[Tensor]:
        """Apply a function of the device's number and its modes on every device."""
        results = []
        for number, (device, *own) in enumerate(zip(self.slabs.devices, *modes, strict=True)):
            with tf.device(device):
                results.append(function(number, *own))
        return results

    def _squared(self, number: int) -> Tensor:
        x, y, z = self.fourier.frequencies(number)
        return x * x + y * y + z * z

    def _alive(self, number: int, real: Any) -> Tensor:
        """One for modes that carry a field, see `Grid.alive`; else zero."""
        half = self.grid.num_cells // 2
        x, y, z = (tf.cast(tf.abs(f) < half, real) for f in self.fourier.frequencies(number))
        return x * y * z

    def _amplitude(self, number: int, modes: Tensor) -> Tensor:
        """Amplitude of the linear density of unit white noise."""
        real = modes.dtype.real_dtype
        table = tf.constant(self._amplitudes, real)
        return tf.cast(tf.gather(table, self._squared(number)), modes.dtype)

    def _over_laplacian(self, number: int, modes: Tensor) -> Tensor:
        """Modes of live wavevectors over k^2."""
        real = modes.dtype.real_dtype
        squared = tf.cast(tf.maximum(self._squared(number), 1), real) * self.grid.fundamental**2
        alive = self._alive(number, real) * tf.cast(self._squared(number) > 0, real)
        return modes * tf.cast(alive / squared, modes.dtype)

    def _second_potential(self, number: int, source: Tensor) -> Tensor:
        # of the inverse Laplacian, hence the sign
        factor = tf.constant(-self._growth[1], source.dtype)
        return self._over_laplacian(number, source) * factor

    def _product(self, number: int, modes: Tensor, pair: tuple[int, int]) -> Tensor:
        """Modes times k_i k_j."""
        k = self.fourier.frequencies(number)
        real = modes.dtype.real_dtype
        product = tf.cast(k[pair[0]] * k[pair[1]], real) * self.grid.fundamental**2
        return modes * tf.cast(product, modes.dtype)

    def _gradient(self, number: int, modes: Tensor, axis: int) -> Tensor:
        """Modes times i k, in units of the cell."""
        k = tf.cast(self.fourier.frequencies(number)[axis], modes.dtype.real_dtype)
        k *= self.grid.fundamental / self.grid.cell_size
        return modes * tf.complex(tf.zeros_like(k), k)

    def _paint(self, *displacement: Tensor) -> Tensor:
        """Mass on a slab and its ghost planes, `[N/D + 2 ghosts, N, N]`."""
        along_x = displacement[0]
        planes, side = along_x.shape[0], self.grid.num_cells
        farthest = tf.reduce_max(tf.abs(tf.stop_gradient(along_x)))
        # what is not finite goes on to where it is rejected; written so that no simplification of
        # the comparison takes it for one of numbers
        near = tf.logical_or(
            farthest < tf.cast(self.farthest, farthest.dtype),
            tf.logical_not(tf.math.is_finite(farthest)),
        )
        check = tf.debugging.Assert(
            near,
            [
                "Invalid value for argument `ghost_planes`. Expected enough for displacements "
                f"below {self.farthest} cells along the first axis. Received: "
                f"ghost_planes={self.ghost_planes} and a displacement in cells of",
                farthest,
            ],
        )
        with tf.control_dependencies([] if check is None else [check]):
            lattice = [
                tf.reshape(tf.range(start, start + count, dtype=along_x.dtype), shape)
                for start, count, shape in (
                    (self.ghost_planes, planes, [-1, 1, 1]),
                    (0, side, [1, -1, 1]),
                    (0, side, [1, 1, -1]),
                )
            ]
            positions = tf.stack(
                [tf.reshape(q + s, [-1]) for q, s in zip(lattice, displacement, strict=True)]
            )
        box = (planes + 2 * self.ghost_planes, side, side)
        return paint(positions, box, self.mass_assignment)
