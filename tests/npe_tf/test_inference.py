import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.convergence import convergence_of
from npe_tf.energy import COST_COLUMNS
from npe_tf.inference import Progress, Settings, run_inference
from npe_tf.inference_data import to_inference_data
from npe_tf.posterior import PosteriorConfig
from npe_tf.summary import summarise
from npe_tf.watched import Watched
from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

ROOT = Path(__file__).resolve().parents[2]
CONFIG = PosteriorConfig(8, MASS_THRESHOLD)
SETTINGS = Settings(
    num_warmup=10,
    num_samples=6,
    num_chains=2,
    seed=3,
    field_leapfrog_steps=4,
    bias_leapfrog_steps=3,
    bias_steps=2,
    field_every=2,
)


@pytest.fixture(scope="module")
def mock():
    return draw_catalogue()


@pytest.fixture(scope="module")
def posterior(mock):
    return CONFIG.build(mock[0])


@pytest.fixture(scope="module")
def whole(posterior, mock, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    reports = []
    run_inference(posterior, SETTINGS, folder, initial_theta=mock[2], report=reports.append)
    return folder / CHAIN_FILE, reports


def columns_of(path):
    """All but the times, in which no two runs are equal."""
    with ChainStore.open(path) as store:
        return {name: store.read(name) for name in store.columns if name not in COST_COLUMNS}


def costs_of(path):
    with ChainStore.open(path) as store:
        return [store.read(name) for name in COST_COLUMNS]


def bytes_but_the_times(path):
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        for name in (f"{group}/{name}" for group in ("chain", "checks") for name in COST_COLUMNS):
            dataset = file[name]
            start, size = dataset.id.get_offset(), dataset.id.get_storage_size()
            content[start : start + size] = bytes(size)
    return content


def test_a_run_leaves_a_whole_chain(whole, posterior):
    path, _ = whole
    with ChainStore.open(path) as store:
        assert store.num_committed == SETTINGS.num_sweeps
        assert list(store.attributes["parameters"]) == list(posterior.bias.parameters.names)
    columns = columns_of(path)
    assert columns["theta"].shape == (16, 2, 17)
    assert columns["white_noise"].shape == (8, 2, 8, 8, 8)
    watched = Watched(posterior).shapes
    assert all(columns[name].shape == (16, 2, *shape) for name, shape in watched.items())
    assert all(np.all(np.isfinite(c)) for name, c in columns.items() if name != "acceptance")


def test_the_documented_schema_is_that_of_the_file(whole):
    text = (ROOT / "docs" / "chains.md").read_text()
    rows = re.findall(r"^\| `(chain/\w+|committed|seal)` \| `\[(.*?)\]` \| (.*?) \|", text, re.M)
    # another test of this column: it is the joint scheme's
    rows = [row for row in rows if row[0] != "chain/energy_error"]
    values = {"T": 16, "C": 2, "D": 17, "N": 8, "every": 2}
    with h5py.File(whole[0]) as file:
        assert {name for name, _, _ in rows} == {
            *(f"chain/{name}" for name in file["chain"]), "committed", "seal"
        }  # fmt: skip
        for name, shape, dtype in rows:
            expected = [int(eval(n.replace("/2", "//2"), values)) for n in shape.split(",") if n]
            assert list(file[name].shape) == expected, name
            assert file[name].dtype == ("float32" if dtype == "as `dtype`" else dtype), name


def test_what_is_watched_is_that_of_the_stored_state(whole, posterior):
    columns = columns_of(whole[0])
    watched = Watched(posterior)
    for sweep, chain in ((1, 0), (9, 1), (15, 0)):
        expected = watched(
            columns["white_noise"][sweep // 2, chain], columns["theta"][sweep, chain]
        )
        for name, value in expected.items():
            np.testing.assert_allclose(columns[name][sweep, chain], value, rtol=1e-6, atol=1e-6)


def test_all_that_is_watched_decides(whole, posterior):
    with ChainStore.open(whole[0]) as store:
        found = convergence_of(store)
    names = {row.name for row in found.watched}
    assert names >= {*posterior.bias.parameters.names, "log posterior", "P(k) shell 3"}
    assert names >= {name for names in Watched(posterior).names.values() for name in names}


def test_cost_of_every_sweep_and_size_said_before_any(posterior, mock, tmp_path):
    settings, said = dataclasses.replace(SETTINGS, num_chains=1), []
    constants = {"counts": posterior.likelihood.counts}

    def go(num_samples, **options):
        began = time.monotonic()
        path = run_inference(
            posterior,
            dataclasses.replace(settings, num_samples=num_samples),
            tmp_path,
            initial_theta=mock[2],
            constants=constants,
            say=said.append,
            **options,
        )
        return path, time.monotonic() - began

    def size_of(text):
        return [float(line.partition(": ")[2].split()[0]) * 2**20 for line in text.splitlines()]

    path, elapsed = go(6, max_seconds=0.0)
    wall, cpu, _ = costs_of(path)
    # one sweep, and all that came before it
    assert wall.shape == cpu.shape == (1,)
    assert 0.5 * elapsed < wall[0] <= elapsed
    assert cpu[0] > 0.1 * wall[0]
    first = size_of(said[0])
    # HDF5's metadata come besides
    assert 0 < path.stat().st_size - first[0] < 2**18
    assert first[0] == pytest.approx(sum(first[1:]), rel=0.01)
    assert first[1] == pytest.approx(8 * 8**3 * 4, rel=0.01)
    assert "8 of each of 1 chains, 8 x 8 x 8 float32, one every 2 of 16 sweeps" in said[0]

    said.clear()
    _, more = go(8)
    wall, cpu, _ = costs_of(path)
    # what has passed between the two calls does not count, and all in the second does
    assert 0.5 * more < wall[1:].sum() <= more
    assert len(wall) == 18
    assert np.all(wall > 0)
    (grown,) = (line for line in said if line.startswith("chain file"))
    assert "9 of each of 1 chains" in grown
    assert size_of(grown)[0] > first[0]
    assert 0 < path.stat().st_size - size_of(grown)[0] < 2**18


def without_what_is_watched(path, old):
    """A copy as it was made before there were such columns."""
    with ChainStore.open(path) as store:
        watched = {name for name in store.columns if f"names.{name}" in store.attributes}
        kept = {n: c for n, c in store.columns.items() if n not in {*watched, *COST_COLUMNS}}
        marks = {
            name: value
            for name, value in store.attributes.items()
            if not name.startswith(("names.", "watched."))
        }
        marks |= CONFIG.to_attributes()  # for the summary
        state = store.checkpoint()
        rows = {name: np.repeat(store.read(name), c.every, axis=0) for name, c in kept.items()}
        with ChainStore.create(old, kept, store.capacity, state, marks) as copy:
            for sweep in range(store.num_committed):
                copy.append({name: values[sweep] for name, values in rows.items()}, state)


def test_runs_from_before_anything_was_watched_can_be_read_and_go_on(
    whole, posterior, mock, tmp_path
):
    path = tmp_path / CHAIN_FILE
    without_what_is_watched(whole[0], path)
    assert len(columns_of(path)) == 6
    text = summarise(tmp_path, mock[0]).text
    assert "NOT CONVERGED" in text
    assert "core-hours" not in text
    assert "mass function:" not in text
    assert set(to_inference_data(path).posterior.data_vars) == {"theta", "power"}
    more = dataclasses.replace(SETTINGS, num_samples=8)
    run_inference(
        posterior, more, tmp_path, initial_theta=mock[2], attributes=CONFIG.to_attributes()
    )
    columns = columns_of(path)
    assert len(columns) == 6
    assert len(columns["theta"]) == 18
    assert np.any(columns["theta"][16:] != columns["theta"][15])


def test_a_run_that_watches_other_quantities_does_not_go_on(whole, posterior, mock, tmp_path):
    path = tmp_path / CHAIN_FILE
    with ChainStore.open(whole[0]) as store:
        marks = {**store.attributes, "names.voxels": ["another"] * 16}
        ChainStore.create(path, store.columns, 16, store.checkpoint(), marks).close()
    for _ in range(2):  # the lock is given back
        with pytest.raises(ValueError, match=r"`output`.*'voxels' holds \['voxel .*'another'"):
            run_inference(posterior, SETTINGS, tmp_path, initial_theta=mock[2])


def test_stored_log_posterior_is_that_of_the_stored_state(whole, posterior):
    columns = columns_of(whole[0])
    for sweep in (1, 9, 15):
        for chain in (0, 1):
            expected = posterior.log_prob(
                columns["white_noise"][sweep // 2, chain],
                columns["theta"][sweep, chain].astype(np.float32),
            )
            np.testing.assert_allclose(
                columns["log_posterior"][sweep, chain], expected.numpy(), rtol=1e-5
            )


def test_while_the_field_is_annealed_the_parameters_stand_still(whole):
    columns = columns_of(whole[0])
    assert np.all(columns["theta"][:4] == columns["theta"][0])
    assert np.all(np.isnan(columns["acceptance"][:4, :, 1]))
    assert np.all(np.isfinite(columns["acceptance"][4:]))
    assert np.any(columns["theta"][4:] != columns["theta"][0])


def test_after_the_warmup_nothing_adapts(whole):
    steps = columns_of(whole[0])["step_size"]
    assert np.all(steps[9:] == steps[9])
    assert np.any(steps[:9] != steps[9])


def test_chains_are_different(whole):
    columns = columns_of(whole[0])
    assert np.all(columns["white_noise"][:, 0] != columns["white_noise"][:, 1])


@pytest.mark.slow
def test_moments_are_those_of_the_samples_and_parameters_are_found_without_help(
    posterior, tmp_path
):
    settings = Settings(
        num_warmup=4, num_samples=5, num_chains=1, field_leapfrog_steps=4, field_every=1
    )
    said = []
    path = run_inference(posterior, settings, tmp_path / "run", say=said.append)
    assert any("haloes moved to where it is dense" in line for line in said)
    with ChainStore.open(path) as store:
        noise = store.read("white_noise")[4:, 0]
        state = store.checkpoint()
    final = np.stack([posterior.density(x).numpy() for x in noise])
    assert state["0/moments/count"] == 5
    np.testing.assert_allclose(state["0/moments/final_mean"], final.mean(0), atol=1e-5)
    np.testing.assert_allclose(state["0/moments/final_m2"] / 5, final.var(0), atol=1e-4)


def test_progress_reports_every_sweep(whole):
    _, reports = whole
    assert [r.sweep for r in reports] == list(range(1, 17))
    assert [r.phase for r in reports] == ["annealing"] * 4 + ["warm-up"] * 6 + ["sampling"] * 6
    assert reports[-1].eta_seconds == 0.0
    assert "bias -" in reports[0].line()
    assert "sampling 16/16" in reports[-1].line()
    assert "accept field" in reports[-1].line()


def test_eta_in_hours():
    progress = Progress(1, 10, "sampling", 1.0, 3725.0, 0.5, float("nan"), (-1.0,), (0.1,))
    assert "ETA 1:02:05" in progress.line()


WORKER = textwrap.dedent(
    """
    import sys
    from npe_tf.inference import run_inference
    from npe_tf.posterior import PosteriorConfig
    from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue
    from tests.npe_tf.test_inference import SETTINGS

    catalogue, _, theta = draw_catalogue()
    run_inference(
        PosteriorConfig(8, MASS_THRESHOLD).build(catalogue),
        SETTINGS,
        sys.argv[1],
        initial_theta=theta,
        report=lambda progress: print(progress.sweep, flush=True),
    )
    """
)


def start_worker(folder):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def read_until(worker, sweep):
    for line in worker.stdout:
        if int(line) >= sweep:
            return
    raise AssertionError(f"the run ended before sweep {sweep}")


def test_kill_9_then_resume_is_the_uninterrupted_run_bit_for_bit(whole, posterior, mock, tmp_path):
    worker = start_worker(tmp_path)
    read_until(worker, 6)
    time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with ChainStore.open(tmp_path / CHAIN_FILE) as store:
        committed = store.num_committed
    assert 6 <= committed < SETTINGS.num_sweeps
    for name, column in columns_of(tmp_path / CHAIN_FILE).items():
        expected = columns_of(whole[0])[name][: len(column)]
        np.testing.assert_array_equal(column, expected)
    run_inference(posterior, SETTINGS, tmp_path, initial_theta=mock[2])
    assert bytes_but_the_times(tmp_path / CHAIN_FILE) == bytes_but_the_times(whole[0])


def test_ctrl_c_a_time_limit_and_more_samples_later_change_nothing(
    whole, posterior, mock, tmp_path
):
    said = []

    def interrupt(progress):
        if progress.sweep == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def go(num_samples, **options):
        settings = dataclasses.replace(SETTINGS, num_samples=num_samples)
        run_inference(
            posterior, settings, tmp_path, initial_theta=mock[2], say=said.append, **options
        )

    go(2, report=interrupt)
    assert "stopped after sweep 3 of 12" in said[-1]
    go(2, max_seconds=0.0)
    assert "stopped after sweep 4 of 12" in said[-1]
    go(SETTINGS.num_samples)
    assert said[-1] == "going on after sweep 4 of 16"
    expected = columns_of(whole[0])
    for name, column in columns_of(tmp_path / CHAIN_FILE).items():
        np.testing.assert_array_equal(column, expected[name])


def test_a_finished_run_is_left_alone(whole, posterior, mock):
    before = whole[0].read_bytes()
    run_inference(posterior, SETTINGS, whole[0].parent, initial_theta=mock[2])
    assert whole[0].read_bytes() == before


def test_the_folder_of_a_different_run_is_refused(whole, posterior, mock):
    before = whole[0].read_bytes()
    other = dataclasses.replace(SETTINGS, seed=4)
    with pytest.raises(ValueError, match=r"different run[\s\S]*seed: expected 4, received 3"):
        run_inference(posterior, other, whole[0].parent, initial_theta=mock[2])
    with pytest.raises(ValueError, match=r"different run[\s\S]*initial_theta"):
        run_inference(posterior, SETTINGS, whole[0].parent, initial_theta=np.zeros(17))
    assert whole[0].read_bytes() == before


def test_given_parameters_are_where_every_chain_starts(whole, mock):
    expected = np.array([mock[2], mock[2]])
    np.testing.assert_array_equal(columns_of(whole[0])["theta"][0], expected)


@pytest.mark.parametrize("theta", [np.zeros(3), np.full(17, np.nan)])
def test_wrong_parameters_are_refused_before_anything_is_written(posterior, tmp_path, theta):
    with pytest.raises(ValueError, match="`initial_theta`.*17 finite"):
        run_inference(posterior, SETTINGS, tmp_path / "run", initial_theta=theta)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_warmup", 1),
        ("num_samples", 0),
        ("num_chains", 2.0),
        ("seed", -1),
        ("field_leapfrog_steps", True),
        ("field_every", 0),
        ("field_target_accept", 1.0),
        ("bias_target_accept", 0.0),
        ("annealing_start", 0.0),
        ("annealing_start", 1.5),
    ],
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        Settings(**{name: value})
