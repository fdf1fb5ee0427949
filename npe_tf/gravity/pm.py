"""Particle mesh in few steps.

Time is the growth factor D. A particle's displacement s from its lattice point and its velocity
v = ds/dD go through drift, kick and drift,

    s <- s + dD/2 v,    v <- alpha v + (1 - alpha) A(s) / D_mid,    s <- s + dD/2 v,

where A is minus the gradient of the inverse Laplacian of the overdensity, of which A = D psi1 to
first order. So the Zel'dovich motion v = psi1 is kept for every alpha, and there is one evaluation
of the force a step. What alpha is decides on the rest:

* ``"fastpm"``: alpha = G(a)/G(a'), with G = a^3 E dD/da, the kick of Feng et al. 2016 (MNRAS 463,
  2273);
* ``"bullfrog"``: the alpha for which the motion of second-order perturbation theory is kept as well
  (Rampf, List & Hahn 2024, arXiv:2409.19049). With E(D) = D2 and a prime for d/dD it is
  (E'(D') - F) / (E'(D) - F), F = (E(D) + E'(D) dD/2) / D_mid - D_mid, as the force on particles at
  q + D psi1 + X psi2 is D psi1 + (X - D^2) psi2.

Every step can be undone. The gradient goes back through the steps, computing the particles of the
step before from those after it, so that its memory does not grow with their number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from npe_tf.background import as_float64
from npe_tf.cosmology import Cosmology
from npe_tf.fourier import irfft3d, rfft3d
from npe_tf.gravity.forward_model import ForwardModel, Motion
from npe_tf.gravity.lpt import lpt_displacements
from npe_tf.grid import Grid
from npe_tf.painting import MASS_ASSIGNMENTS, interpolate, paint
from npe_tf.statistics import assignment_window

__all__ = ["INTEGRATORS", "ParticleMesh"]

Tensor = Any

INTEGRATORS = ("bullfrog", "fastpm")


class ParticleMesh(ForwardModel):
    """Particle mesh with growth-time steps, differentiable in constant memory.

    Args:
        grid: mesh of the modes and of the density.
        cosmology: gives growth and expansion.
        num_steps: steps of equal length in the scale factor; each costs one force.
        initial_scale_factor: where the steps start from second-order perturbation theory; 0 starts
            from the lattice.
        integrator: ``"bullfrog"`` or ``"fastpm"``.
        force_factor: cells of the force mesh for each particle and side.
        force_assignment: ``"tsc"`` or ``"cic"``, for painting the particles on the force mesh and
            reading the force from it. The force is corrected for the window of both. Waves shorter
            than the lattice of the particles can carry exert none: they would be its own image.
        **arguments: of `ForwardModel`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        grid: Grid,
        cosmology: Cosmology,
        *,
        num_steps: int = 5,
        initial_scale_factor: float = 0.0,
        integrator: str = "bullfrog",
        force_factor: int = 1,
        force_assignment: str = "tsc",
        **arguments: Any,
    ) -> None:
        """Tabulate the steps and the force kernel."""
        super().__init__(grid, cosmology, **arguments)
        for name, value in (("num_steps", num_steps), ("force_factor", force_factor)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a positive integer. Received: "
                    f"{name}={value!r}"
                )
        if integrator not in INTEGRATORS:
            raise ValueError(
                f"Invalid value for argument `integrator`. Expected one of {INTEGRATORS}. "
                f"Received: integrator={integrator!r}"
            )
        if force_assignment not in MASS_ASSIGNMENTS[1:]:
            raise ValueError(
                f"Invalid value for argument `force_assignment`. Expected one of "
                f"{MASS_ASSIGNMENTS[1:]}. Received: force_assignment={force_assignment!r}"
            )
        if not 0.0 <= initial_scale_factor < self.scale_factor:
            raise ValueError(
                "Invalid value for argument `initial_scale_factor`. Expected a number from 0 to "
                f"less than scale_factor={self.scale_factor!r}. Received: "
                f"initial_scale_factor={initial_scale_factor!r}"
            )
        self.num_steps = int(num_steps)
        self.initial_scale_factor = initial_scale_factor
        self.integrator = integrator
        self.force_factor = int(force_factor)
        self.force_assignment = force_assignment
        self._tabulate()
        side = self.lattice_grid.num_cells
        mesh = Grid(side * self.force_factor, grid.box_size)
        self._force_mesh = mesh
        window = assignment_window(mesh.num_cells, force_assignment) ** 2
        carried = mesh.alive
        for frequency in mesh.frequencies:
            carried = carried & (2 * np.abs(frequency) < side)
        safe = np.where(carried, mesh.wavenumber**2 * window, 1.0)
        # lengths are in cells of the force mesh
        unit = mesh.fundamental / mesh.cell_size
        self._kernels = [unit * f * carried / safe for f in mesh.frequencies]

    def _tabulate(self) -> None:
        """What the steps, their start and their end need of the growth.

        A step has half of its length in D, alpha and (1 - alpha)/D_mid.
        """
        fraction = tf.constant(np.linspace(0.0, 1.0, self.num_steps + 1))
        start = as_float64(self.initial_scale_factor)
        a = start + (as_float64(self.scale_factor) - start) * fraction
        safe = tf.where(a > 0.0, a, 1.0)
        found = self.cosmology.growth(safe)
        momentum = safe**2 * self.cosmology.hubble(safe) * found.first_rate * found.first
        slope = found.second * found.second_rate / (found.first * found.first_rate)
        # nothing has grown at the big bang
        growth, second, slope, momentum = (
            tf.where(a > 0.0, x, tf.zeros_like(x))
            for x in (found.first, found.second, slope, momentum)
        )
        half, middle = (growth[1:] - growth[:-1]) / 2.0, (growth[1:] + growth[:-1]) / 2.0
        if self.integrator == "fastpm":
            alpha = momentum[:-1] / momentum[1:]
        else:
            force = (second[:-1] + slope[:-1] * half) / middle - middle
            alpha = (slope[1:] - force) / (slope[:-1] - force)
        self._steps = tf.stack([half, alpha, (1.0 - alpha) / middle], axis=1)
        self._start = (growth[0], second[0], slope[0])
        self._end_rate = found.first[-1] * found.first_rate[-1]

    def motion(self, modes: Tensor, with_rate: bool = True) -> Motion:
        """Displacement of every particle; see `ForwardModel`."""
        from_lattice = self.initial_scale_factor == 0.0
        fields = lpt_displacements(modes, self.grid, 1 if from_lattice else 2, self.supersampling)
        real = fields[0].dtype
        cell = tf.constant(self._force_mesh.cell_size, real)
        velocity = fields[0]
        displacement = tf.zeros_like(velocity)
        if not from_lattice:
            growth, second, slope = (tf.cast(x, real) for x in self._start)
            displacement = growth * fields[0] + second * fields[1]
            velocity += slope * fields[1]
        displacement, velocity = (tf.reshape(x, [3, -1]) / cell for x in (displacement, velocity))
        displacement, velocity = self._evolve(displacement, velocity, tf.cast(self._steps, real))
        displacement, velocity = (
            tf.reshape(x * cell, [3, *self.lattice_grid.shape]) for x in (displacement, velocity)
        )
        if not with_rate:
            return Motion(displacement, None)
        return Motion(displacement, tf.cast(self._end_rate, real) * velocity)

    def _force(self, displacement: Tensor) -> Tensor:
        """A at the particles, `[3, P]` [cells of the force mesh]."""
        mesh, real = self._force_mesh, displacement.dtype
        lattice = self._lattice(real) * float(self.supersampling * self.force_factor)
        positions = lattice + displacement
        mass = paint(positions, mesh.num_cells, self.force_assignment)
        modes = rfft3d(mass * float(self.force_factor**3))
        imaginary = tf.constant(1j, modes.dtype) * modes
        field = tf.stack(
            [irfft3d(imaginary * tf.cast(tf.constant(k, real), modes.dtype)) for k in self._kernels]
        )
        return interpolate(field, positions, self.force_assignment)

    def _step(self, step: Tensor, displacement: Tensor, velocity: Tensor) -> tuple[Any, Any]:
        """One row of the steps; displacements and velocities `[3, P]` [cells of the force mesh]."""
        half, alpha, kick = tf.unstack(step)
        displacement += half * velocity
        velocity = alpha * velocity + kick * self._force(displacement)
        return displacement + half * velocity, velocity

    def _evolve(self, displacement: Tensor, velocity: Tensor, steps: Tensor) -> tuple[Any, Any]:
        """All steps; displacements and velocities `[3, P]` [cells of the force mesh]."""

        @tf.custom_gradient
        def run(start: Tensor, start_velocity: Tensor, steps: Tensor) -> Any:
            def forward(n: Tensor, s: Tensor, v: Tensor) -> Any:
                return n + 1, *self._step(steps[n], s, v)

            _, end, end_velocity = tf.while_loop(
                lambda n, *_: n < self.num_steps,
                forward,
                (tf.constant(0), start, start_velocity),
                parallel_iterations=1,
            )

            def gradient(s_bar: Tensor, v_bar: Tensor) -> Any:
                def backward(n: Tensor, s: Any, v: Any, s_bar: Any, v_bar: Any, bars: Any) -> Any:
                    half, alpha, kick = tf.unstack(steps[n])
                    middle = s - half * v
                    half_bar = tf.reduce_sum(s_bar * v)
                    v_bar += half * s_bar
                    with tf.GradientTape() as tape:
                        tape.watch(middle)
                        force = self._force(middle)
                    s_bar += tape.gradient(force, middle, output_gradients=kick * v_bar)
                    # only the first alpha may be zero, and what was before it is known
                    safe = tf.where(n == 0, tf.ones_like(alpha), alpha)
                    v = tf.where(n == 0, start_velocity, (v - kick * force) / safe)
                    half_bar += tf.reduce_sum(s_bar * v)
                    row = [half_bar, tf.reduce_sum(v_bar * v), tf.reduce_sum(v_bar * force)]
                    bars = tf.tensor_scatter_nd_update(bars, [[n]], [tf.stack(row)])
                    v_bar = alpha * v_bar + half * s_bar
                    return n - 1, middle - half * v, v, s_bar, v_bar, bars

                *_, s_bar, v_bar, bars = tf.while_loop(
                    lambda n, *_: n >= 0,
                    backward,
                    (
                        tf.constant(self.num_steps - 1),
                        end,
                        end_velocity,
                        s_bar,
                        v_bar,
                        tf.zeros_like(steps),
                    ),
                    parallel_iterations=1,
                )
                return s_bar, v_bar, bars

            return (end, end_velocity), gradient

        return run(displacement, velocity, steps)
