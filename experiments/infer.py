r"""Infer the initial density field and the halo bias from a catalogue of haloes.

A run samples both together, in a folder that it may go on in: the same command again continues
where it stopped, after Ctrl-C too. npe-summarise tells what it found.

Examples:
  npe-infer --catalogue=out_42.list --grid=32 --mass_threshold=1e13 --output=runs/mine --dry_run
  npe-infer --catalogue=halos.csv --box_size=500 --length_unit=Mpc/h --mass_unit=Msun/h \
      --Omega_m=0.3 --output=runs/mine
  npe-infer --flagfile=demo.flags --output=runs/demo

Also as python -m experiments.infer; docs/catalogues.md describes the files that can be read.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from typing import Any

from absl import flags

from experiments import command_line, options
from experiments.memory import require_memory, shortage
from experiments.plan import plan

FLAGS = flags.FLAGS

flags.DEFINE_string("output", None, "Folder of the run.", required=True)
flags.DEFINE_bool(
    "dry_run",
    False,
    "Tell which haloes are used and why others are not, and what the run takes of memory, disk and "
    "time, as a few gradients show; write nothing.",
)
flags.DEFINE_string(
    "pretrained",
    None,
    "File of fitted parameters to start with; by default every chain fits its own, to its own "
    "random field with the haloes moved to where that is dense.",
)
flags.DEFINE_enum(
    "scheme",
    "joint",
    ["joint", "gibbs"],
    "Field and parameters together (microcanonical dynamics), or in turns as in the paper.",
)
# without a value they are the scheme's own, see npe_tf.JointSettings and npe_tf.Settings
flags.DEFINE_integer("num_warmup", None, "Sweeps of warm-up; 160 (gibbs: 200).", lower_bound=2)
flags.DEFINE_integer("num_samples", None, "Sweeps that count; 800 (gibbs: 400).", lower_bound=1)
flags.DEFINE_integer("num_chains", None, "Independent chains; 4 (gibbs: 2).", lower_bound=1)
flags.DEFINE_integer("seed", None, "Of everything random; 0.", lower_bound=0)
flags.DEFINE_integer("field_every", None, "Sweeps between stored fields; 10.", lower_bound=1)
flags.DEFINE_integer(
    "num_processes",
    None,
    "Processes among which the chains are dealt; by default as many as cores, at most one a chain.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "gradients_per_sweep", None, "joint: steps of the dynamics; 20.", lower_bound=1
)
flags.DEFINE_float(
    "energy_error", None, "joint: variance of a step's energy error per dimension; 5e-6."
)
flags.DEFINE_integer(
    "num_dense_shells",
    None,
    "joint: shells of the largest scales whose curvature is measured mode by mode; 4.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "field_leapfrog_steps", None, "gibbs: gradients per trajectory of the field; 32.", lower_bound=1
)
flags.DEFINE_integer(
    "bias_leapfrog_steps",
    None,
    "gibbs: gradients per trajectory of the parameters; 5.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "bias_steps", None, "gibbs: trajectories of the parameters per sweep; 3.", lower_bound=1
)
flags.DEFINE_float(
    "annealing_start",
    None,
    "gibbs: power of the likelihood at the start of the warm-up; 0.01; 1: no annealing.",
)
flags.DEFINE_float("max_minutes", None, "Stop after so many minutes; the same command goes on.")
flags.DEFINE_float(
    "max_rhat", None, "Stop when no quantity watched has a larger R-hat; --min_ess is 400 then."
)
flags.DEFINE_float(
    "min_ess", None, "Stop when none has fewer effective samples; --max_rhat is 1.01 then."
)
flags.DEFINE_bool(
    "preconditioned",
    None,
    "gibbs: measure the curvature of both blocks; true. Without it the paper's unit masses.",
)
flags.DEFINE_enum(
    "psi",
    None,
    ["free", "rises", "falls"],
    "The posterior has two kinds of modes: psi, the number that the network makes of a "
    "neighbourhood, rises with the density or falls. Where every chain starts; that of "
    "--pretrained, else rises. 'free' takes what each chain's own fits find. Chains do not cross.",
)
options.define_model_flags()

_SETTINGS = (
    "num_warmup",
    "num_samples",
    "num_chains",
    "seed",
    "field_every",
    "gradients_per_sweep",
    "energy_error",
    "num_dense_shells",
    "field_leapfrog_steps",
    "bias_leapfrog_steps",
    "bias_steps",
    "annealing_start",
    "preconditioned",
    "psi",
)


def _settings(scheme: Any) -> Any:
    """The settings of a scheme, from the flags that were given."""
    known = {field.name for field in dataclasses.fields(scheme)}
    given = {name: getattr(FLAGS, name) for name in _SETTINGS if FLAGS[name].value is not None}
    foreign = sorted(set(given) - known)
    if foreign:
        raise ValueError(
            f"Invalid value for argument `{foreign[0]}`. Expected no such flag with "
            f"--scheme={FLAGS.scheme}. Received: --{foreign[0]}={given[foreign[0]]}"
        )
    return scheme(**given)


def main() -> None:
    """Run or go on."""
    require_memory(FLAGS.grid, FLAGS.dtype)
    catalogue = options.read_catalogue()
    completeness = options.read_completeness(catalogue.box_size)
    options.import_tensorflow_quietly()

    from npe_tf.bias.neural import CENTRE, psi_rises
    from npe_tf.convergence import Limits
    from npe_tf.fourier import truncate
    from npe_tf.inference import JointSettings, Progress, Settings, run_inference
    from npe_tf.pretraining import load_parameters

    given = {
        name: getattr(FLAGS, name)
        for name in ("max_rhat", "min_ess")
        if getattr(FLAGS, name) is not None
    }
    limits = Limits(**given) if given else None
    settings = _settings(JointSettings if FLAGS.scheme == "joint" else Settings)
    num_processes = FLAGS.num_processes or min(settings.num_chains, os.cpu_count() or 1)
    line = options.ProgressLine(sys.stdout, quiet=False if FLAGS.dry_run else None)
    # told before anything large is made: the system would kill the process without a word
    short = shortage(FLAGS.grid, FLAGS.supersampling, FLAGS.dtype, num_processes)
    if short is not None:
        line.say(short)
        if FLAGS.dry_run:
            line.say("dry run: nothing was tried or written")
            return
    config = options.config_from_flags(catalogue)
    posterior = config.build(catalogue, completeness)
    theta = None if FLAGS.pretrained is None else load_parameters(FLAGS.pretrained, posterior.bias)
    names = posterior.bias.parameters.names
    if theta is not None and FLAGS.psi is None and CENTRE in names:
        # of what was fitted, unless another mode is asked for
        settings = dataclasses.replace(
            settings, psi="rises" if psi_rises(theta, names) else "falls"
        )
    path = options.catalogue_path()
    constants: dict[str, Any] = {"counts": posterior.likelihood.counts}
    if completeness is not None:
        constants["completeness"] = completeness
    truth = options.read_truth().get("delta_linear")
    if truth is not None and truth.shape[0] >= FLAGS.grid:
        constants["true_delta_linear"] = truncate(truth, FLAGS.grid)

    for note in options.notes_of(catalogue):
        line.say(note)
    line.say(options.data_summary(catalogue, posterior))

    if FLAGS.dry_run:
        for text in plan(catalogue, posterior, settings, FLAGS.output, constants, num_processes):
            line.say(text)
        return

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
            **options.reading_attributes(),
        },
        constants=constants,
        report=report,
        say=line.say,
        max_seconds=None if FLAGS.max_minutes is None else 60.0 * FLAGS.max_minutes,
        limits=limits,
        num_processes=num_processes,
        build=functools.partial(config.build, catalogue, completeness),
        command=command_line.typed(),
    )


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
