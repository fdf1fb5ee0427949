"""Sample the initial field and the bias parameters, given a halo catalogue.

Usage: ``python -m experiments.infer --catalogue halos.h5 --grid 32 --output runs/mine``

The same command again goes on where the run stopped.
"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("output", None, "Folder of the run.", required=True)
flags.DEFINE_string(
    "pretrained",
    None,
    "File of fitted parameters to start with; by default every chain fits its own, to its own "
    "random field with the haloes moved to where that is dense.",
)
flags.DEFINE_integer("num_warmup", 200, "Sweeps of warm-up.", lower_bound=2)
flags.DEFINE_integer("num_samples", 400, "Sweeps that count.", lower_bound=1)
flags.DEFINE_integer("num_chains", 2, "Independent chains.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
flags.DEFINE_integer(
    "field_leapfrog_steps", 32, "Gradients per trajectory of the field.", lower_bound=1
)
flags.DEFINE_integer(
    "bias_leapfrog_steps", 5, "Gradients per trajectory of the parameters.", lower_bound=1
)
flags.DEFINE_integer("bias_steps", 3, "Trajectories of the parameters per sweep.", lower_bound=1)
flags.DEFINE_integer("field_every", 10, "Sweeps between stored fields.", lower_bound=1)
flags.DEFINE_float(
    "annealing_start", 0.01, "Power of the likelihood at the start of the warm-up; 1: no annealing."
)
flags.DEFINE_float("max_minutes", None, "Stop after so many minutes; the same command goes on.")
flags.DEFINE_float(
    "max_rhat", None, "Stop when no quantity watched has a larger R-hat; --min_ess is 400 then."
)
flags.DEFINE_float(
    "min_ess", None, "Stop when none has fewer effective samples; --max_rhat is 1.01 then."
)
options.define_model_flags()


def main() -> None:
    """Run or go on."""
    catalogue = options.read_catalogue()
    completeness = options.read_completeness(catalogue.box_size)
    options.import_tensorflow_quietly()

    from npe_tf.catalogue import read_fields
    from npe_tf.convergence import Limits
    from npe_tf.fourier import truncate
    from npe_tf.inference import Progress, Settings, run_inference
    from npe_tf.pretraining import load_parameters

    given = {
        name: getattr(FLAGS, name)
        for name in ("max_rhat", "min_ess")
        if getattr(FLAGS, name) is not None
    }
    limits = Limits(**given) if given else None
    settings = Settings(
        num_warmup=FLAGS.num_warmup,
        num_samples=FLAGS.num_samples,
        num_chains=FLAGS.num_chains,
        seed=FLAGS.seed,
        field_leapfrog_steps=FLAGS.field_leapfrog_steps,
        bias_leapfrog_steps=FLAGS.bias_leapfrog_steps,
        bias_steps=FLAGS.bias_steps,
        field_every=FLAGS.field_every,
        annealing_start=FLAGS.annealing_start,
    )
    config = options.config_from_flags()
    posterior = config.build(catalogue, completeness)
    theta = None if FLAGS.pretrained is None else load_parameters(FLAGS.pretrained, posterior.bias)
    path = options.catalogue_path()
    constants: dict[str, Any] = {"counts": posterior.likelihood.counts}
    if completeness is not None:
        constants["completeness"] = completeness
    truth = read_fields(path).get("delta_linear")
    if truth is not None and truth.shape[0] >= FLAGS.grid:
        constants["true_delta_linear"] = truncate(truth, FLAGS.grid)

    line = options.ProgressLine(sys.stdout)
    line.say(options.data_summary(catalogue, posterior))

    def report(progress: Progress) -> None:
        line(progress.line(), last=progress.sweep == progress.num_sweeps)

    run_inference(
        posterior,
        settings,
        FLAGS.output,
        initial_theta=theta,
        attributes={
            **config.to_attributes(),
            "catalogue": str(path.resolve()) if FLAGS.catalogue != options.SHIPPED else path.name,
            "catalogue_sha256": options.checksum(path),
        },
        constants=constants,
        report=report,
        say=line.say,
        max_seconds=None if FLAGS.max_minutes is None else 60.0 * FLAGS.max_minutes,
        limits=limits,
    )


if __name__ == "__main__":
    options.run_main(main)
