"""Runs of several chains on disk: start, go on, stop, and lose nothing.

Chains are independent and take turns. After every sweep all that is needed to go on is committed to
the chain file, so that a run can be killed at any instant, and a resumed run is the same to the
last bit, but for the times it took, as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.bias.neural import possible_psi, psi_rises
from npe_tf.chain_store import CHAIN_FILE, ChainStore, Column, predicted_nbytes
from npe_tf.convergence import Limits, convergence_of, watched_names
from npe_tf.energy import COST_COLUMNS, Meter
from npe_tf.gibbs import Chain, GibbsSampler, Settings
from npe_tf.health import StandingWatch
from npe_tf.joint import JointChain, JointSampler, JointSettings
from npe_tf.posterior import FieldPosterior
from npe_tf.run_history import HISTORY_FILE, record_start
from npe_tf.watched import Watched
from npe_tf.workers import ChainWorkers

__all__ = ["JointSettings", "Progress", "Settings", "plan_storage", "run_inference"]

Array = NDArray[Any]

_FIELD, _BIAS = 0, 1

# settings of which files from before there was a choice say nothing, like the scheme
_LATER = {"preconditioned": True, "psi": "free"}

CHECK_EVERY = 50
"""Sweeps between looks at convergence."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        sweep: sweeps done, of all chains.
        num_sweeps: sweeps asked for.
        phase: ``"annealing"`` (the first part of the warm-up), ``"warm-up"`` or ``"sampling"``.
        seconds_per_sweep: recent mean, all chains together.
        eta_seconds: estimate of the time left.
        field_acceptance: mean over the recent sweeps and chains.
        bias_acceptance: the same for the parameters; NaN while the field is annealed.
        log_posterior: of each chain.
        field_step_size: of each chain.
    """

    sweep: int
    num_sweeps: int
    phase: str
    seconds_per_sweep: float
    eta_seconds: float
    field_acceptance: float
    bias_acceptance: float
    log_posterior: tuple[float, ...]
    field_step_size: tuple[float, ...]

    def line(self) -> str:
        """One line for a terminal or a log."""
        left = round(self.eta_seconds)
        eta = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        log_posterior = " ".join(f"{value:.1f}" for value in self.log_posterior)
        bias = "-" if np.isnan(self.bias_acceptance) else f"{self.bias_acceptance:.2f}"
        return (
            f"{self.phase} {self.sweep}/{self.num_sweeps} | {self.seconds_per_sweep:.2f} s/sweep | "
            f"ETA {eta} | accept field {self.field_acceptance:.2f} bias {bias} | "
            f"step {np.mean(self.field_step_size):.3f} | "
            f"log posterior {log_posterior}"
        )


def _columns(
    posterior: FieldPosterior, settings: Settings | JointSettings, watched: Watched
) -> dict[str, Column]:
    joint = isinstance(settings, JointSettings)
    chains, size = settings.num_chains, posterior.bias.parameters.size
    shape = posterior.grid.shape
    dtype = np.dtype(posterior.bias.dtype)
    return {
        "theta": Column((chains, size), np.dtype(np.float64)),
        "log_posterior": Column((chains,), np.dtype(np.float64)),
        "acceptance": Column((chains, 2), np.dtype(np.float64)),
        "step_size": Column((chains, 2), np.dtype(np.float64)),
        **({"energy_error": Column((chains,))} if joint else {}),
        "power": Column((chains, posterior.grid.num_cells // 2), np.dtype(np.float64)),
        **{name: Column((chains, *row)) for name, row in watched.shapes.items()},
        **{name: Column() for name in COST_COLUMNS},
        "white_noise": Column((chains, *shape), dtype, every=settings.field_every),
    }


def _require_psi(theta: Array, names: Sequence[str], psi: str) -> None:
    """Refuse parameters of another mode than that in which the chains are to start."""
    psi = possible_psi(psi, names)
    if psi != "free" and psi_rises(-theta if psi == "rises" else theta, names):
        other = "falls" if psi == "rises" else "rises"
        raise ValueError(
            f"Invalid value for argument `initial_theta`. Expected parameters whose psi {psi} with "
            f"the density (psi={psi!r}). Received: parameters whose psi {other}; ask for "
            f"psi={other!r} or psi='free', or fit others"
        )


def _sizes(
    path: Path,
    columns: Mapping[str, Column],
    num_sweeps: int,
    checkpoint: Mapping[str, Array],
    constants: Mapping[str, Array],
) -> str:
    """Lines on what the chain file will take on the disk, in total and by part."""

    def size(
        columns: Mapping[str, Column], checkpoint: Mapping[str, Array], constants: Any = None
    ) -> str:
        nbytes = predicted_nbytes(columns, num_sweeps, checkpoint, constants)
        return f"{nbytes / 2**20:.3g} MiB"

    field = columns["white_noise"]
    others = {name: column for name, column in columns.items() if column is not field}
    num_chains, *shape = field.shape
    lines = [
        f"chain file {path}: {size(columns, checkpoint, constants)}",
        f"  fields: {size({'white_noise': field}, {})}, {field.num_rows(num_sweeps)} of each of "
        f"{num_chains} chains, {' x '.join(map(str, shape))} {field.dtype}, one every "
        f"{field.every} of {num_sweeps} sweeps",
        f"  {len(others)} columns for every sweep: {size(others, {})}",
        f"  checkpoint, kept twice: {size({}, checkpoint)}",
    ]
    if constants:
        lines.append(f"  constants: {size({}, {}, constants)}")
    return "\n".join(lines)


def plan_storage(
    posterior: FieldPosterior,
    settings: Settings | JointSettings,
    output: str | Path,
    constants: Mapping[str, ArrayLike] | None = None,
) -> str:
    """Say what the chain file of a run would take on the disk, without making it.

    Args:
        posterior: as in `run_inference`.
        settings: as in `run_inference`.
        output: as in `run_inference`.
        constants: as in `run_inference`.

    Returns:
        Lines on the total and its parts.
    """
    sampler, chains = _make_chains(posterior, settings)
    template = _merged(chain.checkpoint_template() for chain in chains)
    fixed = {name: np.asarray(value) for name, value in (constants or {}).items()}
    columns = _columns(posterior, settings, sampler.watched)
    return _sizes(Path(output) / CHAIN_FILE, columns, settings.num_sweeps, template, fixed)


def _require_same_watched(store: ChainStore, watched: Watched) -> None:
    """Refuse to go on with columns that another version filled with other quantities."""
    for column, names in watched_names(store).items():
        if names != list(watched.names.get(column, ())):
            store.close()
            raise ValueError(
                "Invalid value for argument `output`. Expected a run whose column "
                f"{column!r} holds {list(watched.names.get(column, ()))}. Received: {names}"
            )


def _require_undamaged(store: ChainStore) -> None:
    """Refuse to spend time on a chain whose first part the disk has lost."""
    damage = store.damage()
    if damage:
        store.close()
        raise OSError(
            errno.EIO,
            f"Damaged: {'; '.join(damage)}. Restore the file, or run again in another folder: the "
            "same seed gives the same chain",
            store.path,
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question that the loop asks between sweeps."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)


def run_inference(
    posterior: FieldPosterior,
    settings: Settings | JointSettings,
    output: str | Path,
    *,
    initial_theta: ArrayLike | None = None,
    attributes: Mapping[str, Any] | None = None,
    constants: Mapping[str, ArrayLike] | None = None,
    report: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    max_seconds: float | None = None,
    limits: Limits | None = None,
    num_processes: int = 1,
    build: Callable[[], FieldPosterior] | None = None,
    command: str | None = None,
) -> Path:
    """Run, or go on with, a set of chains.

    Args:
        posterior: the target.
        settings: what to run: `JointSettings` for the dynamics of field and parameters together,
            `Settings` for the Gibbs scheme of the paper.
        output: folder of the run; made if need be. If it holds a run of the same settings, data
            and attributes, that run is continued; `num_samples` alone may have grown.
        initial_theta: parameters `[size]` to start every chain with; by default each chain starts
            with random parameters, fitted to its own random field.
        attributes: what else identifies the run (the catalogue's name and checksum, the
            cosmology); stored, and compared when a run is continued.
        constants: arrays to store once, such as the true field.
        report: called after every sweep.
        say: called with a line of text now and then.
        max_seconds: stop after the sweep in which this much time has passed; the same call goes
            on later.
        limits: stop when all that is watched (see `npe_tf.convergence`) has reached these, which
            is looked at every `CHECK_EVERY` sweeps; by default all samples asked for are taken.
        num_processes: processes among which the chains are dealt, at most one for each; 1 for all
            in this one. Draws are the same for any number up to the rounding of sums, which
            depends on the number of threads.
        build: makes the posterior anew in a process; picklable, needed for more than one process.
        command: what the user typed, to be noted in the run's history.

    Returns:
        Path of the chain file.

    Raises:
        ValueError: if `output` belongs to a different run or the start has no finite density.
        OSError: if the folder cannot be written to, its chain is damaged, or another process
            writes to it.
    """
    say = say or (lambda line: None)
    folder = Path(output)
    path = folder / CHAIN_FILE
    meter = Meter()
    size = posterior.bias.parameters.size
    theta = None if initial_theta is None else np.asarray(initial_theta, dtype=np.float64)
    if theta is not None and (theta.shape != (size,) or not np.all(np.isfinite(theta))):
        raise ValueError(
            f"Invalid value for argument `initial_theta`. Expected {size} finite numbers. "
            f"Received: shape {theta.shape}"
        )
    if theta is not None:
        _require_psi(theta, posterior.bias.parameters.names, settings.psi)
    joint = isinstance(settings, JointSettings)
    identity = {
        **(attributes or {}),
        **({"scheme": "joint"} if joint else {}),
        **{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)
           if f.name != "num_samples" and getattr(settings, f.name) != _LATER.get(f.name)},
        "num_cells": posterior.grid.num_cells,
        "box_size": posterior.grid.box_size,
        "num_haloes": posterior.likelihood.num_haloes,
        "mass_threshold": posterior.likelihood.mass_threshold,
        "dtype": posterior.bias.dtype,
        "parameters": list(posterior.bias.parameters.names),
        "initial_theta": "" if theta is None else theta.tobytes().hex(),
    }  # fmt: skip
    if not 1 <= num_processes <= settings.num_chains:
        raise ValueError(
            "Invalid value for argument `num_processes`. Expected an integer from 1 to the "
            f"{settings.num_chains} chains. Received: num_processes={num_processes!r}"
        )
    if build is None and num_processes > 1:
        raise ValueError(
            "Invalid value for argument `build`. Expected a function that makes the posterior in "
            f"another process. Received: build=None with num_processes={num_processes}"
        )
    # Whatever is wrong with the folder shows before anything long begins.
    store = ChainStore.open(path, "r+", expected=identity) if path.exists() else None
    sampler, chains = _make_chains(posterior, settings)
    if store is not None:
        _require_undamaged(store)
        _require_same_watched(store, sampler.watched)
    if store is None:
        folder.mkdir(parents=True, exist_ok=True)
        template = _merged(chain.checkpoint_template() for chain in chains)
        fixed = {name: np.asarray(value) for name, value in (constants or {}).items()}
        columns = _columns(posterior, settings, sampler.watched)
        say(_sizes(path, columns, settings.num_sweeps, template, fixed))
        # names do not tell one run from another, and runs from before they were there go on
        marks = {**identity, **sampler.watched.attributes}
        store = ChainStore.create(path, columns, settings.num_sweeps, template, marks, fixed)
    with store, contextlib.ExitStack() as stack:
        try:
            record_start(folder, store.num_committed, command)
        except OSError as error:  # a note; a disk that is full is no reason to stop
            say(f"the start could not be noted in {HISTORY_FILE}: {error}")
        saved = store.checkpoint()
        group: _Here | ChainWorkers
        if build is not None and num_processes > 1:
            make = functools.partial(_chains_of, build, settings)
            group = stack.enter_context(ChainWorkers(make, settings.num_chains, num_processes, say))
        else:
            group = _Here(chains, say)
        if saved is None:
            group.start(theta)
        else:
            group.from_checkpoint(saved)
        if store.capacity < settings.num_sweeps:
            fixed = {name: store.constant(name) for name in store.constants}
            say(_sizes(path, store.columns, settings.num_sweeps, saved or {}, fixed))
            store.extend(settings.num_sweeps)
        if saved is not None:
            say(f"going on after sweep {store.num_committed} of {settings.num_sweeps}")
        if limits is None or not _has_converged(store, settings, limits, say):
            _loop(
                store, group, sampler.plan.annealed, settings, report, say, max_seconds, limits,
                meter,
            )  # fmt: skip
    return path


class _Here:
    """The chains of a run in this process, one after another."""

    def __init__(self, chains: Sequence[Chain | JointChain], say: Callable[[str], None]) -> None:
        self._chains = chains
        self._say = say

    def start(self, theta: Array | None) -> None:
        for chain in self._chains:
            chain.start(theta, self._say)

    def from_checkpoint(self, arrays: Mapping[str, Array]) -> None:
        for chain in self._chains:
            chain.from_checkpoint(arrays)
            if isinstance(chain, JointChain):
                chain.say = self._say

    def advance(self, sweep: int) -> tuple[list[dict[str, Any]], dict[str, Array], float]:
        """Rows, checkpoint, and processor time outside of this process."""
        rows = [chain.advance(sweep) for chain in self._chains]
        return rows, _merged(chain.to_checkpoint() for chain in self._chains), 0.0


def _chains_of(
    build: Callable[[], FieldPosterior], settings: Settings | JointSettings
) -> Sequence[Chain | JointChain]:
    """The chains, in a process that has none."""
    return _make_chains(build(), settings)[1]


def _make_chains(
    posterior: FieldPosterior, settings: Settings | JointSettings
) -> tuple[GibbsSampler | JointSampler, list[Chain] | list[JointChain]]:
    numbers = range(settings.num_chains)
    if isinstance(settings, JointSettings):
        joint = JointSampler(posterior, settings)
        return joint, [JointChain(joint, number) for number in numbers]
    gibbs = GibbsSampler(posterior, settings)
    return gibbs, [Chain(gibbs, number) for number in numbers]


def _merged(parts: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: value for part in parts for name, value in part.items()}


def _mean_of_known(values: Sequence[float]) -> float:
    """Mean without the NaNs; NaN if nothing else is there."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _has_converged(
    store: ChainStore,
    settings: Settings | JointSettings,
    limits: Limits,
    say: Callable[[str], None],
) -> bool:
    """Whether what is stored is enough; says so, and what is worst if it is not."""
    done, warmup = store.num_committed, settings.num_warmup
    if done < warmup + CHECK_EVERY:
        return False
    found = convergence_of(store)
    rhat, ess = found.worst_rhat, found.worst_ess
    converged = found.reaches(limits)
    say(
        f"{'CONVERGED' if converged else 'not converged'} after {done - warmup} samples: worst "
        f"R-hat {rhat.rhat:.3f} ({rhat.name}), smallest effective sample size {ess.ess:.0f} "
        f"({ess.name})"
    )
    return converged


def _loop(
    store: ChainStore,
    chains: _Here | ChainWorkers,
    annealed: int,
    settings: Settings | JointSettings,
    report: Callable[[Progress], None] | None,
    say: Callable[[str], None],
    max_seconds: float | None,
    limits: Limits | None,
    meter: Meter,
) -> None:
    began = time.monotonic()
    recent: deque[tuple[float, float, float]] = deque(maxlen=20)
    watch = StandingWatch(settings.num_chains)
    with _interruptible() as interrupted:
        for sweep in range(store.num_committed, settings.num_sweeps):
            started = time.monotonic()
            rows, checkpoint, elsewhere = chains.advance(sweep)
            cost = meter.lap()
            cost["cpu_seconds"] += elsewhere
            store.append(
                {
                    name: np.asarray(
                        cost[name] if name in cost else np.stack([row[name] for row in rows]),
                        dtype=column.dtype,
                    )
                    for name, column in store.columns.items()
                },
                checkpoint,
            )
            for line in watch(
                [row["log_posterior"] for row in rows], [row["acceptance"] for row in rows]
            ):
                say(line)
            accept = np.mean([row["acceptance"] for row in rows], axis=0)
            recent.append((time.monotonic() - started, accept[_FIELD], accept[_BIAS]))
            seconds, field, bias = (_mean_of_known(column) for column in zip(*recent, strict=True))
            if report:
                phase = "sampling"
                if sweep < settings.num_warmup:
                    phase = "annealing" if sweep < annealed else "warm-up"
                report(
                    Progress(
                        sweep=sweep + 1,
                        num_sweeps=settings.num_sweeps,
                        phase=phase,
                        seconds_per_sweep=seconds,
                        eta_seconds=seconds * (settings.num_sweeps - sweep - 1),
                        field_acceptance=field,
                        bias_acceptance=bias,
                        log_posterior=tuple(float(row["log_posterior"]) for row in rows),
                        field_step_size=tuple(float(row["step_size"][_FIELD]) for row in rows),
                    )
                )
            due = limits is not None and (sweep + 1) % CHECK_EVERY == 0
            if due and limits and _has_converged(store, settings, limits, say):
                return
            out_of_time = max_seconds is not None and time.monotonic() - began > max_seconds
            if (interrupted() or out_of_time) and sweep + 1 < settings.num_sweeps:
                say(
                    f"stopped after sweep {sweep + 1} of {settings.num_sweeps}; everything is "
                    "saved, and the same command goes on from here"
                )
                return
