"""Starts of a run, noted and read back, whatever became of the file."""

import json

import numpy as np

from npe_tf.run_history import HISTORY_FILE, package_versions, read_starts, record_start


def test_starts_are_read_back_in_order(tmp_path):
    assert read_starts(tmp_path) == []
    record_start(tmp_path, 0, "npe-infer --output='a b'")
    record_start(tmp_path, 12)
    first, second = read_starts(tmp_path)
    assert (first.command, first.sweeps) == ("npe-infer --output='a b'", 0)
    assert (second.command, second.sweeps) == ("", 12)
    assert first.time <= second.time and first.time.endswith("+00:00")
    assert first.versions == package_versions()
    assert first.versions["numpy"] == np.__version__ and "python" in first.versions


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    record_start(tmp_path, 0, "one")
    path = tmp_path / HISTORY_FILE
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:25])  # killed while it wrote
    record_start(tmp_path, 3, "two")
    with path.open("ab") as file:
        file.write(b'[1]\n{"time": 1}\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
        file.write(
            json.dumps({"time": "", "command": "", "sweeps": 1e999, "versions": {}}).encode()
        )
    assert [start.command for start in read_starts(tmp_path)] == ["one", "two"]


def test_a_huge_file_is_not_read_whole(tmp_path):
    record_start(tmp_path, 0, "one")
    with (tmp_path / HISTORY_FILE).open("ab") as file:
        file.write(b"x" * (1 << 21))
    assert [start.command for start in read_starts(tmp_path)] == ["one"]
