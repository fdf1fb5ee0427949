"""Every bias model under one interface, over one list."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, special

from npe_tf.bias.kinds import KINDS, SINGLE_RATE, build_single_rate
from npe_tf.bias.second_order import tidal_square
from npe_tf.bias.single_rate import SOFTENING, log_softplus
from npe_tf.bias.standardised import PlainParameters, parameter_coordinates
from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.posterior import PosteriorConfig
from npe_tf.pretraining import load_parameters, pretrain, save_parameters

THRESHOLD = 2e12
LOG_THRESHOLD = math.log(THRESHOLD)
GRID = Grid(8, 100.0)
DELTA = np.exp(0.8 * np.random.default_rng(0).standard_normal(GRID.shape) - 0.32) - 1.0
# of the rate, after its amplitude, where haloes are drawn from the models
TRUTHS = {
    "neyrinck": [-0.2, 1.0, -0.5],
    "power_law": [0.4],
    "linear": [0.3],
    "second_order": [0.2, 0.3, -0.4],
}
MASSES = [0.5, -0.3, 0.4, -0.2, 0.3]
SINGLE = tuple(SINGLE_RATE)


def build(kind, dtype="float64", **options):
    return PosteriorConfig(
        GRID.num_cells, THRESHOLD, bias=kind, dtype=dtype, **options
    ).build_bias()


def truth(kind):
    return np.array([0.6, *TRUTHS[kind], *MASSES])


def softplus(x):
    return math.log1p(math.exp(x))


def unit_softplus(x):
    return softplus(x + math.log(math.e - 1.0))


def tidal_square_by_full_transforms(delta):
    """Sum over all nine products, with complex transforms."""
    n = delta.shape[0]
    k = np.meshgrid(*[np.fft.fftfreq(n, 1.0 / n)] * 3, indexing="ij")
    squared = sum(x**2 for x in k)
    modes = np.fft.fftn(delta)
    for x in k:
        modes[np.abs(x) == n // 2] = 0.0
    modes[0, 0, 0] = 0.0
    squared[0, 0, 0] = 1.0
    total = np.zeros_like(delta)
    for i in range(3):
        for j in range(3):
            share = 1.0 / 3.0 if i == j else 0.0
            total += np.fft.ifftn((k[i] * k[j] / squared - share) * modes).real ** 2
    return total


def rate(kind, delta, tide, parameters):
    """Rate over its amplitude in one voxel."""
    full = 1.0 + delta + SOFTENING
    if kind == "power_law":
        return full ** (1.0 + parameters[0])
    if kind == "neyrinck":
        beta, cutoff, eps = 1.0 + parameters[0], *map(unit_softplus, parameters[1:])
        return full**beta * math.exp(-cutoff * (full**-eps - 1.0))
    y = 1.0 + (1.0 + parameters[0]) * delta
    if kind == "second_order":
        y += 0.5 * parameters[1] * delta**2 + 0.5 * parameters[2] * tide
    return softplus(10.0 * y) / 10.0


@pytest.mark.parametrize("kind", SINGLE)
def test_mass_function_by_a_loop_over_voxels(kind):
    theta = truth(kind)
    own = TRUTHS[kind]
    logit, *q = theta[1 + len(own) :]
    fraction = 1.0 / (1.0 + math.exp(logit))
    mean = [LOG_THRESHOLD + q[0], LOG_THRESHOLD + 1.0 + q[1]]
    width = [1e-3 + unit_softplus(q[2]), 1e-3 + unit_softplus(q[3])]
    log_mass, shape = LOG_THRESHOLD + 1.3, 0.0
    for weight, mu, sigma in zip([fraction, 1.0 - fraction], mean, width, strict=True):
        above = 0.5 * special.erfc((LOG_THRESHOLD - mu) / sigma / math.sqrt(2.0))
        normal = math.exp(-0.5 * ((log_mass - mu) / sigma) ** 2) / sigma / math.sqrt(2 * math.pi)
        shape += weight * normal / above
    tide = tidal_square_by_full_transforms(DELTA)
    found = build(kind).mass_function(tf.constant(DELTA), tf.constant(theta))
    integral = found.integral().numpy()
    intensity = np.exp(found.log_intensity(tf.constant(log_mass, tf.float64)))
    for voxel in np.ndindex(DELTA.shape):
        n = 1e-3 * math.exp(theta[0]) * rate(kind, DELTA[voxel], tide[voxel], own)
        np.testing.assert_allclose(integral[voxel], n, rtol=1e-9)
        np.testing.assert_allclose(intensity[voxel], n * shape, rtol=1e-9)


@pytest.mark.parametrize("kind", SINGLE)
def test_masses_ignore_the_density_and_are_normalised(kind):
    theta = truth(kind)
    found = build(kind).mass_function(tf.constant(DELTA), tf.constant(theta))
    log_mass = np.linspace(LOG_THRESHOLD, LOG_THRESHOLD + 25.0, 4001)
    voxel = [0, 77, 300]
    table = np.exp(found.at(voxel).log_prob(tf.constant(log_mass[:, np.newaxis])))
    np.testing.assert_allclose(integrate.simpson(table, x=log_mass, axis=0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(table, np.broadcast_to(table[:, :1], table.shape), rtol=1e-9)


def test_tidal_field_of_a_plane_wave():
    """s_ij is (n_i n_j - 1/3 [i = j]) delta, so that s^2 is 2/3 delta^2."""
    x = 2.0 * np.pi * np.arange(8) / 8
    delta = np.broadcast_to(np.cos(2.0 * x + 0.3)[:, None, None], GRID.shape)
    found = tidal_square(tf.constant(delta)).numpy()
    np.testing.assert_allclose(found, 2.0 / 3.0 * delta**2, atol=1e-12)


def test_tidal_field_by_full_transforms():
    found = tidal_square(tf.constant(DELTA)).numpy()
    np.testing.assert_allclose(found, tidal_square_by_full_transforms(DELTA), atol=1e-10)


def test_tidal_field_of_an_odd_mesh_is_refused():
    with pytest.raises(ValueError, match="even number of cells"):
        tidal_square(tf.zeros([5, 5, 5]))


def test_log_softplus_far_below_zero():
    x = tf.constant([-1e4, -200.0, -12.5, -11.5, 0.0, 50.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = log_softplus(x)
    expected = [-1e4, -200.0, *np.log(np.log1p(np.exp([-12.5, -11.5, 0.0, 50.0])))]
    np.testing.assert_allclose(y, expected, rtol=1e-11)
    assert np.all(tape.gradient(y, x) > 0)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_with_finite_gradients_at_every_density(kind, jit_compile):
    bias = build(kind, "float32")

    @tf.function(jit_compile=jit_compile)
    def value_and_gradients(delta, theta):
        with tf.GradientTape() as tape:
            tape.watch([delta, theta])
            found = bias.mass_function(delta, theta)
            value = tf.reduce_sum(found.log_intensity(LOG_THRESHOLD + 1.0)) - tf.reduce_sum(
                found.integral()
            )
        return value, *tape.gradient(value, [delta, theta])

    mixed = DELTA.copy()
    mixed[0, 0, 0], mixed[1, 2, 3] = -1.0, 1e3
    for delta in (np.full(GRID.shape, -1.0), np.full(GRID.shape, 1e3), mixed):
        for scale in (0.0, 1.0):
            theta = scale * np.random.default_rng(1).standard_normal(bias.parameters.size)
            found = value_and_gradients(
                tf.constant(delta, tf.float32), tf.constant(theta, tf.float32)
            )
            assert all(np.all(np.isfinite(x)) for x in found), (delta[0, 0, 0], scale)


def test_masses_drawn_from_the_prior_are_finite_and_normalised():
    bias = build("power_law", "float32")
    theta = np.zeros(bias.parameters.size)
    delta = tf.zeros(GRID.shape)
    for seed in range(20):
        theta[2:] = 10.0 * np.random.default_rng(seed).standard_normal(theta.size - 2)
        with tf.GradientTape() as tape:
            at = tf.constant(theta, tf.float32)
            tape.watch(at)
            found = bias.mass_function(delta, at)
            value = tf.reduce_mean(found.log_intensity(LOG_THRESHOLD + 1.0))
        np.testing.assert_allclose(found.integral(), 1e-3, rtol=2e-2)
        assert np.isfinite(value)
        assert np.all(np.isfinite(tape.gradient(value, at)))


@pytest.mark.parametrize("kind", SINGLE)
def test_gradient_by_differences(kind):
    bias, theta = build(kind), truth(kind)

    def value(delta, theta):
        found = bias.mass_function(delta, theta)
        return tf.reduce_sum(found.log_intensity(tf.constant(LOG_THRESHOLD + 1.0, tf.float64)))

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


@pytest.mark.parametrize("kind", KINDS)
def test_interface(kind, tmp_path):
    bias = build(kind)
    assert bias.dtype == "float64"
    assert bias.theta.shape == (bias.parameters.size,) == (len(bias.parameters.names),)
    assert bias.log_mass_threshold == LOG_THRESHOLD
    theta = 0.3 * np.random.default_rng(2).standard_normal(bias.parameters.size)
    given = bias.mass_function(tf.constant(DELTA), tf.constant(theta)).integral()
    bias.parameters.assign(bias.model, tf.constant(theta))
    np.testing.assert_allclose(bias.theta, theta)
    np.testing.assert_allclose(bias.mass_function(tf.constant(DELTA)).integral(), given)
    bias.model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    outputs = loaded.serve(DELTA[None, ..., None])
    expected = bias.mass_function(tf.constant(DELTA))
    np.testing.assert_allclose(outputs["log_amplitude"][0], expected.log_amplitude, rtol=1e-9)


@pytest.mark.parametrize("kind", SINGLE)
def test_coordinates_of_the_samplers_are_the_parameters(kind):
    assert isinstance(parameter_coordinates(build(kind), DELTA), PlainParameters)


@pytest.mark.parametrize("kind", ["neyrinck", "power_law", "linear"])
def test_interior_voxels(kind):
    whole = build(kind).mass_function(tf.constant(DELTA)).integral()
    inside = build(kind, padding="valid").mass_function(tf.constant(DELTA)).integral()
    np.testing.assert_allclose(inside, whole[1:-1, 1:-1, 1:-1])


def draw(kind, seed=1):
    """A likelihood of about 2,000 haloes drawn from a model."""
    rng = np.random.default_rng(seed)
    found = build(kind).mass_function(tf.constant(DELTA), tf.constant(truth(kind)))
    counts = rng.poisson(found.integral().numpy() * GRID.cell_volume)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.maximum(np.exp(found.at(voxels).sample(seed=(seed, 3))), THRESHOLD)
    vertices = np.stack(np.unravel_index(voxels, GRID.shape), axis=1)
    catalogue = Catalogue(vertices * GRID.cell_size, mass, GRID.box_size)
    return PoissonLikelihood(GRID, catalogue, THRESHOLD)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "neyrinck" else pytest.param(kind, marks=pytest.mark.slow) for kind in SINGLE],
)
def test_fit_to_haloes_of_the_model_finds_its_parameters(kind, tmp_path):
    bias, likelihood = build(kind), draw(kind)
    fitted = pretrain(bias, likelihood, DELTA, num_steps=60, num_polish=200, num_starts=1)
    theta = truth(kind)
    at_truth = likelihood(bias.mass_function(tf.constant(DELTA), tf.constant(theta)))
    # twice the gain is chi squared of as many degrees of freedom as there are parameters; a
    # prior of width 10 takes less than one from it
    gain = fitted.log_likelihood - float(at_truth)
    assert -1.0 < gain < 0.5 * special.chdtri(theta.size, 1e-4)
    found = bias.mass_function(tf.constant(DELTA)).integral().numpy()
    true = bias.mass_function(tf.constant(DELTA), tf.constant(theta)).integral().numpy()
    assert np.sum(np.abs(found - true)) < 0.1 * np.sum(true)
    save_parameters(tmp_path / "fit.h5", fitted, bias)
    np.testing.assert_array_equal(load_parameters(tmp_path / "fit.h5", bias), fitted.theta)


@pytest.mark.slow
def test_the_wrong_model_fits_worse():
    likelihood = draw("neyrinck")
    best = {
        kind: pretrain(
            build(kind), likelihood, DELTA, num_steps=60, num_polish=200, num_starts=1
        ).log_likelihood
        for kind in ("neyrinck", "power_law")
    }
    assert best["neyrinck"] > best["power_law"] + 5.0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bias": "astrology"}, "argument `bias`"),
        ({"bias": "linear", "parameterisation": "mass"}, "argument `bias`"),
        ({"bias": "linear", "component_family": "tapered_pareto"}, "argument `bias`"),
        ({"bias": "second_order", "padding": "valid"}, "argument `padding`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        PosteriorConfig(8, THRESHOLD, **options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"kind": "neural"}, "argument `kind`"),
        ({"kind": "second_order", "margin": 1}, "argument `margin`"),
        ({"kind": "linear", "margin": -1}, "argument `margin`"),
        ({"kind": "linear", "num_components": 0}, "argument `num_components`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_single_rate(log_mass_threshold=LOG_THRESHOLD, **arguments)


def test_the_bias_model_is_a_later_field():
    assert "bias" not in PosteriorConfig(8, THRESHOLD).to_attributes()
    config = PosteriorConfig(8, THRESHOLD, bias="neyrinck")
    assert PosteriorConfig.from_attributes(config.to_attributes()) == config
