"""Counts that scatter more than a Poisson process: the likelihood, its limit, its parameters."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from npe_tf.bias.counts import COUNTS, Dispersion
from npe_tf.bias.neural import PapersNetwork
from npe_tf.bias.standardised import PlainParameters, parameter_coordinates
from npe_tf.catalogue import Catalogue
from npe_tf.export import export_bias
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.negative_binomial import NegativeBinomialLikelihood, log1p_ratio
from npe_tf.posterior import PosteriorConfig
from npe_tf.predictive import MockSampler
from npe_tf.pretraining import pretrain

THRESHOLD = 2e12
GRID = Grid(8, 100.0)
RNG = np.random.default_rng(0)
DELTA = np.exp(0.8 * RNG.standard_normal(GRID.shape) - 0.32) - 1.0
WINDOW = np.where(RNG.random(GRID.shape) < 0.2, 0.0, RNG.uniform(0.3, 1.0, GRID.shape))
RATE = [0.6, 0.4, 0.5, -0.3, 0.4, -0.2, 0.3]  # of a power law, and its masses
NOT_POISSON = COUNTS[1:]


def config(counts="negative_binomial", dtype="float64", bias="power_law", **options):
    return PosteriorConfig(
        GRID.num_cells, THRESHOLD, bias=bias, counts=counts, dtype=dtype, **options
    )


def mass_function(counts, *dispersion, dtype="float64"):
    theta = tf.constant([*RATE, *dispersion], dtype)
    return config(counts, dtype).build_bias().mass_function(tf.constant(DELTA, dtype), theta)


def catalogue(phi=0.5, power=0.0, seed=1, window=None):
    """Haloes of the power law, with intensities drawn from gamma distributions."""
    rng = np.random.default_rng(seed)
    found = mass_function("poisson")
    expected = found.integral().numpy() * GRID.cell_volume
    shape = 1.0 / (phi * expected**power)
    counts = rng.poisson(expected * (1.0 if window is None else window) * rng.gamma(shape) / shape)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.maximum(np.exp(found.at(voxels).sample(seed=(seed, 3))), THRESHOLD)
    vertices = np.stack(np.unravel_index(voxels, GRID.shape), axis=1)
    return Catalogue(vertices * GRID.cell_size, mass, GRID.box_size)


def reference(likelihood, found, phi):
    """By the law of counts of SciPy; phi `[N, N, N]`."""
    expected = found.integral().numpy() * GRID.cell_volume * likelihood.completeness
    seen = expected > 0
    rate, number = expected[seen], likelihood.counts[seen]
    r = 1.0 / phi[seen]
    log_pmf = stats.nbinom.logpmf(number, r, r / (r + rate)) + special.gammaln(number + 1.0)
    log_mass = tf.constant(likelihood.log_masses)
    at_haloes = found.at(tf.constant(likelihood.voxels)).log_intensity(log_mass).numpy()
    at_haloes = at_haloes + np.log(likelihood.completeness.ravel()[likelihood.voxels])
    return np.sum(log_pmf) - np.sum(number * np.log(rate)) + np.sum(at_haloes)


@pytest.mark.parametrize("window", [None, WINDOW], ids=["complete", "window"])
def test_likelihood_by_the_law_of_counts(window):
    haloes = catalogue(window=window)
    likelihood = NegativeBinomialLikelihood(GRID, haloes, THRESHOLD, completeness=window)
    assert likelihood.counts.max() > 20
    plain = mass_function("poisson")
    number = plain.integral().numpy() * GRID.cell_volume
    for log_phi in (-3.0, 0.0, 4.0):
        phi = np.full(GRID.shape, 0.1 * math.exp(log_phi))
        found = likelihood(mass_function("negative_binomial", log_phi))
        np.testing.assert_allclose(found, reference(likelihood, plain, phi), rtol=1e-11)
        found = likelihood(mass_function("negative_binomial_power", log_phi, -0.7))
        expected = reference(likelihood, plain, phi * number**-0.7)
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("counts", NOT_POISSON)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_dispersion_it_is_the_poisson_likelihood(counts, dtype):
    """Value and gradient; to the last digit, where a difference of log Gammas has lost them all."""
    haloes = catalogue()
    likelihoods = [kind(GRID, haloes, THRESHOLD) for kind in
                   (PoissonLikelihood, NegativeBinomialLikelihood)]  # fmt: skip
    values, gradients = [], []
    for likelihood, law in zip(likelihoods, ("poisson", counts), strict=True):
        bias = config(law, dtype).build_bias()
        # log phi is -77
        more = [-75.0, 0.3][: bias.parameters.size - len(RATE)]
        theta = tf.constant([*RATE, *more], dtype)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            value = likelihood(bias.mass_function(tf.constant(DELTA, dtype), theta))
        values.append(float(value))
        gradients.append(tape.gradient(value, theta).numpy())
    np.testing.assert_allclose(values[1], values[0], rtol=1e-14)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(gradients[1][: len(RATE)], gradients[0], rtol=tolerance)
    np.testing.assert_allclose(gradients[1][len(RATE) :], 0.0, atol=1e-20)


def test_small_dispersions_keep_their_digits():
    """The first order in phi is sum of N (N - 1) / 2 - N lambda + lambda^2 / 2."""
    likelihood = NegativeBinomialLikelihood(GRID, catalogue(), THRESHOLD)
    rate = mass_function("poisson").integral().numpy() * GRID.cell_volume
    number = likelihood.counts
    first = np.sum(number * (number - 1) / 2 - number * rate + rate**2 / 2)
    bias = config().build_bias()
    for phi in (1e-12, 1e-9, 1e-6):
        at = tf.constant([*RATE, math.log(phi / 0.1)], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(at)
            value = likelihood(bias.mass_function(tf.constant(DELTA), at))
        # by log phi
        np.testing.assert_allclose(tape.gradient(value, at)[-1] / phi, first, rtol=1e-3)


def test_log1p_ratio_across_its_series():
    x = np.array([0.0, 1e-300, 1e-8, 9.9e-3, 1.01e-2, 1.0, 1e30])
    at = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(at)
        found = log1p_ratio(at)
    safe = np.where(x > 0, x, 1.0)
    np.testing.assert_allclose(found, np.where(x > 0, np.log1p(safe) / safe, 1.0), rtol=1e-14)
    slope = tape.gradient(found, at).numpy()
    np.testing.assert_allclose(slope[:3], -0.5, rtol=1e-7)
    exact = (x / (1 + x) - np.log1p(x))[3:6] / x[3:6] ** 2
    np.testing.assert_allclose(slope[3:6], exact, rtol=1e-11)
    assert np.all(np.isfinite(slope))


def test_ranks_count_the_haloes_of_each_voxel():
    likelihood = NegativeBinomialLikelihood(GRID, catalogue(), THRESHOLD)
    seen = dict.fromkeys(likelihood.voxels.tolist(), 0)
    for voxel, rank in zip(likelihood.voxels.tolist(), likelihood.ranks, strict=True):
        assert rank == seen[voxel]
        seen[voxel] += 1
    moved = likelihood.abundance_matched(RNG.standard_normal(GRID.shape))
    assert isinstance(moved, NegativeBinomialLikelihood)
    assert np.bincount(moved.ranks).sum() == likelihood.num_haloes


@pytest.mark.parametrize("counts", NOT_POISSON)
def test_gradient_by_differences(counts):
    bias = config(counts).build_bias()
    likelihood = NegativeBinomialLikelihood(GRID, catalogue(), THRESHOLD)
    theta = np.array([*RATE, 1.3, -0.4])[: bias.parameters.size]

    def value(delta, theta):
        return likelihood(bias.mass_function(delta, theta))

    arguments = [tf.constant(DELTA), tf.constant(theta)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        found = value(*arguments)
    gradients = tape.gradient(found, arguments)
    for i, step in enumerate((1e-6, 1e-5)):
        direction = np.random.default_rng(3).standard_normal(arguments[i].shape)
        ends = []
        for sign in (-1, 1):
            moved = list(arguments)
            moved[i] = arguments[i] + sign * step * direction
            ends.append(float(value(*moved)))
        expected = (ends[1] - ends[0]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradients[i] * direction), expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("bias", ["neural", "second_order", "peak_background"])
def test_every_bias_model_takes_a_dispersion(bias, jit_compile):
    """Finite with finite gradients, in float32 and for dispersions far out in the prior."""
    model = config("negative_binomial_power", "float32", bias).build_bias()
    likelihood = NegativeBinomialLikelihood(GRID, catalogue(), THRESHOLD)
    assert model.parameters.names[-2:] == ("log_dispersion[0]", "dispersion_power[0]")

    @tf.function(jit_compile=jit_compile)
    def value_and_gradient(delta, theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            value = likelihood(model.mass_function(delta, theta))
        return value, tape.gradient(value, theta)

    # an argument, since XLA works out what follows from constants, at leisure
    delta = tf.constant(DELTA, tf.float32)
    for pair in ([0.0, 0.0], [20.0, 0.5], [-30.0, -5.0], [10.0, 20.0]):
        theta = model.theta.numpy()
        theta[-2:] = pair
        assert all(np.all(np.isfinite(x)) for x in value_and_gradient(delta, tf.constant(theta)))


def test_likelihoods_refuse_the_other_law():
    haloes = catalogue()
    with pytest.raises(ValueError, match="argument `mass_function`.*Poisson"):
        PoissonLikelihood(GRID, haloes, THRESHOLD)(mass_function("negative_binomial", 0.0))
    with pytest.raises(ValueError, match="argument `mass_function`.*dispersion"):
        NegativeBinomialLikelihood(GRID, haloes, THRESHOLD)(mass_function("poisson"))


def test_counts_of_a_mock_scatter_as_they_should():
    posterior = config(padding="periodic").build(catalogue())
    assert isinstance(posterior.likelihood, NegativeBinomialLikelihood)
    log_phi = math.log(5.0)
    sampler = MockSampler(posterior, DELTA, np.array([*RATE, log_phi]))
    rng = np.random.default_rng(5)
    draws = np.stack([
        np.bincount(sampler.haloes(rng).voxels, minlength=DELTA.size) for _ in range(30)
    ])  # fmt: skip
    rate = sampler.rate.ravel()
    pull = (draws - rate).sum() / math.sqrt(np.sum(30 * (rate + 0.5 * rate**2)))
    assert abs(pull) < 4.0
    ratio = np.mean((draws - rate) ** 2 / (rate + 0.5 * rate**2))
    # of 15,360 squares with a kurtosis of some
    assert abs(ratio - 1.0) < 0.1
    poisson = np.mean((draws - rate) ** 2 / rate)
    assert poisson > 1.5


def test_the_dispersion_of_a_mock_is_where_the_likelihood_is_largest():
    """At the true rates, against the curvature of the likelihood."""
    grid = np.linspace(0.6, 2.6, 21)
    likelihood = NegativeBinomialLikelihood(GRID, catalogue(0.5), THRESHOLD)
    bias = config().build_bias()

    @tf.function
    def value(x):
        theta = tf.concat([tf.constant(RATE, tf.float64), x[tf.newaxis]], axis=0)
        return likelihood(bias.mass_function(tf.constant(DELTA), theta))

    total = np.array([float(value(tf.constant(x))) for x in grid])
    best = grid[np.argmax(total)]
    curvature = np.gradient(np.gradient(total, grid), grid)[np.argmax(total)]
    error = 1.0 / math.sqrt(-curvature)
    assert error < 0.2
    assert abs(best - math.log(5.0)) < 3.0 * error + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("counts", NOT_POISSON)
def test_fit_to_a_mock_finds_its_dispersion(counts):
    truth = np.array([*RATE, math.log(5.0), -0.6][: len(RATE) + COUNTS.index(counts)])
    haloes = catalogue(0.5, -0.6 if len(truth) > 8 else 0.0)
    likelihood = NegativeBinomialLikelihood(GRID, haloes, THRESHOLD)
    bias = config(counts).build_bias()
    fitted = pretrain(bias, likelihood, DELTA, num_steps=60, num_polish=200, num_starts=1)
    at_truth = likelihood(bias.mass_function(tf.constant(DELTA), tf.constant(truth)))
    gain = fitted.log_likelihood - float(at_truth)
    assert -1.0 < gain < 0.5 * special.chdtri(truth.size, 1e-4)
    poisson = pretrain(
        config("poisson").build_bias(), PoissonLikelihood(GRID, haloes, THRESHOLD), DELTA,
        num_steps=60, num_polish=200, num_starts=1,
    )  # fmt: skip
    assert fitted.log_likelihood > poisson.log_likelihood + 100.0


def test_coordinates_of_the_samplers_keep_the_dispersion():
    bias = config("negative_binomial_power", bias="neural").build_bias()
    assert PapersNetwork.of(bias.model) is not None
    coordinates = parameter_coordinates(bias, DELTA)
    assert not isinstance(coordinates, PlainParameters)
    theta = bias.theta.numpy() + 0.1 * RNG.standard_normal(bias.parameters.size)
    at = coordinates.coordinates(theta)
    np.testing.assert_array_equal(at[-2:], theta[-2:])
    again, log_volume = coordinates.theta(tf.constant(at))
    np.testing.assert_allclose(again, theta, rtol=1e-8, atol=1e-10)
    plain = config("poisson", bias="neural").build_bias()
    _, expected = parameter_coordinates(plain, DELTA).theta(tf.constant(at[:-2]))
    np.testing.assert_allclose(log_volume, expected)


def test_settings():
    assert "counts" not in config("poisson").to_attributes()
    own = config("negative_binomial")
    assert PosteriorConfig.from_attributes(own.to_attributes()) == own
    with pytest.raises(ValueError, match="argument `counts`"):
        config("astrology")
    with pytest.raises(ValueError, match=r"argument `config`.*poisson"):
        export_bias(own, GRID.box_size, [[*RATE, 0.0]])
    layer = Dispersion(True, dtype="float64")
    assert Dispersion.from_config(layer.get_config()).power
