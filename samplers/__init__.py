"""Transition kernels for posteriors of many scales, in the conventions of `tfp.mcmc`.

Quasi-Newton Hamiltonian Monte Carlo with a limited-memory or a Fourier-diagonal inverse Hessian,
the adaptation that learns the former, microcanonical sampling with and without accept-reject, a
warm-up that leaves nothing to set by hand, Gibbs sampling in blocks, and runs that may be cut
anywhere.
"""

from samplers.adaptation import QuasiNewtonAdaptation, QuasiNewtonAdaptationResults
from samplers.block_gibbs import Block, BlockGibbs, BlockGibbsResults, refresh_target
from samplers.diagonal import CoordinateVariance, DiagonalInverseHessian
from samplers.ensemble import QuasiNewtonEnsemble, QuasiNewtonEnsembleResults
from samplers.fourier_diagonal import (
    FourierDiagonalInverseHessian,
    ShellVariance,
    shell_curvature,
)
from samplers.inverse_hessian import LimitedMemoryInverseHessian, PairHistory
from samplers.microcanonical import (
    EnergyErrorAdaptation,
    EnergyErrorAdaptationResults,
    MicrocanonicalHMC,
    MicrocanonicalHMCResults,
    MicrocanonicalLangevin,
    MicrocanonicalLangevinResults,
    MicrocanonicalTuning,
    UncalibratedMicrocanonicalHMC,
    tune_decoherence_length,
    tune_microcanonical,
)
from samplers.quasi_newton_hmc import (
    QuasiNewtonHMC,
    QuasiNewtonHMCResults,
    UncalibratedQuasiNewtonHMC,
)
from samplers.sampling import Run, load_run, sample, save_run, to_inference_data
from samplers.target import InverseHessian
from samplers.warmup import WarmedUp, warm_up

__all__ = [
    "Block",
    "BlockGibbs",
    "BlockGibbsResults",
    "CoordinateVariance",
    "DiagonalInverseHessian",
    "EnergyErrorAdaptation",
    "EnergyErrorAdaptationResults",
    "FourierDiagonalInverseHessian",
    "InverseHessian",
    "LimitedMemoryInverseHessian",
    "MicrocanonicalHMC",
    "MicrocanonicalHMCResults",
    "MicrocanonicalLangevin",
    "MicrocanonicalLangevinResults",
    "MicrocanonicalTuning",
    "PairHistory",
    "QuasiNewtonAdaptation",
    "QuasiNewtonAdaptationResults",
    "QuasiNewtonEnsemble",
    "QuasiNewtonEnsembleResults",
    "QuasiNewtonHMC",
    "QuasiNewtonHMCResults",
    "Run",
    "ShellVariance",
    "UncalibratedMicrocanonicalHMC",
    "UncalibratedQuasiNewtonHMC",
    "WarmedUp",
    "load_run",
    "refresh_target",
    "sample",
    "save_run",
    "shell_curvature",
    "to_inference_data",
    "tune_decoherence_length",
    "tune_microcanonical",
    "warm_up",
]
