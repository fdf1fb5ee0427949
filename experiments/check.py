"""Compare the catalogue of a run with mock catalogues of its posterior samples.

Example:
  npe-check --run=runs/mine

Also as python -m experiments.check.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("run", None, "Folder of the run.", required=True)
flags.DEFINE_string("output", None, "Folder for what is written; by default <run>/checks.")
flags.DEFINE_integer("num_samples", 100, "Most stored fields to draw mocks of.", lower_bound=1)
flags.DEFINE_integer("num_mocks", 39, "Mock catalogues of each.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Of the mocks.", lower_bound=0)
flags.DEFINE_integer(
    "write_mocks", 0, "How many catalogues, of as many samples, to write.", lower_bound=0
)
flags.DEFINE_bool("figures", True, "Whether to draw; needs the extra npe_tf[plots].")
flags.DEFINE_string("catalogue", None, "The catalogue, if it is no longer where the run found it.")


def main() -> None:
    """Check."""
    from npe_tf.chain_store import CHAIN_FILE, ChainStore

    catalogue, _ = options.catalogue_of_run(FLAGS.run, FLAGS.catalogue)
    options.import_tensorflow_quietly()

    from npe_tf import plots
    from npe_tf.predictive import format_checks, mock_catalogues, predictive_checks
    from npe_tf.run import Run

    with ChainStore.open(Path(FLAGS.run) / CHAIN_FILE) as store:
        stored = Run(store, catalogue)
        kept = stored.stored_samples(FLAGS.num_samples)
        samples = [(sample.white_noise, sample.theta) for sample in kept]
    posterior = stored.posterior

    folder = Path(FLAGS.output or Path(FLAGS.run) / "checks")
    folder.mkdir(parents=True, exist_ok=True)
    found = predictive_checks(posterior, samples, FLAGS.num_mocks, FLAGS.seed)
    text = format_checks(found)
    print(text)
    (folder / "checks.txt").write_text(text + "\n")
    (folder / "checks.json").write_text(json.dumps(found.to_json(), indent=1, allow_nan=False))
    mocks = mock_catalogues(posterior, samples[: FLAGS.write_mocks], FLAGS.seed)
    for number, mock in enumerate(mocks):
        mock.write_hdf5(folder / f"mock_{number:03d}.h5")
    if FLAGS.figures:
        plots.save(plots.predictive_checks(found.checks), folder / "checks")
    print(f"\nnumbers and figures in {folder}")


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
