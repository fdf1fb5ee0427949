"""What went wrong in a chain: trajectories that diverged, a chain that stands, numbers not finite.

A sweep has diverged if its proposal had probability zero: the energy changed by hundreds, or energy
or gradient were not finite. Such a sweep is refused and the chain stays where it was, so a few of
them bias nothing by themselves; they tell of places where the steps are too long. A chain that is
refused again and again stands, and its samples are one sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.chain_store import ChainStore

__all__ = ["Health", "StandingWatch", "health_of", "measure_health"]

STANDING = 20
"""Sweeps without a move after which a chain is told to stand."""

_FEW = 0.01  # share of divergent sweeps of which no more is said than their number


@dataclasses.dataclass(frozen=True)
class Health:
    """Counts for each of C chains; of the sweeps after the warm-up unless it says otherwise.

    Attributes:
        num_samples: sweeps after the warm-up.
        divergent: sweeps that were refused with probability zero, `[C]`.
        divergent_warmup: sweeps of the warm-up in which a step was, `[C]`.
        standing: longest row of sweeps without a change of parameters or log posterior, `[C]`.
        not_finite: sweeps whose log posterior or parameters are not finite, `[C]`.
    """

    num_samples: int
    divergent: NDArray[np.integer]
    divergent_warmup: NDArray[np.integer]
    standing: NDArray[np.integer]
    not_finite: NDArray[np.integer]

    @property
    def is_sound(self) -> bool:
        """Whether no chain stands and all is finite; divergent sweeps are no hindrance."""
        return not (np.any(self.standing >= STANDING) or np.any(self.not_finite))

    def lines(self) -> list[str]:
        """What there is to say, with advice; nothing of chains without faults."""
        said = []
        if np.any(self.divergent):
            share = self.divergent.max() / max(1, self.num_samples)
            advice = "few, and refused as they should be"
            if share > _FEW:
                advice = (
                    "steps are too long somewhere: halve --energy_error (gibbs: more "
                    "--field_leapfrog_steps) or double --num_warmup, in another folder"
                )
            said.append(
                f"divergent sweeps by chain: {_listed(self.divergent)} of {self.num_samples} "
                f"({_listed(self.divergent_warmup)} more in the warm-up): {advice}"
            )
        for chain in np.flatnonzero(self.standing >= STANDING):
            said.append(
                f"STUCK: chain {chain} did not move for {self.standing[chain]} of "
                f"{self.num_samples} sweeps, which are one sample; start with another --seed or a "
                "longer --num_warmup, and look with --dry_run whether all haloes belong there"
            )
        for chain in np.flatnonzero(self.not_finite):
            said.append(
                f"NOT FINITE: chain {chain} in {self.not_finite[chain]} of {self.num_samples} "
                "sweeps; do not use them. Try --dtype=float64, and report it with the seed"
            )
        return said


def _listed(counts: NDArray[np.integer]) -> str:
    return " ".join(str(count) for count in counts)


def measure_health(
    theta: ArrayLike, log_posterior: ArrayLike, acceptance: ArrayLike, num_warmup: int
) -> Health:
    """Count what went wrong.

    Args:
        theta: parameters, warm-up included, `[T, C, D]`.
        log_posterior: `[T, C]`.
        acceptance: probabilities of the last proposals, `[T, C, 2]`; NaN where there was none.
        num_warmup: sweeps that do not count.

    Returns:
        The counts.
    """
    values = np.concatenate(
        [np.asarray(theta, float), np.asarray(log_posterior, float)[..., np.newaxis]], axis=-1
    )
    divergent = np.any(np.asarray(acceptance) == 0.0, axis=-1)
    # a NaN that stays a NaN has not moved either
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    stands = np.all(same, axis=-1)[max(0, num_warmup - 1) :]
    return Health(
        num_samples=len(values) - num_warmup,
        divergent=divergent[num_warmup:].sum(axis=0),
        divergent_warmup=divergent[:num_warmup].sum(axis=0),
        standing=_longest(stands),
        not_finite=np.any(~np.isfinite(values[num_warmup:]), axis=-1).sum(axis=0),
    )


def _longest(flags: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Longest row of true ones in each column of `[S, C]`."""
    longest = current = np.zeros(flags.shape[1], dtype=int)
    for row in flags:
        current = np.where(row, current + 1, 0)
        longest = np.maximum(longest, current)
    return longest


def health_of(store: ChainStore) -> Health:
    """Count what went wrong in a chain file, as far as it is written."""
    stop = store.num_committed  # a writer may go on meanwhile
    theta, log_posterior, acceptance = (
        store.read(name, 0, stop) for name in ("theta", "log_posterior", "acceptance")
    )
    warmup = int(store.attributes["num_warmup"])
    return measure_health(theta, log_posterior, acceptance, warmup)


class StandingWatch:
    """Tells while a run goes on that a chain stands or has left the finite numbers."""

    def __init__(self, num_chains: int) -> None:
        """Begin to count."""
        self._refused = np.zeros(num_chains, dtype=int)
        self._finite = np.ones(num_chains, dtype=bool)

    def __call__(self, log_posterior: Sequence[float], acceptance: ArrayLike) -> list[str]:
        """Take in a sweep.

        Args:
            log_posterior: of each of C chains.
            acceptance: `[C, 2]`.

        Returns:
            Lines to say: of a chain that has been refused `STANDING` sweeps in a row, and again
            each time that the number has doubled; and once of one that is not finite.
        """
        accept = np.asarray(acceptance)
        # parameters that stand by intent have NaN
        refused = np.all((accept == 0.0) | np.isnan(accept), axis=-1) & np.any(accept == 0.0, -1)
        self._refused = np.where(refused, self._refused + 1, 0)
        said = []
        for chain, count in enumerate(self._refused.tolist()):
            ratio = count / STANDING
            if ratio >= 1.0 and ratio == 2.0 ** round(np.log2(ratio)):
                said.append(
                    f"chain {chain}: STUCK, every move of {count} sweeps was refused; if that goes "
                    "on, start again with another seed or a longer warm-up"
                )
        finite = np.isfinite(np.asarray(log_posterior, float))
        for chain in np.flatnonzero(self._finite & ~finite).tolist():
            said.append(f"chain {chain}: log posterior {log_posterior[chain]}, not finite")
        self._finite = finite
        return said
