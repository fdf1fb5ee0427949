"""Tell what a run found: convergence, parameters, fields, costs, and figures of them.

Example:
  npe-summarise --run=runs/mine

Also as python -m experiments.summarise.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments import options
from npe_tf.energy import WATTS_PER_CORE

FLAGS = flags.FLAGS

flags.DEFINE_string("run", None, "Folder of the run.", required=True)
flags.DEFINE_string("figures", None, "Folder for the figures; by default <run>/figures.")
flags.DEFINE_string(
    "netcdf", None, "File to write the chains to, for ArviZ; needs the extra npe_tf[arviz]."
)
flags.DEFINE_float(
    "watts_per_core",
    WATTS_PER_CORE,
    "Power of a busy core [W], for the energy of a run where it was not measured.",
    lower_bound=1e-3,
)
flags.DEFINE_string("catalogue", None, "The catalogue, if it is no longer where the run found it.")


def main() -> None:
    """Summarise."""
    catalogue, _ = options.catalogue_of_run(FLAGS.run, FLAGS.catalogue)
    options.import_tensorflow_quietly()

    from npe_tf.summary import summarise

    figures = Path(FLAGS.figures or Path(FLAGS.run) / "figures")
    summary = summarise(FLAGS.run, catalogue, figures, FLAGS.watts_per_core)
    print(summary.text)
    print(f"\n{len(summary.figures)} figures in {figures}")
    if FLAGS.netcdf is not None:
        from npe_tf.inference_data import to_inference_data

        to_inference_data(FLAGS.run).to_netcdf(FLAGS.netcdf)
        print(f"chains in {FLAGS.netcdf}")


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
