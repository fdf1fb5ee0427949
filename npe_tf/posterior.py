"""The joint posterior of the initial field and the bias parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from npe_tf.bias.counts import check_counts
from npe_tf.bias.kinds import (
    KINDS,
    MASS_RESOLVED,
    OF_PEAKS,
    build_mass_resolved,
    build_single_rate,
)
from npe_tf.bias.model import BiasModel
from npe_tf.bias.neural import NeuralBias, neural_bias_model
from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.gravity.forward_model import ForwardModel
from npe_tf.gravity.lpt import LPT
from npe_tf.gravity.pm import ParticleMesh
from npe_tf.grid import Grid
from npe_tf.initial_field import InitialField
from npe_tf.likelihood import PoissonLikelihood
from npe_tf.negative_binomial import NegativeBinomialLikelihood
from npe_tf.peak_background import mass_variance

__all__ = ["GRAVITIES", "FieldPosterior", "PosteriorConfig", "normal_log_prob"]

Tensor = Any

GRAVITIES = ("1lpt", "2lpt", "pm")

_COSMOLOGY = tuple(field.name for field in dataclasses.fields(Cosmology))

# Parameters that files may lack, and what they then are: a flat universe with a constant.
_LATER_PARAMETERS = {"w0": -1.0, "wa": 0.0, "Omega_k": 0.0}

# Fields that files may lack, and that are left out where they have their defaults: so that a run
# from before they were there can go on.
_LATER_FIELDS = (
    "gravity",
    "pm_steps",
    "pm_force_factor",
    "redshift_space",
    "observer",
    "light_cone",
    "bias",
    "counts",
)


class FieldPosterior:
    """p(white noise, theta | catalogue), up to the evidence.

    The prior is a standard normal on the white noise and a normal of width `prior_scale` on each
    parameter. Log densities are float64 scalars whatever the dtype of the state.

    Args:
        initial_field: white noise to linear modes.
        gravity: linear modes `[N, N, N//2 + 1]` to evolved overdensity `[N, N, N]`.
        bias: overdensity to halo mass functions.
        likelihood: of the catalogue.
        prior_scale: standard deviation of the prior of each bias parameter.
        jit_compile: compile the bias model and the likelihood, not gravity, with XLA. Three times
            faster for pointwise layers and `MultipoleConv3D`; slower for a network with dense
            one-channel convolutions on a CPU.
    """

    def __init__(
        self,
        initial_field: InitialField,
        gravity: Callable[[Tensor], Tensor],
        bias: BiasModel,
        likelihood: PoissonLikelihood,
        prior_scale: float = 10.0,
        jit_compile: bool = True,
    ) -> None:
        """Compose the parts."""
        if initial_field.grid != likelihood.grid:
            raise ValueError(
                f"Invalid value for argument `likelihood`. Expected the grid {initial_field.grid}. "
                f"Received: {likelihood.grid}"
            )
        own_grid = getattr(gravity, "grid", initial_field.grid)
        if own_grid != initial_field.grid:
            raise ValueError(
                f"Invalid value for argument `gravity`. Expected the grid {initial_field.grid}. "
                f"Received: {own_grid}"
            )
        if not (math.isfinite(prior_scale) and prior_scale > 0):
            raise ValueError(
                "Invalid value for argument `prior_scale`. Expected a positive number. Received: "
                f"prior_scale={prior_scale!r}"
            )
        self.initial_field = initial_field
        self.gravity = gravity
        self.bias = bias
        self.likelihood = likelihood
        self.prior_scale = prior_scale
        self._log_likelihood = tf.function(
            lambda delta, theta: likelihood(bias.mass_function(delta, theta)),
            jit_compile=jit_compile,
        )

    @property
    def grid(self) -> Any:
        """The mesh of the field."""
        return self.initial_field.grid

    def density(self, white_noise: Tensor) -> Tensor:
        """Evolved overdensity `[N, N, N]` of white noise `[N, N, N]`."""
        return self.gravity(self.initial_field.modes(white_noise))

    def log_likelihood(self, delta: Tensor, theta: Tensor) -> Tensor:
        """Log likelihood of the catalogue given the evolved overdensity, float64 scalar."""
        log_likelihood = self._log_likelihood(delta, theta)
        return tf.ensure_shape(log_likelihood, [])

    def log_prior_field(self, white_noise: Tensor) -> Tensor:
        """Normalised standard normal log density of white noise, float64 scalar."""
        return normal_log_prob(white_noise, 1.0)

    def log_prior_parameters(self, theta: Tensor) -> Tensor:
        """Normalised log prior density of the bias parameters, float64 scalar."""
        return normal_log_prob(theta, self.prior_scale)

    def log_prob(self, white_noise: Tensor, theta: Tensor) -> Tensor:
        """Joint log posterior density, up to the evidence.

        Args:
            white_noise: `[..., N, N, N]`, float32 or float64.
            theta: `[..., size]`, of the same dtype and leading shape.

        Returns:
            float64 `[...]`. Leading (chain) dimensions are worked through one by one: at these
            sizes one field fills the processor.
        """
        white_noise, theta = tf.convert_to_tensor(white_noise), tf.convert_to_tensor(theta)
        batch = white_noise.shape[:-3]
        if theta.shape[:-1] != batch:
            raise ValueError(
                f"Invalid value for argument `theta`. Expected leading shape {tuple(batch)}. "
                f"Received: shape {tuple(theta.shape)}"
            )
        if batch.rank == 0:
            return self._log_prob_of_one(white_noise, theta)
        flat_noise = tf.reshape(white_noise, (-1, *white_noise.shape[-3:]))
        flat_theta = tf.reshape(theta, (-1, theta.shape[-1]))
        flat = tf.map_fn(
            lambda state: self._log_prob_of_one(*state),
            (flat_noise, flat_theta),
            fn_output_signature=tf.float64,
        )
        return tf.reshape(flat, batch)

    def _log_prob_of_one(self, white_noise: Tensor, theta: Tensor) -> Tensor:
        return (
            self.log_likelihood(self.density(white_noise), theta)
            + self.log_prior_field(white_noise)
            + self.log_prior_parameters(theta)
        )

    def given_parameters(
        self, theta: Tensor, inverse_temperature: Tensor = 1.0
    ) -> Callable[[Tensor], Tensor]:
        """Log density of the white noise given theta (and the catalogue).

        Args:
            theta: `[size]`.
            inverse_temperature: power to which the likelihood is raised, scalar; below one the
                field is annealed, at zero it is the prior's.

        Returns:
            Function from white noise `[N, N, N]` to a float64 scalar.
        """
        prior = self.log_prior_parameters(theta)
        beta = tf.cast(inverse_temperature, tf.float64)

        def log_prob(white_noise: Tensor) -> Tensor:
            likelihood = self.log_likelihood(self.density(white_noise), theta)
            return beta * likelihood + self.log_prior_field(white_noise) + prior

        return log_prob

    def given_field(self, white_noise: Tensor) -> Callable[[Tensor], Tensor]:
        """Log density of theta given the white noise; gravity is run once, here."""
        delta = tf.stop_gradient(self.density(white_noise))
        prior = self.log_prior_field(white_noise)

        def log_prob(theta: Tensor) -> Tensor:
            likelihood = self.log_likelihood(delta, theta)
            return likelihood + self.log_prior_parameters(theta) + prior

        return log_prob


@dataclasses.dataclass(frozen=True)
class PosteriorConfig:
    """All that defines the posterior of Charnock et al. 2020 besides the catalogue.

    Attributes:
        num_cells: cells along each side of the mesh.
        mass_threshold: smallest halo mass [Msun/h].
        cosmology: background and linear power.
        scale_factor: epoch of the catalogue.
        supersampling: particles per cell and side, see `ForwardModel`.
        mass_assignment: ``"tsc"`` or ``"cic"``, see `ForwardModel`.
        padding: ``"periodic"`` or ``"valid"``, see `PoissonLikelihood`.
        kernel_size: extent of the l=0 kernel, odd.
        num_components: components of the mass function.
        softening: of the logarithm of the density.
        parameterisation: ``"log_mass"`` or ``"mass"``, see `HaloMassFunction`.
        prior_scale: standard deviation of the prior of each bias parameter.
        dtype: ``"float32"`` or ``"float64"``.
        component_family: ``"normal"`` or ``"tapered_pareto"``, see `HaloMassFunction`.
        gravity: ``"1lpt"`` and ``"2lpt"``, see `LPT`, or ``"pm"``, see `ParticleMesh`.
        pm_steps: steps of the particle mesh.
        pm_force_factor: cells of its force mesh for each particle and side.
        redshift_space: whether the catalogue's positions are those of its redshifts, seen by the
            observer, or from far away along the last axis if there is none.
        observer: three coordinates in the box [Mpc/h].
        light_cone: whether the haloes' epochs are those at which light left for the observer.
        bias: one of `npe_tf.bias.kinds.KINDS`. The kernel size, in a periodic box, and the
            softening are of ``"neural"`` alone. All others have mass functions of their own and
            take the defaults of `parameterisation` and `component_family`; those that
            follow from a cosmology take this one.
        counts: law of the number of haloes in a voxel, one of `npe_tf.bias.counts.COUNTS`.
    """

    num_cells: int
    mass_threshold: float
    cosmology: Cosmology = dataclasses.field(default_factory=Cosmology)
    scale_factor: float = 1.0
    supersampling: int = 1
    mass_assignment: str = "tsc"
    padding: str = "periodic"
    kernel_size: int = 3
    num_components: int = 2
    softening: float = 0.1
    parameterisation: str = "log_mass"
    prior_scale: float = 10.0
    dtype: str = "float32"
    component_family: str = "normal"
    gravity: str = "1lpt"
    pm_steps: int = 5
    pm_force_factor: int = 1
    redshift_space: bool = False
    observer: tuple[float, float, float] | None = None
    light_cone: bool = False
    bias: str = "neural"
    counts: str = "poisson"

    def __post_init__(self) -> None:
        """Refuse a gravity or a bias model that is not there."""
        if self.bias not in KINDS:
            raise ValueError(
                f"Invalid value for argument `bias`. Expected one of {KINDS}. Received: "
                f"bias={self.bias!r}"
            )
        check_counts(self.counts)
        mixture = (self.parameterisation, self.component_family)
        if self.bias != "neural" and mixture != ("log_mass", "normal"):
            raise ValueError(
                "Invalid value for argument `bias`. Expected 'neural' for mass functions other "
                f"than normals in log mass. Received: bias={self.bias!r} with parameterisation="
                f"{mixture[0]!r}, component_family={mixture[1]!r}"
            )
        if self.bias == "second_order" and self.padding != "periodic":
            raise ValueError(
                "Invalid value for argument `padding`. Expected 'periodic' for the tidal field of "
                f"bias='second_order'. Received: padding={self.padding!r}"
            )
        if self.light_cone and self.gravity == "pm":
            raise ValueError(
                "Invalid value for argument `gravity`. Expected '1lpt' or '2lpt' for a light cone. "
                "Received: gravity='pm', light_cone=True"
            )
        if self.gravity not in GRAVITIES:
            raise ValueError(
                f"Invalid value for argument `gravity`. Expected one of {GRAVITIES}. Received: "
                f"gravity={self.gravity!r}"
            )

    def build(self, catalogue: Catalogue, completeness: ArrayLike | None = None) -> FieldPosterior:
        """Compose the posterior of a catalogue.

        Args:
            catalogue: haloes; its box is the box of the mesh.
            completeness: `[N, N, N]` in [0, 1], see `PoissonLikelihood`.

        Returns:
            The posterior.
        """
        grid = Grid(self.num_cells, catalogue.box_size)
        likelihood = self.likelihood_class(
            grid,
            catalogue,
            self.mass_threshold,
            completeness=completeness,
            padding=self.padding,
            margin=self.kernel_size // 2,
        )
        return FieldPosterior(
            InitialField(grid, self.cosmology),
            self.build_gravity(grid),
            self.build_bias(),
            likelihood,
            self.prior_scale,
        )

    @property
    def likelihood_class(self) -> type[PoissonLikelihood]:
        """That of the law of counts."""
        return PoissonLikelihood if self.counts == "poisson" else NegativeBinomialLikelihood

    def build_gravity(self, grid: Grid) -> ForwardModel:
        """The gravity model alone."""
        arguments: dict[str, Any] = {
            "scale_factor": self.scale_factor,
            "supersampling": self.supersampling,
            "mass_assignment": self.mass_assignment,
            "redshift_space": self.redshift_space,
            "observer": self.observer,
        }
        if self.gravity == "pm":
            return ParticleMesh(
                grid,
                self.cosmology,
                num_steps=self.pm_steps,
                force_factor=self.pm_force_factor,
                **arguments,
            )
        arguments["light_cone"] = self.light_cone
        return LPT(grid, self.cosmology, order=GRAVITIES.index(self.gravity) + 1, **arguments)

    def build_bias(self, seed: int | None = 0, *, any_mesh: bool = False) -> NeuralBias:
        """The bias model alone, with fresh weights.

        Args:
            seed: of the weights.
            any_mesh: whether it takes meshes of any size, rather than `num_cells` only.
        """
        log_mass_threshold = math.log(self.mass_threshold)
        if self.bias != "neural":
            options: dict[str, Any] = {
                "num_cells": None if any_mesh else self.num_cells,
                "margin": self.kernel_size // 2 if self.padding == "valid" else 0,
                "counts": self.counts,
                "dtype": self.dtype,
            }
            if self.bias in OF_PEAKS:
                options["variance"] = mass_variance(self.cosmology, self.scale_factor)
            if self.bias in MASS_RESOLVED:
                return build_mass_resolved(self.bias, log_mass_threshold, **options)
            options["num_components"] = self.num_components
            return build_single_rate(self.bias, log_mass_threshold, **options)
        model = neural_bias_model(
            None if any_mesh else self.num_cells,
            log_mass_threshold=log_mass_threshold,
            kernel_size=self.kernel_size,
            num_components=self.num_components,
            padding=self.padding,
            softening=self.softening,
            parameterisation=self.parameterisation,
            family=self.component_family,
            counts=self.counts,
            dtype=self.dtype,
            seed=seed,
        )
        return NeuralBias(model, log_mass_threshold, self.parameterisation, self.component_family)

    def to_attributes(self) -> dict[str, Any]:
        """Flat numbers, strings and lists of numbers, as a file's attributes keep them."""
        fields = dataclasses.fields(self)
        values = {
            f.name: getattr(self, f.name)
            for f in fields
            if f.name not in _LATER_FIELDS or getattr(self, f.name) != f.default
        }
        if self.observer is not None:
            values["observer"] = [float(x) for x in self.observer]
        cosmology = values.pop("cosmology")
        for name in _COSMOLOGY:
            value = getattr(cosmology, name)
            # None is no attribute; and a run in flat LCDM is the run that it was before there
            # were other universes.
            if value is not None and value != _LATER_PARAMETERS.get(name):
                values[f"cosmology.{name}"] = float(value)
        return values

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> PosteriorConfig:
        """Inverse of `to_attributes`; ignores attributes of other names."""
        own = {f.name: attributes[f.name] for f in dataclasses.fields(cls) if f.name in attributes}
        unused = "sigma8" if "cosmology.A_s" in attributes else "A_s"
        parameters: dict[str, float | None] = {**_LATER_PARAMETERS, unused: None}
        for name in _COSMOLOGY:
            key = f"cosmology.{name}"
            if key in attributes or name not in parameters:
                parameters[name] = float(attributes[key])
        own["cosmology"] = Cosmology(**parameters)
        if "observer" in own:
            own["observer"] = tuple(np.ravel(own["observer"]).tolist())
        return cls(**{k: v.item() if hasattr(v, "item") else v for k, v in own.items()})


def normal_log_prob(x: Tensor, scale: float) -> Tensor:
    """Normalised log density of independent normals of mean zero, summed in float64.

    Args:
        x: of any known shape.
        scale: standard deviation of each.

    Returns:
        A float64 scalar.
    """
    size = math.prod(x.shape)
    squares = tf.reduce_sum(tf.cast(tf.square(x), tf.float64))
    constant = size * (math.log(scale) + 0.5 * math.log(2.0 * math.pi))
    return -0.5 * squares / scale**2 - constant
