"""What a chain file shows to have gone wrong numerically, chain by chain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from npe_tf.chain_store import ChainStore

__all__ = ["warnings_of"]

_FEWEST_STILL = 20  # sweeps in a row without a move that are no chance
_MOST_REFUSED = 0.01  # share of the sweeps of the dynamics
_LEAST_ACCEPTED = 0.2  # share of the moves of the Gibbs scheme

Array = NDArray[np.float64]


def warnings_of(store: ChainStore) -> list[str]:
    """Look through what a run stored for every sweep.

    Args:
        store: of the run, finished or still being written.

    Returns:
        Sentences: numbers that are not finite, at any time; chains that stand still, and sweeps or
        moves that were refused, after the warm-up. None if all is well.
    """
    warmup = int(store.attributes["num_warmup"])
    stop = store.num_committed  # a writer may go on meanwhile
    found: list[str] = []
    for column, told in (("log_posterior", "the log posterior"), ("theta", "a parameter")):
        values = np.asarray(store.read(column, 0, stop))
        lost = ~np.isfinite(values).all(axis=tuple(range(2, values.ndim)))
        found += [
            f"In chain {chain} {told} is not finite in {count} of {len(lost)} sweeps: the mesh or "
            "the bias model is not up to this catalogue; compare --dtype=float64."
            for chain, count in enumerate(lost.sum(axis=0))
            if count
        ]
    theta = np.asarray(store.read("theta", warmup, stop))
    for chain, still in enumerate(_last_still(theta)):
        if still >= _FEWEST_STILL:
            found.append(
                f"Chain {chain} has not moved for the last {still} sweeps: begin a new run with "
                "another --seed or a longer --num_warmup."
            )
    if "acceptance" in store.columns and stop > warmup:
        acceptance = np.asarray(store.read("acceptance", warmup, stop))
        joint = store.attributes.get("scheme") == "joint"
        found += _refused(acceptance) if joint else _seldom_accepted(acceptance)
    return found


def _last_still(theta: Array) -> list[int]:
    """Sweeps at the end in which the parameters `[S, C, D]` did not change, for each chain."""
    still = np.all(theta[1:] == theta[:-1], axis=-1)[::-1]
    return [int(np.argmin(chain)) if not chain.all() else len(chain) for chain in still.T]


def _refused(acceptance: Array) -> list[str]:
    shares = np.mean(acceptance[..., 0] == 0.0, axis=0)
    return [
        f"In chain {chain} {share:.0%} of the sweeps were refused, since the trajectory diverged: "
        "ask for smaller steps, half the --energy_error."
        for chain, share in enumerate(shares)
        if share > _MOST_REFUSED
    ]


def _seldom_accepted(acceptance: Array) -> list[str]:
    found = []
    for block, name in enumerate(("the field", "the parameters")):
        means = np.nan_to_num(acceptance[..., block]).mean(axis=0)
        found += [
            f"In chain {chain} only {mean:.0%} of the moves of {name} were accepted: a longer "
            "--num_warmup lets the step size settle."
            for chain, mean in enumerate(means)
            if mean < _LEAST_ACCEPTED
        ]
    return found
