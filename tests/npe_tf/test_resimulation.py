"""Initial conditions of a posterior sample."""

import numpy as np
import pytest

from npe_tf.cosmology import Cosmology
from npe_tf.gravity.lpt import LPT
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.resimulation import constrained_particles

COSMOLOGY = Cosmology()
NOISE = np.random.default_rng(0).normal(size=(8, 8, 8))


def linear_modes(particles, grid):
    """Minus the divergence of the displacements, mode by mode."""
    lattice = np.indices(grid.shape).reshape(3, -1) * grid.cell_size
    moved = (particles.positions.numpy() - lattice).reshape(3, *grid.shape)
    k = [grid.fundamental * f for f in grid.frequencies]
    return -sum(1j * ki * np.fft.rfftn(m) for ki, m in zip(k, moved, strict=True))


def test_the_sample_s_modes_are_in_the_simulation():
    grid, fine = Grid(8, 60.0), Grid(16, 60.0)
    particles = constrained_particles(NOISE, 60.0, COSMOLOGY, 999.0, num_particles=16, seed=1)
    found = linear_modes(particles, fine) / 16**3
    growth = float(COSMOLOGY.growth_factor(1e-3))
    expected = growth * InitialField(grid, COSMOLOGY).modes(NOISE).numpy() / 8**3
    shared = found[np.ix_(np.r_[0:4, -3:0], np.r_[0:4, -3:0], np.arange(4))]
    kept = expected[np.ix_(np.r_[0:4, -3:0], np.r_[0:4, -3:0], np.arange(4))]
    # the second order is a thousandth of the first at this redshift
    np.testing.assert_allclose(shared, kept, atol=5e-3 * np.abs(kept).max())
    # and above them there is the prior's power
    beyond = fine.alive & (np.abs(fine.frequencies[0]) > 4)
    assert np.mean(np.abs(found[beyond]) ** 2) > 0


def test_seeds_decide_on_the_small_scales_only():
    first, second = (
        constrained_particles(NOISE, 60.0, COSMOLOGY, 49.0, 16, seed=seed) for seed in (1, 2)
    )
    fine = Grid(16, 60.0)
    a, b = linear_modes(first, fine), linear_modes(second, fine)
    low = fine.wavenumber < 3 * fine.fundamental
    np.testing.assert_allclose(a[low], b[low], atol=2e-2 * np.abs(a).max())
    assert np.abs(a - b)[~low].max() > 0.1 * np.abs(a[~low]).max()


def test_without_refinement_it_is_the_model_s_own():
    particles = constrained_particles(NOISE, 60.0, COSMOLOGY, 9.0)
    grid = Grid(8, 60.0)
    model = LPT(grid, COSMOLOGY, order=2, scale_factor=0.1)
    expected = model.particles(InitialField(grid, COSMOLOGY).modes(NOISE))
    for found, exact in zip(particles, expected, strict=True):
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("redshift", [-0.1, np.inf, np.nan])
def test_redshift_is_checked(redshift):
    with pytest.raises(ValueError, match="`redshift`"):
        constrained_particles(NOISE, 60.0, COSMOLOGY, redshift)


def test_a_finer_mesh_wants_a_seed():
    with pytest.raises(ValueError, match="`seed`"):
        constrained_particles(NOISE, 60.0, COSMOLOGY, 49.0, 16)
