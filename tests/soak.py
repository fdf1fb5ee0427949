"""Kills runs at random moments, again and again, and compares what is left with whole ones.

Usage: ``python -m tests.soak --kills 50``, or ``make soak``. Takes about 20 s per kill.

Each round starts `experiments.infer` on a small catalogue and kills it (SIGKILL, its processes too)
after a random time, until the run is finished. After every kill the file must be readable, hold at
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

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.energy import COST_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
NUM_WARMUP, NUM_SAMPLES = 24, 12
SCHEMES = {
    "joint": ["--gradients_per_sweep=4", "--num_processes=1"],
    "joint in two processes": ["--gradients_per_sweep=4", "--num_processes=2"],
    "gibbs": ["--scheme=gibbs", "--field_leapfrog_steps=3", "--num_processes=1"],
}


def command(catalogue: Path, output: Path, arguments: list[str]) -> list[str]:
    """How the run is started."""
    return [
        sys.executable, "-m", "experiments.infer", f"--catalogue={catalogue}",
        f"--output={output}", "--grid=8", "--num_chains=2", f"--num_warmup={NUM_WARMUP}",
        f"--num_samples={NUM_SAMPLES}", "--field_every=4", "--seed=7", *arguments,
    ]  # fmt: skip


def read(folder: Path) -> dict[str, np.ndarray] | None:
    """Every column of a run but what time it took; `None` if there is no file yet."""
    path = folder / CHAIN_FILE
    if not path.exists():
        return None
    with ChainStore.open(path) as store:
        return {name: store.read(name) for name in store.columns if name not in COST_COLUMNS}


def start(catalogue: Path, folder: Path, arguments: list[str]) -> subprocess.Popen:
    """Start the run in a process group of its own."""
    return subprocess.Popen(
        command(catalogue, folder, arguments),
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


def phase(num_sweeps: int) -> str:
    """Where a kill hit."""
    if num_sweeps == 0:
        return "the start"
    return "warm-up" if num_sweeps < NUM_WARMUP else "sampling"


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    hits: collections.Counter[str] = collections.Counter()
    rounds = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalogue = folder / "halos.h5"
        from tests.npe_tf.mock import draw_catalogue

        draw_catalogue()[0].write_hdf5(catalogue)
        whole, seconds = {}, {}
        for scheme, arguments in SCHEMES.items():
            output = folder / scheme
            seconds[scheme] = finish(start(catalogue, output, arguments))
            whole[scheme] = read(output)
            print(f"{scheme}: a whole run takes {seconds[scheme]:.0f} s", flush=True)
        while sum(hits.values()) < options.kills:
            scheme = list(SCHEMES)[rounds % len(SCHEMES)]
            output = folder / f"round {rounds}"
            committed = 0
            while committed < NUM_WARMUP + NUM_SAMPLES:
                process = start(catalogue, output, SCHEMES[scheme])
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
                    hits[phase(now)] += 1
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
