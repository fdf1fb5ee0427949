"""Hamiltonian trajectories by symmetric splitting: leapfrog and schemes of smaller error.

The equations of motion x' = B M^-1 p, p' = -B grad V are split into moves of x and kicks of p. A
scheme is the palindrome of fractions of a step that kicks and moves take in turn, beginning and
ending with a kick; it is reversible and preserves volume whatever they are. The schemes of two and
three stages cost two and three gradients a step and are second order like leapfrog, but have a much
smaller error, so that at equal cost they accept more in many dimensions, where the energy error
grows as d^(1/2) and the step has to shrink as d^(-1/4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from samplers.target import (
    InverseHessian,
    TargetLogProbFn,
    Tensor,
    to_dtype,
    value_and_gradient,
)

__all__ = ["INTEGRATORS", "Trajectory", "integrate_trajectory"]

_TWO = 0.1931833275037836  # Omelyan, Mryglod & Folk 2003, minimal norm of the error
# Blanes, Casas & Sanz-Serna 2014, minimal energy error up to their step
_THREE_KICK, _THREE_MOVE = 0.11888010966548, 0.29619504261126

# Fractions of kicks and moves in turn.
INTEGRATORS: dict[str, tuple[float, ...]] = {
    "leapfrog": (0.5, 1.0, 0.5),
    "two_stage": (_TWO, 0.5, 1.0 - 2.0 * _TWO, 0.5, _TWO),
    "three_stage": (
        _THREE_KICK,
        _THREE_MOVE,
        0.5 - _THREE_KICK,
        1.0 - 2.0 * _THREE_MOVE,
        0.5 - _THREE_KICK,
        _THREE_MOVE,
        _THREE_KICK,
    ),
}


class Trajectory(NamedTuple):
    """The end of a trajectory.

    Attributes:
        state: `[..., event]`.
        momentum: `[..., event]`; NaN if the trajectory ran to infinity.
        target_log_prob: log density at the end, `[...]`.
        gradient: its gradient, `[..., event]`.
        kinetic_change: change of the kinetic energy, float64 `[...]`.
    """

    state: Tensor
    momentum: Tensor
    target_log_prob: Tensor
    gradient: Tensor
    kinetic_change: Tensor


def integrate_trajectory(
    target_log_prob_fn: TargetLogProbFn,
    inverse_hessian: InverseHessian,
    curvature: Any,
    state: Tensor,
    momentum: Tensor,
    target_log_prob: Tensor,
    gradient: Tensor,
    step_size: Tensor,
    num_leapfrog_steps: Tensor,
    mass: Tensor | None = None,
    integrator: str = "leapfrog",
    sum_over_shards: Callable[[Tensor], Tensor] | None = None,
) -> Trajectory:
    """Integrate the equations of motion.

    The target and its gradient are evaluated once per move; the first kick takes the gradient
    given, and the last kick of a step is one with the first of the next. A chain whose position
    stops being finite stays where it was, so that the target never sees anything else, and is
    marked by a momentum of NaN.

    Args:
        target_log_prob_fn: maps states `[..., event]` to log densities `[...]`.
        inverse_hessian: what B is.
        curvature: its curvature state.
        state: where to start, `[..., event]`.
        momentum: `[..., event]`.
        target_log_prob: log density at the start, `[...]`.
        gradient: its gradient at the start, `[..., event]`.
        step_size: step size, a scalar or `[..., 1]` with one per chain.
        num_leapfrog_steps: number of steps of the integrator, at least 1.
        mass: diagonal mass matrix M, broadcastable to `[event]`; `None` for M = B.
        integrator: one of `INTEGRATORS`.
        sum_over_shards: adds a quantity of this part of the state to that of the others, if the
            state is distributed.

    Returns:
        The end of the trajectory.
    """
    kicks, moves = INTEGRATORS[integrator][::2], INTEGRATORS[integrator][1::2]
    event_axes = list(range(-inverse_hessian.event_ndims, 0))
    dtype = state.dtype
    eps = to_dtype(step_size, dtype)
    num_steps = tf.convert_to_tensor(num_leapfrog_steps, tf.int32)
    nan = tf.constant(np.nan, dtype)

    def velocity(p: Tensor) -> Tensor:
        return p if mass is None else inverse_hessian.apply(curvature, p / mass)

    def everywhere(finite: Tensor) -> Tensor:
        if sum_over_shards is None:
            return finite
        return sum_over_shards(tf.cast(~finite, tf.int32)) == 0

    def body(
        step: Tensor, x: Tensor, p: Tensor, log_prob: Tensor, g: Tensor, impulse: Tensor
    ) -> tuple[Tensor, ...]:
        step += 1
        for number, move in enumerate(moves):
            moved = x + move * eps * velocity(p)
            finite = tf.reduce_all(tf.math.is_finite(moved), event_axes, keepdims=True)
            finite = everywhere(finite)
            x = tf.ensure_shape(tf.where(finite, moved, x), state.shape)
            log_prob, g = value_and_gradient(target_log_prob_fn, x)
            fraction = tf.constant(kicks[number + 1], dtype)
            if number == len(moves) - 1:
                fraction += tf.where(step < num_steps, tf.constant(kicks[0], dtype), 0)
            kick = fraction * g
            impulse += kick
            p = tf.where(finite, p + eps * inverse_hessian.apply(curvature, kick), nan)
        log_prob = tf.ensure_shape(log_prob, target_log_prob.shape)
        return step, x, tf.ensure_shape(p, state.shape), log_prob, g, impulse

    impulse = kicks[0] * gradient
    start = momentum + eps * inverse_hessian.apply(curvature, impulse)
    values: tuple[Tensor, ...]
    values = (tf.constant(0), state, start, target_log_prob, gradient, impulse)
    known_steps = tf.get_static_value(num_steps)
    if sum_over_shards is not None and known_steps is not None:
        # replicas of a strategy cannot wait for each other within a loop of the graph
        for _ in range(known_steps):
            values = body(*values)
    else:
        values = tf.while_loop(lambda step, *_: step < num_steps, body, values)
    _, end_state, end_momentum, end_log_prob, end_gradient, impulse = values
    # Sums over a field's cells lose the nats that decide acceptance in single precision.
    p0, p1 = tf.cast(momentum, tf.float64), tf.cast(end_momentum, tf.float64)
    if mass is None:
        work = tf.cast(eps * impulse, tf.float64) * (p0 + p1)
    else:
        work = (p1 - p0) * (p1 + p0) / tf.cast(mass, tf.float64)
    work = tf.reduce_sum(work, event_axes) / 2
    return Trajectory(
        state=end_state,
        momentum=end_momentum,
        target_log_prob=end_log_prob,
        gradient=end_gradient,
        kinetic_change=work if sum_over_shards is None else sum_over_shards(work),
    )
