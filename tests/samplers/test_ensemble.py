"""Curvature from the other half of the chains: exact while it adapts, which nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import (
    LimitedMemoryInverseHessian,
    QuasiNewtonAdaptation,
    QuasiNewtonEnsemble,
    QuasiNewtonHMC,
)
from tests.samplers import targets

LBFGS = LimitedMemoryInverseHessian(12)


def inner(log_prob: Any = targets.skewed_log_prob, **arguments: Any) -> QuasiNewtonHMC:
    return QuasiNewtonHMC(log_prob, **{"step_size": 0.4, "num_leapfrog_steps": 3} | arguments)


def run_ensembles(log_prob: Any, before: Any, num_steps: int) -> Any:
    """Many small ensembles of exact draws: chains along the first axis, ensembles along it too."""
    kernel = QuasiNewtonEnsemble(inner(log_prob, inverse_hessian=LBFGS))

    def one(state: Any, seed: Any) -> Any:
        results = kernel.bootstrap_results(state)
        for step in range(num_steps):
            own = tf.random.experimental.stateless_fold_in(seed, step)
            state, results = kernel.one_step(state, results, seed=own)
        return state, results.is_accepted

    @tf.function
    def all_of_them(states: Any) -> Any:
        seeds = tf.stack([tf.range(len(states)), tf.range(len(states))], -1)
        return tf.map_fn(
            lambda pair: one(*pair),
            (states, seeds),
            fn_output_signature=(tf.float64, tf.bool),
            parallel_iterations=1,
        )

    return all_of_them(tf.constant(before))


def test_exact_draws_stay_exact_while_it_adapts() -> None:
    ensembles, chains = 2500, 8
    before = targets.skewed_draws(np.random.default_rng(1), ensembles * chains)
    states = before.reshape(ensembles, chains, -1)
    after, accepted = run_ensembles(targets.skewed_log_prob, states, 3)
    assert 0.3 < np.mean(accepted) < 0.999
    assert targets.worst_z_score(before, after.numpy().reshape(before.shape)) < 4.5
    wrong, _ = run_ensembles(targets.cooled(targets.skewed_log_prob), states, 3)
    assert targets.worst_z_score(before, wrong.numpy().reshape(before.shape)) > 6.0


def test_the_curvature_comes_from_the_other_half_only() -> None:
    kernel = QuasiNewtonEnsemble(inner(inverse_hessian=LBFGS))
    state = tf.constant(targets.skewed_draws(np.random.default_rng(2), 8))
    results = kernel.bootstrap_results(state)
    after, results = kernel.one_step(state, results, seed=[1, 2])
    moved = tf.concat([state[:4] + 0.1, state[4:]], 0)
    _, other = kernel.one_step(moved, kernel.bootstrap_results(moved), seed=[1, 2])
    histories = [
        [half.accepted_results.inverse_hessian for half in r.half_results] for r in (results, other)
    ]
    np.testing.assert_array_equal(histories[0][0].steps, histories[1][0].steps)
    assert not np.array_equal(histories[0][1].steps, histories[1][1].steps)
    # and the second half sees where the first one went
    expected = after[1:4] - after[:3]
    np.testing.assert_allclose(histories[0][1].steps[-3:], expected, rtol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs_in_sample_chain_around_a_step_size_adaptation(jit_compile: bool) -> None:
    kernel = QuasiNewtonEnsemble(
        tfp.mcmc.DualAveragingStepSizeAdaptation(
            inner(inverse_hessian=LBFGS, store_parameters_in_results=True), 50
        )
    )
    assert kernel.is_calibrated
    scale = np.array([1e-2, 1.0, 50.0])
    state = scale * tf.constant(targets.skewed_draws(np.random.default_rng(3), 12))

    @tf.function(jit_compile=jit_compile)
    def run(state: Any) -> Any:
        return tfp.mcmc.sample_chain(
            100,
            state,
            kernel=kernel,
            num_burnin_steps=60,
            seed=[3, 4],
            trace_fn=lambda _, results: results.is_accepted,
        )

    draws, accepted = run(state)
    assert draws.shape == (100, 12, 3) and accepted.shape == (100, 12)
    assert 0.4 < np.mean(accepted) < 1.0


def test_parts_and_errors() -> None:
    def log_prob(a: Any, b: Any) -> Any:
        return targets.skewed_log_prob(tf.concat([a[..., tf.newaxis], b], -1))

    kernel = QuasiNewtonEnsemble(inner(log_prob, inverse_hessian=LBFGS))
    x = tf.constant(targets.skewed_draws(np.random.default_rng(4), 6))
    state = [x[..., 0], x[..., 1:]]
    after, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=[1, 2])
    assert [part.shape for part in after] == [part.shape for part in state]
    for chains in (2, 5):
        with pytest.raises(ValueError, match="Expected an even number of at least 4 chains"):
            kernel.bootstrap_results([x[:chains, 0], x[:chains, 1:]])
    with pytest.raises(ValueError, match="limited-memory one with shared=True"):
        unshared = LimitedMemoryInverseHessian(4, shared=False)
        QuasiNewtonEnsemble(inner(inverse_hessian=unshared))


def test_an_adaptation_that_never_ends_says_that_it_is_not_calibrated() -> None:
    hmc = inner(inverse_hessian=LBFGS)
    assert QuasiNewtonAdaptation(hmc, 10).is_calibrated
    for_ever = QuasiNewtonAdaptation(hmc, None)
    assert not for_ever.is_calibrated
    state = tf.constant(targets.skewed_draws(np.random.default_rng(5), 2))
    results = for_ever.bootstrap_results(state)
    histories = []
    for step in range(6):
        state, results = for_ever.one_step(state, results, seed=(1, step))
        histories.append(results.inner_results.accepted_results.inverse_hessian.steps)
    for old, new in zip(histories[:-1], histories[1:], strict=True):
        assert not np.array_equal(old, new)


def test_an_adaptation_that_never_ends_is_biased() -> None:
    # every chain learns from itself; exact draws drift away within a few steps
    before = targets.skewed_draws(np.random.default_rng(6), 20_000)
    unshared = LimitedMemoryInverseHessian(3, shared=False)
    for_ever = QuasiNewtonAdaptation(inner(inverse_hessian=unshared, step_size=0.3), None)
    after, _ = targets.run(for_ever, tf.constant(before), 40)
    assert targets.worst_z_score(before, after.numpy()) > 6.0


def test_schemes_are_those_of_the_inverse_hessian() -> None:
    for shared, own, other in ((True, "pooled", "per_chain"), (False, "per_chain", "pooled")):
        hmc = inner(inverse_hessian=LimitedMemoryInverseHessian(4, shared=shared))
        QuasiNewtonAdaptation(hmc, 5, scheme=own)
        with pytest.raises(ValueError, match=f'`scheme`. Expected "{own}"'):
            QuasiNewtonAdaptation(hmc, 5, scheme=other)
