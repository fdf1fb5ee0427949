"""Schemes of inference against each other: effective samples per gradient and per second.

Each scheme runs from prior draws of the field on the shipped box for the same time, in the same
number of processes:

* ``joint``: field and parameters together, microcanonical dynamics in whitened coordinates;
* ``gibbs``: in turns, each block with its measured curvature;
* ``paper``: in turns, unit mass for the field and a BFGS history that starts at the identity.

Of everything watched (parameters, log posterior, P(k), modes and voxels of the field, mass
function) the table has the smallest effective sample size of each kind per 1,000 gradients and the
largest R-hat; the sampling that counts starts after the warm-up. With ``--run`` it tells of a run
that is already there instead, with the checks of its fields.

Run from the root of the repository: ``python benchmarks/inference.py``. An hour and a half with the
defaults; cut short, the same command goes on.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np

from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.convergence import convergence_of, worst_ess, worst_rhat
from npe_tf.datasets import load_nbody_box
from npe_tf.inference import JointSettings, Settings, run_inference
from npe_tf.posterior import PosteriorConfig

MASS_THRESHOLD = 2e12
SCHEMES: dict[str, Any] = {
    "joint": JointSettings(num_warmup=160, num_samples=100_000, num_chains=2, seed=1),
    "gibbs": Settings(num_warmup=200, num_samples=100_000, num_chains=2, seed=1),
    "paper": Settings(
        num_warmup=200, num_samples=100_000, num_chains=2, seed=1, preconditioned=False
    ),
}


def run(scheme: str, num_cells: int, minutes: float, folder: Path) -> Path:
    """Run a scheme, or go on with it, up to so many minutes in all."""
    catalogue = load_nbody_box().catalogue
    config = PosteriorConfig(num_cells, MASS_THRESHOLD)
    path = folder / f"{scheme}_{num_cells}"
    spent = 0.0
    if (path / CHAIN_FILE).exists():
        with ChainStore.open(path / CHAIN_FILE) as store:
            spent = float(np.nansum(store.read("wall_seconds")))
    if spent < 60.0 * minutes:
        run_inference(
            config.build(catalogue),
            SCHEMES[scheme],
            path,
            say=lambda line: print(f"  {line}", flush=True),
            max_seconds=60.0 * minutes - spent,
            num_processes=2,
            build=functools.partial(config.build, catalogue),
        )
    return path


def gradients_per_sweep(attributes: Any) -> int:
    """Gradients of the field in a sweep of one chain."""
    if attributes.get("scheme") == "joint":
        return int(attributes["gradients_per_sweep"])
    return int(attributes["field_leapfrog_steps"]) + 1


def report(name: str, path: Path) -> None:
    """Print the rows of a run."""
    with ChainStore.open(path / CHAIN_FILE) as store:
        attributes = store.attributes
        warmup, chains = int(attributes["num_warmup"]), int(attributes["num_chains"])
        sweeps = store.num_committed - warmup
        seconds = store.read("wall_seconds")
        if sweeps < 8:
            print(f"{name}: {store.num_committed} sweeps, still in its warm-up")
            return
        found = convergence_of(store)
        gradients = sweeps * chains * gradients_per_sweep(attributes)
        sampling = float(seconds[warmup:].sum())
        print(
            f"\n{name}: {attributes['num_cells']}^3, {chains} chains, warm-up "
            f"{seconds[:warmup].sum() / 60:.1f} min, sampling {sampling / 60:.1f} min, "
            f"{gradients:,} gradients ({1e3 * sampling / gradients:.1f} ms each)"
        )
        print("| watched | worst R-hat | smallest ESS | per 1,000 gradients | per minute |")
        print("|---|---|---|---|---|")
        for kind, rows in found.by_kind.items():
            rhat, ess = worst_rhat(rows).rhat, worst_ess(rows).ess
            print(
                f"| {kind} | {rhat:.3f} | {ess:.0f} | {1e3 * ess / gradients:.2f} | "
                f"{60 * ess / sampling:.2f} |"
            )


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_cells", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=30.0, help="for each scheme")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--run", type=Path, help="folder of a run of the shipped box")
    arguments = parser.parse_args()
    if arguments.run is not None:
        from npe_tf.summary import summarise

        report(arguments.run.name, arguments.run)
        print(summarise(arguments.run, load_nbody_box().catalogue).text)
        return
    for scheme in arguments.schemes.split(","):
        print(f"{scheme} ...", flush=True)
        path = run(scheme, arguments.num_cells, arguments.minutes, arguments.folder)
        report(scheme, path)


if __name__ == "__main__":
    main()
