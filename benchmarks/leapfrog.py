"""Why the triangular-shaped cloud is the default: leapfrog through the density it paints.

Measured: energy errors of trajectories of the field, the bias parameters held fixed, with the
density painted cloud-in-cell (``cic``) and by triangular-shaped clouds (``tsc``). The posterior is
that of the shipped box on 32^3 cells with one particle per cell. For each assignment the
parameters are fitted to the density of the true linear field; the chain starts at its white noise,
with the modes that carry no density drawn from their prior; the mass matrix is diagonal in Fourier
space, from the curvature probed at the start. Then, for every step size, trajectories of 32 steps
set out from that start, each with a momentum of its own and with the step jittered by 20%, as in
inference. Everything is in float64: the errors are those of the integrator alone.

Why: the gradient of the cloud-in-cell density jumps where a particle passes a vertex, each jump
costs leapfrog some energy, and the step sets the price of an independent draw.

The last lines interpolate, on this coarse grid, the step at which each assignment accepts 70% and
the one at which its rms energy error is one nat, with their ratios: 4.6 and 4.1. All trajectories
leave one state and share a part of their errors; the first ratio was 3.3 and 3.8 without jitter, on
this grid of steps and on a finer one with more trajectories.

Run from the root of the repository: ``python benchmarks/leapfrog.py --trajectories 10``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.fourier import truncate
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.pretraining import pretrain
from samplers import FourierDiagonalInverseHessian, QuasiNewtonHMC, ShellVariance, shell_curvature

Array = NDArray[Any]

NUM_CELLS = 32
MASS_THRESHOLD = 2e12
NUM_LEAPFROG_STEPS = 32
STEP_SIZES = (0.02, 0.04, 0.08, 0.16)
STEP_SIZE_JITTER = 0.2
TARGET_ACCEPTANCE = 0.7
FIRST_DISPLACEMENT = 0.1
NUM_PROBES = 4


def true_start(posterior: FieldPosterior, delta_linear: Array) -> Array:
    """White noise of the true linear field, its dead modes filled from the prior."""
    grid = posterior.grid
    noise = np.random.default_rng(2).standard_normal(grid.shape)
    dead = np.fft.irfftn(np.fft.rfftn(noise) * ~grid.alive, s=grid.shape, axes=(0, 1, 2))
    return posterior.initial_field.white_noise(delta_linear) + dead


def field_curvature(
    posterior: FieldPosterior, theta: Array, white_noise: Array
) -> tuple[FourierDiagonalInverseHessian, ShellVariance]:
    """The inverse Hessian at a field, as inference makes it: probed, and probed again in scale."""
    grid = posterior.grid
    dead_shell = grid.num_cells // 2
    shells = np.where(grid.alive, grid.shells(), dead_shell)
    inverse_hessian = FourierDiagonalInverseHessian(shells, dead_shell + 1)

    @tf.function
    def probe(displacement: Any) -> Any:
        return shell_curvature(
            posterior.given_parameters(tf.constant(theta)),
            tf.constant(white_noise),
            inverse_hessian,
            tf.constant([3, 0]),
            displacement,
            num_probes=NUM_PROBES,
            minimum=1.0,
        )

    first = probe(tf.fill([dead_shell + 1], tf.constant(FIRST_DISPLACEMENT, tf.float64)))
    return inverse_hessian, inverse_hessian.from_curvature(probe(1.0 / tf.sqrt(first)))


def energy_errors(mass_assignment: str, num_trajectories: int) -> Array:
    """Change of the energy along each trajectory, `[step sizes, trajectories]`."""
    box = load_nbody_box()
    config = PosteriorConfig(
        NUM_CELLS,
        MASS_THRESHOLD,
        cosmology=Cosmology(**box.cosmology),
        scale_factor=box.scale_factor,
        mass_assignment=mass_assignment,
        dtype="float64",
    )
    posterior = config.build(box.catalogue)
    white_noise = true_start(posterior, truncate(box.delta_linear, NUM_CELLS))
    density = posterior.density(tf.constant(white_noise))
    fitted = pretrain(posterior.bias, posterior.likelihood, density, num_starts=1)
    inverse_hessian, curvature = field_curvature(posterior, fitted.theta, white_noise)
    kernel = QuasiNewtonHMC(
        posterior.given_parameters(tf.constant(fitted.theta)),
        step_size=STEP_SIZES[0],
        num_leapfrog_steps=NUM_LEAPFROG_STEPS,
        inverse_hessian=inverse_hessian,
        initial_curvature=curvature,
        step_size_jitter=STEP_SIZE_JITTER,
        store_parameters_in_results=True,
    )

    @tf.function
    def log_accept_ratio(start: Any, results: Any, step_size: Any, seed: Any) -> Any:
        accepted = results.accepted_results._replace(step_size=step_size)
        results = results._replace(accepted_results=accepted)
        return kernel.one_step(start, results, seed=seed)[1].log_accept_ratio

    start = tf.constant(white_noise)
    results = kernel.bootstrap_results(start)
    print(f"{mass_assignment}: log L = {fitted.log_likelihood:.1f} at the start", flush=True)
    return -np.array(
        [
            [
                log_accept_ratio(
                    start, results, tf.constant(step_size, tf.float64), tf.constant([4, number])
                ).numpy()
                for number in range(num_trajectories)
            ]
            for step_size in STEP_SIZES
        ]
    )


def mean_acceptance(errors: Array) -> Array:
    """Mean acceptance probability for each step size; an energy that is NaN is never accepted."""
    return np.exp(-np.maximum(np.nan_to_num(errors, nan=np.inf), 0.0)).mean(axis=1)


def step_at(target: float, rising: Array) -> float:
    """Step size at which a quantity reaches a target, interpolated; NaN outside the grid."""
    log_steps = np.log(STEP_SIZES)
    monotone = np.maximum.accumulate(rising)
    return float(np.exp(np.interp(target, monotone, log_steps, left=np.nan, right=np.nan)))


def report_ratio(name: str, cic: float, tsc: float) -> None:
    """One line that compares two step sizes."""
    print(f"{name}: step {cic:.3f} cic, {tsc:.3f} tsc, ratio {tsc / cic:.1f}")


def main() -> None:
    """Measure both assignments and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trajectories", type=int, default=10, help="for each step size")
    args = parser.parse_args()

    began = time.monotonic()
    errors = {name: energy_errors(name, args.trajectories) for name in ("cic", "tsc")}
    accepted = {name: mean_acceptance(values) for name, values in errors.items()}

    print(f"\n{'':6s}{'acceptance':>18s}{'rms energy error':>24s}{'mean':>24s}")
    print(f"{'step':6s}{'cic':>9s}{'tsc':>9s}" + f"{'cic':>12s}{'tsc':>12s}" * 2)
    for row, step_size in enumerate(STEP_SIZES):
        rates = "".join(f"{rate[row]:9.2f}" for rate in accepted.values())
        rms = "".join(f"{np.sqrt(np.mean(e[row] ** 2)):12.3g}" for e in errors.values())
        mean = "".join(f"{np.mean(e[row]):12.3g}" for e in errors.values())
        print(f"{step_size:<6.2f}{rates}{rms}{mean}")
    report_ratio(
        f"acceptance {TARGET_ACCEPTANCE}",
        *(step_at(-TARGET_ACCEPTANCE, -rate) for rate in accepted.values()),
    )
    report_ratio(
        "rms energy error 1",
        *(step_at(0.0, 0.5 * np.log(np.mean(e**2, axis=1))) for e in errors.values()),
    )
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
