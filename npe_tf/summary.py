"""What a run says: tables, verdicts and figures from a chain file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from npe_tf import diagnostics, plots, statistics
from npe_tf.bias.neural import CENTRE, psi_rises
from npe_tf.catalogue import Catalogue
from npe_tf.chain_store import CHAIN_FILE, ChainStore
from npe_tf.convergence import Convergence, Limits, convergence_of, worst_ess, worst_rhat
from npe_tf.energy import COST_COLUMNS, WATTS_PER_CORE, Cost
from npe_tf.environments import DensityEnvironments
from npe_tf.field_checks import FieldChecks, check_fields
from npe_tf.figures import readable_name
from npe_tf.health import health_of
from npe_tf.plot_style import has_matplotlib
from npe_tf.run import Run
from npe_tf.verdict import CONVERGED, TOO_SHORT, Verdict, verdict_of
from npe_tf.weigh_runs import MODES_FILE, format_modes

__all__ = ["PowerShells", "Summary", "summarise"]

Array = NDArray[np.float64]

_LIMITS = Limits()
_NUM_SHELLS = 8
_MOST_FIELDS = 24


@dataclasses.dataclass(frozen=True)
class PowerShells:
    """Power of the sampled linear fields in shells of wavenumber, `[K]` each.

    Attributes:
        k: mean wavenumber [h/Mpc].
        modes: live Fourier modes, k and -k both.
        prior: expected power [(Mpc/h)^3].
        q16: 16th percentile of all samples after the warm-up [(Mpc/h)^3].
        q50: their median.
        q84: 84th percentile.
        departure: of the samples' mean power from the prior's, in units of the prior's standard
            deviation for one field, sqrt(2 / modes) of its power.
        truth: power of the true field [(Mpc/h)^3], or `None`.
    """

    k: Array
    modes: NDArray[np.int64]
    prior: Array
    q16: Array
    q50: Array
    q84: Array
    departure: Array
    truth: Array | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """Numbers of a run.

    Attributes:
        text: all of it, for a terminal.
        converged: whether every quantity watched (see `npe_tf.convergence`) has a rank-normalised
            R-hat of at most 1.01 and at least 400 effective samples, in bulk and tails, and no
            chain stands or is not finite.
        parameters: one row per bias parameter.
        acceptance: of the field and of the parameters, mean over samples and chains.
        k: wavenumbers of the shells [h/Mpc].
        r: correlation of the posterior mean of the linear field with the true one, `[K]`, or
            `None` without a truth.
        observed: haloes that count.
        expected: expected haloes in stored samples, `[S]`.
        figures: files written.
        convergence: of everything that is watched.
        verdict: what that means, and what to do next.
        power: of the sampled linear fields.
        moves: a line on how the chains moved.
        modes: lines on the modes of the parameters that chains are in, if these can be told.
        gradients: of the field after the warm-up, all chains together.
        cost: of the whole run; `None` if it was not measured.
        fields: checks of the stored fields after the warm-up; `None` if there are fewer than two.
    """

    text: str
    converged: bool
    parameters: list[diagnostics.ParameterRow]
    acceptance: tuple[float, float]
    k: Array
    r: Array | None
    observed: int
    expected: Array
    figures: list[Path]
    convergence: Convergence
    verdict: Verdict
    power: PowerShells
    moves: str
    modes: list[str]
    gradients: int
    cost: Cost | None = None
    fields: FieldChecks | None = None


def summarise(
    output: str | Path,
    catalogue: Catalogue,
    figures: str | Path | None = None,
    watts_per_core: float = WATTS_PER_CORE,
) -> Summary:
    """Read a run, say what it found, and draw it.

    Works on a finished run and on one that is still being written.

    Args:
        output: folder of the run.
        catalogue: the catalogue that the run is about.
        figures: folder for the figures and ``summary.txt``; none are written without it. Without
            matplotlib there is only the text.
        watts_per_core: power of a busy core [W], for the energy where that was not measured.

    Returns:
        The numbers, and the text that states them.

    Raises:
        OSError: if there is no run.
        ValueError: if it has no samples yet.
    """
    with ChainStore.open(Path(output) / CHAIN_FILE) as store:
        folder = None if figures is None else Path(figures)
        return _Report(store, catalogue).summary(folder, watts_per_core, str(output))


class _Report(Run):
    def __init__(self, store: ChainStore, catalogue: Catalogue) -> None:
        super().__init__(store, catalogue)
        self.acceptance = store.read("acceptance")
        self.checkpoint = store.checkpoint() or {}

    def moments(self, field: str) -> tuple[Array, Array]:
        """Mean and standard deviation of a field over all samples and chains."""
        count = float(self.checkpoint["0/moments/count"])
        means = np.stack(
            [self.checkpoint[f"{c}/moments/{field}_mean"] for c in range(self.num_chains)]
        ).astype(np.float64)
        m2 = np.stack(
            [self.checkpoint[f"{c}/moments/{field}_m2"] for c in range(self.num_chains)]
        ).astype(np.float64)
        mean = means.mean(axis=0)
        total = m2.sum(axis=0) + count * np.sum((means - mean) ** 2, axis=0)
        return mean, np.sqrt(total / (count * self.num_chains))

    def check_fields(self) -> FieldChecks | None:
        """The stored fields after the warm-up against the prior, and the truth if there is one."""
        column = self.store.columns["white_noise"]
        rows = range(self.warmup // column.every, self.store.num_committed // column.every)
        if len(rows) * self.num_chains < 2:
            return None
        fields = (
            field for row in rows for field in self.store.read("white_noise", row, row + 1)[0]
        )
        truth = self.truth
        if truth is not None:
            truth = self.posterior.initial_field.white_noise(truth)
        return check_fields(fields, self.grid, truth)

    def cost(self) -> Cost | None:
        """Of the whole run, its warm-up included; runs from before it was measured have none."""
        if not set(COST_COLUMNS) <= set(self.store.columns):
            return None
        return Cost.of(*(self.store.read(name) for name in COST_COLUMNS))

    def _moves(self, field: float, bias: float, joint: bool) -> str:
        """One line on how the chains moved."""
        if not joint:
            return f"acceptance: field {field:.2f}, parameters {bias:.2f}"
        error = self.store.read("energy_error")[self.warmup :]
        step = self.store.read("step_size")[self.warmup :, :, 0]
        return (
            f"unadjusted dynamics: steps of {step.mean():.3f} sqrt(dimensions), energy error "
            f"variance per dimension {np.nanmean(error):.1e}, {1 - field:.2%} of the sweeps refused"
        )

    def _modes(self) -> tuple[list[str], bool]:
        """A line on the two kinds of mode of the paper's network, and whether chains are apart."""
        if CENTRE not in self.names:
            return [], False
        rises = np.mean(psi_rises(self.theta[self.warmup :], self.names), axis=0)
        kinds = {
            "rises with the density": np.flatnonzero(rises == 1),
            "falls with it": np.flatnonzero(rises == 0),
            "does both": np.flatnonzero((rises > 0) & (rises < 1)),
        }
        told = [
            f"{kind} in chain{'s' if len(chains) > 1 else ''} {' '.join(map(str, chains))}"
            for kind, chains in kinds.items()
            if len(chains)
        ]
        apart = bool(len(kinds["rises with the density"]) and len(kinds["falls with it"]))
        remark = ": different modes, whose weights these chains do not tell" if apart else ""
        asked = str(self.store.attributes.get("psi", "free"))
        if asked != "free":
            other = "falls" if asked == "rises" else "rises"
            remark += (
                f"; all were started so, this is the posterior of one mode (--psi={other}: the "
                "other, whose weight is not known)"
            )
        lines = [f"the network's psi {', '.join(told)}{remark}"]
        weighed = Path(self.store.path).with_name(MODES_FILE)
        if weighed.is_file():
            lines.append(format_modes(json.loads(weighed.read_text())))
        return lines, apart

    def _power(self) -> PowerShells:
        """The sampled linear fields against the prior."""
        prior = self.grid.shell_mean(self.posterior.initial_field.linear_power())
        modes = statistics.modes_per_shell(self.grid)
        samples = self.power[self.warmup :].reshape(-1, len(prior))
        low, middle, high = np.quantile(samples, (0.16, 0.5, 0.84), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            departure = (samples.mean(axis=0) / prior - 1.0) * np.sqrt(modes / 2.0)
        truth = None
        if self.truth is not None:
            truth = statistics.power_spectrum(self.truth, self.grid).power
        k = self.grid.shell_wavenumber()
        return PowerShells(k, modes, prior, low, middle, high, departure, truth)

    def _verdict(self, convergence: Convergence, apart: bool, sound: bool, run: str) -> Verdict:
        pace = float("nan")
        if "wall_seconds" in self.store.columns:
            pace = float(np.median(self.store.read("wall_seconds", self.warmup)))
        return verdict_of(
            convergence,
            self.num_samples,
            self.num_chains,
            limits=_LIMITS,
            modes_apart=apart,
            is_sound=sound,
            seconds_per_sweep=pace,
            run=run,
            sweeps_left=self.store.capacity - self.warmup - self.num_samples,
        )

    def summary(self, folder: Path | None, watts_per_core: float, run: str) -> Summary:
        """Everything."""
        convergence = convergence_of(self.store)
        rows, others = convergence.parameters, convergence.others
        rhat, ess = convergence.worst_rhat, convergence.worst_ess
        health = health_of(self.store)
        modes, apart = self._modes()
        verdict = self._verdict(convergence, apart, health.is_sound, run)
        field, bias = (float(a) for a in self.acceptance[self.warmup :].mean(axis=(0, 1)))
        k = self.grid.shell_wavenumber(_NUM_SHELLS)
        initial_mean, initial_sd = self.moments("initial")
        r = None
        if self.truth is not None:
            _, r = statistics.cross_correlation(initial_mean, self.truth, self.grid, _NUM_SHELLS)

        environments = _Environments(self)
        expected = environments.expected_total
        observed = self.posterior.likelihood.num_haloes

        median_ess = float(np.nanmedian([row.ess for row in convergence.watched]))
        joint = self.store.attributes.get("scheme") == "joint"
        moves = self._moves(field, bias, joint)
        # in turns: one per leapfrog step, and one because the other block has moved
        per_sweep = (
            int(self.store.attributes["gradients_per_sweep"])
            if joint
            else int(self.store.attributes["field_leapfrog_steps"]) + 1
        )
        gradients = self.num_samples * self.num_chains * per_sweep
        stated = "NOT CONVERGED, TOO SHORT" if verdict.state == TOO_SHORT else verdict.state
        lines = [
            f"{self.num_chains} chains, {self.warmup} sweeps of warm-up, {self.num_samples} of "
            f"sampling, {self.grid.num_cells}^3 cells of {self.grid.cell_size:.2f} Mpc/h",
            "",
            diagnostics.format_table(rows),
            "",
            diagnostics.format_table(others[:1]),
            "",
            moves,
            "worst of each kind (rank-normalised R-hat; effective sample size of bulk and tails):",
            *_worst_of_each_kind(convergence.by_kind),
            f"{gradients:,} gradients of the field after the warm-up; effective samples per 1,000: "
            f"{1e3 * ess.ess / gradients:.2f} at worst, "
            f"{1e3 * median_ess / gradients:.2f} in the median",
            f"{stated}: R-hat is {rhat.rhat:.3f} at worst ({rhat.name}), the effective sample "
            f"size {ess.ess:.0f} in the bulk and {ess.tail:.0f} in the tails ({ess.name})",
            f"(asked: R-hat <= {_LIMITS.max_rhat}, effective samples >= {_LIMITS.min_ess:g}, for "
            f"all {len(convergence.watched)} quantities watched; one mode of several may have been "
            "found)",
            *health.lines(),
            *modes,
            *(f"next: {sentence}" for sentence in verdict.advice),
        ]
        cost = self.cost()
        if cost is not None:
            lines.append(cost.line(watts_per_core))
        if expected.size:
            lines.append(
                f"haloes: {observed} observed, {expected.mean():.0f} +- {expected.std():.0f} "
                "expected"
            )
        if r is not None:
            lines += [
                "",
                "correlation of the posterior mean of the initial field with the true one:",
                "  k [h/Mpc] " + " ".join(f"{value:7.3f}" for value in k),
                "  r(k)      " + " ".join(f"{value:7.3f}" for value in r),
            ]
        power = self._power()
        fields = self.check_fields()
        if fields is not None:
            shares = "; share of the true numbers in the posterior's intervals"
            lines += [
                "",
                "white noise of the stored fields by shell: power over the prior's; departure in "
                f"standard deviations of the prior{'' if r is None else shares}",
                fields.table(),
                f"chi^2 of the departures: {fields.chi_squared:.1f} for {len(fields.k)} shells",
            ]
        text = "\n".join(lines)
        files: list[Path] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "summary.txt").write_text(text + "\n")
            if has_matplotlib():
                files = self._draw(folder, k, r, initial_mean, initial_sd, environments, power)
        return Summary(
            text=text,
            converged=verdict.state == CONVERGED,
            parameters=rows,
            acceptance=(field, bias),
            k=k,
            r=r,
            observed=observed,
            expected=expected,
            figures=files,
            convergence=convergence,
            verdict=verdict,
            power=power,
            moves=moves,
            modes=modes,
            gradients=gradients,
            cost=cost,
            fields=fields,
        )

    def _draw(
        self,
        folder: Path,
        k: Array,
        r: Array | None,
        initial_mean: Array,
        initial_sd: Array,
        environments: _Environments,
        power: PowerShells,
    ) -> list[Path]:
        counts = np.zeros(self.grid.shape)
        likelihood = self.posterior.likelihood
        likelihood.interior(counts)[...] = likelihood.counts
        final_mean, final_sd = self.moments("final")
        samples = self.power[self.warmup :].reshape(-1, len(power.k))
        figures = {
            "parameter_traces": plots.parameter_traces(
                self.theta, [readable_name(name) for name in self.names], self.warmup
            ),
            "log_posterior": plots.log_posterior_trace(
                self.log_posterior,
                {"field": self.acceptance[..., 0], "parameters": self.acceptance[..., 1]},
                self.warmup,
            ),
            "fields": plots.field_slices(
                initial_mean,
                initial_sd,
                final_mean,
                final_sd,
                counts,
                self.grid.box_size,
                thickness=max(1, self.grid.num_cells // 16),
            ),
            "power_spectra": plots.power_spectra(
                power.k, samples, power.prior, power.modes, power.truth
            ),
        }
        if environments.expected_total.size:
            figures["mass_function"] = environments.figure()
        if r is not None:
            figures["cross_correlation"] = plots.cross_correlation(k, r)
        written: list[Path] = []
        for name, figure in figures.items():
            written += [Path(path) for path in plots.save(figure, folder / name)]
        return written


def _worst_of_each_kind(kinds: Mapping[str, Sequence[diagnostics.ParameterRow]]) -> list[str]:
    """One line per kind."""
    lines = []
    for kind, rows in kinds.items():
        rhat, ess = worst_rhat(rows), worst_ess(rows)
        lines.append(
            f"  {kind}: {rhat.rhat:.3f} ({rhat.name}); {ess.ess:.0f} and {ess.tail:.0f} "
            f"({ess.name})"
        )
    return lines


class _Environments:
    """Haloes by mass in environments of different density, found and expected."""

    def __init__(self, report: _Report) -> None:
        likelihood, bias = report.posterior.likelihood, report.posterior.bias
        self.environments = DensityEnvironments(likelihood)
        found, expected, volumes, totals = [], [], [], []
        for sample in report.stored_samples(_MOST_FIELDS):
            delta = report.posterior.density(tf.constant(sample.white_noise))
            mass_function = bias.mass_function(delta, tf.constant(sample.theta, bias.dtype))
            per_voxel = likelihood.expected_counts(mass_function)
            totals.append(float(tf.reduce_sum(tf.cast(per_voxel, tf.float64))))
            environment = self.environments.of(delta)
            volumes.append(self.environments.volumes(environment))
            found.append(self.environments.found(environment))
            expected.append(self.environments.expected(environment, mass_function))
        self.expected_total = np.array(totals)
        self.expected = np.array(expected)
        self.found = np.array(found)
        self.volumes = np.array(volumes)

    def figure(self) -> Any:
        """The halo mass function by density."""
        return plots.mass_function_by_density(
            self.environments.log_mass_edges / np.log(10.0),
            self.environments.labels,
            self.found.mean(axis=0),
            np.quantile(self.expected, (0.16, 0.5, 0.84), axis=0),
            self.volumes.mean(axis=0),
        )
