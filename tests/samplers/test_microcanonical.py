"""Microcanonical sampling, adjusted and not: invariance, bias, adaptation, edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import Block, BlockGibbs, FourierDiagonalInverseHessian, ShellVariance
from samplers.diagonal import CoordinateVariance, DiagonalInverseHessian
from samplers.isokinetic import integrate_isokinetic
from samplers.microcanonical import (
    EnergyErrorAdaptation,
    MicrocanonicalHMC,
    MicrocanonicalLangevin,
    UncalibratedMicrocanonicalHMC,
    tune_decoherence_length,
    tune_microcanonical,
)
from samplers.results import find_innermost
from samplers.target import value_and_gradient
from tests.samplers import reference, targets

SIZE = 3
DIAGONAL = DiagonalInverseHessian()
# Near the variances of the skewed target, but not equal to them.
VARIANCE = CoordinateVariance(tf.constant([0.4, 0.5, 5.0], tf.float64))
COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.5], [0.0, -0.5, 0.3]])


def _hmc(log_prob: Any = targets.skewed_log_prob, **kwargs: Any) -> MicrocanonicalHMC:
    arguments: dict[str, Any] = {
        "step_size": 1.0,
        "num_leapfrog_steps": 3,
        "inverse_hessian": DIAGONAL,
        "initial_curvature": VARIANCE,
    }
    return MicrocanonicalHMC(log_prob, **(arguments | kwargs))


def _langevin(log_prob: Any = targets.skewed_log_prob, **kwargs: Any) -> MicrocanonicalLangevin:
    arguments: dict[str, Any] = {
        "step_size": 0.3,
        "inverse_hessian": DIAGONAL,
        "initial_curvature": VARIANCE,
    }
    return MicrocanonicalLangevin(log_prob, **(arguments | kwargs))


def _gaussian(x: Any) -> Any:
    return -0.5 * tf.reduce_sum(x**2, -1)


def _correlated(x: Any) -> Any:
    precision = tf.constant(np.linalg.inv(COVARIANCE), x.dtype)
    return -0.5 * tf.reduce_sum(x * tf.linalg.matvec(precision, x), -1)


def _whitened_skewed(x: Any) -> Any:
    z = np.linalg.solve(targets._MIXING, x.T).T
    first = scipy.stats.loggamma.cdf(z[:, 0], targets._SHAPE_PARAMETER)
    return np.stack([scipy.stats.norm.ppf(first), z[:, 1] - 0.5 * z[:, 0] ** 2, z[:, 2]], -1)


def _whitened_correlated(x: Any) -> Any:
    return np.linalg.solve(np.linalg.cholesky(COVARIANCE), x.T).T


# log density, exact draws, the map of draws to independent standard normals, a diagonal B
TARGETS: dict[str, Any] = {
    "skewed": (
        targets.skewed_log_prob,
        targets.skewed_draws,
        _whitened_skewed,
        VARIANCE,
    ),
    "correlated": (
        _correlated,
        lambda rng, count: rng.multivariate_normal(np.zeros(3), COVARIANCE, size=count),
        _whitened_correlated,
        CoordinateVariance(tf.constant([1.0, 1.0, 0.3], tf.float64)),
    ),
}


def _smallest_p_value(normals: Any) -> float:
    """Kolmogorov-Smirnov test of all coordinates and of the radius."""
    radius = np.sum(normals**2, -1)
    p_values = [scipy.stats.kstest(column, "norm").pvalue for column in normals.T]
    return float(min([*p_values, scipy.stats.kstest(radius, "chi2", (normals.shape[1],)).pvalue]))


# --- adjusted


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("num_steps", [1, 30])
def test_exact_draws_stay_exact(name: str, num_steps: int) -> None:
    log_prob, draw, whiten, curvature = TARGETS[name]
    before = draw(np.random.default_rng(1), 60_000 if num_steps == 1 else 20_000)

    def after(log_prob: Any) -> Any:
        kernel = _hmc(log_prob, num_steps_jitter=0.7, initial_curvature=curvature)
        return targets.run(kernel, tf.constant(before), num_steps)

    state, results = after(log_prob)
    print(
        np.mean(results.is_accepted),
        targets.worst_z_score(before, state.numpy()),
        _smallest_p_value(whiten(state.numpy())),
    )
    assert 0.5 < np.mean(results.is_accepted) < 0.98
    assert np.abs(state - before).max() > 1.0
    assert targets.worst_z_score(before, state.numpy()) < 4.5
    assert _smallest_p_value(whiten(state.numpy())) > 1e-4
    wrong, _ = after(targets.cooled(log_prob))
    print(targets.worst_z_score(before, wrong.numpy()), _smallest_p_value(whiten(wrong.numpy())))
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0
    assert _smallest_p_value(whiten(wrong.numpy())) < 1e-5


def test_uncalibrated_kernel_is_biased() -> None:
    # Otherwise the test above would not see a missing accept-reject step.
    before = targets.skewed_draws(np.random.default_rng(1), 60_000)
    kernel = UncalibratedMicrocanonicalHMC(
        targets.skewed_log_prob, 1.0, 3, DIAGONAL, initial_curvature=VARIANCE
    )
    assert not kernel.is_calibrated
    after, _ = targets.run(kernel, tf.constant(before), 1)
    assert targets.worst_z_score(before, after.numpy()) > 8.0


@pytest.mark.parametrize("integrator", ["leapfrog", "two_stage"])
def test_exact_fields_stay_exact(integrator: str) -> None:
    operator = FourierDiagonalInverseHessian(reference.shells((8,), 3), 3)
    curvature = ShellVariance(tf.constant([0.2, 0.5, 0.9], tf.float64))
    before = targets.skewed_field_draws(np.random.default_rng(2), 20_000, 8)
    step_size = 2.0 if integrator == "leapfrog" else 3.5

    def run(log_prob: Any) -> Any:
        kernel = MicrocanonicalHMC(
            log_prob, step_size, 2, operator, initial_curvature=curvature, integrator=integrator
        )
        return targets.run(kernel, tf.constant(before), 3)

    after, results = run(targets.skewed_field_log_prob)
    assert 0.5 < np.mean(results.is_accepted) < 0.98
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = run(targets.cooled(targets.skewed_field_log_prob))
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0


@pytest.mark.parametrize(
    ("jit_compile", "dtype"),
    [(None, np.float64), (False, np.float32), (True, np.float32)],
    ids=["eager", "graph", "xla"],
)
def test_proposals_follow_the_dynamics(jit_compile: bool | None, dtype: Any) -> None:
    kernel = _hmc(integrator="two_stage", step_size=1.7)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(3), 4), dtype)
    before = kernel.bootstrap_results(state)
    step = kernel.one_step
    if jit_compile is not None:
        step = tf.function(step, autograph=False, jit_compile=jit_compile)
    moved, after = step(state, before, seed=tf.constant([0, 1]))
    tf.nest.assert_same_structure(before, after)
    for old, new in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
    proposed, accepted = after.proposed_results, after.is_accepted.numpy()
    for c in range(4):
        # one chain at a time, from the direction that it drew
        log_prob, gradient = value_and_gradient(targets.skewed_log_prob, state[c])
        end = integrate_isokinetic(
            targets.skewed_log_prob,
            DIAGONAL,
            before.accepted_results.inverse_hessian,
            state[c],
            proposed.initial_direction[0][c],
            log_prob,
            gradient,
            1.7,
            3,
            "two_stage",
        )
        tolerance = 2e-4 if dtype == np.float32 else 1e-10
        expected = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(after.proposed_state[c], end.state, **expected)
        np.testing.assert_allclose(proposed.final_direction[0][c], end.direction, **expected)
        np.testing.assert_allclose(
            proposed.log_acceptance_correction[c], -end.kinetic_change, **expected
        )
        np.testing.assert_allclose(
            after.log_accept_ratio[c],
            end.target_log_prob - log_prob - tf.cast(end.kinetic_change, dtype),
            **expected,
        )
        np.testing.assert_array_equal(moved[c], (after.proposed_state if accepted[c] else state)[c])


def test_float64_energy_of_a_float32_state() -> None:
    def log_prob(x: Any) -> Any:
        return targets.skewed_log_prob(tf.cast(x, tf.float64)) - 3e5

    state = tf.constant(targets.skewed_draws(np.random.default_rng(4), 50), tf.float32)
    kernel = _hmc(log_prob)
    _, results = kernel.one_step(state, kernel.bootstrap_results(state), seed=(0, 1))
    assert results.log_accept_ratio.dtype == results.accepted_results.target_log_prob.dtype
    assert results.log_accept_ratio.dtype == tf.float64
    assert results.proposed_results.grads_target_log_prob[0].dtype == tf.float32
    # Far below the 0.03 that float32 resolves at 3e5.
    gained = log_prob(results.proposed_state) - log_prob(state)
    np.testing.assert_allclose(
        results.log_accept_ratio,
        gained + results.proposed_results.log_acceptance_correction,
        atol=1e-9,
    )
    exact = _hmc(log_prob).one_step(
        tf.cast(state, tf.float64),
        _hmc(log_prob).bootstrap_results(tf.cast(state, tf.float64)),
        seed=(0, 1),
    )
    assert results.log_accept_ratio.shape == exact[1].log_accept_ratio.shape


def test_numbers_of_steps_are_random_within_their_range() -> None:
    # Without a force a trajectory is as long as its steps are many.
    kernel = UncalibratedMicrocanonicalHMC(
        lambda x: 0.0 * tf.reduce_sum(x, -1), 0.5, 5, DIAGONAL, num_steps_jitter=0.8
    )
    state = tf.zeros([6, SIZE], tf.float64)
    results, counts = kernel.bootstrap_results(state), []
    step = tf.function(kernel.one_step, autograph=False)
    for i in range(200):
        moved, _ = step(state, results, seed=tf.constant([3, i]))
        steps = np.linalg.norm(moved, axis=-1) / 0.5
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
        counts.append(round(steps[0]))
    assert set(counts) == set(range(1, 10))
    assert abs(np.mean(counts) - 5.0) < 0.6
    few = UncalibratedMicrocanonicalHMC(
        lambda x: 0.0 * tf.reduce_sum(x, -1), 0.5, 1, DIAGONAL, num_steps_jitter=1.0
    )
    for i in range(20):
        moved, _ = few.one_step(state, results, seed=(4, i))
        assert np.linalg.norm(moved[0]) > 0.49


@pytest.mark.parametrize("num_steps", [1, 6])
def test_costs_one_gradient_per_move_and_is_traced_once(num_steps: int) -> None:
    calls = []

    def log_prob(x: Any) -> Any:
        calls.append(x)
        return targets.skewed_log_prob(x)

    state = tf.constant(targets.skewed_draws(np.random.default_rng(5), 2))
    for kernel in (
        _hmc(log_prob, num_leapfrog_steps=num_steps),
        _langevin(log_prob, num_steps=num_steps),
    ):
        calls.clear()
        results = kernel.bootstrap_results(state)
        assert len(calls) == 1
        kernel.one_step(state, results, seed=(0, 1))
        assert len(calls) == 1 + num_steps
        calls.clear()
        tf.function(kernel.one_step, autograph=False)(state, results, seed=tf.constant([0, 1]))
        assert 1 <= len(calls) <= 2
    calls.clear()
    kernel = _hmc(log_prob, num_leapfrog_steps=num_steps, integrator="three_stage")
    kernel.one_step(state, kernel.bootstrap_results(state), seed=(0, 1))
    assert len(calls) == 1 + 3 * num_steps


def test_rejection_leaves_everything_untouched() -> None:
    kernel = _hmc(step_size=300.0, store_parameters_in_results=True)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(6), 5))
    before = kernel.bootstrap_results(state)
    after_state, after = kernel.one_step(state, before, seed=(0, 1))
    assert not np.any(after.is_accepted)
    np.testing.assert_array_equal(after_state, state)
    old, new = before.accepted_results, after.accepted_results
    for field in ("target_log_prob", "grads_target_log_prob"):
        np.testing.assert_array_equal(getattr(new, field), getattr(old, field))
    # The shared fields are the same objects: accept-reject would select others per chain.
    assert new.step_size is old.step_size and new.num_leapfrog_steps is old.num_leapfrog_steps
    assert new.inverse_hessian.variance is old.inverse_hessian.variance


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_non_finite_targets_are_rejected_chain_by_chain(value: float) -> None:
    spoil = np.array([1, 0, 0, 1, 0], bool)

    def bad_log_prob(x: Any) -> Any:
        return tf.where(spoil, tf.constant(value, x.dtype), targets.skewed_log_prob(x))

    good, bad = _hmc(), _hmc(bad_log_prob)
    state = tf.constant(targets.skewed_draws(np.random.default_rng(7), 5))
    results = good.bootstrap_results(state)
    expected, _ = good.one_step(state, results, seed=(5, 6))
    got, after = bad.one_step(state, results, seed=(5, 6))
    np.testing.assert_array_equal(after.is_accepted & spoil, np.zeros(5, bool))
    np.testing.assert_array_equal(tf.boolean_mask(got, spoil), tf.boolean_mask(state, spoil))
    np.testing.assert_array_equal(tf.boolean_mask(got, ~spoil), tf.boolean_mask(expected, ~spoil))
    assert np.any(after.is_accepted)
    assert not np.any(np.isnan(after.proposed_results.target_log_prob))
    assert np.all(np.isfinite(after.accepted_results.target_log_prob))
    assert np.all(np.isfinite(after.accepted_results.grads_target_log_prob[0]))
    for kernel in (bad, _langevin(bad_log_prob)):
        with pytest.raises(ValueError, match=r"`init_state`.*2 of 5 chains"):
            kernel.bootstrap_results(state)


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64 target"])
@pytest.mark.parametrize(
    "adaptation", [tfp.mcmc.DualAveragingStepSizeAdaptation, tfp.mcmc.SimpleStepSizeAdaptation]
)
def test_tfp_adapts_the_step_size(adaptation: Any, wide: bool) -> None:
    def log_prob(x: Any) -> Any:
        return targets.skewed_log_prob(tf.cast(x, tf.float64) if wide else x)

    dual = adaptation is tfp.mcmc.DualAveragingStepSizeAdaptation
    start = 1e-2 if dual else 0.3
    kernel = adaptation(
        _hmc(log_prob, step_size=start), num_adaptation_steps=80, target_accept_prob=0.9
    )
    state = tf.constant(targets.skewed_draws(np.random.default_rng(8), 30), tf.float32)

    @targets.in_graph
    def draw() -> Any:
        return tfp.mcmc.sample_chain(
            120,
            state,
            kernel=kernel,
            seed=(1, 2),
            trace_fn=lambda _, r: (
                r.inner_results.is_accepted,
                r.inner_results.accepted_results.step_size,
            ),
        ).trace

    accepted, step_size = (value.numpy() for value in draw())
    assert float(step_size[-1]) > 1.5 * start
    assert np.all(step_size[90:] == step_size[-1])
    if dual:
        assert 0.84 < float(np.mean(accepted[80:])) < 0.95


def test_step_size_per_chain() -> None:
    state = tf.constant(targets.skewed_draws(np.random.default_rng(9), 2))
    kernel = _hmc(step_size=np.array([[0.4], [1.2]]), store_parameters_in_results=True)
    results = kernel.bootstrap_results(state)
    _, together = kernel.one_step(state, results, seed=(0, 1))
    for c, step_size in enumerate((0.4, 1.2)):
        own = _hmc(step_size=step_size)
        _, alone = own.one_step(state, own.bootstrap_results(state), seed=(0, 1))
        np.testing.assert_allclose(together.proposed_state[c], alone.proposed_state[c], rtol=1e-12)


def test_transformed_kernels_leave_exact_draws_alone() -> None:
    # Gamma variables, sampled by their logarithms.
    def log_prob(x: Any) -> Any:
        return tf.reduce_sum(2.0 * tf.math.log(x) - x, -1)

    before = np.random.default_rng(10).gamma(3.0, size=(20_000, 2))
    bijector = tfp.bijectors.Exp()

    def kernel(log_prob: Any) -> Any:
        inner = MicrocanonicalHMC(log_prob, 0.8, 2, DIAGONAL)
        return tfp.mcmc.TransformedTransitionKernel(inner, bijector)

    after, results = targets.run(kernel(log_prob), tf.constant(before), 3)
    assert 0.5 < np.mean(results.inner_results.is_accepted) < 0.98
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = targets.run(kernel(targets.cooled(log_prob)), tf.constant(before), 3)
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0

    inner = MicrocanonicalLangevin(log_prob, 0.1, DIAGONAL)
    transformed = tfp.mcmc.TransformedTransitionKernel(inner, bijector)
    adapted = EnergyErrorAdaptation(transformed, 50, target_error=1e-4)
    after, results = targets.run(adapted, tf.constant(before[:100]), 60)
    assert np.all(after > 0) and not adapted.is_calibrated
    # a Gaussian of the mode's curvature would take 0.4
    assert 0.1 < float(find_innermost(results, "step_size")) < 0.6


@pytest.mark.slow
def test_replica_exchange_crosses_between_modes() -> None:
    centres = np.array([[-5.0, 0.0], [5.0, 0.0]])

    def log_prob(x: Any) -> Any:
        squares = tf.reduce_sum((x[..., None, :] - centres) ** 2, -1)
        return tf.reduce_logsumexp(-0.5 * squares, -1)

    kernel = tfp.mcmc.ReplicaExchangeMC(
        target_log_prob_fn=log_prob,
        inverse_temperatures=np.array([1.0, 0.4, 0.15, 0.05]),
        make_kernel_fn=lambda target: MicrocanonicalHMC(
            target, np.array([1.0, 1.5, 2.5, 4.0])[:, None, None], 2, DIAGONAL
        ),
    )
    state = tf.constant(np.tile(centres[:1], [20, 1]))

    @targets.in_graph
    def draw() -> Any:
        return tfp.mcmc.sample_chain(
            600, state, kernel=kernel, seed=(0, 1), num_burnin_steps=100, trace_fn=None
        )

    draws = draw().numpy().reshape(-1, 2)
    assert 0.4 < np.mean(draws[:, 0] > 0) < 0.6
    np.testing.assert_allclose(np.std(np.abs(draws[:, 0])), 1.0, rtol=0.1)
    np.testing.assert_allclose(np.std(draws[:, 1]), 1.0, rtol=0.1)


@pytest.mark.filterwarnings("ignore:supplied `TransitionKernel` is not calibrated")
@pytest.mark.parametrize(("jit_compile", "dtype"), [(False, tf.float32), (True, tf.float64)])
@pytest.mark.parametrize("adjusted", [True, False], ids=["adjusted", "langevin"])
def test_sample_chain_and_streaming_reductions(
    adjusted: bool, dtype: Any, jit_compile: bool
) -> None:
    kernel: Any = _hmc() if adjusted else EnergyErrorAdaptation(_langevin(num_steps=2), 20)
    kernel = tfp.experimental.mcmc.WithReductions(
        kernel, tfp.experimental.mcmc.ExpectationsReducer(lambda state, _: (state, state**2))
    )
    state = tf.constant(targets.skewed_draws(np.random.default_rng(11), 4), dtype)

    @targets.in_graph
    def draw() -> Any:
        return tfp.mcmc.sample_chain(
            50,
            state,
            kernel=kernel,
            seed=tf.constant([0, 1]),
            trace_fn=None,
            return_final_kernel_results=True,
        )

    compiled = tf.function(draw, autograph=False, jit_compile=jit_compile)
    result = compiled()
    draws = result.all_states.numpy()
    assert draws.shape == (50, 4, SIZE) and draws.dtype == dtype.as_numpy_dtype
    moments = kernel.reducer.finalize(result.final_kernel_results.reduction_results)
    np.testing.assert_allclose(moments[0], draws.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moments[1], (draws**2).mean(0), rtol=1e-3, atol=1e-4)


def test_blocks_of_a_gibbs_sampler_stay_exact() -> None:
    before = targets.skewed_draws(np.random.default_rng(12), 20_000)

    def after(log_prob: Any) -> Any:
        kernel = BlockGibbs(
            lambda a, b: log_prob(tf.concat([a, b], -1)),
            [
                Block("pair", lambda fn: MicrocanonicalHMC(fn, 0.6, 2, DIAGONAL), num_steps=2),
                Block("rest", lambda fn: tfp.mcmc.HamiltonianMonteCarlo(fn, 0.5, 2)),
            ],
        )
        assert kernel.is_calibrated
        parts = [tf.constant(before[:, :2]), tf.constant(before[:, 2:])]
        state, results = targets.run(kernel, parts, 3)
        assert np.mean(results.block_results[0].is_accepted) > 0.5
        return np.concatenate(state, -1)

    assert targets.worst_z_score(before, after(targets.skewed_log_prob)) < 4.5
    assert targets.worst_z_score(before, after(targets.cooled(targets.skewed_log_prob))) > 6.0


def test_a_langevin_block_keeps_its_direction_and_step_size() -> None:
    kernel = BlockGibbs(
        lambda a, b: -0.5 * tf.reduce_sum(a**2, -1) - 0.5 * tf.reduce_sum((b - a) ** 2, -1),
        [
            Block(
                "a",
                lambda fn: EnergyErrorAdaptation(MicrocanonicalLangevin(fn, 1e-3, DIAGONAL), 40),
            ),
            Block("b", lambda fn: MicrocanonicalHMC(fn, 1.0, 2, DIAGONAL)),
        ],
    )
    state = [tf.zeros([30, 4], tf.float64), tf.zeros([30, 4], tf.float64)]
    state, results = targets.run(kernel, state, 60)
    inner = results.block_results[0].inner_results
    assert int(results.block_results[0].step) == 60
    # the conditional density is narrower than one by sqrt(2): 0.45 times 2 / sqrt(2) at 5e-4
    assert 0.5 < float(inner.step_size) < 1.3
    np.testing.assert_allclose(np.linalg.norm(inner.direction[0], axis=-1), 1.0, rtol=1e-9)
    assert not kernel.is_calibrated


@pytest.mark.parametrize("make", [_hmc, _langevin])
def test_same_seed_same_draws(make: Any) -> None:
    kernel = make()
    state = tf.constant(targets.skewed_draws(np.random.default_rng(13), 6))
    results = kernel.bootstrap_results(state)
    first, _ = kernel.one_step(state, results, seed=(1, 2))
    again, _ = kernel.one_step(state, results, seed=(1, 2))
    other, _ = kernel.one_step(state, results, seed=(1, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in (None, 7):
        with pytest.raises(ValueError, match="`seed`"):
            kernel.one_step(state, results, seed=seed)


@pytest.mark.parametrize("make", [_hmc, _langevin])
def test_states_in_parts_equal_one_vector(make: Any) -> None:
    state = tf.constant(targets.skewed_draws(np.random.default_rng(14), 6))
    whole = make()
    expected, _ = whole.one_step(state, whole.bootstrap_results(state), seed=(1, 2))
    listed, _ = whole.one_step([state], whole.bootstrap_results([state]), seed=(1, 2))
    assert isinstance(listed, list)
    np.testing.assert_array_equal(listed[0], expected)
    kernel = make(lambda a, b: targets.skewed_log_prob(tf.concat([a, b], -1)))
    parts = [state[:, :1], state[:, 1:]]
    moved, results = kernel.one_step(parts, kernel.bootstrap_results(parts), seed=(1, 2))
    np.testing.assert_allclose(tf.concat(moved, -1), expected, rtol=1e-12)
    gradients = find_innermost(results, "grads_target_log_prob")
    assert [part.shape for part in gradients] == [(6, 1), (6, 2)]


# --- not adjusted


def _stationary(
    kernel: Any, state: Any, num_steps: int, skip: int, scale: Any = 1.0
) -> tuple[Any, float, float]:
    """Relative biases of the variances of a Gaussian, error of their mean, and energy error."""
    size = state.shape[-1]

    @targets.in_graph
    def follow() -> Any:
        results = kernel.bootstrap_results(state)

        def body(step: Any, x: Any, results: Any, square: Any, error: Any) -> Any:
            own = tf.random.experimental.stateless_fold_in(tf.constant([5, 6]), step)
            x, results = kernel.one_step(x, results, seed=own)
            counts = tf.cast(step >= skip, x.dtype) / (num_steps - skip)
            square += counts * (x / scale) ** 2
            error += counts * find_innermost(results, "squared_energy_error") / size
            return step + 1, x, results, square, error

        zeros = tf.zeros_like(state), tf.zeros(state.shape[:-1], state.dtype)
        loop = (tf.constant(0), state, results, *zeros)
        return tf.while_loop(lambda step, *_: step < num_steps, body, loop)[3:]

    square, error = (value.numpy() for value in follow())
    of_mean = square.mean(-1).std() / np.sqrt(len(square))
    return square.mean(0) - 1, float(of_mean), float(error.mean())


def _normals(seed: int, chains: int, size: int) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=(chains, size)))


def test_bias_and_energy_error_where_b_is_the_covariance() -> None:
    # The modified density of leapfrog has -log density smaller by h^2 |x|^2 / 24.
    size, biases = 50, []
    for h, published in ((0.63, 5e-4), (0.29, 4e-6)):
        kernel = MicrocanonicalLangevin(_gaussian, h * np.sqrt(size), DIAGONAL)
        each, error, energy = _stationary(kernel, _normals(15, 150, size), 1500, 100)
        assert error < 1.5e-3
        np.testing.assert_allclose(energy, h**6 / 144, rtol=0.12)
        np.testing.assert_allclose(energy, published, rtol=0.25)
        np.testing.assert_allclose(each.mean(), h**2 / 12, atol=3 * error + 0.1 * h**2 / 12)
        biases.append(each.mean())
    assert biases[0] > 3.5 * biases[1] > 0
    kernel = MicrocanonicalLangevin(
        _gaussian, 0.9 * np.sqrt(size), DIAGONAL, integrator="two_stage"
    )
    each, _, energy = _stationary(kernel, _normals(15, 100, size), 600, 100)
    assert abs(each.mean()) < 0.4 * biases[0] and energy < 1.5e-4


def test_bias_and_energy_error_of_a_narrow_direction() -> None:
    # As in leapfrog of an oscillator, x^2 (1 - h^2 / 4) + p^2 is what is conserved.
    size, width, step = 50, 0.3, 0.2
    scale = np.ones(size)
    scale[0] = width
    kernel = MicrocanonicalLangevin(lambda x: _gaussian(x / scale), step * np.sqrt(size), DIAGONAL)
    start = _normals(16, 200, size) * scale
    each, _, energy = _stationary(kernel, start, 1500, 100, scale)
    h = step / width
    np.testing.assert_allclose(each[0], h**2 / 4, rtol=0.12)
    assert np.abs(each[1:]).mean() < 0.1 * each[0]
    np.testing.assert_allclose(energy, h**6 / 16 / size, rtol=0.12)


def test_energy_change_is_that_of_the_step() -> None:
    # As the change of K is not kept, follow the same motion with the same noise in one step.
    state = tf.constant(targets.skewed_draws(np.random.default_rng(16), 5))
    kernel = _langevin(step_size=0.5, decoherence_length=1e12)
    _, drawn = kernel.one_step(state, kernel.bootstrap_results(state), seed=(5, 6))
    before = kernel.bootstrap_results(state)._replace(direction=drawn.direction)
    moved, after = kernel.one_step(state, before, seed=(0, 1))
    end = integrate_isokinetic(
        targets.skewed_log_prob,
        DIAGONAL,
        VARIANCE,
        state,
        before.direction[0],
        before.target_log_prob,
        before.grads_target_log_prob[0],
        0.5,
        1,
    )
    np.testing.assert_allclose(moved, end.state, atol=1e-5)
    np.testing.assert_allclose(after.direction[0], end.direction, atol=1e-5)
    energy = end.kinetic_change - (end.target_log_prob - before.target_log_prob)
    assert np.abs(energy).max() > 1e-3
    np.testing.assert_allclose(after.energy_change, energy, atol=1e-5)
    np.testing.assert_allclose(after.squared_energy_error, energy**2, atol=1e-5)
    np.testing.assert_array_equal(after.target_log_prob, targets.skewed_log_prob(moved))

    # In calls of several steps the change is that of all, and the square the mean of each.
    single, results = state, before
    several = _langevin(step_size=0.5, decoherence_length=1e12, num_steps=4)
    changes = []
    for i in range(4):
        single, results = kernel.one_step(single, results, seed=(2, i))
        changes.append(results.energy_change.numpy())
    together, after = several.one_step(state, before, seed=(3, 4))
    np.testing.assert_allclose(together, single, atol=1e-4)
    np.testing.assert_allclose(after.energy_change, np.sum(changes, 0), atol=1e-4)
    np.testing.assert_allclose(
        after.squared_energy_error, np.mean(np.square(changes), 0), atol=1e-4
    )


def test_calls_of_several_steps_equal_several_calls() -> None:
    size, start = 10, _normals(17, 4000, 10) * 1.5
    ends = []
    for num_steps, calls in ((1, 6), (6, 1), (3, 2)):
        kernel = MicrocanonicalLangevin(_gaussian, 1.2, DIAGONAL, 2.0, num_steps=num_steps)
        state, results = targets.run(kernel, start, calls, seed=num_steps)
        radius = np.sum(state.numpy() ** 2, -1)
        overlap = np.sum(state * results.direction[0], -1)
        travelled = np.linalg.norm(state - start, axis=-1)
        ends.append((radius, overlap, travelled))
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            assert scipy.stats.ks_2samp(a, b).pvalue > 1e-3
    assert np.mean(ends[0][0]) < 1.5**2 * size * 0.8


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_step_that_is_not_finite_is_not_taken(value: float) -> None:
    # A wall at 2 in the first coordinate.
    def log_prob(x: Any) -> Any:
        return tf.where(x[..., 0] > 2.0, tf.constant(value, x.dtype), _gaussian(x))

    kernel = MicrocanonicalLangevin(log_prob, 0.8, DIAGONAL)
    state = _normals(18, 200, 2)
    state = tf.where(state > 1.5, 0.0, state)
    results, refused = kernel.bootstrap_results(state), 0
    step = tf.function(kernel.one_step, autograph=False)
    for i in range(60):
        moved, after = step(state, results, seed=tf.constant([0, i]))
        stayed = np.isnan(after.energy_change)
        np.testing.assert_array_equal(stayed, np.isnan(after.squared_energy_error))
        np.testing.assert_array_equal(stayed, np.all(moved == state, -1))
        for new, old in (
            (after.target_log_prob, results.target_log_prob),
            (after.grads_target_log_prob[0], results.grads_target_log_prob[0]),
        ):
            np.testing.assert_array_equal(new[stayed], old[stayed])
        np.testing.assert_allclose(np.linalg.norm(after.direction[0], axis=-1), 1.0, rtol=1e-9)
        refused += np.sum(stayed)
        state, results = moved, after
        assert np.all(np.isfinite(results.target_log_prob)) and np.all(state[:, 0] <= 2.0)
    assert 100 < refused < 4000
    # nobody is stuck
    assert not np.any(stayed & np.all(np.abs(state - _normals(18, 200, 2)) < 1e-12, -1))


def test_gradients_that_are_not_finite_are_not_kept() -> None:
    # The value is fine beyond the wall, its gradient is not.
    @tf.custom_gradient
    def wall(x: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            slope = tf.where(x > 1.0, tf.constant(np.nan, x.dtype), -x)
            return upstream[..., None] * slope

        return _gaussian(x), gradient

    kernel = MicrocanonicalLangevin(wall, 0.8, DIAGONAL)
    state = tf.minimum(_normals(19, 100, 2), 0.9)
    state, results = targets.run(kernel, state, 30)
    assert np.all(np.isfinite(results.grads_target_log_prob[0])) and np.all(state <= 1.0)
    # and every chain goes on
    assert np.all(np.isfinite(results.direction[0]))
    assert np.mean(np.isfinite(results.energy_change)) > 0.5


def test_starts_in_a_random_direction() -> None:
    # Uphill, the energy errors of a field would be those of a transient of many steps.
    kernel = MicrocanonicalLangevin(lambda x: 0.0 * tf.reduce_sum(x, -1), 0.1, DIAGONAL)
    state = tf.zeros([20_000, SIZE], tf.float64)
    results = kernel.bootstrap_results(state)
    np.testing.assert_array_equal(results.direction[0], state)
    np.testing.assert_allclose(results.decoherence_length, np.sqrt(SIZE), rtol=1e-15)
    np.testing.assert_allclose(results.step_size, 0.1, rtol=1e-15)
    moved, results = kernel.one_step(state, results, seed=(0, 1))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 0.1, rtol=1e-9)
    # in three dimensions every coordinate is uniform
    for coordinate in moved.numpy().T:
        assert scipy.stats.kstest(coordinate, "uniform", (-0.1, 0.2)).pvalue > 1e-3


# --- step size


@pytest.mark.parametrize("start", [1e-5, 1e5])
@pytest.mark.parametrize(("chains", "size"), [(8, 50), (100, 4)])
def test_adaptation_reaches_its_target_and_freezes(chains: int, size: int, start: float) -> None:
    target_error, num_steps = 2e-4, 400
    inner = MicrocanonicalLangevin(_gaussian, start, DIAGONAL)
    kernel = EnergyErrorAdaptation(inner, num_steps, target_error)
    state, results = _normals(20, chains, size), None
    results, step_sizes = kernel.bootstrap_results(state), []
    step = tf.function(kernel.one_step, autograph=False)
    for i in range(num_steps + 5):
        state, results = step(state, results, seed=tf.constant([1, i]))
        step_sizes.append(float(results.inner_results.step_size))
    frozen = step_sizes[num_steps - 1]
    assert step_sizes[num_steps - 2] != frozen
    assert step_sizes[num_steps:] == [frozen] * 5
    assert int(results.step) == num_steps + 5 and int(results.remembered) < num_steps
    # the far-off start is over after as many steps as it is factors of two
    np.testing.assert_allclose(step_sizes[40:], frozen, rtol=0.25)
    # nor has it thrown the chains out of where they were
    assert np.max(np.abs(state)) < 7.0
    settled = inner.copy(step_size=frozen)
    _, _, error = _stationary(settled, state, 2000, 0)
    np.testing.assert_allclose(error, target_error, rtol=0.2)


def test_adaptation_is_per_dimension_and_per_integrator_step() -> None:
    found = []
    for size, num_steps in ((20, 1), (200, 1), (20, 4)):
        inner = MicrocanonicalLangevin(_gaussian, 0.1, DIAGONAL, num_steps=num_steps)
        kernel = EnergyErrorAdaptation(inner, 300)
        _, results = targets.run(kernel, _normals(21, 20, size), 300)
        found.append(float(results.inner_results.step_size) / np.sqrt(size))
    np.testing.assert_allclose(found, (144 * 5e-4) ** (1 / 6), rtol=0.05)


def test_adaptation_halves_steps_that_are_not_finite_and_undoes_them() -> None:
    def log_prob(x: Any) -> Any:
        return tf.where(tf.abs(x[..., 0]) > 4.0, tf.constant(np.nan, x.dtype), _gaussian(x))

    inner = MicrocanonicalLangevin(log_prob, 1000.0, DIAGONAL)
    kernel = EnergyErrorAdaptation(inner, 100)
    state = _normals(22, 6, 5)
    before = kernel.bootstrap_results(state)
    moved, after = kernel.one_step(state, before, seed=tf.constant([0, 1]))
    np.testing.assert_array_equal(moved, state)
    assert float(after.inner_results.step_size) == 500.0
    tf.nest.assert_same_structure(before, after)
    _, results = targets.run(kernel, state, 60)
    assert 0.3 < float(results.inner_results.step_size) < 4.0


def test_adaptation_undoes_steps_that_are_far_too_long() -> None:
    kernel = EnergyErrorAdaptation(MicrocanonicalLangevin(_gaussian, 1000.0, DIAGONAL), 1)
    state = _normals(29, 6, 5)
    before = kernel.bootstrap_results(state)
    moved, after = kernel.one_step(state, before, seed=(0, 1))
    np.testing.assert_array_equal(moved, state)
    inner = after.inner_results
    np.testing.assert_array_equal(inner.target_log_prob, before.inner_results.target_log_prob)
    assert float(inner.step_size) == 500.0
    # what is far too short is kept, and what comes after the adaptation
    short = kernel.copy(inner_kernel=kernel.inner_kernel.copy(step_size=1e-3))
    moved, after = short.one_step(state, short.bootstrap_results(state), seed=(0, 1))
    assert np.all(np.any(moved != state, -1)) and float(after.inner_results.step_size) == 2e-3
    late = before._replace(step=tf.constant(1))
    moved, after = kernel.one_step(state, late, seed=(0, 1))
    np.testing.assert_allclose(np.linalg.norm(moved - state, axis=-1), 1000.0)
    assert float(after.inner_results.step_size) == 1000.0


def test_adaptation_in_single_precision_and_in_parts() -> None:
    inner = MicrocanonicalLangevin(
        lambda a, b: _gaussian(a) + _gaussian(b), 1e-4, DiagonalInverseHessian()
    )
    kernel = EnergyErrorAdaptation(inner, 300)
    start = tf.cast(_normals(23, 10, 50), tf.float32)
    state, results = targets.run(kernel, [start[:, :20], start[:, 20:]], 320)
    assert [part.shape for part in state] == [(10, 20), (10, 30)]
    assert results.inner_results.step_size.dtype == tf.float32
    expected = (144 * 5e-4) ** (1 / 6) * np.sqrt(50)
    np.testing.assert_allclose(results.inner_results.step_size, expected, rtol=0.07)


# --- tuning


@pytest.mark.parametrize(("size", "chains"), [(10, 4), (100, 1)])
def test_decoherence_length_of_a_gaussian(size: int, chains: int) -> None:
    scale = 30.0
    kernel = MicrocanonicalLangevin(
        lambda x: _gaussian(x / scale),
        0.5 * np.sqrt(size),
        DIAGONAL,
        initial_curvature=DIAGONAL.from_variance(np.full(size, scale**2)),
    )
    start = scale * _normals(24, chains, size)
    length = tune_decoherence_length(kernel, start, (0, 1), 500)
    np.testing.assert_allclose(length, np.sqrt(size), rtol=0.25)
    # the same distance in calls of two steps, and in coordinates that B knows nothing of
    twice = tune_decoherence_length(kernel.copy(num_steps=2), start, (0, 1), 500)
    np.testing.assert_allclose(twice, np.sqrt(size), rtol=0.5)
    plain = kernel.copy(
        initial_curvature=None,
        step_size=0.5 * scale * np.sqrt(size),
        decoherence_length=scale * np.sqrt(size),
    )
    np.testing.assert_allclose(
        tune_decoherence_length(plain, start, (0, 1), 500), scale * np.sqrt(size), rtol=0.25
    )
    # what is followed may be anything
    slow = tune_decoherence_length(
        kernel, start, (0, 1), 500, observables=lambda x: x[..., :2], factor=0.8
    )
    assert 1.2 * np.sqrt(size) < slow < 4 * np.sqrt(size)


@pytest.mark.slow
def test_tuning_finds_everything() -> None:
    size = 30
    scales = np.geomspace(0.2, 5.0, size)
    kernel = MicrocanonicalLangevin(lambda x: _gaussian(x / scales), 1e-3, DIAGONAL, name="field")
    start = _normals(25, 4, size) * scales
    plain = tune_microcanonical(kernel, start, (0, 1), 600)
    tuned = tune_microcanonical(kernel, start, (0, 1), 600, learn_variance=True)
    np.testing.assert_array_equal(plain.inverse_hessian.variance, np.ones(size))
    np.testing.assert_allclose(tuned.inverse_hessian.variance, scales**2, rtol=0.6)
    expected = (144 * 5e-4) ** (1 / 6) * np.sqrt(size)
    np.testing.assert_allclose(tuned.step_size, expected, rtol=0.25)
    assert 0.5 * np.sqrt(size) < tuned.decoherence_length < 2 * np.sqrt(size)
    # without variances the step is that of the narrow, the length that of the wide
    assert plain.step_size < 0.4 * expected and plain.decoherence_length > 1.5 * np.sqrt(size)
    assert np.all(np.any(tuned.state != start, -1)) and np.all(np.any(plain.state != start, -1))
    # the kernel starts with what was found, and keeps the rest
    results = tuned.kernel.bootstrap_results(tuned.state)
    np.testing.assert_array_equal(results.step_size, tuned.step_size)
    np.testing.assert_array_equal(results.decoherence_length, tuned.decoherence_length)
    np.testing.assert_array_equal(results.inverse_hessian.variance, tuned.inverse_hessian.variance)
    assert tuned.kernel.name == "field" and tuned.state.shape == start.shape
    again = tune_microcanonical(kernel, start, (0, 1), 600, learn_variance=True)
    np.testing.assert_array_equal(again.state, tuned.state)
    np.testing.assert_array_equal(again.decoherence_length, tuned.decoherence_length)


@pytest.mark.slow
def test_tuning_of_parts_and_of_fields() -> None:
    kernel = MicrocanonicalLangevin(lambda a, b: _gaussian(a) + _gaussian(b / 3.0), 1e-2, DIAGONAL)
    start = [tf.cast(_normals(26, 3, 4), tf.float32), tf.cast(_normals(27, 3, 6), tf.float32)]
    tuned = tune_microcanonical(kernel, start, (0, 1), 200, learn_variance=True)
    assert [part.shape for part in tuned.state] == [(3, 4), (3, 6)]
    assert tuned.inverse_hessian.variance.shape == (10,)
    assert tuned.inverse_hessian.variance.dtype == tf.float32
    shape = (4, 4, 4)
    operator = FourierDiagonalInverseHessian(reference.shells(shape, 3), 3)
    field = MicrocanonicalLangevin(
        lambda x: -0.5 * tf.reduce_sum(x**2, [-3, -2, -1]), 1.0, operator
    )
    start = tf.reshape(_normals(28, 1, 64), shape)
    tuned = tune_microcanonical(field, start, (0, 1), 200, observables=lambda x: x[0, 0])
    assert tuned.state.shape == shape and 4.0 < tuned.decoherence_length < 16.0


# --- arguments


@pytest.mark.parametrize("make", [_hmc, _langevin])
def test_parameters_are_the_arguments(make: Any) -> None:
    kernel = make(integrator="two_stage", name="theta")
    copy = kernel.copy(step_size=0.7)
    assert copy.parameters == {**kernel.parameters, "step_size": 0.7}
    assert copy.name == "theta" and copy.inverse_hessian is DIAGONAL
    assert copy.target_log_prob_fn is targets.skewed_log_prob
    assert kernel.is_calibrated is (make is _hmc)
    if make is _hmc:
        assert (copy.step_size, copy.num_leapfrog_steps) == (0.7, 3)
    else:
        adaptation = EnergyErrorAdaptation(kernel, 3, name="warm-up")
        assert adaptation.copy().parameters == adaptation.parameters
        assert adaptation.name == "warm-up" and adaptation.inner_kernel is kernel


@pytest.mark.parametrize(
    ("make", "kwargs", "argument"),
    [
        *[
            (make, kwargs, argument)
            for make in (_hmc, _langevin)
            for kwargs, argument in (
                ({"log_prob": 1.0}, "target_log_prob_fn"),
                ({"step_size": 0.0}, "step_size"),
                ({"step_size": -1.0}, "step_size"),
                ({"step_size": np.inf}, "step_size"),
                ({"step_size": None}, "step_size"),
                ({"step_size": [0.1]}, "step_size"),
                ({"step_size": np.array([0.1, 0.2, 0.3])}, "step_size"),
                ({"inverse_hessian": np.eye(3)}, "inverse_hessian"),
                ({"inverse_hessian": None}, "inverse_hessian"),
                ({"integrator": "euler"}, "integrator"),
            )
        ],
        (_hmc, {"num_leapfrog_steps": 0}, "num_leapfrog_steps"),
        (_hmc, {"num_leapfrog_steps": 2.0}, "num_leapfrog_steps"),
        (_hmc, {"num_leapfrog_steps": True}, "num_leapfrog_steps"),
        (_hmc, {"num_leapfrog_steps": None}, "num_leapfrog_steps"),
        (_hmc, {"num_steps_jitter": 1.5}, "num_steps_jitter"),
        (_hmc, {"num_steps_jitter": -0.1}, "num_steps_jitter"),
        (_langevin, {"step_size": np.array([[0.1], [0.2]])}, "step_size"),
        (_langevin, {"decoherence_length": 0.0}, "decoherence_length"),
        (_langevin, {"decoherence_length": "long"}, "decoherence_length"),
        (_langevin, {"num_steps": 0}, "num_steps"),
        (_langevin, {"num_steps": 1.0}, "num_steps"),
        (_langevin, {"num_steps": [1, 2]}, "num_steps"),
    ],
)
def test_rejects_arguments(make: Any, kwargs: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for argument `{argument}`.*Received"):
        make(**kwargs)


@pytest.mark.parametrize("make", [_hmc, _langevin])
def test_rejects_targets_and_states(make: Any) -> None:
    state = tf.zeros([2, SIZE], tf.float64)
    with pytest.raises(ValueError, match="one log density per chain"):
        make(lambda x: -tf.reduce_sum(x**2)).bootstrap_results(state)
    with pytest.raises(ValueError, match="differentiable"):
        make(lambda x: tf.zeros([2], tf.float64)).bootstrap_results(state)
    with pytest.raises(TypeError, match="floating-point"):
        make(lambda x: tf.zeros([2], tf.int32)).bootstrap_results(state)
    line = make(_gaussian, initial_curvature=None)
    with pytest.raises(ValueError, match="`state`.*at least 2"):
        line.bootstrap_results(tf.zeros([4, 1]))


def test_rejects_arguments_of_adaptation_and_tuning() -> None:
    def check(argument: str, call: Any) -> None:
        with pytest.raises(ValueError, match=f"Invalid value for argument `{argument}`.*Received"):
            call()

    inner, state = _langevin(), tf.zeros([2, SIZE], tf.float64)
    check("inner_kernel", lambda: EnergyErrorAdaptation(_hmc(), 10))
    check("inner_kernel", lambda: EnergyErrorAdaptation(None, 10))
    check("num_adaptation_steps", lambda: EnergyErrorAdaptation(inner, 0))
    check("num_adaptation_steps", lambda: EnergyErrorAdaptation(inner, 1.5))
    check("target_error", lambda: EnergyErrorAdaptation(inner, 10, 0.0))
    check("kernel", lambda: tune_decoherence_length(_hmc(), state, (0, 1), 10))
    check("num_steps", lambda: tune_decoherence_length(inner, state, (0, 1), 0))
    check("factor", lambda: tune_decoherence_length(inner, state, (0, 1), 10, factor=-1.0))
    check("seed", lambda: tune_decoherence_length(inner, state, None, 10))
    check("kernel", lambda: tune_microcanonical(_hmc(), state, (0, 1), 10))
    check("num_steps", lambda: tune_microcanonical(inner, state, (0, 1), 2.5))
    check("target_error", lambda: tune_microcanonical(inner, state, (0, 1), 10, -1.0))
    check("seed", lambda: tune_microcanonical(inner, state, 3, 10))
    operator = FourierDiagonalInverseHessian(reference.shells((8,), 3), 3)
    field = MicrocanonicalLangevin(_gaussian, 0.1, operator)
    check(
        "learn_variance",
        lambda: tune_microcanonical(field, tf.zeros([8]), (0, 1), 10, learn_variance=True),
    )
