"""Where the bias model of mocks comes from: flags, a run, or a file of fitted parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

from experiments import options

if TYPE_CHECKING:
    from npe_tf.posterior import PosteriorConfig

FLAGS = flags.FLAGS

__all__ = ["MODEL_FLAGS", "Source", "require_box_size", "source_from_flags"]

MODEL_FLAGS = (
    "mass_threshold",
    "supersampling",
    "gravity",
    "pm_steps",
    "pm_force_factor",
    "redshift_space",
    "light_cone",
    "mass_assignment",
    "bias",
    "scale_factor",
    "padding",
    "kernel_size",
    "num_components",
    "softening",
    "parameterisation",
    "component_family",
)
"""Flags of the model besides mesh, cosmology and survey, by the names of `PosteriorConfig`."""


class Source(NamedTuple):
    """Where a bias model comes from.

    Attributes:
        name: for people.
        config: of the model, with the mesh of the flags.
        box_size: of the mocks.
        theta: parameters to choose from, `[S, size]`; `None` for the prior.
        completeness: of the run, if it had one.
    """

    name: str
    config: PosteriorConfig
    box_size: float
    theta: np.ndarray[Any, Any] | None
    completeness: np.ndarray[Any, Any] | None


def require_box_size() -> float:
    """The side of the box [Mpc/h], which flags must state."""
    if FLAGS.box_size is None:
        raise ValueError(
            "Invalid value for argument `box_size`. Expected the side of the box in Mpc/h "
            "(--box_size). Received: none"
        )
    return float(FLAGS.box_size)


def source_from_flags() -> Source:
    """The model that flags, a run or a file of parameters describe."""
    if FLAGS.run is not None and FLAGS.pretrained is not None:
        raise ValueError(
            "Invalid value for argument `pretrained`. Expected --run or --pretrained. Received: "
            f"run={FLAGS.run!r}, pretrained={FLAGS.pretrained!r}"
        )
    if FLAGS.run is not None:
        return _of_run()
    _refuse_without("parameters", "--run", FLAGS.parameters)
    if FLAGS.pretrained is not None:
        return _of_parameters()
    box_size = require_box_size()
    options.import_tensorflow_quietly()
    config = options.config_from_flags(None)
    if FLAGS.prior_scale is not None:
        config = dataclasses.replace(config, prior_scale=FLAGS.prior_scale)
    name = f"parameters from the prior, of width {config.prior_scale:g}"
    return Source(name, config, box_size, None, None)


def _refuse_without(name: str, needed: str, value: Any) -> None:
    if value is not None:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {needed} with it. Received: "
            f"--{name}={value}"
        )


def _of_run() -> Source:
    from npe_tf.chain_store import CHAIN_FILE, ChainStore

    with ChainStore.open(Path(FLAGS.run) / CHAIN_FILE) as store:
        attributes = dict(store.attributes)
        warmup = int(attributes["num_warmup"])
        theta = store.read("theta", min(warmup, store.num_committed))
        window = store.constant("completeness") if "completeness" in store.constants else None
    if not len(theta):
        raise ValueError(
            "Invalid value for argument `run`. Expected a run with sweeps after its warm-up. "
            f"Received: {FLAGS.run!r} with none"
        )
    options.import_tensorflow_quietly()

    from npe_tf.bias.neural import CENTRE, psi_rises

    config, box_size = _from_attributes(attributes, float(attributes["box_size"]))
    if window is not None and window.shape != (config.num_cells,) * 3:
        raise ValueError(
            "Invalid value for argument `grid`. Expected that of the run, which has a "
            f"completeness field. Received: --grid={config.num_cells}"
        )
    theta = theta.reshape(-1, theta.shape[-1]).astype(np.float64)
    name = f"{len(theta)} posterior samples of {FLAGS.run}"
    if FLAGS.parameters == "mean":
        names = [str(name) for name in attributes["parameters"]]
        if CENTRE in names and np.ptp(psi_rises(theta, names).astype(int)):
            raise ValueError(
                "Invalid value for argument `parameters`. Expected 'sample' for a run in some of "
                "whose samples psi rises with the density and in others falls: their mean is in "
                "neither mode. Received: --parameters=mean"
            )
        theta = theta.mean(axis=0, keepdims=True)
        name = f"mean of the {name}"
    return Source(name, config, box_size, theta, window)


def _of_parameters() -> Source:
    import h5py

    path = Path(FLAGS.pretrained)
    if not path.is_file():
        raise FileNotFoundError(f"There are no parameters at {str(path)!r}")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
    except OSError as error:
        raise ValueError(
            "Invalid value for argument `pretrained`. Expected a file of npe-pretrain. Received: "
            f"{str(path)!r} ({error})"
        ) from error
    if "num_cells" not in attributes:
        raise ValueError(
            "Invalid value for argument `pretrained`. Expected a file of npe-pretrain that says "
            f"what was fitted. Received: {str(path)!r} with the attributes {sorted(attributes)}"
        )
    options.import_tensorflow_quietly()

    from npe_tf.pretraining import load_parameters

    known = attributes.get("box_size")
    config, box_size = _from_attributes(attributes, None if known is None else float(known))
    theta = load_parameters(path, config.build_bias(any_mesh=True))
    return Source(f"parameters of {path}", config, box_size, theta[np.newaxis], None)


def _from_attributes(
    attributes: Mapping[str, Any], fitted_box: float | None
) -> tuple[PosteriorConfig, float]:
    """The model of a file on the mesh of the flags, and the box of the mocks."""
    from npe_tf.posterior import PosteriorConfig

    config = PosteriorConfig.from_attributes(attributes)
    for name in (*MODEL_FLAGS, *options.COSMOLOGY):
        owner = config.cosmology if name in options.COSMOLOGY else config
        value, own = getattr(FLAGS, name), getattr(owner, name)
        same = value == own if not isinstance(own, float) else math.isclose(value, own)
        # --redshift speaks through --scale_factor
        said = FLAGS[name].present or (name == "scale_factor" and FLAGS.redshift is not None)
        if said and not same:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected the {name}={own} of the model that "
                f"was fitted, or no such flag. Received: --{name}={value}"
            )
    seen_from = options.observer_from_flags()
    if seen_from is not None and config.observer not in (None, seen_from):
        raise ValueError(
            f"Invalid value for argument `observer`. Expected the observer={config.observer} of "
            f"the model that was fitted, or no such flag. Received: --observer={seen_from}"
        )
    _refuse_without("prior_scale", "neither --run nor --pretrained", FLAGS.prior_scale)
    fitted_cells = config.num_cells
    if not FLAGS["grid"].present:
        FLAGS["grid"].value = fitted_cells
    config = dataclasses.replace(config, num_cells=FLAGS.grid, dtype=FLAGS.dtype)
    if fitted_box is None:
        return config, require_box_size()
    cell = fitted_box / fitted_cells
    box_size = cell * FLAGS.grid
    if FLAGS.box_size is not None and not math.isclose(FLAGS.box_size, box_size, rel_tol=1e-6):
        raise ValueError(
            f"Invalid value for argument `box_size`. Expected {box_size:g} Mpc/h for --grid="
            f"{FLAGS.grid}: the bias model was fitted to cells of {cell:g} Mpc/h and is of no "
            f"others. Received: --box_size={FLAGS.box_size:g}"
        )
    return config, box_size
