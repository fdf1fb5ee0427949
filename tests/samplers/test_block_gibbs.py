"""Gibbs sampling in blocks."""

from __future__ import annotations

import collections
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
    QuasiNewtonHMC,
    refresh_target,
)
from samplers.results import find_innermost
from tests.samplers import reference, targets

CORRELATION = 0.8
CHAINS = 20_000


def _joint(x: Any, y: Any) -> Any:
    x, y = x[..., 0], y[..., 0]
    scale = 1.0 - CORRELATION**2
    return -0.5 * (x**2 - 2 * CORRELATION * x * y + y**2) / scale


def _draws() -> reference.Array:
    covariance = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
    return np.random.default_rng(0).multivariate_normal(covariance[0] * 0, covariance, size=CHAINS)


def _hmc(target: Any) -> Any:
    return tfp.mcmc.HamiltonianMonteCarlo(target, step_size=0.5, num_leapfrog_steps=2)


def _random_walk(target: Any) -> Any:
    return tfp.mcmc.RandomWalkMetropolis(
        target, new_state_fn=tfp.mcmc.random_walk_normal_fn(scale=0.8)
    )


def _mala(target: Any) -> Any:
    return tfp.mcmc.MetropolisAdjustedLangevinAlgorithm(target, step_size=0.3)


def _nuts(target: Any) -> Any:
    return tfp.mcmc.NoUTurnSampler(target, step_size=0.5, max_tree_depth=2)


def _quasi_newton(target: Any) -> Any:
    return QuasiNewtonHMC(target, 0.6, 2, LimitedMemoryInverseHessian(3))


def _adaptive(target: Any) -> Any:
    return tfp.mcmc.DualAveragingStepSizeAdaptation(
        QuasiNewtonAdaptation(_quasi_newton(target), 0), num_adaptation_steps=0
    )


KERNELS: dict[str, Callable[[Any], Any]] = {
    "hmc": _hmc,
    "random walk": _random_walk,
    "mala": _mala,
    "nuts": _nuts,
    "quasi-newton": _quasi_newton,
    "adaptive": _adaptive,
}


def _blocks(make_kernel: Callable[[Any], Any], **kwargs: Any) -> list[Block]:
    return [Block("x", make_kernel, **kwargs), Block("y", make_kernel, **kwargs)]


def _worst(kernel: BlockGibbs, num_steps: int = 10) -> float:
    before = _draws()
    state = [tf.constant(before[:, :1]), tf.constant(before[:, 1:])]
    after, results = targets.run(kernel, state, num_steps)
    np.testing.assert_allclose(results.target_log_prob, _joint(*after), rtol=1e-9, atol=1e-9)
    return targets.worst_z_score(before, np.concatenate(after, -1))


@pytest.mark.parametrize("name", KERNELS)
def test_exact_draws_stay_exact(name: str) -> None:
    kernel = BlockGibbs(_joint, _blocks(KERNELS[name]))
    assert kernel.is_calibrated
    assert _worst(kernel) < 4.5


@pytest.mark.parametrize("name", ["hmc", "random walk", "mala", "quasi-newton"])
def test_stale_targets_are_noticed(name: str) -> None:
    stale = BlockGibbs(_joint, _blocks(KERNELS[name], refresh=lambda previous, fresh: previous))
    before = _draws()
    state = [tf.constant(before[:, :1]), tf.constant(before[:, 1:])]
    after, _ = targets.run(stale, state, 10)
    assert targets.worst_z_score(before, np.concatenate(after, -1)) > 6.0


def test_wrong_target_is_noticed() -> None:
    def cooled(*parts: Any) -> Any:
        return 1.1 * _joint(*parts)

    before = _draws()
    state = [tf.constant(before[:, :1]), tf.constant(before[:, 1:])]
    after, _ = targets.run(BlockGibbs(cooled, _blocks(_hmc)), state, 10)
    assert targets.worst_z_score(before, np.concatenate(after, -1)) > 6.0


@pytest.mark.parametrize("name", ["hmc", "mala", "quasi-newton"])
def test_graph_equals_eager(name: str) -> None:
    # In a graph the second part is a function of the first, which a kernel must not differentiate.
    kernel = BlockGibbs(_joint, _blocks(KERNELS[name]))
    before = _draws()[:50]
    state = [tf.constant(before[:, :1]), tf.constant(before[:, 1:])]
    eager, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=tf.constant([0, 1]))

    @targets.in_graph
    def step(state: Any) -> Any:
        return kernel.one_step(state, kernel.bootstrap_results(state), seed=tf.constant([0, 1]))

    graph, _ = step(state)
    for a, b in zip(graph, eager, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_block_makes_its_own_target_once_per_visit() -> None:
    visits = []

    def conditional_of_y(x: Any, y: Any) -> Callable[[Any], Any]:
        visits.append(y)
        center = CORRELATION * x[..., 0]
        return lambda part: -0.5 * (part[..., 0] - center) ** 2 / (1.0 - CORRELATION**2)

    blocks = [
        Block("x", _random_walk),
        Block("y", _quasi_newton, make_target=conditional_of_y, num_steps=3),
    ]
    kernel = BlockGibbs(_joint, blocks)
    before = _draws()
    state = [tf.constant(before[:, :1]), tf.constant(before[:, 1:])]
    results = kernel.bootstrap_results(state)
    visits.clear()
    kernel.one_step(state, results, seed=(0, 1))
    assert len(visits) == 1
    after, _ = targets.run(kernel, state, 10)
    assert targets.worst_z_score(before, np.concatenate(after, -1)) < 4.5


def test_several_steps_per_visit_equal_several_steps() -> None:
    state = [tf.constant([[0.3]], tf.float64), tf.constant([[-0.2]], tf.float64)]
    kernel = BlockGibbs(_joint, [Block("x", _hmc, num_steps=3), Block("y", _random_walk)])
    after, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=(1, 2))
    seed = tfp.random.split_seed(tf.constant([1, 2]), n=2)[0]
    alone = _hmc(lambda x: _joint(x, state[1]))
    x, results = state[0], alone.bootstrap_results(state[0])
    for i in range(3):
        own = tf.random.experimental.stateless_fold_in(seed, i)
        x, results = alone.one_step(x, results, seed=own)
    np.testing.assert_allclose(after[0], x, rtol=1e-12)


def test_refresh_keeps_adaptation_and_renews_the_target() -> None:
    def make(target: Any) -> Any:
        inner = QuasiNewtonAdaptation(
            QuasiNewtonHMC(target, 0.3, 2, LimitedMemoryInverseHessian(3)), 50
        )
        return tfp.mcmc.DualAveragingStepSizeAdaptation(inner, num_adaptation_steps=50)

    part = tf.constant([[0.5]], tf.float64)
    old = make(lambda x: _joint(x, part))
    state, results = old.one_step(part, old.bootstrap_results(part), seed=(0, 1))
    fresh = make(lambda x: _joint(x, part + 1.0)).bootstrap_results(state)
    merged = refresh_target(results, fresh)
    tf.nest.assert_same_structure(merged, results)
    for field in ("target_log_prob", "grads_target_log_prob"):
        np.testing.assert_array_equal(find_innermost(merged, field), find_innermost(fresh, field))
        assert not np.array_equal(find_innermost(merged, field), find_innermost(results, field))
    for field in ("step_size", "inverse_hessian", "log_accept_ratio"):
        tf.nest.map_structure(
            np.testing.assert_array_equal,
            find_innermost(merged, field),
            find_innermost(results, field),
        )
    np.testing.assert_array_equal(merged.new_step_size, results.new_step_size)
    assert int(merged.step) == int(merged.inner_results.step) == 1
    assert int(find_innermost(merged, "inverse_hessian").count) == 1


def test_composes_in_sample_chain_and_adapts() -> None:
    def make(target: Any) -> Any:
        return tfp.mcmc.DualAveragingStepSizeAdaptation(
            QuasiNewtonAdaptation(_quasi_newton(target), 30), num_adaptation_steps=30
        )

    kernel = BlockGibbs(_joint, [Block("x", make), Block("y", _random_walk)])
    state = [tf.zeros([5, 1], tf.float64), tf.zeros([5, 1], tf.float64)]

    @targets.in_graph
    def sample() -> Any:
        return tfp.mcmc.sample_chain(
            60,
            state,
            kernel=kernel,
            seed=(3, 4),
            trace_fn=lambda _, r: (
                r.target_log_prob,
                find_innermost(r.block_results[0], "inverse_hessian").count,
                find_innermost(r.block_results[0], "step_size"),
            ),
        )

    (x, y), (log_prob, count, step_size) = sample()
    np.testing.assert_allclose(log_prob, _joint(x, y), rtol=1e-9, atol=1e-10)
    assert count[0] > 0 and np.all(count[30:] == count[29]) and count[29] > count[5]
    assert np.all(step_size[31:] == step_size[31]) and step_size[31] != step_size[1]


def test_state_keeps_its_container() -> None:
    Pair = collections.namedtuple("Pair", ["x", "y"])
    parts = (tf.constant([[0.3]], tf.float64), tf.constant([[-0.2]], tf.float64))
    kernel = BlockGibbs(_joint, _blocks(_hmc))
    expected = None
    for state in (list(parts), parts, Pair(*parts)):
        after, _ = kernel.one_step(state, kernel.bootstrap_results(state), seed=(1, 2))
        assert type(after) is type(state)
        expected = after if expected is None else expected
        np.testing.assert_array_equal(tf.nest.flatten(after), tf.nest.flatten(expected))


def test_rejects_arguments() -> None:
    with pytest.raises(ValueError, match="`blocks`"):
        BlockGibbs(_joint, [])
    with pytest.raises(ValueError, match="`blocks`"):
        BlockGibbs(_joint, [Block("x", _hmc), Block("x", _hmc)])
    with pytest.raises(ValueError, match="`target_log_prob_fn`"):
        BlockGibbs(None, _blocks(_hmc))
    with pytest.raises(ValueError, match="`target_log_prob_fn`"):
        BlockGibbs(1.0, _blocks(_hmc))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`num_steps`"):
        Block("x", _hmc, num_steps=0)
    with pytest.raises(ValueError, match="`name`"):
        Block("", _hmc)
    with pytest.raises(ValueError, match="`make_kernel`"):
        Block("x", None)  # type: ignore[arg-type]
    kernel = BlockGibbs(_joint, _blocks(_hmc))
    for state in (tf.zeros([2, 1]), [tf.zeros([1])]):
        with pytest.raises(ValueError, match="`current_state`"):
            kernel.bootstrap_results(state)
    assert kernel.copy(name="gibbs").parameters["name"] == "gibbs"


def test_one_uncalibrated_block_spoils_all() -> None:
    blocks = [
        Block("x", lambda t: tfp.mcmc.UncalibratedHamiltonianMonteCarlo(t, 0.1, 1)),
        Block("y", _hmc),
    ]
    assert not BlockGibbs(_joint, blocks).is_calibrated
