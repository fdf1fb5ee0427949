"""Tell what a run found: convergence, parameters, fields, costs, and figures of them.

Prints it, and writes report.html, a page to read or send, and report.json, the same numbers, into
the run's folder. docs/report.md says what is in them.

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
    "report", None, "Folder for report.html and report.json; by default that of the run."
)
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

    from npe_tf.plot_style import has_matplotlib
    from npe_tf.report.contents import write_report
    from npe_tf.run import FEWEST_SAMPLES, num_samples_of
    from npe_tf.summary import summarise

    figures = Path(FLAGS.figures or Path(FLAGS.run) / "figures")
    summary = None
    found = num_samples_of(FLAGS.run)
    if found >= FEWEST_SAMPLES:
        summary = summarise(FLAGS.run, catalogue, figures, FLAGS.watts_per_core)
        print(summary.text)
        missing = "" if has_matplotlib() else "; they need matplotlib: pip install npe_tf[plots]"
        print(f"\n{len(summary.figures)} figures in {figures}{missing}")
    else:
        print(
            f"TOO SHORT: {found} sweeps of sampling, {FEWEST_SAMPLES} are the fewest for a summary"
        )
    page, numbers = write_report(FLAGS.run, catalogue, summary, FLAGS.report, FLAGS.watts_per_core)
    print(f"report in {page}, its numbers in {numbers}")
    if FLAGS.netcdf is not None:
        from npe_tf.inference_data import to_inference_data

        to_inference_data(FLAGS.run).to_netcdf(FLAGS.netcdf)
        print(f"chains in {FLAGS.netcdf}")


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
