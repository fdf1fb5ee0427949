"""That memory will not suffice is told before it is met."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.memory import available_bytes, predicted_bytes, shortage

ROOT = Path(__file__).resolve().parents[2]
GIB = 2.0**30


def test_the_least_limit_counts(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert available_bytes(tmp_path) == float("inf")
    write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable:    4194304 kB\nSwapFree: 0 kB\n")
    assert available_bytes(tmp_path) == 4 * GIB
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "1048576\n")
    assert available_bytes(tmp_path) == 4 * GIB
    write("sys/fs/cgroup/memory.max", f"{3 * 2**30}\n")
    assert available_bytes(tmp_path) == 3 * GIB - 2**20
    write("sys/fs/cgroup/memory.current", f"{5 * 2**30}\n")
    assert available_bytes(tmp_path) == 0.0


def test_here_there_is_some_and_a_limit_of_the_process_counts():
    assert 2**20 < available_bytes() < 2**50
    script = (
        "import resource; from experiments.memory import available_bytes;"
        f"resource.setrlimit(resource.RLIMIT_AS, ({2**30}, {2**30})); print(available_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 0 < float(done.stdout) < GIB
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 2**30


def test_more_cells_particles_or_digits_take_more():
    base = predicted_bytes(128)
    field = 4.0 * 128**3
    assert predicted_bytes(256) - base == pytest.approx(7 * (base - predicted_bytes(0)))
    assert predicted_bytes(128, 2) > base + 100 * field
    assert predicted_bytes(128, dtype="float64") - predicted_bytes(0) == pytest.approx(
        2 * (base - predicted_bytes(0))
    )


def test_what_does_not_fit_is_told_with_what_would():
    assert shortage(32, 1, "float32", 1, available=8 * GIB) is None
    assert shortage(32, 1, "float32", 4, available=100 * GIB) is None
    line = shortage(32, 1, "float32", 4, available=6 * GIB)
    assert "5 processes" in line and "--num_processes=2 would fit" in line
    assert shortage(32, 1, "float32", 2, available=6 * GIB) is None
    assert "--num_processes=1 would fit" in shortage(32, 1, "float32", 4, available=2 * GIB)
    assert "Choose a smaller --grid" in shortage(1024, 1, "float32", 1, available=64 * GIB)


@pytest.mark.slow
def test_a_dry_run_of_a_mesh_too_large_is_told_and_not_tried(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "experiments.infer", "--grid=4096", "--mass_threshold=1e13",
            f"--output={tmp_path / 'run'}", "--dry_run",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "more than there is; it would be killed" in done.stdout
    assert "nothing was tried or written" in done.stdout
    assert not list(tmp_path.iterdir())
