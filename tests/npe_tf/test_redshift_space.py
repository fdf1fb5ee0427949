"""Redshift space, in density and in catalogue."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.redshift_space import line_of_sight_shift, to_redshift_space

COSMOLOGY = Cosmology()
GRID = Grid(8, 60.0)


def draw_modes(grid=GRID, amplitude=1.0):
    noise = amplitude * np.random.default_rng(0).normal(size=grid.shape)
    return InitialField(grid, COSMOLOGY).modes(noise)


@pytest.mark.parametrize("model", [LPT, ParticleMesh])
@pytest.mark.parametrize(
    "view",
    [{"line_of_sight": 0}, {"line_of_sight": [1.0, 2.0, -2.0]}, {"observer": [-10.0, 5.0, 300.0]}],
    ids=["axis", "vector", "observer"],
)
def test_density_and_catalogue_agree(model, view):
    """Particles that are moved as a catalogue are where the model puts them."""
    modes = draw_modes()
    seen = model(GRID, COSMOLOGY, scale_factor=0.8, redshift_space=True, **view)
    positions, velocities = seen.particles(modes)
    moved = to_redshift_space(positions.numpy().T, velocities.numpy().T, COSMOLOGY, 0.8, **view)
    np.testing.assert_allclose(seen.positions(modes).numpy().T * GRID.cell_size, moved, atol=1e-9)
    assert np.abs(moved - positions.numpy().T).max() > 0.1


def test_kaiser_limit_of_the_displacements():
    """To first order delta_s = (1 + f mu^2) delta, mode by mode."""
    grid, f = Grid(16, 200.0), float(COSMOLOGY.growth_rate(1.0))
    modes = draw_modes(grid)
    seen = LPT(grid, COSMOLOGY, redshift_space=True, line_of_sight=1)
    moved = seen.positions(modes).numpy() - np.indices(grid.shape).reshape(3, -1)
    moved = moved.reshape(3, *grid.shape) * grid.cell_size
    k = [grid.fundamental * x for x in grid.frequencies]
    divergence = sum(1j * ki * np.fft.rfftn(m) for ki, m in zip(k, moved, strict=True))
    mu = np.zeros(grid.modes_shape)
    np.divide(k[1] + mu, grid.wavenumber, out=mu, where=grid.alive)
    expected = (1.0 + f * np.where(grid.alive, mu, 0.0) ** 2) * modes.numpy()
    np.testing.assert_allclose(-divergence, expected, atol=1e-9 * np.abs(expected).max())


def test_kaiser_limit_of_the_density():
    """The quadrupole of small fields on scales where the mesh does not matter."""
    grid, f = Grid(32, 1000.0), float(COSMOLOGY.growth_rate(1.0))
    modes = draw_modes(grid, 1e-3)
    real, seen = (
        np.fft.rfftn(LPT(grid, COSMOLOGY, redshift_space=r, compensated=True)(modes).numpy())
        for r in (False, True)
    )
    k, mu = grid.wavenumber, np.zeros(grid.modes_shape)
    np.divide(grid.fundamental * grid.frequencies[2] + mu, k, out=mu, where=k > 0)
    large = grid.alive & (k < 6 * grid.fundamental)
    np.testing.assert_allclose(np.abs(seen / real)[large], (1 + f * mu**2)[large], rtol=0.03)


def test_an_observer_far_away_sees_parallel_lines():
    modes = draw_modes()
    parallel = LPT(GRID, COSMOLOGY, redshift_space=True, line_of_sight=2).positions(modes)
    far = LPT(GRID, COSMOLOGY, redshift_space=True, observer=[30.0, 30.0, -1e7]).positions(modes)
    np.testing.assert_allclose(far, parallel, atol=1e-4)


def test_radial_shifts_keep_the_direction():
    rng = np.random.default_rng(1)
    observer, x, u = rng.normal(size=3), rng.normal(size=(3, 50)), rng.normal(size=(3, 50))
    shift = line_of_sight_shift(x, u, observer=observer).numpy()
    away = x - observer[:, None]
    np.testing.assert_allclose(np.cross(shift.T, away.T), 0.0, atol=1e-12)
    np.testing.assert_allclose((shift * away).sum(0), (u * away).sum(0))
    # nobody has a line of sight to himself
    np.testing.assert_array_equal(
        line_of_sight_shift(observer[:, None], u[:, :1], observer=observer), 0
    )


def test_numbers_of_a_catalogue():
    """At a=1 a velocity of 100 km/s is 1 Mpc/h, and the box is periodic if it has a side."""
    x, v = np.array([[1.0, 2.0, 9.5]]), np.array([[50.0, 60.0, 100.0]])
    np.testing.assert_allclose(to_redshift_space(x, v, COSMOLOGY), [[1.0, 2.0, 10.5]])
    np.testing.assert_allclose(to_redshift_space(x, v, COSMOLOGY, box_size=10.0), [[1, 2, 0.5]])
    half = to_redshift_space(x, v, COSMOLOGY, scale_factor=0.5)
    expected = 9.5 + 100.0 / (50.0 * float(COSMOLOGY.hubble(0.5)))
    np.testing.assert_allclose(half, [[1.0, 2.0, expected]])


def test_gradient_at_the_observer_is_finite():
    x = tf.constant(np.zeros((3, 2)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(line_of_sight_shift(x, tf.ones_like(x), observer=[0.0, 0.0, 0.0]))
    assert np.all(np.isfinite(tape.gradient(y, x)))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"`velocities`.*\[H, 3\].*\(2, 3\).*\(3, 2\)"):
        to_redshift_space(np.zeros((2, 3)), np.zeros((3, 2)), COSMOLOGY)
