"""Draw the figures 2 to 6 of Charnock et al. 2020 from a run.

Example:
  npe-figures --run=runs/mine

Also as python -m experiments.figures.
"""

from __future__ import annotations

import time
from pathlib import Path

from absl import flags

from experiments import options
from npe_tf.plot_style import FORMATS, import_matplotlib, save

FLAGS = flags.FLAGS

flags.DEFINE_string("run", None, "Folder of the run.", required=True)
flags.DEFINE_string("output", None, "Folder for the figures; by default <run>/paper.")
flags.DEFINE_list("formats", list(FORMATS), "Formats of the files.")
flags.register_validator(
    "formats",
    lambda formats: bool(formats) and set(formats) <= set(FORMATS),
    f"expected some of {','.join(FORMATS)}",
)
flags.DEFINE_float("dpi", 300.0, "Dots per inch.", lower_bound=10.0)
flags.DEFINE_integer(
    "num_fields",
    None,
    "How many of the stored fields to use, spread evenly over the run; by default all.",
    lower_bound=1,
)
flags.DEFINE_integer("seed", 0, "Of the haloes that are drawn for figure 4.", lower_bound=0)
flags.DEFINE_string("catalogue", None, "The catalogue, if it is no longer where the run found it.")


def main() -> None:
    """Go through the run once, draw, and say what took how long."""
    import_matplotlib()  # before the run is read
    catalogue, path = options.catalogue_of_run(FLAGS.run, FLAGS.catalogue)
    options.import_tensorflow_quietly()

    from npe_tf.chain_store import CHAIN_FILE, ChainStore
    from npe_tf.figure_data import figure_data
    from npe_tf.papers_figures import papers_figures
    from npe_tf.run import Run

    began = time.monotonic()
    density = options.fields_of(path, catalogue).get("delta_final")
    with ChainStore.open(Path(FLAGS.run) / CHAIN_FILE) as store:
        run = Run(store, catalogue)
        if density is not None and len(density) % run.grid.num_cells:
            print(f"the catalogue's density, of {len(density)}^3 cells, does not fit; left out")
            density = None
        data = figure_data(run, density, FLAGS.num_fields, FLAGS.seed)
    for mode in data.modes:
        print(
            f"psi {mode.psi} with the density: {mode.num_fields} fields of chains "
            f"{' '.join(map(str, mode.chains))}"
        )
    print(f"numbers: {time.monotonic() - began:.1f} s", flush=True)

    folder = Path(FLAGS.output or Path(FLAGS.run) / "paper")
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for name, figure in papers_figures(data):
        files = save(figure, folder / name, FLAGS.formats, FLAGS.dpi)
        print(f"{' '.join(files)}: {time.monotonic() - began:.1f} s", flush=True)
        began = time.monotonic()


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
