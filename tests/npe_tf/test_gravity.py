import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.datasets import load_nbody_box
from npe_tf.gravity.lpt import Zeldovich
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.power import linear_power
from npe_tf.statistics import cross_correlation, power_spectrum

COSMOLOGY = Cosmology()


@pytest.mark.parametrize("supersampling", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_plane_wave_displacement(axis, supersampling):
    """delta = A cos(k q) moves particles by -A/k sin(k q), the exact solution in 1D."""
    grid = Grid(8, 40.0)
    k, amplitude = 2 * grid.fundamental, 0.3
    q = np.indices(grid.shape)[axis] * grid.cell_size
    modes = tf.constant(np.fft.rfftn(amplitude * np.cos(k * q)))
    gravity = Zeldovich(grid, COSMOLOGY, scale_factor=0.5, supersampling=supersampling)
    found = gravity.displacement(modes).numpy()
    fine = np.indices((8 * supersampling,) * 3)[axis] * grid.cell_size / supersampling
    growth = COSMOLOGY.growth_factor(0.5)
    expected = np.zeros_like(found)
    expected[axis] = -growth * amplitude / k * np.sin(k * fine)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("mass_assignment", ["cic", "tsc"])
def test_small_fields_stay_linear(mass_assignment):
    """To first order the lattice's density is minus the central difference of its displacement.

    A particle on a vertex sits on a kink of cloud-in-cell, whose even part |psi| is as large as
    the linear one; it cancels between a field and its negative.
    """
    grid = Grid(16, 100.0)
    white_noise = np.random.default_rng(0).standard_normal(grid.shape)
    modes = InitialField(grid, COSMOLOGY).modes(white_noise * 1e-6).numpy()
    gravity = Zeldovich(grid, COSMOLOGY, mass_assignment=mass_assignment)
    plus, minus = (gravity(tf.constant(sign * modes)).numpy() for sign in (1, -1))
    found = np.fft.rfftn((plus - minus) / 2 if mass_assignment == "cic" else plus)
    k = [grid.fundamental * f for f in grid.frequencies]
    # the wider cloud also smooths along the two axes across
    across = [
        0.75 + 0.25 * np.cos(ki * grid.cell_size) if mass_assignment == "tsc" else 1.0 for ki in k
    ]
    window = sum(
        ki * np.sin(ki * grid.cell_size) / grid.cell_size * across[i - 1] * across[i - 2]
        for i, ki in enumerate(k)
    )
    expected = modes * window / np.where(grid.alive, grid.wavenumber**2, 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose([plus.mean(), minus.mean()], 0.0, atol=1e-12)


def test_zeldovich_follows_the_simulation_on_large_scales():
    box = load_nbody_box()
    grid = Grid(64, box.box_size)
    modes = tf.constant(np.fft.rfftn(box.delta_linear) * grid.alive)
    delta = Zeldovich(grid, COSMOLOGY)(modes).numpy()
    k, r = cross_correlation(delta, box.delta_final, grid)
    assert np.all(r[k < 0.1] > 0.98)
    assert np.all(r[k < 0.3] > 0.85)


def test_initial_field_has_the_linear_power():
    grid = Grid(32, 250.0)
    draws = np.random.default_rng(5).standard_normal((8, *grid.shape))
    field = InitialField(grid, COSMOLOGY)(draws).numpy()
    _, power, count = power_spectrum(field, grid)
    expected = grid.shell_mean(linear_power(grid.wavenumber, COSMOLOGY))
    # P is a mean of count/2 exponential variables per draw
    error = np.sqrt(2 / count / len(draws))
    pull = (power.mean(axis=0) / expected - 1) / error
    assert np.all(np.abs(pull) < 4.5)
    assert np.std(pull) > 0.3  # the error bar is no overestimate


def test_white_noise_is_the_inverse():
    grid = Grid(8, 50.0)
    initial = InitialField(grid, COSMOLOGY)
    noise = np.random.default_rng(6).standard_normal(grid.shape)
    delta = initial(noise).numpy()
    np.testing.assert_allclose(initial(initial.white_noise(delta)).numpy(), delta, atol=1e-12)


def test_shipped_initial_field_is_white_in_this_cosmology():
    box = load_nbody_box()
    grid = Grid(64, box.box_size)
    noise = InitialField(grid, COSMOLOGY).white_noise(box.delta_linear)
    modes = np.abs(np.fft.rfftn(noise)) ** 2 / grid.num_cells**3
    assert np.all(np.abs(grid.shell_mean(modes)[3:] - 1) < 0.15)


def test_mass_assignment_is_checked():
    with pytest.raises(ValueError, match="`mass_assignment`.*'cic'.*'ngp'"):
        Zeldovich(Grid(8, 1.0), COSMOLOGY, mass_assignment="ngp")


@pytest.mark.parametrize("supersampling", [0, 9, 1.5])
def test_supersampling_is_checked(supersampling):
    with pytest.raises(ValueError, match="`supersampling`"):
        Zeldovich(Grid(8, 1.0), COSMOLOGY, supersampling=supersampling)


def test_white_noise_of_another_mesh_is_refused():
    with pytest.raises(ValueError, match=r"`white_noise`.*8, 8, 8.*\(4, 4, 4\)"):
        InitialField(Grid(8, 1.0), COSMOLOGY).modes(np.zeros((4, 4, 4)))
