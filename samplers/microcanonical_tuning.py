"""Tuning of microcanonical Langevin Monte Carlo: step size, variances, decoherence length.

The order and the rule for the length are those of Robnik, De Luca, Silverstein & Seljak 2023
(https://arxiv.org/abs/2212.08549): the step size from the energy error, then the variances as a
preconditioner, and last a decoherence length of 0.4 times the distance covered in one integrated
autocorrelation time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from samplers.arguments import check_count, check_positive
from samplers.microcanonical_langevin import EnergyErrorAdaptation, MicrocanonicalLangevin
from samplers.parts import Parts, as_parts
from samplers.results import find_innermost
from samplers.target import Tensor, stateless_seed

__all__ = ["MicrocanonicalTuning", "tune_decoherence_length", "tune_microcanonical"]


class MicrocanonicalTuning(NamedTuple):
    """What `tune_microcanonical` found.

    Attributes:
        kernel: a copy of the kernel that starts with everything below.
        state: where the chains have got, `[..., event]` or a list of parts.
        step_size: a scalar.
        decoherence_length: a scalar.
        inverse_hessian: the curvature state.
    """

    kernel: MicrocanonicalLangevin
    state: Tensor
    step_size: Tensor
    decoherence_length: Tensor
    inverse_hessian: Any


def tune_decoherence_length(
    kernel: MicrocanonicalLangevin,
    current_state: Tensor,
    seed: Tensor,
    num_steps: int,
    observables: Callable[[Tensor], Tensor] | None = None,
    factor: float = 0.4,
) -> Tensor:
    """Find a decoherence length from the autocorrelation of a short run.

    The length is `factor` times the step size times the integrated autocorrelation time in steps,
    averaged over all coordinates (or observables) and chains. A run of less than ten such times
    makes it too short. What is followed is kept in memory for all steps.

    Args:
        kernel: with its step size tuned.
        current_state: where to start, burnt in, `[..., event]` or a list of parts.
        seed: stateless seed.
        num_steps: calls of the kernel, a positive integer.
        observables: maps a state to what is followed, `[..., n]`; by default all coordinates. For
            a field, some of its modes or cells.
        factor: ratio of the two lengths.

    Returns:
        The length, a scalar; NaN if nothing moved.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_kernel(kernel)
    check_count("num_steps", num_steps)
    check_positive("factor", factor)
    run = _run(kernel, current_state, num_steps, seed, followed=True, observables=observables)
    effective = tfp.mcmc.effective_sample_size(run.followed, filter_beyond_positive_pairs=True)
    time = tf.cast(num_steps / effective, tf.float64)
    known = tf.math.is_finite(time)
    time = tf.reduce_sum(tf.where(known, time, 0.0)) / tf.reduce_sum(tf.cast(known, tf.float64))
    steps = factor * kernel.parameters["num_steps"] * time
    return run.results.step_size * tf.cast(steps, run.results.step_size.dtype)


def tune_microcanonical(
    kernel: MicrocanonicalLangevin,
    init_state: Tensor,
    seed: Tensor,
    num_steps: int,
    target_error: float = 5e-4,
    learn_variance: bool = False,
    observables: Callable[[Tensor], Tensor] | None = None,
) -> MicrocanonicalTuning:
    """Find step size, decoherence length and, if wanted, a diagonal B in one short run.

    Phases of `num_steps` calls of the kernel each: step size; variances and, as B has changed, step
    size again, if `learn_variance`; decoherence length. Two phases, or four.

    Args:
        kernel: to start with; its step size may be far off.
        init_state: where to start, `[..., event]` or a list of parts.
        seed: stateless seed.
        num_steps: calls of the kernel per phase, a positive integer.
        target_error: wanted mean squared energy error per dimension and integrator step.
        learn_variance: whether B becomes the variance of every coordinate over steps and chains;
            for a kernel with a `DiagonalInverseHessian`.
        observables: see `tune_decoherence_length`.

    Returns:
        The tuned kernel and its parameters.

    Raises:
        ValueError: if an argument is out of range, or if a coordinate never moved.
    """
    _check_kernel(kernel)
    check_count("num_steps", num_steps)
    from_variance = getattr(kernel.inverse_hessian, "from_variance", None)
    if learn_variance and from_variance is None:
        raise ValueError(
            "Invalid value for argument `learn_variance`. Expected False for a kernel whose "
            "inverse Hessian has no `from_variance`. Received: "
            f"inverse_hessian={kernel.inverse_hessian!r}"
        )
    state = init_state
    seeds = tfp.random.split_seed(stateless_seed(seed), n=4)

    def find_step_size(kernel: MicrocanonicalLangevin, seed: Tensor) -> tuple[Any, Tensor]:
        run = _run(EnergyErrorAdaptation(kernel, num_steps, target_error), state, num_steps, seed)
        return kernel.copy(step_size=find_innermost(run.results, "step_size")), run.state

    kernel, state = find_step_size(kernel, seeds[0])
    if learn_variance and from_variance is not None:
        run = _run(kernel, state, num_steps, seeds[1])
        curvature, state = from_variance(run.variance, as_parts(run.state)[0].dtype), run.state
        # lengths are in units of B: the old ones mean nothing now
        kernel = kernel.copy(initial_curvature=curvature, decoherence_length=None)
        kernel, state = find_step_size(kernel, seeds[2])
    length = tune_decoherence_length(kernel, state, seeds[3], num_steps, observables)
    kernel = kernel.copy(decoherence_length=length)
    results = kernel.bootstrap_results(state)
    return MicrocanonicalTuning(
        kernel, state, results.step_size, results.decoherence_length, results.inverse_hessian
    )


class _Run(NamedTuple):
    """State and results at the end, variance of every coordinate, and what was followed."""

    state: Any
    results: Any
    variance: Tensor
    followed: Any


def _run(
    kernel: Any,
    state: Any,
    num_steps: int,
    seed: Tensor,
    followed: bool = False,
    observables: Callable[[Any], Tensor] | None = None,
) -> _Run:
    state = tf.nest.map_structure(tf.convert_to_tensor, state)
    results = kernel.bootstrap_results(state)
    chain_ndims = find_innermost(results, "target_log_prob").shape.rank
    chain_axes = list(range(chain_ndims))
    innermost = kernel.parameters.get("inner_kernel", kernel)
    layout = Parts(as_parts(state), chain_ndims, innermost.inverse_hessian)
    follow = observables or (lambda x: layout.join(as_parts(x)))

    def loop(start: Any, results: Any, seed: Tensor) -> _Run:
        def vector(x: Any) -> Tensor:
            return tf.cast(layout.join(as_parts(x)), tf.float64)

        origin = tf.reduce_mean(vector(start), chain_axes)
        trace: Any = ()
        if followed:
            first = follow(start)
            trace = tf.TensorArray(first.dtype, num_steps, element_shape=first.shape)

        def body(step: Tensor, x: Any, results: Any, sums: Any, trace: Any) -> tuple[Any, ...]:
            own = tf.random.experimental.stateless_fold_in(seed, step)
            x, results = kernel.one_step(x, results, seed=own)
            shift = vector(x) - origin
            powers = [shift, shift**2]
            sums = [a + tf.reduce_mean(b, chain_axes) for a, b in zip(sums, powers, strict=True)]
            if followed:
                trace = trace.write(step, follow(x))
            return step + 1, x, results, sums, trace

        zeros = [tf.zeros_like(origin)] * 2
        _, end, results, sums, trace = tf.while_loop(
            lambda step, *_: step < num_steps,
            body,
            (tf.constant(0), start, results, zeros, trace),
        )
        mean, square = (total / num_steps for total in sums)
        return _Run(end, results, square - mean**2, trace.stack() if followed else ())

    run: _Run = tf.function(loop, autograph=False)(state, results, stateless_seed(seed))
    return run


def _check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, MicrocanonicalLangevin):
        raise ValueError(
            "Invalid value for argument `kernel`. Expected a `MicrocanonicalLangevin`. Received: "
            f"kernel={kernel!r}"
        )
