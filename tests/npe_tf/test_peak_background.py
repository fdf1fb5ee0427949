"""Mass variance, multiplicities and biases: integrals, published numbers, differences."""

import math

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.mass_variance import MassVariance
from npe_tf.multiplicity import (
    COLLAPSE_THRESHOLD,
    PRESS_SCHECHTER,
    SHETH_TORMEN,
    TINKER,
    Multiplicity,
    tinker_bias,
)
from npe_tf.peak_background import (
    halo_mass_function,
    lagrangian_radius,
    log_peak_height,
    mass_variance,
    mean_density,
    sigma_of_radius,
)

COSMOLOGY = Cosmology()
FITS = {"press_schechter": PRESS_SCHECHTER, "sheth_tormen": SHETH_TORMEN, "tinker": TINKER}


@pytest.fixture(scope="module")
def variance():
    return mass_variance(COSMOLOGY)


def test_sigma_at_8_is_sigma8():
    for cosmology in (COSMOLOGY, Cosmology.preset("planck2018", sigma8=0.7)):
        np.testing.assert_allclose(sigma_of_radius(8.0, cosmology), cosmology.sigma8, rtol=1e-5)


def test_sigma_grows_with_the_growth_factor():
    growth = float(COSMOLOGY.growth_factor(0.5))
    early = sigma_of_radius([2.0, 20.0], COSMOLOGY, 0.5)
    np.testing.assert_allclose(early, growth * sigma_of_radius([2.0, 20.0], COSMOLOGY))


def test_a_sphere_holds_its_mass():
    radius = lagrangian_radius([1e10, 3e14], COSMOLOGY)
    volume = 4.0 / 3.0 * np.pi * radius**3
    np.testing.assert_allclose(volume * mean_density(COSMOLOGY), [1e10, 3e14])
    np.testing.assert_allclose(mean_density(COSMOLOGY), 2.775366e11 * 0.315, rtol=1e-6)


def test_the_polynomial_is_the_integral(variance):
    log_mass = np.log(np.geomspace(1e10, 1e16, 60))
    sigma = sigma_of_radius(lagrangian_radius(np.exp(log_mass), COSMOLOGY), COSMOLOGY)
    for dtype in ("float32", "float64"):
        found = variance.log_variance(tf.constant(log_mass, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(np.exp(0.5 * found.numpy()), sigma, rtol=5e-4)
    slope = np.gradient(2.0 * np.log(sigma), log_mass, edge_order=2)
    found = variance.slope(tf.constant(log_mass)).numpy()
    np.testing.assert_allclose(found[2:-2], slope[2:-2], rtol=5e-3)


@pytest.mark.parametrize("name", FITS)
def test_all_mass_is_in_haloes_and_they_are_unbiased_together(name):
    log_nu = np.linspace(-60.0, 5.0, 200_001)
    fraction = np.exp(FITS[name].log_value(log_nu))
    first, second = FITS[name].lagrangian_bias(log_nu)
    np.testing.assert_allclose(np.trapezoid(fraction, log_nu), 1.0, rtol=1e-9)
    for bias in (first, second):
        # what there is of it, not the small difference
        size = np.trapezoid(fraction * np.abs(bias), log_nu)
        assert abs(np.trapezoid(fraction * bias, log_nu)) < 1e-9 * size


@pytest.mark.parametrize("name", FITS)
def test_biases_are_the_response_to_a_long_wave(name):
    """Haloes of a region of linear overdensity e: those of a threshold lower by e."""
    nu, sigma = 1.7, COLLAPSE_THRESHOLD / 1.7

    def number(e):
        return float(np.exp(FITS[name].log_value(math.log((COLLAPSE_THRESHOLD - e) / sigma))))

    e = 1e-3
    first, second = (float(b) for b in FITS[name].lagrangian_bias(math.log(nu)))
    low, middle, high = number(-e), number(0.0), number(e)
    np.testing.assert_allclose((high - low) / (2 * e) / middle, first, rtol=1e-5)
    np.testing.assert_allclose((high - 2 * middle + low) / e**2 / middle, second, rtol=1e-4)


def test_published_numbers():
    # Sheth & Tormen 1999: A = 0.3222; Tinker et al. 2010: alpha = 0.368
    nu_one = math.exp(float(SHETH_TORMEN.log_value(0.0)))
    expected = 0.3222 * math.sqrt(2 * 0.707 / math.pi) * (1 + 0.707**-0.3) * math.exp(-0.707 / 2)
    np.testing.assert_allclose(nu_one, expected, rtol=1e-3)
    nu_one = math.exp(float(TINKER.log_value(0.0)))
    np.testing.assert_allclose(
        nu_one, 0.368 * (1 + 0.589 ** (2 * 0.729)) * math.exp(-0.864 / 2), rtol=1e-3
    )
    # Press & Schechter in closed form
    nu = np.array([0.3, 1.0, 3.0])
    closed = math.sqrt(2 / math.pi) * nu * np.exp(-(nu**2) / 2)
    np.testing.assert_allclose(np.exp(PRESS_SCHECHTER.log_value(np.log(nu))), closed)
    np.testing.assert_allclose(
        PRESS_SCHECHTER.bias(np.log(nu))[0], 1 + (nu**2 - 1) / COLLAPSE_THRESHOLD
    )
    # the Sheth-Tormen bias, their eq. 12
    a, p = 0.707, 0.3
    first = 1 + (a * nu**2 - 1) / COLLAPSE_THRESHOLD
    first += 2 * p / COLLAPSE_THRESHOLD / (1 + (a * nu**2) ** p)
    np.testing.assert_allclose(SHETH_TORMEN.bias(np.log(nu))[0], first)


def test_tinker_bias_by_its_formula():
    nu, y, dc = 2.3, math.log10(200.0), COLLAPSE_THRESHOLD
    spike = math.exp(-((4 / y) ** 4))
    a = 0.44 * y - 0.88
    expected = 1 - (1 + 0.24 * y * spike) * nu**a / (nu**a + dc**a) + 0.183 * nu**1.5
    expected += (0.019 + 0.107 * y + 0.19 * spike) * nu**2.4
    np.testing.assert_allclose(tinker_bias(math.log(nu)), expected, rtol=1e-12)
    # the split of their multiplicity is near their bias of simulated haloes
    log_nu = np.log(np.linspace(0.6, 3.0, 20))
    np.testing.assert_allclose(TINKER.bias(log_nu)[0], tinker_bias(log_nu), rtol=0.12)


def test_mass_function_holds_the_mass_of_its_peaks(variance):
    log_mass = np.linspace(math.log(1e9), math.log(1e17), 20_001)
    for fit in FITS.values():
        number = halo_mass_function(log_mass, variance, fit)
        held = np.trapezoid(number * np.exp(log_mass), log_mass) / variance.mean_density
        ends = log_peak_height(log_mass[[0, -1]], variance)
        log_nu = np.linspace(*ends, 20_001)
        expected = np.trapezoid(np.exp(fit.log_value(log_nu)), log_nu)
        np.testing.assert_allclose(held, expected, rtol=1e-5)


def test_gradients_of_the_multiplicity():
    log_nu = np.array([-0.5, 0.3, 1.2])

    def value(height, low):
        fit = Multiplicity(height, low)
        return tf.reduce_sum(fit.log_value(log_nu)) + tf.reduce_sum(fit.bias(log_nu)[1])

    at = [tf.constant(0.7, tf.float64), tf.constant(0.2, tf.float64)]
    with tf.GradientTape() as tape:
        tape.watch(at)
        found = value(*at)
    for i, gradient in enumerate(tape.gradient(found, at)):
        moved = [[x + (e if i == j else 0.0) for j, x in enumerate(at)] for e in (-1e-6, 1e-6)]
        difference = (value(*moved[1]) - value(*moved[0])) / 2e-6
        np.testing.assert_allclose(gradient, difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([1.0, -1.0], COSMOLOGY), "argument `radius`"),
        ((8.0, Cosmology(h=tf.constant(0.7))), "argument `cosmology`"),
    ],
)
def test_radii_and_cosmologies_that_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        sigma_of_radius(*arguments)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (((), 1e11), "argument `coefficients`"),
        (((1.0, np.nan), 1e11), "argument `coefficients`"),
        (((1.0,), -1.0), "argument `mean_density`"),
    ],
)
def test_variances_that_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        MassVariance(*arguments)
