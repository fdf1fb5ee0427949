"""The neural bias model against the best local fit of Neyrinck et al. 2014, on one catalogue.

Measured: the maximum log likelihood of the haloes above 2e12 Msun/h in the shipped box, given the
Zel'dovich density of its true initial field (cloud-in-cell, eight particles per voxel),

* of Neyrinck et al. 2014 (MNRAS 441, 646), lambda = Nbar (1+delta)^alpha exp[-A (1+delta)^-eps]
  haloes per voxel, times a mass distribution that ignores the density: two normals in log mass,
  cut at the threshold, the freedom that one voxel of the neural model has;
* of the 17-parameter neural physical engine, by `npe_tf.pretraining.pretrain` as it is.

Why: the neural model must be worth its cost. Charnock et al. 2020 found it better by about 2,000
on their data.

Convention, in which the numbers of both models are of the same data and can be compared: the
un-binned Poisson process in position and mass, per unit volume [(h/Mpc)^3] and log mass,

    log L = sum over haloes of [log(lambda_voxel / V) + log f(log M)] - sum over voxels of lambda

with V the volume of a voxel and f normalised above the threshold. The first and the last term are
the table's "counts", the middle one its "masses". There is no log n!, no softening of the density
(lambda = 0 in the one empty voxel, which has no halo), and alpha may be negative: the best is
alpha = -2.13, A = 15.6, eps = 0.31 with counts -191,459 and masses -34,841, in all -226,300. With
alpha held positive the counts are -191,494.

Run from the root of the repository: ``python benchmarks/maximum_likelihood.py --num_starts 2``. It
exits with status 1 if the neural model, or its lead, is worse than known.

With ``--component_family tapered_pareto --seed 1`` the neural model has two power laws with an
exponential cut-off in place of the paper's two normals, and as many parameters: -219,111, so the
normals are better by 400. (The best of eleven starts, polished for longer, is -219,109.8; four of
them found it, the others ended 70 to 5,000 below.)

``--gravity 2lpt`` and ``--gravity pm --pm_steps 3`` take another density of the same initial field.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import optimize, special

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.posterior import GRAVITIES, FieldPosterior, PosteriorConfig
from npe_tf.pretraining import pretrain

Array = NDArray[Any]

MASS_THRESHOLD = 2e12
LEAST_LOG_LIKELIHOOD = {"normal": -218_800.0, "tapered_pareto": -219_200.0}
LEAST_LEAD = {"normal": 7_500.0, "tapered_pareto": 7_100.0}


class Fit(NamedTuple):
    """A maximum, where it is, and its cost in gradients (or values, where none is taken)."""

    log_likelihood: float
    parameters: Array
    num_evaluations: int
    seconds: float


def build_posterior(
    component_family: str = "normal", gravity: str = "1lpt", pm_steps: int = 3
) -> tuple[FieldPosterior, Array]:
    """The model of the shipped box, and the density of its true initial field `[N, N, N]`."""
    box = load_nbody_box()
    config = PosteriorConfig(
        box.num_cells,
        MASS_THRESHOLD,
        cosmology=Cosmology(**box.cosmology),
        scale_factor=box.scale_factor,
        supersampling=2,
        mass_assignment="cic",
        component_family=component_family,
        gravity=gravity,
        pm_steps=pm_steps,
        dtype="float64",
    )
    posterior = config.build(box.catalogue)
    modes = np.fft.rfftn(box.delta_linear.astype(np.float64)) * posterior.grid.alive
    return posterior, posterior.gravity(tf.constant(modes)).numpy()


def fit_neyrinck(counts: Array, delta: Array, cell_volume: float) -> Fit:
    """Maximise the likelihood of the counts over (alpha, log A, log eps), Nbar profiled out."""
    began = time.monotonic()
    occupied = delta > -1.0
    if counts[~occupied].any():
        raise ValueError("Expected no halo in a voxel without matter")
    counts, log_density = counts[occupied], np.log1p(delta[occupied])
    num_haloes = counts.sum()

    def loss(q: Array) -> tuple[float, Array]:
        eps = np.exp(q[2])
        decay = np.exp(q[1] - eps * log_density)
        shape = q[0] * log_density - decay
        log_norm = special.logsumexp(shape)
        residual = num_haloes * np.exp(shape - log_norm) - counts
        slopes = (log_density, -decay, decay * eps * log_density)
        gradient = np.array([np.sum(residual * slope) for slope in slopes])
        log_likelihood = np.sum(counts * shape) - num_haloes * log_norm
        return -log_likelihood / num_haloes, gradient / num_haloes

    best = optimize.minimize(loss, [1.0, 0.0, 0.0], jac=True, method="BFGS", options={"gtol": 1e-7})
    # The best Nbar makes the expected number of haloes equal to the number found.
    constant = num_haloes * (np.log(num_haloes / cell_volume) - 1.0)
    parameters = np.array([best.x[0], *np.exp(best.x[1:])])
    log_likelihood = float(constant - best.fun * num_haloes)
    return Fit(log_likelihood, parameters, best.nfev, time.monotonic() - began)


def fit_masses(log_mass: Array, log_threshold: float) -> Fit:
    """Maximise the likelihood of the masses over a mixture of two normals above the threshold."""
    began = time.monotonic()
    above = log_mass - log_threshold

    def loss(q: Array) -> float:
        mean, log_sigma = q[:2], q[2:4]
        log_weight = special.log_expit(np.array([q[4], -q[4]]))
        sigma = np.exp(log_sigma)
        z = (above[:, None] - mean) / sigma
        log_normal = -0.5 * z**2 - log_sigma - 0.5 * np.log(2.0 * np.pi)
        log_norm = special.logsumexp(log_weight + special.log_ndtr(mean / sigma))
        return float(log_norm - np.mean(special.logsumexp(log_weight + log_normal, axis=1)))

    fits = [
        optimize.minimize(loss, start, method="L-BFGS-B", options={"ftol": 1e-13})
        for start in ([0.0, 1.0, 0.0, 0.0, 0.0], [-5.0, 0.0, 1.0, 0.0, 2.0])
    ]
    best = min(fits, key=lambda fit: fit.fun)
    evaluations = sum(fit.nfev for fit in fits)
    log_likelihood = float(-best.fun * len(above))
    return Fit(log_likelihood, best.x, evaluations, time.monotonic() - began)


def fit_neural(posterior: FieldPosterior, delta: Array, num_starts: int, seed: int) -> Fit:
    """Pretrain with the default settings; the cost is that of all starts."""
    began = time.monotonic()
    fitted = pretrain(
        posterior.bias,
        posterior.likelihood,
        delta,
        num_starts=num_starts,
        seed=seed,
        report=lambda line: print(line, flush=True),
    )
    gradients = sum(start.num_gradients for start in fitted.starts)
    return Fit(fitted.log_likelihood, fitted.theta, gradients, time.monotonic() - began)


def report(name: str, log_likelihood: float, *fits: Fit) -> None:
    """One line of the table."""
    evaluations = sum(fit.num_evaluations for fit in fits)
    seconds = sum(fit.seconds for fit in fits)
    print(f"{name:28s} {log_likelihood:12,.1f} {evaluations:12,d} {seconds:8.1f}")


def main() -> int:
    """Fit both models and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_starts", type=int, default=2, help="random starts of the network")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    parser.add_argument(
        "--component_family",
        choices=list(LEAST_LEAD),
        default="normal",
        help="of the neural model's mass function",
    )
    parser.add_argument("--gravity", choices=GRAVITIES, default="1lpt")
    parser.add_argument("--pm_steps", type=int, default=3, help="steps of the particle mesh")
    args = parser.parse_args()

    posterior, delta = build_posterior(args.component_family, args.gravity, args.pm_steps)
    likelihood = posterior.likelihood
    counts = fit_neyrinck(likelihood.counts, delta, posterior.grid.cell_volume)
    masses = fit_masses(likelihood.log_masses, np.log(MASS_THRESHOLD))
    neural = fit_neural(posterior, delta, args.num_starts, args.seed)
    classical = counts.log_likelihood + masses.log_likelihood
    lead = neural.log_likelihood - classical

    alpha, amplitude, eps = counts.parameters
    print(f"{likelihood.num_haloes:,d} haloes; alpha {alpha:.3f}, A {amplitude:.3f}, eps {eps:.3f}")
    print(f"{'':28s} {'log L':>12s} {'evaluations':>12s} {'seconds':>8s}")
    report("Neyrinck et al. 2014: counts", counts.log_likelihood, counts)
    report("  masses, of any density", masses.log_likelihood, masses)
    report("  together", classical, counts, masses)
    report(f"neural, {neural.parameters.size} parameters", neural.log_likelihood, neural)
    print(f"{'neural minus Neyrinck':28s} {lead:12,.1f}")

    if args.gravity != "1lpt":
        return 0
    least = LEAST_LOG_LIKELIHOOD[args.component_family]
    least_lead = LEAST_LEAD[args.component_family]
    passed = neural.log_likelihood >= least and lead >= least_lead
    print(
        f"{'passed' if passed else 'FAILED'}: at least {least:,.0f} and a lead of "
        f"{least_lead:,.0f} expected"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
