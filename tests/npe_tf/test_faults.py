"""Faults that happen: full disks, flipped bits, two writers, clocks that jump.

Disks are small file systems in memory, mounted where only the test's own process sees them. After
each fault what was committed is there, and a run goes on with the same rows or says why not.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from npe_tf.chain_store import ChainStore, Column
from tests.npe_tf.test_chain_store import ATTRIBUTES, check, fill, make, row

ROOT = Path(__file__).resolve().parents[2]
UNSHARE = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]


def can_mount():
    command = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return shutil.which("unshare") and subprocess.run(command, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="may not mount a file system")


def with_disk(tmp_path, size, script):
    """Run a script in `tmp_path`, of which the folder `disk` is a file system of this size."""
    (tmp_path / "disk").mkdir()
    begin = (
        f"import subprocess\nsubprocess.run('mount -t tmpfs -o size={size} none disk'.split())\n"
    )
    imports = """
        import os, pytest, errno
        from npe_tf.chain_store import ChainStore, Column
        from tests.npe_tf.test_chain_store import COLUMNS, check, fill, make, row, state
        def junk():
            "Fill the disk to the last byte."
            with open("disk/junk", "wb", buffering=0) as file:
                for piece in (4096, 1):
                    try:
                        while file.write(bytes(piece)):
                            pass
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
        """
    done = subprocess.run(
        [
            *UNSHARE,
            sys.executable,
            "-c",
            begin + textwrap.dedent(imports) + textwrap.dedent(script),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- the disk is full -----------------------------------------------------------------------


@needs_mount
def test_a_disk_too_small_is_told_at_the_start_and_nothing_is_left(tmp_path):
    with_disk(
        tmp_path,
        "1m",
        """
        with pytest.raises(OSError, match=r"Cannot make a chain of 14.9 MiB \\(No space left"):
            make("disk/chain.h5", capacity=100_000)
        assert os.listdir("disk") == ["chain.h5.lock"]
        with make("disk/chain.h5") as store:
            fill(store, 12)
            check(store, 12)
        """,
    )


@needs_mount
def test_a_disk_that_others_fill_stops_no_run(tmp_path):
    with_disk(
        tmp_path,
        "4m",
        """
        with make("disk/chain.h5", capacity=40) as store:
            fill(store, 5)
            junk()
            fill(store, 40)  # its space was reserved
            check(store, 40)
            with pytest.raises(OSError, match="Cannot make a chain .*No space left"):
                store.extend(400)
            check(store, 40)
        assert sorted(os.listdir("disk")) == ["chain.h5", "chain.h5.lock", "junk"]
        os.unlink("disk/junk")
        with ChainStore.open("disk/chain.h5", "r+") as store:
            store.extend(400)
            fill(store, 60)
            check(store, 60)
        """,
    )


@needs_mount
def test_other_files_stay_whole_on_a_full_disk(tmp_path):
    with_disk(
        tmp_path,
        "1m",
        """
        import numpy as np
        from npe_tf.catalogue import Catalogue
        def catalogue(count):
            positions = np.random.default_rng(0).uniform(size=(count, 3))
            return Catalogue(positions, np.full(count, 1e13), 1.0)
        catalogue(10).write_hdf5("disk/halos.h5")
        before = open("disk/halos.h5", "rb").read()
        with pytest.raises(OSError, match="No space left"):
            catalogue(100_000).write_hdf5("disk/halos.h5")
        assert open("disk/halos.h5", "rb").read() == before
        assert os.listdir("disk") == ["halos.h5"]
        """,
    )


def _limited_writer(path, limit):
    """Append with no byte of the file beyond `limit` writable, as on a disk that fills up."""
    store = ChainStore.open(path, "r+")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        fill(store, 12)
    except OSError as error:
        assert "Cannot commit sweep" in str(error) and "File too large" in str(error)
        assert "the sweeps before are intact" in str(error)
        os._exit(3)
    os._exit(0)


def test_a_write_that_fails_anywhere_in_a_commit_loses_nothing(tmp_path):
    path = str(tmp_path / "chain.h5")
    with make(path) as store:
        fill(store, 12)
    whole = Path(path).read_bytes()
    with h5py.File(path) as file:
        starts = [file["seal"].id.get_offset(), file["committed"].id.get_offset()]
        file.visititems(
            lambda name, node: (
                starts.append(node.id.get_offset() + node.id.get_storage_size() // 2)
                if isinstance(node, h5py.Dataset)
                else None
            )
        )
    outcomes = set()
    fork = multiprocessing.get_context("fork")
    for limit in sorted({*starts, len(whole)}):
        os.unlink(path)
        with make(path) as store:
            fill(store, 4)
        writer = fork.Process(target=_limited_writer, args=(path, limit))
        writer.start()
        writer.join()
        outcomes.add(writer.exitcode)
        with ChainStore.open(path, "r+") as store:
            assert store.num_committed >= 4
            check(store, store.num_committed)
            fill(store, 12)
        assert Path(path).read_bytes() == whole
    assert outcomes == {0, 3}


# --- the folder is read-only ----------------------------------------------------------------


@needs_mount
def test_a_read_only_folder_can_be_read_and_not_gone_on_with(tmp_path):
    with_disk(
        tmp_path,
        "1m",
        """
        with make("disk/chain.h5") as store:
            fill(store, 5)
        subprocess.run("mount -o remount,ro disk".split(), check=True)
        with ChainStore.open("disk/chain.h5") as store:
            check(store, 5)
            assert store.damage() == []
        for attempt in (
            lambda: ChainStore.open("disk/chain.h5", "r+"),
            lambda: make("disk/other.h5"),
        ):
            with pytest.raises(OSError, match="Cannot write beside .*Read-only file system"):
                attempt()
        """,
    )


# --- bits are flipped -----------------------------------------------------------------------

# in a process of its own, which damage must not crash either
FLIPPER = textwrap.dedent(
    """
    import sys, warnings
    from pathlib import Path
    from npe_tf.chain_store import ChainStore
    from tests.npe_tf.test_chain_store import ATTRIBUTES, fill
    from tests.npe_tf.test_faults import content

    path, flips = sys.argv[1], [int(n) for n in Path(sys.argv[2]).read_text().split()]
    whole = Path(path).read_bytes()
    expected = content(path)
    warnings.simplefilter("ignore")
    counts = dict.fromkeys(("refused", "harmless", "back", "wrong"), 0)
    for flip in flips:
        changed = bytearray(whole)
        changed[flip // 8] ^= 1 << flip % 8
        Path(path).write_bytes(changed)
        try:
            outcome = "harmless" if content(path) == expected else "wrong"
            if outcome == "wrong" and content(path)["committed"] == 9:
                outcome = "shorter"
        except (OSError, ValueError):
            outcome = "refused"
        # and for going on
        try:
            with ChainStore.open(path, "r+", ATTRIBUTES) as store:
                back = store.num_committed < 10
                if not store.damage():
                    fill(store, 10)
                    if content(path) != expected:
                        outcome = "wrong"
                    elif back:
                        outcome = "back"
        except (OSError, ValueError):
            pass
        if outcome in ("wrong", "shorter"):
            print("wrong at bit", flip, outcome)
            counts["wrong"] += 1
        else:
            counts[outcome] += 1
    print(counts["refused"], counts["harmless"], counts["back"], counts["wrong"])
    """
)


def content(path):
    """All that can be read of a chain, as bytes."""
    with ChainStore.open(path) as store:
        parts = {name: store.read(name).tobytes() for name in store.columns}
        parts |= {f"constant {name}": store.constant(name).tobytes() for name in store.constants}
        saved = store.checkpoint() or {}
        parts |= {f"checkpoint {name}": value.tobytes() for name, value in saved.items()}
        parts |= {f"attribute {name}": value for name, value in store.attributes.items()}
        kinds = {name: (c.shape, c.dtype, c.every) for name, c in store.columns.items()}
        return {**parts, "kinds": kinds, "committed": store.num_committed}


def flip_and_read(tmp_path, choose):
    """Flip bits, one at a time; how many were refused, harmless, repaired, wrong."""
    path = tmp_path / "chain.h5"
    constants = {"truth": np.linspace(0.0, 1.0, 50)}
    with make(path, constants=constants) as store:
        fill(store, 10)
    (tmp_path / "flips").write_text(" ".join(map(str, choose(path))))
    done = subprocess.run(
        [sys.executable, "-c", FLIPPER, str(path), str(tmp_path / "flips")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    lines = done.stdout.splitlines()
    return *map(int, lines[-1].split()), lines[:-1]


def data_bits(path):
    """Bits of datasets, of those that count."""
    bits = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and node.size:
            start = node.id.get_offset()
            bits[name] = range(8 * start, 8 * (start + node.id.get_storage_size()))

    with h5py.File(path) as file:
        file.visititems(visit)
    return bits


def test_no_flipped_bit_in_the_data_passes(tmp_path):
    rng = random.Random(0)

    def choose(path):
        for name, bits in data_bits(path).items():
            if name.startswith(("chain/", "checks/")):  # what ten sweeps of twelve have written
                bits = bits[: len(bits) * 9 // 12]
            if not name.startswith("checkpoint/1") and name != "seal":  # the slot of sweep 9
                yield from rng.sample(bits, min(20, len(bits)))

    refused, harmless, back, wrong, lines = flip_and_read(tmp_path, choose)
    assert wrong == 0, lines
    # a flip in the newest checkpoint or rows is repaired by doing the last sweep again
    assert harmless == 0 and refused > 150 and back > 20


def test_no_flipped_bit_in_the_structure_passes(tmp_path):
    refused, harmless, _, wrong, lines = flip_and_read(tmp_path, lambda path: structure(path, 400))
    assert wrong == 0, lines
    assert refused > 20 and harmless > 20  # much of the structure is padding


@pytest.mark.slow
def test_no_bit_of_many_in_the_structure_passes(tmp_path):
    refused, _, _, wrong, lines = flip_and_read(tmp_path, lambda path: structure(path, 6000))
    assert wrong == 0, lines
    assert refused > 1000


def structure(path, most):
    data = {bit // 8 for bits in data_bits(path).values() for bit in bits}
    size = path.stat().st_size
    rng = random.Random(1)
    bits = [8 * byte + rng.randrange(8) for byte in range(size) if byte not in data]
    return rng.sample(bits, most)


def flip(path, name, byte=0):
    with h5py.File(path) as file:
        at = file[name].id.get_offset() + byte
    content = bytearray(Path(path).read_bytes())
    content[at] ^= 4
    Path(path).write_bytes(content)


def test_damaged_rows_are_told_by_name_and_the_others_can_be_read(tmp_path):
    path = tmp_path / "chain.h5"
    with make(path) as store:
        fill(store, 10)
    for sweep in (2, 4):
        flip(path, "chain/theta", 48 * sweep + 7)
    with ChainStore.open(path) as store:
        with pytest.raises(OSError, match=r"rows 2, 4 of the column 'theta'.*chain\.h5"):
            store.read("theta")
        np.testing.assert_array_equal(store.read("theta", 5)[0], row(5)["theta"])
        assert store.read("log_prob").shape == (10,)
        assert store.damage() == ["rows 2, 4 of the column 'theta'"]
    with ChainStore.open(path, "r+") as store:
        store.extend(30)  # in a copy, damage stays damage
        assert store.damage() == ["rows 2, 4 of the column 'theta'"]


def test_a_counter_that_fits_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "chain.h5"
    with make(path) as store:
        fill(store, 10)
    with h5py.File(path, "r+") as file:
        file["committed"][...] = 2
    for mode in ("r", "r+"):
        with pytest.raises(OSError, match="2 sweeps committed, and checkpoints of sweeps 9 and 10"):
            ChainStore.open(path, mode)


def test_files_without_checksums_are_read_and_gain_them(tmp_path):
    path = tmp_path / "chain.h5"
    with make(path, constants={"k": np.arange(3)}) as store:
        fill(store, 5)
    with h5py.File(path, "r+") as file:  # as they were made before
        del file["checks"]
        del file["constants/k"].attrs["check"]
        mark = file["committed"].attrs
        del mark["structure"]
        mark["format"] = "npe_tf chain 1"
    with ChainStore.open(path, "r+", ATTRIBUTES) as store:
        check(store, 5)
        fill(store, 7)
        check(store, 7)
        assert store.damage() == []
        np.testing.assert_array_equal(store.constant("k"), np.arange(3))
        store.extend(20)
        fill(store, 14)
        check(store, 14)
    flip(path, "chain/log_prob", 8 * 2)
    with ChainStore.open(path) as store, pytest.raises(OSError, match="row 2 of the column"):
        store.read("log_prob")


# --- two at once ----------------------------------------------------------------------------


def test_of_many_that_start_at_once_one_runs_and_the_others_are_told(tmp_path):
    path = tmp_path / "chain.h5"
    fork = multiprocessing.get_context("fork")
    answers, gate, end = fork.Queue(), fork.Event(), fork.Event()

    def start():
        gate.wait()
        try:
            store = make(path)
        except (BlockingIOError, FileExistsError) as error:
            answers.put(str(error))
            return
        fill(store, 3)
        answers.put(os.getpid())
        end.wait()

    processes = [fork.Process(target=start, daemon=True) for _ in range(8)]
    for process in processes:
        process.start()
    gate.set()
    found = [answers.get(timeout=60) for _ in processes]
    winners = [answer for answer in found if isinstance(answer, int)]
    assert len(winners) == 1
    with pytest.raises(
        BlockingIOError, match=rf"process {winners[0]} on {os.uname().nodename}.*chain\.h5"
    ):
        ChainStore.open(path, "r+")
    end.set()
    for process in processes:
        process.join()
    with ChainStore.open(path, "r+") as store:
        check(store, 3)


# --- clocks jump ----------------------------------------------------------------------------


class Chains:
    """Chains whose sweeps take a known time."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def advance(self, sweep):
        self.clock.now += self.seconds
        found = {"theta": np.zeros(2), "log_posterior": 0.0, "acceptance": [1.0, 1.0]}
        return [{**found, "step_size": [0.1, 0.1]}], {}, 0.0


def test_a_clock_that_jumps_changes_neither_eta_nor_time_limit(tmp_path, monkeypatch):
    from npe_tf import inference

    clock, jumps = SimpleNamespace(now=1000.0), itertools.cycle([4e9, 0.0, -1e6])
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    columns = {"theta": Column((1, 2)), "log_posterior": Column((1,))}
    columns |= {name: Column((1, 2)) for name in ("acceptance", "step_size")}
    columns |= {name: Column() for name in inference.COST_COLUMNS}
    seen = []
    with ChainStore.create(tmp_path / "chain.h5", columns, 30, {}, {}) as store:
        inference._loop(
            store,
            Chains(clock, 2.0),
            2,
            inference.JointSettings(num_warmup=10, num_samples=20, num_chains=1),
            seen.append,
            lambda line: None,
            max_seconds=19.0,
            limits=None,
            meter=inference.Meter(),
        )
        assert store.num_committed == 10  # the first after 19 s
        np.testing.assert_array_equal(store.read("wall_seconds"), 2.0)
    assert [progress.eta_seconds for progress in seen] == [2.0 * (29 - n) for n in range(10)]


# --- a whole run ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_damaged_run_goes_on_the_same_or_is_refused(tmp_path):
    from npe_tf.inference import JointSettings, run_inference
    from npe_tf.posterior import PosteriorConfig
    from tests.npe_tf.mock import MASS_THRESHOLD, draw_catalogue

    catalogue, _, theta = draw_catalogue()
    posterior = PosteriorConfig(8, MASS_THRESHOLD).build(catalogue)
    settings = JointSettings(
        num_warmup=10, num_samples=4, num_chains=1, gradients_per_sweep=3, field_every=1
    )
    whole = run_inference(posterior, settings, tmp_path / "whole", initial_theta=theta)
    run_inference(posterior, settings, tmp_path / "cut", initial_theta=theta, max_seconds=0.0)
    path = tmp_path / "cut" / "chain.h5"
    while ChainStore.open(path).num_committed < 6:
        run_inference(posterior, settings, tmp_path / "cut", initial_theta=theta, max_seconds=0.0)
    sound = path.read_bytes()
    size = 8 * theta.size
    flip(path, "chain/theta", 5 * size + 3)  # the newest
    with pytest.warns(RuntimeWarning, match="continuing from sweep 5"):
        run_inference(posterior, settings, tmp_path / "cut", initial_theta=theta)
    with ChainStore.open(path) as cut, ChainStore.open(whole) as other:
        for name in ("theta", "log_posterior", "white_noise", "energy_error"):
            np.testing.assert_array_equal(cut.read(name), other.read(name))
    path.write_bytes(sound)
    flip(path, "chain/theta", 2 * size + 3)
    with pytest.raises(OSError, match=r"Damaged: row 2 of the column 'theta'.*another folder"):
        run_inference(posterior, settings, tmp_path / "cut", initial_theta=theta)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(OSError, match="Not a chain, or truncated"):
        run_inference(posterior, settings, tmp_path / "cut", initial_theta=theta)
