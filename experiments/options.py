"""Flags that several binaries share, and the model they describe."""

from __future__ import annotations

import logging as standard_logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags, logging

from experiments import command_line
from experiments.data import (
    COSMOLOGY,
    SHIPPED,
    catalogue_of_run,
    catalogue_path,
    checksum,
    define_data_flags,
    fields_of,
    notes_of,
    parameters_of,
    read_catalogue,
    read_truth,
    reading_attributes,
)
from npe_tf.catalogue import Catalogue
from npe_tf.catalogues.npz import read_npy
from npe_tf.cosmology import Cosmology

if TYPE_CHECKING:
    from npe_tf.posterior import FieldPosterior, PosteriorConfig

FLAGS = flags.FLAGS

__all__ = [
    "COSMOLOGY",
    "SHIPPED",
    "ProgressLine",
    "catalogue_of_run",
    "catalogue_path",
    "checksum",
    "config_from_flags",
    "data_summary",
    "define_model_flags",
    "fields_of",
    "import_tensorflow_quietly",
    "notes_of",
    "observer_from_flags",
    "read_catalogue",
    "read_completeness",
    "read_density",
    "read_truth",
    "reading_attributes",
    "run_main",
]

# As `npe_tf.bias.kinds` has them, which would load TensorFlow.
BIASES = [
    "neural",
    "neyrinck",
    "power_law",
    "linear",
    "second_order",
    "peak_background",
    "peak_background_tinker",
    "conditional",
    "power_law_by_mass",
]

# As `npe_tf.bias.counts` has them.
COUNTS = ["poisson", "negative_binomial", "negative_binomial_power"]

_COSMOLOGY_HELP = {
    "Omega_m": "Matter density today, in units of the critical density.",
    "Omega_b": "Baryon density today.",
    "h": "Hubble constant in units of 100 km/s/Mpc.",
    "sigma8": "Linear rms overdensity in spheres of 8 Mpc/h today.",
    "n_s": "Spectral index of the primordial power.",
    "T_cmb": "Temperature of the microwave background today [K].",
    "w0": "Equation of state of dark energy today.",
    "wa": "Its change, w(a) = w0 + wa (1 - a).",
    "Omega_k": "Curvature density today, positive if open.",
}


def define_model_flags(data: bool = True) -> None:
    """Define the flags that describe the model, and the data if there are any."""
    if data:
        define_data_flags()
    flags.DEFINE_integer("grid", 32, "Cells along each side of the mesh; even.", lower_bound=4)
    flags.register_validator("grid", lambda n: n % 2 == 0, "expected an even number of cells")
    flags.DEFINE_float("mass_threshold", 2e12, "Smallest halo mass used [Msun/h].")
    flags.DEFINE_integer(
        "supersampling", 1, "Particles per cell along each side.", lower_bound=1, upper_bound=8
    )
    flags.DEFINE_enum(
        "gravity",
        "1lpt",
        ["1lpt", "2lpt", "pm"],
        "Lagrangian perturbation theory of first or second order, or a particle mesh.",
    )
    flags.DEFINE_integer("pm_steps", 5, "Steps of the particle mesh.", lower_bound=1)
    flags.DEFINE_integer(
        "pm_force_factor", 1, "Cells of its force mesh for each particle and side.", lower_bound=1
    )
    flags.DEFINE_bool(
        "redshift_space",
        False,
        "Whether positions are those of redshifts: seen by --observer, or along the last axis.",
    )
    flags.DEFINE_bool("light_cone", False, "Whether --observer sees haloes as light left them.")
    flags.DEFINE_enum(
        "mass_assignment",
        "tsc",
        ["tsc", "cic"],
        "How a particle is spread over the mesh: triangular-shaped cloud, or cloud-in-cell (the "
        "paper's).",
    )
    flags.DEFINE_enum(
        "bias",
        "neural",
        BIASES,
        "How haloes follow the density: the paper's network, or a classical model, see "
        "docs/bias_models.md.",
    )
    flags.DEFINE_enum(
        "counts",
        "poisson",
        COUNTS,
        "Law of the number of haloes in a voxel; the others scatter more, as fitted.",
    )
    flags.DEFINE_float(
        "scale_factor", 1.0, "Epoch, 1 / (1 + redshift), of the catalogue, if the file is silent."
    )
    flags.register_validator(
        "scale_factor", lambda a: 0 < a <= 1, "expected 1 / (1 + redshift), from 0 to 1"
    )
    flags.DEFINE_enum(
        "padding",
        "periodic",
        ["periodic", "valid"],
        "Edges of the box; 'valid' leaves out the cells at its faces, for boxes whose opposite "
        "faces do not touch.",
    )
    flags.DEFINE_integer(
        "kernel_size", 3, "Cells along each side of the neighbourhood that the network sees; odd."
    )
    flags.DEFINE_integer("num_components", 2, "Components of the halo mass function.")
    flags.DEFINE_float("softening", 0.1, "Added to 1 + delta before its logarithm is taken.")
    flags.DEFINE_enum(
        "parameterisation",
        "log_mass",
        ["log_mass", "mass"],
        "Of the mass function: per unit log mass, or per unit mass (the paper's).",
    )
    flags.DEFINE_enum(
        "component_family",
        "normal",
        ["normal", "tapered_pareto"],
        "Of the mass function; 'tapered_pareto' is a power law with an exponential cut-off.",
    )
    flags.DEFINE_enum("dtype", "float32", ["float32", "float64"], "Precision of the fields.")
    flags.DEFINE_string(
        "completeness", None, "NumPy file (.npy) with the completeness field [N, N, N] in [0, 1]."
    )
    flags.DEFINE_string(
        "angular_mask", None, "HEALPix map (FITS) of the angular completeness; needs --observer."
    )
    flags.DEFINE_string(
        "radial_selection",
        None,
        "Text file of two columns, comoving distance [Mpc/h] and completeness; needs --observer.",
    )
    flags.DEFINE_list("observer", None, "Of the survey: x,y,z in coordinates of the box [Mpc/h].")
    for name in COSMOLOGY:
        flags.DEFINE_float(name, getattr(Cosmology(), name), _COSMOLOGY_HELP[name])


def config_from_flags(catalogue: Catalogue | None, dtype: str | None = None) -> PosteriorConfig:
    """The model that the flags describe, and the catalogue's header where they are silent."""
    from npe_tf.posterior import PosteriorConfig

    if catalogue is None:
        parameters = {name: getattr(FLAGS, name) for name in ("scale_factor", *COSMOLOGY)}
    else:
        parameters, _ = parameters_of(catalogue)
    return PosteriorConfig(
        num_cells=FLAGS.grid,
        mass_threshold=FLAGS.mass_threshold,
        cosmology=Cosmology(**{name: parameters[name] for name in COSMOLOGY}),
        scale_factor=parameters["scale_factor"],
        gravity=FLAGS.gravity,
        pm_steps=FLAGS.pm_steps,
        pm_force_factor=FLAGS.pm_force_factor,
        redshift_space=FLAGS.redshift_space,
        observer=observer_from_flags(),
        light_cone=FLAGS.light_cone,
        supersampling=FLAGS.supersampling,
        mass_assignment=FLAGS.mass_assignment,
        padding=FLAGS.padding,
        kernel_size=FLAGS.kernel_size,
        num_components=FLAGS.num_components,
        softening=FLAGS.softening,
        parameterisation=FLAGS.parameterisation,
        component_family=FLAGS.component_family,
        dtype=dtype or FLAGS.dtype,
        bias=FLAGS.bias,
        counts=FLAGS.counts,
    )


def read_density(posterior: FieldPosterior, which: str) -> np.ndarray[Any, Any]:
    """The density of the catalogue's file on the mesh of the posterior.

    Args:
        posterior: gives the mesh and the gravity.
        which: ``"final"``, the simulation's own, or ``"linear"``, the gravity run from it.

    Returns:
        Overdensity `[N, N, N]`.

    Raises:
        ValueError: if the file has no such field.
    """
    import tensorflow as tf

    from npe_tf.fourier import truncate
    from npe_tf.painting import coarsen

    fields = read_truth()
    name = f"delta_{which}"
    if name not in fields:
        raise ValueError(
            f"Invalid value for argument `density`. Expected a catalogue with fields/{name}. "
            f"Received: fields {sorted(fields)}"
        )
    if which == "final":
        return coarsen(fields[name], posterior.grid.num_cells)
    linear = truncate(fields[name], posterior.grid.num_cells)
    modes = np.fft.rfftn(linear) * posterior.grid.alive
    density: np.ndarray[Any, Any] = posterior.gravity(tf.constant(modes)).numpy()
    return density


def read_completeness(box_size: float) -> np.ndarray[Any, Any] | None:
    """Read the completeness field, or make it of the window of a survey, if there is one."""
    window = (FLAGS.angular_mask, FLAGS.radial_selection)
    if window != (None, None):
        observer = observer_from_flags()
        if FLAGS.completeness is not None or observer is None:
            raise ValueError(
                "Invalid value for argument `observer`. Expected --observer, and no "
                "--completeness, with --angular_mask or --radial_selection. Received: observer="
                f"{FLAGS.observer}, completeness={FLAGS.completeness!r}"
            )
        return _survey_window(box_size, observer)
    if FLAGS.completeness is None:
        return None
    if not os.path.isfile(FLAGS.completeness):
        raise FileNotFoundError(f"There is no completeness field at {FLAGS.completeness!r}")
    try:
        field: np.ndarray[Any, Any] = read_npy(FLAGS.completeness)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `completeness`. Expected a NumPy file, as numpy.save "
            f"writes it. Received: {FLAGS.completeness!r} ({error})"
        ) from error
    return field


def _survey_window(box_size: float, observer: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    from npe_tf.grid import Grid
    from npe_tf.survey import completeness, read_angular_mask

    mask = radial = None
    for path in (FLAGS.angular_mask, FLAGS.radial_selection):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {path!r}")
    if FLAGS.angular_mask is not None:
        mask = read_angular_mask(FLAGS.angular_mask)
    if FLAGS.radial_selection is not None:
        table = np.loadtxt(FLAGS.radial_selection, ndmin=2)
        if table.shape[1] != 2:
            raise ValueError(
                "Invalid value for argument `radial_selection`. Expected two columns. Received: "
                f"{table.shape[1]} in {FLAGS.radial_selection}"
            )
        radial = (table[:, 0], table[:, 1])
    return completeness(Grid(FLAGS.grid, box_size), observer, mask, radial)


def observer_from_flags() -> tuple[float, float, float] | None:
    """Position of the observer [Mpc/h], if there is one."""
    if FLAGS.observer is None:
        return None
    try:
        x, y, z = (float(number) for number in FLAGS.observer)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `observer`. Expected three numbers x,y,z in Mpc/h. "
            f"Received: {','.join(FLAGS.observer)}"
        ) from error
    return x, y, z


def data_summary(catalogue: Catalogue, posterior: FieldPosterior) -> str:
    """One line on which haloes are used, on which mesh, for how many parameters."""
    likelihood, grid = posterior.likelihood, posterior.grid
    dropped = f" ({likelihood.num_dropped} dropped at the faces)" if likelihood.num_dropped else ""
    return (
        f"{likelihood.num_haloes} of {len(catalogue)} haloes, above "
        f"{likelihood.mass_threshold:.3g} Msun/h{dropped}, on {grid.num_cells}^3 cells of "
        f"{grid.cell_size:.3g} Mpc/h; {posterior.bias.parameters.size} parameters"
    )


class ProgressLine:
    """Prints progress: over itself on a terminal, now and then into a log."""

    def __init__(
        self, stream: Any, seconds_between_lines: float = 20.0, quiet: bool | None = None
    ) -> None:
        """Look what the stream is; by default `quiet` is what --verbosity=-1 asks for."""
        verbosity = FLAGS["verbosity"]
        self._quiet = bool(verbosity.present and FLAGS.verbosity < 0) if quiet is None else quiet
        self._stream = stream
        self._live = stream.isatty()
        self._pause = 0.2 if self._live else seconds_between_lines
        self._last = -np.inf
        self._width = 0

    def __call__(self, line: str, last: bool = False) -> None:
        """Show a line, unless the one before is too fresh."""
        now = time.monotonic()
        if self._quiet:
            return
        if not last and now - self._last < self._pause:
            return
        self._last = now
        if self._live:
            self._stream.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            self._width = 0 if last else len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line of text below the progress."""
        if self._quiet:
            return
        if self._width:
            self._stream.write("\n")
            self._width = 0
        self._stream.write(text + "\n")
        self._stream.flush()


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without what it prints about its own build; on failure print it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_logical_devices()
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def run_main(main: Callable[[], None]) -> None:
    """Run a binary; an input error is one clear line and exit status 2, not a traceback."""

    def guarded(argv: list[str]) -> int:
        # they tell every step of putting a font into a PDF, and what else could be installed
        for talkative in ("fontTools", "arviz"):
            standard_logging.getLogger(talkative).setLevel(standard_logging.WARNING)
        try:
            main()
        except (ValueError, OSError, ImportError) as error:
            logging.debug("traceback", exc_info=True)
            print(f"error: {error}", file=sys.stderr, flush=True)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr, flush=True)
            return 130
        return 0

    command_line.prepare(sys.modules[main.__module__])
    app.run(guarded, flags_parser=command_line.parse)
