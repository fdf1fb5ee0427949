"""The verdict on a run, and runs that stop at it."""

import numpy as np
import pytest

from npe_tf import inference
from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.convergence import Limits, measure_convergence
from npe_tf.inference import Settings, run_inference
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue


def samples(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(800, 4, 2)), rng.normal(size=(800, 4)), rng.normal(size=(800, 4, 3))


def test_independent_draws_have_converged():
    found = measure_convergence(*samples(), ["a", "b"])
    assert found.reaches(Limits())
    names = [row.name for row in found.watched]
    assert names == ["a", "b", "log posterior", *(f"P(k) shell {i}" for i in range(3))]


@pytest.mark.parametrize(
    ("spoil", "worst"),
    [
        (lambda theta, log, power: theta[:, 0, 1].__iadd__(3.0), "b"),
        (lambda theta, log, power: log.__iadd__(np.linspace(0, 9, 800)[:, None]), "log posterior"),
        (lambda theta, log, power: power[:, 2, 1].__imul__(5.0), "P(k) shell 1"),
        (lambda theta, log, power: power[..., 2].fill(1.0), "P(k) shell 2"),
    ],
    ids=["a chain apart", "a drift", "a chain of another width", "no motion"],
)
def test_one_quantity_is_enough_to_spoil_it(spoil, worst):
    theta, log, power = samples()
    spoil(theta, log, power)
    found = measure_convergence(theta, log, power, ["a", "b"])
    assert not found.reaches(Limits())
    assert found.worst_rhat.name == worst


def test_few_effective_samples_are_not_enough():
    theta, log, power = (x[:50] for x in samples())
    found = measure_convergence(theta, log, power, ["a", "b"])
    assert found.reaches(Limits(max_rhat=1.2, min_ess=50))
    assert not found.reaches(Limits(max_rhat=1.2, min_ess=400))


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"max_rhat": 1.0}, "`max_rhat`.*1.0"),
        ({"max_rhat": np.nan}, "`max_rhat`.*nan"),
        ({"min_ess": 0.0}, "`min_ess`.*0.0"),
        ({"min_ess": np.inf}, "`min_ess`.*inf"),
    ],
)
def test_limits_are_checked(limits, match):
    with pytest.raises(ValueError, match=match):
        Limits(**limits)


def test_a_run_stops_when_it_has_converged(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "CHECK_EVERY", 20)
    catalogue, _, theta = draw_catalogue()
    posterior = PosteriorConfig(8, MASS_THRESHOLD).build(catalogue)
    settings = Settings(
        num_warmup=10,
        num_samples=42,
        num_chains=2,
        field_leapfrog_steps=2,
        bias_leapfrog_steps=2,
        bias_steps=1,
        field_every=2,
    )
    said = []

    def sweeps(limits):
        run_inference(
            posterior, settings, tmp_path, initial_theta=theta, limits=limits, say=said.append
        )
        with ChainStore.open(tmp_path / CHAIN_FILE) as store:
            return store.num_committed

    loose = Limits(max_rhat=1e9, min_ess=1e-9)
    assert sweeps(loose) == 40
    assert said[-1].startswith("CONVERGED after 30 samples: worst R-hat")
    # once more: there is nothing to do
    assert sweeps(loose) == 40
    assert sweeps(Limits(max_rhat=1.0001, min_ess=1e6)) == 52
    assert any(line.startswith("not converged after 30 samples") for line in said)
