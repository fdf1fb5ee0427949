"""What went wrong in a chain is counted, told while it happens, and told in the summary."""

import numpy as np
import pytest
import tensorflow as tf

from npe_tf.gibbs import _acceptance
from npe_tf.health import STANDING, StandingWatch, measure_health
from samplers import DiagonalInverseHessian, MicrocanonicalLangevin, QuasiNewtonHMC

WARMUP, SAMPLES = 10, 100


def sound(num_chains=3):
    rng = np.random.default_rng(0)
    total = WARMUP + SAMPLES
    return {
        "theta": rng.normal(size=(total, num_chains, 4)),
        "log_posterior": rng.normal(size=(total, num_chains)),
        "acceptance": rng.uniform(0.5, 1.0, size=(total, num_chains, 2)),
    }


def test_sound_chains_have_nothing_to_say():
    columns = sound()
    columns["acceptance"][:WARMUP, :, 1] = np.nan  # parameters that stand while the field anneals
    health = measure_health(**columns, num_warmup=WARMUP)
    assert health.is_sound and health.lines() == []
    assert health.num_samples == SAMPLES
    for counts in (health.divergent, health.divergent_warmup, health.standing, health.not_finite):
        np.testing.assert_array_equal(counts, 0)


@pytest.mark.parametrize(
    ("count", "advice"), [(1, "few, and refused"), (7, "halve --energy_error")]
)
def test_divergent_sweeps_are_counted(count, advice):
    columns = sound()
    columns["acceptance"][WARMUP + 3 : WARMUP + 3 + count, 1] = 0.0
    columns["acceptance"][2:4, 2] = 0.0
    health = measure_health(**columns, num_warmup=WARMUP)
    (line,) = health.lines()
    assert line.startswith(f"divergent sweeps by chain: 0 {count} 0 of 100 (0 0 2 more in")
    assert advice in line
    assert health.is_sound


@pytest.mark.parametrize("value", [1.5, np.nan])
@pytest.mark.parametrize(("first", "last"), [(0, 40), (WARMUP + 30, WARMUP + 61)])
def test_a_chain_that_stands_is_told(value, first, last):
    columns = sound()
    for name in ("theta", "log_posterior"):
        columns[name][first:last, 1] = value
    health = measure_health(**columns, num_warmup=WARMUP)
    # the sweep before the first has moved to where the chain stands
    np.testing.assert_array_equal(health.standing, [0, 30, 0])
    assert not health.is_sound
    assert health.lines()[0].startswith("STUCK: chain 1 did not move for 30 of 100 sweeps")


def test_a_chain_that_stands_for_a_moment_is_none():
    columns = sound()
    for name in ("theta", "log_posterior"):
        columns[name][WARMUP + 5 : WARMUP + 5 + STANDING] = 1.0
    assert measure_health(**columns, num_warmup=WARMUP).is_sound
    columns["theta"][WARMUP + 5 + STANDING] = columns["log_posterior"][WARMUP + 5 + STANDING] = 1.0
    assert not measure_health(**columns, num_warmup=WARMUP).is_sound


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_chain_that_is_not_finite_is_told(value):
    columns = sound()
    columns["log_posterior"][WARMUP + 5, 2] = value
    columns["log_posterior"][WARMUP - 2, 0] = value
    health = measure_health(**columns, num_warmup=WARMUP)
    np.testing.assert_array_equal(health.not_finite, [0, 0, 1])
    assert not health.is_sound
    (line,) = health.lines()
    assert line.startswith("NOT FINITE: chain 2 in 1 of 100 sweeps")


def test_while_it_runs_a_chain_that_stands_is_told_when_and_at_each_doubling():
    watch = StandingWatch(2)
    told = {}
    for sweep in range(1, 101):
        for line in watch([-1.0, -1.0], [[0.9, 0.9], [0.0, np.nan if sweep < 30 else 0.0]]):
            told[sweep] = line
    assert list(told) == [20, 40, 80]
    assert told[20].startswith("chain 1: STUCK, every move of 20 sweeps was refused")
    assert watch([-1.0, -1.0], [[0.9, 0.9], [0.1, 0.1]]) == []
    assert watch([-1.0, -np.inf], [[0.9, 0.9], [0.1, 0.1]]) == [
        "chain 1: log posterior -inf, not finite"
    ]
    assert watch([-1.0, -np.inf], [[0.9, 0.9], [0.1, 0.1]]) == []


def cliff(x):
    """A normal density of which neither value nor gradient are finite beyond 0.6."""
    broken = tf.sqrt(tf.where(tf.abs(x) > 0.6, -1.0, 1.0) * (2.0 + x))
    return -0.5 * tf.reduce_sum(tf.square(x), axis=-1) + 0.0 * tf.reduce_sum(broken, axis=-1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MicrocanonicalLangevin(cliff, 0.1, DiagonalInverseHessian(), num_steps=4),
        lambda: QuasiNewtonHMC(cliff, 0.8, 4, DiagonalInverseHessian()),
    ],
    ids=["microcanonical", "hmc"],
)
def test_gradients_that_are_not_finite_are_refused_and_show(make):
    kernel = make()
    state = tf.constant([0.1, -0.1])
    results = kernel.bootstrap_results(state)
    step = tf.function(kernel.one_step)
    refused = 0
    for number in range(30):
        before = state
        state, results = step(state, results, seed=tf.constant([number, 1]))
        assert np.all(np.isfinite(state)) and np.all(np.abs(state) <= 0.6)
        if isinstance(kernel, MicrocanonicalLangevin):
            failed = bool(np.isnan(results.squared_energy_error))
        else:
            failed = float(_acceptance(results)) == 0.0
        if failed:
            refused += 1
            np.testing.assert_array_equal(state, before)
    assert 3 < refused < 30
