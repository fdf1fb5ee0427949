import numpy as np
import pytest
import tensorflow as tf

from npe_tf.painting import cloud_in_cell
from tests.npe_tf import reference


@pytest.fixture
def positions():
    return np.random.default_rng(2).uniform(-7, 13, (40, 3))


def test_against_a_loop_over_particles(positions):
    mesh = cloud_in_cell(positions.T, 6).numpy()
    np.testing.assert_allclose(mesh, reference.cloud_in_cell(positions, 6), atol=1e-12)


def test_mass_is_conserved_and_a_lattice_is_uniform(positions):
    np.testing.assert_allclose(cloud_in_cell(positions.T, 4).numpy().sum(), 40.0)
    lattice = np.indices((5, 5, 5)).reshape(3, -1) + 0.3
    np.testing.assert_allclose(cloud_in_cell(lattice, 5).numpy(), 1.0, atol=1e-12)


def test_a_particle_at_the_upper_edge_is_wrapped():
    mesh = cloud_in_cell(np.array([[6.0], [6.0], [5.5]]), 6).numpy()
    assert mesh[0, 0, 5] == 0.5
    assert mesh[0, 0, 0] == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_in_graph_mode(positions, dtype):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((6, 6, 6))
    direction = rng.standard_normal(positions.shape)

    def value(x):
        return np.sum(weight * reference.cloud_in_cell(x, 6))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(weight.astype(dtype) * cloud_in_cell(x, 6))
        return tape.gradient(y, x)

    found = np.sum(gradient(tf.constant(positions.T, dtype)).numpy() * direction.T)
    expected = reference.directional_derivative(value, positions, direction, 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-8 if dtype is np.float64 else 1e-4)


def test_second_derivative(positions):
    """Within a cell cloud-in-cell is a cubic polynomial, so differences of gradients are exact."""
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((6, 6, 6))
    v = tf.constant(rng.standard_normal(positions.T.shape))
    x = tf.constant(positions.T)

    def gradient(point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = tf.reduce_sum(weight * cloud_in_cell(point, 6))
        return tape.gradient(y, point)

    with tf.GradientTape() as tape:
        tape.watch(x)
        product = tf.reduce_sum(gradient(x) * v)
    step = 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(product, x).numpy(), expected.numpy(), atol=1e-7)


def test_shape_is_checked():
    with pytest.raises(ValueError, match=r"`positions`.*\[3, P\]"):
        cloud_in_cell(np.zeros((5, 2)), 4)
