"""Microcanonical dynamics: motion at constant speed in a landscape of log densities.

A point moves with a direction u of unit length that the force g = grad log p turns,

    x' = u,    u' = (1 - u u') g / (d - 1),

in d dimensions (Ver Steeg & Galstyan 2021, https://arxiv.org/abs/2111.02434; Robnik, De Luca,
Silverstein & Seljak 2023, https://arxiv.org/abs/2212.08549). The flow leaves p(x) times the uniform
distribution of directions invariant. For a constant force the turn is known in closed form: with
e the direction of g, c = u.e and delta = eps |g| / (d - 1),

    u <- [u + e (sinh delta + c (cosh delta - 1))] / (cosh delta + c sinh delta),

and the volume of directions shrinks so that -log p + K is conserved by the exact flow, with

    dK = (d - 1) log(cosh delta + c sinh delta).

Its change over a trajectory is the energy error, which is what an adjusted sampler accepts on and
what an unadjusted one keeps small.

With an inverse Hessian B the same is done in coordinates where B is the unit matrix, without ever
taking its root: directions w = B^(1/2) u have unit length in w'B^-1 w, and e becomes
B g / sqrt(g'B g).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from samplers.target import (
    InverseHessian,
    TargetLogProbFn,
    Tensor,
    to_dtype,
    value_and_gradient,
)
from samplers.trajectory import INTEGRATORS

__all__ = [
    "METRIC_OPERATIONS",
    "Force",
    "IsokineticTrajectory",
    "Metric",
    "event_size",
    "force",
    "integrate_isokinetic",
    "random_direction",
    "refresh_direction",
    "turn",
]


class Metric(InverseHessian, Protocol):
    """An `InverseHessian` that can be inverted, such as `FourierDiagonalInverseHessian`."""

    def apply_inverse(self, curvature: Any, vector: Tensor) -> Tensor:
        """Return B^-1 v for every chain of `vector`, `[..., event]`."""


METRIC_OPERATIONS = ("apply", "apply_inverse", "sample", "event_ndims")
"""What a `Metric` is asked for."""


class Force(NamedTuple):
    """What the gradient does to directions.

    Attributes:
        direction: e = B g / sqrt(g'B g), `[..., event]`; zero where the gradient is.
        strength: sqrt(g'B g), float64 `[..., 1]` with one trailing axis for each of an event's.
    """

    direction: Tensor
    strength: Tensor


class IsokineticTrajectory(NamedTuple):
    """The end of a trajectory.

    Attributes:
        state: `[..., event]`.
        direction: `[..., event]`, of unit length in the metric.
        target_log_prob: log density at the end, `[...]`.
        gradient: its gradient, `[..., event]`.
        kinetic_change: K at the end minus K at the start, float64 `[...]`; NaN if the trajectory
            left the finite numbers.
        squared_error: square of the change of -log p + K in one step, summed over the steps,
            float64 `[...]`.
    """

    state: Tensor
    direction: Tensor
    target_log_prob: Tensor
    gradient: Tensor
    kinetic_change: Tensor
    squared_error: Tensor


def event_size(state: Tensor, metric: InverseHessian) -> int:
    """Number d of dimensions of one point.

    Args:
        state: `[..., event]`.
        metric: says how many axes an event has.

    Returns:
        The number.

    Raises:
        ValueError: if it is not known or less than two: a direction on a line cannot turn.
    """
    shape = state.shape[-metric.event_ndims :] if state.shape.rank is not None else None
    if shape is None or not shape.is_fully_defined() or math.prod(shape) < 2:
        raise ValueError(
            "Invalid value for argument `state`. Expected points of a known number of dimensions, "
            f"at least 2. Received: shape={state.shape} with {metric.event_ndims} axes per point"
        )
    return math.prod(shape)


def random_direction(metric: Metric, curvature: Any, seed: Tensor, batch_shape: Tensor) -> Tensor:
    """Draw directions uniformly on the sphere of the metric, `[..., event]`.

    Args:
        metric: what B is.
        curvature: its curvature state.
        seed: stateless seed.
        batch_shape: shape of the chains.
    """
    return _normalise(metric, curvature, metric.sample(curvature, seed, batch_shape))


def refresh_direction(
    metric: Metric, curvature: Any, direction: Tensor, time_to_length: Tensor, seed: Tensor
) -> Tensor:
    """Turn directions by a random angle, so that they are forgotten in the end.

    With t the time over the decoherence length, the new direction is along
    exp(-t) u + sqrt((1 - exp(-2 t)) / d) z with z ~ N(0, 1).

    Args:
        metric: what B is.
        curvature: its curvature state.
        direction: `[..., event]`.
        time_to_length: t, a scalar.
        seed: stateless seed.

    Returns:
        New directions, `[..., event]`.
    """
    batch = tf.shape(direction)[: direction.shape.rank - metric.event_ndims]
    noise = metric.sample(curvature, seed, batch)
    keep = tf.exp(-time_to_length)
    spread = tf.sqrt(-tf.math.expm1(-2.0 * time_to_length) / event_size(direction, metric))
    turned = tf.cast(keep, direction.dtype) * direction + tf.cast(spread, direction.dtype) * noise
    return _normalise(metric, curvature, turned)


def force(metric: Metric, curvature: Any, gradient: Tensor) -> Force:
    """Split a gradient into its direction and its strength in the metric.

    Args:
        metric: what B is.
        curvature: its curvature state.
        gradient: g of the log density, `[..., event]`.

    Returns:
        The force; NaN where the gradient is not finite.
    """
    axes = list(range(-metric.event_ndims, 0))
    # of order one, or its square could overflow
    largest = tf.reduce_max(tf.abs(gradient), axes, keepdims=True)
    scaled = tf.math.divide_no_nan(gradient, largest)
    pull = metric.apply(curvature, scaled)
    length = tf.sqrt(_dot(scaled, pull, metric))
    return Force(
        direction=tf.math.divide_no_nan(pull, tf.cast(length, pull.dtype)),
        strength=tf.cast(largest, tf.float64) * length,
    )


def turn(
    metric: Metric, direction: Tensor, gradient: Tensor, pull: Force, time: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn directions under a constant force.

    Args:
        metric: says how many axes an event has.
        direction: w, `[..., event]`, of unit length.
        gradient: g, `[..., event]`.
        pull: `force` of the gradient.
        time: for how long, float64, a scalar or `[..., 1]`.

    Returns:
        The new directions, `[..., event]`, and dK, float64 `[...]`.
    """
    axes = list(range(-metric.event_ndims, 0))
    dtype = direction.dtype.as_numpy_dtype
    freedom = event_size(direction, metric) - 1.0
    cosine = tf.math.divide_no_nan(_dot(direction, gradient, metric), pull.strength)
    cosine = tf.clip_by_value(cosine, -1.0, 1.0)
    delta = time * pull.strength / freedom
    fall = tf.exp(-delta)
    # (cosh delta + c sinh delta) 2 exp(-delta): no exponential here ever overflows
    spread = 1.0 + cosine + (1.0 - cosine) * tf.square(fall)
    spread = tf.maximum(spread, np.finfo(np.float64).tiny)
    aligned = 2.0 * (1.0 + cosine) / spread - 1.0
    # What is across the force shrinks by at most 1 / sqrt(1 - c^2); where c is -1 within the
    # rounding there is nothing across it but rounding errors, not to be blown up.
    shrink = tf.minimum(2.0 * fall / spread, np.finfo(dtype).eps ** -0.5)
    turned = (
        tf.cast(shrink, dtype) * direction
        + tf.cast(aligned - shrink * cosine, dtype) * pull.direction
    )
    change = tf.maximum(delta + tf.math.log(spread / 2.0), -delta)
    return turned, freedom * tf.squeeze(change, axes)


def integrate_isokinetic(
    target_log_prob_fn: TargetLogProbFn,
    metric: Metric,
    curvature: Any,
    state: Tensor,
    direction: Tensor,
    target_log_prob: Tensor,
    gradient: Tensor,
    step_size: Tensor,
    num_steps: Tensor,
    integrator: str = "leapfrog",
    decoherence_length: Tensor | None = None,
    seed: Tensor | None = None,
) -> IsokineticTrajectory:
    """Follow the dynamics for some steps.

    The schemes are those of `samplers.trajectory`, with turns for kicks. Every move is followed by
    one evaluation of the target and its gradient. A chain whose position stops being finite stays
    where it was, so that the target never sees anything else.

    Args:
        target_log_prob_fn: maps states `[..., event]` to log densities `[...]`.
        metric: what B is.
        curvature: its curvature state.
        state: where to start, `[..., event]`.
        direction: `[..., event]`, of unit length in the metric.
        target_log_prob: log density at the start, `[...]`.
        gradient: its gradient at the start, `[..., event]`.
        step_size: a scalar or `[..., 1]` with one per chain, a length in units in which B is one.
        num_steps: number of steps, at least 1.
        integrator: one of `samplers.trajectory.INTEGRATORS`.
        decoherence_length: over which the direction is forgotten, by half before and half after
            every step, a scalar; `None` for motion without noise.
        seed: stateless seed of the noise.

    Returns:
        The end of the trajectory.
    """
    scheme = INTEGRATORS[integrator]
    axes = list(range(-metric.event_ndims, 0))
    step_size = to_dtype(step_size, tf.float64)
    half = None
    if decoherence_length is not None:
        half = 0.5 * step_size / to_dtype(decoherence_length, tf.float64)

    def body(
        step: Tensor,
        x: Tensor,
        w: Tensor,
        log_prob: Tensor,
        g: Tensor,
        pull: Force,
        kinetic: Tensor,
        squared: Tensor,
    ) -> tuple[Any, ...]:
        before = tf.cast(log_prob, tf.float64)
        gained = tf.zeros_like(kinetic)
        if half is not None:
            own = tf.random.experimental.stateless_fold_in(seed, step)
            seeds = tfp.random.split_seed(own, n=2)
            w = refresh_direction(metric, curvature, w, half, seeds[0])
        for number, fraction in enumerate(scheme):
            if number % 2 == 0:
                w, change = turn(metric, w, g, pull, fraction * step_size)
                gained += change
            else:
                moved = x + tf.cast(fraction * step_size, x.dtype) * w
                finite = tf.reduce_all(tf.math.is_finite(moved), axes, keepdims=True)
                x = tf.ensure_shape(tf.where(finite, moved, x), state.shape)
                log_prob, g = value_and_gradient(target_log_prob_fn, x)
                pull = force(metric, curvature, g)
                gained = tf.where(tf.squeeze(finite, axes), gained, np.nan)
        if half is not None:
            w = refresh_direction(metric, curvature, w, half, seeds[1])
        else:
            # An error of the length grows as the density falls, by exp(-dK / (d - 1)).
            w = _normalise(metric, curvature, w)
        log_prob = tf.ensure_shape(log_prob, target_log_prob.shape)
        error = gained - (tf.cast(log_prob, tf.float64) - before)
        w = tf.ensure_shape(w, state.shape)
        return step + 1, x, w, log_prob, g, pull, kinetic + gained, squared + tf.square(error)

    zero = tf.zeros_like(target_log_prob, tf.float64)
    pull = force(metric, curvature, gradient)
    start = (tf.constant(0), state, direction, target_log_prob, gradient, pull, zero, zero)
    if isinstance(num_steps, int) and num_steps == 1:
        end = body(*start)
    else:
        end = tf.while_loop(lambda step, *_: step < num_steps, body, start)
    _, x, w, log_prob, g, _, kinetic, squared = end
    return IsokineticTrajectory(x, w, log_prob, g, kinetic, squared)


def _dot(a: Tensor, b: Tensor, metric: InverseHessian) -> Tensor:
    """Inner product over an event, kept as axes of one.

    In double precision: the cosine enters the energy of a field times some 1e4, and what follows
    from it times the number of cells.
    """
    axes = list(range(-metric.event_ndims, 0))
    product = tf.cast(a, tf.float64) * tf.cast(b, tf.float64)
    return tf.reduce_sum(product, axes, keepdims=True)


def _normalise(metric: Metric, curvature: Any, vector: Tensor) -> Tensor:
    square = _dot(vector, metric.apply_inverse(curvature, vector), metric)
    return vector / tf.cast(tf.sqrt(square), vector.dtype)
