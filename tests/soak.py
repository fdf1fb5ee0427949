"""Kills runs at random moments, again and again, and compares what is left with whole ones.

Usage: ``python -m tests.soak --kills 50``, or ``make soak``. Takes one to two minutes per kill on
two idle cores; ``--schemes store`` takes a second, and needs no TensorFlow.

Each round starts `experiments.infer` on a small catalogue, or for ``store`` a random walk in NumPy
with a checkpoint, and kills it (SIGKILL, its processes too) after a random time, until the run is
finished. After every kill the file must be readable, hold at
least as many sweeps as before, and every sweep in it must be that of a run that was never
interrupted, to the last bit. Rounds go on until there were enough kills.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from npe_tf.chain_store import CHAIN_FILE, ChainStore, Column
from npe_tf.energy import COST_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
NUM_WARMUP, NUM_SAMPLES = 24, 12
STORE = "store"
SCHEMES = {
    "joint": ["--gradients_per_sweep=4", "--num_processes=1"],
    "joint in two processes": ["--gradients_per_sweep=4", "--num_processes=2"],
    "gibbs": ["--scheme=gibbs", "--field_leapfrog_steps=3", "--num_processes=1"],
}

# sweeps of it are as short as a commit, so that most kills hit one
WALK_WARMUP, WALK_SAMPLES = 500, 1500


def walk(folder: Path) -> None:
    """Run, or go on with, a random walk that depends on all of its checkpoint."""
    path = folder / CHAIN_FILE
    columns = {"theta": Column((3,)), "field": Column((16, 16), np.float32, every=3)}
    start = {"theta": np.zeros(3), "field": np.zeros((16, 16), np.float32), "seed": np.int64(0)}
    if path.exists():
        store = ChainStore.open(path, "r+")
    else:
        folder.mkdir(exist_ok=True)
        store = ChainStore.create(path, columns, WALK_WARMUP + WALK_SAMPLES, start, {})
    with store:
        state = store.checkpoint() or start
        for _ in range(store.num_committed, store.capacity):
            rng = np.random.default_rng(int(state["seed"]))
            field = np.roll(state["field"], 1, 0) + rng.normal(size=(16, 16)).astype(np.float32)
            theta = np.cos(state["theta"]) + rng.normal(size=3) + float(field.mean())
            state = {"theta": theta, "field": field, "seed": np.int64(rng.integers(2**62))}
            store.append({"theta": theta, "field": field}, state)


def command(scheme: str, catalogue: Path, output: Path) -> list[str]:
    """How the run is started."""
    if scheme == STORE:
        return [sys.executable, "-m", "tests.soak", "--walk", str(output)]
    return [
        sys.executable, "-m", "experiments.infer", f"--catalogue={catalogue}",
        f"--output={output}", "--grid=8", "--num_chains=2", f"--num_warmup={NUM_WARMUP}",
        f"--num_samples={NUM_SAMPLES}", "--field_every=4", "--seed=7", *SCHEMES[scheme],
    ]  # fmt: skip


def read(folder: Path) -> dict[str, np.ndarray] | None:
    """Every column of a run but what time it took; `None` if there is no file yet."""
    path = folder / CHAIN_FILE
    if not path.exists():
        return None
    with ChainStore.open(path) as store:
        return {name: store.read(name) for name in store.columns if name not in COST_COLUMNS}


def start(scheme: str, catalogue: Path, folder: Path) -> subprocess.Popen:
    """Start the run in a process group of its own."""
    return subprocess.Popen(
        command(scheme, catalogue, folder),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> float:
    """Wait for the end of a run; seconds it took."""
    began = time.monotonic()
    _, complaint = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"A run ended with status {process.returncode}:\n{complaint.decode()}")
    return time.monotonic() - began


def phase(num_sweeps: int, warmup: int) -> str:
    """Where a kill hit."""
    if num_sweeps == 0:
        return "the start"
    return "warm-up" if num_sweeps < warmup else "sampling"


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--schemes", nargs="+", choices=[*SCHEMES, STORE], default=[*SCHEMES, STORE]
    )
    parser.add_argument("--walk", type=Path, help="run the random walk in this folder, no soak")
    options = parser.parse_args()
    if options.walk:
        walk(options.walk)
        return
    rng = random.Random(options.seed)
    hits: collections.Counter[str] = collections.Counter()
    rounds = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue = folder / "halos.h5"
        if options.schemes != [STORE]:
            from tests.npe_tf.mock import draw_catalogue

            draw_catalogue()[0].write_hdf5(catalogue)
        whole, seconds = {}, {}
        for scheme in options.schemes:
            output = folder / scheme
            seconds[scheme] = finish(start(scheme, catalogue, output))
            whole[scheme] = read(output)
            print(f"{scheme}: a whole run takes {seconds[scheme]:.0f} s", flush=True)
        while sum(hits.values()) < options.kills:
            scheme = options.schemes[rounds % len(options.schemes)]
            warmup, samples = NUM_WARMUP, NUM_SAMPLES
            if scheme == STORE:
                warmup, samples = WALK_WARMUP, WALK_SAMPLES
            output = folder / f"round {rounds}"
            committed = 0
            while committed < warmup + samples:
                process = start(scheme, catalogue, output)
                # soon after the first sweep as well as long after it
                patience = rng.uniform(0.2, 1.0) * seconds[scheme]
                try:
                    process.wait(timeout=patience)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                    killed = True
                else:
                    finish(process)
                    killed = False
                found = read(output)
                now = 0 if found is None else len(found["theta"])
                if killed:
                    hits[phase(now, warmup)] += 1
                # what a run takes depends on what else the machine does
                if not killed:
                    seconds[scheme] *= 0.8
                elif now == committed:
                    seconds[scheme] *= 1.25
                if now < committed:
                    raise SystemExit(f"{committed} sweeps were committed, {now} are left")
                for column, values in (found or {}).items():
                    expected = whole[scheme][column][: len(values)]
                    if not np.array_equal(values, expected, equal_nan=True):
                        raise SystemExit(f"{scheme}: column {column!r} is not that of a whole run")
                committed = now
            rounds += 1
            print(
                f"round {rounds} ({scheme}): the same chain; kills so far: {dict(hits)}", flush=True
            )
    total = sum(hits.values())
    print(
        f"kills survived {total} ({', '.join(f'{n} in {p}' for p, n in hits.items())}), committed "
        f"sweeps lost 0, chains equal to whole ones {rounds} of {rounds}"
    )


if __name__ == "__main__":
    main()
