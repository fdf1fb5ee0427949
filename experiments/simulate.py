r"""Make mock catalogues with their truth: drawn from the model, or simulated.

--mode=model draws a field from the prior, runs gravity and draws haloes of a bias model: of a run,
of npe-pretrain, or of parameters from the prior. --mode=nbody runs a particle mesh and finds
friends-of-friends haloes in it; npe-pretrain fits the bias model to such a box.

Examples:
  npe-simulate --mode=nbody --num_particles=128 --box_size=125 --grid=32 --output=boxes/mine.h5
  npe-simulate --mode=model --run=runs/mine --num_mocks=20 --output=mocks --dry_run
  npe-simulate --mode=model --pretrained=fitted.h5 --grid=64 --output=mock.h5

The same command again keeps the mocks that are there and makes the rest. Also as
python -m experiments.simulate; docs/simulating.md tells more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from experiments import options
from experiments.mock_source import MODEL_FLAGS, require_box_size, source_from_flags

if TYPE_CHECKING:
    from npe_tf.nbody import NBodyConfig
    from npe_tf.posterior import FieldPosterior

FLAGS = flags.FLAGS

flags.DEFINE_enum(
    "mode",
    None,
    ["model", "nbody"],
    "What makes the haloes: the bias model, or gravity alone and friends-of-friends.",
    required=True,
)
flags.DEFINE_string(
    "output", None, "File to write, or with --num_mocks the folder of several.", required=True
)
flags.DEFINE_integer(
    "num_mocks", None, "How many: mock_0001.h5 and so on, in a folder.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Of everything random; a mock depends on it and its number.",
                     lower_bound=0)  # fmt: skip
flags.DEFINE_bool("overwrite", False, "Whether to replace files that are there.")
flags.DEFINE_bool(
    "dry_run", False, "Tell what would be made and what it takes of memory and disk; write nothing."
)
flags.DEFINE_float(
    "box_size",
    None,
    "Side of the box [Mpc/h]. With --run or --pretrained it follows from --grid: their cells are "
    "kept.",
)
flags.register_validator(
    "box_size", lambda size: size is None or size > 0, "expected a positive length in Mpc/h"
)
flags.DEFINE_float(
    "redshift", None, "Of the haloes, in the place of --scale_factor.", lower_bound=0.0
)
flags.DEFINE_string("run", None, "model: folder of a run, whose model and parameters to take.")
flags.DEFINE_string("pretrained", None, "model: file of npe-pretrain, likewise.")
# without a value they are what the help says
flags.DEFINE_enum(
    "parameters",
    None,
    ["sample", "mean"],
    "model: of a --run: a posterior sample for each mock, or the posterior mean; sample.",
)
flags.DEFINE_float(
    "prior_scale",
    None,
    "model: standard deviation of the prior of the bias parameters, without --run and "
    "--pretrained; 10.",
    lower_bound=1e-6,
)
flags.DEFINE_float("max_haloes", None, "model: most haloes that may be expected; 2e7.",
                   lower_bound=1.0)  # fmt: skip
flags.DEFINE_integer(
    "num_particles", None, "nbody: particles along each side; even; twice --grid.", lower_bound=4
)
flags.DEFINE_integer("num_steps", None, "nbody: steps of the particle mesh; 40.", lower_bound=1)
flags.DEFINE_integer(
    "force_factor", None, "nbody: cells of the force mesh for each particle and side; 2.",
    lower_bound=1,
)  # fmt: skip
flags.DEFINE_float(
    "linking_length", None, "nbody: of friends, in mean separations of the particles; 0.2."
)
flags.DEFINE_integer("min_particles", None, "nbody: of a halo; 20.", lower_bound=1)
flags.DEFINE_bool(
    "warren_correction",
    None,
    "nbody: masses of N (1 - N^-0.6) particles (Warren et al. 2006); false.",
)
options.define_model_flags(data=False)

_MODEL = ("run", "pretrained", "parameters", "prior_scale", "max_haloes")
_NBODY = (
    "num_particles",
    "num_steps",
    "force_factor",
    "linking_length",
    "min_particles",
    "warren_correction",
)
_SHARED = ("grid", "scale_factor", "redshift_space", *options.COSMOLOGY)

# most memory of the process, measured at 64^3 and 128^3 cells or particles: of the libraries, of a
# cell (Zel'dovich), and of a particle with eight cells of the force mesh
_LIBRARIES = 0.85 * 2**30
_BYTES_PER_CELL = 270
_BYTES_PER_PARTICLE = 1100


def _refuse_foreign(foreign: tuple[str, ...], mode: str) -> None:
    for name in foreign:
        flag = FLAGS[name]
        if flag.present:
            raise ValueError(
                f"Invalid value for argument `{name}`. Expected no such flag with --mode={mode}. "
                f"Received: --{name}={flag.value}"
            )


def _scale_factor() -> None:
    """Let --redshift say --scale_factor."""
    if FLAGS.redshift is None:
        return
    scale_factor = 1.0 / (1.0 + FLAGS.redshift)
    if FLAGS["scale_factor"].present and not math.isclose(
        FLAGS.scale_factor, scale_factor, rel_tol=1e-6
    ):
        raise ValueError(
            f"Invalid value for argument `redshift`. Expected that of --scale_factor="
            f"{FLAGS.scale_factor:g}. Received: --redshift={FLAGS.redshift:g}, "
            f"scale_factor={scale_factor:g}"
        )
    FLAGS.scale_factor = scale_factor


def _nbody_config() -> NBodyConfig:
    from npe_tf.cosmology import Cosmology

    box_size = require_box_size()
    given = {name: FLAGS[name].value for name in _NBODY if FLAGS[name].value is not None}
    cosmology = Cosmology(**{name: getattr(FLAGS, name) for name in options.COSMOLOGY})
    options.import_tensorflow_quietly()

    from npe_tf.friends_of_friends import require_scipy
    from npe_tf.nbody import NBodyConfig

    require_scipy()
    return NBodyConfig(
        **{"num_particles": 2 * FLAGS.grid, **given},
        box_size=box_size,
        num_cells=FLAGS.grid,
        cosmology=cosmology,
        scale_factor=FLAGS.scale_factor,
        redshift_space=FLAGS.redshift_space,
    )


def _seed(number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([FLAGS.seed, number])


class _FromModel:
    """Mocks of the model."""

    def __init__(self) -> None:
        """Read where the model comes from."""
        self.source = source = source_from_flags()
        window = options.read_completeness(source.box_size)
        self.completeness = source.completeness if window is None else window
        self.max_haloes = 2e7 if FLAGS.max_haloes is None else FLAGS.max_haloes

        from npe_tf.mocks import model_of_mocks

        self.model: FieldPosterior = model_of_mocks(
            source.config, source.box_size, self.completeness
        )

    def theta(self, number: int) -> np.ndarray[Any, Any] | None:
        """Parameters of a mock; `None` if they are drawn with it."""
        theta = self.source.theta
        if theta is None:
            return None
        # the first three children are those of the draw
        chosen = np.random.default_rng(_seed(number).spawn(4)[3]).integers(len(theta))
        return np.asarray(theta[chosen])

    def recipe(self, number: int) -> dict[str, Any]:
        """All that a mock depends on."""
        theta = self.theta(number)
        hashed = {"theta": theta, "completeness": self.completeness}
        return {
            "mode": "model",
            "seed": FLAGS.seed,
            "number": number,
            "box_size": self.source.box_size,
            "max_haloes": self.max_haloes,
            **self.source.config.to_attributes(),
            **{
                name: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
                for name, value in hashed.items()
                if value is not None
            },
        }

    def make(self, number: int, report: Callable[[int, int], None]) -> Any:
        """Draw a mock."""
        from npe_tf.mocks import draw_mock

        return draw_mock(
            self.source.config, self.model, self.theta(number), _seed(number), self.max_haloes
        )

    def plan(self) -> Iterator[str]:
        """Lines on what is made."""
        grid, config = self.model.grid, self.source.config
        yield (
            f"mocks of the model: {config.bias} bias, {self.source.name}; haloes above "
            f"{config.mass_threshold:.3g} Msun/h at scale factor {config.scale_factor:g}"
        )
        yield (
            f"mesh: {grid.num_cells}^3 cells of {grid.cell_size:.3g} Mpc/h, a box of "
            f"{grid.box_size:g} Mpc/h"
        )

    def costs(self, count: int) -> Iterator[str]:
        """Lines on haloes, memory and disk, of which the first mock gives an idea."""
        mock = self.make(1, lambda step, steps: None)
        expected, cells = mock.attributes["expected_haloes"], self.model.grid.num_cells**3
        yield f"haloes: {expected:.4g} expected in the first mock, {len(mock.catalogue)} drawn"
        lattice = cells * self.source.config.supersampling**3
        yield _memory(_LIBRARIES + _BYTES_PER_CELL * lattice)
        yield _disk(
            3 * cells * np.dtype(self.source.config.dtype).itemsize + 32 * len(mock.catalogue),
            count,
        )


class _Simulated:
    """Mocks of a simulation."""

    def __init__(self) -> None:
        """Read the flags."""
        self.config = _nbody_config()

    def recipe(self, number: int) -> dict[str, Any]:
        """All that a mock depends on."""
        return {
            "mode": "nbody",
            "seed": FLAGS.seed,
            "number": number,
            **dataclasses.asdict(self.config),
        }

    def make(self, number: int, report: Callable[[int, int], None]) -> Any:
        """Simulate a box."""
        from npe_tf.mocks import simulate_mock

        # the halo finder comes after the steps
        return simulate_mock(self.config, _seed(number), lambda n, of: report(n, of + 1))

    def plan(self) -> Iterator[str]:
        """Lines on what is made."""
        config = self.config
        yield (
            f"particle mesh: {config.num_particles}^3 particles of {config.particle_mass:.3g} "
            f"Msun/h in {config.box_size:g} Mpc/h, {config.num_steps} steps to scale factor "
            f"{config.scale_factor:g}, a force mesh of "
            f"{config.num_particles * config.force_factor}^3; fields on {config.num_cells}^3"
        )
        corrected = ", masses corrected (Warren et al. 2006)" if config.warren_correction else ""
        yield (
            f"haloes: friends-of-friends of {config.linking_length:g} mean separations, from "
            f"{config.min_particles} particles ({config.smallest_mass:.3g} Msun/h) on{corrected}"
        )

    def costs(self, count: int) -> Iterator[str]:
        """Lines on haloes, memory and disk."""
        config = self.config
        expected = config.expected_haloes
        yield f"expected: {expected:.3g} haloes, by the fit of Sheth & Tormen 1999"
        mesh = (config.force_factor / 2.0) ** 3
        particles = config.num_particles**3
        yield _memory(_LIBRARIES + _BYTES_PER_PARTICLE * particles * max(mesh, 0.5))
        yield _disk(3 * 4 * config.num_cells**3 + 48 * expected, count)


def _memory(size: float) -> str:
    return f"memory: about {size / 2**30:.2g} GiB"


def _disk(size: float, count: int) -> str:
    each = f"{count} files of " if count > 1 else ""
    return f"disk: {each}about {size / 2**20:.2g} MiB"


def main() -> None:
    """Make the mocks that are not there."""
    from experiments.mock_files import make_mocks, missing, mock_paths

    nbody = FLAGS.mode == "nbody"
    foreign: tuple[str, ...] = _MODEL if nbody else _NBODY
    if nbody:
        both = (*MODEL_FLAGS, "dtype", "completeness", "angular_mask", "radial_selection",
                "observer")  # fmt: skip
        foreign += tuple(name for name in both if name not in _SHARED)
    _refuse_foreign(foreign, FLAGS.mode)
    _scale_factor()
    makes = _Simulated() if nbody else _FromModel()
    paths = mock_paths(FLAGS.output, FLAGS.num_mocks)
    numbers = missing(paths, makes.recipe, FLAGS.overwrite)
    line = options.ProgressLine(sys.stdout, quiet=False if FLAGS.dry_run else None)
    for text in makes.plan():
        line.say(text)
    if FLAGS.dry_run:
        for text in makes.costs(len(paths)):
            line.say(text)
        line.say(f"mocks: {len(numbers)} of {len(paths)} to be made in {FLAGS.output}")
        line.say("dry run: nothing was written; without --dry_run it starts")
        return
    make_mocks(paths, numbers, makes.recipe, makes.make, line)


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
