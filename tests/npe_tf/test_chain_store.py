"""The chain on disk: what is committed stays, whatever happens to the program."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npe_tf.chain_store import ChainStore, Column, predicted_nbytes

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {
    "theta": Column((2, 3)),
    "log_prob": Column(),
    "accepted/field": Column((2,), bool),
    "white_noise": Column((4, 4, 4), np.float32, every=3),
}
ATTRIBUTES = {"grid": 4, "box_size": 250.0, "catalogue": "box.h5", "padding": "periodic"}


def row(sweep):
    """What the given sweep must have left behind."""
    rng = np.random.default_rng(sweep)
    return {
        "theta": rng.normal(size=(2, 3)),
        "log_prob": np.float64(-sweep),
        "accepted/field": rng.random(2) < 0.5,
        "white_noise": rng.normal(size=(4, 4, 4)).astype(np.float32),
    }


def state(sweep):
    """The checkpoint after the given number of sweeps."""
    return {
        "position": np.random.default_rng(1000 + sweep).normal(size=(4, 4, 4)).astype(np.float32),
        "seed": np.array([sweep, 7], np.int32),
        "step": np.int64(sweep),
    }


def make(path, capacity=12, **kwargs):
    return ChainStore.create(path, COLUMNS, capacity, state(0), ATTRIBUTES, **kwargs)


def fill(store, upto):
    for sweep in range(store.num_committed, upto):
        store.append(row(sweep), state(sweep + 1))


def check(store, count):
    """The chain holds exactly the first `count` sweeps."""
    assert store.num_committed == count
    for name, column in COLUMNS.items():
        kept = [row(s)[name] for s in range(count) if (s + 1) % column.every == 0]
        rows = store.read(name)
        assert rows.shape == (len(kept), *column.shape)
        assert rows.dtype == column.dtype
        for got, want in zip(rows, kept, strict=True):
            np.testing.assert_array_equal(got, want)
    found = store.checkpoint()
    if count == 0:
        assert found is None
        return
    assert found.keys() == state(count).keys()
    for name, value in state(count).items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "chain.h5")


def test_round_trip(path):
    constants = {"truth/field": np.arange(8.0).reshape(2, 2, 2), "empty": np.zeros(0)}
    with make(path, constants=constants) as store:
        check(store, 0)
        fill(store, 7)
        check(store, 7)
        np.testing.assert_array_equal(store.read("log_prob", 2, 5), [-2.0, -3.0, -4.0])
        np.testing.assert_array_equal(store.read("log_prob", -2), [-5.0, -6.0])
        assert store.read("log_prob", 9, 3).shape == (0,)
    with ChainStore.open(path, "r+", ATTRIBUTES) as store:
        assert dict(store.attributes) == ATTRIBUTES
        assert dict(store.columns) == COLUMNS
        np.testing.assert_array_equal(store.constant("truth/field"), constants["truth/field"])
        assert store.constant("empty").shape == (0,)
        fill(store, 12)
        check(store, 12)
        with pytest.raises(ValueError, match="full: 12 of 12"):
            store.append(row(12), state(13))
        check(store, 12)


def test_columns_not_due_may_be_left_out_and_due_ones_may_not(path):
    with make(path) as store:
        short = row(0)
        del short["white_noise"]
        store.append(short, state(1))
        store.append(row(1), state(2))
        with pytest.raises(ValueError, match=r"`rows`\. Expected the names .*'white_noise'"):
            store.append(short, state(3))
        store.append(row(2), state(3))
        np.testing.assert_array_equal(store.read("white_noise"), [row(2)["white_noise"]])


def test_plain_h5py_reads_it_while_it_is_written(path):
    with make(path) as store:
        for count in (2, 5):
            fill(store, count)
            with h5py.File(path, "r") as file:
                assert file["committed"][()] == count
                np.testing.assert_array_equal(file["chain/log_prob"][:count], -np.arange(count))
                assert file.attrs["catalogue"] == "box.h5"
                assert file["chain/white_noise"].attrs["every"] == 3


def test_reader_follows_the_writer_and_its_extension(path):
    with make(path) as store, ChainStore.open(path) as reader:
        fill(store, 4)
        check(reader, 4)
        store.extend(40)
        fill(store, 20)
        check(reader, 20)
        assert reader.capacity == 40
        with pytest.raises(PermissionError, match="reading only"):
            reader.append(row(20), state(21))
        with pytest.raises(PermissionError, match="reading only"):
            reader.extend(50)


def test_extend_keeps_everything(path):
    with make(path, constants={"k": np.arange(3)}) as store:
        fill(store, 12)
        store.extend(13)
        check(store, 12)
        fill(store, 13)
        assert not os.path.exists(path + ".partial")
        with pytest.raises(BlockingIOError):
            ChainStore.open(path, "r+")
        for bad in (13, 5, 0, 20.0):
            with pytest.raises(ValueError, match="`new_capacity`"):
                store.extend(bad)
    with ChainStore.open(path, "r+") as store:
        check(store, 13)
        np.testing.assert_array_equal(store.constant("k"), np.arange(3))
        assert dict(store.attributes) == ATTRIBUTES


def test_equal_runs_make_equal_files(tmp_path):
    contents = []
    for name in ("a.h5", "b.h5"):
        with make(tmp_path / name) as store:
            fill(store, 5)
        if name == "b.h5":
            with ChainStore.open(tmp_path / name, "r+") as store:
                fill(store, 9)
        else:
            with ChainStore.open(tmp_path / name, "r+") as store:
                fill(store, 7)
                fill(store, 9)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][8] == 0  # superblock of the oldest kind: no consistency flags


def test_predicted_size(path):
    constants = {"k": np.arange(100.0)}
    predicted = predicted_nbytes(COLUMNS, 50, state(0), constants)
    rows = 50 * (6 * 8 + 8 + 2) + 16 * 64 * 4
    slots = 2 * (64 * 4 + 2 * 4 + 8)
    checks = 4 * (3 * 50 + 16)
    assert predicted == rows + checks + slots + 800 + 8 + 4 * 8
    with make(path, capacity=50, constants=constants) as store:
        num_datasets = 2 * 4 + 2 * 3 + 1 + 2
        assert predicted < store.nbytes < predicted + 8192 + 1024 * num_datasets
        assert os.path.getsize(path) == store.nbytes
        fill(store, 50)
        assert os.path.getsize(path) == store.nbytes  # appending never grows the file


# --- dying -----------------------------------------------------------------------------------

WRITER = textwrap.dedent(
    """
    import os, sys
    from npe_tf.chain_store import ChainStore
    from tests.npe_tf.test_chain_store import check, make, row, state

    path, total = sys.argv[1], int(sys.argv[2])
    exists = os.path.exists(path)
    store = ChainStore.open(path, "r+") if exists else make(path, capacity=total)
    check(store, store.num_committed)
    print(store.num_committed, flush=True)
    for sweep in range(store.num_committed, total):
        store.append(row(sweep), state(sweep + 1))
        print(sweep + 1, flush=True)
    """
)


def start_writer(path, total):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(total)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_kill_9_at_random_moments_loses_nothing(tmp_path):
    path, total = str(tmp_path / "killed.h5"), 4000
    moments = random.Random(1)
    before = 0
    for _ in range(6):
        writer = start_writer(path, total)
        first = int(writer.stdout.readline())
        time.sleep(moments.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        lines = writer.stdout.read().split()
        assert writer.wait() in (-signal.SIGKILL, 0)
        assert first == before
        last = int(lines[-1]) if lines else first
        with ChainStore.open(path) as store:
            before = store.num_committed
            assert last <= before <= last + 1
            check(store, before)
    assert before > 0
    total = before + 5
    with ChainStore.open(path, "r+", ATTRIBUTES) as store:
        fill(store, total)
        check(store, total)
    with make(tmp_path / "whole.h5", capacity=4000) as store:
        fill(store, total)
    assert (tmp_path / "whole.h5").read_bytes() == Path(path).read_bytes()


def test_lock_of_a_killed_writer_is_released(path):
    writer = start_writer(path, 100_000)
    writer.stdout.readline()
    with pytest.raises(BlockingIOError, match=f"Another process writes.*{writer.pid}"):
        ChainStore.open(path, "r+")
    writer.kill()
    writer.stdout.read()
    writer.wait()
    ChainStore.open(path, "r+").close()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_torn_and_reordered_writes_leave_the_last_commit(data, tmp_path_factory):
    """Between two synchronisations a crash may keep any part of any write, in any order."""
    folder = tmp_path_factory.mktemp("torn")
    path = str(folder / "chain.h5")
    start = data.draw(st.integers(0, 4), label="sweeps before")
    epochs = [[]]
    with make(path) as store:
        fill(store, start)
        base = Path(path).read_bytes()
        write, sync = os.pwrite, os.fsync

        def recorded(descriptor, content, offset):
            epochs[-1].append((offset, bytes(content)))
            return write(descriptor, content, offset)

        def synchronised(descriptor):
            epochs.append([])
            return sync(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", recorded)
            patch.setattr(os, "fsync", synchronised)
            fill(store, start + 3)
    epochs.pop()
    assert len(epochs) == 6
    done = data.draw(st.integers(0, len(epochs) - 1), label="epochs on the disk")
    image = bytearray(base)
    for offset, content in (w for epoch in epochs[:done] for w in epoch):
        image[offset : offset + len(content)] = content
    counter = done % 2 == 1  # every second epoch is the counter alone: eight bytes in one sector
    for offset, content in data.draw(st.permutations(epochs[done])):
        kept = data.draw(
            st.sampled_from([0, len(content)]) if counter else st.integers(0, len(content))
        )
        image[offset : offset + kept] = content[:kept]
    Path(path).write_bytes(image)
    finished = start + done // 2
    possible = {finished, finished + 1} if counter else {finished}
    with ChainStore.open(path, "r+") as store:
        count = store.num_committed
        assert count in possible
        check(store, count)
        fill(store, start + 3)
        check(store, start + 3)
    shutil.rmtree(folder)


def damage(path, commit):
    with h5py.File(path, "r") as file:
        offset = file[f"checkpoint/{commit % 2}/position"].id.get_offset()
    with open(path, "r+b") as file:
        file.seek(offset + 5)
        byte = file.read(1)[0]
        file.seek(offset + 5)
        file.write(bytes([byte ^ 0x10]))


def test_damaged_newest_checkpoint_falls_back_one_sweep(path):
    with make(path) as store:
        fill(store, 5)
    damage(path, 5)
    with ChainStore.open(path) as reader:
        assert reader.num_committed == 5  # a reader changes nothing and can still have the rows
        assert reader.read("theta").shape == (5, 2, 3)
        with pytest.raises(OSError, match=r"checkpoint of sweep 5 is damaged.*chain\.h5"):
            reader.checkpoint()
    with pytest.warns(RuntimeWarning, match="continuing from sweep 4"):
        store = ChainStore.open(path, "r+")
    with store:
        check(store, 4)
        fill(store, 9)
        check(store, 9)


def test_both_checkpoints_damaged_is_an_error(path):
    with make(path) as store:
        fill(store, 5)
    damage(path, 5)
    damage(path, 4)
    with pytest.raises(OSError, match=r"checkpoint of sweep 5 is damaged.*chain\.h5"):
        ChainStore.open(path, "r+")
    ChainStore.open(path, "r").close()  # and the lock was given back
    with pytest.raises(OSError, match="damaged"):
        ChainStore.open(path, "r+")


def test_disk_full_while_appending(path, monkeypatch):
    write = os.pwrite
    left = [3]

    def full(descriptor, content, offset):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[: max(1, len(content) // 2)], offset)  # and short writes

    with make(path) as store:
        fill(store, 4)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"Cannot commit sweep 5 \(No space left.*chain\.h5") as e:
            fill(store, 5)
        assert e.value.errno == errno.ENOSPC
        monkeypatch.undo()
        check(store, 4)
        fill(store, 6)  # space has been made
        check(store, 6)


def test_short_writes_are_completed(path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda d, content, offset: write(d, content[:3], offset))
    with make(path) as store:
        fill(store, 6)
        check(store, 6)


def test_failed_counter_closes_the_chain_to_writing(path, monkeypatch):
    with make(path) as store:
        fill(store, 4)
        sync, calls = os.fsync, []

        def failing(descriptor):
            calls.append(descriptor)
            if len(calls) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return sync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Cannot commit sweep 5"):
            fill(store, 5)
        monkeypatch.undo()
        with pytest.raises(OSError, match="open the chain again"):
            fill(store, 6)
    with ChainStore.open(path, "r+") as store:
        assert store.num_committed in (4, 5)
        check(store, store.num_committed)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_disk_full_before_the_start(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OSError, match=r"Cannot make a chain of 0\.0 MiB \(No space.*chain\.h5"
    ) as e:
        make(path)
    assert e.value.errno == errno.ENOSPC
    assert not os.path.exists(path)
    assert not os.path.exists(path + ".partial")
    monkeypatch.undo()
    with make(path) as store:
        fill(store, 3)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            store.extend(100)
        fill(store, 5)
        check(store, 5)
        assert store.capacity == 12


# --- refusals --------------------------------------------------------------------------------


def test_never_overwrites(path):
    Path(path).write_text("precious")
    with pytest.raises(FileExistsError, match=r"overwrite.*chain\.h5"):
        make(path)
    assert Path(path).read_text() == "precious"


def test_second_writer_is_refused(path):
    with make(path):
        with pytest.raises(BlockingIOError, match=rf"Another process writes.*{os.getpid()}"):
            ChainStore.open(path, "r+")
        ChainStore.open(path, "r").close()
    ChainStore.open(path, "r+").close()


def test_chain_of_a_different_run(path):
    attributes = {**ATTRIBUTES, "names": ["a", "b"], "edges": [1.0, float("nan")], "flag": True}
    ChainStore.create(path, COLUMNS, 3, {}, attributes).close()
    ChainStore.open(path, "r+", attributes).close()
    ChainStore.open(path, "r", {"grid": np.int64(4), "edges": np.array([1.0, np.nan])}).close()
    wanted = {**attributes, "grid": 8, "names": ["a", "c"], "edges": [1.0], "version": "2"}
    with pytest.raises(ValueError, match="different run") as error:
        ChainStore.open(path, "r+", wanted)
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        "  grid: expected 8, received 4",
        "  names: expected ['a', 'c'], received ['a', 'b']",
        "  edges: expected [1.0], received array([ 1., nan])",
        "  version: expected '2', received none",
        "The settings it was begun with go on with it; another folder starts anew.",
    ]
    ChainStore.open(path, "r+", attributes).close()  # the lock was given back


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_garbage(path, content):
    Path(path).write_bytes(content)
    for mode in ("r", "r+"):
        with pytest.raises(OSError, match=r"Not a chain, or truncated or damaged.*chain\.h5"):
            ChainStore.open(path, mode)


def test_truncated_at_any_length(path):
    with make(path) as store:
        fill(store, 4)
    whole = Path(path).read_bytes()
    for length in range(0, len(whole), 97):
        Path(path).write_bytes(whole[:length])
        with pytest.raises(OSError, match=r"chain\.h5"):
            ChainStore.open(path)


def test_another_hdf5_file(path):
    with h5py.File(path, "w") as file:
        file["halos/mass"] = np.ones(3)
    with pytest.raises(OSError, match=r"Not a chain.*chain\.h5"):
        ChainStore.open(path)


def test_counter_out_of_range(path):
    make(path).close()
    with h5py.File(path, "r+") as file:
        file["committed"][...] = 13
    with pytest.raises(OSError, match="13 sweeps committed"):
        ChainStore.open(path)


def test_missing_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no chain.*chain\.h5"):
        ChainStore.open(tmp_path / "chain.h5", "r+")
    with pytest.raises(FileNotFoundError, match=r"folder does not exist.*chain\.h5"):
        make(tmp_path / "nowhere" / "chain.h5")
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_to(path):
    os.mkdir(path + ".lock")
    with pytest.raises(OSError, match=r"Cannot write beside .*chain\.h5"):
        make(path)


def test_closed_chain(path):
    store = make(path)
    store.close()
    store.close()
    for use in (lambda: store.num_committed, store.checkpoint, lambda: fill(store, 1)):
        with pytest.raises(ValueError, match="is closed"):
            use()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros((3, 2))}, r"`rows`\. Expected 'theta' with shape \(2, 3\)"),
        ({"theta": np.zeros((2, 3), np.float32)}, "dtype float64. Received: .* dtype float32"),
        ({"log_prob": 1}, "'log_prob' .* dtype int64"),
        ({"white_noise": np.zeros(3)}, "'white_noise'"),
        ({"unheard": 1.0}, "Expected the names"),
    ],
)
def test_rows_are_checked_before_anything_is_written(path, change, message):
    with make(path) as store:
        fill(store, 1)
        before = Path(path).read_bytes()
        with pytest.raises(ValueError, match=message):
            store.append({**row(1), **change}, state(2))
        assert Path(path).read_bytes() == before


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "Expected the names"),
        ({**state(2), "more": 1}, "Expected the names"),
        ({**state(2), "step": np.int32(2)}, "Expected 'step' .* dtype int64"),
    ],
)
def test_checkpoint_is_checked_before_anything_is_written(path, checkpoint, message):
    with make(path) as store:
        fill(store, 1)
        before = Path(path).read_bytes()
        with pytest.raises(ValueError, match=rf"`checkpoint`\. {message}"):
            store.append(row(1), checkpoint)
        assert Path(path).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0}, r"`capacity`\. .*Received: capacity=0"),
        ({"capacity": True}, "`capacity`"),
        ({"columns": {"": Column()}}, "`columns`"),
        ({"columns": {"/a": Column()}}, "`columns`"),
        ({"columns": {"a/../b": Column()}}, "`columns`"),
        ({"columns": {"a": Column(), "a/b": Column()}}, "group of another"),
        ({"checkpoint": {"x": np.array(["text"])}}, "`checkpoint`"),
        ({"constants": {"x": np.array([None])}}, "`constants`"),
        ({"attributes": {"x": None}}, r"`attributes`\. Expected 'x'"),
        ({"attributes": {"x": np.zeros(10_000)}}, "60000 bytes"),
        ({"attributes": {"x": "nul\0"}}, "`attributes`"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, arguments, message):
    defaults = {"columns": COLUMNS, "capacity": 3, "checkpoint": {}, "attributes": {}}
    with pytest.raises(ValueError, match=message):
        ChainStore.create(tmp_path / "chain.h5", **{**defaults, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (-1,)}, "`shape`"),
        ({"shape": (1.5,)}, "`shape`"),
        ({"dtype": object}, "`dtype`"),
        ({"dtype": np.longdouble}, "`dtype`"),
        ({"every": 0}, "`every`"),
        ({"every": 1.0}, "`every`"),
    ],
)
def test_bad_columns(arguments, message):
    with pytest.raises(ValueError, match=message):
        Column(**arguments)


def test_unknown_names_and_modes(path):
    with make(path) as store:
        with pytest.raises(ValueError, match=r"`name`.*'log_prob'.*name='theat'"):
            store.read("theat")
        with pytest.raises(ValueError, match="`name`"):
            store.constant("theat")
    with pytest.raises(ValueError, match="`mode`"):
        ChainStore.open(path, "w")


# --- any shape and type ------------------------------------------------------------------------

columns = st.builds(
    Column,
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["?", "i1", "u2", "<i4", ">i4", "i8", "f2", "f4", "f8", ">f8", "c8", "c16"]),
    st.integers(1, 4),
)


@given(
    columns=st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "é", "seal"]), columns, max_size=4),
    capacity=st.integers(1, 9),
    bounds=st.tuples(st.integers(0, 12), st.integers(0, 9)),
)
@settings(max_examples=60, deadline=None)
def test_any_columns(tmp_path_factory, columns, capacity, bounds):
    folder = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(0)
    longest, stop = max(bounds), min(bounds[0], capacity)

    def value(column):
        size = int(np.prod(column.shape)) * column.dtype.itemsize
        if column.dtype == bool:
            return rng.random(column.shape) < 0.5
        return np.frombuffer(rng.bytes(size), column.dtype).reshape(column.shape)

    template = {name: np.zeros(c.shape, c.dtype) for name, c in columns.items()}
    values = [{n: value(c) for n, c in columns.items()} for _ in range(longest)]
    path = folder / "chain.h5"
    with ChainStore.create(path, columns, capacity, template, {}, template) as store:
        for sweep in values[:stop]:
            store.append(sweep, sweep)
    if longest > capacity:
        with ChainStore.open(path, "r+") as store:
            store.extend(longest)
            for sweep in values[stop:]:
                store.append(sweep, sweep)
            stop = longest
    with ChainStore.open(path) as store:
        assert store.num_committed == stop
        assert dict(store.columns) == columns
        for name, column in columns.items():
            kept = [v[name] for s, v in enumerate(values[:stop]) if (s + 1) % column.every == 0]
            rows = store.read(name)
            assert rows.dtype == column.dtype
            assert rows.tobytes() == b"".join(v.tobytes() for v in kept)
            if stop:
                assert store.checkpoint()[name].tobytes() == values[stop - 1][name].tobytes()
            assert store.constant(name).shape == column.shape
    shutil.rmtree(folder)
