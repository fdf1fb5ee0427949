"""Write the bias model of a run, with its posterior samples, as a SavedModel.

It puts haloes into other densities and needs TensorFlow alone; docs/export.md has its functions.

Example:
  npe-export --run=runs/mine --output=runs/mine/bias

Also as python -m experiments.export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_string("run", None, "Folder of the run.")
flags.DEFINE_string("pretrained", None, "File that npe-pretrain wrote, in the place of a run.")
flags.DEFINE_string("output", None, "Folder to write; must not exist yet.", required=True)
flags.DEFINE_integer("num_samples", 200, "Most samples to keep of the run.", lower_bound=1)
flags.DEFINE_list("chains", None, "Numbers of the chains to keep, from 0; by default all.")
flags.DEFINE_float(
    "box_size", None, "Side of the box [Mpc/h], for a --pretrained file that does not say."
)
flags.register_validator(
    "box_size", lambda size: size is None or size > 0, "expected a positive length in Mpc/h"
)


def main() -> None:
    """Export."""
    if (FLAGS.run is None) == (FLAGS.pretrained is None):
        raise ValueError(
            "Invalid value for argument `run`. Expected either --run or --pretrained. Received: "
            f"run={FLAGS.run!r}, pretrained={FLAGS.pretrained!r}"
        )
    if Path(FLAGS.output).exists():
        raise FileExistsError(f"Refusing to overwrite {FLAGS.output!r}")
    model = _of_run() if FLAGS.run is not None else _of_parameters()
    model.save(FLAGS.output)
    count = int(model.theta.shape[0])
    chains = sorted(set(model.chain.numpy().tolist()))
    verdict = model.described.get("convergence", {}).get("verdict")
    print(
        f"{count} sample{'s' * (count != 1)} of chain{'s' * (len(chains) != 1)} "
        f"{' '.join(map(str, chains))} in {FLAGS.output}, for cells of "
        f"{model.described['cell_size']:.3g} Mpc/h and haloes above "
        f"{model.described['mass_threshold']:.3g} Msun/h" + (f"; {verdict}" if verdict else "")
    )


def _of_run() -> Any:
    from npe_tf.chain_store import CHAIN_FILE, ChainStore

    chains = None if FLAGS.chains is None else _numbers(FLAGS.chains)
    with ChainStore.open(Path(FLAGS.run) / CHAIN_FILE) as store:
        options.import_tensorflow_quietly()

        from npe_tf.export import export_bias, metadata_of_run, samples_of_run
        from npe_tf.posterior import PosteriorConfig

        theta, chain = samples_of_run(store, FLAGS.num_samples, chains)
        metadata = metadata_of_run(store)
        config = PosteriorConfig.from_attributes(store.attributes)
        box_size = float(store.attributes["box_size"])
    return export_bias(config, box_size, theta, chain, metadata)


def _of_parameters() -> Any:
    import h5py

    if FLAGS.chains is not None:
        raise ValueError(
            "Invalid value for argument `chains`. Expected none with --pretrained. Received: "
            f"chains={','.join(FLAGS.chains)}"
        )
    path = Path(FLAGS.pretrained)
    if not path.is_file():
        raise FileNotFoundError(f"There are no parameters at {str(path)!r}")
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    box_size = FLAGS.box_size if FLAGS.box_size is not None else attributes.get("box_size")
    if box_size is None or "num_cells" not in attributes:
        raise ValueError(
            "Invalid value for argument `pretrained`. Expected a file of experiments.pretrain, "
            f"and --box_size if it does not have it. Received: {str(path)!r} with the attributes "
            f"{sorted(attributes)}"
        )
    options.import_tensorflow_quietly()

    from npe_tf.export import export_bias
    from npe_tf.posterior import PosteriorConfig
    from npe_tf.pretraining import load_parameters

    config = PosteriorConfig.from_attributes(attributes)
    theta = load_parameters(path, config.build_bias())
    provenance = {"pretrained": path.name, "log_likelihood": float(attributes["log_likelihood"])}
    return export_bias(config, float(box_size), theta, metadata={"provenance": provenance})


def _numbers(given: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in given)
    except ValueError as error:
        raise ValueError(
            "Invalid value for argument `chains`. Expected integers like 0,2. Received: chains="
            f"{','.join(given)}"
        ) from error


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
