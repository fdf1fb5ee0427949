"""The Fourier-diagonal inverse Hessian against dense discrete Fourier transforms."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from samplers import FourierDiagonalInverseHessian, ShellVariance, shell_curvature
from tests.samplers import reference, targets

SHAPES = [(8,), (6, 4), (4, 4, 4)]
SHELLS = 3
VARIANCE = np.array([0.02, 0.5, 3.0])


def _operator(shape: tuple[int, ...]) -> FourierDiagonalInverseHessian:
    return FourierDiagonalInverseHessian(reference.shells(shape, SHELLS), SHELLS)


@functools.cache
def _dense(shape: tuple[int, ...]) -> reference.Array:
    return reference.fourier_diagonal_matrix(
        shape, lambda *k: float(VARIANCE[reference.shell(SHELLS, *k)])
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_apply_equals_dense_matrix(shape: tuple[int, ...], dtype: Any, tolerance: float) -> None:
    operator = _operator(shape)
    assert operator.field_shape == shape and operator.event_ndims == len(shape)
    v = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
    result = operator.apply(ShellVariance(tf.constant(VARIANCE, dtype)), v)
    assert result.shape == v.shape and result.dtype == dtype
    expected = v.reshape(2, -1) @ _dense(shape)
    np.testing.assert_allclose(result.numpy().reshape(2, -1), expected, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 1e-4)])
def test_apply_inverse_equals_dense_inverse(
    shape: tuple[int, ...], dtype: Any, tolerance: float
) -> None:
    operator = _operator(shape)
    curvature = ShellVariance(tf.constant(VARIANCE, dtype))
    v = np.random.default_rng(7).normal(size=(2, *shape)).astype(dtype)
    result = operator.apply_inverse(curvature, v)
    assert result.shape == v.shape and result.dtype == dtype
    expected = np.linalg.solve(_dense(shape), v.reshape(2, -1).T).T
    np.testing.assert_allclose(result.numpy().reshape(2, -1), expected, atol=tolerance)
    np.testing.assert_allclose(operator.apply(curvature, result), v, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_have_covariance_b(shape: tuple[int, ...]) -> None:
    count = 40_000
    draws = _operator(shape).sample(ShellVariance(tf.constant(VARIANCE)), (3, 4), [count])
    flat = draws.numpy().reshape(count, -1)
    whitened = np.linalg.solve(np.linalg.cholesky(_dense(shape)), flat.T)
    error = (whitened @ whitened.T / count - np.eye(len(whitened))) * np.sqrt(count)
    assert np.abs(error).max() < 7.0


def test_variance_per_chain() -> None:
    operator = _operator((4, 4, 4))
    variance = np.stack([VARIANCE, 2 * VARIANCE])
    v = np.random.default_rng(1).normal(size=(2, 4, 4, 4))
    both = operator.apply(ShellVariance(tf.constant(variance)), v)
    inverse = operator.apply_inverse(ShellVariance(tf.constant(variance)), v)
    for c in range(2):
        alone = operator.apply(ShellVariance(tf.constant(variance[c])), v[c])
        np.testing.assert_allclose(both[c], alone, rtol=1e-12)
        alone = operator.apply_inverse(ShellVariance(tf.constant(variance[c])), v[c])
        np.testing.assert_allclose(inverse[c], alone, rtol=1e-12)
    assert operator.sample(ShellVariance(tf.constant(variance)), (0, 1)).shape == (2, 4, 4, 4)


def test_projections_are_orthogonal_and_complete() -> None:
    operator = _operator((6, 4))
    v = np.random.default_rng(2).normal(size=(6, 4))
    parts = [operator.project(i, v).numpy() for i in range(SHELLS)]
    np.testing.assert_allclose(sum(parts), v, atol=1e-13)
    for i in range(SHELLS):
        for j in range(i):
            assert abs(np.sum(parts[i] * parts[j])) < 1e-12


def test_initial_is_the_identity() -> None:
    operator = _operator((4, 4, 4))
    v = np.random.default_rng(3).normal(size=(3, 4, 4, 4)).astype(np.float32)
    curvature = operator.initial(v)
    assert curvature.variance.dtype == tf.float32
    np.testing.assert_allclose(operator.apply(curvature, v), v, atol=1e-6)


@pytest.mark.parametrize("displacement", [0.3, [0.1, 1.0, 2.0]])
def test_curvature_of_a_fourier_diagonal_quadratic_is_exact(displacement: Any) -> None:
    shape = (4, 4, 4)
    operator = _operator(shape)
    hessian = tf.constant(np.linalg.inv(_dense(shape)))
    center = np.random.default_rng(4).normal(size=shape)
    calls = []

    def log_prob(x: Any) -> Any:
        calls.append(x)
        offset = tf.reshape(x - center, tf.concat([tf.shape(x)[:-3], [64]], 0))
        return -0.5 * tf.reduce_sum(offset * tf.linalg.matvec(hessian, offset), -1)

    @targets.in_graph
    def estimate(state: Any) -> Any:
        return shell_curvature(log_prob, state, operator, (1, 2), displacement, num_probes=2)

    state = np.random.default_rng(5).normal(size=(2, *shape))
    np.testing.assert_allclose(estimate(tf.constant(state)), 1.0 / VARIANCE, rtol=1e-9)
    # Probes, shells and signs are turns of one loop.
    assert len(calls) <= 2
    floored = shell_curvature(log_prob, state[0], operator, (1, 2), 0.3, minimum=1.0)
    np.testing.assert_allclose(floored, np.maximum(1.0 / VARIANCE, 1.0), rtol=1e-9)
    curvature = operator.from_curvature(floored)
    np.testing.assert_allclose(curvature.variance, 1.0 / np.maximum(1.0 / VARIANCE, 1.0))


def test_curvature_sees_kinks_and_the_displacement_has_the_stated_size() -> None:
    # The second derivative of |x| vanishes almost everywhere. A central difference of its slope
    # over displacements of +-v about zero is sign(v) / |v|, and v'Hv / v'v is then
    # sum |v| / sum v^2 = sqrt(2 / pi) / displacement for normal v.
    shape = (256, 256)
    operator = FourierDiagonalInverseHessian(np.zeros((256, 129), np.int64), 1)
    state = tf.zeros(shape, tf.float64)

    def log_prob(x: Any) -> Any:
        return -tf.reduce_sum(tf.abs(x), [-2, -1])

    for displacement in (0.1, 2.0):
        estimate = shell_curvature(log_prob, state, operator, (0, 1), displacement)
        np.testing.assert_allclose(estimate, [np.sqrt(2 / np.pi) / displacement], rtol=0.02)


def test_rejects_arguments() -> None:
    index = reference.shells((4, 4, 4), SHELLS)
    asymmetric = index.copy()
    asymmetric[1, 0, 0], asymmetric[3, 0, 0] = 1, 2
    for bad in (index[None], index.astype(float), index + 1, asymmetric, np.zeros_like(index)):
        with pytest.raises(ValueError, match="`shell_index`"):
            FourierDiagonalInverseHessian(bad, SHELLS)
    for count in (0, True, 3.0):
        with pytest.raises(ValueError, match="`num_shells`"):
            FourierDiagonalInverseHessian(index, count)  # type: ignore[arg-type]
    operator = FourierDiagonalInverseHessian(index, SHELLS)
    for state in (tf.zeros([4, 4]), tf.zeros([4, 4, 6])):
        with pytest.raises(ValueError, match="Expected fields of shape"):
            operator.initial(state)
    with pytest.raises(ValueError, match="Expected fields of shape"):
        operator.apply(operator.initial(tf.zeros([4, 4, 4])), tf.zeros([4, 4, 6]))
    for curvature in ([1.0, 2.0], [1.0, 0.0, 1.0], [1.0, np.nan, 1.0]):
        with pytest.raises(ValueError, match="`curvature`"):
            operator.from_curvature(curvature)


@pytest.mark.parametrize(
    ("kwargs", "argument"),
    [
        ({"displacement": 0.0}, "displacement"),
        ({"displacement": [1.0, 1.0]}, "displacement"),
        ({"displacement": 1.0, "num_probes": 0}, "num_probes"),
        ({"displacement": 1.0, "minimum": -1.0}, "minimum"),
    ],
)
def test_shell_curvature_rejects_arguments(kwargs: dict[str, Any], argument: str) -> None:
    operator = _operator((8,))
    with pytest.raises(ValueError, match=f"`{argument}`"):
        shell_curvature(lambda x: -tf.reduce_sum(x**2), tf.zeros([8]), operator, (0, 1), **kwargs)
