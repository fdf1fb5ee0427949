"""Weigh the modes of a posterior in which the chains of runs stand against each other.

Chains that stay apart are of different modes of the bias parameters. The parameters are moved
slowly from the end of a chain of one mode to that of another, the field following, and back; the
work that takes, both ways, tells the ratio of the weights. A few minutes for each way at 64^3.
`modes.json` in the folder of the first run has the numbers, and npe-summarise tells them.

Example:
  npe-weigh --runs=runs/rises,runs/falls

Also as python -m experiments.weigh.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from absl import flags

from experiments import options

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "runs", None, "Folders of runs on one catalogue, or of a single run.", required=True
)
flags.DEFINE_integer("num_steps", 200, "Steps of the parameters on each way.", lower_bound=1)
flags.DEFINE_integer("gradients_per_step", 10, "Of the field after each step.", lower_bound=1)
flags.DEFINE_integer(
    "num_equilibration", 400, "Gradients of the field before the first step.", lower_bound=1
)
flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
flags.DEFINE_string("catalogue", None, "The catalogue, if it is no longer where the run found it.")


def main() -> None:
    """Weigh."""
    from npe_tf.chain_store import CHAIN_FILE, ChainStore

    catalogue, _ = options.catalogue_of_run(FLAGS.runs[0], FLAGS.catalogue)
    options.import_tensorflow_quietly()

    from npe_tf.mode_weights import SwitchSettings
    from npe_tf.posterior import PosteriorConfig
    from npe_tf.run import Run
    from npe_tf.weigh_runs import (
        MODES_FILE,
        KnownWork,
        chain_ends,
        format_modes,
        modes_to_json,
        weigh_chains,
        write_modes,
    )

    ends, targets, configs = [], [], []
    for folder in FLAGS.runs:
        with ChainStore.open(Path(folder) / CHAIN_FILE) as store:
            stored = Run(store, catalogue)
            config = PosteriorConfig.from_attributes(store.attributes).to_attributes()
            configs.append({**config, "catalogue": store.attributes.get("catalogue_sha256")})
            target, own = chain_ends(stored, f"{Path(folder).name}/" if len(FLAGS.runs) > 1 else "")
            targets.append(target)
            ends += own
    for folder, config in zip(FLAGS.runs, configs, strict=True):
        other = sorted(name for name in config if config[name] != configs[0].get(name))
        if other:
            raise ValueError(
                "Invalid value for argument `runs`. Expected runs of one catalogue and one model. "
                f"Received: {FLAGS.runs[0]} and {folder}, which differ in {other}"
            )
    settings = SwitchSettings(
        num_steps=FLAGS.num_steps,
        gradients_per_step=FLAGS.gradients_per_step,
        num_equilibration=FLAGS.num_equilibration,
        seed=FLAGS.seed,
    )
    progress = options.ProgressLine(sys.stdout)
    began: dict[str, float] = {}

    def report(way: str, step: int, work: float) -> None:
        now = time.monotonic()
        left = (now - began.setdefault(way, now)) * (settings.num_steps / step - 1.0)
        progress(
            f"{way}: step {step}/{settings.num_steps} | ETA {left / 60.0:.0f} min | "
            f"work {work:.1f}",
            last=step == settings.num_steps,
        )

    path = Path(FLAGS.runs[0]) / MODES_FILE
    key = [FLAGS.runs, dataclasses.asdict(settings), [end.coordinates.tolist() for end in ends]]
    known = KnownWork(path.with_suffix(".partial.json"), key)
    modes, weights = weigh_chains(targets[0], ends, settings, report, known)
    found = modes_to_json(modes, weights, [end.name for end in ends])
    print(format_modes(found))
    write_modes(path, found)
    known.path.unlink(missing_ok=True)


def run() -> None:
    """Entry point of the console script."""
    options.run_main(main)


if __name__ == "__main__":
    run()
