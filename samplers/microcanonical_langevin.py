"""Unadjusted microcanonical Langevin Monte Carlo (MCLMC) and the adaptation of its step size.

One long trajectory of the dynamics of `samplers.isokinetic`, whose direction forgets itself over a
decoherence length (Robnik, De Luca, Silverstein & Seljak 2023, https://arxiv.org/abs/2212.08549).
Nothing is ever rejected; the price is a bias that the energy error controls.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from samplers.arguments import check_count, check_dynamics, check_positive
from samplers.isokinetic import (
    METRIC_OPERATIONS,
    Metric,
    event_size,
    integrate_isokinetic,
    random_direction,
)
from samplers.kernel import Kernel, argument
from samplers.parts import Parts, as_parts, like_state
from samplers.results import find_innermost, replace_innermost
from samplers.target import (
    TargetLogProbFn,
    Tensor,
    check_start,
    stateless_seed,
    to_dtype,
    value_and_gradients,
)

__all__ = [
    "EnergyErrorAdaptation",
    "EnergyErrorAdaptationResults",
    "MicrocanonicalLangevin",
    "MicrocanonicalLangevinResults",
]


class MicrocanonicalLangevinResults(NamedTuple):
    """Results of `MicrocanonicalLangevin`; lists have as many parts as the state.

    Attributes:
        target_log_prob: log density of the state, `[...]`.
        grads_target_log_prob: its gradient, a list of `[..., event]`.
        direction: of the motion, a list of `[..., event]`; zero before the first step.
        energy_change: change of -log density + K over the call, which would be zero but for the
            integrator, `[...]`; NaN if the call left the finite numbers and was not taken.
        squared_energy_error: square of the change in one integrator step, averaged over those of
            the call, `[...]`; NaN as above.
        step_size: a length in units in which B is one, a scalar.
        decoherence_length: in the same units, a scalar.
        inverse_hessian: the curvature state, a nest of tensors.
        seed: the seed of the step, `[2]`.
    """

    target_log_prob: Tensor
    grads_target_log_prob: list[Tensor]
    direction: list[Tensor]
    energy_change: Tensor
    squared_energy_error: Tensor
    step_size: Tensor
    decoherence_length: Tensor
    inverse_hessian: Any
    seed: Tensor


class MicrocanonicalLangevin(Kernel):
    """Unadjusted microcanonical Langevin Monte Carlo.

    Every step moves; only a step to where the log density or its gradient is not finite, or one
    beyond `max_energy_change`, is not taken, and the chain leaves in a new direction. The draws
    therefore have a density that differs from the target by the error of the integrator, which
    shows in the energy: the published measure is the mean of `squared_energy_error` over the number
    d of dimensions, the energy error variance per dimension, and the published recommendation 5e-4.
    `EnergyErrorAdaptation` sets the step size for a given error.

    The error grows as the sixth power of the step size and the bias as the square. With leapfrog, a
    direction of a Gaussian of width s in units of B has its variance too large by h^2 / 4, with
    h = step_size / (s sqrt(d)), and a share h^6 / 16 in the mean; if all widths are equal the
    constant speed leaves h^2 / 12 and h^6 / 144. So variances are off by 5% (3.5%) at 5e-4 and 1%
    (0.7%) at 4e-6. The mean may hide a few narrow directions: those of h > 2 are unstable.

    Args:
        target_log_prob_fn: maps states `[..., event]` to one log density per chain, `[...]`.
        step_size: length of a step in units in which B is one, a positive scalar. With B the
            posterior covariance every coordinate moves by step_size / sqrt(d) posterior widths.
        inverse_hessian: what B is: `DiagonalInverseHessian`, `FourierDiagonalInverseHessian`.
        decoherence_length: length over which the direction is forgotten, a positive scalar in the
            same units; by default sqrt(d), right within a factor of a few where B is the posterior
            covariance.
        initial_curvature: curvature state; by default that of B = 1.
        integrator: ``"leapfrog"``, or ``"two_stage"`` or ``"three_stage"`` with as many gradients
            per step.
        num_steps: integrator steps per call of `one_step`, a positive integer.
        max_energy_change: a call over which the energy changes by more than this, up or down, is
            not taken either: a trajectory that has met something steeper than the step size can
            follow would leave the posterior for good. It must be far above the changes that are
            usual, or it biases the draws; positive and finite, by default there is no limit.
        name: prefix of the names of operations.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        step_size: Tensor,
        inverse_hessian: Metric,
        decoherence_length: Tensor | None = None,
        initial_curvature: Any = None,
        integrator: str = "leapfrog",
        num_steps: int = 1,
        max_energy_change: Tensor | None = None,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        check_dynamics(target_log_prob_fn, inverse_hessian, integrator, METRIC_OPERATIONS)
        check_positive("step_size", step_size)
        if decoherence_length is not None:
            check_positive("decoherence_length", decoherence_length)
        check_count("num_steps", num_steps)
        if max_energy_change is not None:
            check_positive("max_energy_change", max_energy_change)
        self._parameters: dict[str, Any] = {
            "target_log_prob_fn": target_log_prob_fn,
            "step_size": step_size,
            "inverse_hessian": inverse_hessian,
            "decoherence_length": decoherence_length,
            "initial_curvature": initial_curvature,
            "integrator": integrator,
            "num_steps": num_steps,
            "max_energy_change": max_energy_change,
            "name": name,
        }

    target_log_prob_fn = argument("target_log_prob_fn", "The log density.")
    inverse_hessian = argument("inverse_hessian", "What B is.")

    @property
    def is_calibrated(self) -> bool:
        """False: the step size biases the draws."""
        return False

    def one_step(
        self,
        current_state: Tensor,
        previous_kernel_results: MicrocanonicalLangevinResults,
        seed: Tensor = None,
    ) -> tuple[Tensor, MicrocanonicalLangevinResults]:
        """Move on by `num_steps` steps of the integrator.

        Args:
            current_state: `[..., event]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state and its results.
        """
        own, previous = self._parameters, previous_kernel_results
        with tf.name_scope((self.name or "microcanonical_langevin") + "_one_step"):
            metric, curvature = self.inverse_hessian, previous.inverse_hessian
            parts = as_parts(current_state)
            layout = Parts(parts, previous.target_log_prob.shape.rank, metric)
            state = layout.join(parts)
            old_gradient = layout.join(previous.grads_target_log_prob)
            seed = stateless_seed(seed)
            seeds = tfp.random.split_seed(seed, n=2)
            end = integrate_isokinetic(
                layout.target(self.target_log_prob_fn),
                metric,
                curvature,
                state,
                layout.join(previous.direction),
                previous.target_log_prob,
                old_gradient,
                previous.step_size,
                own["num_steps"],
                own["integrator"],
                previous.decoherence_length,
                seeds[0],
            )
            gained = tf.cast(end.target_log_prob, tf.float64)
            gained -= tf.cast(previous.target_log_prob, tf.float64)
            energy = end.kinetic_change - gained
            # A gradient that is not finite shows as well: the last turn is by it.
            sound = tf.math.is_finite(end.squared_error)
            if own["max_energy_change"] is not None:
                sound &= tf.abs(energy) <= to_dtype(own["max_energy_change"], tf.float64)
            fresh = random_direction(metric, curvature, seeds[1], tf.shape(sound))
            wide = tf.reshape(sound, tf.concat([tf.shape(sound), [1] * metric.event_ndims], 0))
            direction = tf.ensure_shape(tf.where(wide, end.direction, fresh), state.shape)

            def recorded(value: Tensor) -> Tensor:
                return tf.cast(tf.where(sound, value, np.nan), end.target_log_prob.dtype)

            results = previous._replace(
                target_log_prob=tf.where(sound, end.target_log_prob, previous.target_log_prob),
                grads_target_log_prob=layout.split(tf.where(wide, end.gradient, old_gradient)),
                direction=layout.split(direction),
                energy_change=recorded(energy),
                squared_energy_error=recorded(end.squared_error / own["num_steps"]),
                seed=seed,
            )
            moved = layout.split(tf.where(wide, end.state, state))
            return like_state(current_state, moved), results

    def bootstrap_results(self, init_state: Tensor) -> MicrocanonicalLangevinResults:
        """Evaluate the target at the initial state; the first step draws a direction.

        Args:
            init_state: `[..., event]`, or a list of parts.

        Returns:
            Results to start from.

        Raises:
            ValueError: if a point has fewer than two dimensions, the target does not return one
                value per chain or, in eager mode, its value or gradient is not finite.
        """
        own = self._parameters
        with tf.name_scope((self.name or "microcanonical_langevin") + "_bootstrap_results"):
            parts = as_parts(init_state)
            log_prob, gradients = value_and_gradients(self.target_log_prob_fn, parts)
            layout = Parts(parts, log_prob.shape.rank, self.inverse_hessian)
            state = layout.join(parts)
            check_start(state, log_prob, layout.join(gradients), self.inverse_hessian)
            size = event_size(state, self.inverse_hessian)
            curvature = own["initial_curvature"]
            if curvature is None:
                curvature = self.inverse_hessian.initial(state)
            curvature = tf.nest.map_structure(lambda value: tf.cast(value, state.dtype), curvature)
            length = own["decoherence_length"]
            return MicrocanonicalLangevinResults(
                target_log_prob=log_prob,
                grads_target_log_prob=gradients,
                # Without a seed there is no direction yet: the noise of the first step makes one.
                direction=[tf.zeros_like(part) for part in parts],
                energy_change=tf.zeros_like(log_prob),
                squared_energy_error=tf.zeros_like(log_prob),
                step_size=to_dtype(own["step_size"], log_prob.dtype),
                decoherence_length=to_dtype(
                    math.sqrt(size) if length is None else length, log_prob.dtype
                ),
                inverse_hessian=curvature,
                seed=tf.zeros([2], tf.int32),
            )


class EnergyErrorAdaptationResults(NamedTuple):
    """Results of `EnergyErrorAdaptation`.

    Attributes:
        inner_results: results of the inner kernel.
        step: number of steps taken, int32 scalar.
        remembered: number of steps in the average, float64 scalar.
        scaled_error: the average of squared energy error per dimension over step size^6, float64
            scalar.
    """

    inner_results: Any
    step: Tensor
    remembered: Tensor
    scaled_error: Tensor


# An average of values with weights that grow as this power of the number of the step.
_WEIGHT_POWER = 3.0


class EnergyErrorAdaptation(Kernel):
    """Sets the step size of `MicrocanonicalLangevin` by the size of its energy errors.

    The squared energy error of a step grows as the sixth power of the step size. Its average over
    the steps taken, all chains pooled and late steps weighing more, gives the step size at which
    it equals `target_error` per dimension. If that is more than a factor of two away, the step size
    changes by this factor and the average begins anew; a step that was longer than twice what it
    should have been, or not finite in some chain, is undone. So the first step size may be far off
    either way. After `num_adaptation_steps` nothing changes.

    Far from where the posterior is, densities fall steeply and the step size for this error is
    small: chains come in slowly, and should start near.

    Args:
        inner_kernel: `MicrocanonicalLangevin`, or a wrapper around it.
        num_adaptation_steps: number of steps with adaptation, a positive integer.
        target_error: wanted mean squared energy error per integrator step and dimension, positive.
        name: prefix of the names of operations.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        inner_kernel: Any,
        num_adaptation_steps: Tensor,
        target_error: float = 5e-4,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        check_count("num_adaptation_steps", num_adaptation_steps)
        check_positive("target_error", target_error)
        innermost = inner_kernel
        while "inner_kernel" in getattr(innermost, "parameters", {}):
            innermost = innermost.parameters["inner_kernel"]
        if not isinstance(innermost, MicrocanonicalLangevin):
            raise ValueError(
                "Invalid value for argument `inner_kernel`. Expected a `MicrocanonicalLangevin` "
                f"or a wrapper around one. Received: inner_kernel={inner_kernel!r}"
            )
        self._parameters: dict[str, Any] = {
            "inner_kernel": inner_kernel,
            "num_adaptation_steps": num_adaptation_steps,
            "target_error": target_error,
            "name": name,
        }

    inner_kernel = argument("inner_kernel", "The kernel whose step size is set.")

    @property
    def is_calibrated(self) -> bool:
        """Whether the inner kernel is, which it is not."""
        return bool(self.inner_kernel.is_calibrated)

    def one_step(
        self,
        current_state: Tensor,
        previous_kernel_results: EnergyErrorAdaptationResults,
        seed: Tensor = None,
    ) -> tuple[Tensor, EnergyErrorAdaptationResults]:
        """Step the inner kernel and set its next step size.

        Args:
            current_state: `[..., event]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The next state and the results.
        """
        own, previous = self._parameters, previous_kernel_results
        with tf.name_scope((self.name or "energy_error_adaptation") + "_one_step"):
            state, inner = self.inner_kernel.one_step(
                current_state, previous.inner_results, seed=seed
            )
            state, current_state = tf.nest.map_structure(
                tf.convert_to_tensor, (state, current_state)
            )
            direction = find_innermost(inner, "direction")
            chain_ndims = find_innermost(inner, "target_log_prob").shape.rank
            size = sum(math.prod(part.shape[chain_ndims:]) for part in direction)
            kept = find_innermost(inner, "step_size")
            used = tf.cast(kept, tf.float64)
            error = tf.cast(find_innermost(inner, "squared_energy_error"), tf.float64)
            error = tf.reduce_mean(error) / size
            sound = tf.math.is_finite(error)
            error = tf.where(sound, error, 0.0)

            remembered = previous.remembered + 1.0
            share = (_WEIGHT_POWER + 1.0) / (_WEIGHT_POWER + remembered)
            scaled = previous.scaled_error + share * (error / used**6 - previous.scaled_error)
            scaled = tf.maximum(scaled, np.finfo(np.float64).tiny)
            wanted = (to_dtype(own["target_error"], tf.float64) / scaled) ** (1.0 / 6.0)
            wanted = tf.where(sound, wanted, 0.0)
            near = (wanted >= 0.5 * used) & (wanted <= 2.0 * used)

            adapting = previous.step < tf.cast(own["num_adaptation_steps"], tf.int32)
            undone = adapting & (wanted < 0.5 * used)
            state, inner = tf.nest.map_structure(
                lambda new, old: tf.where(undone, old, new),
                (state, inner),
                (current_state, previous.inner_results),
            )
            wanted = tf.clip_by_value(wanted, 0.5 * used, 2.0 * used)
            step_size = tf.where(adapting, tf.cast(wanted, kept.dtype), kept)
            return state, EnergyErrorAdaptationResults(
                inner_results=replace_innermost(inner, "step_size", step_size),
                step=previous.step + 1,
                remembered=tf.where(adapting, tf.where(near, remembered, 0.0), previous.remembered),
                scaled_error=tf.where(adapting, scaled, previous.scaled_error),
            )

    def bootstrap_results(self, init_state: Tensor) -> EnergyErrorAdaptationResults:
        """Start with the inner kernel's results at the initial state."""
        return EnergyErrorAdaptationResults(
            inner_results=self.inner_kernel.bootstrap_results(init_state),
            step=tf.constant(0, tf.int32),
            remembered=tf.constant(0.0, tf.float64),
            scaled_error=tf.constant(0.0, tf.float64),
        )
