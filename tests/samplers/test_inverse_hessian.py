"""The limited-memory inverse Hessian against the dense BFGS recursion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import LimitedMemoryInverseHessian, PairHistory
from tests.samplers import reference

SIZE = 5


def _pairs(
    rng: np.random.Generator, count: int, size: int = SIZE
) -> list[tuple[reference.Array, reference.Array]]:
    hessian = reference.positive_definite(rng, size, 0.1, 30.0)
    steps = rng.normal(size=(count, size))
    return [(s, hessian @ s) for s in steps]


def _filled(
    inverse_hessian: LimitedMemoryInverseHessian,
    pairs: list[tuple[reference.Array, reference.Array]],
) -> PairHistory:
    history = inverse_hessian.initial(tf.zeros([len(pairs[0][0])], tf.float64))
    for s, y in pairs:
        history = inverse_hessian.update(history, s, y)
    return history


@pytest.mark.parametrize("memory", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 3, 11])
@pytest.mark.parametrize("initial_scale", ["secant", 0.3])
def test_equals_dense_recursion(memory: int, count: int, initial_scale: Any) -> None:
    rng = np.random.default_rng(count)
    pairs = _pairs(rng, count)
    inverse_hessian = LimitedMemoryInverseHessian(memory, initial_scale)
    history = (
        _filled(inverse_hessian, pairs)
        if pairs
        else inverse_hessian.initial(tf.zeros([SIZE], tf.float64))
    )
    scale = 0.3
    if initial_scale == "secant":
        s, y = pairs[-1] if pairs else (np.ones(SIZE), np.ones(SIZE))
        scale = float(s @ y / (y @ y))
    expected = reference.bfgs_inverse_hessian(pairs[-memory:], scale, SIZE)
    np.testing.assert_allclose(inverse_hessian.dense(history), expected, rtol=1e-9, atol=1e-12)
    v = rng.normal(size=(2, 3, SIZE))
    np.testing.assert_allclose(
        inverse_hessian.apply(history, v), v @ expected.T, rtol=1e-9, atol=1e-12
    )
    assert int(history.count) == count


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), memory=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_is_symmetric_positive_definite_and_secant(seed: int, count: int, memory: int) -> None:
    pairs = _pairs(np.random.default_rng(seed), count)
    inverse_hessian = LimitedMemoryInverseHessian(memory)
    history = _filled(inverse_hessian, pairs)
    dense = inverse_hessian.dense(history).numpy()
    np.testing.assert_allclose(dense, dense.T, atol=1e-9 * np.abs(dense).max())
    assert np.linalg.eigvalsh(dense).min() > 0
    np.testing.assert_allclose(
        inverse_hessian.apply(history, pairs[-1][1]), pairs[-1][0], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_have_covariance_b(dtype: Any) -> None:
    inverse_hessian = LimitedMemoryInverseHessian(3)
    history = _filled(inverse_hessian, _pairs(np.random.default_rng(1), 5))
    history = tf.nest.map_structure(
        lambda t: tf.cast(t, dtype) if t.dtype.is_floating else t, history
    )
    count = 100_000
    draws = inverse_hessian.sample(history, (1, 2), [count]).numpy()
    assert draws.shape == (count, SIZE) and draws.dtype == dtype
    expected = inverse_hessian.dense(history).numpy().astype(np.float64)
    whitened = np.linalg.solve(np.linalg.cholesky(expected), draws.T.astype(np.float64))
    # Off-diagonal elements scatter by 1 / sqrt(count), the diagonal by sqrt(2) of it.
    error = (whitened @ whitened.T / count - np.eye(SIZE)) * np.sqrt(count)
    assert np.abs(error).max() < 6.0
    assert np.abs(whitened.mean(1)).max() * np.sqrt(count) < 5.0


def test_from_dense_and_from_hessian_are_exact() -> None:
    matrix = reference.positive_definite(np.random.default_rng(2), 6, 1e-3, 1e2)
    inverse_hessian = LimitedMemoryInverseHessian(8)
    np.testing.assert_allclose(
        inverse_hessian.dense(inverse_hessian.from_dense(matrix)), matrix, rtol=1e-8, atol=1e-10
    )
    history = inverse_hessian.from_hessian(matrix)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(inverse_hessian.dense(history), inverse, rtol=1e-6, atol=1e-8)
    initial = inverse_hessian.initial(tf.zeros([6], tf.float64))
    for made, start in zip(history, initial, strict=True):
        assert made.shape == start.shape and made.dtype == start.dtype
    single = inverse_hessian.from_dense(matrix, dtype=tf.float32)
    assert single.steps.dtype == tf.float32
    updated = inverse_hessian.update(history, np.ones(6), matrix @ np.ones(6))
    np.testing.assert_allclose(
        inverse_hessian.apply(updated, matrix @ np.ones(6)), np.ones(6), rtol=1e-6
    )


def test_full_memory_learns_a_quadratic() -> None:
    rng = np.random.default_rng(3)
    hessian = reference.positive_definite(rng, 4, 0.5, 20.0)
    inverse_hessian = LimitedMemoryInverseHessian(300)
    s = rng.normal(size=(300, 4))
    history = inverse_hessian.update(
        inverse_hessian.initial(tf.zeros([4], tf.float64)), s, s @ hessian
    )
    np.testing.assert_allclose(inverse_hessian.dense(history) @ hessian, np.eye(4), atol=1e-3)


def test_bad_pairs_are_skipped() -> None:
    inverse_hessian = LimitedMemoryInverseHessian(3)
    s, y = _pairs(np.random.default_rng(4), 1)[0]
    history = _filled(inverse_hessian, [(s, y)])
    bad: list[tuple[Any, Any]] = [
        (s, -y),
        (s, 0 * y),
        (0 * s, y),
        (0 * s, 0 * y),
        (s, np.full(SIZE, np.nan)),
        (np.full(SIZE, np.inf), y),
        (s * 1e-200, y * 1e-200),
        (s, y - (s @ y) * s / (s @ s) * (1 - 1e-6)),
    ]
    for step, change in bad:
        after = inverse_hessian.update(history, step, change)
        for new, old in zip(after, history, strict=True):
            np.testing.assert_array_equal(new, old)


def test_shared_history_pools_chains_in_order() -> None:
    rng = np.random.default_rng(5)
    pairs = _pairs(rng, 7)
    inverse_hessian = LimitedMemoryInverseHessian(4)
    one_by_one = _filled(inverse_hessian, pairs)
    steps = np.stack([s for s, _ in pairs])
    changes = np.stack([y for _, y in pairs])
    steps = np.insert(steps, 2, np.nan, axis=0)
    changes = np.insert(changes, 2, 1.0, axis=0)
    pooled = inverse_hessian.update(
        inverse_hessian.initial(tf.zeros([8, SIZE], tf.float64)), steps, changes
    )
    for new, old in zip(pooled, one_by_one, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-12)


def test_history_per_chain_equals_chains_one_by_one() -> None:
    rng = np.random.default_rng(6)
    chains = [_pairs(rng, 6) for _ in range(3)]
    # The second chain has one bad pair, so that the chains fill at different rates.
    chains[1][2] = (chains[1][2][0], -chains[1][2][1])
    per_chain = LimitedMemoryInverseHessian(4, shared=False)
    single = LimitedMemoryInverseHessian(4)
    batched = per_chain.initial(tf.zeros([3, SIZE], tf.float64))
    for i in range(6):
        batched = per_chain.update(
            batched, np.stack([c[i][0] for c in chains]), np.stack([c[i][1] for c in chains])
        )
    v = rng.normal(size=(3, SIZE))
    product = per_chain.apply(batched, v)
    dense = per_chain.dense(batched)
    for c, pairs in enumerate(chains):
        alone = _filled(single, pairs)
        np.testing.assert_allclose(product[c], single.apply(alone, v[c]), rtol=1e-10)
        np.testing.assert_allclose(dense[c], single.dense(alone), rtol=1e-10, atol=1e-14)
        assert batched.count[c] == alone.count
    draws = per_chain.sample(batched, (0, 1))
    assert draws.shape == (3, SIZE)
    np.testing.assert_array_equal(draws, per_chain.sample(batched, (0, 1)))
    assert not np.array_equal(draws, per_chain.sample(batched, (0, 2)))


def test_chains_do_not_touch_each_other() -> None:
    inverse_hessian = LimitedMemoryInverseHessian(4)
    history = _filled(inverse_hessian, _pairs(np.random.default_rng(7), 4))
    v = np.random.default_rng(8).normal(size=(40, SIZE))
    poisoned = v.copy()
    poisoned[3] = np.nan
    poisoned[11, 2] = np.inf
    others = np.delete(np.arange(40), [3, 11])
    np.testing.assert_array_equal(
        tf.gather(inverse_hessian.apply(history, poisoned), others),
        tf.gather(inverse_hessian.apply(history, v), others),
    )


@pytest.mark.parametrize(
    ("kwargs", "argument"),
    [
        ({"memory": 0}, "memory"),
        ({"memory": True}, "memory"),
        ({"memory": 2.0}, "memory"),
        ({"initial_scale": "none"}, "initial_scale"),
        ({"initial_scale": -1.0}, "initial_scale"),
        ({"initial_scale": np.nan}, "initial_scale"),
        ({"min_cosine": 1.0}, "min_cosine"),
    ],
)
def test_rejects_arguments(kwargs: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for argument `{argument}`"):
        LimitedMemoryInverseHessian(**kwargs)


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.0, -1.0]),
        np.array([[1.0, 0.5], [0.0, 1.0]]),
        np.eye(4),
        np.ones(2),
        np.full((2, 2), np.nan),
        np.tile(np.eye(2), (3, 1, 1)),
    ],
)
def test_rejects_matrices(matrix: reference.Array) -> None:
    inverse_hessian = LimitedMemoryInverseHessian(3)
    with pytest.raises(ValueError, match="Invalid value for argument `matrix`"):
        inverse_hessian.from_dense(matrix)
    with pytest.raises(ValueError, match="Invalid value for argument `hessian`"):
        inverse_hessian.from_hessian(matrix)


def test_rejects_states_and_seeds() -> None:
    inverse_hessian = LimitedMemoryInverseHessian(3)
    with pytest.raises(ValueError, match="`state_like`"):
        inverse_hessian.initial(tf.constant(1.0))
    history = inverse_hessian.initial(tf.zeros([2]))
    for seed in (None, 3, (1.0, 2.0), (1, 2, 3)):
        with pytest.raises(ValueError, match="`seed`"):
            inverse_hessian.sample(history, seed)


@pytest.mark.parametrize("shared", [True, False])
def test_damping_keeps_pairs_of_negative_curvature(shared: bool) -> None:
    mu = 0.2
    damped = LimitedMemoryInverseHessian(4, 1.0, shared=shared, damping=mu)
    plain = LimitedMemoryInverseHessian(4, 1.0, shared=shared)
    s = tf.constant([[1.0, 0.5, 0.0]], tf.float64)
    bent = tf.constant([[-1.0, 0.2, 0.3]], tf.float64)
    assert int(tf.reduce_sum(plain.update(plain.initial(s), s, bent).count)) == 0
    history = damped.update(damped.initial(s), s, bent)
    assert int(tf.reduce_sum(history.count)) == 1
    [step] = np.reshape(history.steps, (-1, 3))[-1:]
    [change] = np.reshape(history.gradient_changes, (-1, 3))[-1:]
    np.testing.assert_array_equal(change, bent[0])
    # equality of s'y and mu y'B y, with B = 1 before the first pair
    np.testing.assert_allclose(step @ change, mu * (change @ change), rtol=1e-12)
    assert np.all(np.linalg.eigvalsh(damped.dense(history)) > 0)


def test_damping_leaves_good_pairs_alone() -> None:
    s = tf.constant([[1.0, 0.5, 0.0]], tf.float64)
    y = tf.constant([[2.0, 0.5, 0.1]], tf.float64)
    damped, plain = (LimitedMemoryInverseHessian(4, damping=d) for d in (0.2, None))
    for a, b in zip(
        damped.update(damped.initial(s), s, y), plain.update(plain.initial(s), s, y), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_damping_skips_what_is_not_finite_or_zero(bad: float) -> None:
    damped = LimitedMemoryInverseHessian(4, damping=0.2)
    s = tf.constant([[1.0, 0.5, 0.0]], tf.float64)
    history = damped.update(damped.initial(s), s, bad * tf.ones_like(s))
    assert int(history.count) == 0


@pytest.mark.parametrize("damping", [0.0, 1.0, -0.1])
def test_damping_is_a_fraction(damping: float) -> None:
    with pytest.raises(ValueError, match="`damping`. Expected a number in"):
        LimitedMemoryInverseHessian(4, damping=damping)
