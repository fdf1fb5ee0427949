import math
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from layers import MixtureDensity, mixtures
from layers.components import (
    FAMILIES,
    ComponentFamily,
    NormalComponents,
    PerMassNormalComponents,
    TaperedParetoComponents,
    component_family,
    family_config,
)
from layers.poisson_process import PoissonProcessLoss
from tests.layers import reference

BUILT_IN = [NormalComponents(), PerMassNormalComponents(), TaperedParetoComponents()]
THRESHOLD = 2.0
# mean from the threshold, scale
SHAPES = [(-3.0, 0.7), (0.0, 1.5), (0.4, 0.05), (2.5, 1.0), (6.0, 0.9), (30.0, 1.3)]


@keras.saving.register_keras_serializable(package="tests")
class ExponentialComponents(ComponentFamily):
    """Exponential above the threshold; the mean is not used."""

    def log_density(self, x, mean, scale, threshold):
        return self.log_survival(x, mean, scale, threshold) - tf.math.log(scale)

    def log_survival(self, x, mean, scale, threshold):
        return -(x - threshold) / scale + 0.0 * mean


class StretchedComponents(ComponentFamily):
    """Weibull above the threshold, of a shape that is an argument; not registered with Keras."""

    name = "stretched"

    def __init__(self, shape=2.0):
        self.shape = shape

    def log_density(self, x, mean, scale, threshold):
        ratio = (x - threshold) / scale
        log_hazard = math.log(self.shape) + (self.shape - 1) * tf.math.log(ratio)
        return log_hazard - tf.math.log(scale) - ratio**self.shape

    def log_survival(self, x, mean, scale, threshold):
        return -(((x - threshold) / scale) ** self.shape)

    def get_config(self):
        return {"shape": self.shape}


def generic(family):
    """The family with the inverse of the base class."""

    def inverse(*arguments):
        return ComponentFamily.inverse_log_survival(family, *arguments)

    return inverse


def constants(*values, dtype=tf.float64):
    return [tf.constant(value, dtype) for value in values]


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda f: f.name)
@pytest.mark.parametrize(("distance", "scale"), SHAPES)
def test_density_by_its_definition(family, distance, scale):
    mean = THRESHOLD + distance
    for x in (THRESHOLD, THRESHOLD + 0.03, THRESHOLD + 1.2):
        expected = reference.component_density(family.name, x, mean, scale, THRESHOLD)
        found = family.log_density(*constants(x, mean, scale, THRESHOLD))
        if expected > 1e-250:
            np.testing.assert_allclose(found, math.log(expected), rtol=1e-12, atol=1e-12)
        else:
            assert found < math.log(1e-250)


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda f: f.name)
@pytest.mark.parametrize(("distance", "scale"), SHAPES)
@pytest.mark.parametrize("above", [0.0, 0.01, 1.0])
def test_density_integrates_to_the_survival(family, distance, scale, above):
    mean, low = THRESHOLD + distance, THRESHOLD + above
    # Gauss-Legendre on panels that are narrow near the threshold, where the narrow peak is as well
    edges = low + 80.0 * np.linspace(0, 1, 500) ** 2
    node, weight = special.roots_legendre(16)
    half = np.diff(edges)[:, np.newaxis] / 2
    x = edges[:-1, np.newaxis] + half * (1 + node)
    density = np.exp(family.log_density(*constants(x, mean, scale, THRESHOLD)))
    total = np.sum(density * weight * half)
    survival = family.log_survival(*constants(low, mean, scale, THRESHOLD))
    np.testing.assert_allclose(np.log(total), survival, rtol=1e-10, atol=1e-10)
    scaled = family.integral(*constants(-1.5, low, mean, scale, THRESHOLD))
    np.testing.assert_allclose(scaled, np.exp(-1.5 + survival), rtol=1e-12)


@pytest.mark.parametrize("family", BUILT_IN, ids=lambda f: f.name)
def test_density_is_the_slope_of_the_survival(family):
    distance, scale = (tf.constant(v, tf.float64) for v in np.transpose(SHAPES))
    x, _ = tf.meshgrid(THRESHOLD + tf.constant([0.01, 0.5, 3.0], tf.float64), scale)
    mean, scale = THRESHOLD + distance[:, None], scale[:, None]
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_survival = family.log_survival(x, mean, scale, tf.constant(THRESHOLD, tf.float64))
    hazard = -tape.gradient(log_survival, x)
    log_density = family.log_density(x, mean, scale, tf.constant(THRESHOLD, tf.float64))
    # where a normal's lower tail is cut off the hazard is lost beside one
    np.testing.assert_allclose(np.log(hazard), log_density - log_survival, rtol=1e-7, atol=1e-7)


def test_a_tapered_pareto_is_the_smaller_of_a_pareto_and_a_shifted_exponential():
    rng = np.random.default_rng(1)
    mean, scale = THRESHOLD + 1.0, 1.4
    pareto = np.exp(THRESHOLD + scale * rng.exponential(size=3000))
    exponential = np.exp(THRESHOLD) + np.exp(mean) * rng.exponential(size=3000)
    x = np.log(np.minimum(pareto, exponential))

    def cumulative(x):
        survival = TaperedParetoComponents().log_survival(*constants(x, mean, scale, THRESHOLD))
        return -np.expm1(survival)

    assert stats.kstest(x, cumulative).pvalue > 0.01


def test_a_tapered_pareto_below_its_threshold_is_as_at_the_threshold():
    arguments = constants(THRESHOLD + 1.0, 0.8, THRESHOLD)
    for method in (TaperedParetoComponents().log_density, TaperedParetoComponents().log_survival):
        below, at = (method(tf.constant(x, tf.float64), *arguments) for x in (-50.0, THRESHOLD))
        assert below == at


def test_small_distances_from_the_threshold_keep_their_digits():
    """The cut-off far below the threshold: an exponential in mass, of a tiny width in log mass."""
    x, mean = np.float32(1e-6), np.float32(-10.0)
    found = TaperedParetoComponents().log_survival(*constants(x, mean, 1.0, 0.0, dtype=tf.float32))
    exact = -float(x) - np.exp(10.0) * np.expm1(float(x))
    np.testing.assert_allclose(found, exact, rtol=5e-7)


@pytest.mark.parametrize(
    ("dtype", "jit_compile"), [("float32", False), ("float32", True), ("float64", False)]
)
@pytest.mark.parametrize("family", BUILT_IN, ids=lambda f: f.name)
def test_extreme_values_are_finite(family, dtype, jit_compile):
    grids = np.meshgrid(
        [0.0, 1e-6, 1.0, 30.0, 200.0],
        [-200.0, -100.0, -30.0, 0.0, 30.0, 100.0, 200.0],
        [1e-3, 0.1, 1.0, 10.0],
    )
    x, mean, scale = (tf.constant(np.ravel(g), dtype) for g in grids)
    threshold = tf.constant(0.0, dtype)

    @tf.function(jit_compile=jit_compile)
    def derivatives(x, mean, scale):
        variables = [x, mean, scale]
        results = []
        for method in (family.log_density, family.log_survival):
            with tf.GradientTape(persistent=True) as outer:
                outer.watch(variables)
                with tf.GradientTape() as inner:
                    inner.watch(variables)
                    value = method(*variables, threshold)
                first = inner.gradient(value, variables)
            second = [outer.gradient(g, variables, unconnected_gradients="zero") for g in first]
            results.append([value, first, second])
        return results

    for value in tf.nest.flatten(derivatives(x, mean, scale)):
        assert np.all(np.isfinite(value))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", BUILT_IN, ids=lambda f: f.name)
def test_inverse_round_trip(family, dtype):
    distance, scale = np.transpose(SHAPES)
    fraction = np.array([[1e-12], [1e-3], [0.2], [0.7], [0.999]])
    mean, scale, threshold = constants(THRESHOLD + distance, scale, THRESHOLD, dtype=dtype)
    target = tf.constant(np.log(fraction), dtype)
    target += family.log_survival(threshold, mean, scale, threshold)
    for inverse in (family.inverse_log_survival, generic(family)):
        x = inverse(target, mean, scale, threshold)
        assert x.shape == (5, 6) and x.dtype == dtype
        assert np.all(x >= THRESHOLD)
        # what the rounding of x makes of the survival, and that of the survival itself
        ulp = np.spacing(np.abs(x.numpy()) + np.abs(mean.numpy()))
        slope = np.exp(family.log_density(x, mean, scale, threshold) - target)
        tolerance = 30 * slope * ulp + 30 * np.spacing(1 + np.abs(target.numpy()))
        error = np.abs(family.log_survival(x, mean, scale, threshold) - target)
        assert np.all(error <= tolerance), np.max(error / tolerance)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_generic_inverse_against_closed_forms(jit_compile):
    exponential = tf.function(ExponentialComponents().inverse_log_survival, jit_compile=jit_compile)
    log_survival = np.array([-1e-6, -0.3, -5.0, -2e3])
    x = exponential(*constants(log_survival, 0.0, 0.7, THRESHOLD))
    np.testing.assert_allclose(x, THRESHOLD - 0.7 * log_survival, rtol=1e-14)

    pareto = tf.function(TaperedParetoComponents().inverse_log_survival, jit_compile=jit_compile)
    distance, scale = np.array([-1.0, 0.5, 3.0])[:, None], 1.3
    x = pareto(*constants(log_survival[:3], THRESHOLD + distance, scale, THRESHOLD))
    # w e^w = s a exp(s a - s log S) with w = s a M / m and a = m / M_c
    ratio = scale * np.exp(-distance)
    w = special.lambertw(ratio * np.exp(ratio - scale * log_survival[:3])).real
    np.testing.assert_allclose(x, THRESHOLD + np.log(w / ratio), rtol=1e-12)


def test_the_inverse_of_what_cannot_be_is_the_threshold():
    for family in BUILT_IN:
        for inverse in (family.inverse_log_survival, generic(family)):
            x = inverse(*constants(3.0, THRESHOLD + 0.5, 0.1, THRESHOLD))
            np.testing.assert_allclose(x, THRESHOLD, rtol=1e-12)


def test_a_family_of_ones_own_in_a_model_with_the_loss(tmp_path):
    """The scale of exponential marks is recovered, and the model comes back from its file."""
    rng = np.random.default_rng(2)
    counts = rng.poisson(3.0, size=64)
    marks = np.full((64, counts.max()), -np.inf)
    for cell, count in enumerate(counts):
        marks[cell, :count] = THRESHOLD + 0.8 * rng.exponential(size=count)
    family = ExponentialComponents()
    model = keras.Sequential(
        [
            keras.Input((1,)),
            MixtureDensity(1, THRESHOLD, 1.0, family=family, output_format="stacked"),
        ]
    )
    loss = PoissonProcessLoss(log_mass_threshold=THRESHOLD, family=family)
    model.compile(keras.optimizers.Adam(0.1), loss=loss)
    steps = tf.data.Dataset.from_tensors((np.zeros((64, 1)), marks)).repeat()
    model.fit(steps, steps_per_epoch=150, shuffle=False, verbose=0)
    log_amplitude, _, scale = model(np.zeros((1, 1))).numpy()[0, :, 0]
    points = marks[np.isfinite(marks)]
    np.testing.assert_allclose(np.exp(log_amplitude), len(points) / 64, rtol=1e-3)
    np.testing.assert_allclose(scale, np.mean(points - THRESHOLD), rtol=1e-3)

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].family == again.loss.family == family
    np.testing.assert_array_equal(again(np.ones((2, 1))), model(np.ones((2, 1))))


def test_a_family_that_keras_does_not_know_comes_back_with_custom_objects(tmp_path):
    model = keras.Sequential(
        [keras.Input((1,)), MixtureDensity(1, family=StretchedComponents(1.7))]
    )
    model.save(tmp_path / "model.keras")
    custom_objects = {"StretchedComponents": StretchedComponents}
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects=custom_objects)
    assert again.layers[-1].family == StretchedComponents(1.7)


def test_mixtures_by_their_definition():
    rng = np.random.default_rng(3)
    log_amplitude, mean, scale = rng.normal(size=(2, 3)), rng.normal(size=3), rng.random(3) + 0.5
    x = np.array([[0.4], [1.7]])
    for family in BUILT_IN:
        density, above = (
            [
                [function(x=value, mean=m, scale=s) for m, s in zip(mean, scale, strict=True)]
                for value in x[:, 0]
            ]
            for function in (
                lambda x, mean, scale, f=family: reference.component_density(
                    f.name, x, mean, scale, 0.0
                ),
                lambda x, mean, scale, f=family: np.exp(
                    f.log_survival(*constants(x, mean, scale, 0.0))
                ),
            )
        )
        found = mixtures.log_intensity(log_amplitude[:, None], mean, scale, x, family, 0.0)
        expected = np.sum(np.exp(log_amplitude) * density, axis=-1)
        np.testing.assert_allclose(np.exp(found)[:, 0], expected, rtol=1e-12)
        expected = np.sum(np.exp(log_amplitude) * above, axis=-1)
        arguments = (log_amplitude, mean, scale, family, 0.0, x[:, 0])
        np.testing.assert_allclose(mixtures.integral(*arguments), expected, rtol=1e-12)
        np.testing.assert_allclose(mixtures.log_integral(*arguments), np.log(expected), rtol=1e-12)


def test_amplitudes_and_integrals_may_overflow_together():
    """exp(sigma^2 / 2) is 10^271 times an amplitude of 10^-270, in float32."""
    arguments = [np.float32([v]) for v in (-622.0, 0.0, 35.3)]
    value = mixtures.integral(*arguments, PerMassNormalComponents(), 0.0)
    np.testing.assert_allclose(np.log(value), -622.0 + 35.3**2 / 2, atol=1e-3)


@pytest.mark.parametrize("family", [*BUILT_IN, StretchedComponents(3.0)], ids=lambda f: f.name)
def test_equality_copies_and_configuration(family):
    assert family == type(family)(**family.get_config())
    assert hash(family) == hash(type(family)(**family.get_config()))
    assert family == pickle.loads(pickle.dumps(family))
    assert sum(family == other for other in [*BUILT_IN, StretchedComponents(3.0)]) == 1
    assert family != StretchedComponents(3.5)
    assert eval(repr(family), {type(family).__name__: type(family)}) == family
    with keras.saving.custom_object_scope({"StretchedComponents": StretchedComponents}):
        serialised = keras.saving.serialize_keras_object(family)
        assert component_family(serialised) == family
        assert component_family(family_config(family, "log_mass")) == family


def test_names_and_parameterisations():
    assert [component_family(name) for name in FAMILIES] == [BUILT_IN[0], BUILT_IN[2]]
    assert component_family("normal", "mass") == BUILT_IN[1]
    assert component_family(BUILT_IN[1], "mass") == BUILT_IN[1]
    assert family_config(BUILT_IN[0], "log_mass") == family_config(BUILT_IN[1], "mass") == "normal"
    assert family_config(BUILT_IN[2], "log_mass") == "tapered_pareto"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gamma",), r"`family`. Expected one of .*'tapered_pareto'.* Received: family='gamma'"),
        ((None,), "`family`. Expected one of .* or a ComponentFamily. Received: family=None"),
        ((NormalComponents,), "`family`. Expected one of .* or a ComponentFamily. Received"),
        (({"class_name": "Zeros"},), "`family`. Expected one of .* or a ComponentFamily"),
        (("normal", "lin"), "`parameterisation`. Expected one of .* Received: .*='lin'"),
        (("tapered_pareto", "mass"), "`parameterisation`. Expected 'log_mass' for the family 'tap"),
        (
            (ExponentialComponents(), "mass"),
            "`parameterisation`. Expected 'log_mass' for the .*'cu",
        ),
    ],
)
def test_invalid_families(arguments, message):
    with pytest.raises(ValueError, match=f"Invalid value for argument {message}"):
        component_family(*arguments)


def test_a_family_needs_both_methods():
    with pytest.raises(TypeError, match="abstract"):
        ComponentFamily()
