"""Whether a run has converged, and what is worst.

Watched are all bias parameters, the log posterior and the power of the initial field in every shell
of k, by rank-normalised split R-hat and by the effective sample sizes of bulk and tails (Vehtari et
al. 2021, Bayesian Analysis 16, 667).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from npe_tf.diagnostics import ParameterRow, parameter_table

__all__ = ["Convergence", "Limits", "measure_convergence"]


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
    """

    parameters: list[ParameterRow]
    others: list[ParameterRow]

    @property
    def watched(self) -> list[ParameterRow]:
        """All rows."""
        return [*self.parameters, *self.others]

    @property
    def worst_rhat(self) -> ParameterRow:
        """The row of the largest R-hat; one that is not known is worse than any."""
        return max(self.watched, key=lambda row: np.nan_to_num(row.rhat, nan=np.inf))

    @property
    def worst_ess(self) -> ParameterRow:
        """The row of the smallest effective sample size; not known counts as none."""
        return min(self.watched, key=_smaller_ess)

    def reaches(self, limits: Limits) -> bool:
        """Whether all that is watched is within the limits."""
        return bool(
            self.worst_rhat.rhat <= limits.max_rhat
            and _smaller_ess(self.worst_ess) >= limits.min_ess
        )


def _smaller_ess(row: ParameterRow) -> float:
    return float(np.nan_to_num([row.ess, row.tail], nan=0.0).min())


def measure_convergence(
    theta: ArrayLike, log_posterior: ArrayLike, power: ArrayLike, names: Sequence[str]
) -> Convergence:
    """Measure the convergence of samples, which are those after the warm-up.

    Args:
        theta: parameters, `[S, C, D]`.
        log_posterior: `[S, C]`.
        power: of the initial field, `[S, C, K]`.
        names: of the D parameters.

    Returns:
        One row for each of D + 1 + K quantities.
    """
    power = np.asarray(power)
    others = np.concatenate([np.asarray(log_posterior)[..., np.newaxis], power], axis=-1)
    shells = [f"P(k) shell {number}" for number in range(power.shape[-1])]
    return Convergence(
        parameter_table(theta, names), parameter_table(others, ["log posterior", *shells])
    )
