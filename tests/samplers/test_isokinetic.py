"""The dynamics at constant speed: the turn, the volume it keeps account of, and the metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf

from samplers import FourierDiagonalInverseHessian, ShellVariance
from samplers.diagonal import CoordinateVariance, DiagonalInverseHessian
from samplers.isokinetic import (
    event_size,
    force,
    integrate_isokinetic,
    random_direction,
    refresh_direction,
    turn,
)
from samplers.target import value_and_gradient
from samplers.trajectory import INTEGRATORS
from tests.samplers import reference, targets

DIAGONAL = DiagonalInverseHessian()
SIZE = 3
VARIANCE = np.array([0.5, 0.3, 4.0])
SHELLS = 3
SHELL_VARIANCE = np.array([0.2, 0.5, 2.0])


def _turn(w: Any, g: Any, time: float, curvature: Any = None) -> tuple[Any, Any]:
    w, g = tf.convert_to_tensor(w), tf.convert_to_tensor(g)
    curvature = DIAGONAL.initial(w) if curvature is None else curvature
    turned, change = turn(DIAGONAL, w, g, force(DIAGONAL, curvature, g), np.float64(time))
    return turned.numpy(), change.numpy()


def _units(seed: int, count: int, size: int) -> Any:
    u = np.random.default_rng(seed).normal(size=(count, size))
    return u / np.linalg.norm(u, axis=-1, keepdims=True)


def _trajectory(
    x: Any,
    w: Any,
    step_size: Any,
    num_steps: int,
    integrator: str = "leapfrog",
    log_prob_fn: Any = targets.skewed_log_prob,
    metric: Any = DIAGONAL,
    curvature: Any = None,
) -> Any:
    x, w = tf.convert_to_tensor(x), tf.convert_to_tensor(w)
    if curvature is None:
        curvature = CoordinateVariance(tf.constant(VARIANCE, x.dtype))
    log_prob, gradient = value_and_gradient(log_prob_fn, x)

    @targets.in_graph
    def follow() -> Any:
        return integrate_isokinetic(
            log_prob_fn,
            metric,
            curvature,
            x,
            w,
            log_prob,
            gradient,
            step_size,
            num_steps,
            integrator,
        )

    return follow()


def _start(seed: int, count: int) -> tuple[Any, Any]:
    x = targets.skewed_draws(np.random.default_rng(seed), count)
    return x, _units(seed + 100, count, SIZE) * np.sqrt(VARIANCE)


def _energy_error(end: Any, x: Any, log_prob_fn: Any = targets.skewed_log_prob) -> Any:
    gained = end.target_log_prob - log_prob_fn(tf.convert_to_tensor(x))
    return (end.kinetic_change - tf.cast(gained, tf.float64)).numpy()


@pytest.mark.parametrize("size", [2, 5])
def test_turn_solves_the_equation_of_motion(size: int) -> None:
    rng = np.random.default_rng(0)
    w, g, time = _units(1, 6, size), 3.0 * rng.normal(size=(6, size)), 1.7

    def motion(_: float, y: Any, g: Any) -> Any:
        # du/dt = (1 - u u') g / (d - 1); the volume of directions falls by u'g per unit of time
        u = y[:size]
        return np.append((g - u * (u @ g)) / (size - 1), u @ g)

    turned, change = _turn(w, g, time)
    for c in range(6):
        solution = scipy.integrate.solve_ivp(
            motion, (0, time), np.append(w[c], 0.0), args=(g[c],), rtol=1e-11, atol=1e-12
        ).y[:, -1]
        np.testing.assert_allclose(turned[c], solution[:size], atol=1e-9)
        np.testing.assert_allclose(change[c], solution[size], atol=1e-9)
    delta = time * np.linalg.norm(g, axis=-1) / (size - 1)
    cosine = np.sum(w * g, -1) / np.linalg.norm(g, axis=-1)
    expected = (size - 1) * np.log(np.cosh(delta) + cosine * np.sinh(delta))
    np.testing.assert_allclose(change, expected, atol=1e-11)


@pytest.mark.parametrize("size", [3, 4])
def test_change_of_k_is_the_volume_that_directions_lose(size: int) -> None:
    # log |det| of the turn as a map of the sphere, in orthonormal tangent coordinates
    def tangents(u: Any) -> Any:
        return np.linalg.svd(u[None])[2][1:]

    [w], g, step = _units(2, 1, size), np.random.default_rng(3).normal(size=size), 1e-6
    [turned], [change] = _turn(w[None], g[None], 1.3)
    shifts = step * np.concatenate([tangents(w), -tangents(w)])
    moved = w + shifts
    moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
    ends, _ = _turn(moved, np.broadcast_to(g, moved.shape), 1.3)
    jacobian = (ends[: size - 1] - ends[size - 1 :]) / (2 * step) @ tangents(turned).T
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], -change, atol=1e-8)


def test_turns_add_up_and_reverse() -> None:
    w, g = _units(4, 50, 4), np.random.default_rng(5).normal(size=(50, 4))
    once, change = _turn(w, g, 1.5)
    half, first = _turn(w, g, 0.5)
    rest, second = _turn(half, g, 1.0)
    np.testing.assert_allclose(rest, once, atol=1e-14)
    np.testing.assert_allclose(first + second, change, atol=1e-13)
    back, lost = _turn(-once, g, 1.5)
    np.testing.assert_allclose(-back, w, atol=1e-13)
    np.testing.assert_allclose(lost, -change, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e4, 1e18, 3e37])
def test_turns_of_any_force_keep_the_unit_length(dtype: Any, scale: float) -> None:
    tolerance = 50 * np.finfo(dtype).eps
    rng = np.random.default_rng(6)
    variance = np.array([1e-3, 1.0, 30.0, 0.2], dtype)
    curvature = CoordinateVariance(tf.constant(variance))
    w = (_units(7, 200, 4) * np.sqrt(variance)).astype(dtype)
    g = (scale * rng.uniform(-1, 1, size=w.shape)).astype(dtype)
    turned, change = _turn(w, g, 0.7, curvature)
    assert turned.dtype == dtype and change.dtype == np.float64
    np.testing.assert_allclose(np.sum(turned**2 / variance, -1), 1.0, atol=tolerance)
    assert np.all(np.isfinite(change))
    if scale == 0.0:
        np.testing.assert_array_equal(turned, w)
        np.testing.assert_array_equal(change, 0.0)
    if scale > 1e3:
        # turned all the way, for work done as far as the speed allows: K = time |g|
        wide = g.astype(float)
        strength = np.sqrt(np.sum(variance * wide**2, -1))
        uphill = variance * wide / strength[:, None]
        np.testing.assert_allclose(turned, uphill, atol=tolerance)
        np.testing.assert_allclose(change, 0.7 * strength, rtol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("time", [0.1, 10.0, 100.0, 1e4])
def test_straight_against_the_force(dtype: Any, time: float) -> None:
    # An equilibrium, though an unstable one: rounding decides how soon it is left, but nothing
    # overflows and nothing comes out longer than it was.
    g = np.random.default_rng(8).normal(size=(300, SIZE)).astype(dtype)
    w = -g / np.linalg.norm(g, axis=-1, keepdims=True)
    work = time * np.linalg.norm(g, axis=-1)
    for sign in (1, -1):
        turned, change = _turn(sign * w, g, time)
        assert np.all(np.isfinite(turned))
        assert np.linalg.norm(turned, axis=-1).max() < 1.001
        assert np.all(np.abs(change) <= work * (1 + 1e-6))
    exactly, change = _turn([[-1.0, 0.0, 0.0]], [[5.0, 0.0, 0.0]], time)
    np.testing.assert_array_equal(exactly, [[-1.0, 0.0, 0.0]])
    np.testing.assert_allclose(change, [-5.0 * time])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_gives_no_direction(value: float) -> None:
    turned, change = _turn([[1.0, 0.0], [1.0, 0.0]], [[value, 1.0], [0.5, 1.0]], 0.3)
    assert np.all(np.isnan(turned[0])) and not np.isfinite(change[0])
    assert np.all(np.isfinite(turned[1])) and np.isfinite(change[1])


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_trajectories_reverse(integrator: str) -> None:
    x, w = _start(9, 20)
    end = _trajectory(x, w, 0.3, 8, integrator)
    assert np.abs(end.state - x).max() > 0.5
    np.testing.assert_allclose(np.sum(end.direction**2 / VARIANCE, -1), 1.0, atol=1e-12)
    back = _trajectory(end.state, -end.direction, 0.3, 8, integrator)
    np.testing.assert_allclose(back.state, x, atol=1e-10)
    np.testing.assert_allclose(-back.direction, w, atol=1e-10)
    np.testing.assert_allclose(back.kinetic_change, -end.kinetic_change, atol=1e-10)
    np.testing.assert_allclose(back.squared_error, end.squared_error, atol=1e-10)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_the_map_of_places_and_directions_loses_the_volume_k(integrator: str) -> None:
    # What accept-reject needs: log |det d(x', u') / d(x, u)| = -dK, with u on the sphere.
    x, w = _start(10, 1)
    root, step = np.sqrt(VARIANCE), 1e-5

    def tangents(w: Any) -> Any:
        return np.linalg.svd((w / root)[None])[2][1:]

    end = _trajectory(x, w, 0.5, 4, integrator)
    shifts = step * np.concatenate([np.eye(2 * SIZE - 1), -np.eye(2 * SIZE - 1)])
    u = w / root + shifts[:, SIZE:] @ tangents(w[0])
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    moved = _trajectory(x + shifts[:, :SIZE], u * root, 0.5, 4, integrator)
    directions = moved.direction / root @ tangents(end.direction[0]).T
    ends = np.concatenate([moved.state, directions], -1)
    jacobian = (ends[: 2 * SIZE - 1] - ends[2 * SIZE - 1 :]) / (2 * step)
    np.testing.assert_allclose(
        np.linalg.slogdet(jacobian)[1], -end.kinetic_change[0], rtol=1e-5, atol=1e-6
    )
    assert abs(end.kinetic_change[0]) > 0.1


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_mean_of_exp_of_minus_the_energy_error_is_one(integrator: str) -> None:
    # Of exact draws and uniform directions, whatever the step: the change of variables in short.
    count = 200_000
    x = targets.skewed_draws(np.random.default_rng(11), count)
    curvature = CoordinateVariance(tf.constant(VARIANCE))
    w = random_direction(DIAGONAL, curvature, (1, 2), [count])
    for step_size in (0.3, 0.8):
        weight = np.exp(-_energy_error(_trajectory(x, w, step_size, 3, integrator), x))
        error = weight.std() / np.sqrt(count)
        assert error < 0.01
        assert abs(weight.mean() - 1.0) < 4.0 * error
    assert np.log(weight).std() > 0.01


def test_energy_error_is_of_second_order_and_smaller_for_more_stages() -> None:
    x, w = _start(12, 200)
    errors: dict[str, Any] = {}
    for integrator in INTEGRATORS:
        # at equal cost
        stages = len(INTEGRATORS[integrator]) // 2
        errors[integrator] = [
            np.sqrt(
                np.mean(
                    _energy_error(
                        _trajectory(x, w, stages * 0.04 / 2**n, 24 * 2**n // stages, integrator),
                        x,
                    )
                    ** 2
                )
            )
            for n in range(3)
        ]
        rates = np.array(errors[integrator][:-1]) / errors[integrator][1:]
        np.testing.assert_allclose(rates, 4.0, rtol=0.15)
    assert errors["two_stage"][-1] < 0.5 * errors["leapfrog"][-1]
    assert errors["three_stage"][-1] < 0.7 * errors["two_stage"][-1]


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_directions_stay_of_unit_length_in_single_precision(integrator: str) -> None:
    # Without care errors of the length grow a thousandfold on the way down, and then for ever.
    x, w = _start(22, 500)
    spread = []
    for dtype in (np.float64, np.float32):
        x, w = x.astype(dtype), w.astype(dtype)
        end = _trajectory(x, w, 0.4, 300, integrator)
        length = np.sum(end.direction.numpy().astype(float) ** 2 / VARIANCE, -1)
        np.testing.assert_allclose(length, 1.0, atol=1e-6)
        spread.append(np.std(_energy_error(end, x)))
    np.testing.assert_allclose(*spread, rtol=0.1)


def test_squared_error_adds_up_single_steps() -> None:
    x, w = _start(13, 5)
    whole, expected = _trajectory(x, w, 0.3, 4), np.zeros(5)
    for _ in range(4):
        step = _trajectory(x, w, 0.3, 1)
        expected += _energy_error(step, x) ** 2
        np.testing.assert_allclose(step.squared_error, _energy_error(step, x) ** 2, rtol=1e-9)
        x, w = step.state, step.direction
    np.testing.assert_allclose(whole.squared_error, expected, rtol=1e-9)


def test_diagonal_metric_equals_transformed_coordinates() -> None:
    x, w = _start(14, 6)
    root = np.sqrt(VARIANCE)
    end = _trajectory(x, w, 0.4, 6)
    plain = _trajectory(
        x / root,
        w / root,
        0.4,
        6,
        log_prob_fn=lambda z: targets.skewed_log_prob(root * z),
        curvature=CoordinateVariance(tf.ones([SIZE], tf.float64)),
    )
    np.testing.assert_allclose(plain.state * root, end.state, rtol=1e-10)
    np.testing.assert_allclose(plain.direction * root, end.direction, atol=1e-11)
    np.testing.assert_allclose(plain.kinetic_change, end.kinetic_change, atol=1e-11)


def test_fourier_diagonal_metric_equals_transformed_coordinates() -> None:
    shape = (6, 4)
    operator = FourierDiagonalInverseHessian(reference.shells(shape, SHELLS), SHELLS)
    curvature = ShellVariance(tf.constant(SHELL_VARIANCE))
    root = reference.fourier_diagonal_matrix(
        shape, lambda *k: float(np.sqrt(SHELL_VARIANCE[reference.shell(SHELLS, *k)]))
    )
    plain_metric = DiagonalInverseHessian()
    x = targets.skewed_field_draws(np.random.default_rng(15), 3, 24)
    u = _units(16, 3, 24)

    def field_log_prob(x: Any) -> Any:
        return targets.skewed_field_log_prob(tf.reshape(x, [-1, 24]))

    end = _trajectory(
        x.reshape(3, *shape),
        (u @ root).reshape(3, *shape),
        1.1,
        5,
        log_prob_fn=field_log_prob,
        metric=operator,
        curvature=curvature,
    )
    plain = _trajectory(
        np.linalg.solve(root, x.T).T,
        u,
        1.1,
        5,
        log_prob_fn=lambda z: targets.skewed_field_log_prob(tf.matmul(z, root)),
        metric=plain_metric,
        curvature=plain_metric.initial(x),
    )
    np.testing.assert_allclose(plain.state @ root, tf.reshape(end.state, [3, 24]), rtol=1e-9)
    np.testing.assert_allclose(
        plain.direction @ root, tf.reshape(end.direction, [3, 24]), atol=1e-11
    )
    np.testing.assert_allclose(plain.kinetic_change, end.kinetic_change, atol=1e-10)


def test_random_directions_are_uniform_on_the_sphere_of_the_metric() -> None:
    curvature = CoordinateVariance(tf.constant(VARIANCE))
    w = random_direction(DIAGONAL, curvature, (3, 4), [40_000]).numpy()
    u = w / np.sqrt(VARIANCE)
    np.testing.assert_allclose(np.sum(u**2, -1), 1.0, rtol=1e-12)
    # in three dimensions every coordinate is uniform on (-1, 1)
    for coordinate in u.T:
        assert scipy.stats.kstest(coordinate, "uniform", (-1, 2)).pvalue > 1e-3
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(SIZE) / SIZE, atol=0.01)


def test_refreshed_directions_forget_over_the_length() -> None:
    size, time = 400, 0.3
    curvature = CoordinateVariance(tf.linspace(tf.constant(0.1, tf.float64), 3.0, size))
    w = random_direction(DIAGONAL, curvature, (5, 6), [500])

    def overlap(refreshed: Any) -> Any:
        np.testing.assert_allclose(np.sum(refreshed**2 / curvature.variance, -1), 1.0, rtol=1e-12)
        return float(np.mean(np.sum(w * refreshed / curvature.variance, -1)))

    once = refresh_direction(DIAGONAL, curvature, w, time, (7, 8))
    twice = refresh_direction(DIAGONAL, curvature, once, time, (9, 10))
    np.testing.assert_allclose(overlap(once), np.exp(-time), atol=0.01)
    np.testing.assert_allclose(overlap(twice), np.exp(-2 * time), atol=0.01)
    assert abs(overlap(refresh_direction(DIAGONAL, curvature, w, 1e3, (7, 8)))) < 0.01
    np.testing.assert_allclose(refresh_direction(DIAGONAL, curvature, w, 0.0, (7, 8)), w)


@pytest.mark.parametrize("num_steps", [1, 6])
def test_noise_makes_trajectories_forget_over_the_length(num_steps: int) -> None:
    # Without a force only the noise turns: by exp(-step / length) in every step, on average.
    def flat(x: Any) -> Any:
        return 0.0 * tf.reduce_sum(x, -1)

    size, step_size, length = 300, 0.7, 5.0
    curvature = CoordinateVariance(tf.linspace(tf.constant(0.1, tf.float64), 3.0, size))
    w = random_direction(DIAGONAL, curvature, (5, 6), [400])
    x = tf.zeros_like(w)
    end = integrate_isokinetic(
        flat, DIAGONAL, curvature, x, w, flat(x), x, step_size, num_steps,
        decoherence_length=length, seed=(7, 8),
    )  # fmt: skip
    overlap = np.sum(w * end.direction / curvature.variance, -1)
    np.testing.assert_allclose(overlap.mean(), np.exp(-num_steps * step_size / length), atol=0.01)
    # half of the noise comes before the move
    moved = np.sum(w * end.state / curvature.variance, -1)
    middles = np.exp(-(np.arange(num_steps) + 0.5) * step_size / length)
    np.testing.assert_allclose(moved.mean(), step_size * middles.sum(), rtol=0.01)
    np.testing.assert_array_equal(end.kinetic_change, np.zeros(400))


def test_batch_equals_chains_one_by_one() -> None:
    x, w = _start(17, 4)
    together = _trajectory(x, w, 0.4, 5, "two_stage")
    steps = np.array([[0.1], [0.2], [0.3], [0.4]])
    own_steps = _trajectory(x, w, steps, 5)
    for c in range(4):
        alone = _trajectory(x[c], w[c], 0.4, 5, "two_stage")
        for batched, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(batched[c], single, rtol=1e-12, atol=1e-13)
        alone = _trajectory(x[c], w[c], float(steps[c, 0]), 5)
        for batched, single in zip(own_steps, alone, strict=True):
            np.testing.assert_allclose(batched[c], single, rtol=1e-12, atol=1e-13)


def test_energies_of_many_dimensions_in_single_precision() -> None:
    # K is a small number times the number of dimensions: in single precision, off by some 0.05.
    size = 2**17

    def log_prob_fn(x: Any) -> Any:
        return -0.5 * tf.reduce_sum(tf.cast(x, tf.float64) ** 2, -1)

    x = np.random.default_rng(18).normal(size=(2, size)).astype(np.float32)
    w = _units(19, 2, size).astype(np.float32)
    changes = []
    for dtype in (np.float32, np.float64):
        end = _trajectory(
            x.astype(dtype),
            w.astype(dtype),
            0.1 * np.sqrt(size),
            10,
            log_prob_fn=log_prob_fn,
            curvature=CoordinateVariance(tf.ones([size], dtype)),
        )
        assert end.state.dtype == dtype and end.kinetic_change.dtype == tf.float64
        changes.append(_energy_error(end, x, log_prob_fn))
    np.testing.assert_allclose(changes[0], changes[1], atol=3e-3)


def test_runaways_stay_and_never_reach_the_target() -> None:
    def quartic(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_all_finite(x, "seen by the target")]):
            return -tf.reduce_sum(x**4, -1)

    x = np.random.default_rng(20).normal(size=(3, SIZE))
    end = _trajectory(
        x, _units(21, 3, SIZE), np.array([[1e300], [0.1], [1e80]]), 4, log_prob_fn=quartic
    )
    assert np.isnan(end.kinetic_change[0]) and np.isnan(end.squared_error[0])
    assert np.isfinite(end.kinetic_change[1])
    assert np.all(np.isfinite(end.state))


def test_rejects_a_line() -> None:
    for shape in ([5, 1], [5, None]):
        with pytest.raises(ValueError, match="`state`.*at least 2"):
            event_size(tf.TensorSpec(shape), DIAGONAL)
    assert event_size(tf.TensorSpec([7, 4, 3]), DiagonalInverseHessian(2)) == 12
