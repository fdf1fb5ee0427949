r"""Search for a bias network that says more of unseen haloes than the paper's.

Every network is fitted to the haloes of the box without an octant, given the density, and scored by
the log likelihood of the haloes in that octant; the gain over the paper's network is taken octant
by octant. Optuna proposes the networks (pip install 'npe_tf[search]'). The folder has all in
`search.db`: the same command goes on after an interruption, a larger --trials makes the search
longer. `search.json` has all numbers, `search.md` the table.

Example:
  npe-search --grid=32 --supersampling=2 --mass_assignment=cic --trials=30 --output=runs/search

Also as python -m experiments.search.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import options

if TYPE_CHECKING:
    from npe_tf.architecture_search import ArchitectureSearch, SearchSpace
    from npe_tf.bias.architecture import Architecture

FLAGS = flags.FLAGS

flags.DEFINE_string("output", "runs/search", "Folder for the search, the table and the numbers.")
flags.DEFINE_integer(
    "trials", 20, "Networks in all, without the paper's, those of an earlier start too.", 0
)
flags.DEFINE_string(
    "architectures",
    None,
    "JSON file with a list of networks to begin with, each an object of what differs from the "
    'paper\'s: [{"kernel_size": 5}, {"orders": [0, 1], "features": 2}].',
)
flags.DEFINE_enum(
    "density",
    "linear",
    ["linear", "final"],
    "The model's gravity run from the catalogue's linear field, or the simulation's own density.",
)
flags.DEFINE_list("kernel_sizes", ["3", "5", "7"], "Extents of the convolutions.")
flags.DEFINE_list(
    "orders", ["0", "01", "02", "012"], "Orders l of the convolutions; 012 is l = 0, 1 and 2."
)
flags.DEFINE_list("layers", ["1", "2", "3"], "Numbers of convolutions.")
flags.DEFINE_list("features", ["1", "2"], "Filters of each order.")
flags.DEFINE_list("invariants", ["power", "product"], "Scalars of maps of l > 0.")
flags.DEFINE_list("components", ["1", "2", "3", "4"], "Components of the mass function.")
flags.DEFINE_list(
    "heads",
    ["normal:log_mass", "normal:mass", "tapered_pareto:log_mass"],
    "Families of components, each with its parameterisation.",
)
flags.DEFINE_list("softenings", ["0.1"], "Added to 1 + delta before its logarithm is taken.")
flags.DEFINE_integer(
    "buffer",
    3,
    "Voxels around the hidden octant that no fit uses; networks that see farther are left out.",
    lower_bound=1,
)
flags.DEFINE_list("octants", ["0", "1", "2", "3", "4", "5", "6", "7"], "To hide and to score.")
flags.DEFINE_list(
    "confirm_octants",
    [],
    "Others, on which the best network is scored after the search: of many networks the best looks "
    "better than it is.",
)
flags.DEFINE_bool("prune", True, "Whether to give up networks that are below the median.")
flags.DEFINE_integer("num_steps", 100, "Steps of Adam for each start.", lower_bound=0)
flags.DEFINE_integer("num_polish", 300, "Most L-BFGS iterations for each start.", lower_bound=0)
flags.DEFINE_integer("num_starts", 2, "Random starts of each fit.", lower_bound=1)
flags.DEFINE_bool("jit", False, "Compile the fits with XLA: for large meshes; less memory.")
flags.DEFINE_integer("seed", 0, "Of the starts and of the search.", lower_bound=0)
options.define_model_flags()

_OF_ONE_NETWORK = (
    "kernel_size",
    "num_components",
    "softening",
    "parameterisation",
    "component_family",
)


def main() -> None:
    """Search, save and print."""
    octants = _numbers("octants", FLAGS.octants)
    unseen = _numbers("confirm_octants", FLAGS.confirm_octants)
    if len(octants) < 2 or len({*octants, *unseen}) < len(octants) + len(unseen):
        raise ValueError(
            "Invalid value for argument `octants`. Expected two or more, each once, and none of "
            f"--confirm_octants. Received: octants={octants}, confirm_octants={unseen}"
        )
    if len(unseen) == 1:
        raise ValueError(
            "Invalid value for argument `confirm_octants`. Expected two or more. Received: "
            f"confirm_octants={unseen}"
        )
    if FLAGS.padding != "periodic" or FLAGS.completeness is not None or FLAGS.bias != "neural":
        raise ValueError(
            "Invalid value for argument `padding`. Expected a periodic box, no completeness and "
            f"--bias=neural. Received: padding={FLAGS.padding!r}, "
            f"completeness={FLAGS.completeness!r}, bias={FLAGS.bias!r}"
        )
    given = [name for name in _OF_ONE_NETWORK if getattr(FLAGS, name) != FLAGS[name].default]
    if given:
        raise ValueError(
            f"Invalid value for argument `{given[0]}`. Expected the paper's, with which all are "
            "compared; --kernel_sizes, --components, --heads and --softenings are what to search. "
            f"Received: {given[0]}={getattr(FLAGS, given[0])!r}"
        )
    catalogue = options.read_catalogue()
    options.import_tensorflow_quietly()

    import tensorflow as tf

    from npe_tf.architecture_search import ArchitectureSearch, PartScore, best
    from npe_tf.bias.architecture import Architecture
    from npe_tf.comparison import octants as octants_of
    from npe_tf.comparison import score_held_out

    # it warns that every network is traced anew
    tf.get_logger().setLevel("ERROR")
    space, first = _space(), _read_architectures()
    for architecture in first:
        space.parameters(architecture)
    config = options.config_from_flags(catalogue, dtype="float64")
    posterior = config.build(catalogue)
    delta = options.read_density(posterior, FLAGS.density)
    masks = octants_of(config.num_cells)
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    fit: dict[str, Any] = {
        name: getattr(FLAGS, name) for name in ("num_steps", "num_polish", "num_starts", "seed")
    }

    def score(architecture: Architecture, number: int) -> PartScore:
        fits: list[Any] = []
        found = score_held_out(
            architecture.bias(
                math.log(config.mass_threshold), dtype="float64", counts=config.counts
            ),
            posterior.grid,
            catalogue,
            config.mass_threshold,
            delta,
            parts=masks[number : number + 1],
            buffer=FLAGS.buffer,
            likelihood_class=config.likelihood_class,
            inspect=fits.append,
            jit_compile=FLAGS.jit,
            **fit,
        )
        (fitted,) = fits
        chosen = max(fitted.starts, key=lambda start: start.theta is fitted.theta)
        return PartScore(found.log_likelihood[0], found.num_haloes[0], chosen.is_dead)

    progress = options.ProgressLine(sys.stdout, seconds_between_lines=0.0)
    began = time.monotonic()

    def report(line: str, scored: int) -> None:
        left = search.parts_left(max(FLAGS.trials, len(first))) + 2 * len(unseen)
        minutes = (time.monotonic() - began) / scored * left / 60.0
        progress(f"{line} | {left} fits left at most, ETA {minutes:.0f} min")

    search = ArchitectureSearch(
        output / "search.db",
        space,
        score,
        octants,
        {
            **config.to_attributes(),
            **fit,
            "density": FLAGS.density,
            "buffer": FLAGS.buffer,
            "catalogue": options.checksum(options.catalogue_path()),
        },
        seed=FLAGS.seed,
        prune=FLAGS.prune,
        report=report,
    )
    print(options.data_summary(catalogue, posterior), flush=True)
    try:
        search.run(FLAGS.trials, first)
        top, is_better = best(search.rows())
        if unseen and top != Architecture():
            search.confirm(top, unseen)
    finally:
        # what there is, after an interruption too
        text = _write(output, search)
    print(text)
    print(
        f"largest gain: {top.label}, "
        f"{'more' if is_better else 'not more'} than 3 standard errors above the paper's network"
    )


def _write(output: Path, search: ArchitectureSearch) -> str:
    from npe_tf.architecture_search import table, to_dict
    from npe_tf.whole_files import write_whole

    if "reference" not in search.study.user_attrs:
        return ""
    numbers = to_dict(search)
    text = table(numbers["networks"])
    if "confirmation" in numbers:
        found = numbers["confirmation"]
        text += (
            f"\n\nOn octants {', '.join(map(str, found['on']))}, which the search has not used: "
            f"gain {found['gain']:,.1f} ± {found['gain_standard_error']:,.1f}"
        )
    for name, content in (("search.json", json.dumps(numbers, indent=2)), ("search.md", text)):
        write_whole(output / name, content + "\n")
    return text


def _space() -> SearchSpace:
    from npe_tf.architecture_search import SearchSpace

    return SearchSpace(
        kernel_size=_numbers("kernel_sizes", FLAGS.kernel_sizes, 9),
        orders=tuple(_numbers("orders", list(orders), 2) for orders in FLAGS.orders),
        num_layers=_numbers("layers", FLAGS.layers),
        features=_numbers("features", FLAGS.features, 64),
        invariants=tuple(FLAGS.invariants),
        num_components=_numbers("components", FLAGS.components),
        heads=tuple(_head(head) for head in FLAGS.heads),
        softening=tuple(_softening(text) for text in FLAGS.softenings),
        max_radius=FLAGS.buffer,
    )


def _numbers(name: str, texts: list[str], largest: int = 7) -> tuple[int, ...]:
    if not all(text.isdigit() and int(text) <= largest for text in texts):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected integers from 0 to {largest}. "
            f"Received: {name}={','.join(texts)}"
        )
    return tuple(int(text) for text in texts)


def _head(text: str) -> tuple[str, str]:
    family, colon, parameterisation = text.partition(":")
    if not colon:
        raise ValueError(
            "Invalid value for argument `heads`. Expected a family, a colon and a "
            f"parameterisation, as in normal:log_mass. Received: {text!r}"
        )
    return family, parameterisation


def _softening(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"Invalid value for argument `softenings`. Expected numbers. Received: {text!r}"
        ) from error


def _read_architectures() -> list[Architecture]:
    from npe_tf.bias.architecture import Architecture

    if FLAGS.architectures is None:
        return []
    path = Path(FLAGS.architectures)
    if not path.is_file():
        raise FileNotFoundError(f"There is no list of architectures at {FLAGS.architectures!r}")
    try:
        given = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"Invalid value for argument `architectures`. Expected a JSON file. Received: "
            f"{FLAGS.architectures!r} ({error})"
        ) from error
    if not isinstance(given, list):
        raise ValueError(
            "Invalid value for argument `architectures`. Expected a JSON list. Received: "
            f"{FLAGS.architectures!r}"
        )
    return [Architecture.from_json(json.dumps(fields)) for fields in given]


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
