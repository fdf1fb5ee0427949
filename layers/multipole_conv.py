"""Convolutions whose kernels are multipole expansions: few weights and the lattice's symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.arguments import integer_per_axis, invalid, one_of, orders, per_order
from layers.expansion import Expansion, initial_weights
from layers.multipole import MultipoleBasis, multipole_basis, project_multipoles
from layers.padding import (
    DATA_FORMATS,
    channels_first,
    channels_last,
    crop,
    embed,
    wrap,
)
from layers.shells import apply_weighted, responses
from layers.xla import is_compiling

__all__ = ["MultipoleConv", "MultipoleConv1D", "MultipoleConv2D", "MultipoleConv3D"]

Tensor = Any

_PADDINGS = ("valid", "same", "periodic")
_METHODS = ("auto", "dense", "shells")


class MultipoleConv(keras.layers.Layer):
    """Convolution with multipole kernels in any of one, two or three dimensions.

    All cells of a kernel at equal distance from its centre share a weight, times the harmonic of
    order l, m in their direction (`layers.multipole`; Charnock et al. 2020, MNRAS 494, 50). Each
    order l makes one map for every m and every filter: 2 l + 1 of them in three dimensions; in two
    dimensions cos(l phi) and sin(l phi), one map for l = 0; in one dimension the even part (l = 0)
    and the odd part (l = 1). As everywhere in Keras the "convolution" is a cross-correlation,
    output[x] = sum over offsets d of kernel[d] input[x + d].

    Input `[batch, *mesh, channels]`, output `[batch, *mesh', num_maps]` (or channels first); the
    mesh' is that of Keras' own convolutions, and for ``"periodic"`` padding that of ``"same"``.
    Maps come in the order of `multipoles`; within an order the filters, and for each filter its m
    from -l to l. Weights: for each order one variable `[num_weights, channels, filters]`, named
    ``kernel_weights`` if there is one order and ``kernel_weights_0``, ``kernel_weights_1``, ... if
    there are several; then ``bias``.

    With independent weights for each m (the paper) a map of l > 0 prefers directions of its own.
    With `share_orders` the maps of one filter are the components of one object that turns with the
    input: the layer commutes exactly with the symmetries of the lattice that the kernel has (the
    48 of the cube, the 8 of the square), the maps of l > 0 mixing as harmonics do. Bias and
    activation then act on the maps of l = 0 only, because they would break the symmetry of the
    others; `MultipolePower` and `MultipoleProduct` turn those into scalars. Under other rotations
    a shell is not symmetric, however smooth the input: see `isotropic`.

    Attributes:
        basis: for each order its `MultipoleBasis`.
        labels: for each weight its `MultipoleLabel`, all orders together; with `share_orders` the
            m of a label is 0 and stands for all.
        num_weights: weights of a kernel for each channel and filter, all orders together. For 3^3
            cells: 4 for l = 0, 9 for l = 1 (3 if shared), 10 for l = 2 (3 if shared).
        num_maps: output channels.
    """

    num_axes: int

    def __init__(
        self,
        filters: int | Sequence[int],
        kernel_size: int | Sequence[int],
        multipoles: Sequence[int] = (0,),
        share_orders: bool = False,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        isotropic: bool = False,
        method: str = "auto",
        **kwargs: Any,
    ) -> None:
        if type(self) is MultipoleConv:
            raise TypeError(
                "MultipoleConv is abstract. Use MultipoleConv1D, MultipoleConv2D or MultipoleConv3D"
            )
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        axes = self.num_axes
        self.multipoles = orders("multipoles", multipoles, axes)
        per_order("filters", filters, len(self.multipoles))
        self.filters = tuple(filters) if isinstance(filters, Sequence) else int(filters)
        self.kernel_size = integer_per_axis("kernel_size", kernel_size, axes)
        self.share_orders = bool(share_orders)
        self.isotropic = bool(isotropic)
        if self.isotropic and not self.share_orders:
            raise invalid("isotropic", "False where `share_orders` is False", isotropic)
        self.strides = integer_per_axis("strides", strides, axes)
        self.padding = one_of("padding", padding, _PADDINGS)
        self.data_format = one_of(
            "data_format", data_format or keras.config.image_data_format(), DATA_FORMATS
        )
        self.dilation_rate = integer_per_axis("dilation_rate", dilation_rate, axes)
        self.activation = keras.activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.method = one_of("method", method, _METHODS)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise invalid("strides", "1 where `dilation_rate` is above 1", strides)
        if self.method == "shells" and max(self.strides) > 1:
            raise invalid("strides", "1 with method='shells'", strides)
        self.basis = tuple(self._basis_of(order) for order in self.multipoles)
        self._expansions = [
            Expansion(basis, filters_of, self._offsets(), self.share_orders, self.isotropic)
            for basis, filters_of in zip(self.basis, self._filters_per_order, strict=True)
        ]
        for order, part in zip(self.multipoles, self._expansions, strict=True):
            if not part.num_weights:
                raise invalid("kernel_size", f"extents with isotropic l = {order}", kernel_size)
        self.labels = tuple(label for part in self._expansions for label in part.labels)
        self.num_weights = len(self.labels)
        self.num_maps = sum(part.num_maps for part in self._expansions)
        self.input_spec = keras.layers.InputSpec(ndim=axes + 2)

    @classmethod
    def from_dense(
        cls,
        kernel: Any,
        bias: Any = None,
        multipoles: Sequence[int] = (0,),
        **kwargs: Any,
    ) -> Any:
        """Make the layer that is closest to a dense convolution.

        The kernel is projected by least squares (`project_multipoles`, which also tells the
        fraction of its norm in each order). For l = 0 the layer takes the convolution's place; with
        higher orders the maps of one filter, of all l and m, add up to the projection.

        Args:
            kernel: `[*kernel_size, channels, filters]`, as in Keras' own convolutions.
            bias: `[filters]`, added to the maps of l = 0.
            multipoles: orders l.
            **kwargs: other arguments of the constructor, `dtype` among them.

        Returns:
            A built layer.

        Raises:
            ValueError: if the kernel has the wrong number of axes, if `share_orders` is asked for
                (one kernel cannot fix weights shared by several), or if there is a bias but no
                l = 0.
        """
        dense = np.asarray(kernel, np.float64)
        if dense.ndim != cls.num_axes + 2:
            raise ValueError(
                f"Invalid value for argument `kernel`. Expected {cls.num_axes + 2} axes "
                f"(*kernel_size, channels, filters). Received: kernel.shape={dense.shape}"
            )
        if kwargs.get("share_orders"):
            raise invalid("share_orders", "False", True)
        rate = kwargs.get("dilation_rate", 1)
        projection = project_multipoles(dense, multipoles, rate)
        kwargs.setdefault("use_bias", bias is not None)
        layer = cls(dense.shape[-1], dense.shape[:-2], projection.multipoles, **kwargs)
        shape = [None] * (cls.num_axes + 2)
        shape[-1 if layer.data_format == "channels_last" else 1] = dense.shape[-2]
        layer.build(tuple(shape))
        for variable, weights in zip(layer.kernel_weights, projection.weights, strict=True):
            variable.assign(weights)
        if bias is not None:
            if 0 not in projection.multipoles or layer.bias is None:
                raise invalid("bias", "None without l = 0 or with use_bias=False", bias)
            if np.shape(bias) != dense.shape[-1:]:
                raise invalid("bias", f"an array of shape {dense.shape[-1:]}", bias)
            values = np.zeros(layer.num_maps)
            first = sum(
                part.num_maps for part in layer._expansions[: projection.multipoles.index(0)]
            )
            values[first : first + dense.shape[-1]] = np.asarray(bias)
            layer.bias.assign(values)
        return layer

    def build(self, input_shape: Any) -> None:
        """Create the weights for an input with a known number of channels."""
        channels = self._channels_last_shape(input_shape)[-1]
        if channels is None:
            raise invalid("input_shape", "a known number of channels", tuple(input_shape))
        axis = -1 if self.data_format == "channels_last" else 1
        self.input_spec = keras.layers.InputSpec(ndim=self.num_axes + 2, axes={axis: channels})
        # One draw for all orders: an initialiser with a seed repeats itself when called again.
        dense_shape = (*self.kernel_size, channels, self.num_maps)
        first, self.kernel_weights = 0, []
        for order, part in zip(self.multipoles, self._expansions, strict=True):
            columns = slice(first, first + part.num_maps)
            first += part.num_maps
            self.kernel_weights.append(
                self.add_weight(
                    name="kernel_weights" + (f"_{order}" if len(self.multipoles) > 1 else ""),
                    shape=(part.num_weights, channels, part.filters),
                    initializer=initial_weights(
                        self.kernel_initializer, dense_shape, columns, part
                    ),
                    regularizer=self.kernel_regularizer,
                    constraint=self.kernel_constraint,
                )
            )
        self.bias = None
        if self.use_bias and self._num_biases:
            self.bias = self.add_weight(
                name="bias",
                shape=(self._num_biases,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    @property
    def kernel(self) -> Tensor:
        """Dense kernel `[*kernel_size, channels, num_maps]` made from the weights."""
        pieces = [
            part.dense_kernel(tf.convert_to_tensor(variable))
            for part, variable in zip(self._expansions, self.kernel_weights, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else tf.concat(pieces, axis=-1)

    def call(self, inputs: Tensor) -> Tensor:
        """Mesh to maps."""
        self._check_large_enough(inputs.shape)
        mesh = channels_last(inputs, self.data_format)
        if self._uses_shells():
            outputs = self._convolve_by_shells(mesh)
        else:
            outputs = self._convolve_densely(mesh)
        return channels_first(self._finish(outputs), self.data_format)

    def shell_responses(self, inputs: Tensor) -> Tensor:
        """Mesh convolved with each kernel of the basis: what the output is linear in.

        Does not depend on the weights, so it can be kept while only they change.

        Args:
            inputs: as those of the layer.

        Returns:
            `[batch, *mesh, responses * channels]` (channels last, whatever the layer's format),
            the channels of a response adjacent. There is one response for each weight, and with
            `share_orders` one for each weight and m.

        Raises:
            ValueError: with strides above 1.
        """
        if max(self.strides) > 1:
            raise invalid("strides", "1 for `shell_responses`", self.strides)
        inputs = self._in_compute_dtype(inputs)
        self._check_large_enough(inputs.shape)
        mesh = self._with_margin(channels_last(inputs, self.data_format))
        found: list[Tensor] = []
        for part in self._expansions:
            found.extend(responses(mesh, part.groups, part.pairs))
        return self._without_margin(tf.concat(found, axis=-1))

    def contract(self, responses: Tensor) -> Tensor:
        """Weighted sum of `shell_responses`, bias and activation.

        ``contract(shell_responses(inputs))`` is the layer's output, up to rounding.

        Args:
            responses: `[..., responses * channels]`.

        Returns:
            `[..., num_maps]`, channels last; in the layer's format if that is channels first and
            there are as many axes as in its output.
        """
        responses = self._in_compute_dtype(responses)
        blocks = []
        for part, variable in zip(self._expansions, self.kernel_weights, strict=True):
            weights = self._in_compute_dtype(variable)
            select = tf.constant(part.selection, weights.dtype)
            matrix = tf.einsum("pjm,jcf->pcfm", select, weights)
            blocks.append(tf.reshape(matrix, (-1, part.num_maps)))
        sizes = [int(block.shape[0]) for block in blocks]
        if responses.shape[-1] != sum(sizes):
            raise ValueError(
                f"Invalid value for argument `responses`. Expected {sum(sizes)} values along "
                f"the last axis. Received: responses.shape={tuple(responses.shape)}"
            )
        pieces = zip(tf.split(responses, sizes, axis=-1), blocks, strict=True)
        outputs = tf.concat([tf.tensordot(piece, block, 1) for piece, block in pieces], axis=-1)
        outputs = self._finish(outputs)
        if outputs.shape.rank != self.num_axes + 2:
            return outputs
        return channels_first(outputs, self.data_format)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the maps for an input shape."""
        self._check_large_enough(input_shape)
        batch, *mesh, _ = self._channels_last_shape(input_shape)
        sizes = []
        for size, extent, stride in zip(mesh, self._extents, self.strides, strict=True):
            lost = extent - 1 if self.padding == "valid" else 0
            sizes.append(None if size is None else -(-(size - lost) // stride))
        if self.data_format == "channels_first":
            return (batch, self.num_maps, *sizes)
        return (batch, *sizes, self.num_maps)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "multipoles": self.multipoles,
            "share_orders": self.share_orders,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "isotropic": self.isotropic,
            "method": self.method,
        }

    @property
    def _filters_per_order(self) -> tuple[int, ...]:
        return per_order("filters", self.filters, len(self.multipoles))

    @property
    def _extents(self) -> tuple[int, ...]:
        """Cells from the first to the last that the kernel touches, along each axis."""
        return tuple(
            (size - 1) * rate + 1
            for size, rate in zip(self.kernel_size, self.dilation_rate, strict=True)
        )

    @property
    def _pads(self) -> tuple[tuple[int, int], ...]:
        """Cells before and after that the output at stride 1 needs, along each axis."""
        return tuple(((extent - 1) // 2, extent // 2) for extent in self._extents)

    @property
    def _num_biases(self) -> int:
        """Maps that may be shifted without breaking a symmetry that they have."""
        if not self.share_orders:
            return self.num_maps
        return sum(part.num_maps for part in self._expansions if part.is_scalar)

    def _basis_of(self, order: int) -> MultipoleBasis:
        return multipole_basis(
            self.kernel_size, order, num_axes=self.num_axes, dilation_rate=self.dilation_rate
        )

    def _offsets(self) -> list[list[int]]:
        """Offset of every cell of the kernel from the output's cell, along each axis."""
        return [
            [number * rate - before for number in range(size)]
            for size, rate, (before, _) in zip(
                self.kernel_size, self.dilation_rate, self._pads, strict=True
            )
        ]

    def _channels_last_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        shape = tuple(input_shape)
        if len(shape) != self.num_axes + 2:
            raise invalid("input_shape", f"{self.num_axes + 2} sizes", shape)
        if self.data_format == "channels_last":
            return shape
        return (shape[0], *shape[2:], shape[1])

    def _check_large_enough(self, input_shape: Any) -> None:
        mesh = self._channels_last_shape(input_shape)[1:-1]
        short = any(
            size is not None and size < extent
            for size, extent in zip(mesh, self._extents, strict=True)
        )
        if self.padding == "valid" and short:
            raise ValueError(
                f"Invalid value for argument `inputs`. Expected at least {self._extents} cells "
                "along the axes with padding='valid'. Received: "
                f"inputs.shape={tuple(input_shape)}"
            )

    def _in_compute_dtype(self, tensor: Tensor) -> Tensor:
        # methods other than `call` run outside Keras' automatic casts
        return tf.cast(tensor, self.compute_dtype)

    def _uses_shells(self) -> bool:
        if self.method != "auto":
            return self.method == "shells"
        if max(self.strides) > 1 or tf.config.list_logical_devices("GPU"):
            return False
        only_scalars = self.multipoles == (0,) and not tf.executing_eagerly()
        return is_compiling() or self.compute_dtype == "float64" or only_scalars

    def _convolve_densely(self, mesh: Tensor) -> Tensor:
        if self.padding == "periodic":
            mesh = wrap(mesh, self._pads)
        return tf.nn.convolution(
            mesh,
            self._in_compute_dtype(self.kernel),
            strides=self.strides,
            padding="SAME" if self.padding == "same" else "VALID",
            # named, because the eager gradient of a 3D convolution cannot do without the name
            data_format=("NWC", "NHWC", "NDHWC")[self.num_axes - 1],
            dilations=self.dilation_rate,
        )

    def _convolve_by_shells(self, mesh: Tensor) -> Tensor:
        mesh = self._with_margin(mesh)
        pieces: list[Tensor] = []
        for part, variable in zip(self._expansions, self.kernel_weights, strict=True):
            found = apply_weighted(mesh, self._in_compute_dtype(variable), part.groups)
            # a map whose kernels all vanish, as that of z for a kernel one cell thick, is zero
            silent = tf.zeros_like(next(iter(found.values())))
            maps = [found.get(number, silent) for number in range(part.num_maps // part.filters)]
            if len(maps) > 1 and part.filters > 1:
                together = tf.stack(maps, axis=-1)
                maps = [tf.reshape(together, tf.concat([tf.shape(mesh)[:-1], [part.num_maps]], 0))]
            pieces.extend(maps)
        outputs = tf.concat(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        return self._without_margin(outputs)

    def _with_margin(self, mesh: Tensor) -> Tensor:
        """A mesh whose periodic continuation is the padding asked for, next to the mesh."""
        if self.padding != "same" or max(self._extents) == 1:
            return mesh
        # zeros behind the last cell are also zeros before the first
        return embed(mesh, [(0, max(pads)) for pads in self._pads])

    def _without_margin(self, outputs: Tensor) -> Tensor:
        """Cut the cells that the padding asks for out of a periodic result."""
        if self.padding == "periodic" or max(self._extents) == 1:
            return outputs
        if self.padding == "valid":
            return crop(outputs, self._pads)
        return crop(outputs, [(0, max(pads)) for pads in self._pads])

    def _finish(self, outputs: Tensor) -> Tensor:
        bias = None if self.bias is None else self._in_compute_dtype(self.bias)
        if self._num_biases == self.num_maps:
            return self.activation(outputs if bias is None else outputs + bias)
        if not self._num_biases:
            return outputs
        sizes = [part.num_maps for part in self._expansions]
        pieces = []
        for part, piece in zip(self._expansions, tf.split(outputs, sizes, axis=-1), strict=True):
            if part.is_scalar:
                piece = self.activation(piece if bias is None else piece + bias)
            pieces.append(piece)
        return tf.concat(pieces, axis=-1)


_ARGUMENTS = """

    Args:
        filters: filters of each order, one number or one for each of `multipoles`; the output has
            one map for each filter and m.
        kernel_size: extent along each axis, or one for all. Along an axis of even extent the
            kernel's centre lies half a cell after the output's cell, as in Keras' ``"same"``.
        multipoles: orders l, a tuple.
        share_orders: whether the m of one order share their weights, which makes the layer
            equivariant.
        strides: of the output, as in Keras. Above 1 only with ``dilation_rate=1``.
        padding: ``"valid"`` for cells with all neighbours inside the mesh, ``"same"`` for zeros
            outside it, ``"periodic"`` for its periodic continuation.
        data_format: ``"channels_last"`` or ``"channels_first"``; by default the one of the Keras
            configuration.
        dilation_rate: spacing of the kernel's cells, as in Keras; distances, and so the shells,
            are those of the spread-out cells.
        activation: as in Keras.
        use_bias: whether to add a bias to each map.
        kernel_initializer: of the dense kernel `[*kernel_size, channels, num_maps]` (its fans
            count). The weights are drawn from it and scaled so that each map has, on white noise,
            the variance that a dense convolution with this initialiser gives; with `share_orders`
            the 2 l + 1 maps have it on average.
        bias_initializer: of the bias.
        kernel_regularizer: of each ``kernel_weights``.
        bias_regularizer: of the bias.
        activity_regularizer: of the output.
        kernel_constraint: on each ``kernel_weights``.
        bias_constraint: on the bias.
        isotropic: with `share_orders`, keep only those combinations of the shells whose answer to
            smooth fields is isotropic to leading order (`layers.isotropy`), so that the maps of
            such fields turn with any rotation and not only with the symmetries of the lattice.
            With equal extents every shell of l = 0 and 1 is; of the 3 weights of l = 2 on 3^3
            cells 2 are left, and l = 3 needs 5^3.
        method: how to compute it. ``"dense"``: one convolution with the dense kernel.
            ``"shells"``: sums of shifted copies of the mesh, axis by axis (`layers.shells`), for
            strides of 1. ``"auto"``: dense for strides above 1, and on a GPU (not measured there);
            on a CPU what `benchmarks/convolution.py` finds the faster: shells where XLA compiles,
            in float64, and for ``multipoles=(0,)`` in a graph; dense otherwise. Under
            `tf.vectorized_map` over weights use shells, because a dense convolution is then done
            one example at a time.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: if an argument is out of range, the input has the wrong rank or an unknown
            number of channels, or it is smaller than the kernel under ``"valid"`` padding.
    """


def _register(cls: Any) -> Any:
    cls.__doc__ = cls.__doc__.rstrip() + _ARGUMENTS
    return keras.saving.register_keras_serializable(package="npe_tf_layers")(cls)


@_register
class MultipoleConv1D(MultipoleConv):
    """One-dimensional convolution with even (l = 0) and odd (l = 1) kernels.

    See `MultipoleConv`. Input `[batch, D, channels]`, output `[batch, D', num_maps]`.
    """

    num_axes = 1


@_register
class MultipoleConv2D(MultipoleConv):
    """Two-dimensional convolution with kernels of Fourier harmonics.

    See `MultipoleConv`. Input `[batch, H, W, channels]`, output `[batch, H', W', num_maps]`.
    """

    num_axes = 2


@_register
class MultipoleConv3D(MultipoleConv):
    """Three-dimensional convolution with kernels of spherical harmonics.

    See `MultipoleConv`. Input `[batch, D, H, W, channels]`, output `[batch, D', H', W', num_maps]`.
    A 3^3 kernel of l = 0 has 4 weights (centre, faces, edges, corners) instead of 27.
    """

    num_axes = 3
