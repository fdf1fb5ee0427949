"""The neural bias model: a neural physical engine and a mixture density head.

Charnock et al. 2020 (MNRAS 494, 50): the log density in the neighbourhood of a voxel goes through
one rotation-symmetric convolution to a single number psi per voxel, and psi sets the mixture that
is the halo mass function there. With a 3^3 kernel and two components that is 17 parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from layers import MixtureDensity, MultipoleBasis, MultipoleConv3D, multipole_basis
from layers.components import ComponentFamily, TaperedParetoComponents, component_family
from layers.mixture_density import log_softplus
from npe_tf.bias.counts import Dispersion, with_counts
from npe_tf.mass_function import HaloMassFunction
from npe_tf.parameters import FlatParameters

__all__ = [
    "CENTRE",
    "PSI",
    "LogDensity",
    "NeuralBias",
    "PapersNetwork",
    "check_psi",
    "log_softplus",
    "mixture_head",
    "neural_bias_model",
    "possible_psi",
    "psi_rises",
    "response_scales",
    "starting_mean_bias",
]

Tensor = Any

CENTRE = "kernel_weights[0, 0, 0]"
"""Name of the kernel's weight for the voxel itself."""

PSI = ("free", "rises", "falls")
"""How psi may go with the density, for `npe_tf.pretrain` and the settings of a run."""

_PAPER_WIDTH = math.log1p(1e3)  # softplus(log 1e3)
_INITIAL_WIDTH = {"log_mass": math.log1p(math.exp(0.5)), "mass": _PAPER_WIDTH}
# The halo mass function below its knee is about M^-1 per unit log mass.
_PARETO_WIDTH = 1.0
# e-folds from the threshold to the first cut-off and from each cut-off to the next: with two
# components and a threshold of 2e12 Msun/h they start at 1.5e13 and 1.1e14
_PARETO_STEP = 2.0


@keras.saving.register_keras_serializable(package="npe_tf")
class LogDensity(keras.layers.Layer):
    """log(1 + delta + softening), the input of the neural physical engine.

    Args:
        softening: keeps empty voxels finite; positive.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, softening: float = 0.1, **kwargs: Any) -> None:
        """Check the softening."""
        if not (math.isfinite(softening) and softening > 0):
            raise ValueError(
                "Invalid value for argument `softening`. Expected a positive number. Received: "
                f"softening={softening!r}"
            )
        super().__init__(**kwargs)
        self.softening = softening

    def call(self, delta: Tensor) -> Tensor:
        """Overdensity of any shape to log density of the same shape."""
        return tf.math.log(delta + (1.0 + self.softening))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's own shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "softening": self.softening}


def starting_mean_bias(family: ComponentFamily, num_components: int) -> NDArray[np.float64]:
    """Where `neural_bias_model` starts `mean_bias`, `[T]`: distances between the means.

    The first is from the threshold. A cut-off at the threshold would be a poor start.

    Args:
        family: of the components.
        num_components: T.
    """
    if isinstance(family, TaperedParetoComponents):
        return np.full(num_components, _PARETO_STEP)
    return np.minimum(np.arange(num_components), 1.0)


def mixture_head(
    num_components: int,
    log_mass_threshold: float,
    parameterisation: str,
    family: str | ComponentFamily,
    seed: int,
    dtype: str,
) -> MixtureDensity:
    """The last layer of the network: numbers of a voxel to its halo mass function.

    Args:
        num_components: T.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        parameterisation: with the family it sets where the components start.
        family: of the components, see `HaloMassFunction`.
        seed: of the kernels.
        dtype: ``"float32"`` or ``"float64"``.

    Returns:
        The layer, which takes any number of features.
    """
    components = component_family(family, parameterisation)
    is_pareto = isinstance(components, TaperedParetoComponents)
    return MixtureDensity(
        num_components,
        log_mass_threshold=log_mass_threshold,
        initial_width=_PARETO_WIDTH if is_pareto else _INITIAL_WIDTH[parameterisation],
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        mean_bias_initializer=keras.initializers.Constant(_PARETO_STEP) if is_pareto else None,
        family=family,
        parameterisation=parameterisation,
        dtype=dtype,
        name="mixture_density",
    )


def neural_bias_model(
    num_cells: int | None = None,
    *,
    log_mass_threshold: float,
    kernel_size: int = 3,
    num_components: int = 2,
    padding: str = "periodic",
    softening: float = 0.1,
    parameterisation: str = "log_mass",
    family: str | ComponentFamily = "normal",
    counts: str = "poisson",
    dtype: str = "float32",
    seed: int | None = None,
) -> keras.Model:
    """Build the network of Charnock et al. 2020 by the Keras functional API.

    Args:
        num_cells: side of the input mesh; `None` for any.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        kernel_size: extent of the l=0 kernel; 3 has four weights (centre, face, edge, corner).
        num_components: mixture components T.
        padding: ``"periodic"``, or ``"valid"`` to keep interior voxels only.
        softening: of the logarithm of the density.
        parameterisation: with the family it sets where the components start, nothing else; see
            `HaloMassFunction`.
        family: of the components, see `HaloMassFunction`.
        counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.
        dtype: ``"float32"`` or ``"float64"``.
        seed: of the initial weights.

    Returns:
        A model from overdensity `[batch, N, N, N, 1]` to a dictionary of `log_amplitude`, `mean`
        and `scale`, each `[batch, N', N', N', T]`, and of `dispersion` `[batch, 2]` unless counts
        are those of a Poisson process.
    """
    seeds = np.random.SeedSequence(seed).generate_state(2)
    delta = keras.Input((num_cells,) * 3 + (1,), dtype=dtype, name="delta")
    log_density = LogDensity(softening, dtype=dtype, name="log_density")(delta)
    psi = MultipoleConv3D(
        1,
        kernel_size,
        padding=padding,
        activation="softplus",
        kernel_initializer=keras.initializers.GlorotUniform(seed=int(seeds[0])),
        dtype=dtype,
        name="neural_physical_engine",
    )(log_density)
    mixture = mixture_head(
        num_components, log_mass_threshold, parameterisation, family, int(seeds[1]), dtype
    )(psi)
    outputs = with_counts(mixture, counts, dtype)
    return keras.Model(delta, outputs, name="neural_bias")


def psi_rises(theta: NDArray[np.floating[Any]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether psi rises with the density of its own voxel: the sign of the kernel's centre.

    The posterior has modes of either kind, and chains do not cross between them.

    Args:
        theta: parameters `[..., size]`.
        names: of the parameters.

    Returns:
        `[...]`.

    Raises:
        ValueError: if there is no such kernel among the parameters.
    """
    if CENTRE not in names:
        raise ValueError(
            f"Invalid value for argument `names`. Expected a kernel {CENTRE!r} among them. "
            f"Received: {list(names)}"
        )
    return np.asarray(theta)[..., list(names).index(CENTRE)] > 0


def check_psi(psi: str) -> None:
    """Refuse what is not in `PSI`."""
    if psi not in PSI:
        raise ValueError(
            f"Invalid value for argument `psi`. Expected one of {PSI}. Received: psi={psi!r}"
        )


def possible_psi(psi: str, names: Sequence[str]) -> str:
    """What is asked for, or ``"free"`` for networks without a kernel's centre."""
    return psi if CENTRE in names else "free"


def response_scales(model: Any) -> NDArray[np.float64]:
    """What a start of every parameter is multiplied with, `[size]`: less in larger kernels.

    Inputs that hardly differ from cell to cell get from any kernel a response of the same spread as
    from the paper's, of four weights for 3^3 cells. One for all that is no weight of a kernel.

    Args:
        model: any Keras model; without `MultipoleConv3D` all are one.

    Returns:
        In the order of `FlatParameters`; exactly one for the paper's network.
    """
    paper, scales = _response_spread(multipole_basis(3)), {}
    for layer in getattr(model, "layers", []):
        if isinstance(layer, MultipoleConv3D):
            for order, basis, weights in zip(
                layer.multipoles, layer.basis, layer.kernel_weights, strict=True
            ):
                spread = _response_spread(basis) / (2 * order + 1) * int(weights.shape[1])
                scales[id(weights)] = math.sqrt(paper / spread)
    return np.concatenate(
        [np.full(int(np.prod(v.shape)), scales.get(id(v), 1.0)) for v in model.trainable_variables]
    )


def _response_spread(basis: MultipoleBasis) -> float:
    """Of smooth inputs to all kernels of a basis, with random weights."""
    return float(np.sum(np.square(np.abs(basis.kernels).sum(axis=(1, 2, 3)))))


class PapersNetwork:
    """The two layers of a network like the paper's.

    That is one `MultipoleConv3D` to one number psi per voxel, with a bias and a softplus, and a
    `MixtureDensity`; before them there may be layers without weights, behind them a `Dispersion`.

    Args:
        model: the network.
        engine: its convolution.
        head: its mixture density.
    """

    def __init__(self, model: Any, engine: MultipoleConv3D, head: MixtureDensity) -> None:
        """Keep the layers."""
        self.model = model
        self.engine = engine
        self.head = head

    @classmethod
    def of(cls, model: Any) -> PapersNetwork | None:
        """Read a model; `None` if it is of another kind."""
        layers = getattr(model, "layers", [])
        weighty = [layer for layer in layers if layer.trainable_variables]
        # behind the network's own, in theta too
        if weighty and isinstance(weighty[-1], Dispersion):
            weighty = weighty[:-1]
        if not (
            len(weighty) == 2
            and isinstance(weighty[0], MultipoleConv3D)
            and isinstance(weighty[1], MixtureDensity)
            and weighty[0].filters == 1
            and weighty[0].use_bias
            and getattr(weighty[0].activation, "__name__", "") == "softplus"
        ):
            return None
        return cls(model, *weighty)

    @property
    def num_shells(self) -> int:
        """S, the number of weights of the kernel."""
        return int(np.prod(self.engine.trainable_variables[0].shape))

    def responses(self, delta: Tensor) -> Tensor:
        """What psi is a function of, without the weights.

        Args:
            delta: overdensity `[N, N, N]`.

        Returns:
            `[N', N', N', S]`.
        """
        inputs = delta[tf.newaxis, ..., tf.newaxis]
        for layer in self.model.layers[1:]:
            if layer is self.engine:
                break
            inputs = layer(inputs)
        return self.engine.shell_responses(inputs)[0]

    def psi(self, responses: Tensor, theta: Tensor) -> Tensor:
        """The number psi of every voxel: softplus of the responses' weighted sum and the bias.

        Args:
            responses: of the density, `[..., S]`.
            theta: the model's weights as one vector, in the order of `FlatParameters`, which has
                the kernel and its bias first.

        Returns:
            `[...]`.
        """
        kernel, bias = theta[: self.num_shells], theta[self.num_shells]
        return tf.math.softplus(tf.linalg.matvec(responses, kernel) + bias)


class NeuralBias:
    """A Keras model read as the halo mass function of every voxel.

    Args:
        model: from overdensity `[batch, N, N, N, 1]` to a dictionary of `log_amplitude`, `mean`
            and `scale`, and of `dispersion` where counts have one; `neural_bias_model` or any
            other.
        log_mass_threshold: log of the smallest halo mass [log of Msun/h].
        parameterisation: how the mixture is read; see `HaloMassFunction`.
        family: of the components, see `HaloMassFunction`. It is not read off the model: a model
            loaded from a SavedModel has no layers to ask.

    Attributes:
        parameters: the weights as one flat vector theta.
    """

    def __init__(
        self,
        model: Any,
        log_mass_threshold: float,
        parameterisation: str = "log_mass",
        family: str | ComponentFamily = "normal",
    ) -> None:
        """Read the model's parameters off it."""
        self.family = component_family(family, parameterisation)
        self.model = model
        self.log_mass_threshold = log_mass_threshold
        self.parameterisation = parameterisation
        self.parameters = FlatParameters(model)

    @property
    def dtype(self) -> str:
        """Dtype of the weights, which densities and theta must have."""
        return str(self.model.trainable_variables[0].dtype)

    @property
    def theta(self) -> Tensor:
        """The model's own weights as one vector."""
        return self.parameters.flatten(self.model.trainable_variables)

    def mass_function(self, delta: Tensor, theta: Tensor | None = None) -> HaloMassFunction:
        """Halo mass function of every voxel.

        Args:
            delta: overdensity `[N, N, N]`.
            theta: weights `[size]`; the model's own variables by default.

        Returns:
            Distribution of batch shape `[N', N', N']` (N' = N, or less with ``"valid"`` padding).
        """
        inputs = delta[tf.newaxis, ..., tf.newaxis]
        if theta is None:
            outputs = self.model(inputs)
        else:
            # Keras casts inputs to the layer's type in silence; a float64 chain must not lose
            # its digits in a float32 model.
            if theta.dtype.name != self.dtype or delta.dtype.name != self.dtype:
                raise TypeError(
                    f"Invalid value for argument `theta`. Expected `theta` and `delta` of the "
                    f"model's dtype {self.dtype}. Received: {theta.dtype.name} and "
                    f"{delta.dtype.name}"
                )
            outputs, _ = self.model.stateless_call(
                self.parameters.unflatten(theta),
                [v.value for v in self.model.non_trainable_variables],
                inputs,
            )
        return HaloMassFunction(
            outputs["log_amplitude"][0],
            outputs["mean"][0],
            outputs["scale"][0],
            self.log_mass_threshold,
            self.parameterisation,
            self.family,
            outputs["dispersion"][0] if "dispersion" in outputs else None,
        )
