"""Quasi-Newton HMC: invariance, dynamics, precision and behaviour at the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import (
    FourierDiagonalInverseHessian,
    LimitedMemoryInverseHessian,
    QuasiNewtonHMC,
    ShellVariance,
    UncalibratedQuasiNewtonHMC,
)
from samplers.target import value_and_gradient
from samplers.trajectory import integrate_trajectory
from tests.samplers import reference, targets

SIZE = 3
MASSES: list[Any] = ["inverse_hessian", np.array([0.5, 1.0, 2.0])]
# Near the covariance of the skewed target, but not equal to it.
B = np.array([[0.5, 0.3, -0.6], [0.3, 0.5, -0.3], [-0.6, -0.3, 5.0]])
LBFGS = LimitedMemoryInverseHessian(4)
HISTORY = LBFGS.from_dense(B)


def _kernel(log_prob: Any = targets.skewed_log_prob, **kwargs: Any) -> QuasiNewtonHMC:
    arguments: dict[str, Any] = {
        "step_size": 0.6,
        "num_leapfrog_steps": 4,
        "inverse_hessian": LBFGS,
        "initial_curvature": HISTORY,
    }
    return QuasiNewtonHMC(log_prob, **(arguments | kwargs))


def _trajectory(
    x: Any, p: Any, step_size: Any, num_steps: int, mass: Any = None, history: Any = HISTORY
) -> Any:
    x, p = tf.convert_to_tensor(x), tf.convert_to_tensor(p)
    log_prob, gradient = value_and_gradient(targets.skewed_log_prob, x)
    mass = None if mass is None or isinstance(mass, str) else tf.constant(mass)
    return integrate_trajectory(
        targets.skewed_log_prob,
        LBFGS,
        history,
        x,
        p,
        log_prob,
        gradient,
        step_size,
        num_steps,
        mass,
    )


def _energy(x: Any, p: Any, mass: Any) -> Any:
    matrix = B if isinstance(mass, str) else np.diag(mass)
    kinetic = 0.5 * np.einsum("...i,ij,...j->...", p, np.linalg.inv(matrix), p)
    return kinetic - targets.skewed_log_prob(tf.convert_to_tensor(x)).numpy()


@pytest.mark.parametrize("mass", MASSES, ids=["mass=B", "mass=diagonal"])
@pytest.mark.parametrize("num_steps", [1, 50])
def test_exact_draws_stay_exact(mass: Any, num_steps: int) -> None:
    before = targets.skewed_draws(np.random.default_rng(1), 60_000 if num_steps == 1 else 20_000)
    arguments = {"mass": mass, "step_size_jitter": 0.2}
    state = tf.constant(before)
    after, results = targets.run(_kernel(**arguments), state, num_steps)
    assert 0.5 < np.mean(results.is_accepted) < 0.999
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = targets.run(
        _kernel(targets.cooled(targets.skewed_log_prob), **arguments), state, num_steps
    )
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0


def test_uncalibrated_kernel_is_biased() -> None:
    # Otherwise the test above would not see a missing accept-reject step.
    before = targets.skewed_draws(np.random.default_rng(1), 20_000)
    kernel = UncalibratedQuasiNewtonHMC(
        targets.skewed_log_prob, 0.6, 4, LBFGS, initial_curvature=HISTORY
    )
    assert not kernel.is_calibrated
    after, _ = targets.run(kernel, tf.constant(before), 1)
    assert targets.worst_z_score(before, after.numpy()) > 6.0


def test_exact_fields_stay_exact() -> None:
    operator = FourierDiagonalInverseHessian(reference.shells((8,), 3), 3)
    curvature = ShellVariance(tf.constant([0.2, 0.5, 0.9], tf.float64))
    before = targets.skewed_field_draws(np.random.default_rng(2), 20_000, 8)

    def run(log_prob: Any) -> Any:
        kernel = QuasiNewtonHMC(log_prob, 0.5, 3, operator, initial_curvature=curvature)
        return targets.run(kernel, tf.constant(before), 3)

    after, results = run(targets.skewed_field_log_prob)
    assert 0.5 < np.mean(results.is_accepted) < 0.999
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = run(targets.cooled(targets.skewed_field_log_prob))
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0


@pytest.mark.parametrize("mass", MASSES, ids=["mass=B", "mass=diagonal"])
def test_equals_reference_and_hmc_with_inverse_mass_b_m_b(mass: Any) -> None:
    rng = np.random.default_rng(3)
    x, p = targets.skewed_draws(rng, 5), rng.normal(size=(5, SIZE))
    matrix = B if isinstance(mass, str) else np.diag(mass)
    end = _trajectory(x, p, 0.3, 7, mass)

    def gradient(x: reference.Array) -> reference.Array:
        return -np.asarray(value_and_gradient(targets.skewed_log_prob, tf.constant(x))[1])

    inverse_mass = B @ np.linalg.inv(matrix) @ B
    for c in range(5):
        state, momentum = reference.leapfrog(gradient, B, matrix, x[c], p[c], 0.3, 7)
        np.testing.assert_allclose(end.state[c], state, rtol=1e-9)
        np.testing.assert_allclose(end.momentum[c], momentum, rtol=1e-9)
        q = np.linalg.solve(B, p[c])
        state, q_end = reference.hmc_leapfrog(gradient, inverse_mass, x[c], q, 0.3, 7)
        np.testing.assert_allclose(end.state[c], state, rtol=1e-9)
        kinetic_change = 0.5 * (q_end @ inverse_mass @ q_end - q @ inverse_mass @ q)
        np.testing.assert_allclose(end.kinetic_change[c], kinetic_change, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("mass", MASSES, ids=["mass=B", "mass=diagonal"])
def test_energy_error_is_of_second_order(mass: Any) -> None:
    rng = np.random.default_rng(4)
    x, p = targets.skewed_draws(rng, 50), rng.normal(size=(50, SIZE))
    errors = []
    for halvings in range(3):
        end = _trajectory(x, p, 0.04 / 2**halvings, 25 * 2**halvings, mass)
        change = _energy(end.state.numpy(), end.momentum.numpy(), mass) - _energy(x, p, mass)
        potential = (end.target_log_prob - targets.skewed_log_prob(tf.constant(x))).numpy()
        np.testing.assert_allclose(end.kinetic_change - potential, change, atol=1e-9)
        errors.append(np.sqrt(np.mean(change**2)))
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.1)
    np.testing.assert_allclose(errors[1] / errors[2], 4.0, rtol=0.1)


@pytest.mark.parametrize("mass", MASSES, ids=["mass=B", "mass=diagonal"])
def test_is_reversible_and_preserves_volume(mass: Any) -> None:
    rng = np.random.default_rng(5)
    x, p = targets.skewed_draws(rng, 4), rng.normal(size=(4, SIZE))
    end = _trajectory(x, p, 0.2, 6, mass)
    back = _trajectory(end.state, -end.momentum, 0.2, 6, mass)
    np.testing.assert_allclose(back.state, x, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(-back.momentum, p, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(back.kinetic_change, -end.kinetic_change, rtol=1e-8, atol=1e-10)
    assert np.abs(end.state - x).max() > 0.1

    step = 1e-5
    shifts = step * np.concatenate([np.eye(2 * SIZE), -np.eye(2 * SIZE)])
    start = np.concatenate([x[0], p[0]]) + shifts
    moved = _trajectory(start[:, :SIZE], start[:, SIZE:], 0.2, 6, mass)
    ends = np.concatenate([moved.state, moved.momentum], -1)
    jacobian = (ends[: 2 * SIZE] - ends[2 * SIZE :]) / (2 * step)
    sign, log_det = np.linalg.slogdet(jacobian)
    assert sign == 1.0 and abs(log_det) < 1e-6


def test_an_asymmetric_b_would_not_conserve_energy() -> None:
    # The algebra rests on B = B': the kinetic change read from the kicks is wrong without it.
    class Asymmetric:
        event_ndims = 1

        def apply(self, curvature: Any, vector: Any) -> Any:
            return tf.linalg.matvec(curvature, vector)

    skew = B + np.array([[0.0, 0.4, 0.0], [-0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rng = np.random.default_rng(6)
    x, p = tf.constant(targets.skewed_draws(rng, 1)), tf.constant(rng.normal(size=(1, SIZE)))
    log_prob, gradient = value_and_gradient(targets.skewed_log_prob, x)
    changes = []
    for matrix in (B, skew):
        end = integrate_trajectory(
            targets.skewed_log_prob,
            Asymmetric(),  # type: ignore[arg-type]
            tf.constant(matrix),
            x,
            p,
            log_prob,
            gradient,
            1e-3,
            500,
        )
        changes.append(abs(float((end.kinetic_change - end.target_log_prob + log_prob)[0])))
    assert changes[0] < 1e-5 < 1e-3 < changes[1]


def test_batch_equals_chains_one_by_one() -> None:
    rng = np.random.default_rng(7)
    x, p = targets.skewed_draws(rng, 4), rng.normal(size=(4, SIZE))
    together = _trajectory(x, p, 0.3, 5)
    for c in range(4):
        alone = _trajectory(x[c], p[c], 0.3, 5)
        for batched, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(batched[c], single, rtol=1e-12, atol=1e-13)


def test_same_seed_same_draws() -> None:
    kernel = _kernel(step_size_jitter=0.3)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(8), 6))
    results = kernel.bootstrap_results(state)
    first, _ = kernel.one_step(state, results, seed=(1, 2))
    again, _ = kernel.one_step(state, results, seed=(1, 2))
    other, _ = kernel.one_step(state, results, seed=(1, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    as_list, _ = kernel.one_step([state], results, seed=(1, 2))
    assert isinstance(as_list, list)
    np.testing.assert_array_equal(as_list[0], first)
    for seed in (None, 7):
        with pytest.raises(ValueError, match="`seed`"):
            kernel.one_step(state, results, seed=seed)


def test_jitter_is_per_chain_and_within_its_range() -> None:
    # One step from rest under no force moves by eps p: the ratio shows the step size.
    kernel = UncalibratedQuasiNewtonHMC(
        lambda x: 0.0 * tf.reduce_sum(x, -1), 0.5, 1, LBFGS, HISTORY, step_size_jitter=0.4
    )
    state = tf.zeros([2000, SIZE], tf.float64)
    moved, results = kernel.one_step(state, kernel.bootstrap_results(state), seed=(3, 4))
    ratio = (moved / results.initial_momentum[0]).numpy()
    np.testing.assert_allclose(ratio, ratio[:, :1] + np.zeros(SIZE), rtol=1e-9)
    assert ratio.min() >= 0.3 and ratio.max() <= 0.7
    np.testing.assert_allclose([ratio.min(), ratio.max()], [0.3, 0.7], atol=0.005)
    assert abs(np.corrcoef(ratio[:, 0], results.initial_momentum[0][:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("num_steps", [1, 6])
def test_costs_one_gradient_per_step_and_is_traced_once(num_steps: int) -> None:
    calls = []

    def log_prob(x: Any) -> Any:
        calls.append(x)
        return targets.skewed_log_prob(x)

    kernel = _kernel(log_prob, num_leapfrog_steps=num_steps)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(9), 2))
    results = kernel.bootstrap_results(state)
    assert len(calls) == 1
    kernel.one_step(state, results, seed=(0, 1))
    assert len(calls) == 1 + num_steps
    calls.clear()
    tf.function(kernel.one_step, autograph=False)(state, results, seed=tf.constant([0, 1]))
    assert 1 <= len(calls) <= 2


def test_number_of_steps_may_be_a_tensor() -> None:
    state = tf.constant(targets.skewed_draws(np.random.default_rng(10), 3))

    @targets.in_graph
    def step(num_steps: Any) -> Any:
        kernel = _kernel(num_leapfrog_steps=num_steps)
        return kernel.one_step(state, kernel.bootstrap_results(state), seed=(0, 1))[0]

    for num_steps in (2, 5):
        kernel = _kernel(num_leapfrog_steps=num_steps)
        expected, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=(0, 1))
        np.testing.assert_allclose(step(tf.constant(num_steps)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_compiles(dtype: Any) -> None:
    kernel = _kernel()
    state = tf.constant(targets.skewed_draws(np.random.default_rng(11), 4), dtype)
    results = kernel.bootstrap_results(state)
    assert results.accepted_results.inverse_hessian.steps.dtype == dtype
    compiled = tf.function(kernel.one_step, autograph=False, jit_compile=True)
    _, after = compiled(state, results, seed=tf.constant([0, 1]))
    # The compiler draws other random numbers: follow the momentum that it drew.
    proposed = after.proposed_results
    history = results.accepted_results.inverse_hessian
    end = _trajectory(state, proposed.initial_momentum[0], 0.6, 4, history=history)
    tolerance = 1e-3 if dtype == tf.float32 else 1e-9
    np.testing.assert_allclose(after.proposed_state, end.state, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        proposed.log_acceptance_correction, -end.kinetic_change, rtol=tolerance, atol=tolerance
    )


def test_float64_energy_of_a_float32_state() -> None:
    offset = 3e5

    def log_prob(x: Any) -> Any:
        return targets.skewed_log_prob(tf.cast(x, tf.float64)) - offset

    state = targets.skewed_draws(np.random.default_rng(12), 50).astype(np.float32)
    kernel = _kernel(log_prob)
    results = kernel.bootstrap_results(tf.constant(state))
    assert results.accepted_results.target_log_prob.dtype == tf.float64
    _, results = kernel.one_step(tf.constant(state), results, seed=(0, 1))
    assert results.log_accept_ratio.dtype == tf.float64
    proposed = results.proposed_results
    assert proposed.log_acceptance_correction.dtype == tf.float64
    assert proposed.grads_target_log_prob[0].dtype == tf.float32
    change = _energy(
        results.proposed_state.numpy().astype(np.float64),
        proposed.final_momentum[0].numpy().astype(np.float64),
        "inverse_hessian",
    ) - _energy(
        state.astype(np.float64),
        proposed.initial_momentum[0].numpy().astype(np.float64),
        "inverse_hessian",
    )
    # Far below the 0.03 that float32 resolves at 3e5.
    np.testing.assert_allclose(results.log_accept_ratio, -change, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64 target"])
@pytest.mark.parametrize(
    "adaptation", [tfp.mcmc.DualAveragingStepSizeAdaptation, tfp.mcmc.SimpleStepSizeAdaptation]
)
def test_tfp_adapts_the_step_size(adaptation: Any, wide: bool) -> None:
    def log_prob(x: Any) -> Any:
        return targets.skewed_log_prob(tf.cast(x, tf.float64) if wide else x)

    start = 1e-2 if adaptation is tfp.mcmc.DualAveragingStepSizeAdaptation else 0.2
    kernel = adaptation(_kernel(log_prob, step_size=start), num_adaptation_steps=80)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(13), 30), tf.float32)
    _, (accepted, step_size) = tfp.mcmc.sample_chain(
        120,
        state,
        kernel=kernel,
        seed=(1, 2),
        trace_fn=lambda _, r: (
            r.inner_results.is_accepted,
            r.inner_results.accepted_results.step_size,
        ),
    )
    assert float(step_size[-1]) > 1.5 * start
    assert np.all(step_size[90:] == step_size[-1])
    if adaptation is tfp.mcmc.DualAveragingStepSizeAdaptation:
        assert 0.65 < float(np.mean(accepted[80:])) < 0.9


def test_step_size_per_chain() -> None:
    state = tf.constant(targets.skewed_draws(np.random.default_rng(14), 2))
    p = np.random.default_rng(15).normal(size=(2, SIZE))
    together = _trajectory(state, p, np.array([[0.1], [0.3]]), 4)
    for c, step_size in enumerate((0.1, 0.3)):
        alone = _trajectory(state[c], p[c], step_size, 4)
        np.testing.assert_allclose(together.state[c], alone.state, rtol=1e-12)


def test_rejection_leaves_everything_untouched() -> None:
    kernel = _kernel(step_size=30.0, store_parameters_in_results=True)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(16), 5))
    before = kernel.bootstrap_results(state)
    after_state, after = kernel.one_step(state, before, seed=(0, 1))
    assert not np.any(after.is_accepted)
    np.testing.assert_array_equal(after_state, state)
    for field in ("target_log_prob", "grads_target_log_prob"):
        np.testing.assert_array_equal(
            getattr(after.accepted_results, field), getattr(before.accepted_results, field)
        )
    # The shared fields are the same objects: accept-reject would select others per chain.
    old, new = before.accepted_results, after.accepted_results
    assert new.step_size is old.step_size and new.num_leapfrog_steps is old.num_leapfrog_steps
    for new_tensor, old_tensor in zip(new.inverse_hessian, old.inverse_hessian, strict=True):
        assert new_tensor is old_tensor


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_non_finite_targets_are_rejected_chain_by_chain(value: float) -> None:
    spoil = np.array([1, 0, 0, 1, 0], bool)

    def bad_log_prob(x: Any) -> Any:
        return tf.where(spoil, tf.constant(value, x.dtype), targets.skewed_log_prob(x))

    good, bad = _kernel(), _kernel(bad_log_prob)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(17), 5))
    results = good.bootstrap_results(state)
    expected, _ = good.one_step(state, results, seed=(5, 6))
    got, after = bad.one_step(state, results, seed=(5, 6))
    np.testing.assert_array_equal(after.is_accepted & spoil, np.zeros(5, bool))
    np.testing.assert_array_equal(tf.boolean_mask(got, spoil), tf.boolean_mask(state, spoil))
    np.testing.assert_array_equal(tf.boolean_mask(got, ~spoil), tf.boolean_mask(expected, ~spoil))
    assert np.any(after.is_accepted)
    assert not np.any(np.isnan(after.proposed_results.target_log_prob))
    assert np.all(np.isfinite(after.accepted_results.target_log_prob))
    with pytest.raises(ValueError, match=r"`init_state`.*2 of 5 chains"):
        bad.bootstrap_results(state)


def test_runaway_trajectories_never_reach_the_target() -> None:
    def quartic(x: Any) -> Any:
        if not np.all(np.isfinite(x)):
            raise FloatingPointError("The target saw a position that is not finite.")
        return -tf.reduce_sum(x**4, -1)

    kernel = _kernel(quartic, step_size=50.0, num_leapfrog_steps=12)
    state = tf.constant(np.random.default_rng(18).normal(size=(4, SIZE)))
    after, results = kernel.one_step(state, kernel.bootstrap_results(state), seed=(0, 1))
    np.testing.assert_array_equal(after, state)
    assert np.all(np.isnan(results.proposed_results.final_momentum))
    assert np.all(np.isneginf(results.log_accept_ratio))


def test_resumes_bit_for_bit_from_saved_results() -> None:
    kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(_kernel(), num_adaptation_steps=4)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(19), 3), tf.float32)

    def advance(state: Any, results: Any, steps: range) -> tuple[Any, Any]:
        for i in steps:
            seed = tf.random.experimental.stateless_fold_in(tf.constant([8, 9]), i)
            state, results = kernel.one_step(state, results, seed=seed)
        return state, results

    results = kernel.bootstrap_results(state)
    whole, whole_results = advance(state, results, range(6))
    half, half_results = advance(state, results, range(3))
    saved = [np.array(t) for t in tf.nest.flatten((half, half_results))]
    restored = tf.nest.pack_sequence_as((half, half_results), [tf.constant(a) for a in saved])
    resumed, resumed_results = advance(restored[0], restored[1], range(3, 6))
    np.testing.assert_array_equal(resumed, whole)
    for a, b in zip(tf.nest.flatten(resumed_results), tf.nest.flatten(whole_results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_are_the_arguments() -> None:
    kernel = _kernel(mass=2.0, step_size_jitter=0.1, name="theta")
    copy = kernel.copy(step_size=0.7)
    assert copy.parameters == {**kernel.parameters, "step_size": 0.7}
    assert (copy.step_size, copy.num_leapfrog_steps, copy.name) == (0.7, 4, "theta")
    assert kernel.is_calibrated and kernel.inverse_hessian is LBFGS
    assert kernel.target_log_prob_fn is targets.skewed_log_prob


@pytest.mark.parametrize(
    ("kwargs", "argument"),
    [
        ({"num_leapfrog_steps": 0}, "num_leapfrog_steps"),
        ({"num_leapfrog_steps": 2.0}, "num_leapfrog_steps"),
        ({"num_leapfrog_steps": True}, "num_leapfrog_steps"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": np.inf}, "step_size"),
        ({"step_size": [0.1]}, "step_size"),
        ({"step_size": np.array([0.1, 0.2, 0.3])}, "step_size"),
        ({"inverse_hessian": B}, "inverse_hessian"),
        ({"mass": "identity"}, "mass"),
        ({"mass": -1.0}, "mass"),
        ({"mass": None}, "mass"),
        ({"step_size_jitter": 1.0}, "step_size_jitter"),
    ],
)
def test_rejects_arguments(kwargs: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for argument `{argument}`"):
        _kernel(**kwargs)


def test_rejects_targets_and_states() -> None:
    state = tf.zeros([2, SIZE], tf.float64)
    with pytest.raises(ValueError, match="`target_log_prob_fn`"):
        _kernel(1.0)
    with pytest.raises(ValueError, match="one log density per chain"):
        _kernel(lambda x: -tf.reduce_sum(x**2)).bootstrap_results(state)
    with pytest.raises(ValueError, match="differentiable"):
        _kernel(lambda x: tf.zeros([2], tf.float64)).bootstrap_results(state)
    with pytest.raises(TypeError, match="floating-point"):
        _kernel(lambda x: tf.zeros([2], tf.int32)).bootstrap_results(state)


@pytest.mark.parametrize("chains", [(), (2,)])
def test_samples_a_single_precision_field_with_a_double_precision_energy(
    chains: tuple[int, ...],
) -> None:
    shape, shells = (4, 4, 4), 3
    operator = FourierDiagonalInverseHessian(reference.shells(shape, shells), shells)
    variance = np.array([1e-4, 1e-2, 1.0])
    covariance = reference.fourier_diagonal_matrix(
        shape, lambda *k: float(variance[reference.shell(shells, *k)])
    )
    precision = tf.constant(np.linalg.inv(covariance))

    def log_prob(x: Any) -> Any:
        x = tf.reshape(tf.cast(x, tf.float64), [*chains, 64])
        return 1e5 - 0.5 * tf.reduce_sum(x * tf.linalg.matvec(precision, x), -1)

    def step_size_after_warmup(curvature: Any) -> Any:
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
            QuasiNewtonHMC(log_prob, 0.1, 4, operator, initial_curvature=curvature), 60
        )
        start = operator.sample(ShellVariance(tf.constant(variance, tf.float32)), (0, 1), chains)
        state, results = targets.run(kernel, start, 70)
        assert state.dtype == tf.float32 and state.shape == (*chains, *shape)
        return float(results.new_step_size)

    # The largest stable step is twice the smallest width: 0.02 with B = 1, 2 with B = covariance.
    assert step_size_after_warmup(ShellVariance(tf.constant(variance))) > 0.4
    assert step_size_after_warmup(None) < 0.02
