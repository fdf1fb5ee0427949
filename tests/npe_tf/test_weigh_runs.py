"""Modes of runs: read back from chain files, weighed, told."""

import json

import numpy as np
import pytest

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.inference import JointSettings, run_inference
from npe_tf.mode_weights import Mode, ModeWeight, SwitchSettings
from npe_tf.posterior import PosteriorConfig
from npe_tf.run import Run
from npe_tf.weigh_runs import (
    KnownWork,
    chain_ends,
    format_modes,
    modes_to_json,
    weigh_chains,
)
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

CATALOGUE, WHITE_NOISE, THETA = draw_catalogue()
CONFIG = PosteriorConfig(8, MASS_THRESHOLD)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = JointSettings(
        num_warmup=10, num_samples=4, num_chains=2, gradients_per_sweep=2, num_dense_shells=1
    )
    attributes = CONFIG.to_attributes()
    run_inference(
        CONFIG.build(CATALOGUE), settings, folder, initial_theta=THETA, attributes=attributes
    )
    with ChainStore.open(folder / CHAIN_FILE) as store:
        return Run(store, CATALOGUE), chain_ends(Run(store, CATALOGUE), "one/")


@pytest.mark.slow
def test_the_ends_of_chains_are_their_last_sweeps(stored):
    run, (target, ends) = stored
    assert [end.name for end in ends] == ["one/0", "one/1"]
    for number, end in enumerate(ends):
        theta = target.parameters.theta(end.coordinates)[0]
        np.testing.assert_allclose(theta, run.theta[-1, number], rtol=1e-5, atol=1e-5)
        own = target.parameters.coordinates(run.theta[-1, number])
        np.testing.assert_allclose(end.draws[-1], own, rtol=1e-6, atol=1e-6)
        assert len(end.draws) == run.num_samples
        found = run.posterior.log_prob(end.white_noise, theta.numpy().astype(np.float32))
        np.testing.assert_allclose(found, run.log_posterior[-1, number], rtol=1e-4)


@pytest.mark.slow
def test_chains_that_stay_apart_are_weighed_and_others_are_not(stored):
    _, (target, ends) = stored
    rng = np.random.default_rng(0)
    settings = SwitchSettings(num_steps=2, gradients_per_step=1, num_equilibration=2)

    def around(centre):
        return centre + 1e-3 * rng.standard_normal((50, len(centre)))

    same = [end._replace(draws=around(ends[0].coordinates)) for end in ends]
    modes, weights = weigh_chains(target, same, settings)
    assert len(modes) == 1
    assert weights == []
    apart = [
        same[0],
        ends[1]._replace(draws=around(ends[0].coordinates + 1.0), coordinates=ends[0].coordinates),
    ]
    modes, (weight,) = weigh_chains(target, apart, settings)
    assert [mode.chains for mode in modes] == [(0,), (1,)]
    # the parameters do not move, and nothing is done
    assert weight.there == weight.back == 0.0


def test_shares_add_up_and_what_is_not_known_is_none():
    modes = [Mode((0, 2), np.zeros(1), np.eye(1)), Mode((1,), np.ones(1), np.eye(1))]
    weight = ModeWeight((1,), -2.0, 1.0, 0.0, np.log(3.0) + 1.5)
    names = ["a/0", "a/1", "b/0"]
    found = modes_to_json(modes, [weight], names)
    assert [entry["share"] for entry in found] == pytest.approx([0.25, 0.75])
    assert found[1]["log_ratio"] == pytest.approx(np.log(3.0))
    assert found[0]["chains"] == ["a/0", "b/0"]
    told = format_modes(found)
    assert "a/0 b/0: 25.0% of the posterior" in told
    assert "log weight +1.1 +- 0.5" in told
    unknown = modes_to_json(modes, [ModeWeight((1,), float("nan"), 1.0, 0.0, 0.0)], names)
    assert json.loads(json.dumps(unknown, allow_nan=False))[1]["log_ratio"] is None
    assert "not known" in format_modes(unknown)
    assert format_modes(found[:1]) == "all chains (a/0 b/0) are of one mode"


def test_what_is_done_is_kept_for_the_same_question(tmp_path):
    path = tmp_path / "known.json"
    known = KnownWork(path, ["a", 1.5])
    known["there"] = -3.25
    assert KnownWork(path, ["a", 1.5]) == {"there": -3.25}
    assert KnownWork(path, ["a", 2.5]) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["known.json"]


def test_a_run_of_the_paper_is_refused():
    class Store:
        attributes = {}

    class Gibbs:
        store = Store()

    with pytest.raises(ValueError, match="Expected a run of the joint scheme"):
        chain_ends(Gibbs())
