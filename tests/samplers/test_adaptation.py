"""Learning the curvature while warming up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import (
    FourierDiagonalInverseHessian,
    LimitedMemoryInverseHessian,
    QuasiNewtonAdaptation,
    QuasiNewtonHMC,
)
from tests.samplers import reference, targets

SIZE = 3


def _kernel(
    num_adaptation_steps: int, step_size: float = 0.3, shared: bool = True
) -> QuasiNewtonAdaptation:
    inner = QuasiNewtonHMC(
        targets.skewed_log_prob, step_size, 3, LimitedMemoryInverseHessian(6, shared=shared)
    )
    return QuasiNewtonAdaptation(inner, num_adaptation_steps)


def _history(results: Any) -> Any:
    return results.inner_results.accepted_results.inverse_hessian


@pytest.mark.parametrize("shared", [True, False])
def test_learns_from_trajectories_then_freezes(shared: bool) -> None:
    kernel = _kernel(4, shared=shared)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(0), 2))
    results = kernel.bootstrap_results(state)
    histories = [_history(results)]
    for i in range(8):
        state, results = kernel.one_step(state, results, seed=(0, i))
        histories.append(_history(results))
    assert int(results.step) == 8
    for i in range(4):
        assert not np.array_equal(histories[i].steps, histories[i + 1].steps)
    for later in histories[5:]:
        for new, old in zip(later, histories[4], strict=True):
            np.testing.assert_array_equal(new, old)
    assert histories[4].steps.shape == ([6, SIZE] if shared else [2, 6, SIZE])


def test_takes_the_proposed_pair_even_when_rejected() -> None:
    kernel = _kernel(10, step_size=0.8)
    start = tf.constant(targets.skewed_draws(np.random.default_rng(1), 1))
    results = kernel.bootstrap_results(start)
    for i in range(200):
        state, after = kernel.one_step(start, results, seed=(1, i))
        if not after.inner_results.is_accepted[0] and int(_history(after).count) == 1:
            break
    else:
        raise AssertionError("No rejected trajectory of positive curvature.")
    np.testing.assert_array_equal(state, start)
    proposed = after.inner_results.proposed_state
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([start, proposed])
        values = [targets.skewed_log_prob(x) for x in (start, proposed)]
    change = tape.gradient(values[0], start) - tape.gradient(values[1], proposed)
    np.testing.assert_allclose(_history(after).steps[-1], (proposed - start)[0], rtol=1e-12)
    np.testing.assert_allclose(_history(after).gradient_changes[-1], change[0], rtol=1e-9)


def test_a_diverged_trajectory_gives_no_pair() -> None:
    kernel = _kernel(10, step_size=1.0)
    careless = kernel.copy(max_energy_error=np.inf)
    start = tf.constant(targets.skewed_draws(np.random.default_rng(1), 1))
    results = kernel.bootstrap_results(start)
    left_out = 0
    for i in range(40):
        _, after = kernel.one_step(start, results, seed=(1, i))
        _, taken = careless.one_step(start, results, seed=(1, i))
        error = float(after.inner_results.log_accept_ratio[0])
        if not abs(error) <= 10.0:
            assert int(_history(after).count) == 0
            left_out += int(_history(taken).count)
        else:
            assert int(_history(after).count) == int(_history(taken).count)
    assert left_out > 0


@pytest.mark.parametrize("outside", [True, False], ids=["step size outside", "step size inside"])
def test_composes_with_step_size_adaptation(outside: bool) -> None:
    hmc = QuasiNewtonHMC(targets.skewed_log_prob, 0.05, 3, LimitedMemoryInverseHessian(6))
    kernel: Any
    if outside:
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(QuasiNewtonAdaptation(hmc, 40), 60)
    else:
        kernel = QuasiNewtonAdaptation(tfp.mcmc.DualAveragingStepSizeAdaptation(hmc, 60), 40)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(2), 8))
    after, results = targets.run(kernel, state, 80)
    assert kernel.is_calibrated and np.all(np.isfinite(after))
    inner = results.inner_results.inner_results.accepted_results
    assert int(inner.inverse_hessian.count) > 40
    assert float(inner.step_size) > 0.1


def test_exact_draws_stay_exact_once_frozen() -> None:
    warm = targets.skewed_draws(np.random.default_rng(3), 4)
    kernel = _kernel(60)
    _, results = targets.run(kernel, tf.constant(warm), 60)
    before = targets.skewed_draws(np.random.default_rng(4), 20_000)

    def run(log_prob: Any) -> float:
        frozen = QuasiNewtonHMC(
            log_prob,
            0.5,
            3,
            LimitedMemoryInverseHessian(6),
            initial_curvature=_history(results),
        )
        after, _ = targets.run(QuasiNewtonAdaptation(frozen, 0), tf.constant(before), 6)
        return targets.worst_z_score(before, after.numpy())

    assert run(targets.skewed_log_prob) < 4.5
    assert run(targets.cooled(targets.skewed_log_prob)) > 6.0


def test_preconditions_an_ill_conditioned_gaussian() -> None:
    size, warmup, draws, chains = 17, 400, 400, 4
    values = np.geomspace(1e-2, 10.0, size)
    vectors, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(size, size)))
    precision = tf.constant((vectors / values) @ vectors.T)

    def log_prob(x: Any) -> Any:
        return -0.5 * tf.reduce_sum(x * tf.linalg.matvec(precision, x), -1)

    state = np.random.default_rng(6).normal(size=(chains, size)) * np.sqrt(values) @ vectors.T

    @targets.in_graph
    def smallest_ess(mass: Any) -> Any:
        hmc = QuasiNewtonHMC(
            log_prob,
            0.1,
            5,
            LimitedMemoryInverseHessian(100),
            mass=mass,
            step_size_jitter=0.2,
        )
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
            QuasiNewtonAdaptation(hmc, warmup * 3 // 4), warmup
        )
        samples = tfp.mcmc.sample_chain(
            draws,
            tf.constant(state),
            kernel=kernel,
            num_burnin_steps=warmup,
            trace_fn=None,
            seed=(7, 8),
        )
        rotated = tf.linalg.matvec(tf.constant(vectors.T), samples)
        ess = tfp.mcmc.effective_sample_size(rotated, cross_chain_dims=1)
        return tf.reduce_min(ess)

    learnt = float(smallest_ess("inverse_hessian"))
    plain = float(smallest_ess(1.0))
    assert learnt > 4.0 * plain
    assert learnt > 0.25 * draws * chains


def test_parameters_and_arguments() -> None:
    kernel = _kernel(5)
    assert set(kernel.parameters) == {
        "inner_kernel",
        "num_adaptation_steps",
        "scheme",
        "max_energy_error",
        "name",
    }
    assert kernel.copy(num_adaptation_steps=7).num_adaptation_steps == 7
    for bad in (-1, 2.0, True):
        with pytest.raises(ValueError, match="`num_adaptation_steps`"):
            kernel.copy(num_adaptation_steps=bad)
    for bad_error in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="`max_energy_error`"):
            kernel.copy(max_energy_error=bad_error)
    operator = FourierDiagonalInverseHessian(reference.shells((8,), 3), 3)
    with pytest.raises(ValueError, match="`inner_kernel`"):
        QuasiNewtonAdaptation(QuasiNewtonHMC(targets.skewed_log_prob, 0.1, 1, operator), 5)
    with pytest.raises(ValueError, match="`inner_kernel`"):
        QuasiNewtonAdaptation(tfp.mcmc.HamiltonianMonteCarlo(targets.skewed_log_prob, 0.1, 1), 5)
