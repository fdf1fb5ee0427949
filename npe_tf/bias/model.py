"""What a bias model is to everything that uses one."""

from __future__ import annotations

from typing import Any, Protocol

from layers.components import ComponentFamily
from npe_tf.mass_function import HaloMassFunction
from npe_tf.parameters import FlatParameters

__all__ = ["BiasModel"]

Tensor = Any


class BiasModel(Protocol):
    """A density to the halo mass function of every voxel, with parameters theta.

    The posterior, the fits and the samplers ask for nothing else. `npe_tf.bias.neural.NeuralBias`
    is one for any Keras model, so that a new bias model is a Keras layer with its own weights.
    """

    @property
    def model(self) -> Any:
        """The Keras model, whose trainable variables are theta in pieces."""
        ...

    @property
    def parameters(self) -> FlatParameters:
        """Names and size of theta, and the way to and from the weights."""
        ...

    @property
    def theta(self) -> Tensor:
        """The model's own weights `[size]`."""
        ...

    @property
    def dtype(self) -> str:
        """Dtype of theta and of densities."""
        ...

    @property
    def family(self) -> ComponentFamily:
        """Of the components of the mass function."""
        ...

    @property
    def parameterisation(self) -> str:
        """``"log_mass"`` or ``"mass"``, see `HaloMassFunction`."""
        ...

    @property
    def log_mass_threshold(self) -> float:
        """Log of the smallest halo mass [log of Msun/h]."""
        ...

    def mass_function(self, delta: Tensor, theta: Tensor | None = None) -> HaloMassFunction:
        """Halo mass functions `[N', N', N']` of an overdensity `[N, N, N]`."""
        ...
