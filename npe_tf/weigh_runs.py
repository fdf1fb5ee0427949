"""Modes of the chains of runs: read back, weighed, told.

How is in `npe_tf.mode_weights`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npe_tf.joint import JointChain, JointSampler, JointSettings
from npe_tf.mode_weights import Mode, ModeWeight, SwitchSettings, find_modes, weigh_modes
from npe_tf.run import Run
from npe_tf.whitening import Frame, WhitenedPosterior
from npe_tf.whole_files import write_whole

__all__ = [
    "MODES_FILE",
    "ChainEnd",
    "KnownWork",
    "chain_ends",
    "format_modes",
    "modes_to_json",
    "weigh_chains",
    "write_modes",
]

MODES_FILE = "modes.json"
"""Name, in the folder of a run, of what `npe-weigh` found."""

Array = NDArray[np.float64]

_MOST_DRAWS = 400


class ChainEnd(NamedTuple):
    """Where a chain stands, and what it knows.

    Attributes:
        name: of the chain, with that of its run.
        draws: coordinates of the parameters after the warm-up, `[T, P]`.
        white_noise: of the last sweep, `[N, N, N]`.
        coordinates: of the parameters of the last sweep, `[P]`.
        frame: learnt in the warm-up.
    """

    name: str
    draws: Array
    white_noise: Array
    coordinates: Array
    frame: Frame


def chain_ends(run: Run, name: str = "") -> tuple[WhitenedPosterior, list[ChainEnd]]:
    """The ends of the chains of a run of the joint scheme.

    Args:
        run: read back.
        name: of the run, before the numbers of its chains.

    Returns:
        The posterior, and one end for each chain.

    Raises:
        ValueError: if the run is of another scheme.
    """
    attributes = run.store.attributes
    if attributes.get("scheme") != "joint":
        raise ValueError(
            "Invalid value for argument `run`. Expected a run of the joint scheme. Received: "
            f"{name or 'a run'} of the Gibbs scheme"
        )
    fields = dataclasses.fields(JointSettings)
    given = {f.name: attributes[f.name] for f in fields if f.name in attributes}
    sampler = JointSampler(run.posterior, JointSettings(**given))
    saved = run.store.checkpoint() or {}
    sweeps = np.unique(np.linspace(run.warmup, len(run.theta) - 1, _MOST_DRAWS).astype(int))
    ends = []
    for number in range(run.num_chains):
        chain = JointChain(sampler, number)
        chain.from_checkpoint(saved)
        white_noise, coordinates, _ = sampler.unwhiten(chain.state, chain.frame)
        draws = [sampler.target.parameters.coordinates(t) for t in run.theta[sweeps, number]]
        ends.append(
            ChainEnd(
                f"{name}{number}",
                np.stack(draws),
                white_noise.numpy(),
                coordinates.numpy(),
                Frame(*(value.numpy() for value in chain.frame)),
            )
        )
    return sampler.target, ends


def weigh_chains(
    target: WhitenedPosterior,
    ends: Sequence[ChainEnd],
    settings: SwitchSettings,
    report: Callable[[str, int, float], None] | None = None,
    known: MutableMapping[str, float] | None = None,
) -> tuple[list[Mode], list[ModeWeight]]:
    """Find the modes of chains, and weigh them.

    Args:
        target: the posterior of all of them.
        ends: of the chains.
        settings: of the ways between modes.
        report: as in `weigh_modes`.
        known: as in `weigh_modes`.

    Returns:
        The modes, and a weight for each but the first.
    """
    shortest = min(len(end.draws) for end in ends)
    modes = find_modes(np.stack([end.draws[-shortest:] for end in ends], axis=1))
    if len(modes) < 2:
        return modes, []
    first = [ends[mode.chains[0]] for mode in modes]
    weights = weigh_modes(
        target,
        modes,
        [end.white_noise for end in first],
        [end.coordinates for end in first],
        [end.frame for end in first],
        settings,
        report,
        known,
    )
    return modes, weights


class KnownWork(dict[str, float]):
    """Work of the ways that are done, kept in a file for the same question.

    Args:
        path: of the file; read if it is there and about the same.
        key: what the work depends on, fit for JSON.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, key: Any) -> None:
        """Read what is known."""
        super().__init__()
        self.path, self._key = path, json.loads(json.dumps(key))
        if path.is_file():
            saved = json.loads(path.read_text())
            if saved["key"] == self._key:
                self.update(saved["work"])

    def __setitem__(self, name: str, work: float) -> None:
        """Keep, on disk too."""
        super().__setitem__(name, work)
        write_modes(self.path, {"key": self._key, "work": dict(self)})


def write_modes(path: Path, content: Any) -> None:
    """Write JSON, as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _shares(weights: Sequence[ModeWeight]) -> Array:
    """Share of every mode in the posterior, the first included."""
    logs = np.array([0.0, *(weight.log_ratio for weight in weights)])
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def modes_to_json(
    modes: Sequence[Mode], weights: Sequence[ModeWeight], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Numbers of every mode.

    Args:
        modes: of `weigh_chains`.
        weights: of `weigh_chains`.
        names: of the chains.

    Returns:
        For each mode its `chains` and its `share`; for all but the first also `log_ratio` to the
        first, its `error`, and the parts of both. Numbers that are not finite are `None`.
    """
    found: list[dict[str, Any]] = []
    for number, (mode, share) in enumerate(zip(modes, _shares(weights), strict=True)):
        entry: dict[str, Any] = {
            "chains": [names[chain] for chain in mode.chains],
            "share": float(share),
        }
        if number:
            weight = weights[number - 1]
            entry |= {
                "log_ratio": weight.log_ratio,
                "error": weight.error,
                "work_there": weight.there,
                "work_back": weight.back,
                "log_prior_ratio": weight.log_prior_ratio,
                "log_volume_ratio": weight.log_volume_ratio,
            }
        found.append(
            {k: v if isinstance(v, list) or math.isfinite(v) else None for k, v in entry.items()}
        )
    return found


def format_modes(found: Sequence[dict[str, Any]]) -> str:
    """Lines on modes as `modes_to_json` has them."""
    if len(found) == 1:
        return f"all chains ({' '.join(found[0]['chains'])}) are of one mode"
    lines = [f"mode of chains {' '.join(found[0]['chains'])}: {_told(found[0]['share'])}"]
    for entry in found[1:]:
        ratio, error = (entry[key] for key in ("log_ratio", "error"))
        told = "weight not known" if ratio is None else f"log weight {ratio:+.1f} +- {error:.1f}"
        lines.append(
            f"mode of chains {' '.join(entry['chains'])}: {_told(entry['share'])}, {told} "
            "relative to the first"
        )
    return "\n".join(lines)


def _told(share: float | None) -> str:
    if share is None:
        return "share not known"
    return f"{share:.1%} of the posterior" if share >= 1e-3 else f"{share:.0e} of the posterior"
