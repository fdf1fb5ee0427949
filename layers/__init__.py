"""Keras layers for fields on periodic meshes and for mixture densities.

They compute with TensorFlow, so Keras must run on its TensorFlow backend.
"""

from layers.mixture_density import MixtureDensity
from layers.multipole import MultipoleLabel, multipole_basis
from layers.multipole_conv import MultipoleConv3D
from layers.padding import PeriodicPadding3D

__all__ = [
    "MixtureDensity",
    "MultipoleConv3D",
    "MultipoleLabel",
    "PeriodicPadding3D",
    "multipole_basis",
]
