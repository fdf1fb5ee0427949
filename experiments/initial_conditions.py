"""Write the initial conditions of a posterior sample for Gadget.

Usage: ``python -m experiments.initial_conditions --run runs/mine --num_particles 128 --redshift 49
--output ics.hdf5``
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("run", None, "Folder of the run.", required=True)
flags.DEFINE_string("output", None, "HDF5 file to write.", required=True)
flags.DEFINE_float("redshift", 49.0, "Where the simulation starts.", lower_bound=0.0)
flags.DEFINE_integer(
    "num_particles", None, "Particles along each side; even. By default the cells of the mesh."
)
flags.DEFINE_integer("chain", 0, "Which chain of the run.", lower_bound=0)
flags.DEFINE_integer("draw", -1, "Which of its stored fields; -1 is the last.")
flags.DEFINE_integer("seed", 1, "Of the modes that the mesh of the run does not carry.")
flags.DEFINE_enum("length_unit", "kpc/h", ["kpc/h", "Mpc/h"], "Of the file.")


def main() -> None:
    """Read the sample, move the particles, write the file."""
    from npe_tf.chain_store import CHAIN_FILE, ChainStore
    from npe_tf.gadget import write_initial_conditions

    with ChainStore.open(Path(FLAGS.run) / CHAIN_FILE) as store:
        attributes = dict(store.attributes)
        every = store.columns["white_noise"].every
        fields = store.columns["white_noise"].num_rows(store.num_committed)
        chains = int(attributes["num_chains"])
        if not -fields <= FLAGS.draw < fields or FLAGS.chain >= chains:
            raise ValueError(
                f"Invalid value for argument `draw`. Expected one of {fields} stored fields of one "
                f"of {chains} chains. Received: draw={FLAGS.draw}, chain={FLAGS.chain}"
            )
        draw = FLAGS.draw % fields
        white_noise = store.read("white_noise", draw, draw + 1)[0, FLAGS.chain]
    options.import_tensorflow_quietly()

    from npe_tf.posterior import PosteriorConfig
    from npe_tf.resimulation import constrained_particles

    cosmology = PosteriorConfig.from_attributes(attributes).cosmology
    box_size = float(attributes["box_size"])
    positions, velocities = constrained_particles(
        white_noise, box_size, cosmology, FLAGS.redshift, FLAGS.num_particles, FLAGS.seed
    )
    write_initial_conditions(
        FLAGS.output,
        positions.numpy().T,
        velocities.numpy().T,
        box_size=box_size,
        redshift=FLAGS.redshift,
        cosmology=cosmology,
        length_unit=FLAGS.length_unit,
    )
    sweep = (draw + 1) * every
    print(
        f"{positions.shape[1]} particles of chain {FLAGS.chain}, sweep {sweep}, at z="
        f"{FLAGS.redshift:g} in {FLAGS.output}"
    )


if __name__ == "__main__":
    options.run_main(main)
