"""Bias models whose masses follow the density: formulae, limits, fits."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from npe_tf.bias.conditional import Conditional, linear_overdensity
from npe_tf.bias.kinds import MASS_RESOLVED, OF_PEAKS, build_mass_resolved
from npe_tf.bias.mass_resolved import STEP, mass_vertices
from npe_tf.bias.peak_background import PeakBackground
from npe_tf.bias.single_rate import INVERSE_SOFTPLUS_OF_ONE, SOFTENING
from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.multiplicity import COLLAPSE_THRESHOLD, PRESS_SCHECHTER, SHETH_TORMEN, TINKER
from npe_tf.multiplicity import tinker_bias as published_tinker_bias
from npe_tf.peak_background import halo_mass_function, log_peak_height, mass_variance
from npe_tf.posterior import PosteriorConfig
from npe_tf.pretraining import pretrain

THRESHOLD = 2e12
LOG_THRESHOLD = math.log(THRESHOLD)
GRID = Grid(8, 100.0)
DELTA = np.exp(0.8 * np.random.default_rng(0).standard_normal(GRID.shape) - 0.32) - 1.0
TRUTHS = {
    "peak_background": [-0.3, 0.2, 0.3, -0.3, -0.4],
    "peak_background_tinker": [0.2, 0.2, -0.2, -0.2, 0.3],
    "conditional": [-0.2, 0.3, 0.2, 0.4, -0.2],
    "power_law_by_mass": [0.6, 0.2, 0.3, -0.2, 0.1],
}
ALL = tuple(MASS_RESOLVED)
NORMALISED = tuple(kind for kind in ALL if MASS_RESOLVED[kind].normalised)


@pytest.fixture(scope="module")
def variance():
    return mass_variance(Cosmology())


def build(kind, dtype="float64", **options):
    return PosteriorConfig(
        GRID.num_cells, THRESHOLD, bias=kind, dtype=dtype, **options
    ).build_bias()


def mass_function(kind, theta, delta=DELTA):
    return build(kind).mass_function(tf.constant(delta), tf.constant(np.asarray(theta, float)))


def unit_softplus(x):
    return math.log1p(math.exp(x + INVERSE_SOFTPLUS_OF_ONE))


def naive(kind, theta, delta, log_mass, variance):
    """dn/dlogM of every voxel at one mass, by the formulae of the modules."""
    density = 1.0 + delta + SOFTENING
    c, *q = theta
    if kind == "power_law_by_mass":
        x = log_mass - LOG_THRESHOLD
        mean = 1e-3 * math.exp(c - (1 + q[0]) * x - math.exp(x - 5.0 - q[1]))
        response = density ** (1.0 + q[2] + q[3] * x)
        return mean * response / response.mean()
    published = TINKER if kind == "peak_background_tinker" else SHETH_TORMEN
    half = published.exponent / 2
    a = published.height * unit_softplus(q[0])
    p = half - (half - published.low) * unit_softplus(q[1])
    inner = published.inner or a

    def f(nu):
        norm = (special.gamma(half) + (2 * inner / a) ** -p * special.gamma(half - p)) / 2
        norm *= (2 / a) ** half
        both = 1 + (inner * nu**2) ** -p
        return nu**published.exponent * both * np.exp(-a * nu**2 / 2) / norm

    def sigma2(log_m):
        return np.exp(variance.log_variance(tf.constant(log_m, tf.float64)).numpy())

    if kind == "conditional":
        y = density ** (1 + q[3])
        linear = 1.68647 - 1.35 * y ** (-2 / 3) - 1.12431 * y**-0.5 + 0.78785 * y**-0.58661
        linear = linear * COLLAPSE_THRESHOLD / 1.68647
        s0 = sigma2(math.log(1e13) + q[2] + np.log(y))

        s, e = sigma2(log_mass), 1e-4
        r = s / np.sqrt(s**2 + s0**2)
        nu = (COLLAPSE_THRESHOLD - r * linear) / np.sqrt(s - r**2 * s0)
        inside = s / (s - r**2 * s0)
        outside = COLLAPSE_THRESHOLD / (COLLAPSE_THRESHOLD - r * linear)
        steep = math.log(sigma2(log_mass - e) / sigma2(log_mass + e)) / (4 * e)
        held = variance.mean_density * math.exp(c - log_mass) * y
        return held * f(nu) * (r**2 * inside + (1 - r**2) * outside) * steep

    nu, e = COLLAPSE_THRESHOLD / math.sqrt(sigma2(log_mass)), 1e-4
    steep = -math.log(sigma2(log_mass + e) / sigma2(log_mass - e)) / (4 * e)
    mean = variance.mean_density * math.exp(c - log_mass) * f(nu) * steep
    # the response to a lower threshold, by differences
    d = 1e-3 / COLLAPSE_THRESHOLD
    low, middle, high = (f(nu * (1 - s * d)) for s in (-1, 0, 1))
    first = (high - low) / 2e-3 / middle
    second = (high - 2 * middle + low) / 1e-6 / middle + 8 / 21 * first
    first = 1 + first
    if kind == "peak_background_tinker":
        first = float(published_tinker_bias(math.log(nu)))
    y = np.log(density)
    bend = 0.5 * (1 + q[3]) * (second - first**2 + first)
    response = np.exp((1 + q[2]) * first * y + bend * y**2)
    return mean * response / response.mean()


@pytest.mark.parametrize("kind", ALL)
def test_mass_function_by_the_formulae(kind, variance):
    found = mass_function(kind, TRUTHS[kind])
    for number in (0, 5, 14, 22):
        log_mass = mass_vertices(LOG_THRESHOLD)[number]
        expected = naive(kind, TRUTHS[kind], DELTA, log_mass, variance)
        intensity = np.exp(found.log_intensity(tf.constant(log_mass, tf.float64)))
        np.testing.assert_allclose(intensity, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", NORMALISED)
def test_the_mean_over_the_box_is_the_mean_mass_function(kind):
    """Whatever the response is: of the same mean mass function in a box without structure."""
    theta = np.array(TRUTHS[kind])
    found, flat = (mass_function(kind, theta, delta) for delta in (DELTA, np.zeros(GRID.shape)))
    for log_mass in (None, tf.constant(LOG_THRESHOLD + 2.3, tf.float64)):
        integral = found.integral(log_mass).numpy()
        np.testing.assert_allclose(integral.mean(), flat.integral(log_mass)[0, 0, 0], rtol=1e-10)
        assert integral.std() > 0.1 * integral.mean()


def test_a_box_without_structure_has_the_halo_mass_function(variance):
    found = mass_function("peak_background", np.zeros(5), np.zeros(GRID.shape))
    # between the vertices as well: what the interpolation costs
    log_mass = LOG_THRESHOLD + STEP * np.arange(0.0, 21.0, 0.5)
    expected = halo_mass_function(log_mass, variance)
    density = np.exp(found.at(tf.constant([3])).log_intensity(tf.constant(log_mass)))
    np.testing.assert_allclose(density[::2], expected[::2], rtol=1e-9)
    np.testing.assert_allclose(density, expected, rtol=0.02)
    assert np.all(density[1::2] > expected[1::2])
    fine = np.linspace(LOG_THRESHOLD, math.log(1e17), 20_001)
    total = np.trapezoid(halo_mass_function(fine, variance), fine)
    np.testing.assert_allclose(found.integral()[0, 0, 0], total, rtol=0.006)


@pytest.mark.parametrize("kind", ["peak_background", "peak_background_tinker"])
def test_second_order_in_the_overdensity(kind, variance):
    """F is 1 + b1 delta + b2 delta^2 / 2, for light and for heavy haloes."""
    layer = OF_PEAKS[kind](LOG_THRESHOLD, variance, dtype="float64")
    log_mass = tf.constant([LOG_THRESHOLD, LOG_THRESHOLD + 3.0, LOG_THRESHOLD + 6.0], tf.float64)
    log_nu = layer.log_peak_height(log_mass)
    first, second = layer.published.bias(log_nu)
    if kind == "peak_background_tinker":
        first = published_tinker_bias(log_nu)
    d = 1e-3
    y = tf.constant(np.log1p([[-d], [0.0], [d]]))
    zero = [tf.zeros([], tf.float64)] * 4
    low, middle, high = np.exp(layer.log_response(y, log_mass, *zero))
    np.testing.assert_allclose(middle, 1.0)
    np.testing.assert_allclose((high - low) / (2 * d), first, rtol=1e-4)
    np.testing.assert_allclose((high - 2 * middle + low) / d**2, second, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(log_nu, log_peak_height(log_mass, variance))


def conditional(variance, log_mass, log_density, theta):
    layer = Conditional(LOG_THRESHOLD, variance, dtype="float64")
    numbers = [tf.constant(x, tf.float64) for x in theta]
    log_mass = tf.constant(log_mass)
    response = layer.log_response(tf.constant(log_density)[:, None], log_mass, *numbers)
    return layer, np.exp(response + layer.log_mean(log_mass)).T


# a = 1 and p = 0
OF_PRESS_SCHECHTER = [math.log(math.expm1(x)) - INVERSE_SOFTPLUS_OF_ONE for x in (1 / 0.707, 2.5)]


def test_conditional_mass_function_of_bond_et_al(variance):
    """Haloes far below the mass of their region, of Press & Schechter: the closed form."""
    region = math.log(1e3)  # 1e16 Msun/h
    log_mass, y = np.log([1e9, 1e10, 1e11]), np.log([0.5, 1.0, 3.0])
    _, found = conditional(variance, log_mass, y, [*OF_PRESS_SCHECHTER, region, 0.0])
    s = np.exp(variance.log_variance(tf.constant(log_mass)).numpy())[:, None]
    s0 = np.exp(variance.log_variance(tf.constant(math.log(1e16) + y)).numpy())
    ds = -s * variance.slope(tf.constant(log_mass)).numpy()[:, None]
    gap = COLLAPSE_THRESHOLD - linear_overdensity(tf.constant(y)).numpy()
    rate = gap / np.sqrt(2 * np.pi) / (s - s0) ** 1.5 * np.exp(-(gap**2) / (2 * (s - s0)))
    expected = variance.mean_density * np.exp(y - log_mass[:, None]) * rate * ds
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_haloes_of_a_large_region_hold_its_mass(variance):
    log_mass = np.linspace(math.log(1e8), math.log(1e18), 20_001)
    y = np.log([0.02, 0.3, 1.0, 2.0])
    region = math.log(1e4)  # 1e17 Msun/h
    _, found = conditional(variance, log_mass, y, [*OF_PRESS_SCHECHTER, region, 0.0])
    held = np.trapezoid(found * np.exp(log_mass[:, None]), log_mass, axis=0)
    # all but what is in haloes below 1e8, whose peaks are lower
    s = np.exp(variance.log_variance(tf.constant(log_mass[0])).numpy())
    s0 = np.exp(variance.log_variance(tf.constant(math.log(1e17) + y)).numpy())
    nu = (COLLAPSE_THRESHOLD - linear_overdensity(tf.constant(y)).numpy()) / np.sqrt(s - s0)
    expected = variance.mean_density * np.exp(y) * special.erfc(nu / np.sqrt(2))
    np.testing.assert_allclose(held, expected, rtol=5e-3)


def test_haloes_far_above_the_mass_of_a_region(variance):
    """Of walks that pass delta_0 at S_0, those that crossed before: Bayes' theorem."""
    region = math.log(1e-4)  # 1e9 Msun/h
    log_mass, y = np.log([1e13, 1e14, 1e15]), np.log([0.5, 1.0, 3.0])
    _, found = conditional(variance, log_mass, y, [*OF_PRESS_SCHECHTER, region, 0.0])
    s = np.exp(variance.log_variance(tf.constant(log_mass)).numpy())[:, None]
    s0 = np.exp(variance.log_variance(tf.constant(math.log(1e9) + y)).numpy())
    linear = linear_overdensity(tf.constant(y)).numpy()
    free = halo_mass_function(log_mass, variance, PRESS_SCHECHTER)[:, None]
    rest = s0 - s
    crossed = np.exp(-((linear - COLLAPSE_THRESHOLD) ** 2) / (2 * rest)) / np.sqrt(rest)
    passing = np.exp(-(linear**2) / (2 * s0)) / np.sqrt(s0)
    np.testing.assert_allclose(found, np.exp(y) * free * crossed / passing, rtol=0.02)


def test_conditional_mass_function_of_any_region(variance):
    log_mass, y = np.log(np.geomspace(1e12, 10**16.5, 80)), np.linspace(-6.9, 6.0, 80)
    for region in (-20.0, -3.0, 0.0, 3.0, 20.0):
        for height in (-5.0, 0.0, 5.0):
            layer, found = conditional(variance, log_mass, y, [height, 0.0, region, 0.3])
            assert np.all(np.isfinite(found))
            assert np.all(found >= 0.0)
            # no more mass than there is, but for haloes above the region's
            held = found * np.exp(log_mass[:, None]) / layer.variance.mean_density
            assert np.max(held) < 1e3


def test_linear_overdensity():
    y = tf.constant(np.log([1e-2, 0.99, 1.0, 1.01, 1e3, 1e8]), tf.float64)
    linear = linear_overdensity(y).numpy()
    # the fit of Mo & White is of per cents at small overdensities
    assert abs(linear[2]) < 1e-3
    np.testing.assert_allclose((linear[3] - linear[1]) / 0.02, 1.0, rtol=0.02)
    assert np.all(np.diff(linear) > 0)
    assert linear[-1] < COLLAPSE_THRESHOLD


@pytest.mark.parametrize("kind", ALL)
def test_dense_voxels_have_heavier_haloes(kind):
    """Masses follow the density, which those of one rate do not."""
    found = mass_function(kind, TRUTHS[kind])
    heavy = found.integral(tf.constant(math.log(3e13), tf.float64)) / found.integral()
    # The emptiest have next to no haloes; of a conditional mass function no light ones. The split
    # at second order turns over in the densest.
    empty, dense = np.argsort(DELTA, axis=None)[[100, 480]]
    assert np.ravel(heavy)[dense] > 1.2 * np.ravel(heavy)[empty]


@pytest.mark.parametrize("kind", ALL)
def test_gradient_by_differences(kind):
    bias, theta = build(kind), np.array(TRUTHS[kind])

    def value(delta, theta):
        found = bias.mass_function(delta, theta)
        log_intensity = found.log_intensity(tf.constant(LOG_THRESHOLD + 1.1, tf.float64))
        return tf.reduce_sum(log_intensity) - tf.reduce_sum(found.integral()) * 1e3

    rng = np.random.default_rng(3)
    arguments = [tf.constant(DELTA), tf.constant(theta)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        found = value(*arguments)
    gradients = tape.gradient(found, arguments)
    for i, step in enumerate((1e-6, 1e-5)):
        direction = rng.standard_normal(arguments[i].shape)
        ends = []
        for sign in (-1, 1):
            moved = list(arguments)
            moved[i] = arguments[i] + sign * step * direction
            ends.append(float(value(*moved)))
        expected = (ends[1] - ends[0]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradients[i] * direction), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_single_precision(kind):
    theta = np.array(TRUTHS[kind])
    found = build(kind, "float32").mass_function(
        tf.constant(DELTA, tf.float32), tf.constant(theta, tf.float32)
    )
    exact = mass_function(kind, theta)
    np.testing.assert_allclose(found.integral(), exact.integral(), rtol=2e-4)
    at = LOG_THRESHOLD + 1.1
    np.testing.assert_allclose(
        found.log_intensity(at), exact.log_intensity(tf.constant(at, tf.float64)), atol=2e-3
    )


@pytest.mark.parametrize("kind", ALL)
def test_interior_voxels(kind):
    whole = build(kind).mass_function(tf.constant(DELTA)).integral()
    inside = build(kind, padding="valid").mass_function(tf.constant(DELTA)).integral()
    np.testing.assert_allclose(inside, whole[1:-1, 1:-1, 1:-1])


@pytest.mark.parametrize("kind", ALL)
def test_keras_keeps_the_layer(kind):
    layer = build(kind).model.layers[-1]
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    for name, found in again(DELTA[None, ..., None]).items():
        np.testing.assert_array_equal(found, layer(DELTA[None, ..., None])[name])
    assert keras.saving.get_registered_name(type(layer)).startswith("npe_tf>")


def draw(kind, seed=1):
    """A likelihood of the haloes of a mock drawn from a model."""
    rng = np.random.default_rng(seed)
    found = mass_function(kind, TRUTHS[kind])
    rate = found.integral().numpy() * GRID.cell_volume
    counts = rng.poisson(rate)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.maximum(np.exp(found.at(voxels).sample(seed=(seed, 3))), THRESHOLD)
    vertices = np.stack(np.unravel_index(voxels, GRID.shape), axis=1)
    catalogue = Catalogue(vertices * GRID.cell_size, mass, GRID.box_size)
    return PoissonLikelihood(GRID, catalogue, THRESHOLD), rate


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_fit_to_haloes_of_the_model_finds_its_parameters(kind):
    bias, (likelihood, rate) = build(kind), draw(kind)
    theta = np.array(TRUTHS[kind])
    at_truth = bias.mass_function(tf.constant(DELTA), tf.constant(theta))
    expected = float(tf.reduce_sum(likelihood.expected_counts(at_truth)))
    np.testing.assert_allclose(expected, rate.sum())
    assert abs(likelihood.num_haloes - expected) < 4.0 * math.sqrt(expected)
    fitted = pretrain(bias, likelihood, DELTA, num_steps=60, num_polish=200, num_starts=1)
    # twice the gain is chi squared of as many degrees of freedom as there are parameters
    gain = fitted.log_likelihood - float(likelihood(at_truth))
    assert -1.0 < gain < 0.5 * special.chdtri(theta.size, 1e-4)
    found = bias.mass_function(tf.constant(DELTA)).integral().numpy() * GRID.cell_volume
    assert np.sum(np.abs(found - rate)) < 0.15 * np.sum(rate)
    # a Poisson process at its best amplitude expects as many haloes as there are
    np.testing.assert_allclose(found.sum(), likelihood.num_haloes, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"kind": "neyrinck"}, "argument `kind`"),
        ({"kind": "peak_background"}, "argument `variance`"),
        ({"kind": "power_law_by_mass", "margin": -1}, "argument `margin`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_mass_resolved(log_mass_threshold=LOG_THRESHOLD, **arguments)


def test_the_epoch_and_the_cosmology_count():
    today, early = (
        PosteriorConfig(8, THRESHOLD, bias="peak_background", scale_factor=a).build_bias()
        for a in (1.0, 0.5)
    )
    layers = [bias.model.layers[-1] for bias in (today, early)]
    assert isinstance(layers[0], PeakBackground)
    log_mass = tf.constant([LOG_THRESHOLD], tf.float64)
    growth = float(Cosmology().growth_factor(0.5))
    heights = [float(layer.log_peak_height(log_mass)[0]) for layer in layers]
    np.testing.assert_allclose(heights[1] - heights[0], -math.log(growth), rtol=1e-5)
