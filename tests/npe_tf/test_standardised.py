import numpy as np
import pytest
import tensorflow as tf

from layers import mixtures
from layers.components import component_family
from npe_tf.bias.neural import neural_bias_model
from npe_tf.bias.standardised import (
    NormalHead,
    PlainParameters,
    StandardisedParameters,
    parameter_coordinates,
)
from npe_tf.posterior import PosteriorConfig

DELTA = np.exp(np.random.default_rng(0).standard_normal((8, 8, 8))) - 1.0
HEADS = [None, NormalHead(-6.9, 0.5)]
SCALES = [0.1, 1.0, 2.0]


def responses():
    return np.random.default_rng(1).standard_normal((200, 4)) @ np.diag([1.0, 2.0, 3.0, 1.0]) + 0.5


def bias_of(**changes):
    return PosteriorConfig(8, 2e12, dtype="float64", **changes).build_bias()


def theta_of(scale, size=17, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(size)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("head", HEADS)
def test_the_maps_are_inverse(head, scale):
    found = StandardisedParameters(responses(), 6, head)
    theta = theta_of(scale)
    back, _ = found.theta(tf.constant(found.coordinates(theta)))
    # beyond the tail's hazard by a difference that loses half of the digits
    np.testing.assert_allclose(back, theta, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("head", HEADS)
def test_the_log_volume_is_that_of_the_jacobian(head, scale):
    found = StandardisedParameters(responses(), 6, head)
    point = tf.constant(found.coordinates(theta_of(scale, seed=1)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(point)
        theta, log_volume = found.theta(point)
    jacobian = tape.jacobian(theta, point, experimental_use_pfor=False)
    np.testing.assert_allclose(log_volume, np.linalg.slogdet(jacobian)[1], rtol=1e-9)


def test_the_kernel_may_be_tiny():
    found = StandardisedParameters(responses(), 6)
    theta = theta_of(1.0)
    theta[:4] *= 1e-6
    back, log_volume = found.theta(tf.constant(found.coordinates(theta)))
    np.testing.assert_allclose(back, theta, rtol=1e-6, atol=1e-12)
    assert np.isfinite(log_volume)


def test_lines_are_those_through_a_standardised_psi():
    table = responses()
    theta = theta_of(1.0)
    point = StandardisedParameters(table, 6).coordinates(theta)
    psi = np.logaddexp(0.0, table @ theta[:4] + theta[4])
    standard = (psi - psi.mean()) / psi.std()
    slopes = theta[[5, 6, 9, 10, 13, 14]]
    offsets = theta[[7, 8, 11, 12, 15, 16]]
    expected = slopes[:, np.newaxis] * psi + offsets[:, np.newaxis]
    np.testing.assert_allclose(point[5:11, None] * standard + point[11:, None], expected)


def test_coordinates_of_components_are_their_haloes_and_mean_excess():
    bias = bias_of(num_components=1)
    found = parameter_coordinates(bias, DELTA)
    theta = theta_of(1.0, bias.parameters.size)
    theta[5::2] = 0.0  # no slope: the mass function is the same everywhere
    point = found.coordinates(theta)
    outputs = bias.mass_function(tf.constant(DELTA), tf.constant(theta))
    number = outputs.integral()[0, 0, 0].numpy()
    x = np.linspace(0.0, 40.0, 400_001) + np.log(2e12)
    density = np.exp(
        mixtures.log_intensity(
            outputs.log_amplitude[0, 0, 0],
            outputs.mean_log_mass[0, 0, 0],
            outputs.scale[0, 0, 0],
            x,
            component_family("normal", "log_mass"),
            np.log(2e12),
        )
    )
    excess = np.sum(density * (x - x[0])) / np.sum(density)
    assert point[-3] == pytest.approx(np.log(number), rel=1e-6)
    assert point[-2] == pytest.approx(np.log(excess), abs=1e-3)
    mean, scale = outputs.mean_log_mass[0, 0, 0, 0].numpy(), outputs.scale[0, 0, 0, 0].numpy()
    assert np.sinh(point[-1]) == pytest.approx((np.log(2e12) - mean) / scale)


def test_scaling_a_kernel_far_from_its_kink_moves_one_coordinate():
    """With psi a straight line, lines undo the scale; only the kernel's length tells of it."""
    found = StandardisedParameters(responses(), 6, HEADS[1])
    theta = theta_of(0.3)
    theta[4] = 60.0
    theta[[5, 6, 9, 10, 13, 14]] *= 0.03
    larger = theta.copy()
    larger[:5] *= 2.0
    larger[[5, 6, 9, 10, 13, 14]] /= 2.0
    before, after = found.coordinates(theta), found.coordinates(larger)
    np.testing.assert_allclose(after[4:], before[4:], rtol=1e-5)
    ratio = after[:4] / before[:4]
    np.testing.assert_allclose(ratio, ratio[0])
    assert np.linalg.norm(after[:4] - before[:4]) == pytest.approx(np.log(2.0), rel=1e-3)


def test_which_networks_are_known():
    assert isinstance(parameter_coordinates(bias_of(), DELTA), StandardisedParameters)
    two_layers = bias_of()
    two_layers.model = neural_bias_model(
        8, log_mass_threshold=np.log(2e12), num_components=2, dtype="float64"
    )
    assert isinstance(parameter_coordinates(two_layers, DELTA), StandardisedParameters)

    class Other:
        model = None

    assert isinstance(parameter_coordinates(Other(), DELTA), PlainParameters)
    plain = PlainParameters()
    theta, log_volume = plain.theta(tf.constant(theta_of(1.0)))
    np.testing.assert_array_equal(plain.coordinates(theta), theta_of(1.0))
    assert log_volume == 0.0


@pytest.mark.parametrize(
    "changes", [{"component_family": "tapered_pareto"}, {"parameterisation": "mass"}]
)
def test_other_heads_keep_their_lines(changes):
    bias = bias_of(**changes)
    found = parameter_coordinates(bias, DELTA)
    theta = theta_of(1.0)
    back, _ = found.theta(tf.constant(found.coordinates(theta)))
    np.testing.assert_allclose(back, theta, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((np.ones(4), 6), "responses"),
        ((np.full((5, 2), np.nan), 6), "responses"),
        ((np.ones((5, 2)), 6), "responses"),
        ((np.random.default_rng(0).standard_normal((5, 2)), 4), "num_lines"),
        ((np.random.default_rng(0).standard_normal((5, 2)), 0), "num_lines"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`.*Expected.*Received"):
        StandardisedParameters(*arguments)
