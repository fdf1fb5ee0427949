"""What a chain file shows to have gone wrong."""

import numpy as np
import pytest

from npe_tf.chain_store import ChainStore, Column
from npe_tf.run_warnings import warnings_of

SWEEPS, CHAINS, WARMUP = 60, 2, 20


def warnings(tmp_path, scheme="joint", **changed):
    """Of a sound run in which something was changed."""
    rng = np.random.default_rng(0)
    rows = {
        "theta": rng.standard_normal((SWEEPS, CHAINS, 3)),
        "log_posterior": rng.standard_normal((SWEEPS, CHAINS)),
        "acceptance": np.full((SWEEPS, CHAINS, 2), 1.0 if scheme == "joint" else 0.7),
    }
    for name, change in changed.items():
        change(rows[name])
    attributes = {"num_warmup": WARMUP, "scheme": scheme}
    columns = {name: Column(row.shape[1:]) for name, row in rows.items()}
    with ChainStore.create(tmp_path / "chain.h5", columns, SWEEPS, {}, attributes) as store:
        for sweep in range(SWEEPS):
            store.append({name: row[sweep] for name, row in rows.items()}, {})
        return warnings_of(store)


@pytest.mark.parametrize("scheme", ["joint", "gibbs"])
def test_a_sound_run_has_none(tmp_path, scheme):
    assert warnings(tmp_path, scheme) == []


def test_numbers_that_are_not_finite(tmp_path):
    def lose(log_posterior):
        log_posterior[3:5, 1] = -np.inf

    (told,) = warnings(tmp_path, log_posterior=lose)
    assert told.startswith("In chain 1 the log posterior is not finite in 2 of 60 sweeps")


def test_a_chain_that_stands_still(tmp_path):
    def stop(theta):
        theta[-25:, 0] = theta[-25, 0]
        theta[WARMUP : WARMUP + 25, 1] = 0.0  # but moves again

    (told,) = warnings(tmp_path, theta=stop)
    assert told.startswith("Chain 0 has not moved for the last 24 sweeps")


def test_sweeps_that_were_refused(tmp_path):
    def refuse(acceptance):
        acceptance[WARMUP : WARMUP + 4, 1] = 0.0
        acceptance[:WARMUP, 0] = 0.0  # in the warm-up, where steps are still too long

    (told,) = warnings(tmp_path, acceptance=refuse)
    assert told.startswith("In chain 1 10% of the sweeps were refused")


def test_moves_that_are_seldom_accepted(tmp_path):
    def refuse(acceptance):
        acceptance[:, 0, 1] = 0.1
        acceptance[::2, 0, 1] = np.nan

    (told,) = warnings(tmp_path, "gibbs", acceptance=refuse)
    assert told.startswith("In chain 0 only 5% of the moves of the parameters")


def test_a_run_in_its_warmup(tmp_path):
    attributes = {"num_warmup": 5}
    columns = {"theta": Column((1, 2)), "log_posterior": Column((1,))}
    with ChainStore.create(tmp_path / "chain.h5", columns, 9, {}, attributes) as store:
        assert warnings_of(store) == []
        store.append({"theta": np.zeros((1, 2)), "log_posterior": np.zeros(1)}, {})
        assert warnings_of(store) == []
