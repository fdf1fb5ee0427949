"""What is advised, by how far a run is from convergence."""

import numpy as np
import pytest

from npe_tf.convergence import Convergence, Limits, measure_convergence
from npe_tf.verdict import CONVERGED, NOT_CONVERGED, TOO_SHORT, verdict_of


def convergence(sweeps, chains=4, apart=0.0, correlation=0.0, seed=0):
    """Of two parameters: white or autoregressive draws, chains displaced by `apart`."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((sweeps, chains, 4))
    for sweep in range(1, sweeps):
        draws[sweep] = correlation * draws[sweep - 1] + np.sqrt(1 - correlation**2) * draws[sweep]
    draws[..., 1] += apart * np.arange(chains)
    return measure_convergence(draws[..., :2], draws[..., 2], draws[..., 3:], ["a", "b"])


def test_converged():
    found = verdict_of(convergence(1000), 1000, 4, run="my runs/1")
    assert found.state == CONVERGED
    assert found.reason.startswith("All 4 quantities")
    assert "npe-check --run='my runs/1'" in found.advice[0]


def test_a_chain_that_stands_has_not_converged():
    found = verdict_of(convergence(1000), 1000, 4, is_sound=False)
    assert found.state == NOT_CONVERGED
    assert "a chain stands still or is not finite" in found.reason


def test_nothing_is_known_of_a_run_in_its_warmup():
    found = verdict_of(None, 0, 4)
    assert found.state == TOO_SHORT
    assert "0 draws after the warm-up (0 sweeps of 4 chains)" in found.reason
    assert "--num_samples=800" in found.advice[1]


def test_one_chain_is_not_several():
    assert "(3 sweeps of 1 chain)" in verdict_of(None, 3, 1).reason


def test_too_short():
    found = verdict_of(convergence(50), 50, 4, seconds_per_sweep=10.0)
    assert found.state == TOO_SHORT
    assert "750 sweeps more, about 2.1 hours" in found.advice[1]


def test_a_run_under_way_is_left_alone():
    found = verdict_of(convergence(50), 50, 4, sweeps_left=750, seconds_per_sweep=4.0)
    assert "750 sweeps of sampling to go, about 50 min" in found.advice[1]


def test_slow_chains_need_more_sweeps():
    measured = convergence(1000, correlation=0.9)
    found = verdict_of(measured, 1000, 4)
    assert found.state == NOT_CONVERGED
    worst = min(min(row.ess, row.tail) for row in measured.watched)
    wanted = int(found.advice[-1].split("--num_samples=")[1].split(":")[0])
    assert 1000 * 400 / worst <= wanted <= 1.11 * 1000 * 400 / worst
    assert not any("different places" in sentence for sentence in found.advice)


def test_chains_apart_are_not_cured_by_sweeps():
    found = verdict_of(convergence(1000, apart=5.0), 1000, 4)
    assert found.state == NOT_CONVERGED
    assert found.reason.startswith("1 of 4 quantities")
    assert "different places (b)" in found.advice[1]
    assert not any("--num_samples" in sentence for sentence in found.advice)
    modes = verdict_of(convergence(1000, apart=5.0), 1000, 4, modes_apart=True)
    assert "--psi=rises" in modes.advice[1] and "--psi=falls" in modes.advice[1]


def test_other_limits():
    measured = convergence(1000, correlation=0.9)
    assert verdict_of(measured, 1000, 4).state == NOT_CONVERGED
    assert verdict_of(measured, 1000, 4, limits=Limits(1.2, 50)).state == CONVERGED


@pytest.mark.parametrize("sweeps", [200, 4000])
def test_what_never_moved_is_not_known(sweeps):
    still = np.zeros((sweeps, 4, 1))
    found = measure_convergence(still, still[..., 0], still, ["a"])
    assert isinstance(found, Convergence)
    told = verdict_of(found, sweeps, 4)
    assert told.state == NOT_CONVERGED
    assert told.reason.startswith("3 of 3")
