import numpy as np
import pytest
import tensorflow as tf

from npe_tf.painting import cloud_in_cell, coarsen, triangular_shaped_cloud
from tests.npe_tf import reference

SCHEMES = pytest.mark.parametrize(
    ("paint", "naive"),
    [
        (cloud_in_cell, reference.cloud_in_cell),
        (triangular_shaped_cloud, reference.triangular_shaped_cloud),
    ],
    ids=["cic", "tsc"],
)


@pytest.fixture
def positions():
    return np.random.default_rng(2).uniform(-7, 13, (40, 3))


@SCHEMES
def test_against_a_loop_over_particles(positions, paint, naive):
    np.testing.assert_allclose(paint(positions.T, 6), naive(positions, 6), atol=1e-12)


@SCHEMES
def test_mass_is_conserved_and_a_lattice_is_uniform(positions, paint, naive):
    np.testing.assert_allclose(paint(positions.T, 4).numpy().sum(), 40.0)
    lattice = np.indices((5, 5, 5)).reshape(3, -1) + 0.3
    np.testing.assert_allclose(paint(lattice, 5).numpy(), 1.0, atol=1e-12)


def test_the_wider_cloud_has_a_continuous_gradient_and_the_narrow_one_kinks():
    """Central weights just before and behind a vertex, and halfway between two."""
    step = 1e-6

    def slope(paint, x, side):
        near, far = (
            paint(np.array([[x + side * h], [2.0], [2.0]]), 6).numpy()[2, 2, 2]
            for h in (step, 2 * step)
        )
        return (far - near) / (side * step)

    for x in (2.0, 2.5):
        jump = slope(triangular_shaped_cloud, x, 1) - slope(triangular_shaped_cloud, x, -1)
        np.testing.assert_allclose(jump, 0.0, atol=1e-4)
    jump = slope(cloud_in_cell, 2.0, 1) - slope(cloud_in_cell, 2.0, -1)
    np.testing.assert_allclose(jump, -2.0, rtol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarsening_is_painting_on_the_coarser_mesh(positions, factor):
    fine = cloud_in_cell(positions.T * factor, 6 * factor).numpy()
    coarse = cloud_in_cell(positions.T, 6).numpy()
    np.testing.assert_allclose(coarsen(fine, 6) * factor**3, coarse, atol=1e-12)


def test_coarsening_wants_a_divisor():
    with pytest.raises(ValueError, match="`num_cells`.*divisor.*5"):
        coarsen(np.zeros((8, 8, 8)), 5)


def test_a_particle_at_the_upper_edge_is_wrapped():
    mesh = cloud_in_cell(np.array([[6.0], [6.0], [5.5]]), 6).numpy()
    assert mesh[0, 0, 5] == 0.5
    assert mesh[0, 0, 0] == 0.5


@SCHEMES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_in_graph_mode(positions, dtype, paint, naive):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((6, 6, 6))
    direction = rng.standard_normal(positions.shape)

    def value(x):
        return np.sum(weight * naive(x, 6))

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(weight.astype(dtype) * paint(x, 6))
        return tape.gradient(y, x)

    found = np.sum(gradient(tf.constant(positions.T, dtype)).numpy() * direction.T)
    expected = reference.directional_derivative(value, positions, direction, 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-8 if dtype is np.float64 else 1e-4)


@SCHEMES
def test_second_derivative(positions, paint, naive):
    """Away from its kinks each scheme is a polynomial, so differences of gradients are exact."""
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((6, 6, 6))
    v = tf.constant(rng.standard_normal(positions.T.shape))
    x = tf.constant(positions.T)

    def gradient(point):
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = tf.reduce_sum(weight * paint(point, 6))
        return tape.gradient(y, point)

    with tf.GradientTape() as tape:
        tape.watch(x)
        product = tf.reduce_sum(gradient(x) * v)
    step = 1e-6
    expected = (gradient(x + step * v) - gradient(x - step * v)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(product, x).numpy(), expected.numpy(), atol=1e-7)


@SCHEMES
def test_shape_is_checked(paint, naive):
    with pytest.raises(ValueError, match=r"`positions`.*\[3, P\]"):
        paint(np.zeros((5, 2)), 4)
