"""Weights of modes, against integrals over fields that can be done by hand."""

import math
import types

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.cosmology import Cosmology
from npe_tf.fourier import irfft3d
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.mode_weights import (
    FieldSwitch,
    Mode,
    ModeWeight,
    SwitchSettings,
    find_modes,
    weigh_modes,
)
from npe_tf.posterior import FieldPosterior
from npe_tf.whitening import WhitenedPosterior

GRID = Grid(8, 200.0)
NOISE = 0.5
SETTINGS = SwitchSettings(
    num_steps=40, gradients_per_step=5, num_equilibration=200, energy_error=1e-4, seed=3
)


class Likelihood:
    """Of a measurement of theta[0] times the linear field, with noise and an offset theta[1]."""

    grid = GRID

    def __init__(self, data):
        self.data = data

    def __call__(self, prediction):
        return -0.5 * tf.reduce_sum(tf.square((self.data - prediction) / NOISE))


class Bias:
    """Straight lines."""

    model = None
    dtype = "float64"
    parameters = types.SimpleNamespace(size=2, names=("slope", "offset"))

    def mass_function(self, delta, theta):
        return theta[0] * delta + theta[1]


@pytest.fixture(scope="module")
def posterior():
    initial_field = InitialField(GRID, Cosmology())
    rng = np.random.default_rng(0)
    white_noise = tf.constant(rng.standard_normal(GRID.shape))
    truth = irfft3d(initial_field.modes(white_noise)).numpy()
    data = 1.5 * truth + NOISE * rng.standard_normal(GRID.shape)
    return FieldPosterior(
        initial_field, irfft3d, Bias(), Likelihood(data), prior_scale=1.0, jit_compile=False
    )


@pytest.fixture(scope="module")
def target(posterior):
    return WhitenedPosterior(posterior, 1)


def amplitudes(posterior):
    """Of every mode of the full transform, standard deviation per unit of white noise."""
    impulse = np.zeros(GRID.shape)
    impulse[0, 0, 0] = 1.0
    response = irfft3d(posterior.initial_field.modes(tf.constant(impulse))).numpy()
    return np.abs(np.fft.fftn(response))


def log_evidence(posterior, theta):
    """Log Z, up to a constant: data are normal with a power that is known mode by mode."""
    variance = NOISE**2 + (theta[0] * amplitudes(posterior)) ** 2
    data = np.fft.fftn(posterior.likelihood.data - theta[1])
    return -0.5 * np.sum(np.log(variance) + np.abs(data) ** 2 / data.size / variance)


def exact_draw(posterior, theta, rng):
    """White noise given parameters, mode by mode."""
    gain = theta[0] * amplitudes(posterior)
    variance = 1.0 / (1.0 + (gain / NOISE) ** 2)
    data = np.fft.fftn(posterior.likelihood.data - theta[1])
    mean = variance * gain / NOISE**2 * data
    noise = np.fft.fftn(rng.standard_normal(GRID.shape))
    return np.fft.ifftn(mean + np.sqrt(variance) * noise).real


def learnt_frame(target, posterior, theta):
    """The frame of a chain: each shell as wide as its modes, and some coupling in the block."""
    gain = theta[0] * amplitudes(posterior)[..., : GRID.num_cells // 2 + 1]
    shells = np.where(GRID.alive, GRID.shells(), target.num_shells)
    width = [np.mean(1.0 / np.sqrt(1.0 + (gain[shells == s] / NOISE) ** 2))
             for s in range(target.num_shells)] + [1.0]  # fmt: skip
    frame = target.diagonal_frame(width, theta, 0.1 * np.eye(2))
    frame.mixing[-2:, :-2] = 0.01
    return frame


FIRST, SECOND = np.array([1.5, 0.0]), np.array([1.2, 0.1])


def test_the_way_there_and_back_give_the_ratio_of_the_evidences(posterior, target):
    rng = np.random.default_rng(1)
    switch = FieldSwitch(target, SETTINGS)
    draws = [exact_draw(posterior, theta, rng) for theta in (FIRST, SECOND)]
    frames = [learnt_frame(target, posterior, theta) for theta in (FIRST, SECOND)]
    there, field = switch.run(draws[0], FIRST, SECOND, frames[0])
    back, _ = switch.run(draws[1], SECOND, FIRST, frames[1])
    exact = log_evidence(posterior, SECOND) - log_evidence(posterior, FIRST)
    assert abs(exact) > 10.0  # or a method that returns nothing would pass
    spread = 0.5 * abs(there + back)
    assert spread < 3.0
    np.testing.assert_allclose(0.5 * (there - back), exact, atol=2.0)
    # and not of the likelihoods at a field, which is what a switch without dynamics gives
    fixed = posterior.log_likelihood(posterior.density(draws[0]), tf.constant(SECOND))
    fixed -= posterior.log_likelihood(posterior.density(draws[0]), tf.constant(FIRST))
    assert abs(float(fixed) - exact) > 10.0
    assert field.shape == GRID.shape


def test_a_faster_way_loses_more_and_never_gains(posterior, target):
    rng = np.random.default_rng(2)
    draw = exact_draw(posterior, FIRST, rng)
    frame = learnt_frame(target, posterior, FIRST)
    exact = log_evidence(posterior, SECOND) - log_evidence(posterior, FIRST)
    fast = SwitchSettings(
        num_steps=2, gradients_per_step=1, num_equilibration=300, energy_error=1e-4
    )
    work, _ = FieldSwitch(target, fast).run(draw, FIRST, SECOND, frame)
    assert work < exact - 5.0


def test_the_standing_frame_has_the_covariance_given_the_parameters(target, posterior):
    rng = np.random.default_rng(3)
    size = target.block_size
    root = np.tril(rng.standard_normal((size, size)) / np.sqrt(size)) + np.eye(size)
    frame = target.diagonal_frame(np.ones(target.num_shells + 1), FIRST, np.eye(2))
    standing = target.standing(frame._replace(mixing=root), FIRST)
    covariance = root @ root.T
    modes, rest = covariance[:-2, :-2], covariance[:-2, -2:]
    given = modes - rest @ np.linalg.solve(covariance[-2:, -2:], rest.T)
    own = standing.mixing[:-2, :-2]
    np.testing.assert_allclose(own @ own.T, given, rtol=1e-8, atol=1e-10)
    assert np.abs(standing.mixing[-2:]).max() <= 1e-6
    np.testing.assert_array_equal(standing.centre, FIRST)


def test_weights_of_two_modes_add_what_the_parameters_have(posterior, target):
    rng = np.random.default_rng(4)
    points = [FIRST, SECOND]
    modes = [
        Mode((0, 2), FIRST, 0.01 * np.eye(2)),
        Mode((1,), SECOND, 0.04 * np.eye(2)),
    ]
    told = []
    (weight,) = weigh_modes(
        target,
        modes,
        [exact_draw(posterior, theta, rng) for theta in points],
        points,
        [learnt_frame(target, posterior, theta) for theta in points],
        SETTINGS,
        lambda name, step, work: told.append((name, step)),
    )
    exact = log_evidence(posterior, SECOND) - log_evidence(posterior, FIRST)
    exact += 0.5 * np.sum(FIRST**2 - SECOND**2) + math.log(4.0)
    assert weight.chains == (1,)
    assert abs(weight.log_ratio - exact) < 2.0 + weight.error
    assert weight.log_volume_ratio == pytest.approx(math.log(4.0))
    assert weight.log_prior_ratio == pytest.approx(0.5 * np.sum(FIRST**2 - SECOND**2))
    assert len(told) == 2 * SETTINGS.num_steps
    assert told[0][0] == "from chain 0 to chain 1"


def test_ways_that_are_known_are_not_gone_again(target):
    modes = [Mode((number,), point, np.eye(2)) for number, point in enumerate((FIRST, SECOND))]
    known = {"from chain 0 to chain 1": -3.0, "from chain 1 to chain 0": 2.0}
    (weight,) = weigh_modes(target, modes, [], [FIRST, SECOND], [], SETTINGS, known=known)
    assert (weight.there, weight.back) == (-3.0, 2.0)


def test_bounds_become_an_error():
    weight = ModeWeight((1,), there=-12.0, back=8.0, log_prior_ratio=1.0, log_volume_ratio=-2.0)
    assert weight.log_ratio == -11.0
    assert weight.error == 2.0


def test_chains_that_overlap_are_of_one_mode():
    rng = np.random.default_rng(5)
    centre = np.array([[0.0, 0.0], [20.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    draws = centre + rng.standard_normal((500, 4, 2))
    modes = find_modes(draws)
    # 0 and 3 are linked by 2
    assert [mode.chains for mode in modes] == [(0, 2, 3), (1,)]
    np.testing.assert_allclose(modes[1].mean, centre[1], atol=0.2)
    np.testing.assert_allclose(modes[1].covariance, np.eye(2), atol=0.2)
    assert modes[1].log_volume == pytest.approx(math.log(2.0 * math.pi), abs=0.2)


@pytest.mark.parametrize(
    "draws", [np.zeros((5, 2)), np.zeros((1, 2, 2)), np.full((5, 2, 2), np.nan)]
)
def test_draws_that_are_none_are_refused(draws):
    with pytest.raises(ValueError, match="Invalid value for argument `coordinates`"):
        find_modes(draws)


@pytest.mark.parametrize(
    "name, value", [("num_steps", 0), ("energy_error", -1.0), ("num_steps", 2.5)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        SwitchSettings(**{name: value})


def test_one_mode_has_nothing_to_weigh(target):
    with pytest.raises(ValueError, match="Expected at least two"):
        weigh_modes(target, [Mode((0,), FIRST, np.eye(2))], [], [], [], SETTINGS)
