"""Warm-up of a chain: when it is annealed, when it learns, and how large its steps are.

Warm-up has three parts. In the first the field is annealed from its prior: the likelihood is raised
to a power that grows to one, and the parameters stand still, so that the largest scales, which the
haloes fix best, find their place before the small ones could lock them. In the second both blocks
move and learn. The third only burns in what was learnt; from then on nothing adapts.

The first two parts are cut into windows, at the start of which the curvature is measured anew.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepSize", "WarmupPlan"]

_ANNEALING_FRACTION = 0.4
_ANNEALING_WINDOWS = 7
_FIRST_WINDOW = 8
_SETTLING_FRACTION = 0.15


@dataclasses.dataclass(frozen=True)
class WarmupPlan:
    """What happens at which sweep of the warm-up.

    Attributes:
        annealed: first sweep at the full likelihood, in which the parameters begin to move.
        windows: first sweep of each window.
        frozen: sweep from which on nothing adapts.
        annealing_start: power of the likelihood in sweep 0.
    """

    annealed: int
    windows: tuple[int, ...]
    frozen: int
    annealing_start: float

    @classmethod
    def of(cls, num_warmup: int, annealing_start: float) -> WarmupPlan:
        """Cut a warm-up into its parts and windows.

        Annealing takes windows of equal length, in each of which the power of the likelihood
        about doubles; after it they double in length.

        Args:
            num_warmup: sweeps of warm-up, at least 2.
            annealing_start: power of the likelihood in the first sweep; 1 for no annealing.

        Returns:
            The plan.
        """
        frozen = num_warmup - int(_SETTLING_FRACTION * num_warmup)
        annealed = int(_ANNEALING_FRACTION * num_warmup) if annealing_start < 1 else 0
        pieces = min(_ANNEALING_WINDOWS, annealed)
        windows = [annealed * piece // pieces for piece in range(pieces)]
        start, length = annealed, _FIRST_WINDOW
        while start == annealed or start + 2 * length <= frozen:
            windows.append(start)
            start, length = start + length, 2 * length
        return cls(annealed, tuple(windows), frozen, annealing_start)

    def inverse_temperature(self, sweep: int) -> float:
        """Power of the likelihood in a sweep."""
        if sweep >= self.annealed:
            return 1.0
        return float(self.annealing_start ** (1.0 - sweep / self.annealed))


@dataclasses.dataclass
class StepSize:
    """Dual averaging of one step size, restarted with every window.

    Nesterov 2009 as in Hoffman & Gelman 2014 (JMLR 15, 1593), section 3.2.

    Attributes:
        centre: step size that the search is drawn to.
        error_sum: sum of target minus acceptance so far.
        log_average: log of the weighted mean of the step sizes tried.
        count: acceptances taken in.
    """

    centre: float
    error_sum: float = 0.0
    log_average: float = 0.0
    count: int = 0

    # four times the usual: one acceptance in a sweep, often 0 or 1, is a noisy guide
    _SHRINKAGE = 0.2
    _OFFSET = 10
    _DECAY = 0.75

    def update(self, acceptance: float, target: float) -> float:
        """Take in one acceptance probability; return the step size to try next."""
        self.count += 1
        self.error_sum += target - acceptance
        gain = np.sqrt(self.count) / (self._SHRINKAGE * (self.count + self._OFFSET))
        log_step = np.log(self.centre) - gain * self.error_sum
        weight = self.count**-self._DECAY
        self.log_average = weight * log_step + (1 - weight) * self.log_average
        return float(np.exp(log_step))

    @property
    def average(self) -> float:
        """The step size to keep."""
        return float(np.exp(self.log_average)) if self.count else self.centre

    def to_array(self) -> NDArray[np.float64]:
        """For the checkpoint."""
        return np.array([self.centre, self.error_sum, self.log_average, self.count], np.float64)

    @classmethod
    def from_array(cls, array: NDArray[np.float64]) -> StepSize:
        """Inverse of `to_array`."""
        return cls(float(array[0]), float(array[1]), float(array[2]), int(array[3]))
