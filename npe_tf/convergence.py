"""Whether a run has converged, and what is worst.

Watched are all bias parameters, the log posterior and the power of the initial field in every shell
of k, and what `npe_tf.watched` adds: Fourier modes, voxels and the halo mass function. The measures
are rank-normalised split R-hat and the effective sample sizes of bulk and tails (Vehtari et al.
2021, Bayesian Analysis 16, 667).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.chain_store import ChainStore
from npe_tf.diagnostics import ParameterRow, parameter_table

__all__ = [
    "Convergence",
    "Limits",
    "convergence_of",
    "measure_convergence",
    "watched_names",
    "worst_ess",
    "worst_rhat",
]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a converged run must reach.

    Attributes:
        max_rhat: largest rank-normalised R-hat of all that is watched, above 1.
        min_ess: smallest effective sample size, of bulk and tails, positive.

    Raises:
        ValueError: if a limit is out of range.
    """

    max_rhat: float = 1.01
    min_ess: float = 400.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing or everything meets."""
        if not self.max_rhat > 1.0:
            raise ValueError(
                "Invalid value for argument `max_rhat`. Expected a number above 1. Received: "
                f"max_rhat={self.max_rhat!r}"
            )
        if not 0.0 < self.min_ess < np.inf:
            raise ValueError(
                "Invalid value for argument `min_ess`. Expected a positive number. Received: "
                f"min_ess={self.min_ess!r}"
            )


@dataclasses.dataclass(frozen=True)
class Convergence:
    """How far a run has converged.

    Attributes:
        parameters: one row per bias parameter.
        others: the log posterior, then the power in every shell.
        further: rows of everything else that is watched, by array.
    """

    parameters: list[ParameterRow]
    others: list[ParameterRow]
    further: Mapping[str, list[ParameterRow]] = dataclasses.field(default_factory=dict)

    @property
    def watched(self) -> list[ParameterRow]:
        """All rows."""
        further = [row for rows in self.further.values() for row in rows]
        return [*self.parameters, *self.others, *further]

    @property
    def by_kind(self) -> dict[str, list[ParameterRow]]:
        """All rows by what they are of."""
        return {
            "parameters": self.parameters,
            "log posterior": self.others[:1],
            "P(k)": self.others[1:],
            **{name.replace("_", " "): rows for name, rows in self.further.items()},
        }

    @property
    def worst_rhat(self) -> ParameterRow:
        """The row of the largest R-hat; one that is not known is worse than any."""
        return worst_rhat(self.watched)

    @property
    def worst_ess(self) -> ParameterRow:
        """The row of the smallest effective sample size; not known counts as none."""
        return worst_ess(self.watched)

    def reaches(self, limits: Limits) -> bool:
        """Whether all that is watched is within the limits."""
        return bool(
            self.worst_rhat.rhat <= limits.max_rhat
            and _smaller_ess(self.worst_ess) >= limits.min_ess
        )


def worst_rhat(rows: Sequence[ParameterRow]) -> ParameterRow:
    """The row of the largest R-hat; one that is not known is worse than any."""
    return max(rows, key=lambda row: np.nan_to_num(row.rhat, nan=np.inf))


def worst_ess(rows: Sequence[ParameterRow]) -> ParameterRow:
    """The row of the smallest effective sample size, bulk or tail; not known counts as none."""
    return min(rows, key=_smaller_ess)


def _smaller_ess(row: ParameterRow) -> float:
    return float(np.nan_to_num([row.ess, row.tail], nan=0.0).min())


def measure_convergence(
    theta: ArrayLike,
    log_posterior: ArrayLike,
    power: ArrayLike,
    names: Sequence[str],
    further: Mapping[str, tuple[ArrayLike, Sequence[str]]] | None = None,
) -> Convergence:
    """Measure the convergence of samples, which are those after the warm-up.

    Args:
        theta: parameters, `[S, C, D]`.
        log_posterior: `[S, C]`.
        power: of the initial field, `[S, C, K]`.
        names: of the D parameters.
        further: other arrays to watch, `[S, C, ...]`, each with the names of its quantities in C
            order.

    Returns:
        One row for each of D + 1 + K quantities, and for each of the further ones.

    Raises:
        ValueError: if an array has another shape, or not one name for each of its quantities.
    """
    power = np.asarray(power)
    others = np.concatenate([np.asarray(log_posterior)[..., np.newaxis], power], axis=-1)
    shells = [f"P(k) shell {number}" for number in range(power.shape[-1])]
    arrays = {name: (np.asarray(x), list(labels)) for name, (x, labels) in (further or {}).items()}
    return Convergence(
        parameter_table(theta, names),
        parameter_table(others, ["log posterior", *shells]),
        {
            name: parameter_table(array.reshape(*array.shape[:2], -1), labels)
            for name, (array, labels) in arrays.items()
        },
    )


def watched_names(store: ChainStore) -> dict[str, list[str]]:
    """Names of the quantities in each further column that is watched.

    These are the columns `x` of whose quantities the attribute ``names.x`` speaks; a file from
    before there were any has none.
    """
    marked = {name: store.attributes.get(f"names.{name}") for name in store.columns}
    return {name: [str(x) for x in names] for name, names in marked.items() if names is not None}


def convergence_of(store: ChainStore) -> Convergence:
    """Measure the convergence of the samples in a chain file, as far as it is written.

    Args:
        store: of a run, `num_warmup` of whose sweeps do not count.

    Returns:
        Rows of all that is watched in this file.
    """
    warmup = int(store.attributes["num_warmup"])
    stop = store.num_committed  # a writer may go on meanwhile

    def samples(name: str) -> NDArray[Any]:
        return store.read(name, warmup, stop)

    return measure_convergence(
        samples("theta"),
        samples("log_posterior"),
        samples("power"),
        [str(name) for name in store.attributes["parameters"]],
        {name: (samples(name), names) for name, names in watched_names(store).items()},
    )
