"""Figures of a run: traces, fields, spectra and mass functions.

Every function returns a `matplotlib.figure.Figure` and leaves matplotlib's global state alone, so
that it works without a display and inside other people's scripts. Lengths in Mpc/h, wavenumbers in
h/Mpc, masses in Msun/h. `npe_tf.plot_style` is how they look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npe_tf.plot_style import (
    MUTED,
    SHADE,
    STYLE,
    checked_array,
    colour_of,
    finish,
    import_matplotlib,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "cross_correlation",
    "draw_mass_functions",
    "environment_colours",
    "field_slices",
    "log_posterior_trace",
    "mass_function_by_density",
    "parameter_traces",
    "poisson_interval",
    "power_spectra",
    "predictive_checks",
    "save",
]

_K_LABEL = r"$k$ [$h$ Mpc$^{-1}$]"

Array = NDArray[np.float64]


def _limit_to_settled(panel: Axes, values: Array, num_warmup: int) -> None:
    """Choose the vertical range so that the climb of the warm-up does not flatten the rest."""
    settled = values[min(num_warmup, len(values) - 1) :]
    settled, values = settled[np.isfinite(settled)], values[np.isfinite(values)]
    if settled.size:
        low, high = float(settled.min()), float(settled.max())
        margin = 0.5 * (high - low) or 0.5 * abs(high) or 1.0
        low, high = max(low - margin, float(values.min())), min(high + margin, float(values.max()))
        edge = 0.05 * (high - low) or margin
        panel.set_ylim(low - edge, high + edge)


def _wavenumber_axis(panel: Axes, k: Array) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set(xscale="log", xlabel=_K_LABEL)
    if len(k) > 1:
        panel.set_xlim(k.min(), k.max())
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())


def parameter_traces(
    samples: ArrayLike,
    names: Sequence[str],
    num_warmup: int = 0,
    chains: Sequence[str] | None = None,
) -> Figure:
    """Draw the path of every parameter, one panel each and one colour per chain.

    Args:
        samples: draws, `[S, C, D]`.
        names: names of the D parameters.
        num_warmup: how many draws at the start are warm-up, shown on grey.
        chains: names of the C chains; "chain 1" and so on by default.

    Returns:
        The figure.
    """
    draws = checked_array("samples", samples, ("S", "C", len(names)))
    chains = chains or [f"chain {chain}" for chain in range(draws.shape[1])]
    matplotlib = import_matplotlib()
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(
            figsize=(7.5, 0.5 + 1.15 * rows), layout="constrained"
        )
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        sweeps = np.arange(1, len(draws) + 1)
        for index, panel in enumerate(grid.flat[: len(names)]):
            if num_warmup:
                panel.axvspan(0, num_warmup, color=SHADE, lw=0, label="warm-up")
            for chain in range(draws.shape[1]):
                panel.plot(
                    sweeps,
                    draws[:, chain, index],
                    color=colour_of(chain),
                    lw=0.6,
                    alpha=0.85,
                    label=chains[chain],
                )
            panel.set_title(names[index], pad=3)
            panel.set_xlim(0, len(draws))
            _limit_to_settled(panel, draws[..., index], num_warmup)
            panel.locator_params(axis="y", nbins=4)
            panel.tick_params(labelbottom=index + columns >= len(names))
            finish(panel)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        for spare in grid.flat[len(names) :]:
            spare.set_axis_off()
        if len(handles) > 1:
            place = {"loc": "center"} if grid.size > len(names) else {"loc": "best"}
            legend = grid.flat[-1].legend(handles, labels, **place)
            for line in legend.get_lines():
                line.set_linewidth(1.5)
        figure.supxlabel("sweep", fontsize=STYLE["axes.labelsize"])
    return figure


def field_slices(
    mean_initial: ArrayLike,
    std_initial: ArrayLike,
    mean_final: ArrayLike,
    std_final: ArrayLike,
    counts: ArrayLike,
    box_size: float,
    index: int | None = None,
    thickness: int = 1,
) -> Figure:
    """Show one slab of the inferred fields beside the haloes in it.

    Fields and their standard deviations are averaged along the slab's normal, the third axis;
    haloes are added up. Means share no colour scale but are centred on zero, and saturate at their
    99.5th percentile.

    Args:
        mean_initial: posterior mean of the initial density contrast, `[N, N, N]`.
        std_initial: its posterior standard deviation, `[N, N, N]`.
        mean_final: posterior mean of the final density contrast, `[N, N, N]`.
        std_final: its posterior standard deviation, `[N, N, N]`.
        counts: haloes per cell, `[N, N, N]`.
        box_size: side of the box [Mpc/h].
        index: first layer of the slab; by default the slab is in the middle of the box.
        thickness: number of layers, counted periodically.

    Returns:
        The figure.
    """
    shape = np.shape(counts)
    num_cells = shape[0] if shape else 0
    cube = (num_cells,) * 3
    if not isinstance(thickness, (int, np.integer)) or not 1 <= thickness <= max(1, num_cells):
        raise ValueError(
            "Invalid value for argument `thickness`. Expected a number of layers from 1 to "
            f"{num_cells}. Received: thickness={thickness!r}"
        )
    first = (num_cells - thickness) // 2 if index is None else index
    layers = np.arange(first, first + thickness) % max(1, num_cells)
    haloes = checked_array("counts", counts, cube)[..., layers].sum(-1)
    given = {
        "mean_initial": ("initial density, mean", mean_initial),
        "mean_final": ("final density, mean", mean_final),
        "std_initial": ("initial density, st. dev.", std_initial),
        "std_final": ("final density, st. dev.", std_final),
    }
    slabs = {
        n: checked_array(n, field, cube)[..., layers].mean(-1) for n, (_, field) in given.items()
    }

    matplotlib = import_matplotlib()
    cell = box_size / num_cells
    extent = (-0.5 * cell, box_size - 0.5 * cell) * 2  # mesh values sit at the cells' vertices
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(9.6, 5.6), layout="constrained")
        grid = figure.add_gridspec(2, 3)
        places = {
            "mean_initial": grid[0, 0],
            "mean_final": grid[0, 1],
            "std_initial": grid[1, 0],
            "std_final": grid[1, 1],
            "counts": grid[:, 2],
        }
        panels = {name: figure.add_subplot(place) for name, place in places.items()}
        for name, panel in panels.items():
            if name == "counts":
                title, label, values = "haloes", "haloes per column", haloes
                options: dict[str, Any] = {"cmap": "cividis", "vmin": 0}
            else:
                title, values = given[name][0], slabs[name]
                signed = name.startswith("mean")
                label = r"$\langle\delta\rangle$" if signed else r"$\sigma_\delta$"
                limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
                options = (
                    {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
                    if signed
                    else {"cmap": "viridis", "vmax": limit}
                )
            image = panel.imshow(
                values.T, origin="lower", extent=extent, interpolation="nearest", **options
            )
            low, high = image.get_clim()
            extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[
                int(values.min() < low), int(values.max() > high)
            ]
            bar = panel.inset_axes((1.03, 0.0, 0.05, 1.0))
            figure.colorbar(image, cax=bar, label=label, extend=extend, extendfrac=0.04)
            panel.set_title(title)
            if name != "counts":
                panel.tick_params(labelbottom=name.startswith("std"))
                panel.tick_params(labelleft=name.endswith("initial"))
        for name in ("std_initial", "std_final", "counts"):
            panels[name].set_xlabel(r"$x$ [Mpc/$h$]")
        for name in ("mean_initial", "std_initial"):
            panels[name].set_ylabel(r"$y$ [Mpc/$h$]")
        low, high = (first - 0.5) * cell, (first + thickness - 0.5) * cell
        panels["counts"].set_title(f"haloes, ${low:.4g} < z < {high:.4g}$ Mpc/$h$")
    return figure


def _band(panel: Axes, x: Array, curves: Array, colour: str, label: str) -> None:
    """Draw the median and the central 68 percent of `[S, n]` curves; a single one as a line."""
    low, middle, high = np.nanpercentile(curves, (16, 50, 84), axis=0)
    if len(curves) > 1:
        panel.fill_between(x, low, high, color=colour, alpha=0.3, lw=0)
    panel.plot(x, middle, color=colour, label=label)


def power_spectra(
    k: ArrayLike,
    samples_power: ArrayLike | Mapping[str, ArrayLike],
    prior_power: ArrayLike,
    modes_per_shell: ArrayLike,
    true_power: ArrayLike | None = None,
) -> Figure:
    """Compare the power of the sampled fields with the prior, and with the truth if known.

    Args:
        k: wavenumbers of the shells, `[K]` [h/Mpc].
        samples_power: power of each sample, `[S, K]` [(Mpc/h)^3], or several of these by name.
        prior_power: expected power, `[K]` [(Mpc/h)^3].
        modes_per_shell: live modes of each shell, k and -k both, `[K]`; the prior's 1-sigma band
            is ``sqrt(2 / modes)`` of its power.
        true_power: power of the true field, `[K]` [(Mpc/h)^3].

    Returns:
        The figure: spectra above, ratio to the prior below.
    """
    x = checked_array("k", k, ("K",))
    size = len(x)
    curves = samples_power if isinstance(samples_power, Mapping) else {"samples": samples_power}
    powers = {n: checked_array("samples_power", c, ("S", size)) for n, c in curves.items()}
    prior = checked_array("prior_power", prior_power, (size,))
    modes = checked_array("modes_per_shell", modes_per_shell, (size,))
    true = None if true_power is None else checked_array("true_power", true_power, (size,))
    filled = (modes > 0) & np.isfinite(x) & (prior > 0)
    x, prior, modes = x[filled], prior[filled], modes[filled]
    powers = {name: power[:, filled] for name, power in powers.items()}
    scatter = np.sqrt(2.0 / modes)

    matplotlib = import_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(5.0, 5.0), layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, gridspec_kw={"height_ratios": (2, 1)})
        for panel, unit in ((top, np.ones_like(prior)), (bottom, prior)):
            band = ((1 - scatter) * prior / unit, (1 + scatter) * prior / unit)
            panel.fill_between(x, *band, color="0.85", lw=0, label=r"prior, $1\sigma$ of one field")
            panel.plot(x, prior / unit, color=MUTED, lw=1.0, label="prior")
            for index, (name, power) in enumerate(powers.items()):
                _band(panel, x, power / unit, colour_of(index), f"{name}, median and 68%")
            if true is not None:
                panel.plot(x, true[filled] / unit, color="k", ls="--", label="truth")
            finish(panel)
        top.set(xscale="log", yscale="log", ylabel=r"$P(k)$ [(Mpc/$h)^3$]")
        positive = np.concatenate([*(power[power > 0] for power in powers.values()), prior])
        top.set_ylim(0.5 * positive.min(), 2.0 * positive.max())
        top.legend(loc="lower left")
        bottom.set_ylabel(r"$P / P_\mathrm{prior}$")
        _wavenumber_axis(bottom, x)
        figure.align_ylabels()
    return figure


def poisson_interval(counts: Array) -> tuple[Array, Array]:
    """Central 68 percent limits of a Poisson mean (Gehrels 1986, ApJ 303, 336, eqs. 7 and 12).

    Counts may be means over samples; the lower limit of less than one halo is zero.
    """
    safe = np.maximum(counts, 1.0)
    lower = safe * (1.0 - 1.0 / (9.0 * safe) - 1.0 / (3.0 * np.sqrt(safe))) ** 3
    return np.where(counts >= 1, lower, 0.0), counts + 1.0 + np.sqrt(counts + 0.75)


def environment_colours(number: int) -> Array:
    """Colours of environments from empty to dense, `[number, 4]`."""
    colours = import_matplotlib().colormaps["viridis"](np.linspace(0.0, 0.85, number))
    return np.asarray(colours, dtype=np.float64)


def draw_mass_functions(
    panel: Axes,
    log_mass_edges: Array,
    labels: Sequence[str],
    counts: Array,
    model_counts: Array,
    volumes: Array,
) -> None:
    """Draw the mass functions of D environments into a panel; see `mass_function_by_density`.

    Args:
        panel: to draw into.
        log_mass_edges: `[M + 1]` [log10 of Msun/h].
        labels: of the environments.
        counts: `[D, M]`.
        model_counts: lower end, line and upper end of each band, `[3, D, M]`.
        volumes: `[D]` [(Mpc/h)^3].
    """
    norm = volumes[:, None] * np.diff(log_mass_edges)
    masses = 10.0 ** (0.5 * (log_mass_edges[1:] + log_mass_edges[:-1]))
    lower, upper = poisson_interval(counts)
    colours = environment_colours(len(labels))
    for index, (label, colour) in enumerate(zip(labels, colours, strict=True)):
        low, middle, high = model_counts[:, index] / norm[index]
        panel.fill_between(masses, low, high, color=colour, alpha=0.3, lw=0)
        panel.plot(masses, middle, color=colour)
        seen = counts[index] > 0
        y = counts[index] / norm[index]
        bars = (y - lower[index] / norm[index], upper[index] / norm[index] - y)
        panel.errorbar(
            masses[seen],
            y[seen],
            yerr=[bar[seen] for bar in bars],
            fmt="o",
            ms=3.5,
            lw=0.9,
            color=colour,
            label=label,
        )
    shown = (counts / norm)[counts > 0]
    panel.set(
        xscale="log",
        yscale="log",
        xlabel=r"$M$ [$M_\odot/h$]",
        ylabel=r"$\mathrm{d}n/\mathrm{d}\log_{10}M$ [(Mpc/$h)^{-3}$]",
        xlim=10.0 ** log_mass_edges[[0, -1]],
    )
    if shown.size:
        panel.set_ylim(0.3 * shown.min(), 3.0 * shown.max())


def mass_function_by_density(
    log_mass_edges: ArrayLike,
    labels: Sequence[str],
    counts: ArrayLike,
    model_counts: ArrayLike,
    volumes: ArrayLike,
) -> Figure:
    """Show the halo mass function in environments of different density.

    Args:
        log_mass_edges: edges of the mass bins, `[M + 1]` [log10 of Msun/h].
        labels: names of the D environments.
        counts: observed haloes, or their mean over samples, `[D, M]`; points with Poisson errors,
            empty bins left out.
        model_counts: 16th, 50th and 84th percentile of the expected haloes, `[3, D, M]`.
        volumes: volume of each environment, `[D]` [(Mpc/h)^3].

    Returns:
        The figure: haloes per volume and decade of mass.
    """
    edges = checked_array("log_mass_edges", log_mass_edges, ("M + 1",))
    size = (len(labels), len(edges) - 1)
    observed = checked_array("counts", counts, size)
    model = checked_array("model_counts", model_counts, (3, *size))
    volumes = checked_array("volumes", volumes, size[:1])

    matplotlib = import_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(5.4, 4.2), layout="constrained")
        panel = figure.subplots()
        draw_mass_functions(panel, edges, labels, observed, model, volumes)
        handles, texts = panel.get_legend_handles_labels()
        line = matplotlib.lines.Line2D([], [], color=MUTED)
        band = matplotlib.patches.Patch(color=MUTED, alpha=0.3, lw=0)
        panel.legend([*handles, (band, line)], [*texts, "model, median and 68%"])
        finish(panel)
    return figure


def log_posterior_trace(
    log_prob: ArrayLike,
    acceptance: Mapping[str, ArrayLike] | None = None,
    num_warmup: int = 0,
) -> Figure:
    """Draw the log posterior along the chains and, below, how often moves were accepted.

    Args:
        log_prob: log posterior density, `[S, C]`.
        acceptance: acceptance (0 or 1, or a probability) of each block of the sampler, `[S, C]`;
            shown as a mean over chains and a running window of a twentieth of the run.
        num_warmup: how many sweeps at the start are warm-up, shown on grey.

    Returns:
        The figure.
    """
    values = checked_array("log_prob", log_prob, ("S", "C"))
    accepted = {
        name: checked_array("acceptance", block, values.shape).mean(1)
        for name, block in (acceptance or {}).items()
    }
    matplotlib = import_matplotlib()
    sweeps = np.arange(1, len(values) + 1)
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(
            figsize=(6.5, 4.0 if accepted else 2.6), layout="constrained"
        )
        ratios = (2, 1) if accepted else (1,)
        panels = figure.subplots(
            len(ratios), sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
        )[:, 0]
        for panel in panels:
            if num_warmup:
                panel.axvspan(0, num_warmup, color=SHADE, lw=0)
            panel.set_xlim(0, len(values))
            finish(panel)
        for chain in range(values.shape[1]):
            panels[0].plot(sweeps, values[:, chain], color=colour_of(chain), lw=0.7)
        _limit_to_settled(panels[0], values, num_warmup)
        panels[0].set_ylabel("log posterior")
        panels[0].ticklabel_format(axis="y", useOffset=False, style="plain")
        if accepted:
            window = max(1, len(values) // 20)
            weight = np.convolve(np.ones(len(values)), np.ones(window), "same")
            for index, (name, block) in enumerate(accepted.items()):
                running = np.convolve(block, np.ones(window), "same") / weight
                panels[1].plot(sweeps, running, color=colour_of(index + 2), label=name)
            panels[1].set(ylabel="acceptance", ylim=(0, 1.02))
            panels[1].legend(ncols=len(accepted), loc="lower right")
        panels[-1].set_xlabel("sweep")
        figure.align_ylabels()
    return figure


def cross_correlation(k: ArrayLike, r: ArrayLike | Mapping[str, ArrayLike]) -> Figure:
    """Draw the correlation of inferred fields with the true one.

    Args:
        k: wavenumbers of the shells, `[K]` [h/Mpc].
        r: correlation `[K]`, or `[S, K]` of samples (drawn as median and central 68 percent), or
            several of these by name.

    Returns:
        The figure.
    """
    x = checked_array("k", k, ("K",))
    curves = r if isinstance(r, Mapping) else {"": r}
    named = {
        name: checked_array("r", np.atleast_2d(np.asarray(curve)), ("S", len(x)))
        for name, curve in curves.items()
    }
    matplotlib = import_matplotlib()
    filled = np.isfinite(x)
    with matplotlib.rc_context(STYLE):
        figure: Figure = matplotlib.figure.Figure(figsize=(5.0, 3.4), layout="constrained")
        panel = figure.subplots()
        panel.axhline(0.0, color=MUTED, lw=0.7)
        panel.axhline(1.0, color=MUTED, lw=0.7)
        for index, (name, curve) in enumerate(named.items()):
            _band(panel, x[filled], curve[:, filled], colour_of(index), name)
        lowest = min(float(np.nanmin(curve)) for curve in named.values())
        panel.set(
            ylabel=r"$r(k)$",
            ylim=(min(-0.08, 1.1 * lowest), 1.05),
        )
        _wavenumber_axis(panel, x[filled])
        if any(named):
            panel.legend(loc="best")
        finish(panel)
    return figure


def predictive_checks(checks: Sequence[Any]) -> Figure:
    """Data against mock catalogues, bin by bin, in standard deviations of the mocks.

    Args:
        checks: of `npe_tf.predictive`, each with a `name`, a `p_value`, an `axis`, `bins` `[B]`,
            `groups` of G names, and `pull` `[S, G, B]`.

    Returns:
        One panel for each check, with a line for each group: the mean over the samples, and bars
        from their 16th to their 84th percentile. Shaded are one and two standard deviations.
    """
    matplotlib = import_matplotlib()
    columns = min(2, len(checks))
    rows = -(-len(checks) // columns)
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure((3.6 * columns, 2.5 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel, check in zip(panels.flat, checks, strict=False):
            place = np.arange(len(check.bins))
            for height in (2.0, 1.0):
                panel.axhspan(-height, height, color=SHADE if height == 2.0 else "0.85", zorder=0)
            for index, group in enumerate(check.groups):
                pull = np.nan_to_num(
                    checked_array("pull", check.pull, ["S", "G", len(place)])[:, index]
                )
                low, high = np.quantile(pull, (0.16, 0.84), axis=0)
                mean = np.clip(pull.mean(axis=0), low, high)
                panel.errorbar(
                    place + 0.12 * (index - (len(check.groups) - 1) / 2),
                    mean,
                    (mean - low, high - mean),
                    color=colour_of(index),
                    marker="osD^v"[index % 5],
                    markersize=3.0,
                    linewidth=0.8,
                    label=group,
                )
            step = -(-len(place) // 9)
            panel.set_xticks(place[::step], [f"{x:.3g}" for x in check.bins[::step]], rotation=45)
            panel.set(xlabel=check.axis, ylabel=r"(data $-$ mocks) / $\sigma$")
            panel.set_title(f"{check.name}, p = {check.p_value:.2g}")
            if len(check.groups) > 1:
                panel.legend()
            finish(panel)
        for panel in panels.flat[len(checks) :]:
            panel.set_visible(False)
    return figure
