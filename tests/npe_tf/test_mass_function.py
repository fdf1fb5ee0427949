import mpmath
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

from layers.components import ComponentFamily, TaperedParetoComponents
from npe_tf.mass_function import HaloMassFunction
from tests.npe_tf import reference

THRESHOLD = float(np.log(2e12))


def make(mean, scale, parameterisation, amplitude=(1e-3,), dtype=np.float64, **options):
    return HaloMassFunction(
        np.log(np.array(amplitude, dtype)), np.array(mean, dtype), np.array(scale, dtype),
        THRESHOLD, parameterisation, **options,
    )  # fmt: skip


class ExponentialComponents(ComponentFamily):
    """Exponential above the threshold, the least that a family needs."""

    def log_density(self, x, mean, scale, threshold):
        return self.log_survival(x, mean, scale, threshold) - tf.math.log(scale)

    def log_survival(self, x, mean, scale, threshold):
        return -(x - threshold) / scale


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 1.0, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("distance", [-3.0, -0.02, 0.0, 0.5, 4.0])
def test_integral_against_quadrature(parameterisation, scale, distance):
    """Adaptive quadrature with 25 digits; the integral itself may exceed any float64."""
    mu = THRESHOLD + distance
    found = make([mu], [scale], parameterisation).log_integral().numpy()
    with mpmath.workdps(25):
        sigma, mean, low = mpmath.mpf(scale), mpmath.mpf(mu), mpmath.mpf(THRESHOLD)
        tilt = 1 if parameterisation == "mass" else 0
        centre = mean + tilt * sigma**2

        def density(y):
            exponent = tilt * (y - mean) - (y - mean) ** 2 / (2 * sigma**2)
            return mpmath.exp(exponent) / (sigma * mpmath.sqrt(2 * mpmath.pi))

        # break the interval at the mass's own scales, so that no peak is missed
        tail = sigma**2 / max(low - centre, sigma)
        points = {low, *(low + n * tail for n in (1, 2, 4, 8, 16, 32, 64))}
        points |= {centre + n * sigma for n in range(-12, 13, 3) if centre + n * sigma > low}
        integral = mpmath.mpf(1e-3) * mpmath.quad(density, sorted(points))
        expected = mpmath.log(integral)
        assert abs(mpmath.mpf(float(found)) - expected) < 1e-10


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_components_do_not_overflow(parameterisation, dtype):
    scale = np.array([[0.01], [1.0], [50.0]])
    for distance in (-200.0, 0.0, 200.0):
        mass_function = make(THRESHOLD + distance + 0 * scale, scale, parameterisation, dtype=dtype)
        log_mass = tf.constant([29.0, 35.0, 40.0], dtype)
        with tf.GradientTape() as tape:
            tape.watch(log_mass)
            value = mass_function.log_intensity(log_mass) + mass_function.log_integral()
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(tape.gradient(value, log_mass)))


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
def test_intensity_by_its_definition(parameterisation):
    amplitude, mean, scale = [1e-3, 4e-4], [28.4, 30.1], [0.8, 1.3]
    mass_function = make(mean, scale, parameterisation, amplitude)
    for log_mass in (28.5, 30.0, 34.0):
        expected = reference.mixture_density(log_mass, amplitude, mean, scale, parameterisation)
        np.testing.assert_allclose(mass_function.log_intensity(log_mass), np.log(expected))


def test_the_two_parameterisations_are_one_family():
    """alpha -> alpha e^(sigma^2/2), mu -> mu + sigma^2 maps "mass" into "log_mass"."""
    mean, scale, amplitude = np.array([28.0, 29.0]), np.array([0.7, 1.1]), np.array([1e-3, 2e-3])
    tilted = make(mean, scale, "mass", amplitude)
    plain = make(mean + scale**2, scale, "log_mass", amplitude * np.exp(scale**2 / 2))
    np.testing.assert_allclose(tilted.log_integral(), plain.log_integral(), rtol=1e-13)
    np.testing.assert_allclose(tilted.log_intensity(30.0), plain.log_intensity(30.0), rtol=1e-13)
    np.testing.assert_allclose(tilted.integral(), plain.integral(), rtol=1e-13)


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
def test_log_prob_is_normalised_above_the_threshold(parameterisation):
    mass_function = make([28.0, 29.5], [0.5, 1.2], parameterisation, [1e-3, 5e-4])
    log_mass = np.linspace(THRESHOLD, THRESHOLD + 20, 200001)
    density = np.exp(mass_function.log_prob(log_mass))
    np.testing.assert_allclose(np.trapezoid(density, log_mass), 1.0, rtol=1e-6)
    assert mass_function.log_prob(THRESHOLD - 1e-3) == -np.inf


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
@pytest.mark.parametrize(
    ("mean", "scale"), [([28.0, 29.5], [0.5, 1.2]), ([20.0], [0.5]), ([29.0, 29.1], [0.01, 0.3])]
)
def test_samples_follow_the_density(parameterisation, mean, scale):
    """Kolmogorov-Smirnov against the integral of the density above each mass."""
    amplitude = [1e-3] * len(mean)
    mass_function = make(mean, scale, parameterisation, amplitude)
    samples = mass_function.sample(4000, seed=7).numpy()
    assert samples.min() >= THRESHOLD

    def cumulative(log_mass):
        return 1 - np.exp(mass_function.log_integral(log_mass) - mass_function.log_integral())

    assert stats.kstest(samples, cumulative).pvalue > 1e-3


@pytest.mark.parametrize("family", ["tapered_pareto", ExponentialComponents()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_families(family, dtype):
    mean, scale, amplitude = [THRESHOLD + 1.0, THRESHOLD + 3.0], [1.1, 0.6], [1e-3, 4e-4]
    mass_function = make(mean, scale, "log_mass", amplitude, dtype, family=family)
    np.testing.assert_allclose(mass_function.integral(), 1.4e-3, rtol=1e-6)
    np.testing.assert_allclose(mass_function.log_integral(), np.log(1.4e-3), rtol=1e-6)

    def density(log_mass):
        return np.exp(mass_function.log_intensity(log_mass))

    above = integrate.quad(density, THRESHOLD + 0.7, THRESHOLD + 40, limit=200)[0]
    np.testing.assert_allclose(mass_function.integral(THRESHOLD + 0.7), above, rtol=3e-6)
    np.testing.assert_allclose(
        mass_function.log_integral([THRESHOLD + 0.7]), [np.log(above)], rtol=1e-6
    )
    assert mass_function.log_prob(THRESHOLD - 0.1) == -np.inf

    samples = mass_function.sample(2000, seed=3)
    assert samples.dtype == dtype and np.min(samples) >= dtype(THRESHOLD)

    def cumulative(log_mass):
        beyond = mass_function.integral(np.asarray(log_mass, dtype))
        return 1 - beyond.numpy().astype(np.float64) / 1.4e-3

    assert stats.kstest(samples.numpy().astype(np.float64), cumulative).pvalue > 1e-3
    # XLA has random numbers of its own
    compiled = tf.function(lambda: mass_function.sample(2000, seed=(3, 4)), jit_compile=True)()
    assert stats.kstest(compiled.numpy().astype(np.float64), cumulative).pvalue > 1e-3


def test_tapered_pareto_by_its_definition():
    mass_function = make([THRESHOLD + 2.0], [0.9], "log_mass", [2e-3], family="tapered_pareto")
    for mass in (2e12, 5e12, 3e14):
        cut_off = 2e12 * np.exp(2.0)
        above = 2e-3 * (mass / 2e12) ** (-1 / 0.9) * np.exp(-(mass - 2e12) / cut_off)
        log_mass = np.log(mass)
        np.testing.assert_allclose(mass_function.integral(log_mass), above, rtol=1e-10)
        expected = np.log((1 / 0.9 + mass / cut_off) * above)
        np.testing.assert_allclose(mass_function.log_intensity(log_mass), expected, rtol=1e-12)


@pytest.mark.parametrize("parameterisation", ["log_mass", "mass"])
def test_integral_above_a_mass_is_that_of_a_higher_threshold(parameterisation):
    """Normal components do not know the threshold."""
    mean, scale, amplitude = np.array([28.4, 30.1]), np.array([0.8, 1.3]), [1e-3, 4e-4]
    mass_function = make(mean, scale, parameterisation, amplitude)
    higher = HaloMassFunction(np.log(amplitude), mean, scale, THRESHOLD + 1.3, parameterisation)
    np.testing.assert_allclose(
        mass_function.integral(THRESHOLD + 1.3), higher.integral(), rtol=1e-13
    )


def test_rare_masses_of_a_component_far_above_the_threshold():
    """Uniform numbers below e^-15 once made NaN of them."""
    family = make([28.0], [1.0], "log_mass").family
    log_survival, mean = np.log([1e-12, 1e-7, 0.3]), 28.0
    x = family.inverse_log_survival(*(tf.constant(v, tf.float64) for v in (log_survival, mean, 1.0,
                                                                           -10.0)))  # fmt: skip
    np.testing.assert_allclose(x, mean + stats.norm.isf(np.exp(log_survival)), rtol=1e-12)


def test_batches_gather_and_shapes():
    rng = np.random.default_rng(0)
    mass_function = make(29 + rng.random((4, 3, 2, 2)), 1 + rng.random((4, 3, 2, 2)), "log_mass",
                         rng.random((4, 3, 2, 2)))  # fmt: skip
    assert mass_function.batch_shape == (4, 3, 2)
    assert mass_function.integral().shape == (4, 3, 2)
    assert mass_function.sample(5, seed=1).shape == (5, 4, 3, 2)
    chosen = mass_function.at([0, 23])
    np.testing.assert_array_equal(
        chosen.integral(), mass_function.integral().numpy().ravel()[[0, 23]]
    )


def test_gathering_keeps_the_family():
    rng = np.random.default_rng(0)
    mass_function = make(THRESHOLD + rng.random((4, 2)), 1 + rng.random((4, 2)), "log_mass",
                         rng.random((4, 2)), family="tapered_pareto")  # fmt: skip
    assert mass_function.family == TaperedParetoComponents()
    np.testing.assert_array_equal(
        mass_function.at([3, 1]).log_intensity(30.0),
        mass_function.log_intensity(30.0).numpy()[[3, 1]],
    )
    copied = mass_function.copy()
    np.testing.assert_array_equal(copied.log_intensity(30.0), mass_function.log_intensity(30.0))


def test_unknown_family():
    with pytest.raises(ValueError, match=r"`family`. Expected one of.*Received: family='gamma'"):
        make([1.0], [1.0], "log_mass", family="gamma")
    with pytest.raises(ValueError, match=r"`parameterisation`. Expected 'log_mass' for the family"):
        make([1.0], [1.0], "mass", family="tapered_pareto")


def test_unknown_parameterisation():
    with pytest.raises(ValueError, match=r"`parameterisation`.*log_mass.*Received.*'lin'"):
        make([1.0], [1.0], "lin")
