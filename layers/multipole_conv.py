"""Convolutions whose kernels are multipole expansions: few weights and the lattice's symmetry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.arguments import invalid, one_of, positive_integer
from layers.multipole import MULTIPOLES, multipole_basis
from layers.padding import crop, embed, wrap
from layers.shells import shell_sums, weighted_shell_sum

__all__ = ["MultipoleConv3D"]

Tensor = Any

_PADDINGS = ("valid", "same", "periodic")
_METHODS = ("auto", "dense", "shells")


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class MultipoleConv3D(keras.layers.Layer):
    """Three-dimensional convolution with a multipole kernel.

    All cells of the kernel at equal distance from its centre share a weight, times the spherical
    harmonic of their direction (`layers.multipole`). A 3^3 kernel of l = 0 has 4 weights instead
    of 27 and the layer commutes with the 48 symmetries of the cube. As everywhere in Keras the
    "convolution" is a cross-correlation: output[x] = sum over offsets d of kernel[d] input[x + d].

    Input `[batch, D, H, W, channels]`, output `[batch, D', H', W', filters]` with D' = D, or
    D - kernel_size + 1 for ``"valid"`` padding. Weights: `kernel_weights`
    `[num_weights, channels, filters]` and `bias` `[filters]`.

    Args:
        filters: number of output channels.
        kernel_size: extent k of the kernel, an odd integer (or three equal ones).
        multipoles: orders l to expand in; only ``(0,)`` for now.
        strides: only 1 for now.
        padding: ``"valid"`` for cells with all neighbours inside the mesh, ``"same"`` for zeros
            outside it, ``"periodic"`` for its periodic continuation.
        data_format: ``"channels_last"``.
        activation: as in `keras.layers.Conv3D`.
        use_bias: as in `keras.layers.Conv3D`.
        kernel_initializer: of the dense kernel `[k, k, k, channels, filters]` (its fans count).
            The weights are drawn from it and multiplied by sqrt(k^3 / sum of the squared basis),
            2 sqrt(pi) for l = 0, which gives the output the variance that a dense convolution
            with this initialiser has on white noise.
        bias_initializer: as in `keras.layers.Conv3D`.
        kernel_regularizer: of `kernel_weights`.
        bias_regularizer: of `bias`.
        kernel_constraint: on `kernel_weights`.
        bias_constraint: on `bias`.
        method: how to compute it. ``"dense"``: one convolution with the dense kernel.
            ``"shells"``: sums of shifted copies of the mesh, axis by axis (`layers.shells`).
            ``"auto"``: shells for one channel and one filter, dense otherwise. In value and
            gradient on a CPU shells are then the faster, by far in float64 without XLA and in
            float32 with it; in float64 with XLA dense is about as fast, and faster for ``"same"``.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range, the input is not of rank 5, its channels are
            unknown, or it is smaller than the kernel under ``"valid"`` padding.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        multipoles: Sequence[int] = (0,),
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        method: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = positive_integer("filters", filters)
        self.kernel_size = _cubic_size(kernel_size)
        self.multipoles = _known_multipoles(multipoles)
        self.strides = _unit_strides(strides)
        self.padding = one_of("padding", padding, _PADDINGS)
        self.data_format = one_of("data_format", data_format or "channels_last", ("channels_last",))
        self.activation = keras.activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.method = one_of("method", method, _METHODS)
        expansions = [multipole_basis(self.kernel_size, order) for order in self.multipoles]
        self._basis = np.concatenate([basis for basis, _ in expansions])
        self.labels = tuple(label for _, labels in expansions for label in labels)
        self.input_spec = keras.layers.InputSpec(ndim=5)

    @property
    def num_weights(self) -> int:
        """Weights of the kernel for each pair of channel and filter."""
        return len(self.labels)

    def build(self, input_shape: Any) -> None:
        """Create the weights for an input `[batch, D, H, W, channels]`."""
        channels = _check_input_shape(input_shape)[4]
        if channels is None:
            raise invalid("input_shape", "a known number of channels", input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=5, axes={-1: channels})
        dense_shape = (*self._basis.shape[1:], channels, self.filters)
        scale = math.sqrt(self._basis[0].size / np.square(self._basis).sum())

        def initial_weights(shape: tuple[int, ...], dtype: Any) -> Tensor:
            cells = keras.ops.reshape(
                self.kernel_initializer(dense_shape, dtype=dtype), (-1, *shape[1:])
            )
            return cells[: shape[0]] * scale

        self.kernel_weights = self.add_weight(
            name="kernel_weights",
            shape=(self.num_weights, channels, self.filters),
            initializer=initial_weights,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    @property
    def kernel(self) -> Tensor:
        """Dense kernel `[k, k, k, channels, filters]` made from the weights."""
        weights = tf.convert_to_tensor(self.kernel_weights)
        return tf.einsum("sxyz,scf->xyzcf", tf.cast(self._basis, weights.dtype), weights)

    def call(self, inputs: Tensor) -> Tensor:
        """Mesh `[batch, D, H, W, channels]` to `[batch, D', H', W', filters]`."""
        _check_large_enough(inputs.shape, self.kernel_size, self.padding)
        if self._uses_shells():
            outputs = self._convolve_by_shells(inputs)
        else:
            outputs = self._convolve_densely(inputs, self._in_compute_dtype(self.kernel))
        return self._finish(outputs)

    def shell_responses(self, inputs: Tensor) -> Tensor:
        """Mesh convolved with each kernel of the basis: what the output is linear in.

        Does not depend on the weights, so it can be kept while only they change.

        Args:
            inputs: `[batch, D, H, W, channels]`.

        Returns:
            `[batch, D', H', W', num_weights * channels]`, the channels of a weight adjacent.
        """
        inputs = self._in_compute_dtype(inputs)
        _check_large_enough(inputs.shape, self.kernel_size, self.padding)
        sums = shell_sums(self._with_margin(inputs), self._reach)
        responses = tf.concat(sums, axis=-1) * self._harmonic
        return self._without_margin(responses)

    def contract(self, responses: Tensor) -> Tensor:
        """Weighted sum of `shell_responses`, bias and activation.

        ``contract(shell_responses(inputs))`` is the layer's output, up to rounding.

        Args:
            responses: `[..., num_weights * channels]`.

        Returns:
            `[..., filters]`.
        """
        weights = self._in_compute_dtype(self.kernel_weights)
        weights = tf.reshape(weights, (-1, self.filters))
        responses = self._in_compute_dtype(responses)
        if responses.shape[-1] != weights.shape[0]:
            raise ValueError(
                f"Invalid value for argument `responses`. Expected {weights.shape[0]} values along "
                f"the last axis. Received: responses.shape={tuple(responses.shape)}"
            )
        return self._finish(tf.tensordot(responses, weights, 1))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape `(batch, D', H', W', filters)` for an input shape."""
        shape = _check_input_shape(input_shape)
        _check_large_enough(shape, self.kernel_size, self.padding)
        lost = 2 * self._reach if self.padding == "valid" else 0
        mesh = (None if size is None else size - lost for size in shape[1:4])
        return (shape[0], *mesh, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "multipoles": self.multipoles,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "method": self.method,
        }

    @property
    def _reach(self) -> int:
        """Largest offset of a cell of the kernel along an axis."""
        return self.kernel_size // 2

    @property
    def _harmonic(self) -> float:
        """Y_00, the one value that the basis of l = 0 takes."""
        return float(self._basis.max())

    def _in_compute_dtype(self, tensor: Tensor) -> Tensor:
        # methods other than `call` run outside Keras' automatic casts
        return tf.cast(tensor, self.compute_dtype)

    def _uses_shells(self) -> bool:
        if self.method == "auto":
            return self.filters == 1 and self.kernel_weights.shape[1] == 1
        return self.method == "shells"

    def _convolve_densely(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if self.padding == "periodic":
            inputs = wrap(inputs, ((self._reach, self._reach),) * 3)
        padding = "SAME" if self.padding == "same" else "VALID"
        return tf.nn.conv3d(inputs, kernel, strides=[1] * 5, padding=padding)

    def _convolve_by_shells(self, inputs: Tensor) -> Tensor:
        weights = self._in_compute_dtype(self.kernel_weights) * self._harmonic

        def weigh(shell: int, mesh: Tensor) -> Tensor:
            if mesh.shape[-1] == 1:
                return mesh * weights[shell, 0]
            return tf.tensordot(mesh, weights[shell], 1)

        total = weighted_shell_sum(self._with_margin(inputs), self._reach, weigh)
        return self._without_margin(total)

    def _with_margin(self, inputs: Tensor) -> Tensor:
        """A mesh whose periodic continuation is the padding asked for, next to the mesh."""
        if self.padding != "same" or self._reach == 0:
            return inputs
        # zeros behind the last cell are also zeros before the first
        return embed(inputs, 0, self._reach)

    def _without_margin(self, outputs: Tensor) -> Tensor:
        """Cut the cells that the padding asks for out of a periodic result."""
        if self.padding == "periodic" or self._reach == 0:
            return outputs
        return crop(outputs, self._reach if self.padding == "valid" else 0, self._reach)

    def _finish(self, outputs: Tensor) -> Tensor:
        if self.bias is not None:
            outputs = outputs + self._in_compute_dtype(self.bias)
        return self.activation(outputs)


def _cubic_size(kernel_size: Any) -> int:
    sizes = kernel_size if isinstance(kernel_size, (list, tuple)) else (kernel_size,)
    if len(sizes) not in (1, 3) or any(size != sizes[0] for size in sizes):
        raise invalid("kernel_size", "an odd integer, or three equal ones", kernel_size)
    size = positive_integer("kernel_size", sizes[0])
    if size % 2 == 0:
        raise invalid("kernel_size", "an odd integer, or three equal ones", kernel_size)
    return size


def _known_multipoles(multipoles: Any) -> tuple[int, ...]:
    orders = tuple(multipoles) if isinstance(multipoles, (list, tuple)) else ()
    known = all(
        isinstance(order, (int, np.integer)) and not isinstance(order, bool) and order in MULTIPOLES
        for order in orders
    )
    if not orders or not known or len(set(orders)) != len(orders):
        raise invalid(
            "multipoles",
            f"distinct orders among {MULTIPOLES}; others are not implemented",
            multipoles,
        )
    return tuple(int(order) for order in orders)


def _unit_strides(strides: Any) -> int:
    if any(step != 1 for step in (strides if isinstance(strides, (list, tuple)) else (strides,))):
        raise invalid("strides", "1; others are not implemented", strides)
    return 1


def _check_input_shape(input_shape: Any) -> tuple[int | None, ...]:
    shape = tuple(input_shape)
    if len(shape) != 5:
        raise invalid("input_shape", "(batch, D, H, W, channels)", shape)
    return shape


def _check_large_enough(shape: Any, kernel_size: int, padding: str) -> None:
    mesh = tuple(shape)[1:4]
    if padding == "valid" and any(size is not None and size < kernel_size for size in mesh):
        raise ValueError(
            f"Invalid value for argument `inputs`. Expected at least {kernel_size} cells along "
            f"each axis with padding='valid'. Received: inputs.shape={tuple(shape)}"
        )
