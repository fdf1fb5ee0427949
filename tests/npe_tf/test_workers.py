"""Chains in other processes: the same rows, and clear words when one of them is lost."""

import functools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.inference import JointSettings, run_inference
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

SETTINGS = JointSettings(
    num_warmup=10, num_samples=4, num_chains=2, gradients_per_sweep=3, field_every=1
)
CONFIG = PosteriorConfig(8, MASS_THRESHOLD)
CATALOGUE = draw_catalogue()[0]
BUILD = functools.partial(CONFIG.build, CATALOGUE)
SAMPLED = ("theta", "log_posterior", "power", "white_noise", "modes", "step_size")


def run(folder, num_processes, **arguments):
    arguments = {"build": BUILD, "num_processes": num_processes, **arguments}
    return run_inference(BUILD(), SETTINGS, folder, **arguments)


def read(folder):
    with ChainStore.open(folder / CHAIN_FILE) as store:
        return {name: store.read(name) for name in SAMPLED}


def failing_build():
    raise ValueError("no posterior today")


class Stubborn(ValueError):
    """Pickles, and fails when it is made anew: its arguments are not those of the constructor."""

    def __init__(self, name, value):
        super().__init__(f"{name} is {value}")


def stubborn_build():
    raise Stubborn("mood", "bad")


@pytest.mark.slow
def test_rows_are_those_of_one_process_up_to_rounding(tmp_path):
    lines = []
    run(tmp_path / "two", 2, say=lines.append)
    assert any(line.startswith("chain 1: parameters fitted") for line in lines)
    run(tmp_path / "one", 1)
    two, one = read(tmp_path / "two"), read(tmp_path / "one")
    # sums over several threads are in another order, and a chain amplifies it
    for name in ("theta", "power", "step_size"):
        np.testing.assert_allclose(two[name][:3], one[name][:3], rtol=2e-2, atol=2e-2)
    assert two["theta"].shape == (14, 2, 17)
    assert np.all(np.isfinite(two["log_posterior"]))
    assert not np.allclose(two["theta"][:, 0], two["theta"][:, 1])


@pytest.mark.slow
def test_a_run_of_two_goes_on_where_it_stopped(tmp_path):
    run(tmp_path / "whole", 2)
    for _ in range(3):
        run(tmp_path / "cut", 2, max_seconds=0.0)
    run(tmp_path / "cut", 2)
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    for name in SAMPLED:
        np.testing.assert_array_equal(whole[name], cut[name])


@pytest.mark.slow
def test_a_process_that_was_killed_is_told_and_nothing_is_lost(tmp_path):
    def kill(progress):
        if progress.sweep == 4:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match="exit code -9.*same command goes on"):
        run(tmp_path / "run", 2, report=kill)
    assert len(read(tmp_path / "run")["theta"]) == 4
    run(tmp_path / "run", 2)
    assert len(read(tmp_path / "run")["theta"]) == 14


def test_what_a_process_refuses_is_raised_here(tmp_path):
    with pytest.raises(ValueError, match="no posterior today"):
        run(tmp_path / "run", 2, build=failing_build)


@pytest.mark.slow
def test_an_error_that_no_pipe_carries_is_told_by_its_name(tmp_path):
    with pytest.raises(RuntimeError, match="Stubborn: mood is bad"):
        run(tmp_path / "run", 2, build=stubborn_build)


def test_how_to_build_is_asked_for_before_anything(tmp_path):
    with pytest.raises(ValueError, match=r"`build`.*Expected.*num_processes=2"):
        run(tmp_path / "run", 2, build=None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_processes", [0, 3])
def test_more_processes_than_chains_are_refused(tmp_path, num_processes):
    with pytest.raises(ValueError, match="`num_processes`"):
        run(tmp_path / "run", num_processes)
