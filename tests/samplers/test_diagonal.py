"""The diagonal inverse Hessian against a dense matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from samplers import QuasiNewtonHMC
from samplers.diagonal import CoordinateVariance, DiagonalInverseHessian
from tests.samplers import targets

VARIANCE = np.array([[0.02, 0.5], [3.0, 1.0], [40.0, 0.1]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_equals_dense_matrix(dtype: Any, tolerance: float) -> None:
    v = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(dtype)
    operator = DiagonalInverseHessian(2)
    curvature = operator.from_variance(VARIANCE, dtype)
    dense = np.diag(VARIANCE.ravel())
    for result, matrix in (
        (operator.apply(curvature, v), dense),
        (operator.apply_inverse(curvature, v), np.linalg.inv(dense)),
    ):
        assert result.shape == v.shape and result.dtype == dtype
        expected = v.reshape(4, 6) @ matrix
        np.testing.assert_allclose(tf.reshape(result, [4, 6]), expected, rtol=tolerance)
    assert operator.event_ndims == 2


def test_draws_have_covariance_b() -> None:
    count = 40_000
    operator = DiagonalInverseHessian(2)
    draws = operator.sample(operator.from_variance(VARIANCE), (3, 4), [count]).numpy()
    white = (draws / np.sqrt(VARIANCE)).reshape(count, 6)
    error = (white.T @ white / count - np.eye(6)) * np.sqrt(count)
    assert np.abs(error).max() < 6.0
    assert np.abs(white.mean(0)).max() * np.sqrt(count) < 4.0
    again = operator.sample(operator.from_variance(VARIANCE), (3, 4), [count])
    np.testing.assert_array_equal(draws, again)


def test_variance_per_chain() -> None:
    operator = DiagonalInverseHessian(1)
    v = np.random.default_rng(1).normal(size=(3, 2))
    curvature = operator.from_variance(VARIANCE)
    np.testing.assert_allclose(operator.apply(curvature, v), VARIANCE * v)
    np.testing.assert_allclose(operator.apply_inverse(curvature, v), v / VARIANCE)
    draws = operator.sample(curvature, (0, 1))
    assert draws.shape == (3, 2)
    # one chain each, and several of them
    np.testing.assert_array_equal(draws, operator.sample(curvature, (0, 1), [3]))
    assert operator.sample(curvature, (0, 1), [5, 3]).shape == (5, 3, 2)
    shared = operator.from_variance(VARIANCE[0])
    assert operator.sample(shared, (0, 1)).shape == (2,)
    assert operator.sample(shared, (0, 1), []).shape == (2,)


def test_initial_is_the_identity() -> None:
    v = np.random.default_rng(2).normal(size=(5, 3, 2)).astype(np.float32)
    operator = DiagonalInverseHessian(2)
    curvature = operator.initial(v)
    assert curvature.variance.shape == (3, 2) and curvature.variance.dtype == tf.float32
    np.testing.assert_array_equal(operator.apply(curvature, v), v)
    np.testing.assert_array_equal(operator.apply_inverse(curvature, v), v)


@pytest.mark.parametrize("value", [VARIANCE, VARIANCE.tolist(), tf.constant(VARIANCE)])
def test_variances_may_be_numbers_arrays_or_tensors(value: Any) -> None:
    curvature = DiagonalInverseHessian(2).from_variance(value, tf.float32)
    assert isinstance(curvature, CoordinateVariance) and curvature.variance.dtype == tf.float32
    np.testing.assert_allclose(curvature.variance, VARIANCE, rtol=1e-6)
    whole = DiagonalInverseHessian().from_variance([1, 2, 3], tf.float64)
    np.testing.assert_array_equal(whole.variance, [1.0, 2.0, 3.0])


def test_quasi_newton_hmc_leaves_exact_draws_alone_with_it() -> None:
    before = targets.skewed_draws(np.random.default_rng(3), 20_000)
    operator = DiagonalInverseHessian()
    curvature = operator.from_variance([0.4, 0.5, 5.0], tf.float64)

    def run(log_prob: Any) -> Any:
        kernel = QuasiNewtonHMC(log_prob, 0.5, 3, operator, initial_curvature=curvature)
        return targets.run(kernel, tf.constant(before), 2)

    after, results = run(targets.skewed_log_prob)
    assert 0.5 < np.mean(results.is_accepted) < 0.999
    assert targets.worst_z_score(before, after.numpy()) < 4.5
    wrong, _ = run(targets.cooled(targets.skewed_log_prob))
    assert targets.worst_z_score(before, wrong.numpy()) > 6.0


@pytest.mark.parametrize("event_ndims", [0, -1, 1.0, True, None])
def test_rejects_event_ndims(event_ndims: Any) -> None:
    with pytest.raises(ValueError, match="Invalid value for argument `event_ndims`"):
        DiagonalInverseHessian(event_ndims)


@pytest.mark.parametrize(
    "value", [[1.0, 0.0], [1.0, -2.0], [np.nan, 1.0], [np.inf, 1.0], 2.0, [1, 2]]
)
def test_rejects_variances(value: Any) -> None:
    with pytest.raises(ValueError, match="Invalid value for argument `variance`"):
        DiagonalInverseHessian().from_variance(value)
