"""Haloes by mass and density against loops over haloes and voxels."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.environments import DensityEnvironments
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue


@pytest.mark.parametrize("padding", ["periodic", "valid"])
def test_found_and_expected_against_loops(padding):
    catalogue, white_noise, theta = draw_catalogue()
    posterior = PosteriorConfig(8, MASS_THRESHOLD, dtype="float64", padding=padding).build(
        catalogue
    )
    likelihood = posterior.likelihood
    delta = posterior.density(tf.constant(white_noise)).numpy()
    mass_function = posterior.bias.mass_function(tf.constant(delta), tf.constant(theta))
    environments = DensityEnvironments(likelihood)
    place = environments.of(delta)

    inside = delta if padding == "periodic" else delta[1:-1, 1:-1, 1:-1]
    limits = [np.quantile(inside, share) for share in (0.5, 0.8, 0.95)]
    edges = environments.log_mass_edges
    assert edges[0] == np.log(MASS_THRESHOLD)
    assert edges[-2] < likelihood.log_masses.max() < edges[-1]

    found = np.zeros((4, 10))
    expected = np.zeros((4, 10))
    volumes = np.zeros(4)
    above = [likelihood.expected_counts(mass_function, edge).numpy() for edge in edges]
    for voxel, density in enumerate(inside.ravel()):
        e = sum(density >= limit for limit in limits)
        volumes[e] += 7.5**3
        for m in range(10):
            expected[e, m] += above[m].ravel()[voxel] - above[m + 1].ravel()[voxel]
            here = likelihood.log_masses[likelihood.voxels == voxel]
            found[e, m] += np.sum((here >= edges[m]) & (here < edges[m + 1]))
    assert found.sum() == likelihood.num_haloes
    np.testing.assert_array_equal(environments.found(place), found)
    np.testing.assert_allclose(environments.expected(place, mass_function), expected, atol=1e-9)
    np.testing.assert_allclose(environments.volumes(place), volumes)
