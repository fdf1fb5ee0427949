"""A run read back: what is kept, in which order, and one field at a time."""

import numpy as np
import pytest

from npe_tf.chain_store import ChainStore
from npe_tf.run import Run
from tests.npe_tf.synthetic_run import CHAINS, EVERY, SWEEPS, WARMUP, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *write_run(folder, initial_theta=np.arange(17.0))


def test_stored_samples_are_those_after_the_warm_up(written):
    folder, catalogue, rows = written
    with ChainStore.open(folder / "chain.h5") as store:
        run = Run(store, catalogue)
        samples = list(run.stored_samples())
    assert [(s.sweep, s.chain) for s in samples] == [
        (sweep, chain) for sweep in range(WARMUP + 1, SWEEPS, EVERY) for chain in range(CHAINS)
    ]
    for s in samples:
        np.testing.assert_array_equal(s.white_noise, rows["white_noise"][s.sweep, s.chain])
        np.testing.assert_array_equal(s.theta, rows["theta"][s.sweep, s.chain])
    np.testing.assert_array_equal(run.initial_theta, np.arange(17.0))


def test_one_row_of_fields_is_read_at_a_time(written, monkeypatch):
    folder, catalogue, _ = written
    with ChainStore.open(folder / "chain.h5") as store:
        run = Run(store, catalogue)
        asked = []
        read = store.read
        monkeypatch.setattr(store, "read", lambda *a: asked.append(a) or read(*a))
        first, *_, last = run.stored_samples(most=2)
    assert asked == [("white_noise", 2, 3), ("white_noise", 3, 4)]
    assert (first.sweep, first.chain, last.sweep, last.chain) == (5, 0, 7, 2)


def test_a_run_in_its_warm_up_is_refused(tmp_path):
    catalogue, _ = write_run(tmp_path, num_warmup=SWEEPS - 3)
    with (
        ChainStore.open(tmp_path / "chain.h5") as store,
        pytest.raises(ValueError, match="at least 4 sweeps"),
    ):
        Run(store, catalogue)
