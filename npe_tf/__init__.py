"""Neural physical engines: from a halo catalogue to its initial conditions and halo bias.

The public names load on first use, so that reading a catalogue does not start TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import layers as layers
    import samplers as samplers
    from npe_tf import bias as bias
    from npe_tf.bias.architecture import Architecture as Architecture
    from npe_tf.bias.neural import NeuralBias as NeuralBias
    from npe_tf.bias.neural import neural_bias_model as neural_bias_model
    from npe_tf.catalogue import Catalogue as Catalogue
    from npe_tf.catalogue import read_fields as read_fields
    from npe_tf.chain_store import ChainStore as ChainStore
    from npe_tf.cosmology import Cosmology as Cosmology
    from npe_tf.datasets import load_nbody_box as load_nbody_box
    from npe_tf.field_checks import check_fields as check_fields
    from npe_tf.fourier import resample as resample
    from npe_tf.fourier import resample_white_noise as resample_white_noise
    from npe_tf.gadget import read_initial_conditions as read_initial_conditions
    from npe_tf.gadget import write_initial_conditions as write_initial_conditions
    from npe_tf.gravity.forward_model import ForwardModel as ForwardModel
    from npe_tf.gravity.lpt import LPT as LPT
    from npe_tf.gravity.pm import ParticleMesh as ParticleMesh
    from npe_tf.grid import Grid as Grid
    from npe_tf.inference import JointSettings as JointSettings
    from npe_tf.inference import Settings as Settings
    from npe_tf.inference import run_inference as run_inference
    from npe_tf.inference_data import to_inference_data as to_inference_data
    from npe_tf.initial_field import InitialField as InitialField
    from npe_tf.likelihood import PoissonLikelihood as PoissonLikelihood
    from npe_tf.mass_function import HaloMassFunction as HaloMassFunction
    from npe_tf.posterior import FieldPosterior as FieldPosterior
    from npe_tf.posterior import PosteriorConfig as PosteriorConfig
    from npe_tf.power import linear_power as linear_power
    from npe_tf.pretraining import pretrain as pretrain
    from npe_tf.redshift_space import to_redshift_space as to_redshift_space
    from npe_tf.report.contents import write_report as write_report
    from npe_tf.resimulation import constrained_particles as constrained_particles
    from npe_tf.statistics import bispectrum as bispectrum
    from npe_tf.statistics import power_multipoles as power_multipoles
    from npe_tf.statistics import power_spectrum as power_spectrum
    from npe_tf.summary import summarise as summarise
    from npe_tf.survey import completeness as completeness
    from npe_tf.survey import read_angular_mask as read_angular_mask
    from npe_tf.tabulated_power import TabulatedPower as TabulatedPower
    from npe_tf.white_noise import read_white_noise as read_white_noise

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "npe_tf.bias.architecture",
    "JointSettings": "npe_tf.inference",
    "LPT": "npe_tf.gravity.lpt",
    "Catalogue": "npe_tf.catalogue",
    "ChainStore": "npe_tf.chain_store",
    "Cosmology": "npe_tf.cosmology",
    "FieldPosterior": "npe_tf.posterior",
    "ForwardModel": "npe_tf.gravity.forward_model",
    "Grid": "npe_tf.grid",
    "HaloMassFunction": "npe_tf.mass_function",
    "InitialField": "npe_tf.initial_field",
    "NeuralBias": "npe_tf.bias.neural",
    "ParticleMesh": "npe_tf.gravity.pm",
    "PoissonLikelihood": "npe_tf.likelihood",
    "PosteriorConfig": "npe_tf.posterior",
    "Settings": "npe_tf.inference",
    "TabulatedPower": "npe_tf.tabulated_power",
    "bispectrum": "npe_tf.statistics",
    "check_fields": "npe_tf.field_checks",
    "completeness": "npe_tf.survey",
    "constrained_particles": "npe_tf.resimulation",
    "linear_power": "npe_tf.power",
    "to_redshift_space": "npe_tf.redshift_space",
    "load_nbody_box": "npe_tf.datasets",
    "neural_bias_model": "npe_tf.bias.neural",
    "power_multipoles": "npe_tf.statistics",
    "power_spectrum": "npe_tf.statistics",
    "pretrain": "npe_tf.pretraining",
    "read_angular_mask": "npe_tf.survey",
    "read_fields": "npe_tf.catalogue",
    "read_initial_conditions": "npe_tf.gadget",
    "read_white_noise": "npe_tf.white_noise",
    "resample": "npe_tf.fourier",
    "resample_white_noise": "npe_tf.fourier",
    "run_inference": "npe_tf.inference",
    "summarise": "npe_tf.summary",
    "to_inference_data": "npe_tf.inference_data",
    "write_initial_conditions": "npe_tf.gadget",
    "write_report": "npe_tf.report.contents",
}
_SIBLINGS = ("layers", "samplers")
_PACKAGES = ("bias",)

__all__ = [*_HOMES, *_SIBLINGS, *_PACKAGES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for."""
    if name in _SIBLINGS:
        value: Any = importlib.import_module(name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
