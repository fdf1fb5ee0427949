"""Mock catalogues with their truth: drawn from the model, or simulated.

A mock of the model is a draw of all that the posterior is about: white noise from the prior, its
evolved density, bias parameters, and haloes of the Poisson process that they make. A simulated one
owes nothing to the bias model.

Both are files in the layout of `npe_tf.catalogue`, with, besides,

* ``fields/white_noise`` `[N, N, N]`, of which `InitialField` makes ``fields/delta_linear``;
* of the model, ``theta`` and the attributes ``parameters`` and ``family``: the file can be read by
  `npe_tf.pretraining.load_parameters`;
* of a simulation, ``halos/velocity`` `[H, 3]` [km/s] and ``halos/num_particles`` `[H]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.nbody import NBodyConfig, simulate
from npe_tf.posterior import FieldPosterior, PosteriorConfig
from npe_tf.predictive import MockSampler

__all__ = ["Mock", "draw_mock", "model_of_mocks", "prior_sampler", "simulate_mock"]

Array = NDArray[Any]

_MOST_DRAWS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Mock:
    """A catalogue and what it was made of.

    Attributes:
        catalogue: with epoch and cosmology in its header.
        fields: ``delta_linear`` and ``delta_final``, `[N, N, N]`.
        datasets: all other arrays, by their path in the file.
        attributes: what else the file says of itself.
    """

    catalogue: Catalogue
    fields: Mapping[str, Array]
    datasets: Mapping[str, Array]
    attributes: Mapping[str, Any]

    def write(self, path: str | Path, attributes: Mapping[str, Any] | None = None) -> None:
        """Write the file, whole or not at all.

        Args:
            path: the file; replaced if it exists.
            attributes: to be added.
        """
        self.catalogue.write_hdf5(
            path,
            fields=self.fields,
            datasets=self.datasets,
            attributes={**self.attributes, **(attributes or {})},
        )


def model_of_mocks(
    config: PosteriorConfig, box_size: float, completeness: ArrayLike | None = None
) -> FieldPosterior:
    """The model alone, to draw from before there is a catalogue.

    Args:
        config: of the model.
        box_size: side of the box [Mpc/h].
        completeness: `[N, N, N]` in [0, 1].

    Returns:
        The posterior of a catalogue of one halo, which none of the draws knows of.
    """
    margin = config.kernel_size // 2 if config.padding == "valid" else 0
    inside = (slice(margin, config.num_cells - margin),) * 3
    window = np.ones((config.num_cells,) * 3) if completeness is None else np.asarray(completeness)
    # where it is does not matter, but it must be seen
    seen = np.unravel_index(np.argmax(window[inside]), window[inside].shape)
    one = Catalogue(
        (np.array([seen], dtype=np.float64) + margin) * (box_size / config.num_cells),
        np.array([config.mass_threshold]),
        box_size,
        periodic=config.padding == "periodic",
    )
    return config.build(one, completeness)


def draw_mock(
    config: PosteriorConfig,
    model: FieldPosterior,
    theta: ArrayLike | None,
    seed: np.random.SeedSequence,
    max_haloes: float = 2e7,
) -> Mock:
    """Draw a field and a catalogue.

    Args:
        config: of the model.
        model: what `model_of_mocks` made of it.
        theta: bias parameters `[size]`; if `None`, they are drawn too, see `prior_sampler`.
        seed: of everything.
        max_haloes: most that are expected.

    Returns:
        The mock.

    Raises:
        ValueError: if no halo is drawn, or more than `max_haloes` are expected.
    """
    for_noise, for_theta, for_haloes = (np.random.default_rng(s) for s in seed.spawn(3))
    dtype = tf.as_dtype(model.bias.dtype).as_numpy_dtype
    white_noise = for_noise.standard_normal(model.grid.shape).astype(dtype)
    delta = np.asarray(model.density(tf.constant(white_noise)))
    if theta is None:
        sampler, theta = prior_sampler(model, delta, for_theta, max_haloes)
    else:
        sampler = MockSampler(model, delta, theta)
        expected = float(sampler.rate.sum())
        if not expected <= max_haloes:
            raise ValueError(
                f"Invalid value for argument `max_haloes`. Expected at least the {expected:.3g} "
                f"haloes of these parameters in this box. Received: max_haloes={max_haloes:g}"
            )
    catalogue = dataclasses.replace(
        sampler.catalogue(for_haloes),
        header=_header(config.cosmology, config.scale_factor),
        periodic=config.padding == "periodic",
    )
    datasets = {"fields/white_noise": white_noise, "theta": np.asarray(theta, dtype=np.float64)}
    attributes = {
        key: value for key, value in config.to_attributes().items() if key != "scale_factor"
    }
    return Mock(
        catalogue,
        {"delta_linear": np.asarray(model.initial_field(white_noise)), "delta_final": delta},
        datasets,
        {
            **attributes,
            "simulation": "drawn from the model",
            "parameters": list(model.bias.parameters.names),
            "family": model.bias.family.name,
            "expected_haloes": float(sampler.rate.sum()),
        },
    )


def prior_sampler(
    model: FieldPosterior, delta: ArrayLike, rng: np.random.Generator, max_haloes: float = 2e7
) -> tuple[MockSampler, NDArray[np.float64]]:
    """Draw bias parameters from their prior, among those that expect a catalogue.

    Much of the prior expects no halo at all, or one in every cubic kiloparsec. Parameters with
    fewer than one or more than `max_haloes` expected haloes are drawn again.

    Args:
        model: gives the prior.
        delta: evolved overdensity `[N, N, N]`.
        rng: of the draws.
        max_haloes: most that are expected.

    Returns:
        What draws haloes, and the parameters `[size]`.

    Raises:
        ValueError: if a thousand draws had none of them.
    """
    for _ in range(_MOST_DRAWS):
        theta = model.prior_scale * rng.standard_normal(model.bias.parameters.size)
        sampler = MockSampler(model, delta, theta)
        if 1.0 <= sampler.rate.sum() <= max_haloes:
            return sampler, theta
    raise ValueError(
        "Invalid value for argument `max_haloes`. Expected parameters of the prior of width "
        f"{model.prior_scale:g} with 1 to {max_haloes:g} haloes. Received: none in {_MOST_DRAWS} "
        "draws"
    )


def simulate_mock(
    config: NBodyConfig,
    seed: np.random.SeedSequence,
    report: Callable[[int, int], None] | None = None,
) -> Mock:
    """Simulate a box.

    Args:
        config: of the simulation.
        seed: of the initial conditions.
        report: see `npe_tf.nbody.simulate`.

    Returns:
        The mock.

    Raises:
        ImportError: if SciPy is not installed.
        ValueError: if there is no halo.
    """
    rng = np.random.default_rng(seed.spawn(3)[0])
    lattice = (int(config.num_particles),) * 3
    found = simulate(config, rng.standard_normal(lattice, dtype=np.float32), report)
    haloes = found.haloes
    if not len(haloes.mass):
        raise ValueError(
            "Invalid value for argument `min_particles`. Expected a halo of so many particles; "
            f"{config.expected_haloes:.2g} were to be expected in {config.num_particles}^3 "
            f"particles of {config.particle_mass:.3g} Msun/h. Received: "
            f"min_particles={config.min_particles}"
        )
    header = _header(config.cosmology, config.scale_factor)
    datasets: dict[str, Array] = {
        "fields/white_noise": found.white_noise,
        "halos/num_particles": haloes.num_particles.astype(np.int32),
    }
    if haloes.velocities is not None:
        datasets["halos/velocity"] = haloes.velocities.astype(np.float32)
    stated = {key: value for key, value in config.to_attributes().items() if key not in header}
    return Mock(
        Catalogue(haloes.positions, haloes.mass, config.box_size, header=header),
        {"delta_linear": found.delta_linear, "delta_final": found.delta_final},
        datasets,
        {
            **stated,
            "simulation": "particle mesh",
            "halo_finder": "friends-of-friends; position: centre of mass",
            "particle_mass": config.particle_mass,
            "velocities": "km/s, peculiar",
        },
    )


def _header(cosmology: Cosmology, scale_factor: float) -> dict[str, float]:
    """Epoch and cosmology, as files of catalogues state them."""
    values = dataclasses.asdict(cosmology)
    known = {name: float(value) for name, value in values.items() if value is not None}
    return {"scale_factor": float(scale_factor), **known}
