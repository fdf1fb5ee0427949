"""The simulated box: its fields, its haloes, and what is refused before it runs."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.friends_of_friends import find_haloes
from npe_tf.gadget import CRITICAL_DENSITY
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.halo_abundance import expected_haloes
from npe_tf.initial_field import InitialField
from npe_tf.nbody import NBodyConfig, simulate
from npe_tf.painting import overdensity

CONFIG = NBodyConfig(16, 24.0, 8, num_steps=6, min_particles=10, scale_factor=0.8)
NOISE = np.random.default_rng(4).standard_normal((16,) * 3, dtype=np.float32)


@pytest.fixture(scope="module")
def box():
    told = []
    return simulate(CONFIG, NOISE, lambda *step: told.append(step)), told


@pytest.fixture(scope="module")
def particles():
    """The same particles by the mesh as it is."""
    grid = Grid(16, 24.0)
    mesh = ParticleMesh(grid, Cosmology(), num_steps=6, force_factor=2, scale_factor=0.8)
    found = mesh.particles(InitialField(grid, Cosmology()).modes(tf.constant(NOISE)))
    return found.positions.numpy().T, found.velocities.numpy().T


def test_the_linear_field_is_that_of_the_white_noise(box):
    found, _ = box
    initial = InitialField(Grid(8, 24.0), Cosmology())(found.white_noise)
    np.testing.assert_allclose(initial, found.delta_linear, atol=2e-5)
    # and of the full white noise, on the scales that both carry
    full = np.fft.rfftn(InitialField(Grid(16, 24.0), Cosmology())(NOISE)) / 16**3
    kept = np.fft.rfftn(found.delta_linear) / 8**3
    np.testing.assert_allclose(kept[:4, :4, :4], full[:4, :4, :4], atol=1e-5)
    assert np.abs(kept[1:4, 1:4, 1:4]).max() > 0.01


def test_steps_are_told_one_by_one(box):
    assert box[1] == [(n, 6) for n in range(1, 7)]


def test_the_final_field_is_of_all_particles(box, particles):
    expected = overdensity(particles[0].T / 3.0, 8, "cic")
    np.testing.assert_allclose(box[0].delta_final, expected, atol=1e-3)
    assert expected.numpy().std() > 0.5


def test_haloes_are_groups_of_these_particles(box, particles):
    mass = CRITICAL_DENSITY * 0.315 * 1.5**3
    expected = find_haloes(particles[0], 24.0, mass, particles[1], min_particles=10)
    haloes = box[0].haloes
    assert len(haloes.mass) > 5
    assert CONFIG.particle_mass == pytest.approx(mass)
    np.testing.assert_array_equal(haloes.num_particles, expected.num_particles)
    np.testing.assert_allclose(haloes.positions, expected.positions, atol=1e-3)
    np.testing.assert_allclose(haloes.velocities, expected.velocities, atol=0.5)
    np.testing.assert_allclose(haloes.mass, expected.mass, rtol=1e-6)


def test_haloes_are_where_the_density_is(box):
    found = box[0]
    voxel = Catalogue(found.haloes.positions, found.haloes.mass, 24.0).voxel_index(8)
    assert found.delta_final.ravel()[voxel].mean() > 1.0


def test_in_redshift_space_only_the_last_axis_differs(box):
    seen = simulate(dataclasses.replace(CONFIG, redshift_space=True), NOISE)
    real = box[0].haloes
    np.testing.assert_allclose(seen.haloes.positions[:, :2], real.positions[:, :2], atol=1e-4)
    shift = real.velocities[:, 2] / (100.0 * 0.8 * float(Cosmology().hubble(0.8)))
    apart = seen.haloes.positions[:, 2] - real.positions[:, 2] - shift
    np.testing.assert_allclose(apart - 24.0 * np.round(apart / 24.0), 0.0, atol=1e-3)
    assert np.abs(shift).max() > 0.1
    assert np.abs(seen.delta_final - box[0].delta_final).max() > 0.1
    np.testing.assert_array_equal(seen.delta_linear, box[0].delta_linear)


def test_what_is_to_be_expected():
    config = NBodyConfig(64, 125.0, 32)
    volume, smallest = 125.0**3, 20 * config.particle_mass
    assert config.smallest_mass == pytest.approx(smallest)
    expected = expected_haloes([smallest, np.inf], volume, Cosmology())[0]
    assert config.expected_haloes == pytest.approx(expected)
    corrected = dataclasses.replace(config, warren_correction=True)
    assert corrected.smallest_mass == pytest.approx(smallest * (1 - 20**-0.6))


@pytest.mark.slow
def test_the_mass_function_is_within_a_third_of_the_fits():
    """The ratios of docs/simulating.md; of 64^3 particles and two white noises."""
    config = NBodyConfig(64, 125.0, 32)
    edges = config.particle_mass * np.array([19.5, 40.5, 80.5, 200.5])
    counts = 0.0
    for seed in (1, 2):
        noise = np.random.default_rng(seed).standard_normal((64,) * 3, dtype=np.float32)
        counts += np.histogram(simulate(config, noise).haloes.mass, edges)[0]
    for fit in ("sheth_tormen", "warren", "tinker"):
        ratio = counts / expected_haloes(edges, 2 * 125.0**3, Cosmology(), fit=fit)
        assert (np.abs(ratio - 1) < 1 / 3).all(), (fit, ratio)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_particles": 15}, "`num_particles`.*even"),
        ({"num_particles": 2}, "`num_particles`"),
        ({"num_cells": 9}, "`num_cells`.*even"),
        ({"num_cells": 32}, "`num_cells`.*num_particles=16"),
        ({"linking_length": 0.0}, "`linking_length`"),
        ({"linking_length": 1.5}, "`linking_length`"),
        ({"min_particles": 0}, "`min_particles`"),
        ({"min_particles": 5000}, "`min_particles`.*4096"),
    ],
)
def test_what_would_fail_is_refused_before(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_steps": 0}, "`num_steps`"),
        ({"force_factor": 0}, "`force_factor`"),
        ({"scale_factor": 1.5}, "`scale_factor`"),
        ({"box_size": -1.0}, "`box_size`"),
    ],
)
def test_the_parts_refuse_what_is_theirs(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        simulate(dataclasses.replace(CONFIG, **change), NOISE)


def test_white_noise_of_another_lattice():
    with pytest.raises(ValueError, match="`white_noise`"):
        simulate(CONFIG, NOISE[:8, :8, :8])
