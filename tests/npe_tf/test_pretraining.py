import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from npe_tf import pretraining
from npe_tf.bias.neural import NeuralBias, neural_bias_model, psi_rises
from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.pretraining import (
    Pretrained,
    Start,
    load_parameters,
    pretrain,
    random_parameters,
    save_parameters,
)

THRESHOLD = 2e12
GRID = Grid(8, 100.0)
DELTA = np.exp(0.8 * np.random.default_rng(0).standard_normal(GRID.shape) - 0.32) - 1.0
# kernel and bias of the engine, then kernel and bias of amplitude, mean and scale
TRUTH = np.array(
    [2.0, 0.3, 0.1, 0.05, 0.3, 1.0, 0.5, 0.0, -1.0, 0.5, 0.3, -0.5, 1.0, 0.1, 0.2, -0.3, 0.0]
)
DEAD = TRUTH.copy()
DEAD[[10, 12]] = 0.0, -50.0  # of the second mean


def bias(**options):
    model = neural_bias_model(
        GRID.num_cells, log_mass_threshold=np.log(THRESHOLD), dtype="float64", seed=0, **options
    )
    return NeuralBias(model, np.log(THRESHOLD))


def mock():
    """Haloes drawn from the true mass functions, about 1,400 of them."""
    mass_function = bias().mass_function(tf.constant(DELTA), tf.constant(TRUTH))
    expected = mass_function.integral().numpy() * GRID.cell_volume
    counts = np.random.default_rng(1).poisson(expected)
    voxels = np.repeat(np.arange(counts.size), counts.ravel())
    mass = np.exp(mass_function.at(voxels).sample(seed=3))
    vertices = np.stack(np.unravel_index(voxels, GRID.shape), axis=1)
    return PoissonLikelihood(
        GRID, Catalogue(vertices * GRID.cell_size, mass, GRID.box_size), THRESHOLD
    )


@pytest.fixture(scope="module")
def likelihood():
    return mock()


def log_likelihood(likelihood, theta):
    mass_function = bias().mass_function(tf.constant(DELTA), tf.constant(theta))
    return float(likelihood(mass_function))


def starting_at(monkeypatch, *candidates):
    """Replace the random starts by known ones."""
    remaining = iter(candidates)
    last = candidates[-1]
    monkeypatch.setattr(pretraining, "random_parameters", lambda *_: next(remaining, last))


@pytest.fixture(scope="module")
def fit(likelihood):
    """From a random start, which does not know the truth."""
    model, lines = bias(), []
    fitted = pretrain(
        model, likelihood, DELTA, num_steps=50, num_polish=50, num_starts=1, report=lines.append
    )
    return model, fitted, lines


def test_the_fit_is_at_least_as_likely_as_the_truth(likelihood, fit):
    model, fitted, _ = fit
    truth = log_likelihood(likelihood, TRUTH)
    assert fitted.log_likelihood >= truth
    # 17 parameters gain half of a chi-squared of 17 degrees of freedom
    assert fitted.log_likelihood < truth + 25.0
    best = log_likelihood(likelihood, fitted.theta)
    np.testing.assert_allclose(fitted.log_likelihood, best, rtol=1e-12)
    np.testing.assert_array_equal(model.theta, fitted.theta)


def test_polishing_goes_on_where_the_optimizer_stopped(likelihood, fit):
    _, fitted, _ = fit
    rough = pretrain(bias(), likelihood, DELTA, num_steps=50, num_polish=0, num_starts=1)
    (start,), (other,) = fitted.starts, rough.starts
    assert start.log_posterior > other.log_posterior + 1.0
    assert start.num_gradients > other.num_gradients == 50


def test_a_start_is_reported(fit):
    _, fitted, (line,) = fit
    (start,) = fitted.starts
    assert line.startswith(f"start 1: log L = {start.log_likelihood:.1f} (done;")
    assert f"{start.num_gradients} gradients" in line
    assert start.seconds > 0
    assert not start.is_dead


def test_a_dead_start_is_detected_and_replaced(likelihood, monkeypatch):
    starting_at(monkeypatch, DEAD, TRUTH)
    lines = []
    fitted = pretrain(
        bias(),
        likelihood,
        DELTA,
        num_steps=2,
        num_polish=0,
        num_starts=1,
        report=lines.append,
    )
    assert [start.is_dead for start in fitted.starts] == [True, False]
    assert "dead component, replaced" in lines[0]
    np.testing.assert_allclose(fitted.starts[0].theta, DEAD, atol=0.1)
    np.testing.assert_allclose(fitted.theta, TRUTH, atol=0.1)


@pytest.mark.parametrize("psi", ["rises", "falls"])
def test_starts_are_turned_to_the_psi_that_is_asked_for(likelihood, psi):
    fitted = pretrain(
        bias(), likelihood, DELTA, num_steps=1, num_polish=0, num_starts=4, psi=psi, seed=3
    )
    names = bias().parameters.names
    drawn = [
        pretraining.random_parameters(bias(), int(s))
        for s in np.random.SeedSequence(3).generate_state(4)
    ]
    rises = [bool(psi_rises(start.theta, names)) for start in fitted.starts]
    assert rises == [psi == "rises"] * len(rises)
    # or nothing had to be turned
    assert {bool(psi_rises(theta, names)) for theta in drawn} == {True, False}


def test_a_start_that_crosses_over_is_replaced(likelihood, monkeypatch):
    # a step of 0.03 takes the first to where the likelihood wants it
    hardly_falling = TRUTH.copy()
    hardly_falling[0] = -0.01
    starting_at(monkeypatch, hardly_falling, TRUTH)
    lines = []
    fitted = pretrain(
        bias(),
        likelihood,
        DELTA,
        num_steps=3,
        num_polish=0,
        num_starts=1,
        psi="falls",
        report=lines.append,
    )
    assert [start.is_wanted for start in fitted.starts] == [False, True]
    assert "psi no longer falls with the density, replaced" in lines[0]
    assert not psi_rises(fitted.theta, bias().parameters.names)


def test_psi_is_of_the_papers_network(likelihood):
    with pytest.raises(ValueError, match=r"`psi`.*Expected one of.*psi='up'"):
        pretrain(bias(), likelihood, DELTA, psi="up")


def test_a_dead_start_is_not_polished(likelihood):
    fitted = pretrain(bias(), likelihood, DELTA, num_steps=0, num_polish=50, initial_theta=DEAD)
    (start,) = fitted.starts
    assert start.is_dead
    assert start.num_gradients == 0
    np.testing.assert_array_equal(start.theta, DEAD)


def test_dead_starts_are_replaced_a_limited_number_of_times(likelihood, monkeypatch):
    starting_at(monkeypatch, DEAD)
    fitted = pretrain(bias(), likelihood, DELTA, num_steps=0, num_polish=0, num_starts=2)
    assert len(fitted.starts) == 6
    assert all(start.is_dead for start in fitted.starts)


def test_one_component_is_never_dead(likelihood):
    model = bias(num_components=1)
    fitted = pretrain(model, likelihood, DELTA, num_steps=0, num_polish=0, num_starts=2)
    assert [start.is_dead for start in fitted.starts] == [False, False]


def test_the_best_start_is_returned_and_left_in_the_model(likelihood, monkeypatch):
    worse = TRUTH + 0.3
    starting_at(monkeypatch, worse, TRUTH, worse + 0.1)
    model = bias()
    fitted = pretrain(model, likelihood, DELTA, num_steps=0, num_polish=0, num_starts=3)
    np.testing.assert_array_equal(fitted.theta, TRUTH)
    np.testing.assert_array_equal(model.theta, TRUTH)
    np.testing.assert_array_equal(fitted.starts[2].theta, worse + 0.1)
    found = [start.log_likelihood for start in fitted.starts]
    expected = [log_likelihood(likelihood, start.theta) for start in fitted.starts]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert fitted.log_likelihood == found[1] == max(found)


def test_best_means_likelihood_times_prior(likelihood, monkeypatch):
    """Two components of equal means and widths may share the amplitude as they like."""
    monkeypatch.setattr(pretraining._Fit, "_is_dead", lambda *_: False)
    same = TRUTH.copy()
    same[[10, 12]] = 0.0, -1.0
    far = same.copy()
    far[12] = -30.0
    starting_at(monkeypatch, far, same)
    fitted = pretrain(
        bias(), likelihood, DELTA, num_steps=0, num_polish=0, num_starts=2, prior_scale=2.0
    )
    first, second = fitted.starts
    assert first.log_likelihood == second.log_likelihood
    np.testing.assert_array_equal(fitted.theta, same)
    for start in fitted.starts:
        expected = start.log_likelihood - 0.5 * np.sum(start.theta**2) / 4.0
        np.testing.assert_allclose(start.log_posterior, expected, rtol=1e-12)


def test_initial_parameters_are_the_only_start(likelihood):
    fitted = pretrain(
        bias(), likelihood, DELTA, num_steps=0, num_polish=0, num_starts=5, initial_theta=TRUTH
    )
    assert len(fitted.starts) == 1
    np.testing.assert_array_equal(fitted.theta, TRUTH)
    np.testing.assert_allclose(fitted.log_likelihood, log_likelihood(likelihood, TRUTH), rtol=1e-12)


def test_the_seed_decides(likelihood):
    first, same, other = (
        pretrain(bias(), likelihood, DELTA, num_steps=3, num_polish=0, num_starts=2, seed=seed)
        for seed in (7, 7, 8)
    )
    np.testing.assert_allclose(first.theta, same.theta, rtol=1e-9)
    np.testing.assert_allclose(
        [s.log_likelihood for s in first.starts], [s.log_likelihood for s in same.starts]
    )
    assert np.all(np.abs(first.theta - other.theta) > 1e-6)
    assert np.all(np.abs(first.starts[0].theta - first.starts[1].theta) > 1e-6)


def test_every_start_has_a_fresh_optimizer(likelihood, monkeypatch):
    starting_at(monkeypatch, TRUTH + 0.2, TRUTH + 0.2)
    fitted = pretrain(bias(), likelihood, DELTA, num_steps=5, num_polish=0, num_starts=2)
    first, second = fitted.starts
    assert np.all(np.abs(first.theta - TRUTH - 0.2) > 1e-3)
    np.testing.assert_allclose(first.theta, second.theta, rtol=1e-9)


@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.RMSprop(0.01), keras.optimizers.SGD(0.01, momentum=0.9)]
)
def test_any_keras_optimizer_will_do(likelihood, optimizer):
    start = TRUTH + 0.2
    fitted = pretrain(
        bias(),
        likelihood,
        DELTA,
        optimizer=optimizer,
        num_steps=10,
        num_polish=0,
        initial_theta=start,
    )
    assert fitted.log_likelihood > log_likelihood(likelihood, start) + 1.0
    assert int(optimizer.iterations) == 0  # a copy was used


@pytest.mark.slow
def test_no_more_polishing_than_asked_for(likelihood):
    spent = [
        pretrain(bias(), likelihood, DELTA, num_steps=0, num_polish=most, initial_theta=TRUTH + 0.2)
        .starts[0]
        .num_gradients
        for most in (1, 60)
    ]
    # one iteration is one line search, of at most 30 evaluations
    assert 1 <= spent[0] <= 31 < spent[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"prior_scale": 0.0}, "`prior_scale`"),
        ({"prior_scale": -1.0}, "`prior_scale`"),
        ({"initial_theta": np.zeros(3)}, "`initial_theta`.*17 finite"),
        ({"initial_theta": np.full(17, np.nan)}, "`initial_theta`.*17 finite"),
        ({"num_steps": True}, "`num_steps`"),
        ({"num_starts": True}, "`num_starts`"),
    ],
)
def test_more_bad_arguments(likelihood, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        pretrain(bias(), likelihood, DELTA, **arguments)


def test_random_parameters_are_kernels_around_zero_and_means_apart():
    model = bias()
    draws = np.array([random_parameters(model, seed) for seed in range(400)])
    np.testing.assert_array_equal(draws[5], random_parameters(model, 5))
    expected = [float(name == "mean_bias[1]") for name in model.parameters.names]
    # five standard errors of a mean and of a standard deviation of 400 numbers
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=5 * 0.5 / 20)
    np.testing.assert_allclose(draws.std(axis=0), 0.5, atol=5 * 0.5 / np.sqrt(800))


def test_random_parameters_of_tapered_paretos_start_above_the_threshold():
    network = neural_bias_model(4, log_mass_threshold=1.0, family="tapered_pareto")
    model = NeuralBias(network, 1.0, family="tapered_pareto")
    start = np.mean([random_parameters(model, seed) for seed in range(400)], axis=0)
    expected = [2.0 * name.startswith("mean_bias") for name in model.parameters.names]
    np.testing.assert_allclose(start, expected, atol=5 * 0.5 / 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_steps", -1),
        ("num_steps", 2.5),
        ("num_polish", -1),
        ("num_polish", None),
        ("num_starts", 0),
        ("num_starts", 1.0),
        ("delta", np.zeros((6, 6, 6))),
        ("delta", np.zeros((1, 8, 8, 8, 1))),
        ("delta", np.where(DELTA > 2, np.nan, DELTA)),
        ("delta", np.full(GRID.shape, np.inf)),
    ],
)
def test_bad_arguments_are_refused_before_computing(likelihood, monkeypatch, name, value):
    def compute(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(pretraining, "_Fit", compute)
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`.*Received"):
        pretrain(bias(), likelihood, **{"delta": DELTA, name: value})


def test_no_start_of_finite_likelihood_is_an_error(likelihood):
    with pytest.raises(RuntimeError, match="None of 2 starts reached a finite likelihood"):
        pretrain(bias(), likelihood, DELTA - 5.0, num_steps=1, num_polish=50, num_starts=2)


def fitted():
    starts = [
        Start(TRUTH, -10.0, -11.0, False, 3, 0.1),
        Start(DEAD, -20.0, -41.0, True, 4, 0.2),
    ]
    return Pretrained(TRUTH, -10.0, tuple(starts))


def test_save_then_load(tmp_path):
    path = tmp_path / "new" / "bias.h5"
    save_parameters(path, fitted(), bias(), {"mass_threshold": THRESHOLD, "padding": "valid"})
    np.testing.assert_array_equal(load_parameters(path, bias()), TRUTH)
    np.testing.assert_array_equal(load_parameters(str(path), bias()), TRUTH)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["starts/theta"], [TRUTH, DEAD])
        np.testing.assert_array_equal(file["starts/log_likelihood"], [-10.0, -20.0])
        np.testing.assert_array_equal(file["starts/is_dead"], [False, True])
        assert file.attrs["log_likelihood"] == -10.0
        assert file.attrs["mass_threshold"] == THRESHOLD
        assert file.attrs["padding"] == "valid"
    assert os.listdir(path.parent) == ["bias.h5"]


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.h5"):
        load_parameters(tmp_path / "nothing.h5", bias())
    with pytest.raises(FileNotFoundError):
        load_parameters(tmp_path, bias())


@pytest.mark.parametrize("content", [b"", b"1 2 3\n", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_not_hdf5(tmp_path, content):
    path = tmp_path / "bias.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`path`. Expected a file of fitted parameters.*bias.txt"):
        load_parameters(path, bias())


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "haloes.h5"
    Catalogue([[1.0, 1.0, 1.0]], [1e13], 10.0).write_hdf5(path)
    with pytest.raises(ValueError, match="`path`. Expected a file of fitted parameters.*haloes"):
        load_parameters(path, bias())


@pytest.mark.parametrize("options", [{"kernel_size": 5}, {"num_components": 3}])
def test_parameters_of_another_model_are_refused(tmp_path, options):
    path = tmp_path / "bias.h5"
    save_parameters(path, fitted(), bias())
    with pytest.raises(ValueError, match=r"`path`. Expected the parameters \['kernel_weights"):
        load_parameters(path, bias(**options))


def test_parameters_of_another_family_are_refused(tmp_path):
    save_parameters(tmp_path / "fit.h5", fitted(), bias())
    other = NeuralBias(bias().model, np.log(THRESHOLD), family="tapered_pareto")
    with pytest.raises(ValueError, match="family 'tapered_pareto'. Received: 'normal'"):
        load_parameters(tmp_path / "fit.h5", other)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "bias.h5"
    save_parameters(path, fitted(), bias())
    with pytest.raises(TypeError):
        save_parameters(path, Pretrained(DEAD, -1.0, fitted().starts), bias(), {"a": object()})

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_parameters(path, Pretrained(DEAD, -1.0, fitted().starts), bias())
    assert os.listdir(tmp_path) == ["bias.h5"]
    np.testing.assert_array_equal(load_parameters(path, bias()), TRUTH)
