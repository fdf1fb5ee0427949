"""Quasi-Newton Hamiltonian Monte Carlo.

The Hamiltonian is H = V(x) + p'M^-1 p / 2 with V = -log density, and the equations of motion

    x' = B M^-1 p,    p' = -B grad V(x),

with B a symmetric approximation of the inverse Hessian, fixed within a trajectory (Fu, Luo & Zhang
2016, "Quasi-Newton Hamiltonian Monte Carlo"). H is conserved because B is symmetric, leapfrog
preserves volume and is reversible, and the whole equals HMC with the inverse mass B M^-1 B.

With the posterior covariance C and B near C, a mass M = 1 leaves the conditioning as it was; M = B,
the paper's own optimum (its appendix A), makes it 1. Then x' = p, momenta are drawn from N(0, B),
and the change of the kinetic energy needs no inverse: with p_L = p_0 - B w and
w = eps (g_0/2 + g_1 + ... + g_{L-1} + g_L/2), g = grad V,

    dK = (p_L'B^-1 p_L - p_0'B^-1 p_0) / 2 = -w'(p_0 + p_L) / 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from samplers.arguments import check_count, check_dynamics, check_step_size
from samplers.kernel import AdjustedKernel, Kernel, argument
from samplers.parts import Parts, as_parts, like_state
from samplers.shards import Shards
from samplers.target import (
    InverseHessian,
    TargetLogProbFn,
    Tensor,
    check_start,
    stateless_seed,
    to_dtype,
    value_and_gradients,
)
from samplers.trajectory import integrate_trajectory

__all__ = ["QuasiNewtonHMC", "QuasiNewtonHMCResults", "UncalibratedQuasiNewtonHMC"]

_MASS_IS_INVERSE_HESSIAN = "inverse_hessian"


class QuasiNewtonHMCResults(NamedTuple):
    """Results of `UncalibratedQuasiNewtonHMC`; lists have as many parts as the state.

    Attributes:
        log_acceptance_correction: minus the change of the kinetic energy, `[...]`.
        target_log_prob: log density of the state, `[...]`; minus infinity where it is NaN.
        grads_target_log_prob: its gradient, a list of `[..., event]`.
        initial_momentum: momentum at the start, a list of `[..., event]`.
        final_momentum: momentum at the end, a list of `[..., event]`.
        step_size: the step size if stored in the results, else an empty list.
        num_leapfrog_steps: their number if stored in the results, else an empty list.
        inverse_hessian: the curvature state, a nest of tensors.
        seed: the seed of the step, `[2]`.
    """

    log_acceptance_correction: Tensor
    target_log_prob: Tensor
    grads_target_log_prob: list[Tensor]
    initial_momentum: list[Tensor]
    final_momentum: list[Tensor]
    step_size: Tensor
    num_leapfrog_steps: Tensor
    inverse_hessian: Any
    seed: Tensor


class UncalibratedQuasiNewtonHMC(Kernel):
    """One trajectory without the accept-reject step; see `QuasiNewtonHMC` for the arguments."""

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        step_size: Tensor,
        num_leapfrog_steps: Tensor,
        inverse_hessian: InverseHessian,
        initial_curvature: Any = None,
        mass: Tensor = _MASS_IS_INVERSE_HESSIAN,
        step_size_jitter: float = 0.0,
        integrator: str = "leapfrog",
        state_gradients_are_stopped: bool = False,
        store_parameters_in_results: bool = False,
        experimental_shard_axis_names: Any = None,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        _check_arguments(
            target_log_prob_fn,
            step_size,
            num_leapfrog_steps,
            inverse_hessian,
            mass,
            step_size_jitter,
            integrator,
        )
        self._parameters = {
            "target_log_prob_fn": target_log_prob_fn,
            "step_size": step_size,
            "num_leapfrog_steps": num_leapfrog_steps,
            "inverse_hessian": inverse_hessian,
            "initial_curvature": initial_curvature,
            "mass": mass,
            "step_size_jitter": step_size_jitter,
            "integrator": integrator,
            "state_gradients_are_stopped": state_gradients_are_stopped,
            "store_parameters_in_results": store_parameters_in_results,
            "experimental_shard_axis_names": experimental_shard_axis_names,
            "name": name,
        }

    target_log_prob_fn = argument("target_log_prob_fn", "The log density.")
    inverse_hessian = argument("inverse_hessian", "What B is.")
    step_size = argument("step_size", "The step size to start with.")
    num_leapfrog_steps = argument("num_leapfrog_steps", "The number of steps to start with.")

    @property
    def is_calibrated(self) -> bool:
        """False: the proposal is always taken."""
        return False

    def one_step(
        self,
        current_state: Tensor,
        previous_kernel_results: QuasiNewtonHMCResults,
        seed: Tensor = None,
    ) -> tuple[Tensor, QuasiNewtonHMCResults]:
        """Draw a momentum and follow one trajectory.

        Args:
            current_state: `[..., event]`, or a list of parts.
            previous_kernel_results: results of the step before, or of `bootstrap_results`.
            seed: stateless seed.

        Returns:
            The end of the trajectory and its results.
        """
        with tf.name_scope((self.name or "quasi_newton_hmc") + "_one_step"):
            previous = previous_kernel_results
            parts = as_parts(current_state)
            layout = Parts(parts, previous.target_log_prob.shape.rank, self.inverse_hessian)
            state = layout.join(parts)
            stored = self._parameters["store_parameters_in_results"]
            step_size = previous.step_size if stored else self.step_size
            num_steps = previous.num_leapfrog_steps if stored else self.num_leapfrog_steps
            curvature = previous.inverse_hessian
            log_prob = previous.target_log_prob
            seed = stateless_seed(seed)
            seeds = tfp.random.split_seed(seed, n=2)
            momentum_seed = seeds[0] if self._shards is None else self._shards.own_seed(seeds[0])

            batch_shape = tf.shape(log_prob)
            if self._mass is None:
                mass = None
                momentum = self.inverse_hessian.sample(curvature, momentum_seed, batch_shape)
            else:
                mass = to_dtype(self._mass, state.dtype)
                momentum = tf.sqrt(mass) * tf.random.stateless_normal(
                    tf.shape(state), momentum_seed, dtype=state.dtype
                )
            momentum = tf.ensure_shape(momentum, state.shape)
            step_size = to_dtype(step_size, state.dtype)
            jitter = self._parameters["step_size_jitter"]
            if not (isinstance(jitter, (int, float)) and jitter == 0):
                jitter = to_dtype(jitter, state.dtype)
                factor = 1 + jitter * tf.random.stateless_uniform(
                    batch_shape, seeds[1], -1.0, 1.0, dtype=state.dtype
                )
                ones = tf.ones([self.inverse_hessian.event_ndims], tf.int32)
                step_size *= tf.reshape(factor, tf.concat([batch_shape, ones], 0))

            trajectory = integrate_trajectory(
                layout.target(self.target_log_prob_fn),
                self.inverse_hessian,
                curvature,
                state,
                momentum,
                log_prob,
                layout.join(previous.grads_target_log_prob),
                step_size,
                num_steps,
                mass,
                self._parameters["integrator"],
                None if self._shards is None else self._shards.total,
            )
            correction = tf.cast(-trajectory.kinetic_change, log_prob.dtype)
            end = trajectory.target_log_prob
            end = tf.where(tf.math.is_nan(end), tf.constant(-np.inf, end.dtype), end)
            # Step size, step number and curvature pass as the identical objects: accept-reject
            # would select any other per chain, and they are shared by chains.
            results = previous._replace(
                log_acceptance_correction=tf.ensure_shape(correction, log_prob.shape),
                target_log_prob=end,
                grads_target_log_prob=layout.split(trajectory.gradient),
                initial_momentum=layout.split(momentum),
                final_momentum=layout.split(trajectory.momentum),
                seed=seed,
            )
            new_state = trajectory.state
            if self._parameters["state_gradients_are_stopped"]:
                new_state = tf.stop_gradient(new_state)
            return like_state(current_state, layout.split(new_state)), results

    def bootstrap_results(self, init_state: Tensor) -> QuasiNewtonHMCResults:
        """Evaluate the target at the initial state.

        Args:
            init_state: `[..., event]`, or a list of parts.

        Returns:
            Results to start from.

        Raises:
            ValueError: if the target does not return one value per chain or, in eager mode, if
                its value or gradient is not finite: no proposal would ever be accepted.
        """
        with tf.name_scope((self.name or "quasi_newton_hmc") + "_bootstrap_results"):
            parts = as_parts(init_state)
            log_prob, gradients = value_and_gradients(self.target_log_prob_fn, parts)
            layout = Parts(parts, log_prob.shape.rank, self.inverse_hessian)
            state = layout.join(parts)
            check_start(state, log_prob, layout.join(gradients), self.inverse_hessian)
            curvature = self._parameters["initial_curvature"]
            if curvature is None:
                curvature = self.inverse_hessian.initial(state)
            curvature = tf.nest.map_structure(
                lambda value: _cast_floating(value, state.dtype), curvature
            )
            step_size: Tensor = []
            num_steps: Tensor = []
            if self._parameters["store_parameters_in_results"]:
                # In the target's precision, as step size adaptation combines it with acceptance
                # probabilities.
                step_size = to_dtype(self.step_size, log_prob.dtype)
                num_steps = tf.convert_to_tensor(self.num_leapfrog_steps, tf.int32)
            return QuasiNewtonHMCResults(
                log_acceptance_correction=tf.zeros_like(log_prob),
                target_log_prob=log_prob,
                grads_target_log_prob=gradients,
                initial_momentum=[tf.zeros_like(part) for part in parts],
                final_momentum=[tf.zeros_like(part) for part in parts],
                step_size=step_size,
                num_leapfrog_steps=num_steps,
                inverse_hessian=curvature,
                seed=tf.zeros([2], tf.int32),
            )

    @property
    def _shards(self) -> Shards | None:
        return Shards.of(self._parameters["experimental_shard_axis_names"])

    @property
    def _mass(self) -> Tensor | None:
        mass = self._parameters["mass"]
        return None if isinstance(mass, str) else mass


class QuasiNewtonHMC(AdjustedKernel):
    """Quasi-Newton Hamiltonian Monte Carlo, with accept-reject.

    Invariant for every symmetric positive definite B that does not depend on the state or its
    past. A step costs exactly `num_leapfrog_steps` gradients, times the stages of the integrator.
    The log density may be of higher precision than the state: energies of 1e5 nats leave no
    decimals to a float32, and the target, the correction and the acceptance ratio then are float64.

    Args:
        target_log_prob_fn: maps states `[..., event]` to one log density per chain, `[...]`; of
            a state in parts it takes the parts. With an inverse Hessian of vectors the parts may
            have events of any shapes, which B sees side by side as one vector.
        step_size: leapfrog step, positive; a scalar, or one per chain with trailing axes of one.
            With B near the posterior covariance and mass M = B it is in units of the posterior
            width.
        num_leapfrog_steps: positive integer.
        inverse_hessian: what B is, such as `LimitedMemoryInverseHessian` or
            `FourierDiagonalInverseHessian`.
        initial_curvature: curvature state to start with; by default the one of B = 1.
        mass: "inverse_hessian" for M = B, or a diagonal mass matrix, positive and broadcastable to
            `[event]`, which takes two products with B per step instead of one.
        step_size_jitter: J in [0, 1); every trajectory of every chain has its step size multiplied
            by 1 + J u, u uniform on (-1, 1), which keeps a trajectory from closing on itself.
        integrator: "leapfrog", or "two_stage" or "three_stage" (`samplers.trajectory`), which take
            two and three gradients a step.
        state_gradients_are_stopped: whether the new state is a constant to automatic
            differentiation, as in `tfp.mcmc.HamiltonianMonteCarlo`.
        store_parameters_in_results: whether step size and step number live in the results, where
            an adaptation can change them.
        experimental_shard_axis_names: as in TFP, for a state that is distributed over the replicas
            of a `tf.distribute` strategy; all parts of it or none. B then is one operator per
            replica, which acts on the replica's share of the state.
        name: prefix of the names of operations.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        target_log_prob_fn: TargetLogProbFn,
        step_size: Tensor,
        num_leapfrog_steps: Tensor,
        inverse_hessian: InverseHessian,
        initial_curvature: Any = None,
        mass: Tensor = _MASS_IS_INVERSE_HESSIAN,
        step_size_jitter: float = 0.0,
        integrator: str = "leapfrog",
        state_gradients_are_stopped: bool = False,
        store_parameters_in_results: bool = False,
        experimental_shard_axis_names: Any = None,
        name: str | None = None,
    ) -> None:
        """Check the arguments and keep them; the class says what they are."""
        self._adjust(
            UncalibratedQuasiNewtonHMC(
                target_log_prob_fn=target_log_prob_fn,
                step_size=step_size,
                num_leapfrog_steps=num_leapfrog_steps,
                inverse_hessian=inverse_hessian,
                initial_curvature=initial_curvature,
                mass=mass,
                step_size_jitter=step_size_jitter,
                integrator=integrator,
                state_gradients_are_stopped=state_gradients_are_stopped,
                store_parameters_in_results=store_parameters_in_results,
                experimental_shard_axis_names=experimental_shard_axis_names,
                name=name,
            )
        )

    target_log_prob_fn = argument("target_log_prob_fn", "The log density.")
    inverse_hessian = argument("inverse_hessian", "What B is.")
    step_size = argument("step_size", "The step size to start with.")
    num_leapfrog_steps = argument("num_leapfrog_steps", "The number of steps to start with.")


def _check_arguments(
    target_log_prob_fn: Any,
    step_size: Any,
    num_leapfrog_steps: Any,
    inverse_hessian: Any,
    mass: Any,
    step_size_jitter: Any,
    integrator: Any,
) -> None:
    check_dynamics(target_log_prob_fn, inverse_hessian, integrator)
    check_count("num_leapfrog_steps", num_leapfrog_steps)
    check_step_size(step_size, inverse_hessian.event_ndims)
    if isinstance(mass, str):
        valid_mass = mass == _MASS_IS_INVERSE_HESSIAN
    else:
        value = None if mass is None else tf.get_static_value(mass)
        valid_mass = mass is not None and (
            value is None or bool(np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0))
        )
    if not valid_mass:
        raise ValueError(
            'Invalid value for argument `mass`. Expected "inverse_hessian" or a positive tensor. '
            f"Received: mass={mass!r}"
        )
    jitter = tf.get_static_value(step_size_jitter)
    if jitter is not None and not 0 <= jitter < 1:
        raise ValueError(
            "Invalid value for argument `step_size_jitter`. Expected a number in [0, 1). "
            f"Received: step_size_jitter={step_size_jitter!r}"
        )


def _cast_floating(value: Any, dtype: Any) -> Tensor:
    value = tf.convert_to_tensor(value)
    return tf.cast(value, dtype) if value.dtype.is_floating else value
