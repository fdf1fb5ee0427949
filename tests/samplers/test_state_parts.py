"""States in parts, integrators of more stages, and states distributed over replicas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import LimitedMemoryInverseHessian, QuasiNewtonAdaptation, QuasiNewtonHMC
from samplers.parts import Parts
from samplers.shards import Shards
from samplers.target import value_and_gradient
from samplers.trajectory import INTEGRATORS, integrate_trajectory
from tests.samplers import targets

LBFGS = LimitedMemoryInverseHessian(8)


def draws(chains: int = 4) -> Any:
    return tf.constant(targets.skewed_draws(np.random.default_rng(1), chains))


def in_parts(x: Any) -> list[Any]:
    """The skewed target's three coordinates as a scalar and a [2, 1] matrix."""
    return [x[..., 0], x[..., 1:, tf.newaxis]]


def parts_log_prob(a: Any, b: Any) -> Any:
    return targets.skewed_log_prob(tf.concat([a[..., tf.newaxis], b[..., 0]], -1))


def kernels(**arguments: Any) -> list[QuasiNewtonHMC]:
    return [
        QuasiNewtonHMC(fn, 0.4, 5, LBFGS, store_parameters_in_results=True, **arguments)
        for fn in (targets.skewed_log_prob, parts_log_prob)
    ]


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("chains", [(), (4,)])
def test_a_state_in_parts_moves_as_the_vector_of_them(chains: Any, jit_compile: bool) -> None:
    x = draws() if chains else draws()[0]
    ends = []
    for kernel, state in zip(kernels(), (x, in_parts(x)), strict=True):
        adaptive = QuasiNewtonAdaptation(kernel, 6)

        def run(state: Any, adaptive: Any = adaptive) -> Any:
            return tfp.mcmc.sample_chain(
                12, state, kernel=adaptive, seed=[1, 2], return_final_kernel_results=True
            )

        ends.append(tf.function(run, jit_compile=jit_compile)(state))
    whole, parts = ends
    expected = in_parts(whole.all_states)
    for got, value in zip(parts.all_states, expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-12)
    results = parts.final_kernel_results.inner_results.accepted_results
    assert [g.shape for g in results.grads_target_log_prob] == [
        tf.TensorShape(chains),
        tf.TensorShape([*chains, 2, 1]),
    ]
    assert int(results.inverse_hessian.count) > 0


def test_the_container_of_the_state_is_kept() -> None:
    state = tuple(in_parts(draws()))
    kernel = kernels()[1]
    after, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=[1, 2])
    assert isinstance(after, tuple)


def test_gradients_of_the_state_may_be_stopped() -> None:
    x = draws()
    for stopped in (False, True):
        kernel = kernels(state_gradients_are_stopped=stopped)[0]
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = kernel.bootstrap_results(x)
            after, _ = kernel._impl.inner_kernel.one_step(x, results.accepted_results, seed=[1, 2])
        assert (tape.gradient(after, x) is None) == stopped


def test_parts_that_do_not_fit() -> None:
    x = draws()
    with pytest.raises(ValueError, match="one log density per chain"):
        Parts([tf.zeros([2, 3])], 0, LBFGS)
    kernel = QuasiNewtonHMC(lambda a, b: tf.reduce_sum(a) + tf.reduce_sum(b), 0.1, 2, LBFGS)
    layout = Parts(in_parts(x), 1, LBFGS)
    for a, b in zip(layout.split(layout.join(in_parts(x))), in_parts(x), strict=True):
        np.testing.assert_array_equal(a, b)
    # the chains are part of the event then: a legal, if strange, target of one chain
    assert kernel.bootstrap_results(in_parts(x)).accepted_results.target_log_prob.shape == []


def end_of(integrator: str, step_size: float, num_steps: int, sign: float = 1.0) -> Any:
    x = draws()
    p = sign * tf.constant(np.random.default_rng(3).normal(size=x.shape))
    log_prob, gradient = value_and_gradient(targets.skewed_log_prob, x)
    history = LBFGS.from_dense(np.diag([0.5, 0.4, 3.0]))
    end = integrate_trajectory(
        targets.skewed_log_prob,
        LBFGS,
        history,
        x,
        p,
        log_prob,
        gradient,
        step_size,
        num_steps,
        integrator=integrator,
    )
    energy = end.kinetic_change - (end.target_log_prob - log_prob)
    return x, p, end, energy.numpy(), history


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_integrators_are_palindromes_that_move_by_one_step(integrator: str) -> None:
    scheme = np.array(INTEGRATORS[integrator])
    np.testing.assert_array_equal(scheme, scheme[::-1])
    np.testing.assert_allclose([scheme[::2].sum(), scheme[1::2].sum()], 1.0, rtol=1e-15)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_energy_error_is_of_second_order(integrator: str) -> None:
    errors = [np.abs(end_of(integrator, 0.4 / n, 4 * n)[3]) for n in (2, 4)]
    np.testing.assert_allclose(np.median(errors[0] / errors[1]), 4.0, rtol=0.25)


def test_more_stages_err_less_at_equal_cost() -> None:
    errors = {
        name: np.abs(end_of(name, 0.1 * stages, 24 // stages)[3]).mean()
        for name, stages in (("leapfrog", 1), ("two_stage", 2), ("three_stage", 3))
    }
    assert errors["two_stage"] < 0.5 * errors["leapfrog"]
    assert errors["three_stage"] < 0.5 * errors["leapfrog"]


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_trajectories_run_back(integrator: str) -> None:
    x, p, end, _, history = end_of(integrator, 0.3, 5)
    log_prob, gradient = value_and_gradient(targets.skewed_log_prob, end.state)
    back = integrate_trajectory(
        targets.skewed_log_prob,
        LBFGS,
        history,
        end.state,
        -end.momentum,
        log_prob,
        gradient,
        0.3,
        5,
        integrator=integrator,
    )
    np.testing.assert_allclose(back.state, x, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(back.momentum, -p, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("integrator", ["two_stage", "three_stage"])
def test_exact_draws_stay_exact(integrator: str) -> None:
    before = targets.skewed_draws(np.random.default_rng(5), 40_000)

    def run(log_prob: Any) -> Any:
        history = LBFGS.from_dense(np.diag([0.5, 0.4, 3.0]))
        kernel = QuasiNewtonHMC(
            log_prob, 1.0, 2, LBFGS, initial_curvature=history, integrator=integrator
        )
        return targets.run(kernel, tf.constant(before), 1)

    after, results = run(targets.skewed_log_prob)
    assert 0.3 < np.mean(results.is_accepted) < 0.999
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = run(targets.cooled(targets.skewed_log_prob))
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0


def test_unknown_integrators_are_refused() -> None:
    with pytest.raises(ValueError, match="`integrator`. Expected one of .*Received: integrator='e"):
        QuasiNewtonHMC(targets.skewed_log_prob, 0.1, 2, LBFGS, integrator="euler")


def test_shards_are_of_all_parts_or_none() -> None:
    assert Shards.of(None) is None
    assert Shards.of([None, None]) is None
    assert Shards.of("i") is not None
    assert Shards.of(["i", ["i"]]) is not None
    with pytest.raises(ValueError, match="`experimental_shard_axis_names`. Expected all parts"):
        Shards.of(["i", None])
