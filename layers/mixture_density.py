"""The head of a mixture density network: features to the parameters of a mixture."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from layers.arguments import finite_number, invalid, one_of, positive_integer, positive_number
from layers.components import ComponentFamily, component_family, family_config

__all__ = ["MixtureDensity", "log_softplus"]

Tensor = Any

_OUTPUT_FORMATS = ("dict", "stacked")
_MEAN_ACTIVATIONS = {"relu": tf.nn.relu, "softplus": tf.math.softplus}
_SCALE_FLOOR = 1e-6
_SCALE_FLOOR_HALF = 6.104e-5  # the smallest normal float16


def log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)), which tends to x where softplus itself underflows."""
    x = tf.convert_to_tensor(x)
    # below the cut three terms of the series in e^x are exact to rounding
    cut = -12.0 if x.dtype == tf.float64 else -8.0
    is_small = x < cut
    # each branch sees harmless values where the other is taken, so that gradients are finite
    small = tf.where(is_small, x, cut)
    large = tf.where(is_small, tf.cast(cut, x.dtype), x)
    u = tf.exp(small)
    series = small - u * (0.5 - u * (5.0 / 24.0))
    return tf.where(is_small, series, tf.math.log(tf.math.softplus(large)))


@keras.saving.register_keras_serializable(package="npe_tf_layers")
class MixtureDensity(keras.layers.Layer):
    """Amplitudes, ordered means and widths of a mixture of T components.

    With a weight vector w and a bias b of its own for every component and quantity, and features
    psi `[..., F]` (Charnock et al. 2020, MNRAS 494, 50):

    * alpha_t = softplus(w psi + b + a0), softplus(a0) = `initial_amplitude`;
    * mu_0 = w psi + b + `log_mass_threshold`, mu_t = mu_(t-1) + act(w psi + b);
    * sigma_t = softplus(w psi + b + s0), softplus(s0) = `initial_width`, and never below 1e-6
      (6.1e-5 in float16), so that it cannot underflow to zero.

    The output is a dictionary of ``"log_amplitude"`` (finite however small alpha_t is), ``"mean"``
    and ``"scale"``, each `[..., T]`, or the three in this order in one tensor `[..., 3, T]`, which
    a Keras loss such as `PoissonProcessLoss` takes. Weights, in this order: `amplitude_kernel`
    `[F, T]`, `amplitude_bias` `[T]`, `mean_kernel`, `mean_bias`, `scale_kernel`, `scale_bias`; 12
    numbers for T = 2 and F = 1. Any T >= 1 and F >= 1 will do, and any number of dimensions before
    the last.

    The means are in order because no step between them is negative. With a relu they may coincide:
    where its argument is negative for every psi, a mean is the one before it and has no gradient,
    and the component is dead. So `mean_bias` starts at 0 for the first component and at 1 for the
    others. With softplus the steps are positive, the means differ (until rounding joins them) and
    no gradient vanishes. The first mean is free, and may be below the threshold.

    What a mean and a scale are is up to the family of the components: of a normal in log mass its
    mean and standard deviation, of a tapered Pareto the log of its cut-off mass and the e-folding
    of its power law. The layer computes the same for all; the family is for whoever reads it.

    Args:
        num_components: T, an integer of at least one.
        log_mass_threshold: natural log of the smallest mass, finite; the origin of the first mean.
        initial_amplitude: alpha_t where w psi + b = 0; positive and finite.
        initial_width: sigma_t where w psi + b = 0; positive and finite, 1e-6 at least to matter.
        mean_activation: act, ``"relu"`` or ``"softplus"``; the latter is smooth and never dead.
        kernel_initializer: of the three kernels side by side, `[F, 3 T]`.
        amplitude_bias_initializer: of `amplitude_bias`.
        mean_bias_initializer: of `mean_bias`; `None` for 0, 1, 1, ... as above.
        scale_bias_initializer: of `scale_bias`.
        kernel_regularizer: of each kernel.
        bias_regularizer: of each bias.
        kernel_constraint: on each kernel.
        bias_constraint: on each bias.
        family: of the components: ``"normal"``, ``"tapered_pareto"`` or a `ComponentFamily`.
        parameterisation: ``"log_mass"`` or, for normals only, ``"mass"``; see `component_family`.
        output_format: ``"dict"`` or ``"stacked"``.
        **kwargs: of `keras.layers.Layer`.

    Attributes:
        family: the `ComponentFamily` that the outputs are parameters of.

    Raises:
        ValueError: if an argument is out of range or the number of features is unknown.
    """

    def __init__(
        self,
        num_components: int,
        log_mass_threshold: float = 0.0,
        initial_amplitude: float = 1e-3,
        initial_width: float = 1.0,
        mean_activation: str = "relu",
        kernel_initializer: Any = "glorot_uniform",
        amplitude_bias_initializer: Any = "zeros",
        mean_bias_initializer: Any = None,
        scale_bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        family: str | ComponentFamily = "normal",
        parameterisation: str = "log_mass",
        output_format: str = "dict",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_components = positive_integer("num_components", num_components)
        self.log_mass_threshold = finite_number("log_mass_threshold", log_mass_threshold)
        self.initial_amplitude = positive_number("initial_amplitude", initial_amplitude)
        self.initial_width = positive_number("initial_width", initial_width)
        self.mean_activation = one_of("mean_activation", mean_activation, tuple(_MEAN_ACTIVATIONS))
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.amplitude_bias_initializer = keras.initializers.get(amplitude_bias_initializer)
        self.mean_bias_initializer = keras.initializers.get(mean_bias_initializer)
        self.scale_bias_initializer = keras.initializers.get(scale_bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.family = component_family(family, parameterisation)
        self.parameterisation = parameterisation
        self.output_format = one_of("output_format", output_format, _OUTPUT_FORMATS)
        self.input_spec = keras.layers.InputSpec(min_ndim=1)

    def build(self, input_shape: Any) -> None:
        """Create the weights for features `[..., F]`."""
        features = input_shape[-1] if len(input_shape) else None
        if features is None:
            raise invalid("input_shape", "a known number of features", tuple(input_shape))
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: features})
        # One draw for all three: an initialiser with a seed repeats itself when called again.
        dense_shape = (features, 3 * self.num_components)

        def add_kernel(name: str, first: int) -> Any:
            def columns(shape: tuple[int, ...], dtype: Any) -> Tensor:
                drawn = self.kernel_initializer(dense_shape, dtype=dtype)
                return drawn[:, first * shape[1] : (first + 1) * shape[1]]

            return self.add_weight(
                name=f"{name}_kernel",
                shape=(features, self.num_components),
                initializer=columns,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )

        def add_bias(name: str, initializer: Any) -> Any:
            return self.add_weight(
                name=f"{name}_bias",
                shape=(self.num_components,),
                initializer=initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

        self.amplitude_kernel = add_kernel("amplitude", 0)
        self.amplitude_bias = add_bias("amplitude", self.amplitude_bias_initializer)
        self.mean_kernel = add_kernel("mean", 1)
        self.mean_bias = add_bias("mean", self.mean_bias_initializer or _components_apart)
        self.scale_kernel = add_kernel("scale", 2)
        self.scale_bias = add_bias("scale", self.scale_bias_initializer)

    def call(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Features `[..., F]` to log amplitudes, means and widths, each `[..., T]`.

        Returns:
            A dictionary of the three, or one tensor `[..., 3, T]`.
        """
        amplitudes = _components(
            inputs,
            self.amplitude_kernel,
            self.amplitude_bias + _inverse_softplus(self.initial_amplitude),
        )
        steps = _components(inputs, self.mean_kernel, self.mean_bias)
        scales = _components(
            inputs, self.scale_kernel, self.scale_bias + _inverse_softplus(self.initial_width)
        )
        act = _MEAN_ACTIVATIONS[self.mean_activation]
        means = [steps[0] + self.log_mass_threshold]
        for step in steps[1:]:
            means.append(means[-1] + act(step))
        floor = _SCALE_FLOOR_HALF if self.compute_dtype == "float16" else _SCALE_FLOOR
        outputs = {
            "log_amplitude": tf.stack([log_softplus(x) for x in amplitudes], axis=-1),
            "mean": tf.stack(means, axis=-1),
            "scale": tf.stack([tf.maximum(tf.math.softplus(x), floor) for x in scales], axis=-1),
        }
        return outputs if self.output_format == "dict" else tf.stack([*outputs.values()], axis=-2)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output, or of each entry of it."""
        if self.output_format == "stacked":
            return (*input_shape[:-1], 3, self.num_components)
        shape = (*input_shape[:-1], self.num_components)
        return {"log_amplitude": shape, "mean": shape, "scale": shape}

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "num_components": self.num_components,
            "log_mass_threshold": self.log_mass_threshold,
            "initial_amplitude": self.initial_amplitude,
            "initial_width": self.initial_width,
            "mean_activation": self.mean_activation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "amplitude_bias_initializer": keras.initializers.serialize(
                self.amplitude_bias_initializer
            ),
            "mean_bias_initializer": keras.initializers.serialize(self.mean_bias_initializer),
            "scale_bias_initializer": keras.initializers.serialize(self.scale_bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "family": family_config(self.family, self.parameterisation),
            "parameterisation": self.parameterisation,
            "output_format": self.output_format,
        }


def _components(inputs: Tensor, kernel: Any, bias: Any) -> list[Tensor]:
    """`[..., F]` times `[F, T]` plus `[T]`, as a list of T tensors `[...]`.

    Working on whole meshes and stacking them last is much faster, gradient included, than
    broadcasting along a last axis of two or three.
    """
    kernel, bias = tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)
    if kernel.shape[0] == 1:
        feature = tf.squeeze(inputs, axis=-1)
        pairs = zip(tf.unstack(kernel[0]), tf.unstack(bias), strict=True)
        return [feature * w + b for w, b in pairs]
    return tf.unstack(tf.tensordot(inputs, kernel, 1) + bias, axis=-1)


def _components_apart(shape: tuple[int, ...], dtype: Any = None) -> Tensor:
    """Start `mean_bias` at 0, 1, 1, ..."""
    return keras.ops.convert_to_tensor(np.arange(shape[0]) > 0, dtype=dtype)


def _inverse_softplus(y: float) -> float:
    """Solve log(1 + e^x) = y for x."""
    return y + math.log(-math.expm1(-y))
