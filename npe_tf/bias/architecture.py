"""Networks like the paper's and beyond it: what there is to choose, and the model it makes.

Charnock et al. 2020 (MNRAS 494, 50) have one convolution of 3^3 cells and l = 0, two components, 17
parameters, and name the search for a better network as their next step. An `Architecture` is one
point of that search. Convolutions of l > 0 share their weights among m, and only rotation-invariant
scalars of their maps (`layers.MultipolePower`, `layers.MultipoleProduct`) go on to the next layer,
so that the mass functions turn with the box whatever the architecture: exactly under the 48
symmetries of the cube.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import keras
import numpy as np

from layers import MultipoleConv3D, MultipolePower, MultipoleProduct
from layers.arguments import invalid, is_integer
from layers.components import component_family
from npe_tf.bias.counts import with_counts
from npe_tf.bias.neural import LogDensity, NeuralBias, mixture_head

__all__ = ["INVARIANTS", "RECOMMENDED", "Architecture", "recommended"]

Tensor = Any

INVARIANTS = ("power", "product")
"""Scalars of maps of l > 0: of one set of maps with itself, or of two sets."""

_ENGINE = "neural_physical_engine"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a neural bias model is made of; the default is the paper's network.

    Attributes:
        kernel_size: cells along each side of every convolution: 3, 5 or 7.
        orders: l of the convolutions, rising, from 0, 1 and 2; l = 0 is always there.
        num_layers: convolutions, 1 to 3, each with bias and softplus at l = 0.
        features: filters of each order in every convolution.
        invariants: scalars of the maps of l > 0, see `INVARIANTS`. ``"product"`` has two sets of
            maps and as many scalars as ``"power"``, which can be negative.
        num_components: of the mixture, T, 1 to 4.
        parameterisation: ``"log_mass"`` or, for normals only, ``"mass"``; see `HaloMassFunction`.
        family: of the components, ``"normal"`` or ``"tapered_pareto"``.
        softening: of the logarithm of the density; positive.

    Raises:
        ValueError: if one of them is something else.
    """

    kernel_size: int = 3
    orders: tuple[int, ...] = (0,)
    num_layers: int = 1
    features: int = 1
    invariants: str = "power"
    num_components: int = 2
    parameterisation: str = "log_mass"
    family: str = "normal"
    softening: float = 0.1

    def __post_init__(self) -> None:
        """Check all."""
        for name, allowed in (
            ("kernel_size", (3, 5, 7)),
            ("num_layers", (1, 2, 3)),
            ("num_components", (1, 2, 3, 4)),
        ):
            if not is_integer(getattr(self, name)) or getattr(self, name) not in allowed:
                raise invalid(name, f"one of {allowed}", getattr(self, name))
        if not is_integer(self.features) or self.features < 1:
            raise invalid("features", "a positive integer", self.features)
        possible = [(0,), (0, 1), (0, 2), (0, 1, 2)]
        given = tuple(self.orders) if isinstance(self.orders, (list, tuple)) else self.orders
        if given not in possible or not all(is_integer(order) for order in given):
            raise invalid("orders", f"one of {possible}", self.orders)
        # JSON has lists only
        object.__setattr__(self, "orders", given)
        if self.invariants not in INVARIANTS:
            raise invalid("invariants", f"one of {INVARIANTS}", self.invariants)
        if self.invariants == "product" and given == (0,):
            raise invalid("invariants", "'power' where there is l = 0 alone", self.invariants)
        if self.family not in ("normal", "tapered_pareto"):
            raise invalid("family", "'normal' or 'tapered_pareto'", self.family)
        component_family(self.family, self.parameterisation)
        if isinstance(self.softening, bool) or not isinstance(self.softening, (int, float)):
            raise invalid("softening", "a positive number", self.softening)
        LogDensity(self.softening)

    @property
    def receptive_radius(self) -> int:
        """Cells to either side along each axis whose density a mass function depends on."""
        return self.num_layers * (self.kernel_size // 2)

    @property
    def num_parameters(self) -> int:
        """Weights of the model with Poisson counts."""
        return int(self.build(0.0).count_params())

    @property
    def label(self) -> str:
        """A few words for tables: what differs from the paper's network."""
        words = [f"{self.kernel_size}^3", "l=" + ",".join(map(str, self.orders))]
        words += [f"{self.num_layers} layers"] if self.num_layers > 1 else []
        words += [f"{self.features} features"] if self.features > 1 else []
        words += ["products"] if self.invariants == "product" else []
        words += [f"T={self.num_components}"]
        words += ["per mass"] if self.parameterisation == "mass" else []
        words += ["tapered Pareto"] if self.family == "tapered_pareto" else []
        words += [f"softening {self.softening:g}"] if self.softening != 0.1 else []
        return " ".join(words)

    def build(
        self,
        log_mass_threshold: float,
        num_cells: int | None = None,
        *,
        padding: str = "periodic",
        counts: str = "poisson",
        dtype: str = "float32",
        seed: int | None = None,
    ) -> keras.Model:
        """Build the network by the Keras functional API.

        Args:
            log_mass_threshold: log of the smallest halo mass [log of Msun/h].
            num_cells: side of the input mesh; `None` for any.
            padding: ``"periodic"``, or ``"valid"`` to keep voxels that see no face of the box:
                N' = N - 2 `receptive_radius`.
            counts: law of the number of haloes in a voxel, see `npe_tf.bias.counts`.
            dtype: ``"float32"`` or ``"float64"``.
            seed: of the initial weights.

        Returns:
            A model from overdensity `[batch, N, N, N, 1]` to what `neural_bias_model` returns; of
            `Architecture()` the same function with the same weights and names.
        """
        # the first two are those of `neural_bias_model`
        seeds = iter(np.random.SeedSequence(seed).generate_state(2 + 2 * self.num_layers).tolist())
        first, head = next(seeds), next(seeds)
        delta = keras.Input((num_cells,) * 3 + (1,), dtype=dtype, name="delta")
        scalars = LogDensity(self.softening, dtype=dtype, name="log_density")(delta)
        for number in range(1, self.num_layers + 1):
            own = first if number == 1 else next(seeds)
            suffix = "" if number == 1 else f"_{number}"
            scalars = self._layer(scalars, suffix, padding, own, next(seeds), dtype)
        mixture = mixture_head(
            self.num_components,
            log_mass_threshold,
            self.parameterisation,
            self.family,
            head,
            dtype,
        )(scalars)
        return keras.Model(delta, with_counts(mixture, counts, dtype), name="neural_bias")

    def _layer(
        self, scalars: Tensor, suffix: str, padding: str, seed: int, second: int, dtype: str
    ) -> Tensor:
        """One convolution and the scalars of its maps, `[batch, N', N', N', features * orders]`."""
        shared = len(self.orders) > 1

        def convolution(orders: tuple[int, ...], seed: int, name: str) -> MultipoleConv3D:
            has_scalars = 0 in orders
            return MultipoleConv3D(
                self.features,
                self.kernel_size,
                orders,
                share_orders=shared,
                padding=padding,
                activation="softplus" if has_scalars else None,
                use_bias=has_scalars,
                kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
                dtype=dtype,
                name=name + suffix,
            )

        maps = convolution(self.orders, seed, _ENGINE)(scalars)
        if not shared:
            return maps
        if self.invariants == "power":
            return MultipolePower(self.orders, dtype=dtype, name="power" + suffix)(maps)
        higher = self.orders[1:]
        partners = convolution(higher, second, "partners")(scalars)
        products = MultipoleProduct(higher, dtype=dtype, name="products" + suffix)(
            [maps[..., self.features :], partners]
        )
        both = keras.layers.Concatenate(dtype=dtype, name="scalars" + suffix)
        return both([maps[..., : self.features], products])

    def bias(self, log_mass_threshold: float, **options: Any) -> NeuralBias:
        """The network as a bias model, for `pretrain`, `FieldPosterior` and the samplers.

        Args:
            log_mass_threshold: log of the smallest halo mass [log of Msun/h].
            **options: of `build`.

        Returns:
            The model.
        """
        network = self.build(log_mass_threshold, **options)
        return NeuralBias(network, log_mass_threshold, self.parameterisation, self.family)

    def to_json(self) -> str:
        """All fields, as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Inverse of `to_json`; fields that are not there are the paper's.

        Raises:
            ValueError: if the text is no such JSON, or a field is none or has no such value.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise invalid("text", "JSON of an architecture", text) from error
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(fields, dict) or not set(fields) <= set(names):
            raise invalid("text", f"a JSON object with some of {names}", text)
        return cls(**fields)


RECOMMENDED = Architecture()
"""What `recommended` builds; docs/architectures.md has the table that it is chosen from."""


def recommended(mass_threshold: float = 2e12, **options: Any) -> NeuralBias:
    """The bias model to begin with.

    It is another than the paper's only where the gain on held-out octants is more than three
    standard errors; see docs/architectures.md.

    Args:
        mass_threshold: smallest halo mass [Msun/h].
        **options: of `Architecture.build`, such as `dtype`, `padding` and `seed`.

    Returns:
        The model, for `pretrain`, `FieldPosterior` and the samplers.

    Raises:
        ValueError: if the threshold is no positive number.
    """
    if not (math.isfinite(mass_threshold) and mass_threshold > 0):
        raise invalid("mass_threshold", "a positive number", mass_threshold)
    return RECOMMENDED.bias(math.log(mass_threshold), **options)
