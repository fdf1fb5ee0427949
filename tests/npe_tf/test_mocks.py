"""Mocks against what the model expects of them, and read back as a user does."""

import h5py
import numpy as np
import pytest
import tensorflow as tf

from npe_tf.catalogue import Catalogue, read_fields
from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.mocks import draw_mock, model_of_mocks, prior_sampler, simulate_mock
from npe_tf.nbody import NBodyConfig
from npe_tf.posterior import PosteriorConfig
from npe_tf.pretraining import load_parameters, pretrain
from tests.npe_tf.mock import MASS_THRESHOLD

CONFIG = PosteriorConfig(8, MASS_THRESHOLD, Cosmology(Omega_m=0.3), 0.5, prior_scale=0.5)
BOX = 60.0
NUM_MOCKS = 60


@pytest.fixture(scope="module")
def model():
    return model_of_mocks(CONFIG, BOX)


@pytest.fixture(scope="module")
def theta(model):
    """Parameters of which haloes follow the density."""
    theta = 0.1 * np.random.default_rng(0).standard_normal(model.bias.parameters.size)
    for name, value in {"kernel_weights[0, 0, 0]": 2.0, "amplitude_kernel[0, 0]": 2.0}.items():
        theta[model.bias.parameters.names.index(name)] += value
    return theta


def seed(number, of=0):
    return np.random.SeedSequence([of, number])


@pytest.fixture(scope="module")
def mocks(model, theta):
    return [draw_mock(CONFIG, model, theta, seed(n)) for n in range(NUM_MOCKS)]


def expected_counts(mocks, bias, theta):
    """Rates of the voxels of each mock [M, N, N, N], from its density and any parameters."""
    volume = (BOX / 8) ** 3
    return np.stack(
        [
            bias.mass_function(mock.fields["delta_final"], tf.constant(theta, tf.float32))
            .integral()
            .numpy()
            * volume
            for mock in mocks
        ]
    ).astype(np.float64)


def standard_scores(mocks, rates):
    """Of the mean number of haloes, and of the mean square deviation of the voxels' counts."""
    counts = np.stack([mock.catalogue.counts(8) for mock in mocks])
    mean = (counts.sum() - rates.sum()) / np.sqrt(rates.sum())
    # (n - r)^2 of a Poisson variable has mean r and variance r + 2 r^2
    square = np.sum((counts - rates) ** 2 - rates) / np.sqrt(np.sum(rates + 2 * rates**2))
    return mean, square


def test_mean_and_variance_of_counts_are_those_of_a_poisson_process(mocks, model, theta):
    rates = expected_counts(mocks, model.bias, theta)
    assert np.abs(standard_scores(mocks, rates)).max() < 4.0
    totals = [mock.attributes["expected_haloes"] for mock in mocks]
    np.testing.assert_allclose(totals, rates.sum(axis=(1, 2, 3)), rtol=1e-4)
    assert rates.sum() > 10_000


def test_the_wrong_model_is_told_apart(mocks, model, theta):
    names = model.bias.parameters.names
    more = theta.copy()
    more[names.index("amplitude_bias[0, 0]" if "amplitude_bias[0, 0]" in names else names[9])] += (
        0.5
    )
    assert abs(standard_scores(mocks, expected_counts(mocks, model.bias, more))[0]) > 4.0
    # as many haloes in all, of the density of another mock
    rates = expected_counts(mocks, model.bias, theta)
    others = np.roll(rates, 1, axis=0)
    assert standard_scores(mocks, others * rates.sum() / others.sum())[1] > 4.0


def test_haloes_are_above_the_threshold_and_in_the_box(mocks):
    for mock in mocks[:5]:
        assert mock.catalogue.mass.min() >= MASS_THRESHOLD
        assert mock.catalogue.box_size == BOX and mock.catalogue.periodic


def test_a_mock_depends_on_its_seed_alone(model, theta, mocks):
    again = draw_mock(CONFIG, model, theta, seed(3))
    np.testing.assert_array_equal(again.catalogue.positions, mocks[3].catalogue.positions)
    noise = "fields/white_noise"
    assert np.corrcoef(mocks[3].datasets[noise].ravel(), mocks[4].datasets[noise].ravel())[
        0, 1
    ] == pytest.approx(0.0, abs=0.2)
    other = draw_mock(CONFIG, model, None, seed(3))
    # whatever the parameters, the field is the same
    np.testing.assert_array_equal(other.datasets[noise], mocks[3].datasets[noise])
    assert not np.allclose(other.datasets["theta"], theta)


def test_fields_are_those_of_the_model(mocks, model):
    mock = mocks[0]
    noise = mock.datasets["fields/white_noise"]
    grid = Grid(8, BOX)
    linear = InitialField(grid, CONFIG.cosmology)(noise)
    np.testing.assert_allclose(mock.fields["delta_linear"], linear, atol=1e-6)
    np.testing.assert_allclose(mock.fields["delta_final"], model.density(noise), atol=1e-5)


def test_a_file_is_read_by_everything_that_reads_catalogues(tmp_path, mocks, model, theta):
    path = tmp_path / "mock.h5"
    mock = mocks[0]
    mock.write(path, {"recipe": "x"})
    read = Catalogue.read(path)
    np.testing.assert_array_equal(read.positions, mock.catalogue.positions)
    np.testing.assert_array_equal(read.mass, mock.catalogue.mass)
    assert read.header["scale_factor"] == 0.5 and read.header["Omega_m"] == 0.3
    assert read.header["sigma8"] == 0.81 and read.notes == ()
    np.testing.assert_array_equal(read_fields(path)["delta_final"], mock.fields["delta_final"])
    np.testing.assert_array_equal(load_parameters(path, model.bias), theta)
    with h5py.File(path) as file:
        assert PosteriorConfig.from_attributes(file.attrs) == CONFIG
        assert file.attrs["recipe"] == "x"
        assert file["fields/white_noise"].shape == (8, 8, 8)

    posterior = CONFIG.build(read)
    delta = read_fields(path)["delta_final"]
    at_truth, elsewhere = (
        float(posterior.log_likelihood(delta, tf.constant(parameters, tf.float32)))
        for parameters in (theta, theta + 0.1)
    )
    assert at_truth > elsewhere + 10.0


@pytest.mark.slow
def test_the_truth_is_near_the_best_fit(mocks, model, theta):
    mock = mocks[0]
    posterior = CONFIG.build(mock.catalogue)
    delta = mock.fields["delta_final"]
    fitted = pretrain(
        posterior.bias, posterior.likelihood, delta, initial_theta=theta, num_steps=5, num_polish=30
    )
    at_truth = float(posterior.log_likelihood(delta, tf.constant(theta, tf.float32)))
    # the best fit beats the truth, by about half a nat for each of 17 parameters
    assert 0.0 < fitted.log_likelihood - at_truth < 40.0


def test_haloes_are_only_where_they_can_be_seen(theta):
    window = np.zeros((8, 8, 8))
    window[4:] = 0.5
    model = model_of_mocks(CONFIG, BOX, window)
    mock = draw_mock(CONFIG, model, theta, seed(0))
    counts = mock.catalogue.counts(8)
    assert counts[:4].sum() == 0 and counts[4:].sum() > 0
    whole = expected_counts([mock], model.bias, theta)[0]
    assert mock.attributes["expected_haloes"] == pytest.approx(whole[4:].sum() / 2, rel=1e-4)


def test_faces_that_do_not_touch(theta):
    from dataclasses import replace

    config = replace(CONFIG, padding="valid")
    mock = draw_mock(config, model_of_mocks(config, BOX), theta, seed(0))
    counts = mock.catalogue.counts(8)
    assert counts[1:7, 1:7, 1:7].sum() == counts.sum() > 0
    assert not mock.catalogue.periodic


def test_parameters_of_the_prior_are_redrawn_until_there_are_haloes(model, monkeypatch):
    delta = model.density(np.zeros((8, 8, 8), np.float32))
    rng = np.random.default_rng(0)
    drawn = [prior_sampler(model, delta, rng, 1000.0) for _ in range(8)]
    assert all(1.0 <= sampler.rate.sum() <= 1000.0 for sampler, _ in drawn)
    spread = np.std([theta for _, theta in drawn])
    assert spread == pytest.approx(0.5, rel=0.2)
    monkeypatch.setattr("npe_tf.mocks._MOST_DRAWS", 5)
    with pytest.raises(ValueError, match="`max_haloes`.*width 0.5.*none in 5 draws"):
        prior_sampler(model, delta, rng, 0.5)


def test_too_many_haloes_are_refused(model, theta):
    with pytest.raises(ValueError, match="`max_haloes`"):
        draw_mock(CONFIG, model, theta, seed(0), max_haloes=10.0)


@pytest.mark.slow
def test_a_simulated_mock(tmp_path):
    config = NBodyConfig(16, 24.0, 8, num_steps=4, min_particles=5)
    mock = simulate_mock(config, seed(1))
    path = tmp_path / "box.h5"
    mock.write(path)
    read = Catalogue.read(path)
    assert len(read) > 5 and read.header["scale_factor"] == 1.0
    fields = read_fields(path)
    assert fields["delta_final"].shape == fields["delta_linear"].shape == (8, 8, 8)
    with h5py.File(path) as file:
        np.testing.assert_allclose(
            file["halos/num_particles"][:] * file.attrs["particle_mass"], read.mass, rtol=1e-6
        )
        assert file["halos/velocity"].shape == (len(read), 3)
        assert np.std(file["halos/velocity"][:]) > 10.0
        assert file.attrs["linking_length"] == 0.2
    posterior = PosteriorConfig(8, read.mass.min(), dtype="float64").build(read)
    rates = posterior.likelihood.expected_counts(
        posterior.bias.mass_function(fields["delta_final"].astype(np.float64))
    )
    assert posterior.likelihood.num_haloes == len(read) and np.isfinite(rates).all()


def test_a_simulation_without_haloes_says_what_was_to_be_expected():
    config = NBodyConfig(8, 200.0, 8, num_steps=1, min_particles=100)
    with pytest.raises(ValueError, match=r"`min_particles`.*expected in 8\^3 particles"):
        simulate_mock(config, seed(0))


def test_names_of_the_layout_are_not_for_others(tmp_path, mocks):
    catalogue = mocks[0].catalogue
    with pytest.raises(ValueError, match="`datasets`.*halos/mass"):
        catalogue.write_hdf5(tmp_path / "x.h5", datasets={"halos/mass": np.zeros(3)})
    with pytest.raises(ValueError, match="`attributes`.*box_size"):
        catalogue.write_hdf5(tmp_path / "x.h5", attributes={"box_size": 3.0})
    assert not list(tmp_path.iterdir())
