"""The joint posterior of a field that is cut into slabs over devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from numpy.typing import ArrayLike

from layers.padding import wrap
from npe_tf.catalogue import Catalogue
from npe_tf.grid import Grid
from npe_tf.posterior import GRAVITIES, PosteriorConfig, normal_log_prob
from npe_tf.sharded.gravity import SlabGravity
from npe_tf.sharded.slabs import Slabs, extend, fold, recorded, total

__all__ = ["ShardedPosterior"]

Tensor = Any


class ShardedPosterior:
    """p(white noise, theta | catalogue) of `FieldPosterior`, with the mesh on several devices.

    The white noise is a list of D slabs `[N/D, N, N]`, slab d on device d; so are its gradients.
    Theta is whole. One process holds all devices: the processors of one machine, or what
    `tf.config` makes of them. Values and gradients are those of the posterior on one device up to
    the rounding of sums in another order.

    Args:
        config: of the posterior. LPT of either order, in real space, at one epoch, with one
            particle per cell, and a bias model that sees no farther than its kernel.
        catalogue: haloes; its box is the box of the mesh.
        devices: names such as ``"GPU:0"``; by default all GPUs, or all CPUs if there are none.
        completeness: `[N, N, N]` in [0, 1], see `PoissonLikelihood`.
        ghost_planes: see `SlabGravity`.
        jit_compile: compile bias model and likelihood with XLA, as in `FieldPosterior`.

    Attributes:
        slabs: how the mesh is cut; `slabs.scatter` cuts a field.
        bias: the bias model; its own weights are `bias.theta`.

    Raises:
        ValueError: if the configuration is one of those that cannot be cut, the mesh is no
            multiple of the devices, or a slab is thinner than the ghost planes.
    """

    def __init__(
        self,
        config: PosteriorConfig,
        catalogue: Catalogue,
        devices: Sequence[str] | None = None,
        *,
        completeness: ArrayLike | None = None,
        ghost_planes: int | None = None,
        jit_compile: bool = True,
    ) -> None:
        """Compose the parts of every slab."""
        _check(config)
        if devices is None:
            found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            devices = [device.name for device in found]
        self.config = config
        self.grid = Grid(config.num_cells, catalogue.box_size)
        self.slabs = Slabs(config.num_cells, devices)
        self.gravity = SlabGravity(
            self.grid,
            self.slabs,
            config.cosmology,
            order=GRAVITIES.index(config.gravity) + 1,
            scale_factor=config.scale_factor,
            mass_assignment=config.mass_assignment,
            ghost_planes=ghost_planes,
        )
        # planes that the kernel needs of the neighbours; models without one drop them
        self._margin = config.kernel_size // 2
        if self._margin >= self.slabs.thickness:
            raise ValueError(
                "Invalid value for argument `devices`. Expected slabs of more than "
                f"{self._margin} planes, half the kernel. Received: {len(self.slabs)} slabs of "
                f"{self.slabs.thickness}"
            )
        self.bias = dataclasses.replace(config, padding="valid").build_bias(any_mesh=True)
        self.likelihood = config.likelihood_class(
            self.grid,
            catalogue,
            config.mass_threshold,
            completeness=completeness,
            padding=config.padding,
            margin=self._margin,
        )
        self._log_likelihoods = [
            tf.function(self._likelihood_of(number), jit_compile=jit_compile)
            for number in range(len(self.slabs))
        ]

    def value_and_gradient(
        self, white_noise: Sequence[Tensor], theta: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Joint log posterior density, up to the evidence, and its gradient.

        Args:
            white_noise: `[N/D, N, N]` each, of the dtype of the configuration.
            theta: `[size]`, of the same dtype.

        Returns:
            A float64 scalar, the gradient with respect to the white noise in slabs, each on its
            device, and that with respect to theta.

        Raises:
            ValueError: if number or shape of the slabs are others.
            tf.errors.InvalidArgumentError: if a particle has come farther than the ghost planes.
        """
        self.slabs.check(white_noise)
        value, slabs, of_theta = self.graph_function(*white_noise, theta)
        return value, list(slabs), of_theta

    def log_prob(self, white_noise: Sequence[Tensor], theta: Tensor) -> Tensor:
        """Joint log posterior density for a tape, which may ask for its first derivatives.

        Arguments and errors are those of `value_and_gradient`, whose gradient is worked out along
        with the value.

        Returns:
            A float64 scalar.
        """

        @tf.custom_gradient
        def log_prob(*state: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
            value, slabs, of_theta = self.value_and_gradient(state[:-1], state[-1])

            def gradient(upstream: Tensor) -> list[Tensor]:
                scaled = []
                devices = (*self.slabs.devices, self.slabs.devices[0])
                for own, device in zip([*slabs, of_theta], devices, strict=True):
                    with tf.device(device):
                        scaled.append(tf.cast(upstream, own.dtype) * own)
                return scaled

            return value, gradient

        return log_prob(*white_noise, theta)

    @functools.cached_property
    def graph_function(self) -> Any:
        """`value_and_gradient` as one graph, a function of D + 1 tensors.

        Not by `tf.function`, which passes what it returns through operations on the first device.
        """
        slab = (self.slabs.thickness, self.grid.num_cells, self.grid.num_cells)
        return tf.compat.v1.wrap_function(
            lambda *state: self._work_out(state[:-1], state[-1]),
            [tf.TensorSpec(slab, self.config.dtype)] * len(self.slabs)
            + [tf.TensorSpec([self.bias.parameters.size], self.config.dtype)],
        )

    def _likelihood_of(self, number: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Log likelihood of a slab's haloes, of its overdensity with ghost planes and theta."""
        margin, planes = self._margin, self.slabs.thickness
        is_first, is_last = number == 0, number == len(self.slabs) - 1
        periodic = self.config.padding == "periodic"
        first, last = number * planes, (number + 1) * planes
        if not periodic:
            # the planes that count are numbered from the margin of the box
            first, last = max(first - margin, 0), min(last, self.grid.num_cells - margin) - margin
        likelihood = self.likelihood.slab(first, last)

        def log_likelihood(delta: Tensor, theta: Tensor) -> Tensor:
            if periodic:
                sides = [(0, 0), (margin, margin), (margin, margin)]
                delta = wrap(delta[tf.newaxis, ..., tf.newaxis], sides)[0, ..., 0]
            else:
                # at the faces of the box there is no neighbour
                stop = delta.shape[0] - (margin if is_last else 0)
                delta = delta[margin if is_first else 0 : stop]
            return likelihood(self.bias.mass_function(delta, theta))

        return log_likelihood

    def _work_out(
        self, white_noise: Sequence[Tensor], theta: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        devices = self.slabs.devices
        delta, pull_density = self.gravity.density(white_noise)
        values, to_density, to_theta = [], [], []
        for device, function, own in zip(
            devices, self._log_likelihoods, extend(delta, self._margin, devices), strict=True
        ):
            value, pull = recorded(device, function, own, theta)
            with tf.device(device):
                of_density, of_theta = pull(tf.ones_like(value))
            values.append(value)
            to_density.append(of_density)
            to_theta.append(of_theta)
        gradients = pull_density(fold(to_density, self._margin, devices))
        posterior = []
        for device, own, gradient in zip(devices, white_noise, gradients, strict=True):
            with tf.device(device):
                values.append(normal_log_prob(own, 1.0))
                posterior.append(gradient - own)
        scale = self.config.prior_scale
        with tf.device(devices[0]):
            of_theta = total(to_theta) - theta / scale**2
            return total([*values, normal_log_prob(theta, scale)]), posterior, of_theta


def _check(config: PosteriorConfig) -> None:
    """Refuse what cannot be cut.

    Raises:
        ValueError: if the posterior is such a one.
    """
    expected = {
        "gravity": ("'1lpt' or '2lpt'", config.gravity in ("1lpt", "2lpt")),
        "supersampling": ("one particle per cell", config.supersampling == 1),
        "redshift_space": ("real space", not config.redshift_space),
        "light_cone": ("one epoch", not config.light_cone),
        "bias": ("a model of neighbouring voxels", config.bias != "second_order"),
    }
    for name, (what, is_so) in expected.items():
        if not is_so:
            raise ValueError(
                f"Invalid value for argument `config`. Expected {what} on a mesh cut into slabs. "
                f"Received: {name}={getattr(config, name)!r}"
            )
