"""Flags that several binaries share, and the model they describe."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags, logging

from npe_tf.catalogue import Catalogue
from npe_tf.cosmology import Cosmology
from npe_tf.posterior import PosteriorConfig

FLAGS = flags.FLAGS

SHIPPED = "nbody_box_250"


def define_model_flags() -> None:
    """Define the flags that describe the data and the model."""
    flags.DEFINE_string(
        "catalogue",
        SHIPPED,
        f"HDF5 halo catalogue (halos/position, halos/mass, attribute box_size); '{SHIPPED}' is the "
        "one that comes with the package.",
    )
    flags.DEFINE_integer("grid", 32, "Cells along each side of the mesh; even.")
    flags.DEFINE_float(
        "box_size", None, "Side of the box [Mpc/h]; by default the catalogue's own attribute."
    )
    flags.DEFINE_float("mass_threshold", 2e12, "Smallest halo mass used [Msun/h].")
    flags.DEFINE_integer("supersampling", 1, "Particles per cell along each side.")
    flags.DEFINE_enum("mass_assignment", "tsc", ["tsc", "cic"], "Of the particles to the mesh.")
    flags.DEFINE_float("scale_factor", 1.0, "Scale factor of the catalogue.")
    flags.DEFINE_enum("padding", "periodic", ["periodic", "valid"], "Edges of the box.")
    flags.DEFINE_integer("kernel_size", 3, "Extent of the rotation-symmetric kernel; odd.")
    flags.DEFINE_integer("num_components", 2, "Components of the halo mass function.")
    flags.DEFINE_float("softening", 0.1, "Added to 1 + delta before its logarithm is taken.")
    flags.DEFINE_enum("parameterisation", "log_mass", ["log_mass", "mass"], "Of the mass function.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float64"], "Precision of the fields.")
    flags.DEFINE_string(
        "completeness", None, "NumPy file (.npy) with the completeness field [N, N, N] in [0, 1]."
    )
    for field in dataclasses.fields(Cosmology):
        default = getattr(Cosmology(), field.name)
        flags.DEFINE_float(field.name, default, f"Cosmological parameter {field.name}.")


def config_from_flags(dtype: str | None = None) -> PosteriorConfig:
    """The model that the flags describe."""
    return PosteriorConfig(
        num_cells=FLAGS.grid,
        mass_threshold=FLAGS.mass_threshold,
        cosmology=Cosmology(
            **{f.name: getattr(FLAGS, f.name) for f in dataclasses.fields(Cosmology)}
        ),
        scale_factor=FLAGS.scale_factor,
        supersampling=FLAGS.supersampling,
        mass_assignment=FLAGS.mass_assignment,
        padding=FLAGS.padding,
        kernel_size=FLAGS.kernel_size,
        num_components=FLAGS.num_components,
        softening=FLAGS.softening,
        parameterisation=FLAGS.parameterisation,
        dtype=dtype or FLAGS.dtype,
    )


def catalogue_path() -> Path:
    """The catalogue's file."""
    if FLAGS.catalogue == SHIPPED:
        from npe_tf.datasets import nbody_box_path

        return Path(nbody_box_path())
    return Path(FLAGS.catalogue)


def read_catalogue() -> Catalogue:
    """Read the catalogue and check it against the flags."""
    catalogue = Catalogue.read_hdf5(catalogue_path())
    if FLAGS.box_size is not None and not np.isclose(FLAGS.box_size, catalogue.box_size, rtol=1e-6):
        raise ValueError(
            f"Invalid value for argument `box_size`. Expected the catalogue's own "
            f"{catalogue.box_size:g} Mpc/h. Received: box_size={FLAGS.box_size!r}"
        )
    return catalogue


def read_completeness() -> np.ndarray[Any, Any] | None:
    """Read the completeness field, if one is given."""
    if FLAGS.completeness is None:
        return None
    if not os.path.isfile(FLAGS.completeness):
        raise FileNotFoundError(f"There is no completeness field at {FLAGS.completeness!r}")
    field: np.ndarray[Any, Any] = np.load(FLAGS.completeness, allow_pickle=False)
    return field


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ProgressLine:
    """Prints progress: over itself on a terminal, now and then into a log."""

    def __init__(self, stream: Any, seconds_between_lines: float = 20.0) -> None:
        """Look what the stream is."""
        self._stream = stream
        self._live = stream.isatty()
        self._pause = 0.2 if self._live else seconds_between_lines
        self._last = -np.inf
        self._width = 0

    def __call__(self, line: str, last: bool = False) -> None:
        """Show a line, unless the one before is too fresh."""
        now = time.monotonic()
        if not last and now - self._last < self._pause:
            return
        self._last = now
        if self._live:
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def run_main(main: Any) -> None:
    """Run a binary; an input error is one clear line and exit status 2, not a traceback."""
    from absl import app

    def guarded(argv: list[str]) -> int:
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
        try:
            main()
        except (ValueError, OSError) as error:
            logging.debug("traceback", exc_info=True)
            print(f"error: {error}", flush=True)
            return 2
        return 0

    app.run(guarded)
