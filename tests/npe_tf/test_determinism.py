"""The same seed gives the same chain to the last bit, with one thread and with several."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.energy import COST_COLUMNS

ROOT = Path(__file__).resolve().parents[2]

RUN = textwrap.dedent(
    """
    import sys
    from npe_tf.inference import JointSettings, run_inference
    from npe_tf.posterior import PosteriorConfig
    from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

    catalogue, _, theta = draw_catalogue()
    settings = JointSettings(
        num_warmup=10, num_samples=6, num_chains=1, gradients_per_sweep=4, field_every=1
    )
    posterior = PosteriorConfig(8, MASS_THRESHOLD).build(catalogue)
    run_inference(posterior, settings, sys.argv[1], initial_theta=theta)
    """
)


def rows(folder, threads):
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    subprocess.run([sys.executable, "-c", RUN, folder], cwd=ROOT, env=environment, check=True)
    with ChainStore.open(folder / CHAIN_FILE) as store:
        return {name: store.read(name) for name in store.columns if name not in COST_COLUMNS}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_chain(tmp_path, threads):
    one, other = (rows(tmp_path / name, threads) for name in ("one", "other"))
    assert np.ptp(one["log_posterior"]) > 0
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])
