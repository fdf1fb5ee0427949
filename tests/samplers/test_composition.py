"""The kernels of this package around, and inside of, those of TensorFlow Probability.

Each composition runs in a graph and compiled by XLA. Where there is none, a test says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import (
    Block,
    BlockGibbs,
    LimitedMemoryInverseHessian,
    QuasiNewtonAdaptation,
    QuasiNewtonEnsemble,
    QuasiNewtonHMC,
    refresh_target,
)
from samplers.results import find_innermost, find_outermost, replace_innermost
from samplers.target import value_and_gradient, value_and_gradients
from samplers.trajectory import INTEGRATORS, integrate_trajectory
from tests.samplers import targets

tfb, tfe, tfm = tfp.bijectors, tfp.experimental.mcmc, tfp.mcmc

SIZE = 3
ADAPTING = 7
LBFGS = LimitedMemoryInverseHessian(6)
MASS = np.array([0.5, 1.0, 2.0])
STEP_SIZE_ADAPTATIONS = {
    "dual averaging": tfm.DualAveragingStepSizeAdaptation,
    "simple": tfm.SimpleStepSizeAdaptation,
}


def log_prob(*parts: Any) -> Any:
    """The skewed target, of a vector or of pieces of it."""
    return targets.skewed_log_prob(tf.concat(parts, -1))


def hmc(target: Any = log_prob, **arguments: Any) -> QuasiNewtonHMC:
    defaults = {"step_size": 0.3, "num_leapfrog_steps": 3, "inverse_hessian": LBFGS}
    return QuasiNewtonHMC(target, **(defaults | arguments))


def diagonal(target: Any = log_prob) -> QuasiNewtonHMC:
    return hmc(target, mass=MASS)


def adaptation(target: Any = log_prob) -> QuasiNewtonAdaptation:
    return QuasiNewtonAdaptation(hmc(target), ADAPTING)


def ensemble(target: Any = log_prob) -> QuasiNewtonEnsemble:
    return QuasiNewtonEnsemble(hmc(target))


def gibbs(target: Any = log_prob) -> BlockGibbs:
    return BlockGibbs(target, [Block("one", hmc), Block("two", adaptation)])


KERNELS: dict[str, Callable[..., Any]] = {
    "mass=B": hmc,
    "mass=diagonal": diagonal,
    "adaptation": adaptation,
    "ensemble": ensemble,
    "gibbs": gibbs,
}

# compiling takes seconds, and running next to nothing
in_graph_and_compiled = pytest.mark.parametrize(
    "jit_compile",
    [pytest.param(False, id="graph"), pytest.param(True, id="XLA", marks=pytest.mark.slow)],
)
each_kernel = pytest.mark.parametrize("name", KERNELS)


def arranged(name: str, x: Any) -> Any:
    """The state of a kernel: Gibbs sampling takes one part per block."""
    x = tf.convert_to_tensor(x)
    return [x[..., :1], x[..., 1:]] if name == "gibbs" else x


def joined(state: Any) -> Any:
    return tf.concat(state, -1) if isinstance(state, (list, tuple)) else state


def draws(count: int = 8, seed: int = 1) -> Any:
    return targets.skewed_draws(np.random.default_rng(seed), count)


def compiled(function: Any, jit_compile: bool) -> Any:
    return tf.function(function, autograph=False, jit_compile=jit_compile)


def target_log_prob(results: Any) -> Any:
    return find_outermost(results, "target_log_prob")


def z_scores(by_chain: Any, expected: Any) -> Any:
    """Deviation of the mean of independent chains, in standard errors."""
    values = np.asarray(by_chain) - expected
    return values.mean(0) / (values.std(0) / np.sqrt(len(values)))


@in_graph_and_compiled
@each_kernel
def test_a_thinned_chain_is_traced_reduced_and_resumed(name: str, jit_compile: bool) -> None:
    reducers = [
        tfe.VarianceReducer(lambda state, _: joined(state)),
        tfe.ExpectationsReducer(lambda _, results: target_log_prob(results)),
    ]
    kernel = tfe.WithReductions(tfe.ThinningKernel(KERNELS[name](), 1), reducers)
    traced = []

    def run(state: Any, results: Any, seed: Any) -> Any:
        traced.append(seed)
        return tfm.sample_chain(
            5,
            state,
            previous_kernel_results=results,
            kernel=kernel,
            seed=seed,
            trace_fn=lambda _, results: target_log_prob(results),
            return_final_kernel_results=True,
        )

    compiled_run = compiled(run, jit_compile)
    state = arranged(name, draws())
    results = kernel.bootstrap_results(state)
    states, log_probs = [], []
    for leg in range(3):
        out = compiled_run(state, results, tf.constant([leg, 2]))
        state = tf.nest.map_structure(lambda x: x[-1], out.all_states)
        results = out.final_kernel_results
        states.append(joined(out.all_states))
        log_probs.append(out.trace)
    # what a chain ends with is of the type it started with
    assert len(traced) == 1
    states, log_probs = np.concatenate(states), np.concatenate(log_probs)
    assert np.mean(np.ptp(states, axis=0) > 0) > 0.8
    np.testing.assert_allclose(log_probs, log_prob(states), rtol=1e-10, atol=1e-10)
    variance, mean = (
        reducer.finalize(state)
        for reducer, state in zip(reducers, results.reduction_results, strict=True)
    )
    np.testing.assert_allclose(variance, states.var(0), rtol=1e-9)
    np.testing.assert_allclose(mean, log_probs.mean(0), rtol=1e-9)
    if name == "adaptation":
        # every second state is skipped
        assert int(find_outermost(results, "step")) == 30


@in_graph_and_compiled
def test_a_chain_is_folded(jit_compile: bool) -> None:
    reducer = [tfe.TracingReducer(size=6), tfe.CovarianceReducer(event_ndims=1)]
    (trace, covariance), _, _ = compiled(
        lambda x: tfe.sample_fold(6, x, kernel=adaptation(), reducer=reducer, seed=[1, 2]),
        jit_compile,
    )(tf.constant(draws()))
    states = trace[0].numpy()
    deviation = states - states.mean(0)
    expected = np.einsum("sci,scj->cij", deviation, deviation) / 6
    np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)


@in_graph_and_compiled
@each_kernel
def test_sharded_chains_fold_the_replica_into_the_seed(name: str, jit_compile: bool) -> None:
    kernel, state = KERNELS[name](), arranged(name, draws())
    results = kernel.bootstrap_results(state)
    seed = tf.constant([1, 2])
    sharded = tfe.Sharded(kernel, "chains")
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    on_replica = compiled(lambda *arguments: strategy.run(sharded.one_step, arguments), jit_compile)
    alone = compiled(kernel.one_step, jit_compile)
    own_seed = tfp.random.sanitize_seed(seed, salt="sharded_kernel")
    own_seed = tf.random.experimental.stateless_fold_in(own_seed, 0)
    got, _ = on_replica(state, results, seed)
    expected, _ = alone(state, results, own_seed)
    np.testing.assert_array_equal(joined(got), joined(expected))
    assert not np.array_equal(joined(got), joined(state))


# Step sizes --------------------------------------------------------------------------------------


def acceptance(results: Any) -> Any:
    return tf.exp(tf.minimum(find_outermost(results, "log_accept_ratio"), 0.0))


@in_graph_and_compiled
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("scheme", STEP_SIZE_ADAPTATIONS)
def test_acceptance_comes_near_the_target(scheme: str, outside: bool, jit_compile: bool) -> None:
    make = STEP_SIZE_ADAPTATIONS[scheme]
    arguments = {"num_adaptation_steps": 150, "target_accept_prob": 0.7}
    if outside:
        kernel = make(QuasiNewtonAdaptation(hmc(step_size=0.3), 60), **arguments)
    else:
        kernel = QuasiNewtonAdaptation(make(hmc(step_size=0.3), **arguments), 60)
    assert kernel.is_calibrated

    def run(state: Any) -> Any:
        return tfm.sample_chain(
            100,
            state,
            kernel=kernel,
            num_burnin_steps=150,
            seed=[1, 2],
            trace_fn=lambda _, results: (acceptance(results), find_innermost(results, "step_size")),
        )

    _, (accepted, step_size) = compiled(run, jit_compile)(tf.constant(draws(32)))
    assert np.all(step_size[1:] == step_size[1])
    # after 150 steps the step size itself scatters: from one machine's rounding to another's the
    # acceptance of dual averaging has been 0.754 and within 0.05
    assert abs(np.mean(accepted) - 0.7) < 0.1


@in_graph_and_compiled
@pytest.mark.parametrize("name", ["ensemble", "gibbs"])
def test_step_sizes_of_halves_and_blocks_are_set_inside_of_them(
    name: str, jit_compile: bool
) -> None:
    # their results hold several kernels' and no `inner_results`, where TFP looks for one step size
    kernel = tfm.DualAveragingStepSizeAdaptation(KERNELS[name](), 5)
    state = arranged(name, draws())
    run = compiled(lambda x: tfm.sample_chain(2, x, kernel=kernel, seed=[1, 2]), jit_compile)
    with pytest.raises(AttributeError, match="No attribute `step_size`"):
        run(state)


@in_graph_and_compiled
def test_a_step_size_of_both_halves_is_set_from_outside_if_one_says_how(jit_compile: bool) -> None:
    def set_both(results: Any, step_size: Any) -> Any:
        halves = [replace_innermost(h, "step_size", step_size) for h in results.half_results]
        return results._replace(half_results=tuple(halves))

    kernel = tfm.DualAveragingStepSizeAdaptation(
        ensemble(),
        num_adaptation_steps=100,
        target_accept_prob=0.7,
        step_size_setter_fn=set_both,
        step_size_getter_fn=lambda results: find_innermost(results.half_results[0], "step_size"),
        log_accept_prob_getter_fn=lambda results: tf.concat(
            [tf.minimum(half.log_accept_ratio, 0.0) for half in results.half_results], 0
        ),
    )
    _, accepted = compiled(
        lambda x: tfm.sample_chain(
            100,
            x,
            kernel=kernel,
            num_burnin_steps=100,
            seed=[1, 2],
            trace_fn=lambda _, results: results.inner_results.is_accepted,
        ),
        jit_compile,
    )(tf.constant(draws(32)))
    assert abs(np.mean(accepted) - 0.7) < 0.06


@in_graph_and_compiled
def test_the_length_of_trajectories_adapts(jit_compile: bool) -> None:
    # TFP takes the final momentum for a velocity, which it is if mass = B
    kernel = tfe.GradientBasedTrajectoryLengthAdaptation(
        hmc(step_size=0.1, num_leapfrog_steps=1),
        num_adaptation_steps=100,
        adaptation_rate=0.1,
        max_leapfrog_steps=40,
    )
    _, steps = compiled(
        lambda x: tfm.sample_chain(
            120,
            x,
            kernel=kernel,
            seed=[1, 2],
            trace_fn=lambda _, results: find_innermost(results, "num_leapfrog_steps"),
        ),
        jit_compile,
    )(tf.constant(draws(32)))
    assert steps[0] == 1 and np.mean(steps[100:]) > 4


def test_the_momentum_is_a_velocity_only_if_mass_is_b() -> None:
    history = LBFGS.from_dense(np.diag([0.5, 0.4, 3.0]))
    x = tf.constant(draws())
    for mass, is_velocity in (("inverse_hessian", True), (MASS, False)):
        kernel = hmc(mass=mass, step_size=1e-7, num_leapfrog_steps=1, initial_curvature=history)
        _, results = kernel.one_step(x, kernel.bootstrap_results(x), seed=[1, 2])
        velocity = (results.proposed_state - x) / 1e-7
        momentum = results.proposed_results.final_momentum[0]
        assert np.allclose(velocity, momentum, rtol=1e-5, atol=1e-5) == is_velocity


def test_a_diagonal_mass_matrix_has_no_place_beside_b() -> None:
    x = tf.constant(draws())
    one = tf.ones([SIZE], tf.float64)
    variance = tfp.experimental.stats.RunningVariance.from_stats(one[0], 0 * one, one)
    kernel = tfe.DiagonalMassMatrixAdaptation(hmc(), initial_running_variance=variance)
    with pytest.raises(ValueError, match="momentum_distribution"):
        kernel.bootstrap_results(x)


# Bijectors ---------------------------------------------------------------------------------------

CONCENTRATION = 4.0
RATE = np.array([50.0, 1.0, 0.02])


def gamma_log_prob(*parts: Any) -> Any:
    """Positive parameters of very different sizes."""
    x = tf.concat(parts, -1)
    return tf.reduce_sum((CONCENTRATION - 1.0) * tf.math.log(x) - RATE * x, -1)


def gamma_draws(count: int) -> Any:
    return np.random.default_rng(2).gamma(CONCENTRATION, size=(count, SIZE)) / RATE


@in_graph_and_compiled
@each_kernel
def test_positive_parameters(name: str, jit_compile: bool) -> None:
    bijector = [tfb.Exp(), tfb.Exp()] if name == "gibbs" else tfb.Exp()
    kernel = tfm.TransformedTransitionKernel(KERNELS[name](gamma_log_prob), bijector)
    assert kernel.is_calibrated
    states = compiled(
        lambda x: tfm.sample_chain(60, x, kernel=kernel, seed=[1, 2], trace_fn=None), jit_compile
    )(arranged(name, gamma_draws(64)))
    mean = joined(states).numpy().mean(0) * RATE
    assert np.abs(z_scores(mean, CONCENTRATION)).max() < 4.5
    # a density without its Jacobian would be that of one less
    assert np.abs(z_scores(mean, CONCENTRATION - 1.0)).min() > 6.0


@in_graph_and_compiled
@pytest.mark.parametrize("make", [adaptation, ensemble], ids=["adaptation", "ensemble"])
def test_curvature_is_learnt_behind_a_bijector(make: Any, jit_compile: bool) -> None:
    inside = tfm.TransformedTransitionKernel(make(gamma_log_prob), tfb.Exp())
    transformed = tfm.TransformedTransitionKernel(hmc(gamma_log_prob), tfb.Exp())
    outside = make().copy(inner_kernel=transformed)
    x = tf.constant(gamma_draws(8))
    ends = []
    for kernel in (inside, outside):
        out = compiled(
            lambda x, kernel=kernel: tfm.sample_chain(
                10, x, kernel=kernel, seed=[1, 2], return_final_kernel_results=True, trace_fn=None
            ),
            jit_compile,
        )(x)
        results = out.final_kernel_results
        halves = getattr(results, "half_results", None) or getattr(
            results.inner_results, "half_results", [results]
        )
        ends.append((out.all_states, [find_innermost(h, "inverse_hessian") for h in halves]))
    for got, expected in zip(*map(tf.nest.flatten, ends), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-7)
    assert int(tf.nest.flatten(ends)[-1]) > 0


@in_graph_and_compiled
def test_a_block_behind_a_bijector(jit_compile: bool) -> None:
    def positive(target: Any) -> Any:
        return tfm.TransformedTransitionKernel(hmc(target), tfb.Exp())

    def conditional(x: Any, _: Any) -> Any:
        return lambda part: gamma_log_prob(x, part)

    kernel = BlockGibbs(
        gamma_log_prob, [Block("one", positive), Block("two", positive, conditional)]
    )
    x = gamma_draws(64)
    states = compiled(
        lambda x: tfm.sample_chain(60, x, kernel=kernel, seed=[1, 2], trace_fn=None), jit_compile
    )([tf.constant(x[:, :1]), tf.constant(x[:, 1:])])
    mean = joined(states).numpy().mean(0) * RATE
    assert np.abs(z_scores(mean, CONCENTRATION)).max() < 4.5
    # from outside a bijector reaches the joint density, and not the target a block makes
    with pytest.raises(ValueError, match=r"`blocks`.*make their own target: \['two'\]"):
        tfm.TransformedTransitionKernel(kernel, [tfb.Exp(), tfb.Exp()])


# Temperatures ------------------------------------------------------------------------------------

SHARE = 0.3
TEMPERATURES = 1.0 / np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def two_modes(x: Any) -> Any:
    """Modes far apart, with shares of 0.3 and 0.7."""
    mixture = tfp.distributions.MixtureSameFamily(
        tfp.distributions.Categorical(probs=np.array([SHARE, 1.0 - SHARE])),
        tfp.distributions.MultivariateNormalDiag(
            np.array([[-4.0] + [0.0] * (SIZE - 1), [4.0] + [0.0] * (SIZE - 1)])
        ),
    )
    return mixture.log_prob(x)


def temperatures(make: Any, target: Any = two_modes) -> Any:
    return tfm.ReplicaExchangeMC(target, tf.constant(TEMPERATURES), make)


@in_graph_and_compiled
@pytest.mark.parametrize("name", ["mass=B", "mass=diagonal", "adaptation"])
def test_replicas_exchange(name: str, jit_compile: bool) -> None:
    def make(target: Any) -> Any:
        step_size = 0.7 / np.sqrt(TEMPERATURES)[:, np.newaxis, np.newaxis]
        mass = MASS if name == "mass=diagonal" else "inverse_hessian"
        operator = LimitedMemoryInverseHessian(4, shared=False)
        kernel = hmc(target, step_size=step_size, mass=mass, inverse_hessian=operator)
        return QuasiNewtonAdaptation(kernel, ADAPTING) if name == "adaptation" else kernel

    def run(state: Any, kernel: Any) -> Any:
        return tfm.sample_chain(250, state, kernel=kernel, seed=[1, 2], trace_fn=None)[50:]

    rng = np.random.default_rng(3)
    start = rng.normal(size=(64, SIZE))
    start[:, 0] += np.where(rng.random(64) < SHARE, -4.0, 4.0)
    states = compiled(lambda x: run(x, temperatures(make)), jit_compile)(tf.constant(start))
    assert states.shape == (200, 64, SIZE)
    left = states[..., 0].numpy() < 0
    assert abs(z_scores(left.mean(0), SHARE)) < 4.5

    def crossed(left: Any) -> Any:
        return np.mean(left.any(0) & ~left.all(0))

    assert crossed(left) > 0.5
    if not jit_compile:
        alone = compiled(lambda x: run(x, hmc(two_modes)), False)(tf.constant(start))
        assert crossed(alone[..., 0].numpy() < 0) < 0.1


@in_graph_and_compiled
def test_halves_of_an_ensemble_are_not_replicas(jit_compile: bool) -> None:
    # its first axis would be that of the temperatures, of which a half knows nothing
    with pytest.raises(ValueError, match="Dimensions must be equal, but are 4 and 2"):
        kernel = tfm.ReplicaExchangeMC(log_prob, tf.constant(TEMPERATURES[:4]), ensemble)
        compiled(kernel.bootstrap_results, jit_compile)(tf.constant(draws()))


@in_graph_and_compiled
def test_replicas_of_a_gibbs_sampler_are_not_exchanged(jit_compile: bool) -> None:
    # TFP looks for one proposal in the results, where there is one per block
    kernel = temperatures(gibbs, log_prob)
    with pytest.raises(AttributeError, match="Missing field proposed_results"):
        compiled(kernel.bootstrap_results, jit_compile)(arranged("gibbs", draws()))


# Annealing ---------------------------------------------------------------------------------------


def wide(x: Any) -> Any:
    """Normalised density of N(0, 1)."""
    return tf.reduce_sum(-0.5 * x**2 - 0.5 * np.log(2 * np.pi), -1)


def narrow(x: Any) -> Any:
    """Density of N(1, 0.5^2) times e^2."""
    return tf.reduce_sum(-2.0 * (x - 1.0) ** 2 - 0.5 * np.log(np.pi / 2), -1) + 2.0


class Refreshed(tfm.TransitionKernel):
    """Evaluates its target anew before every step, as a block of `BlockGibbs` does."""

    def __init__(self, inner_kernel: Any) -> None:
        self.inner_kernel = inner_kernel

    @property
    def is_calibrated(self) -> bool:
        return bool(self.inner_kernel.is_calibrated)

    def bootstrap_results(self, init_state: Any) -> Any:
        return self.inner_kernel.bootstrap_results(init_state)

    def one_step(self, current_state: Any, previous: Any, seed: Any = None) -> Any:
        fresh = refresh_target(previous, self.inner_kernel.bootstrap_results(current_state))
        return self.inner_kernel.one_step(current_state, fresh, seed=seed)


@in_graph_and_compiled
@pytest.mark.parametrize("name", ["mass=B", "mass=diagonal"])
def test_annealed_importance(name: str, jit_compile: bool) -> None:
    # TFP starts each step from the log density of the temperature before, and so is biased with
    # every kernel that remembers it
    start = tf.constant(np.random.default_rng(4).normal(size=(4000, SIZE)))

    def evidence(make: Any) -> Any:
        _, weights, _ = compiled(
            lambda x: tfm.sample_annealed_importance_chain(
                30, wide, narrow, x, make, seed=tf.constant([1, 2])
            ),
            jit_compile,
        )(start)
        return np.exp(weights.numpy() - 2.0)

    assert abs(z_scores(evidence(lambda target: Refreshed(KERNELS[name](target))), 1.0)) < 4.5
    if not jit_compile:
        assert z_scores(evidence(KERNELS[name]), 1.0) < -6.0

        def plain(target: Any) -> Any:
            return tfm.HamiltonianMonteCarlo(target, step_size=0.3, num_leapfrog_steps=3)

        assert z_scores(evidence(plain), 1.0) < -6.0


@in_graph_and_compiled
@pytest.mark.parametrize("name", ["mass=B", "adaptation"])
def test_sequential_monte_carlo(name: str, jit_compile: bool) -> None:
    # prior N(0, 1) and likelihood N(2, 1): the posterior is N(1, 1/2)
    start = tf.constant(np.random.default_rng(5).normal(size=(1000, SIZE)))
    _, states, _ = compiled(
        lambda x: tfe.sample_sequential_monte_carlo(
            wide,
            lambda x: wide(x - 2.0),
            x,
            make_kernel_fn=lambda target, _, __: KERNELS[name](target),
            seed=[1, 2],
        ),
        jit_compile,
    )(start)
    np.testing.assert_allclose(np.mean(states, 0), 1.0, atol=0.15)
    np.testing.assert_allclose(np.var(states, 0), 0.5, atol=0.1)


@in_graph_and_compiled
@pytest.mark.parametrize("name", ["ensemble", "gibbs"])
def test_annealing_needs_one_proposal(name: str, jit_compile: bool) -> None:
    run = compiled(
        lambda *x: tfm.sample_annealed_importance_chain(
            2, log_prob, log_prob, arranged(name, x[0]), KERNELS[name], seed=tf.constant([1, 2])
        ),
        jit_compile,
    )
    with pytest.raises(TypeError, match="Cannot find MH results"):
        run(tf.constant(draws()))


# Trajectories ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mass", [None, MASS], ids=["mass=B", "mass=diagonal"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_map_of_a_trajectory_preserves_volume(integrator: str, mass: Any) -> None:
    history = LBFGS.from_dense(np.array([[0.5, 0.3, -0.6], [0.3, 0.5, -0.3], [-0.6, -0.3, 5.0]]))

    def end(z: Any) -> Any:
        x, p = tf.split(tf.constant(z), 2, -1)
        log_density, gradient = value_and_gradient(log_prob, x)
        out = integrate_trajectory(
            log_prob,
            LBFGS,
            history,
            x,
            p,
            log_density,
            gradient,
            0.2,
            6,
            None if mass is None else tf.constant(mass),
            integrator,
        )
        return np.concatenate([out.state, out.momentum], -1)

    for start in np.concatenate([draws(3), np.random.default_rng(6).normal(size=(3, SIZE))], -1):
        shifts = 1e-5 * np.concatenate([np.eye(2 * SIZE), -np.eye(2 * SIZE)])
        ends = end(start + shifts)
        jacobian = (ends[: 2 * SIZE] - ends[2 * SIZE :]) / 2e-5
        sign, log_det = np.linalg.slogdet(jacobian)
        assert sign == 1.0 and abs(log_det) < 1e-6
        assert np.abs(jacobian - np.eye(2 * SIZE)).max() > 0.5


# Freezing ----------------------------------------------------------------------------------------


@in_graph_and_compiled
@pytest.mark.parametrize("shared", [True, False], ids=["pooled", "per chain"])
def test_the_history_is_constant_once_frozen(shared: bool, jit_compile: bool) -> None:
    operator = LimitedMemoryInverseHessian(6, shared=shared)
    kernel = QuasiNewtonAdaptation(hmc(inverse_hessian=operator), 20)
    _, histories = compiled(
        lambda x: tfm.sample_chain(
            220,
            x,
            kernel=kernel,
            seed=[1, 2],
            trace_fn=lambda _, results: find_innermost(results, "inverse_hessian"),
        ),
        jit_compile,
    )(tf.constant(draws(4)))
    for history in histories:
        np.testing.assert_array_equal(
            history[20:], np.broadcast_to(history[19], history[20:].shape)
        )
    assert not np.array_equal(histories.steps[18], histories.steps[19])


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["pooled", "per chain"])
def test_exact_draws_stay_exact_for_long(shared: bool) -> None:
    operator = LimitedMemoryInverseHessian(3, shared=shared)
    before = tf.constant(draws(20_000))

    def run(target: Any) -> float:
        kernel = QuasiNewtonAdaptation(hmc(target, inverse_hessian=operator), 20)
        warm = before[:4] if shared else before
        _, learnt = targets.run(kernel, warm, 20)
        # learnt elsewhere or by chains that begin anew: a constant to the chains that count
        results = replace_innermost(
            kernel.bootstrap_results(before),
            "inverse_hessian",
            find_innermost(learnt, "inverse_hessian"),
        )
        after, results = compiled(
            lambda x, results: tfe.step_kernel(
                200, x, results, kernel, seed=[3, 4], return_final_kernel_results=True
            ),
            False,
        )(before, results._replace(step=learnt.step))
        assert int(results.step) == 220
        return targets.worst_z_score(before.numpy(), after.numpy())

    assert run(log_prob) < 4.5
    assert run(targets.cooled(log_prob)) > 6.0


@in_graph_and_compiled
@pytest.mark.parametrize("shared", [True, False], ids=["pooled", "per chain"])
def test_rejection_leaves_a_frozen_history_untouched(shared: bool, jit_compile: bool) -> None:
    operator = LimitedMemoryInverseHessian(6, shared=shared)
    kernel = QuasiNewtonAdaptation(hmc(step_size=20.0, inverse_hessian=operator), 3)
    state = tf.constant(draws(4))
    warm = QuasiNewtonAdaptation(hmc(inverse_hessian=operator), 3)
    _, before = targets.run(warm, state, 3)
    before = replace_innermost(
        kernel.bootstrap_results(state),
        "inverse_hessian",
        find_innermost(before, "inverse_hessian"),
    )._replace(step=before.step)
    out = compiled(
        lambda x, results: tfm.sample_chain(
            5,
            x,
            previous_kernel_results=results,
            kernel=kernel,
            seed=[1, 2],
            trace_fn=lambda _, results: results.inner_results.is_accepted,
            return_final_kernel_results=True,
        ),
        jit_compile,
    )(state, before)
    assert not np.any(out.trace)
    np.testing.assert_array_equal(out.all_states[-1], state)
    after = out.final_kernel_results
    for field in ("inverse_hessian", "target_log_prob", "grads_target_log_prob"):
        old, new = (tf.nest.flatten(find_innermost(r, field)) for r in (before, after))
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a, b)


# Blocks ------------------------------------------------------------------------------------------


def blocks(**arguments: Any) -> BlockGibbs:
    """Each step is one leapfrog step with B = 1."""

    def kernel(target: Any) -> Any:
        return hmc(target, num_leapfrog_steps=1)

    names = ("one", "two")
    return BlockGibbs(log_prob, [Block(name, kernel, **arguments) for name in names])


def what_blocks_start_from(kernel: BlockGibbs, jit_compile: bool) -> tuple[Any, Any]:
    """Log density and gradient that each block took for those of its start, and the true ones."""
    state = arranged("gibbs", draws())
    states, traces = compiled(
        lambda *x: tfm.sample_chain(
            6,
            list(x),
            kernel=kernel,
            seed=[1, 2],
            trace_fn=lambda _, results: [
                (
                    block.log_accept_ratio,
                    block.proposed_results.target_log_prob,
                    block.proposed_results.log_acceptance_correction,
                    block.proposed_results.initial_momentum[0],
                    block.proposed_state,
                )
                for block in results.block_results
            ],
        ),
        jit_compile,
    )(*state)
    used, true = [], []
    one, two = (tf.concat([a[tf.newaxis], b], 0) for a, b in zip(state, states, strict=True))
    for block, trace in enumerate(traces):
        ratio, proposed, correction, momentum, end = trace
        # the second block starts from where the first one went
        start = [one[:-1] if block == 0 else one[1:], two[:-1]]
        value, gradients = value_and_gradients(log_prob, start)
        true.append((value.numpy(), gradients[block].numpy()))
        # x' = x + eps (p + eps g / 2)
        kick = ((end - start[block]) / 0.3 - momentum) * (2.0 / 0.3)
        used.append(((proposed + correction - ratio).numpy(), kick.numpy()))
    return used, true


@in_graph_and_compiled
def test_blocks_start_from_a_fresh_target(jit_compile: bool) -> None:
    used, true = what_blocks_start_from(blocks(), jit_compile)
    for got, expected in zip(tf.nest.flatten(used), tf.nest.flatten(true), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)
    if not jit_compile:
        stale = blocks(refresh=lambda previous, fresh: previous)
        used, true = what_blocks_start_from(stale, jit_compile)
        for got, expected in zip(tf.nest.flatten(used), tf.nest.flatten(true), strict=True):
            assert not np.allclose(got, expected, atol=0.1)


@in_graph_and_compiled
def test_an_ensemble_is_no_block(jit_compile: bool) -> None:
    # the other block's chains, all of them, are part of the target, which halves do not fit
    kernel = BlockGibbs(log_prob, [Block("one", ensemble), Block("two", hmc)])
    with pytest.raises(ValueError, match="Dimension"):
        compiled(kernel.bootstrap_results, jit_compile)(arranged("gibbs", draws()))


@in_graph_and_compiled
def test_replicas_are_no_block(jit_compile: bool) -> None:
    # the hot ones would stay where the other block, which sees the cold one only, was
    def coupled(one: Any, two: Any) -> Any:
        return wide(one) + wide(two) - one[..., 0] * two[..., 0]

    blocks = [Block("one", lambda target: temperatures(hmc, target)), Block("two", hmc)]
    kernel, state = BlockGibbs(coupled, blocks), arranged("gibbs", draws())
    step = compiled(kernel.one_step, jit_compile)
    with pytest.raises(ValueError, match="`make_kernel`.*exchanges replicas"):
        step(state, kernel.bootstrap_results(state), tf.constant([1, 2]))
