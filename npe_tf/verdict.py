"""What the convergence of a run means for who wants to use it, and what to do next."""

from __future__ import annotations

import dataclasses
import math
import shlex

from npe_tf.convergence import Convergence, Limits
from npe_tf.diagnostics import ParameterRow

__all__ = ["CONVERGED", "NOT_CONVERGED", "TOO_SHORT", "Verdict", "verdict_of"]

CONVERGED = "CONVERGED"
NOT_CONVERGED = "NOT CONVERGED"
TOO_SHORT = "TOO SHORT"

_APART = 1.1  # R-hat from which on chains are in different places
_FEWEST_SWEEPS = 800  # of sampling, the default of `npe_tf.JointSettings`
_FEWEST_EFFECTIVE = 10  # from which how many sweeps are needed can be told
_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a run's samples can be used.

    Attributes:
        state: `CONVERGED`, `NOT_CONVERGED`, or `TOO_SHORT`: so few draws that nothing is known.
        reason: a sentence without its full stop.
        advice: what to do next, sentences.
    """

    state: str
    reason: str
    advice: tuple[str, ...]


def verdict_of(
    convergence: Convergence | None,
    num_samples: int,
    num_chains: int,
    *,
    limits: Limits | None = None,
    modes_apart: bool = False,
    is_sound: bool = True,
    seconds_per_sweep: float = math.nan,
    run: str = "RUN",
    sweeps_left: int = 0,
) -> Verdict:
    """Judge a run.

    Args:
        convergence: `None` if there are too few sweeps to measure it.
        num_samples: sweeps after the warm-up.
        num_chains: C.
        limits: what a converged run must reach; by default those of `Limits`.
        modes_apart: whether chains are known to be in different modes of the parameters.
        is_sound: whether no chain stands and all numbers are finite, see `npe_tf.health`.
        seconds_per_sweep: of all chains together, for the time that more sweeps take [s].
        run: folder of the run, for commands.
        sweeps_left: of sampling, that were asked for and are not there yet.

    Returns:
        The verdict.
    """
    limits = limits or Limits()
    draws = num_samples * num_chains
    folder = shlex.quote(run)
    if convergence is not None and convergence.reaches(limits):
        reason = (
            f"All {len(convergence.watched)} quantities watched agree between the chains and have "
            f"at least {limits.min_ess:g} effective samples"
        )
        if not is_sound:
            return Verdict(
                NOT_CONVERGED,
                f"{reason}, but a chain stands still or is not finite",
                ("Do not quote numbers from this run.", "Do what the warnings say."),
            )
        return Verdict(CONVERGED, reason, _of_converged(folder))
    if convergence is None or draws < limits.min_ess:
        reason = (
            f"{draws} draws after the warm-up ({num_samples} sweeps of {num_chains} "
            f"chain{'s' if num_chains > 1 else ''}) cannot be worth {limits.min_ess:g} independent "
            "ones"
        )
        wanted = max(_FEWEST_SWEEPS, math.ceil(2 * limits.min_ess / num_chains))
        return Verdict(
            TOO_SHORT,
            reason,
            (
                "Do not quote numbers from this run.",
                _go_on(wanted, num_samples, seconds_per_sweep, sweeps_left),
            ),
        )
    advice = ["Do not quote numbers from this run."]
    rhat, ess = convergence.worst_rhat, convergence.worst_ess
    apart = not rhat.rhat <= _APART
    if modes_apart:
        advice.append(
            "Chains are in different modes, between which they do not cross: begin a new run with "
            "--psi=rises, then one with --psi=falls, and report them side by side."
        )
    elif apart:
        advice.append(
            f"Chains are in different places ({rhat.name}): look at the traces. A chain that "
            "drifts needs a longer warm-up, a new run with twice the --num_warmup; chains that "
            "stand still apart are in different modes, which more sweeps do not mend."
        )
    effective = min(ess.ess, ess.tail)
    if effective >= _FEWEST_EFFECTIVE:
        needed = num_samples * limits.min_ess / effective
        wanted = max(_rounded_up(needed), math.ceil(1.2 * num_samples))
        told = "" if not apart else "When they agree: "
        advice.append(told + _go_on(wanted, num_samples, seconds_per_sweep, sweeps_left))
    elif not apart:
        advice.append(_go_on(4 * num_samples, num_samples, seconds_per_sweep, sweeps_left))
    beyond = [row for row in convergence.watched if not _is_within(row, limits)]
    reason = (
        f"{len(beyond)} of {len(convergence.watched)} quantities watched have an R-hat above "
        f"{limits.max_rhat:g} or fewer than {limits.min_ess:g} effective samples"
    )
    return Verdict(NOT_CONVERGED, reason, tuple(advice))


def _is_within(row: ParameterRow, limits: Limits) -> bool:
    # false for what is not known
    return bool(row.rhat <= limits.max_rhat and min(row.ess, row.tail) >= limits.min_ess)


def _of_converged(folder: str) -> tuple[str, ...]:
    return (
        f"Compare mock catalogues of the posterior with yours: npe-check --run={folder}",
        f"Take the bias model along: npe-export --run={folder} --output=bias",
        "One mode of several may have been found: a second run with another --seed or --psi tells.",
    )


def _go_on(wanted: int, num_samples: int, seconds_per_sweep: float, sweeps_left: int) -> str:
    """How to get more samples, and how long it takes."""
    if num_samples + sweeps_left >= wanted:
        return (
            f"The run has {sweeps_left:,} sweeps of sampling to go"
            f"{_time(sweeps_left, seconds_per_sweep)}: let it finish; if it has stopped, the same "
            "command goes on."
        )
    more = wanted - num_samples
    return (
        f"Give the same command with --num_samples={wanted}: the run goes on where it stopped, "
        f"{more:,} sweeps more{_time(more, seconds_per_sweep)}."
    )


def _time(sweeps: int, seconds_per_sweep: float) -> str:
    seconds = sweeps * seconds_per_sweep
    if not math.isfinite(seconds) or seconds <= 0:
        return ""
    if seconds < 90:
        told = f"{max(1, round(seconds))} s"
    elif seconds < 1.5 * _HOUR:
        told = f"{seconds / 60:.0f} min"
    else:
        told = f"{seconds / _HOUR:.1f} hours"
    return f", about {told}"


def _rounded_up(number: float) -> int:
    """To two digits."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit
