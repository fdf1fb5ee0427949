"""Fit the bias parameters to a catalogue against a density field that is known.

The field comes with the catalogue's file (fields/delta_final or fields/delta_linear of our HDF5
layout), as a simulation knows it. npe-infer --pretrained=FILE starts with what was found.

Example:
  npe-pretrain --catalogue=halos.h5 --grid=32 --output=runs/pretrained.h5

Also as python -m experiments.pretrain.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("output", "runs/pretrained.h5", "File for the fitted parameters.")
flags.DEFINE_enum(
    "density",
    "final",
    ["final", "linear"],
    "Field of the catalogue's file to fit against: the simulation's own density, or the model's "
    "gravity run from its linear field.",
)
flags.DEFINE_string("optimizer", "adam", "Any Keras optimiser, by name.")
flags.DEFINE_float("learning_rate", 0.03, "Of the Keras optimiser.")
flags.DEFINE_integer("num_steps", 300, "Steps of the Keras optimiser for each start.")
flags.DEFINE_integer("num_polish", 600, "Most L-BFGS iterations for each start.")
flags.DEFINE_integer("num_starts", 5, "Random starts.")
flags.DEFINE_integer("seed", 0, "Of the starts.")
flags.DEFINE_enum(
    "psi",
    "free",
    ["free", "rises", "falls"],
    "How psi, the number that the network makes of a neighbourhood, goes with the density; as in "
    "npe-infer.",
)
options.define_model_flags()


def main() -> None:
    """Fit and save."""
    catalogue = options.read_catalogue()
    completeness = options.read_completeness(catalogue.box_size)
    options.import_tensorflow_quietly()

    import keras

    from npe_tf.bias.neural import possible_psi
    from npe_tf.pretraining import pretrain, save_parameters

    config = options.config_from_flags(catalogue, dtype="float64")
    posterior = config.build(catalogue, completeness)
    delta = options.read_density(posterior, FLAGS.density)
    optimizer = keras.optimizers.get(
        {"class_name": FLAGS.optimizer, "config": {"learning_rate": FLAGS.learning_rate}}
    )
    # a folder that cannot be made should show before the fit
    Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    line = options.ProgressLine(sys.stdout)
    for note in options.notes_of(catalogue):
        line.say(note)
    line.say(options.data_summary(catalogue, posterior))
    fitted = pretrain(
        posterior.bias,
        posterior.likelihood,
        delta,
        optimizer=optimizer,
        num_steps=FLAGS.num_steps,
        num_polish=FLAGS.num_polish,
        num_starts=FLAGS.num_starts,
        seed=FLAGS.seed,
        psi=possible_psi(FLAGS.psi, posterior.bias.parameters.names),
        report=line.say,
    )
    attributes = {**config.to_attributes(), "box_size": catalogue.box_size}
    save_parameters(FLAGS.output, fitted, posterior.bias, attributes)
    line.say(f"best log L = {fitted.log_likelihood:.1f}; parameters in {FLAGS.output}")


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
