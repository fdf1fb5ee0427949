"""JaxPM for `benchmarks/gravity.py`, and the paper's bias model in `jax.numpy`.

JaxPM's `lpt` takes derivatives with a finite-difference kernel of fourth order, i (8 sin w - sin
2w)/6 for i w; `exact_gradient` puts i w in its place, to compare all else. Its `growth_factor` and
`growth_factor_second` are one today, and it takes D2 = -3/7 today in every cosmology.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax_cosmo
import jaxpm.pm
import numpy as np
from jaxpm.painting import cic_paint, cic_paint_dx

from npe_tf.cosmology import Cosmology
from npe_tf.posterior import FieldPosterior

Tensor = Any

INITIAL_AMPLITUDE = 1e-3
INITIAL_WIDTH = 0.5


def cosmology_of(ours: Cosmology) -> Any:
    """The same universe in jax-cosmo."""
    return jax_cosmo.Cosmology(
        Omega_c=ours.Omega_m - ours.Omega_b, Omega_b=ours.Omega_b, h=ours.h, sigma8=ours.sigma8,
        n_s=ours.n_s, Omega_k=0.0, w0=-1.0, wa=0.0,
    )  # fmt: skip


@contextlib.contextmanager
def exact_gradient() -> Iterator[None]:
    """JaxPM with derivatives of plane waves, none on the Nyquist planes."""
    own = jaxpm.pm.gradient_kernel

    def exact(kvec: Any, direction: int, order: int = 1) -> Any:
        w = kvec[direction]
        return 1j * jnp.where(jnp.abs(w) < 3.1415, w, 0.0)

    jaxpm.pm.gradient_kernel = exact
    try:
        yield
    finally:
        jaxpm.pm.gradient_kernel = own


def displacement(delta_linear: Tensor, cosmology: Any, order: int) -> Tensor:
    """Displacements at a=1, `[N, N, N, 3]` [cells]."""
    return jaxpm.pm.lpt(cosmology, delta_linear, a=1.0, order=order)[0]


def paint(positions: Tensor, num_cells: int) -> Tensor:
    """Cloud-in-cell mass of positions `[3, P]` [cells]."""
    return cic_paint(jnp.zeros((num_cells,) * 3), jnp.asarray(positions).T)


def density(displacement: Tensor, absolute: bool) -> Tensor:
    """Overdensity of displaced lattice points, by one of JaxPM's two ways to paint."""
    if not absolute:
        return cic_paint_dx(displacement) - 1.0
    side = displacement.shape[0]
    lattice = jnp.stack(jnp.meshgrid(*[jnp.arange(float(side))] * 3, indexing="ij"), axis=-1)
    return cic_paint(jnp.zeros((side,) * 3), lattice + displacement) - 1.0


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))


def _around(x: Tensor, axis: int) -> Tensor:
    return jnp.roll(x, 1, axis) + jnp.roll(x, -1, axis)


def _convolution(x: Tensor, weights: Tensor) -> Tensor:
    """Sums of the centre, 6 faces, 12 edges and 8 corners, with a weight each."""
    first, second, third = (_around(x, axis) for axis in range(3))
    pair = _around(first, 1)
    shells = (
        x,
        first + second + third,
        pair + _around(first, 2) + _around(second, 2),
        _around(pair, 2),
    )
    harmonic = 1.0 / math.sqrt(4.0 * math.pi)
    return harmonic * sum(w * shell for w, shell in zip(weights, shells, strict=True))


def log_likelihood(posterior: FieldPosterior, softening: float = 0.1) -> Callable[..., Tensor]:
    """The paper's 17-parameter model and the Poisson likelihood of the posterior's haloes.

    Returns:
        Function of the overdensity `[N, N, N]` and theta `[17]`.
    """
    voxels = jnp.asarray(posterior.likelihood.voxels)
    log_masses = jnp.asarray(posterior.likelihood.log_masses, jnp.float32)
    threshold = posterior.bias.log_mass_threshold
    volume = posterior.grid.cell_volume

    def function(delta: Tensor, theta: Tensor) -> Tensor:
        psi = jax.nn.softplus(_convolution(jnp.log(delta + 1.0 + softening), theta[:4]) + theta[4])
        psi = psi.ravel()
        amplitude, mean, scale = (
            [psi * theta[n + t] + theta[n + 2 + t] for t in range(2)] for n in (5, 9, 13)
        )
        amplitude = [jax.nn.softplus(x + _inverse_softplus(INITIAL_AMPLITUDE)) for x in amplitude]
        scale = [jax.nn.softplus(x + INITIAL_WIDTH) for x in scale]
        first = mean[0] + threshold
        means = [first, first + jax.nn.relu(mean[1])]
        expected, terms = 0.0, []
        for alpha, mu, sigma in zip(amplitude, means, scale, strict=True):
            tail = jax.scipy.special.erfc((threshold - mu) / (math.sqrt(2.0) * sigma))
            expected += jnp.sum(alpha * 0.5 * tail)
            alpha, mu, sigma = alpha[voxels], mu[voxels], sigma[voxels]
            z = (log_masses - mu) / sigma
            terms.append(
                jnp.log(alpha) - 0.5 * z**2 - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi)
            )
        return jnp.sum(jnp.logaddexp(*terms)) - volume * expected

    return function


def log_posterior(
    posterior: FieldPosterior, cosmology: Any, absolute: bool = True
) -> Callable[..., Tensor]:
    """Joint log posterior of white noise and theta, first order, cloud-in-cell, float32.

    The linear density takes two real transforms; JaxPM's own `linear_field` takes complex ones.
    """
    grid = posterior.grid
    power = np.asarray(posterior.initial_field.linear_power())
    amplitude = jnp.asarray(np.sqrt(power * grid.num_cells**3 / grid.volume), jnp.float32)
    likelihood = log_likelihood(posterior)
    # once outside of the trace, so that JaxPM finds its table of the growth made
    displacement(jnp.zeros(grid.shape), cosmology, 1)

    def function(white_noise: Tensor, theta: Tensor) -> Tensor:
        linear = jnp.fft.irfftn(jnp.fft.rfftn(white_noise) * amplitude, grid.shape)
        delta = density(displacement(linear, cosmology, 1), absolute)
        prior = 0.5 * (jnp.sum(white_noise**2) + jnp.sum((theta / posterior.prior_scale) ** 2))
        return likelihood(delta, theta) - prior

    return function
