"""Metropolis-adjusted microcanonical sampling (MAMS).

Trajectories of the dynamics of `samplers.isokinetic` from a fresh random direction, accepted on
their energy error and therefore exact (Robnik, Cohn-Gordon & Seljak 2025,
https://arxiv.org/abs/2503.01707).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from samplers.arguments import check_count, check_dynamics, check_step_size
from samplers.isokinetic import (
    METRIC_OPERATIONS,
    Metric,
    event_size,
    integrate_isokinetic,
    random_direction,
)
from samplers.kernel import AdjustedKernel, Kernel, argument
from samplers.parts import Parts, as_parts, like_state
from samplers.target import (
    TargetLogProbFn,
    Tensor,
    check_start,
    stateless_seed,
    to_dtype,
    value_and_gradients,
)

__all__ = ["MicrocanonicalHMC", "MicrocanonicalHMCResults", "UncalibratedMicrocanonicalHMC"]


class MicrocanonicalHMCResults(NamedTuple):
    """Results of `UncalibratedMicrocanonicalHMC`; lists have as many parts as the state.

    Attributes:
        log_acceptance_correction: minus the change of K, `[...]`.
        target_log_prob: log density of the state, `[...]`; minus infinity where it is NaN.
        grads_target_log_prob: its gradient, a list of `[..., event]`.
        initial_direction: direction at the start, a list of `[..., event]`.
        final_direction: direction at the end, a list of `[..., event]`.
        step_size: the step size if stored in the results, else an empty list.
        num_leapfrog_steps: their number if stored in the results, else an empty list.
        inverse_hessian: the curvature state, a nest of tensors.
        seed: the seed of the step, `[2]`.
    """

    log_acceptance_correction: Tensor
    target_log_prob: Tensor
    grads_target_log_prob: list[Tensor]
    initial_direction: list[Tensor]
    final_direction: list[Tensor]
    step_size: Tensor
    num_leapfrog_steps: Tensor
    inverse_hessian: Any
    seed: Tensor


class UncalibratedMicrocanonicalHMC(Kernel):
    """One trajectory without the accept-reject step; see `MicrocanonicalHMC` for the arguments."""

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        step_size: Tensor,
        num_leapfrog_steps: Tensor,
        inverse_hessian: Metric,
        initial_curvature: Any = None,
        integrator: str = "leapfrog",
        num_steps_jitter: float = 0.0,
        store_parameters_in_results: bool = False,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        check_dynamics(target_log_prob_fn, inverse_hessian, integrator, METRIC_OPERATIONS)
        check_step_size(step_size, inverse_hessian.event_ndims)
        check_count("num_leapfrog_steps", num_leapfrog_steps)
        if isinstance(num_steps_jitter, bool) or not 0 <= num_steps_jitter <= 1:
            raise ValueError(
                "Invalid value for argument `num_steps_jitter`. Expected a number in [0, 1]. "
                f"Received: num_steps_jitter={num_steps_jitter!r}"
            )
        self._parameters: dict[str, Any] = {
            "target_log_prob_fn": target_log_prob_fn,
            "step_size": step_size,
            "num_leapfrog_steps": num_leapfrog_steps,
            "inverse_hessian": inverse_hessian,
            "initial_curvature": initial_curvature,
            "integrator": integrator,
            "num_steps_jitter": num_steps_jitter,
            "store_parameters_in_results": store_parameters_in_results,
            "name": name,
        }

    target_log_prob_fn = argument("target_log_prob_fn", "The log density.")
    inverse_hessian = argument("inverse_hessian", "What B is.")

    @property
    def is_calibrated(self) -> bool:
        """False: the proposal is always taken."""
        return False

    def one_step(
        self,
        current_state: Tensor,
        previous_kernel_results: MicrocanonicalHMCResults,
        seed: Tensor = None,
    ) -> tuple[Tensor, MicrocanonicalHMCResults]:
        """Draw a direction and follow one trajectory.

        Args:
            current_state: `[..., event]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The end of the trajectory and its results.
        """
        own, previous = self._parameters, previous_kernel_results
        with tf.name_scope((self.name or "microcanonical_hmc") + "_one_step"):
            parts = as_parts(current_state)
            layout = Parts(parts, previous.target_log_prob.shape.rank, self.inverse_hessian)
            state = layout.join(parts)
            curvature = previous.inverse_hessian
            stored = own["store_parameters_in_results"]
            step_size = previous.step_size if stored else own["step_size"]
            num_steps = previous.num_leapfrog_steps if stored else own["num_leapfrog_steps"]
            log_prob = previous.target_log_prob
            seed = stateless_seed(seed)
            seeds = tfp.random.split_seed(seed, n=2)
            direction = random_direction(
                self.inverse_hessian, curvature, seeds[0], tf.shape(log_prob)
            )
            direction = tf.ensure_shape(direction, state.shape)
            num_steps = tf.convert_to_tensor(num_steps, tf.int32)
            if own["num_steps_jitter"]:
                spread = own["num_steps_jitter"] * tf.random.stateless_uniform(
                    [], seeds[1], -1.0, 1.0, tf.float64
                )
                exact = tf.cast(num_steps, tf.float64) * (1.0 + spread)
                num_steps = tf.maximum(tf.cast(tf.round(exact), tf.int32), 1)
            end = integrate_isokinetic(
                layout.target(self.target_log_prob_fn),
                self.inverse_hessian,
                curvature,
                state,
                direction,
                log_prob,
                layout.join(previous.grads_target_log_prob),
                step_size,
                num_steps,
                own["integrator"],
            )
            end_log_prob = end.target_log_prob
            lowest = tf.constant(-np.inf, end_log_prob.dtype)
            # Step size, step number and curvature pass as the identical objects: accept-reject
            # would select any other per chain, and they are shared by chains.
            results = previous._replace(
                log_acceptance_correction=tf.ensure_shape(
                    tf.cast(-end.kinetic_change, log_prob.dtype), log_prob.shape
                ),
                target_log_prob=tf.where(tf.math.is_nan(end_log_prob), lowest, end_log_prob),
                grads_target_log_prob=layout.split(end.gradient),
                initial_direction=layout.split(direction),
                final_direction=layout.split(end.direction),
                seed=seed,
            )
            return like_state(current_state, layout.split(end.state)), results

    def bootstrap_results(self, init_state: Tensor) -> MicrocanonicalHMCResults:
        """Evaluate the target at the initial state.

        Args:
            init_state: `[..., event]`, or a list of parts.

        Returns:
            Results to start from.

        Raises:
            ValueError: if a point has fewer than two dimensions, the target does not return one
                value per chain or, in eager mode, its value or gradient is not finite.
        """
        own = self._parameters
        with tf.name_scope((self.name or "microcanonical_hmc") + "_bootstrap_results"):
            parts = as_parts(init_state)
            log_prob, gradients = value_and_gradients(self.target_log_prob_fn, parts)
            layout = Parts(parts, log_prob.shape.rank, self.inverse_hessian)
            state = layout.join(parts)
            check_start(state, log_prob, layout.join(gradients), self.inverse_hessian)
            event_size(state, self.inverse_hessian)
            curvature = own["initial_curvature"]
            if curvature is None:
                curvature = self.inverse_hessian.initial(state)
            stored = own["store_parameters_in_results"]
            return MicrocanonicalHMCResults(
                log_acceptance_correction=tf.zeros_like(log_prob),
                target_log_prob=log_prob,
                grads_target_log_prob=gradients,
                initial_direction=[tf.zeros_like(part) for part in parts],
                final_direction=[tf.zeros_like(part) for part in parts],
                # In the target's precision, as step size adaptation combines it with acceptance
                # probabilities.
                step_size=to_dtype(own["step_size"], log_prob.dtype) if stored else [],
                num_leapfrog_steps=(
                    tf.convert_to_tensor(own["num_leapfrog_steps"], tf.int32) if stored else []
                ),
                inverse_hessian=tf.nest.map_structure(
                    lambda value: tf.cast(value, state.dtype), curvature
                ),
                seed=tf.zeros([2], tf.int32),
            )


class MicrocanonicalHMC(AdjustedKernel):
    """Metropolis-adjusted microcanonical sampling.

    Every trajectory starts in a direction drawn uniformly on the sphere of the metric and is
    accepted with probability min(1, exp(-energy error)), which leaves the target invariant. The
    published recommendation is an acceptance of 0.9 and trajectories of random length. With B the
    posterior covariance they should be some 1.5 sqrt(d) long, three steps of leapfrog for a
    Gaussian in 100 dimensions.

    Args:
        target_log_prob_fn: maps states `[..., event]` to one log density per chain, `[...]`.
        step_size: length of a step in units in which B is one, positive; a scalar, or one per chain
            with trailing axes of one. With B the posterior covariance every coordinate moves by
            step_size / sqrt(d) posterior widths.
        num_leapfrog_steps: steps of the integrator per trajectory, a positive integer.
        inverse_hessian: what B is: `DiagonalInverseHessian`, `FourierDiagonalInverseHessian`.
        initial_curvature: curvature state; by default that of B = 1.
        integrator: ``"leapfrog"``, or ``"two_stage"`` or ``"three_stage"`` with as many gradients
            per step.
        num_steps_jitter: J in [0, 1]; the number of steps is multiplied by 1 + J u, u uniform on
            (-1, 1) and the same for all chains, and rounded, to at least one.
        store_parameters_in_results: whether step size and step number live in the results, where
            an adaptation can change them.
        name: prefix of the names of operations.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        step_size: Tensor,
        num_leapfrog_steps: Tensor,
        inverse_hessian: Metric,
        initial_curvature: Any = None,
        integrator: str = "leapfrog",
        num_steps_jitter: float = 0.0,
        store_parameters_in_results: bool = False,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        self._adjust(
            UncalibratedMicrocanonicalHMC(
                target_log_prob_fn=target_log_prob_fn,
                step_size=step_size,
                num_leapfrog_steps=num_leapfrog_steps,
                inverse_hessian=inverse_hessian,
                initial_curvature=initial_curvature,
                integrator=integrator,
                num_steps_jitter=num_steps_jitter,
                store_parameters_in_results=store_parameters_in_results,
                name=name,
            )
        )

    target_log_prob_fn = argument("target_log_prob_fn", "The log density.")
    inverse_hessian = argument("inverse_hessian", "What B is.")
    step_size = argument("step_size", "The step size to start with.")
    num_leapfrog_steps = argument("num_leapfrog_steps", "The number of steps to start with.")
