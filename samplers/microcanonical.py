"""Microcanonical samplers: motion at constant speed through a log density.

* `MicrocanonicalLangevin` (MCLMC): one long trajectory, never rejected; biased by an amount that
  the step size controls, which `EnergyErrorAdaptation` sets and `tune_microcanonical` together with
  all else;
* `MicrocanonicalHMC` (MAMS): trajectories from a fresh random direction with accept-reject, and so
  exact.

Both run on the dynamics of `samplers.isokinetic`, with an inverse Hessian B as a preconditioner,
and evaluate the target once per leapfrog step.
"""

from samplers.microcanonical_hmc import (
    MicrocanonicalHMC,
    MicrocanonicalHMCResults,
    UncalibratedMicrocanonicalHMC,
)
from samplers.microcanonical_langevin import (
    EnergyErrorAdaptation,
    EnergyErrorAdaptationResults,
    MicrocanonicalLangevin,
    MicrocanonicalLangevinResults,
)
from samplers.microcanonical_tuning import (
    MicrocanonicalTuning,
    tune_decoherence_length,
    tune_microcanonical,
)

__all__ = [
    "EnergyErrorAdaptation",
    "EnergyErrorAdaptationResults",
    "MicrocanonicalHMC",
    "MicrocanonicalHMCResults",
    "MicrocanonicalLangevin",
    "MicrocanonicalLangevinResults",
    "MicrocanonicalTuning",
    "UncalibratedMicrocanonicalHMC",
    "tune_decoherence_length",
    "tune_microcanonical",
]
