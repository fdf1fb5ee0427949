"""Keras layers for fields on meshes: multipole convolutions, and mixture density heads.

They compute with TensorFlow, so Keras must run on its TensorFlow backend.
"""

from layers.components import (
    ComponentFamily,
    NormalComponents,
    PerMassNormalComponents,
    TaperedParetoComponents,
    component_family,
)
from layers.hat_components import HatComponents
from layers.invariants import MultipolePower, MultipoleProduct
from layers.mixture_density import MixtureDensity
from layers.multipole import (
    BasisReport,
    MultipoleBasis,
    MultipoleLabel,
    MultipoleProjection,
    kernel_panels,
    multipole_basis,
    project_multipoles,
)
from layers.multipole_conv import (
    MultipoleConv,
    MultipoleConv1D,
    MultipoleConv2D,
    MultipoleConv3D,
)
from layers.padding import PeriodicPadding1D, PeriodicPadding2D, PeriodicPadding3D
from layers.poisson_process import PoissonProcessLoss, points_by_cell

__all__ = [
    "BasisReport",
    "ComponentFamily",
    "HatComponents",
    "MixtureDensity",
    "MultipoleBasis",
    "MultipoleConv",
    "MultipoleConv1D",
    "MultipoleConv2D",
    "MultipoleConv3D",
    "MultipoleLabel",
    "MultipolePower",
    "MultipoleProduct",
    "MultipoleProjection",
    "NormalComponents",
    "PerMassNormalComponents",
    "PeriodicPadding1D",
    "PeriodicPadding2D",
    "PeriodicPadding3D",
    "PoissonProcessLoss",
    "TaperedParetoComponents",
    "component_family",
    "kernel_panels",
    "multipole_basis",
    "points_by_cell",
    "project_multipoles",
]
