"""A warm-up finds the scales of a target by itself and freezes what it found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from samplers import LimitedMemoryInverseHessian, QuasiNewtonHMC, sample, warm_up
from samplers.warmup import _draws_per_gradient
from tests.samplers import targets

SIZE = 6
WIDTHS = np.geomspace(0.03, 3.0, SIZE)
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
COVARIANCE = ROTATION @ np.diag(WIDTHS**2) @ ROTATION.T
PRECISION = tf.constant(np.linalg.inv(COVARIANCE))


def log_prob(x: Any) -> Any:
    return -0.5 * tf.reduce_sum(x * tf.linalg.matvec(PRECISION, x), -1)


def start(chains: int = 4) -> Any:
    return tf.constant(np.random.default_rng(1).normal(size=(chains, SIZE)))


@pytest.mark.parametrize("curvature", [pytest.param("pairs", marks=pytest.mark.slow), "covariance"])
def test_it_samples_a_gaussian_of_condition_number_10000(curvature: str) -> None:
    found = warm_up(log_prob, start(), (1, 2), 300, curvature=curvature)
    assert isinstance(found.kernel, QuasiNewtonHMC) and found.kernel.is_calibrated
    known = found.kernel.inverse_hessian.dense(found.curvature).numpy()
    ratios = np.linalg.eigvals(np.linalg.solve(COVARIANCE, known)).real
    # without B their ratio is 10,000
    assert ratios.max() / ratios.min() < (20.0 if curvature == "covariance" else 100.0)
    run = sample(found.kernel, 400, found.state, (3, 4))
    assert 0.6 < run.trace["is_accepted"].mean() < 0.97
    ess = tfp.mcmc.effective_sample_size(run.draws, cross_chain_dims=1).numpy()
    assert ess.min() / (4 * 400 * found.num_leapfrog_steps) > 0.03
    squares = (run.draws @ ROTATION) ** 2
    error = np.sqrt(2.0 / tfp.mcmc.effective_sample_size(squares, cross_chain_dims=1).numpy())
    assert np.all(np.abs(squares.mean((0, 1)) / WIDTHS**2 - 1.0) < 5.0 * error)


@pytest.mark.slow
def test_equal_seeds_find_equal_things() -> None:
    first, second = (warm_up(log_prob, start(), (5, 6), 100) for _ in range(2))
    assert first.step_size == second.step_size
    assert first.criterion == second.criterion
    np.testing.assert_array_equal(first.state, second.state)
    other = warm_up(log_prob, start(), (5, 7), 100)
    assert first.step_size != other.step_size


def test_gradients_are_counted() -> None:
    calls = []

    def counting(x: Any) -> Any:
        tf.py_function(lambda: calls.append(1), [], [])
        return log_prob(x)

    found = warm_up(counting, start(), (1, 2), 100, lengths=(1, 2))
    # and one for each phase that begins
    phases = 1 + 2 + len(found.criterion) + 1
    assert found.num_gradients <= len(calls) <= found.num_gradients + phases + 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_length_neither_wanders_nor_comes_back(seed: int) -> None:
    # the acceptance asks for steps of about 0.4, of which one wanders and 30 are a waste
    found = warm_up(
        log_prob, start(), (seed, 2), 300, lengths=(1, 3, 4, 30), target_accept_prob=0.98
    )
    assert found.num_leapfrog_steps == max(found.criterion, key=found.criterion.__getitem__)
    assert found.num_leapfrog_steps in (3, 4)


def test_lengths_beyond_the_best_are_not_all_tried() -> None:
    found = warm_up(log_prob, start(), (1, 2), 300, lengths=(2, 20, 25, 30, 35))
    assert list(found.criterion) == [2, 20, 25]


@pytest.mark.parametrize("count", [2_000, 40])
def test_the_criterion_on_series_of_known_autocorrelation(count: int) -> None:
    # 40 draws of 6 dimensions are too few for principal axes; both are of this rotation or not
    rng = np.random.default_rng(0)
    runs = {}
    for length, rho in ((1, 0.9), (4, 0.5), (8, -0.9)):
        draws = [rng.normal(size=(4, SIZE))]
        for _ in range(count):
            draws.append(rho * draws[-1] + np.sqrt(1.0 - rho**2) * rng.normal(size=(4, SIZE)))
        runs[length] = np.array(draws) @ np.diag(WIDTHS)
    runs = {length: draws @ ROTATION.T for length, draws in runs.items()} if count > 100 else runs
    found = _draws_per_gradient(runs)
    for length, rho in ((1, 0.9), (4, 0.5), (8, -0.9)):
        # a negative autocorrelation gains nothing, but the squares see its square
        of_means, of_squares = max((1 + rho) / (1 - rho), 1.0), (1 + rho**2) / (1 - rho**2)
        expected = 2.0 / (of_means + of_squares) / length
        assert found[length] == pytest.approx(expected, rel=0.05 if count > 100 else 0.4)


def test_a_chain_that_does_not_move_is_worth_nothing() -> None:
    still = {1: np.zeros((20, 4, 2)), 2: np.random.default_rng(0).normal(size=(20, 4, 2))}
    found = _draws_per_gradient(still)
    assert found[1] < 1e-5 < found[2]


def test_parts_and_what_is_known_already() -> None:
    def of_parts(a: Any, b: Any) -> Any:
        return log_prob(tf.concat([a, b], -1))

    operator = LimitedMemoryInverseHessian(2 * SIZE)
    found = warm_up(
        of_parts,
        [start()[:, :2], start()[:, 2:]],
        (1, 2),
        100,
        inverse_hessian=operator,
        initial_curvature=operator.from_dense(COVARIANCE),
        initial_step_size=0.5,
    )
    assert [part.shape for part in found.state] == [(4, 2), (4, 4)]
    run = sample(found.kernel, 20, found.state, (1, 2))
    assert run.trace["is_accepted"].mean() > 0.3


def test_few_draws_or_little_memory_leave_the_pairs() -> None:
    small = LimitedMemoryInverseHessian(3)
    found = warm_up(log_prob, start(), (1, 2), 100, inverse_hessian=small)
    assert found.curvature.steps.shape == (3, SIZE)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_steps": 50}, "num_steps"),
        ({"num_steps": 200.0}, "num_steps"),
        ({"lengths": ()}, "lengths"),
        ({"lengths": (0, 1)}, "lengths"),
        ({"curvature": "hessian"}, "curvature"),
        ({"state": tf.zeros([1, SIZE], tf.float64)}, "state"),
        ({"state": tf.zeros([], tf.float64)}, "state"),
        ({"seed": None}, "seed"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], name: str) -> None:
    given = {"state": start(), "seed": (1, 2)} | arguments
    with pytest.raises(ValueError, match=f"argument `{name}`"):
        warm_up(log_prob, **given)


@pytest.mark.slow
def test_a_skewed_target() -> None:
    found = warm_up(targets.skewed_log_prob, tf.zeros([8, 3], tf.float64), (1, 2), 300)
    run = sample(found.kernel, 800, found.state, (3, 4))
    exact = targets.skewed_draws(np.random.default_rng(2), 200_000)
    ess = tfp.mcmc.effective_sample_size(run.draws, cross_chain_dims=1).numpy()
    error = exact.std(0) / np.sqrt(ess)
    assert np.all(np.abs(run.draws.mean((0, 1)) - exact.mean(0)) < 5 * error)
