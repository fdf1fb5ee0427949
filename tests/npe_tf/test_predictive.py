import json
import math

import numpy as np
import pytest
from scipy import stats

from npe_tf.grid import Grid
from npe_tf.posterior import PosteriorConfig
from npe_tf.predictive import (
    Haloes,
    MockSampler,
    format_checks,
    measure,
    mock_catalogues,
    predictive_checks,
)
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

CONFIG = PosteriorConfig(8, MASS_THRESHOLD, dtype="float64")
NAMES = [
    "mass function", "counts in voxels", "counts in blocks", "halo power", "cross power",
    "one-point distribution", "scatter of counts",
]  # fmt: skip


@pytest.fixture(scope="module")
def truth():
    """A posterior of a catalogue of the model, and the field and parameters it was drawn from."""
    catalogue, white_noise, theta = draw_catalogue()
    return CONFIG.build(catalogue), white_noise, theta


@pytest.fixture(scope="module")
def sampler(truth):
    posterior, white_noise, theta = truth
    return MockSampler(posterior, posterior.density(white_noise), theta)


def heavier(haloes, dex=0.3):
    """The same haloes, heavier."""
    return Haloes(haloes.voxels, haloes.log_mass + dex * math.log(10.0))


def overdispersed(sampler, rng):
    """Haloes of negative binomial counts, of variance twice the mean, with the model's masses."""
    counts = rng.negative_binomial(sampler.rate.ravel(), 0.5)
    voxels = np.repeat(np.arange(counts.size), counts)
    return Haloes(voxels, sampler.log_masses(voxels, rng))


def test_measures_are_those_of_hand_counting():
    grid = Grid(4, 40.0)
    delta = np.arange(64.0).reshape(4, 4, 4) / 32.0 - 1.0
    voxels = np.array([0, 0, 0, 1, 63, 63])
    mass = MASS_THRESHOLD * np.array([1.0, 1.5, 2.0, 4.0, 20.0, 900.0])
    rates = np.full((3, 4, 4, 4), 0.5)
    rates[:, 0, 0, 0] = 2.0
    found = measure(Haloes(voxels, np.log(mass)), delta, rates, grid, MASS_THRESHOLD)
    assert list(found) == NAMES
    np.testing.assert_array_equal(found["mass function"][0], [2, 1, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["mass function"][3], [0, 0, 0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found["mass function"][1:3], np.zeros((2, 8)))
    np.testing.assert_array_equal(found["counts in voxels"][0, :5], [61, 1, 1, 1, 0])
    np.testing.assert_array_equal(found["counts in blocks"][0, :6], [6, 0, 1, 0, 1, 0])
    assert found["one-point distribution"].sum() == 64
    # those of the second and of the third mass bin are in one voxel: a white spectrum of the volume
    np.testing.assert_allclose(found["halo power"][1:, 0], 64000.0, rtol=1e-12)
    # three light haloes where two are expected; and 63 voxels without any
    np.testing.assert_allclose(found["scatter of counts"][0], [1, 1, 0.5, 0.5, 1, 1])


def test_spectra_are_of_the_right_fields(sampler):
    from npe_tf import statistics

    grid = Grid(8, 60.0)
    haloes = sampler.haloes(np.random.default_rng(0))
    found = measure(haloes, sampler.delta, sampler.rates, grid, MASS_THRESHOLD)
    light = haloes.log_mass < math.log(3 * MASS_THRESHOLD)
    counts = np.bincount(haloes.voxels[light], minlength=512).reshape(grid.shape)
    contrast = counts / counts.mean() - 1.0
    power = statistics.power_spectrum(contrast, grid, num_shells=2).power
    cross = statistics.power_spectrum(contrast, grid, sampler.delta, num_shells=2).power
    np.testing.assert_allclose(found["halo power"][0], power, rtol=1e-12)
    np.testing.assert_allclose(found["cross power"][0], cross, rtol=1e-12)


def test_no_haloes_are_measured():
    none = Haloes(np.zeros(0, np.int64), np.zeros(0))
    found = measure(
        none, np.zeros((4, 4, 4)), np.zeros((3, 4, 4, 4)), Grid(4, 40.0), MASS_THRESHOLD
    )
    assert all(np.all(np.isfinite(numbers)) for numbers in found.values())


def test_mocks_have_the_rates_of_the_model(sampler):
    rng, draws = np.random.default_rng(3), 200
    counts = np.zeros(sampler.rate.size)
    for _ in range(draws):
        counts += np.bincount(sampler.haloes(rng).voxels, minlength=counts.size)
    expected = draws * sampler.rate.ravel()
    chi = (counts - expected) / np.sqrt(expected)
    assert abs(np.sum(chi**2) - chi.size) < 5 * np.sqrt(np.sum(2.0 + 1.0 / expected))


def test_mock_catalogues_have_their_haloes_in_the_voxels_drawn(truth, sampler):
    posterior, white_noise, theta = truth
    (catalogue,) = mock_catalogues(posterior, [(white_noise, theta)], seed=5)
    haloes = sampler.haloes(np.random.default_rng(5))
    np.testing.assert_array_equal(catalogue.voxel_index(8), haloes.voxels)
    np.testing.assert_allclose(catalogue.log_mass, haloes.log_mass, rtol=1e-12)
    assert len(catalogue.above(MASS_THRESHOLD)) == len(catalogue)


def test_data_of_the_model_pass_and_are_written_down(truth):
    posterior, white_noise, theta = truth
    found = predictive_checks(posterior, [(white_noise, theta)], num_mocks=19, seed=1)
    assert [check.name for check in found.checks] == NAMES
    assert all(check.p_value >= 0.05 for check in found.checks)
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert kept["checks"][0]["p_value"] == found["mass function"].p_value
    text = format_checks(found)
    assert all(name in text for name in NAMES)
    assert "FAILS" not in text
    again = predictive_checks(posterior, [(white_noise, theta)], num_mocks=19, seed=1)
    assert again.to_json() == found.to_json()


def test_masses_that_are_wrong_are_caught(truth, sampler):
    posterior, white_noise, theta = truth
    rng = np.random.default_rng(2)
    found = predictive_checks(
        posterior, [(white_noise, theta)], 199, observed=heavier(sampler.haloes(rng))
    )
    assert found["mass function"].p_value == 1 / 200
    assert "FAILS" in format_checks(found)
    # where they are is right
    assert found["counts in voxels"].p_value > 0.01


def test_counts_that_scatter_too_much_are_caught(truth, sampler):
    posterior, white_noise, theta = truth
    rng = np.random.default_rng(3)
    found = predictive_checks(
        posterior, [(white_noise, theta)], 199, observed=overdispersed(sampler, rng)
    )
    assert found["scatter of counts"].p_value == 1 / 200


def test_wrong_input_is_named(truth):
    posterior, white_noise, theta = truth
    with pytest.raises(ValueError, match="`num_mocks`"):
        predictive_checks(posterior, [(white_noise, theta)], 1)
    with pytest.raises(ValueError, match="`samples`"):
        predictive_checks(posterior, [])


@pytest.mark.slow
def test_p_values_of_data_of_the_model_are_uniform(truth, sampler):
    posterior, white_noise, theta = truth
    rng = np.random.default_rng(4)
    repeats, mocks = 200, 19
    found = [
        predictive_checks(
            posterior, [(white_noise, theta)], mocks, 1000 + number, sampler.haloes(rng)
        )
        for number in range(repeats)
    ]
    for name in NAMES:
        p = np.array([each[name].p_value for each in found])
        # ranks are uniform on 1/20, ..., 20/20: spread over the steps they are uniform on [0, 1]
        spread = p - rng.uniform(0.0, 1.0 / (mocks + 1), repeats)
        assert stats.kstest(spread, "uniform").pvalue > 1e-3, name
    wrong = [
        predictive_checks(
            posterior, [(white_noise, theta)], mocks, number, overdispersed(sampler, rng)
        )["scatter of counts"].p_value
        for number in range(20)
    ]
    assert stats.kstest(wrong, "uniform").pvalue < 1e-6
