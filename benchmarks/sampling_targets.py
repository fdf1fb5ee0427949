"""Densities for `benchmarks/sampling.py`, and what the samplers may know of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.fourier import truncate
from npe_tf.posterior import PosteriorConfig
from npe_tf.pretraining import pretrain

Array = NDArray[np.float64]


class Target(NamedTuple):
    """A density and what the samplers may know of it.

    Attributes:
        log_prob: `[chains, d]` to `[chains]`.
        log_prob_of_jax: the same of one point `[d]` in `jax.numpy`, given that module, or None.
        start: number of chains to where they start, `[chains, d]`.
        quantities: draws `[..., d]` to what is measured, `[..., n]`.
        variances: of the quantities, of mean zero, if they are known.
        covariance: the true one, `[d, d]`, made when it is asked for.
        hessian: of -log density at the mode, `[d, d]`, and its price in gradients; or None.
        leapfrogs: steps of a trajectory where B is the covariance, and where it is diagonal.
        lengths: numbers of steps that `warm_up` chooses from.
    """

    log_prob: Callable[[Any], Any]
    log_prob_of_jax: Callable[[Any, Any], Any] | None
    start: Callable[[int], Array]
    quantities: Callable[[Array], Array]
    variances: Array | None
    covariance: Callable[[], Array]
    hessian: tuple[Array, int] | None
    leapfrogs: tuple[int, int]
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def whitened(covariance: Array) -> Callable[[Array], Array]:
    """Coordinates along the principal axes, of variance one."""
    values, vectors = np.linalg.eigh(covariance)
    return lambda draws: draws @ (vectors / np.sqrt(values))


def knowing_nothing(size: int) -> Callable[[int], Array]:
    """Starts from a standard normal."""
    return lambda chains: np.random.default_rng(1).normal(size=(chains, size))


def gaussian(variances: Array, leapfrogs: tuple[int, int]) -> Target:
    """A normal along random axes."""
    size = len(variances)
    vectors, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
    covariance, precision = (vectors * variances) @ vectors.T, (vectors / variances) @ vectors.T

    def log_prob(x: Any) -> Any:
        return -0.5 * tf.reduce_sum(x * tf.linalg.matvec(tf.constant(precision), x), -1)

    return Target(
        log_prob,
        lambda jnp, x: -0.5 * x @ (jnp.asarray(precision) @ x),
        knowing_nothing(size),
        whitened(covariance),
        np.ones(size),
        lambda: covariance,
        (precision, 2 * size),
        leapfrogs,
    )


def banana(size: int = 10, curvature: float = 0.03) -> Target:
    """The twisted normal of Haario, Saksman & Tamminen 1999."""
    covariance = np.diag([100.0, 1.0 + 2.0 * curvature**2 * 100.0**2] + [1.0] * (size - 2))

    def log_prob(x: Any, add: Callable[..., Any] = tf.reduce_sum) -> Any:
        bent = x[..., 1] - curvature * (x[..., 0] ** 2 - 100.0)
        return -0.5 * (x[..., 0] ** 2 / 100.0 + bent**2 + add(x[..., 2:] ** 2, -1))

    return Target(
        log_prob,
        lambda jnp, x: log_prob(x, jnp.sum),
        knowing_nothing(size),
        whitened(covariance),
        np.ones(size),
        lambda: covariance,
        None,
        (16, 16),
    )


class Halos:
    """The conditional of the bias parameters, given the true initial field of the shipped box."""

    # of the parameters: kernels and biases of the six lines w psi + b
    KERNELS, BIASES = [5, 6, 9, 10, 13, 14], [7, 8, 11, 12, 15, 16]

    def __init__(self) -> None:
        """Fit the parameters and prepare the density."""
        box = load_nbody_box()
        posterior = PosteriorConfig(
            32,
            2e12,
            cosmology=Cosmology(**box.cosmology),
            scale_factor=box.scale_factor,
            dtype="float64",
        ).build(box.catalogue)
        white_noise = tf.constant(
            posterior.initial_field.white_noise(truncate(box.delta_linear, 32))
        )
        delta = posterior.density(white_noise)
        fitted = pretrain(posterior.bias, posterior.likelihood, delta, num_starts=1)
        print(f"halos: log L = {fitted.log_likelihood:.1f} at the optimum", flush=True)
        self.optimum = fitted.theta
        self.reference: Array | None = None
        self._prepare(posterior, delta)
        exact = posterior.given_field(white_noise)
        rng = np.random.default_rng(0)
        points = self.optimum + 0.01 * rng.normal(size=(3, self.optimum.size))
        difference = [float(exact(tf.constant(point))) for point in points]
        difference -= self.log_prob(tf.constant(points)).numpy()
        # what does not depend on the parameters is left out here
        if np.ptp(difference) > 1e-6:
            raise RuntimeError(f"The density differs from the posterior's: {difference}")
        self.hessian = self._hessian(self.log_prob, self.optimum)
        spread = np.linalg.cholesky(np.linalg.inv(self.hessian)).T
        # the tenth part of the width: the ridge leaves its tangent sooner than that
        self.starts = lambda chains: (
            self.optimum + 0.1 * np.random.default_rng(1).normal(size=(chains, 17)) @ spread
        )

    def _prepare(self, posterior: Any, delta: Any) -> None:
        model, likelihood = posterior.bias.model, posterior.likelihood
        log_density = model.get_layer("log_density")(delta[tf.newaxis, ..., tf.newaxis])
        engine, head = model.get_layer("neural_physical_engine"), model.get_layer("mixture_density")
        responses = engine.shell_responses(log_density).numpy().reshape(-1, 4)
        counts = np.bincount(likelihood.voxels, minlength=len(responses))
        # voxels with haloes first, and the haloes in the order of their voxels
        order = np.argsort(counts == 0, kind="stable")
        place = np.argsort(order)[likelihood.voxels]
        sorting = np.argsort(place, kind="stable")
        self._responses = tf.constant(responses[order].T)
        self._num_occupied = int(np.count_nonzero(counts))
        self._voxels = tf.constant(place[sorting])
        log_masses = likelihood.log_masses[sorting] - math.log(likelihood.mass_threshold)
        self._log_masses = tf.constant(log_masses[:, np.newaxis])
        self._cell_volume = posterior.grid.cell_volume
        self._prior_scale = posterior.prior_scale
        # inverse of softplus
        self._amplitude, self._width = (
            value + math.log(-math.expm1(-value))
            for value in (head.initial_amplitude, head.initial_width)
        )

    def _psi(self, theta: Any) -> Any:
        return tf.math.softplus(tf.matmul(theta[:, :4], self._responses) + theta[:, 4:5])

    def log_prob(self, theta: Any) -> Any:
        """Log posterior, up to a constant, `[chains, 17]` to `[chains]`."""
        psi = self._psi(theta)
        lines = [
            theta[:, w : w + 1] * psi + theta[:, b : b + 1]
            for w, b in zip(self.KERNELS, self.BIASES, strict=True)
        ]
        amplitudes = [tf.math.softplus(line + self._amplitude) for line in lines[:2]]
        means = [lines[2], lines[2] + tf.nn.relu(lines[3])]
        inverse = [1.0 / tf.math.softplus(line + self._width) for line in lines[4:]]
        expected = sum(
            a * tf.math.erfc(-math.sqrt(0.5) * m * s)
            for a, m, s in zip(amplitudes, means, inverse, strict=True)
        )
        expected = 0.5 * self._cell_volume * tf.reduce_sum(expected, -1)
        columns = [
            column[:, : self._num_occupied]
            for a, m, s in zip(amplitudes, means, inverse, strict=True)
            for column in (tf.math.log(a * s), m, s)
        ]
        at_haloes = tf.gather(tf.transpose(tf.stack(columns), [2, 0, 1]), self._voxels)
        parts = tf.unstack(at_haloes, axis=1)
        first, second = (
            log_height - 0.5 * tf.square((self._log_masses - mean) * inverse_width)
            for log_height, mean, inverse_width in (parts[:3], parts[3:])
        )
        found = tf.reduce_sum(first + tf.math.softplus(second - first), 0)
        prior = -0.5 * tf.reduce_sum(tf.square(theta / self._prior_scale), -1)
        return found - expected + prior

    def _moments(self, theta: Any) -> tuple[Any, Any]:
        psi = self._psi(theta)
        return tf.reduce_mean(psi, -1, keepdims=True), tf.math.reduce_std(psi, -1, keepdims=True)

    def _with_lines(self, theta: Any, kernels: Any, biases: Any) -> Any:
        columns = tf.unstack(theta, axis=-1)
        for number, (w, b) in enumerate(zip(self.KERNELS, self.BIASES, strict=True)):
            columns[w], columns[b] = kernels[:, number], biases[:, number]
        return tf.stack(columns, -1)

    def standardised(self, theta: Any) -> Any:
        """Parameters for psi of mean zero and variance one, `[chains, 17]`."""
        mean, std = self._moments(theta)
        kernels, biases = (tf.gather(theta, i, axis=-1) for i in (self.KERNELS, self.BIASES))
        return self._with_lines(theta, kernels * std, biases + kernels * mean)

    def parameters(self, standardised: Any) -> tuple[Any, Any]:
        """Inverse of `standardised`, and the log of its Jacobian."""
        mean, std = self._moments(standardised)
        kernels, biases = (tf.gather(standardised, i, axis=-1) for i in (self.KERNELS, self.BIASES))
        theta = self._with_lines(standardised, kernels / std, biases - kernels * mean / std)
        return theta, -len(self.KERNELS) * tf.math.log(std[:, 0])

    def log_prob_standardised(self, standardised: Any) -> Any:
        """Log density of the standardised parameters."""
        theta, log_jacobian = self.parameters(standardised)
        return self.log_prob(theta) + log_jacobian

    @staticmethod
    def _hessian(log_prob: Callable[[Any], Any], point: Array, step: float = 1e-5) -> Array:
        shifts = step * np.concatenate([np.eye(point.size), -np.eye(point.size)])
        with tf.GradientTape() as tape:
            points = tf.constant(point + shifts)
            tape.watch(points)
            value = log_prob(points)
        ahead, behind = np.split(tape.gradient(value, points).numpy(), 2)
        hessian = (behind - ahead) / (2.0 * step)
        return np.asarray(hessian + hessian.T) / 2.0

    def many(self, function: Callable[[Any], Any], draws: Array) -> Array:
        """Apply a function of `[n, 17]` to draws `[..., 17]`, a few at a time."""
        pieces = np.array_split(draws.reshape(-1, draws.shape[-1]), max(draws.size // 1000, 1))
        values = [function(tf.constant(piece)).numpy() for piece in pieces]
        return np.concatenate(values).reshape(draws.shape)

    def _draws(self) -> Array:
        if self.reference is None:
            raise RuntimeError("The covariance of the haloes' parameters is not known yet.")
        return self.reference

    def target(self, standardised: bool) -> Target:
        """The target in either coordinates; the true covariance is that of `self.reference`."""
        size = self.optimum.size
        if not standardised:
            return Target(
                self.log_prob,
                None,
                self.starts,
                lambda draws: draws,
                None,
                lambda: np.cov(self.many(lambda x: self.parameters(x)[0], self._draws()).T),
                (self.hessian, 2 * size),
                (64, 64),
                (4, 8, 16, 32, 64),
            )
        mode = self.standardised(tf.constant(self.optimum[np.newaxis])).numpy()[0]
        return Target(
            self.log_prob_standardised,
            None,
            lambda chains: self.standardised(tf.constant(self.starts(chains))).numpy(),
            lambda draws: self.many(lambda x: self.parameters(x)[0], draws),
            None,
            lambda: np.cov(self._draws().T),
            (self._hessian(self.log_prob_standardised, mode), 2 * size),
            (8, 64),
        )


@functools.cache
def halos() -> Halos:
    """The box, fitted once."""
    return Halos()


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussian_17": lambda: gaussian(np.geomspace(1e-2, 10.0, 17), (3, 32)),
    "gaussian_100": lambda: gaussian(np.geomspace(1e-4, 1.0, 100), (5, 64)),
    "banana": banana,
    "halos": lambda: halos().target(False),
    "halos_standardised": lambda: halos().target(True),
}
