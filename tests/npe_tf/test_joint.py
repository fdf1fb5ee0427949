"""The joint scheme: its plan, its settings, and chains that lose nothing."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.gibbs import Settings
from npe_tf.inference import JointSettings, run_inference
from npe_tf.joint import JointPlan, JointSampler, Visits
from npe_tf.posterior import PosteriorConfig
from tests.npe_tf.mock import MASS_THRESHOLD, UnfittedChain, draw_catalogue

SETTINGS = {
    "num_warmup": 10, "num_samples": 3, "num_chains": 1, "gradients_per_sweep": 3, "field_every": 1,
}  # fmt: skip
CATALOGUE, _, THETA = draw_catalogue()
COSTS = ("wall_seconds", "cpu_seconds", "energy_joules")


@pytest.fixture(scope="module")
def posterior():
    return PosteriorConfig(8, MASS_THRESHOLD).build(CATALOGUE)


@pytest.fixture(scope="module")
def whole(posterior, tmp_path_factory):
    """A run in one go."""
    folder = tmp_path_factory.mktemp("joint")
    lines = []
    run_inference(
        posterior, JointSettings(**SETTINGS), folder, initial_theta=THETA, say=lines.append
    )
    return folder, lines


def read(folder):
    with ChainStore.open(folder / CHAIN_FILE) as store:
        return {name: store.read(name) for name in store.columns if name not in COSTS}


@given(st.integers(10, 100_000))
def test_the_parts_of_a_warmup_follow_each_other(num_warmup):
    plan = JointPlan.of(num_warmup)
    parts = [*plan.annealing, *plan.settling, *plan.learning, plan.frozen, num_warmup]
    assert parts[0] == 0
    assert np.all(np.diff(parts) > 0)
    powers = [plan.inverse_temperature(sweep) for sweep in range(min(num_warmup, 500))]
    assert np.all(np.diff(powers) >= 0)
    assert powers[0] < 0.1
    assert plan.inverse_temperature(plan.settling[0]) == 1.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_warmup", 9), ("num_samples", 0), ("num_chains", True), ("seed", -1),
        ("gradients_per_sweep", 2.5), ("energy_error", 0.0), ("energy_error", np.nan),
        ("decoherence_length", -1.0), ("num_dense_shells", -1), ("field_every", 0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*Expected.*Received: {name}="):
        JointSettings(**{name: value})


def test_a_run_stores_what_it_promises(whole):
    folder, lines = whole
    rows = read(folder)
    assert rows["theta"].shape == (13, 1, 17)
    assert rows["white_noise"].shape == (13, 1, 8, 8, 8)
    for name, values in rows.items():
        assert np.all(np.isfinite(values)), name
    assert rows["energy_error"].shape == (13, 1)
    assert np.all(rows["energy_error"] >= 0)
    # steps of the frozen part are all alike
    assert len(np.unique(rows["step_size"][-4:])) == 1
    assert sum("parameters fitted" in line for line in lines) == 2
    moved = np.any(np.diff(rows["white_noise"], axis=0) != 0, axis=(1, 2, 3, 4))
    assert np.all(moved)


def test_the_stored_density_is_that_of_the_stored_state(posterior, whole):
    rows = read(whole[0])
    white_noise = tf.constant(rows["white_noise"][-1, 0])
    theta = tf.constant(rows["theta"][-1, 0], tf.float32)
    expected = posterior.log_prob(white_noise, theta)
    np.testing.assert_allclose(rows["log_posterior"][-1, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_after_any_sweep_holds_all(posterior):
    settings = JointSettings(**SETTINGS)
    sampler = JointSampler(posterior, settings)
    whole = UnfittedChain(sampler, 0)
    whole.start(THETA, lambda line: None)
    relay = UnfittedChain(sampler, 0)
    relay.from_checkpoint(whole.to_checkpoint())
    template = relay.checkpoint_template()
    for sweep in range(settings.num_sweeps):
        expected, row = whole.advance(sweep), relay.advance(sweep)
        for name, value in expected.items():
            np.testing.assert_array_equal(row[name], value, err_msg=f"{name} of sweep {sweep}")
        saved = relay.to_checkpoint()
        assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {
            k: (v.shape, v.dtype) for k, v in template.items()
        }
        relay = UnfittedChain(sampler, 0)
        relay.from_checkpoint(saved)
    assert relay.moments.count == settings.num_samples
    for name, moments in whole.moments.arrays.items():
        np.testing.assert_array_equal(relay.moments.arrays[name], moments)


@pytest.mark.slow
def test_cut_anywhere_a_run_is_the_same(posterior, whole, tmp_path):
    settings = JointSettings(**SETTINGS)
    for _ in range(settings.num_sweeps):
        run_inference(posterior, settings, tmp_path, initial_theta=THETA, max_seconds=0.0)
    cut = read(tmp_path)
    for name, values in read(whole[0]).items():
        np.testing.assert_array_equal(cut[name], values, err_msg=name)
    longer = JointSettings(**{**SETTINGS, "num_samples": 5})
    run_inference(posterior, longer, tmp_path, initial_theta=THETA)
    assert len(read(tmp_path)["theta"]) == 15


def test_another_scheme_does_not_go_on(posterior, whole):
    gibbs = Settings(num_warmup=10, num_samples=3, num_chains=1, field_every=1)
    with pytest.raises(ValueError, match="different run"):
        run_inference(posterior, gibbs, whole[0])


def test_parameters_of_another_network_are_refused(posterior, tmp_path):
    with pytest.raises(ValueError, match=r"`initial_theta`.*Expected 17.*Received"):
        run_inference(posterior, JointSettings(**SETTINGS), tmp_path, initial_theta=np.zeros(3))
    assert not (tmp_path / CHAIN_FILE).exists()


def visits_of(draws, slopes):
    visits = Visits.none(draws.shape[1])
    for draw, slope in zip(draws, slopes, strict=True):
        visits = visits.plus(tf.constant(draw), tf.constant(slope))
    return visits


def test_parameters_of_the_other_mode_are_refused(posterior, tmp_path):
    falling = np.where(np.arange(len(THETA)) < 4, -THETA, THETA)
    with pytest.raises(ValueError, match=r"`initial_theta`.*psi rises.*Received.*psi='falls'"):
        run_inference(posterior, JointSettings(**SETTINGS), tmp_path / "run", initial_theta=falling)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"`psi`.*Expected one of.*psi='up'"):
        JointSettings(psi="up")


def test_units_become_those_of_the_posterior():
    rng = np.random.default_rng(0)
    root = np.diag([0.1, 1.0, 5.0]) @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    covariance = root @ root.T
    draws = rng.standard_normal((3000, 3)) @ root.T
    slopes = -draws @ np.linalg.inv(covariance)
    found = visits_of(draws, slopes).rescaling(10_000)
    np.testing.assert_allclose(found @ found.T, covariance, rtol=0.05, atol=0.05)


def test_a_window_too_short_for_its_widest_direction_still_widens_it():
    """Draws of a hundredth of the true variance, slopes that know it: the geometric mean."""
    rng = np.random.default_rng(1)
    draws, slopes = rng.standard_normal((2, 3000, 1)) * np.array([1.0, 0.1])[:, None, None]
    found = visits_of(draws, slopes).rescaling(10_000)
    np.testing.assert_allclose(found, np.sqrt(10.0), rtol=0.1)


def test_a_window_of_no_sweeps_changes_nothing():
    draws, slopes = 100.0 * np.random.default_rng(2).standard_normal((2, 30, 2))
    np.testing.assert_allclose(visits_of(draws, slopes).rescaling(0), np.eye(2), atol=1e-12)
