"""Whitened coordinates: another way to write the same posterior."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.posterior import PosteriorConfig
from npe_tf.whitening import WhitenedPosterior
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

CATALOGUE, WHITE_NOISE, THETA = draw_catalogue()
NUM_PARAMETERS = len(THETA)


@pytest.fixture(scope="module")
def posterior():
    return PosteriorConfig(8, MASS_THRESHOLD, dtype="float64").build(CATALOGUE)


@pytest.fixture(scope="module")
def target(posterior):
    return WhitenedPosterior(posterior, 2)


@pytest.fixture(scope="module")
def frames(target):
    """One frame of each kind, by name."""
    rng = np.random.default_rng(1)
    coordinates = target.parameters.coordinates(THETA)
    width = rng.uniform(0.3, 1.0, target.num_shells + 1)
    mixing = 0.2 * rng.standard_normal((NUM_PARAMETERS,) * 2) + np.eye(NUM_PARAMETERS)
    diagonal = target.diagonal_frame(width, coordinates + 0.1, mixing)
    root = rng.standard_normal((target.block_size,) * 2) / np.sqrt(target.block_size)
    return {
        "prior": target.initial_frame(coordinates),
        "diagonal": diagonal,
        "dense": target.refined(diagonal, root @ root.T + 0.5 * np.eye(target.block_size)),
        "rescaled": target.rescaled(diagonal, mixing),
        "triangular": target.triangular(
            target.refined(diagonal, root @ root.T + 0.5 * np.eye(target.block_size))
        ),
    }


KINDS = ["prior", "diagonal", "dense", "rescaled", "triangular"]


def state_of(target, frame):
    return tf.constant(target.state(WHITE_NOISE, target.parameters.coordinates(THETA), frame))


def test_the_block_has_the_modes_of_the_first_shells_and_the_parameters(posterior, target):
    grid = posterior.grid
    inside = grid.alive & (grid.shells() < 2)
    # of a real field half of the modes are independent, each of two numbers
    weight = np.broadcast_to(grid.hermitian_weight, grid.modes_shape)
    assert target.block_size == weight[inside].sum() + NUM_PARAMETERS
    assert target.size == 8**3 + NUM_PARAMETERS


@pytest.mark.parametrize("kind", KINDS)
def test_field_and_parameters_come_back(target, frames, kind):
    state = state_of(target, frames[kind])
    np.testing.assert_allclose(target.white_noise(state, frames[kind]), WHITE_NOISE, atol=1e-10)
    np.testing.assert_allclose(target.theta(state, frames[kind]), THETA, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_that_of_the_posterior(posterior, target, frames, kind):
    state = state_of(target, frames[kind])
    found = target.log_posterior(state, frames[kind])
    np.testing.assert_allclose(found, posterior.log_prob(WHITE_NOISE, THETA), rtol=1e-12)
    volume = target.parameters.theta(tf.constant(target.parameters.coordinates(THETA)))[1]
    np.testing.assert_allclose(target.log_prob(state, frames[kind]) - found, volume, atol=1e-7)


def test_the_power_is_that_of_the_likelihood_alone(posterior, target, frames):
    frame = frames["diagonal"]
    state = state_of(target, frame)
    full, half, none = (float(target.log_prob(state, frame, beta)) for beta in (1.0, 0.5, 0.0))
    assert half == pytest.approx(0.5 * (full + none))
    likelihood = posterior.log_likelihood(posterior.density(WHITE_NOISE), tf.constant(THETA))
    assert full - none == pytest.approx(float(likelihood))


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_the_gradient_is_that_of_the_density(target, frames, kind):
    frame = frames[kind]
    state = state_of(target, frame).numpy()
    _, gradient = target.value_and_gradient(tf.constant(state), frame)
    rng = np.random.default_rng(2)
    directions = [rng.standard_normal(target.size), np.eye(target.size)[-1]]
    for direction in directions:
        shift = 1e-5 * direction / np.linalg.norm(direction)
        ahead, behind = (
            float(target.log_prob(tf.constant(state + sign * shift), frame)) for sign in (1, -1)
        )
        assert (ahead - behind) / 2 == pytest.approx(
            float(shift @ gradient.numpy()), rel=1e-4, abs=1e-9
        )


def test_units_of_the_prior_have_its_curvature(target, frames):
    frame = frames["prior"]
    curvature = target.shell_curvature(
        state_of(target, frame), frame, 0.0, [1, 2], tf.constant(0.1, tf.float64)
    )
    np.testing.assert_allclose(curvature, 1.0, rtol=1e-6)


def test_hessian_rows_are_those_of_the_tape(target, frames):
    frame = frames["dense"]
    state = state_of(target, frame)
    numbers = [0, 5, target.block_size - 1]
    found = target.hessian_rows(state, frame, tf.constant(numbers), 1e-4).numpy()
    for row, number in zip(found, numbers, strict=True):
        # a step along the row's direction in the units of the state
        moved = _along(target, number)
        with tf.GradientTape() as outer:
            outer.watch(state)
            with tf.GradientTape() as inner:
                inner.watch(state)
                value = target.log_prob(state, frame)
            slope = tf.reduce_sum(inner.gradient(value, state) * moved)
        product = -outer.gradient(slope, state)
        np.testing.assert_allclose(row, target._to_block(product)[1], rtol=1e-3, atol=1e-3)


def _along(target, number):
    unit = tf.one_hot(number, target.block_size, dtype=tf.float64)
    field = tf.signal.irfft3d(tf.cast(target._from_block(unit), tf.complex128))
    return tf.concat([tf.reshape(field, [-1]), unit[-NUM_PARAMETERS:]], 0)


@pytest.mark.slow
def test_a_refined_frame_makes_its_hessian_the_identity(posterior):
    target = WhitenedPosterior(posterior, 1)
    frame = target.initial_frame(target.parameters.coordinates(THETA))
    state = state_of(target, frame)
    everything = tf.range(target.block_size)
    hessian = target.hessian_rows(state, frame, everything, 1e-4).numpy()
    values = np.linalg.eigvalsh(0.5 * (hessian + hessian.T))
    refined = target.refined(frame, hessian)
    again = target.hessian_rows(state_of(target, refined), refined, everything, 1e-4).numpy()
    found = np.linalg.eigvalsh(0.5 * (again + again.T))
    # of directions of negative curvature it is the negative; those of less than a tenth keep less
    assert np.sum(np.abs(np.abs(found) - 1.0) < 0.02) == np.sum(np.abs(values) > 0.1)


def test_the_parameters_of_a_triangular_frame_move_nothing_else(target, frames):
    dense, frame = np.asarray(frames["dense"].mixing), np.asarray(frames["triangular"].mixing)
    # the same units up to a rotation, of which the density of a standard normal knows nothing
    np.testing.assert_allclose(frame @ frame.T, dense @ dense.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(frame, np.tril(frame))
    assert np.all(np.diag(frame) > 0)
    state = state_of(target, frames["triangular"])
    moved = tf.concat([state[:-NUM_PARAMETERS], state[-NUM_PARAMETERS:] + 0.1], 0)
    fields = [target.white_noise(x, frames["triangular"]).numpy() for x in (state, moved)]
    np.testing.assert_allclose(fields[0], fields[1], atol=1e-12)
    shift = target.coordinates(moved, frames["triangular"]) - target.coordinates(
        state, frames["triangular"]
    )
    assert np.linalg.norm(shift) > 0.01


def _with_curvatures(target, curvatures, seed=2):
    """A symmetric matrix of the block of these largest eigenvalues, all others being one."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.standard_normal((target.block_size,) * 2))[0]
    values = np.ones(target.block_size)
    values[: len(curvatures)] = curvatures
    return (vectors * values) @ vectors.T


def test_what_is_steep_is_shortened_and_nothing_else_is(target, frames):
    frame = frames["triangular"]
    hessian = _with_curvatures(target, [4000.0, 70.0, 20.0, 2.5, 0.1, -5.0])

    def product(direction):
        image = hessian @ direction
        image.flags.writeable = False  # as that of a tensor is
        return image

    relaxed, found = target.relaxed(frame, product, 3.0, 12)
    np.testing.assert_allclose(found[:3], [4000.0, 70.0, 20.0], rtol=1e-6)
    # the same Hessian in the new units
    change = np.linalg.solve(frame.mixing, relaxed.mixing)
    values = np.linalg.eigvalsh(change.T @ hessian @ change)
    np.testing.assert_allclose(values[-3:], 3.0, rtol=1e-6)
    expected = np.sort([2.5, 0.1, -5.0] + [1.0] * (target.block_size - 6))
    np.testing.assert_allclose(values[:-3], expected, rtol=1e-6)
    np.testing.assert_array_equal(relaxed.width, frame.width)


def test_where_nothing_is_steep_the_frame_stays(target, frames):
    frame = frames["dense"]
    hessian = _with_curvatures(target, [2.9, 0.3])
    relaxed, found = target.relaxed(frame, lambda v: hessian @ v, 3.0, 24)
    np.testing.assert_array_equal(relaxed.mixing, frame.mixing)
    assert found[0] == pytest.approx(2.9, rel=1e-6)


@pytest.mark.slow
def test_steep_directions_of_the_posterior_are_found(target, frames):
    frame = frames["dense"]
    state = state_of(target, frame)
    everything = tf.range(target.block_size)
    hessian = target.hessian_rows(state, frame, everything, 1e-4).numpy()
    steepest = np.linalg.eigvalsh(0.5 * (hessian + hessian.T))[-1]

    def product(direction):
        return target.hessian_product(state, frame, tf.constant(direction), 1e-4).numpy()

    largest = 0.3 * steepest
    relaxed, found = target.relaxed(frame, product, largest, target.block_size)
    assert found[0] == pytest.approx(steepest, rel=1e-4)
    again = target.hessian_rows(state_of(target, relaxed), relaxed, everything, 1e-4).numpy()
    assert np.linalg.eigvalsh(0.5 * (again + again.T))[-1] == pytest.approx(largest, rel=1e-2)


def test_a_shell_that_is_not_there_is_refused(posterior):
    with pytest.raises(ValueError, match=r"`num_dense_shells`.*Expected.*Received.*=5"):
        WhitenedPosterior(posterior, 5)
