r"""Compare bias models on one catalogue and one density.

Fits each model to the haloes given the density, then hides the octants of the box in turn. The
density comes with the catalogue's file, as for npe-pretrain. `comparison.json` has all numbers,
`comparison.md` the table.

Example:
  npe-compare --grid=64 --supersampling=2 --mass_assignment=cic --output=runs/comparison

Also as python -m experiments.compare.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("output", "runs/comparison", "Folder for the table and the numbers.")
flags.DEFINE_list(
    "models",
    options.BIASES,
    "Bias models to compare; --bias is not used. A colon and a law of counts take that law instead "
    "of --counts, as in neural:negative_binomial.",
)
flags.DEFINE_string("reference", "neyrinck", "Model that the others are compared with.")
flags.DEFINE_enum(
    "density",
    "linear",
    ["linear", "final"],
    "The model's gravity run from the catalogue's linear field, or the simulation's own density.",
)
flags.DEFINE_bool("held_out", True, "Whether to fit without each octant and score it.")
flags.DEFINE_integer("num_steps", 300, "Steps of Adam for each start.")
flags.DEFINE_integer("num_polish", 600, "Most L-BFGS iterations for each start.")
flags.DEFINE_integer("num_starts", 2, "Random starts of each fit.")
flags.DEFINE_integer("num_starts_held_out", 1, "The same for the fits without an octant.")
flags.DEFINE_bool("jit", False, "Compile the fits with XLA: for large meshes; less memory.")
flags.DEFINE_integer("seed", 0, "Of the starts.")
options.define_model_flags()


def _say(name: str, line: str) -> None:
    print(f"{name}, {line}", flush=True)


def main() -> None:
    """Fit, score, save and print."""
    parts = {name: name.partition(":") for name in FLAGS.models}
    known = all(
        bias in options.BIASES and (law in options.COUNTS if colon else not law)
        for bias, colon, law in parts.values()
    )
    if not known or FLAGS.reference not in FLAGS.models:
        raise ValueError(
            f"Invalid value for argument `models`. Expected some of {options.BIASES}, alone or "
            f"followed by a colon and one of {options.COUNTS}, the "
            f"reference among them. Received: models={FLAGS.models}, reference={FLAGS.reference!r}"
        )
    if FLAGS.padding != "periodic" or FLAGS.completeness is not None:
        raise ValueError(
            "Invalid value for argument `padding`. Expected a periodic box and no completeness. "
            f"Received: padding={FLAGS.padding!r}, completeness={FLAGS.completeness!r}"
        )
    catalogue = options.read_catalogue()
    options.import_tensorflow_quietly()

    from npe_tf.comparison import Comparison, fit_model, score_held_out, table

    config = options.config_from_flags(catalogue, dtype="float64")
    posterior = config.build(catalogue)
    delta = options.read_density(posterior, FLAGS.density)
    # a folder that cannot be made should show before the fits
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    print(options.data_summary(catalogue, posterior), flush=True)
    given = {"num_steps": FLAGS.num_steps, "num_polish": FLAGS.num_polish, "seed": FLAGS.seed}
    fits = []
    for name in FLAGS.models:
        kind, _, law = parts[name]
        own = dataclasses.replace(config, bias=kind, counts=law or config.counts)
        bias = own.build_bias()
        likelihood = own.likelihood_class(posterior.grid, catalogue, own.mass_threshold)
        fit = fit_model(
            name,
            bias,
            likelihood,
            delta,
            num_starts=FLAGS.num_starts,
            jit_compile=FLAGS.jit,
            **given,
        )
        print(f"{name}: log L = {fit.log_likelihood:.1f}", flush=True)
        if FLAGS.held_out:
            held_out = score_held_out(
                bias,
                posterior.grid,
                catalogue,
                config.mass_threshold,
                delta,
                likelihood_class=own.likelihood_class,
                num_starts=FLAGS.num_starts_held_out,
                jit_compile=FLAGS.jit,
                report=functools.partial(_say, name),
                **given,
            )
            fit = dataclasses.replace(fit, held_out=held_out)
        fits.append(fit)
    comparison = Comparison(tuple(fits), FLAGS.reference)
    text = table(comparison)
    numbers = {**comparison.to_dict(), "settings": {**config.to_attributes(), **given}}
    (output / "comparison.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (output / "comparison.md").write_text(text + "\n")
    print(text)


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
